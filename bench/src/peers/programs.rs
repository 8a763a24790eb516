//! Programs of peers: started where they lie, waited for with a limit, stopped with all that they
//! have started.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use postroad_provision::{Child, ChildSpec, Processes};

/// Changes into a directory and becomes a program: a [`ChildSpec`] has no directory, and tools look
/// for what is theirs where they are started.
const ENV: &str = "/usr/bin/env";

/// How to start a program of a peer.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// What messages call it.
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) file: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl Program {
    pub(super) fn start(self, processes: &Processes) -> anyhow::Result<Child> {
        let log = self.log(processes);
        let place = [OsString::from("-C"), self.dir.into(), self.file.into()];
        let child = processes.spawn(ChildSpec {
            name: self.name,
            program: ENV.into(),
            args: place
                .into_iter()
                .chain(self.args.into_iter().map(OsString::from))
                .collect(),
            env: self.env,
            log,
        })?;
        Ok(child)
    }

    /// Runs it to its end; what it printed.
    pub(super) async fn finish(
        self,
        processes: &Processes,
        limit: Duration,
    ) -> anyhow::Result<String> {
        let log = self.log(processes);
        // What an earlier run printed is not this one's.
        let _ = fs::remove_file(&log);
        let mut child = self.start(processes)?;
        let Ok(ended) = tokio::time::timeout(limit, child.wait()).await else {
            child.kill().await?;
            bail!(
                "{} did not end within {limit:?} and was killed; see {}",
                child.name(),
                log.display()
            );
        };
        let status = ended?;
        ensure!(status.success(), child.exited(status));
        fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))
    }

    fn log(&self, processes: &Processes) -> PathBuf {
        let name = self.name.replace(' ', "-");
        processes.dir().join("log/peers").join(name + ".log")
    }
}

/// A program on the path, else what to do to get it.
pub(super) fn on_path(program: &str, get: &str) -> anyhow::Result<PathBuf> {
    let env = postroad_common::config::Env::of_process();
    let dirs = std::env::split_paths(env.text("PATH").unwrap_or_default());
    let mut files = dirs.map(|dir| dir.join(program));
    let found = files.find(|file: &PathBuf| file.is_file());
    found.with_context(|| format!("{program} is not on the path: {get}"))
}

/// Writes a file, if it does not say so already: what is built from it keeps its time.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read_to_string(file).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let dir = file.parent().context("a file lies in a directory")?;
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(file, text))
        .with_context(|| format!("writing {}", file.display()))
}
