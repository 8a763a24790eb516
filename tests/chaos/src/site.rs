//! What a suite stands on: servers, programs, and the name of the source tree.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use postroad_provision::{Options, Servers};
use tokio::process::Command;

use crate::args::Args;

/// Empty servers in this directory.
pub(crate) async fn start_servers(dir: &Path) -> anyhow::Result<Servers> {
    let mut options = Options::new(dir.join("servers"));
    options.fresh = true;
    // What the management API says of a queue is five seconds old otherwise.
    let interval = ("collect_statistics_interval".to_owned(), "1000".to_owned());
    options.rabbitmq = vec![interval];
    options.progress = Arc::new(|step: &str| eprintln!("{step}"));
    Ok(Servers::start(options).await?)
}

/// Where the programs are.
pub(crate) struct Programs {
    /// With failpoints.
    pub(crate) debug: PathBuf,
    /// As users run them.
    pub(crate) release: PathBuf,
}

/// Finds them beside this one.
pub(crate) fn programs(args: &Args) -> anyhow::Result<Programs> {
    let target = target()?;
    let programs = Programs {
        debug: target.join("debug"),
        release: target.join(if args.debug_programs {
            "debug"
        } else {
            "release"
        }),
    };
    for dir in [&programs.debug, &programs.release] {
        if !dir.join("postroad-worker").exists() {
            bail!(
                "{} has no programs: run `make chaos`, which builds them",
                dir.display()
            );
        }
    }
    Ok(programs)
}

/// Where cargo builds.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let target = own.parent().and_then(Path::parent);
    let target = target.context("this program lies in target/<profile>")?;
    Ok(target.to_owned())
}

/// What git calls the source tree; with a mark if it has been changed since.
pub(crate) async fn commit() -> String {
    let git = async |args: &[&str]| {
        let output = Command::new("git").args(args).output().await.ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]).await else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]).await {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}+"),
    }
}
