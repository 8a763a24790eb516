//! A wall clock that jumps, for one program at a time.
//!
//! libfaketime stands between the program and the C library, and reads the offset from a file each
//! time it is asked. Only the wall clock is wrong: timers count on the monotonic one, which no
//! machine lets jump.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use postroad_provision::{Package, install};

const PACKAGE: Package = Package {
    name: "libfaketime",
    files: &[
        // The one that threads may ask at once.
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ],
};

/// A clock for programs, right until it is set; dropped with the offset that it had last.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    dir: tempfile::TempDir,
}

impl FakeClock {
    /// A clock that is right.
    pub async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("postroad-clock-").tempdir();
        let dir = dir.context("making a directory for a clock")?;
        let library = install(PACKAGE, dir.path()).await?;
        let clock = Self { library, dir };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds off from now on: ahead, or behind when negative.
    pub fn set(&self, offset_seconds: i64) -> anyhow::Result<()> {
        let (file, new) = (self.file(), self.dir.path().join("new"));
        // By rename, so that nobody reads half of it.
        fs::write(&new, format!("{offset_seconds:+}\n"))
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// What a program has to find in its environment.
    pub fn env(&self) -> [(String, String); 4] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}
