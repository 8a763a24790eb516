//! Another process that owns servers, and a look at who runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// The user `nobody`, and its group, on every Linux.
const NOBODY: u32 = 65_534;

/// The example program `servers`, once it has printed its URLs.
pub(crate) struct Owner {
    pub(crate) process: Child,
    pub(crate) database_url: String,
    pub(crate) amqp_url: String,
    output: BufReader<ChildStdout>,
}

impl Owner {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        Self::run(Command::new(example()?), dir).await
    }

    /// As `nobody` when we are root, else as ourselves.
    pub(crate) async fn start_as_nobody(dir: &Path) -> Result<Self> {
        if !geteuid().is_root() {
            return Self::start(dir).await;
        }
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY))?;
        // The build directory may be closed to others.
        let copy = dir.join("servers");
        // By another process: a child that a test beside this one forks meanwhile would inherit the
        // file open for writing, and nobody could execute it until that child has called exec.
        let copied = Command::new("cp").arg(example()?).arg(&copy).status();
        ensure!(copied.await?.success(), "cp failed");
        let mut command = Command::new(copy);
        command.uid(NOBODY).gid(NOBODY).current_dir(dir);
        Self::run(command, dir).await
    }

    async fn run(mut command: Command, dir: &Path) -> Result<Self> {
        let mut process = command
            .arg(dir)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = BufReader::new(process.stdout.take().context("stdout is a pipe")?);
        let database_url = line(&mut output).await?;
        let amqp_url = line(&mut output).await?;
        let _management_url = line(&mut output).await?;
        Ok(Self {
            process,
            database_url,
            amqp_url,
            output,
        })
    }

    pub(crate) fn interrupt(&self) -> Result<()> {
        signal(self.process.id().context("it runs")?, Signal::INT)
    }

    pub(crate) async fn read_to_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).await?;
        Ok(())
    }
}

async fn line(output: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if output.read_line(&mut line).await? == 0 {
        bail!("the example ended before it printed its URLs");
    }
    Ok(line.trim().to_owned())
}

/// Cargo builds the examples whenever it builds all tests of a package.
fn example() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("tests are in <profile>/deps")?;
    let example = profile.join("examples/servers");
    if !example.is_file() {
        bail!("run: cargo build -p postroad-provision --example servers");
    }
    Ok(example)
}

/// The pids on the record of a directory, or of `dev` in it.
pub(crate) fn recorded(dir: &Path) -> Result<Vec<u32>> {
    let record = [dir.join("dev/processes"), dir.join("processes")];
    let record = record
        .iter()
        .find(|file| file.is_file())
        .context("there is a record")?;
    let text = fs::read_to_string(record)?;
    text.lines()
        .map(|line| Ok(line.split(' ').next().unwrap_or_default().parse()?))
        .collect()
}

pub(crate) fn any_alive(pids: &[u32]) -> bool {
    pids.iter()
        .any(|pid| state_and_parent(*pid).is_some_and(|(state, _)| state != "Z"))
}

pub(crate) async fn nobody_is_left(pids: &[u32]) -> Result<()> {
    eventually("the end of the servers", || {
        (!any_alive(pids)).then_some(())
    })
    .await
}

pub(crate) fn janitor_of(owner: &Owner) -> Result<u32> {
    let owner = owner.process.id().context("it runs")?.to_string();
    let pids = fs::read_dir("/proc")?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| state_and_parent(*pid).is_some_and(|(_, parent)| parent == owner))
        .find(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            command.is_ok_and(|command| command.contains("postroad-janitor"))
        })
        .context("an owner has a janitor")
}

pub(crate) fn kill_9(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.try_into()?).context("a pid is not 0")?;
    Ok(kill_process(pid, signal)?)
}

fn state_and_parent(pid: u32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("waited {LIMIT:?} for {what}")
}
