//! A disk that can be filled: a directory in memory, of limited size, for servers to live in.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const CHUNK: [u8; 4096] = [0; 4096];

/// Something that not every machine lets a test have.
#[derive(Debug)]
pub enum Possible<T> {
    /// Here it is.
    Here(T),
    /// It cannot be had, and why. A test that ends for this was skipped, and has not passed.
    NotHere(String),
}

/// A directory with a disk of its own; unmounted and removed when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _parent: tempfile::TempDir,
}

impl SmallDisk {
    /// Makes one. Two empty servers take some 120 MB, and RabbitMQ raises its disk alarm when less
    /// than 50 MB are free.
    pub fn mount(bytes: u64) -> anyhow::Result<Possible<Self>> {
        // Postgres runs as another user when we are root, and has to get there.
        let parent = tempfile::Builder::new()
            .prefix("postroad-disk-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .context("making a directory to mount on")?;
        let path = parent.path().join("disk");
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let options = format!("size={bytes},mode=0755");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output();
        match mount {
            Ok(mount) if mount.status.success() => Ok(Possible::Here(Self {
                path,
                _parent: parent,
            })),
            Ok(mount) => {
                let why = String::from_utf8_lossy(&mount.stderr);
                Ok(Possible::NotHere(format!("mount says: {}", why.trim())))
            }
            Err(error) => Ok(Possible::NotHere(format!("no mount: {error}"))),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all room that is left; returns when nobody can write a byte more.
    pub fn fill(&self) -> anyhow::Result<()> {
        let fill = || {
            let mut ballast = File::options()
                .append(true)
                .create(true)
                .open(self.ballast())?;
            loop {
                ballast.write_all(&CHUNK)?;
            }
        };
        let Err(error): io::Result<std::convert::Infallible> = fill();
        if error.kind() != io::ErrorKind::StorageFull {
            bail!("filling {}: {error}", self.path.display());
        }
        Ok(())
    }

    /// Gives that room back.
    pub fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).with_context(|| format!("freeing {}", self.path.display()))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is still on it keeps it until its end.
        let umount = Command::new("umount").arg("-l").arg(&self.path).status();
        if !umount.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
