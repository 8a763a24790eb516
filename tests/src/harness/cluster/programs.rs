//! The programs of a cluster: started, watched, hurt, ended.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use postroad_provision::{Child, ChildSpec, Signal};
use serde_json::Value;

use super::super::endpoints::at;
use super::super::eventually::eventually;
use super::super::program::Program;
use super::Cluster;
use crate::faults::footprint::Footprint;

/// How long a program may take to end when it was asked to.
pub(super) const STOP_MAX: Duration = Duration::from_secs(40);

/// How long a command may take.
const CLI_MAX: Duration = Duration::from_secs(60);

/// A program of a cluster, whether it still runs or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub(super) usize);

pub(super) struct Running {
    pub(super) name: &'static str,
    pub(super) child: Child,
    pub(super) log: PathBuf,
    pub(super) ended: Option<ExitStatus>,
}

impl Cluster {
    /// The nth worker that was started, from 0.
    pub fn worker(&self, n: usize) -> Id {
        self.nth("postroad-worker", n)
    }

    /// The nth scheduler that was started, from 0.
    pub fn scheduler(&self, n: usize) -> Id {
        self.nth("postroad-scheduler", n)
    }

    fn nth(&self, name: &str, n: usize) -> Id {
        let named = (0..self.programs.len()).filter(|index| self.programs[*index].name == name);
        Id(named
            .into_iter()
            .nth(n)
            .expect("a program that the test has started"))
    }

    /// Starts one more worker, and returns when it is ready.
    pub async fn start_worker(&mut self) -> anyhow::Result<Id> {
        self.start(Program::worker()).await
    }

    /// Starts one more scheduler, and returns when it is ready.
    pub async fn start_scheduler(&mut self) -> anyhow::Result<Id> {
        self.start(Program::scheduler()).await
    }

    /// Starts a program, and returns when it is ready.
    pub async fn start(&mut self, program: Program) -> anyhow::Result<Id> {
        let id = self.spawn(program)?;
        self.wait_until_ready(id).await?;
        Ok(id)
    }

    /// Starts a program and does not wait for it.
    pub fn spawn(&mut self, program: Program) -> anyhow::Result<Id> {
        let Program {
            name,
            env,
            amqp,
            postgres,
            dir,
        } = program;
        let dir = dir.as_deref().or(self.programs_dir.as_deref());
        let (mut database_url, mut amqp_url) = (
            self.site.database_url_of(name)?,
            self.site.amqp_url_of(name)?,
        );
        if let Some(proxy) = postgres {
            database_url = at(&database_url, proxy)?;
        }
        if let (Some(url), Some(proxy)) = (&mut amqp_url, amqp) {
            *url = at(url, proxy)?;
        }
        let mut all = self.env.clone();
        all.insert("DATABASE_URL".to_owned(), database_url);
        all.extend(amqp_url.map(|url| ("AMQP_URL".to_owned(), url)));
        for listen in ["POSTROAD_ADMIN_LISTEN", "POSTROAD_LISTEN"] {
            all.insert(listen.to_owned(), "127.0.0.1:0".to_owned());
        }
        all.extend(env);
        let number = self.programs.len();
        let log = self
            .dir
            .path()
            .join(format!("{number}-{}.log", name.replace('/', "-")));
        let child = self.processes.spawn(ChildSpec {
            name: format!("{name} {number}"),
            program: binary(dir, name)?,
            args: Vec::new(),
            env: all
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            log: log.clone(),
        })?;
        self.programs.push(Running {
            name,
            child,
            log,
            ended: None,
        });
        Ok(Id(number))
    }

    /// Waits until a program says that it is ready.
    pub async fn wait_until_ready(&mut self, id: Id) -> anyhow::Result<()> {
        let name = self.programs[id.0].child.name().to_owned();
        eventually(format_args!("{name} is ready"), async || {
            let (is_ready, page) = self.readyz(id).await?;
            ensure!(is_ready, "{name} says {page}");
            Ok(())
        })
        .await?;
        self.check_runs(id)
    }

    /// Whether a program says that it is ready, and the reasons why it is not.
    pub async fn readyz(&self, id: Id) -> anyhow::Result<(bool, Value)> {
        let port = admin_port(&self.log(id)).context("the log names no admin page")?;
        let response = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await?;
        let is_ready = response.status().is_success();
        Ok((is_ready, serde_json::from_slice(&response.bytes().await?)?))
    }

    /// The metrics of a program, as text.
    pub async fn metrics(&self, id: Id) -> anyhow::Result<String> {
        let port = admin_port(&self.log(id)).context("the log names no admin page")?;
        let response = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await?;
        Ok(String::from_utf8_lossy(&response.bytes().await?).into_owned())
    }

    /// What a program has counted under this name, whatever the labels. None: nothing yet.
    pub async fn counted(&self, id: Id, name: &str) -> anyhow::Result<Option<u64>> {
        let page = self.metrics(id).await?;
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let mut sum = None;
        for line in page.lines().filter(of_name) {
            let (_, count) = line.rsplit_once(' ').context("a metric without a value")?;
            *sum.get_or_insert(0) += count.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Where an api serves.
    pub fn api_url(&self, id: Id) -> anyhow::Result<String> {
        let log = self.log(id);
        let url = log.split_once(" serves ").map(|(_, rest)| rest);
        let url = url.and_then(|rest| rest.split_whitespace().next());
        Ok(url
            .context("the log does not say where the api serves")?
            .to_owned())
    }

    /// Everything that a program has logged.
    pub fn log(&self, id: Id) -> String {
        read(&self.programs[id.0].log)
    }

    /// Waits until a program has logged this text so many times.
    pub async fn wait_for_log(&self, id: Id, text: &str, times: usize) -> anyhow::Result<()> {
        eventually(
            format_args!("the log says `{text}` {times} times"),
            async || {
                let found = self.log(id).matches(text).count();
                ensure!(found >= times, "it says so {found} times");
                Ok(())
            },
        )
        .await
    }

    /// The process id of a program.
    pub fn pid(&self, id: Id) -> u32 {
        self.programs[id.0].child.pid()
    }

    /// The names and pids of the programs that have not been seen to end.
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let running = self.programs.iter().filter(|one| one.ended.is_none());
        running.map(|one| (one.name, one.child.pid())).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, id: Id, signal: Signal) -> anyhow::Result<()> {
        Ok(self.programs[id.0].child.signal(signal)?)
    }

    /// Kills a program in the middle of whatever it does.
    pub async fn kill(&mut self, id: Id) -> anyhow::Result<()> {
        let program = &mut self.programs[id.0];
        program.ended = Some(program.child.kill().await?);
        Ok(())
    }

    /// Kills all programs of one name at once, and says which they were.
    pub async fn kill_all(&mut self, name: &str) -> anyhow::Result<Vec<Id>> {
        let is_meant = |p: &Running| p.name == name && p.ended.is_none();
        let ids = (0..self.programs.len()).filter(|n| is_meant(&self.programs[*n]));
        let ids: Vec<Id> = ids.map(Id).collect();
        let meant = self.programs.iter_mut().filter(|p| is_meant(p));
        let killing = meant.map(async |program| {
            program.ended = Some(program.child.kill().await?);
            anyhow::Ok(())
        });
        try_join_all(killing).await?;
        Ok(ids)
    }

    /// Stops a program in the middle of whatever it does; it is still there, and does nothing.
    pub async fn pause(&self, id: Id) -> anyhow::Result<()> {
        Ok(self.programs[id.0].child.pause().await?)
    }

    /// Lets a program go on after [`pause`](Self::pause).
    pub async fn resume(&self, id: Id) -> anyhow::Result<()> {
        Ok(self.programs[id.0].child.resume().await?)
    }

    /// What a program takes of the machine.
    pub fn footprint(&self, id: Id) -> anyhow::Result<Footprint> {
        Footprint::of(self.pid(id))
    }

    /// Asks a program to stop, and waits until it has.
    pub async fn terminate(&mut self, id: Id) -> anyhow::Result<ExitStatus> {
        self.signal(id, Signal::TERM)?;
        self.wait(id).await
    }

    /// Waits until a program has ended.
    pub async fn wait(&mut self, id: Id) -> anyhow::Result<ExitStatus> {
        let program = &mut self.programs[id.0];
        let ended = tokio::time::timeout(STOP_MAX, program.child.wait()).await;
        let name = program.child.name();
        let status = ended.with_context(|| format!("{name} runs on after {STOP_MAX:?}"))??;
        program.ended = Some(status);
        Ok(status)
    }

    /// That a program still runs, as the process that it was from the start.
    pub fn check_runs(&mut self, id: Id) -> anyhow::Result<()> {
        let program = &mut self.programs[id.0];
        match program.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(program.child.exited(status).into()),
        }
    }

    /// Runs `postroad` with these arguments against the cluster's servers.
    pub async fn cli(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command =
            tokio::process::Command::new(binary(self.programs_dir.as_deref(), "postroad")?);
        command
            .args(args)
            .env("DATABASE_URL", &self.site.database_url)
            .env("AMQP_URL", self.site.vhost.amqp_url())
            .kill_on_drop(true);
        let output = tokio::time::timeout(CLI_MAX, command.output()).await;
        let output = output.with_context(|| format!("{args:?} runs on after {CLI_MAX:?}"))?;
        output.context("running the command line")
    }
}

pub(super) fn read(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The admin page's port, which the programs choose themselves.
fn admin_port(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("admin page on http://127.0.0.1:")?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// A program that was built beside this test.
pub(super) fn binary(dir: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    static DIR: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let test = std::env::current_exe().ok()?;
        // target/<profile>/deps/it-0123456789abcdef
        Some(test.parent()?.parent()?.to_owned())
    });
    let dir = match dir {
        Some(dir) => dir,
        None => DIR.as_ref().context("a test has a path")?,
    };
    let path = dir.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: run `make test`, or first `cargo build --workspace --bins`",
        path.display()
    );
    Ok(path)
}
