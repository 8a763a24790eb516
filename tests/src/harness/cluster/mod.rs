//! Real schedulers and workers on a database and a virtual host of their own, with the simulator
//! as their provider.
//!
//! A test starts programs, breaks something, and waits for a condition; [`Cluster::finish`] then
//! checks what must hold after every test: no job between two states, no message between two
//! hands, no effect twice, and every program that was not killed ends when it is asked to.
//!
//! What a failed test leaves for its reader: the end of each program's log on standard error, and
//! the whole logs in a directory that it names.

mod jobs;
mod programs;
mod site;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use postroad_common::broker::topology::{DEAD_QUEUE, work_queue};
use postroad_common::job::JobId;
use postroad_common::store::Store;
use postroad_provision::Processes;
use tokio::sync::{Mutex, SemaphorePermit};
use tokio_postgres::Client;

pub use self::jobs::{job, many_sms, sms};
pub use self::programs::Id;
use self::programs::{Running, STOP_MAX, read};
pub use self::site::Builder;
use self::site::Site;
use super::broker::{Stranger, Vhost};
use super::endpoints::addr;
pub use super::eventually::eventually;
pub use super::program::Program;
use crate::simulator::Simulator;

/// How often programs may give messages back to a queue until it has to be empty.
const GIVE_BACKS_MAX: usize = 3;

/// Lines of each log that are shown when a test fails.
const LINES_SHOWN: usize = 40;

/// Programs, servers and provider of one test.
pub struct Cluster {
    /// Everything that may be asked of the database.
    pub store: Store,
    /// Where jobs have their effects.
    pub provider: Simulator,
    programs: Vec<Running>,
    processes: Processes,
    site: Site,
    env: BTreeMap<String, String>,
    sql: Mutex<Option<Client>>,
    accepted: Mutex<HashSet<JobId>>,
    duplicates_expected: u64,
    parked_expected: u32,
    is_finished: bool,
    programs_dir: Option<PathBuf>,
    dir: tempfile::TempDir,
    _room: SemaphorePermit<'static>,
}

impl Cluster {
    /// One scheduler and one worker, unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where Postgres listens, to put a proxy before it.
    pub fn postgres_addr(&self) -> anyhow::Result<SocketAddr> {
        addr(&self.site.database_url, 5432)
    }

    /// Where RabbitMQ listens, to put a proxy before it.
    pub fn amqp_addr(&self) -> anyhow::Result<SocketAddr> {
        addr(self.site.vhost.amqp_url(), 5672)
    }

    /// How programs connect to the database.
    pub fn database_url(&self) -> &str {
        &self.site.database_url
    }

    /// How a program of this name connects to the database.
    pub fn database_url_for(&self, program: &str) -> anyhow::Result<String> {
        self.site.database_url_of(program)
    }

    /// How a program of this name connects to the broker; none if it does not.
    pub fn amqp_url_for(&self, program: &str) -> anyhow::Result<Option<String>> {
        self.site.amqp_url_of(program)
    }

    /// For more programs with the same end.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The virtual host.
    pub fn vhost(&self) -> &Vhost {
        &self.site.vhost
    }

    // === The end ===

    /// Stops every program, and says how each of them ended that had to be asked.
    pub async fn stop_programs(&mut self) -> anyhow::Result<Vec<(String, ExitStatus)>> {
        let running = self.programs.iter_mut().filter(|p| p.ended.is_none());
        let stopping = running.map(async |program| {
            let status = program.child.stop(STOP_MAX).await?;
            program.ended = Some(status);
            anyhow::Ok((program.child.name().to_owned(), status))
        });
        try_join_all(stopping).await
    }

    /// Takes everything down without a look at what is left.
    pub async fn take_down(mut self) -> anyhow::Result<()> {
        self.stop_programs().await?;
        self.is_finished = true;
        self.site.delete().await
    }

    /// A directory that goes with this.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the logs when this is dropped, and says where they are.
    pub fn keep_logs(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Whether a program has ended by itself.
    pub fn has_ended(&mut self, id: Id) -> anyhow::Result<Option<ExitStatus>> {
        let program = &mut self.programs[id.0];
        if program.ended.is_none() {
            program.ended = program.child.try_wait()?;
        }
        Ok(program.ended)
    }

    /// Effects that the test has provoked a second time, and can explain.
    pub fn expect_duplicates(&mut self, count: u64) {
        self.duplicates_expected = count;
    }

    /// Messages that the test has made unreadable.
    pub fn expect_parked(&mut self, count: u32) {
        self.parked_expected = count;
    }

    /// Checks what must hold after every test, and takes everything down.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.wait_until_settled().await?;
        let stranger = self.vhost().stranger().await?;
        let mut queues = self.store.queue_names().await?;
        for name in &mut queues {
            *name = work_queue(name);
        }
        self.stop_consumers(Program::worker(), &stranger, &queues)
            .await?;
        let dead = [DEAD_QUEUE.to_owned()];
        self.stop_consumers(Program::scheduler(), &stranger, &dead)
            .await?;

        let parked = stranger.parked().await?.ready;
        ensure!(
            parked == self.parked_expected,
            "{parked} messages are parked"
        );
        let report = self.provider.report();
        ensure!(
            report.duplicates == self.duplicates_expected,
            "effects twice: {report:?}"
        );
        self.wait_until_settled().await?;
        self.check_conservation().await?;
        self.is_finished = true;
        self.site.delete().await
    }

    /// Waits until no job is between two states.
    async fn wait_until_settled(&self) -> anyhow::Result<()> {
        eventually("no job is on its way", async || {
            let census = self.store.census().await?;
            let moving = census.dispatched + census.running + census.failed;
            ensure!(moving == 0, "jobs are on their way: {census:?}");
            Ok(())
        })
        .await
    }

    /// Ends the programs that consume these queues, and checks that they leave nothing in them.
    ///
    /// What a program had in hand and gives back as it ends is somebody else's, as always.
    async fn stop_consumers(
        &mut self,
        program: Program,
        stranger: &Stranger,
        queues: &[String],
    ) -> anyhow::Result<()> {
        for _ in 0..GIVE_BACKS_MAX {
            wait_until_empty(stranger, queues).await?;
            self.stop_all(program.name).await?;
            if count_returned(stranger, queues).await? == 0 {
                return Ok(());
            }
            self.start(program.clone()).await?;
        }
        bail!(
            "{} gives back the same messages again and again",
            program.name
        )
    }

    /// Ends the programs of one name, and checks how each of them ended.
    async fn stop_all(&mut self, name: &str) -> anyhow::Result<()> {
        let asked = self
            .programs
            .iter_mut()
            .filter(|p| p.name == name && p.ended.is_none());
        let stopping = asked.map(async |program| {
            let name = program.child.name().to_owned();
            let status = program.child.stop(STOP_MAX).await?;
            ensure!(
                status.success(),
                "{name} ended with {status} when asked to stop"
            );
            program.ended = Some(status);
            anyhow::Ok(())
        });
        try_join_all(stopping).await.map(drop)
    }

    /// Every job that was accepted is somewhere, and nowhere twice.
    async fn check_conservation(&self) -> anyhow::Result<()> {
        let rows = self.query("select id from postroad.jobs", &[]).await?;
        let mut found = HashSet::new();
        for row in &rows {
            let id: uuid::Uuid = row.get(0);
            ensure!(found.insert(JobId::from(id)), "job {id} exists twice");
        }
        let accepted = self.accepted.lock().await;
        let lost: Vec<_> = accepted.difference(&found).collect();
        ensure!(lost.is_empty(), "lost jobs: {lost:?}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.dir.disable_cleanup(true);
        eprintln!("logs are in {}; their ends:", self.dir.path().display());
        for program in &self.programs {
            eprintln!("=== {} ({:?}) ===", program.child.name(), program.ended);
            let log = read(&program.log);
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}
/// Waits until nothing lies in these queues.
async fn wait_until_empty(stranger: &Stranger, queues: &[String]) -> anyhow::Result<()> {
    for queue in queues {
        eventually(format_args!("{queue} is empty"), async || {
            let depth = stranger.depth(queue).await?;
            ensure!(depth.ready == 0, "it holds {depth:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What queues have got back from their consumers, all of which are gone.
async fn count_returned(stranger: &Stranger, queues: &[String]) -> anyhow::Result<u32> {
    let mut returned = 0;
    for queue in queues {
        let depth = eventually(format_args!("nobody consumes {queue}"), async || {
            let depth = stranger.depth(queue).await?;
            ensure!(depth.consumers == 0, "it is {depth:?}");
            Ok(depth)
        })
        .await?;
        returned += depth.ready;
    }
    Ok(returned)
}
