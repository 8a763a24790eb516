//! The programs of an earlier version, to run beside those of this one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::site::target;

/// The commit to upgrade from: the last one of the schema before the newest that users have.
const COMMIT: &str = "fff9d07c875c507728adc90b245886b76fedd065";

/// Builds them if they are not there, and says where they are; or why they cannot be built here.
pub(crate) async fn programs() -> anyhow::Result<Result<PathBuf, String>> {
    let home = target()?.join("previous").join(&COMMIT[..10]);
    let programs = home.join("release");
    let complete = home.join("complete");
    if complete.exists() {
        return Ok(Ok(programs));
    }
    if !has_commit().await {
        return Ok(Err(format!(
            "this clone is too shallow to have commit {COMMIT}: git fetch --unshallow"
        )));
    }
    eprintln!("building the programs of commit {}", &COMMIT[..10]);
    let source = home.join("source");
    unpack(&source).await?;
    let build = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--bins"])
        .args(["-p", "postroad", "-p", "postroad-scheduler"])
        .args([
            "-p",
            "postroad-worker",
            "-p",
            "postroad-api",
            "--target-dir",
        ])
        .arg(&home)
        .current_dir(&source)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let built = build.await.context("running cargo")?;
    ensure!(built.success(), "building commit {COMMIT} failed: {built}");
    std::fs::write(&complete, "").with_context(|| format!("writing {}", complete.display()))?;
    Ok(Ok(programs))
}

async fn has_commit() -> bool {
    let object = format!("{COMMIT}^{{commit}}");
    let asked = Command::new("git")
        .args(["cat-file", "-e", &object])
        .stderr(Stdio::null())
        .status()
        .await;
    asked.is_ok_and(|status| status.success())
}

/// Not as a worktree, which git would have to be told to forget.
async fn unpack(into: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    let archive = into.with_extension("tar");
    let packed = Command::new("git")
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive)
        .arg(COMMIT)
        .status();
    let packed = packed.await.context("running git")?;
    ensure!(packed.success(), "git archive {COMMIT} failed: {packed}");
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(into)
        .status();
    let unpacked = unpacked.await.context("running tar")?;
    ensure!(
        unpacked.success(),
        "unpacking commit {COMMIT} failed: {unpacked}"
    );
    Ok(())
}
