//! One run of a peer: enqueue with no worker there, drain, then one job at a time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use postroad_provision::Child;

use super::install::Installed;
use super::records;
use super::site::Site;
use crate::ground::Ground;
use crate::table::quantile;
use crate::usage::{self, Usage, Watched};

/// Jobs that are enqueued one by one on the idle system, and how far apart.
pub(super) const PACED: usize = 200;
pub(super) const GAP: Duration = Duration::from_millis(50);
/// Between the drain and those, for what it has left to be done.
pub(super) const REST: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(20);
/// For what comes after a job's start: it is finished, and acked.
const SETTLE: Duration = Duration::from_millis(300);

const PREPARE_LIMIT: Duration = Duration::from_secs(120);
/// For each job: slower than the slowest peer on a busy machine.
const ENQUEUE_LIMIT: Duration = Duration::from_millis(10);
const PACED_LIMIT: Duration = Duration::from_secs(120);
/// For the first job to start, or for one more.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// For a worker that is asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What a run came to.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Jobs a second, inside the program that enqueues.
    pub(super) enqueued: f64,
    /// Jobs a second, from the first start to the last.
    pub(super) drained: f64,
    /// Processor seconds per 1,000 jobs of the drain.
    pub(super) servers_cpu: f64,
    pub(super) workers_cpu: f64,
    /// MB, the most that its workers had.
    pub(super) memory: f64,
    /// Milliseconds, from right before the enqueue to the start.
    pub(super) wait_median: f64,
    pub(super) wait_p99: f64,
    /// Processors that others kept busy meanwhile.
    pub(super) others: f64,
}

/// Runs it once, and stops what it started, however it went.
pub(super) async fn run(
    ground: &Ground,
    installed: &Installed,
    jobs: usize,
) -> anyhow::Result<Run> {
    let site = Site::open(ground, installed.peer.servers).await?;
    let mut workers = Vec::new();
    let measured = Measured {
        ground,
        installed,
        site: &site,
    };
    let run = measured.run(&mut workers, jobs).await;
    let mut stopped = Ok(());
    for mut worker in workers {
        stopped = stopped.and(worker.stop(GRACE).await.map(drop));
    }
    let closed = site.close().await;
    // What went wrong first says most.
    let run = run?;
    stopped?;
    closed?;
    Ok(run)
}

struct Measured<'a> {
    ground: &'a Ground,
    installed: &'a Installed,
    site: &'a Site<'a>,
}

impl Measured<'_> {
    async fn run(&self, workers: &mut Vec<Child>, jobs: usize) -> anyhow::Result<Run> {
        self.enqueue(&["prepare"], PREPARE_LIMIT).await?;
        let limit = PREPARE_LIMIT + ENQUEUE_LIMIT * u32::try_from(jobs)?;
        let printed = self.enqueue(&["backlog", &jobs.to_string()], limit).await?;
        let seconds = seconds_in(&printed)?;
        self.site.rest().await?;

        for nth in 0..self.installed.peer.processes {
            workers.push(self.start_worker(nth)?);
        }
        let spent = self.drain(workers, jobs).await?;
        let mut memory = 0.0;
        for worker in workers.iter() {
            memory += usage::peak_memory_of_family(worker.pid())?;
        }
        let mut waits = self.one_by_one(workers, jobs).await?;
        Ok(Run {
            enqueued: jobs as f64 / seconds,
            drained: records::rate(&self.site.records, jobs)?,
            servers_cpu: spent.per_1000(jobs, |name| name != WORKERS),
            workers_cpu: spent.per_1000(jobs, |name| name == WORKERS),
            memory,
            wait_median: quantile(&mut waits, 0.5),
            wait_p99: quantile(&mut waits, 0.99),
            others: spent.others(),
        })
    }

    async fn enqueue(&self, args: &[&str], limit: Duration) -> anyhow::Result<String> {
        let words = [self.installed.peer.enqueue, args].concat();
        let mut program = self.installed.program("enqueue", &words)?;
        program.env.extend(self.site.env());
        program.finish(self.ground.processes(), limit).await
    }

    fn start_worker(&self, nth: usize) -> anyhow::Result<Child> {
        let words = self.installed.peer.worker;
        let mut program = self.installed.program(&format!("worker {nth}"), words)?;
        for word in &mut program.args {
            *word = word.replace("{nth}", &nth.to_string());
        }
        program.env.extend(self.site.env());
        program.start(self.ground.processes())
    }

    /// From the last look at which no job had started: how long programs take to be there is not
    /// what is measured.
    async fn drain(&self, workers: &mut [Child], jobs: usize) -> anyhow::Result<Spent> {
        let workers_watched = workers.iter().map(|worker| Watched {
            name: WORKERS,
            pid: worker.pid(),
            with_children: true,
        });
        let servers = self.site.watched.iter().cloned();
        let watched: Vec<_> = servers.chain(workers_watched).collect();
        let mut before = Look::at(&watched)?;
        self.all_started(workers, jobs, |none_yet| {
            if none_yet {
                before = Look::at(&watched)?;
            }
            Ok(())
        })
        .await?;
        tokio::time::sleep(SETTLE).await;
        Ok(Look::at(&watched)?.since(&before))
    }

    /// Waits until so many starts are written down.
    async fn all_started(
        &self,
        workers: &mut [Child],
        jobs: usize,
        mut look: impl FnMut(bool) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut seen, mut progressed) = (0, Instant::now());
        loop {
            look(seen == 0)?;
            let count = records::count(&self.site.records)?;
            if count >= jobs {
                return Ok(());
            }
            for worker in workers.iter_mut() {
                if let Some(status) = worker.try_wait()? {
                    return Err(worker.exited(status).into());
                }
            }
            if count > seen {
                (seen, progressed) = (count, Instant::now());
            }
            ensure!(
                progressed.elapsed() < STALL_LIMIT,
                "{count} of {jobs} jobs have started, and for {STALL_LIMIT:?} no other; \
                 see the logs of its workers in {}",
                self.ground.processes().dir().join("log/peers").display()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// How long each job waits while nothing else is to be done.
    async fn one_by_one(&self, workers: &mut [Child], jobs: usize) -> anyhow::Result<Vec<f64>> {
        tokio::time::sleep(REST).await;
        let numbers = [PACED, jobs, GAP.as_millis() as usize].map(|number| number.to_string());
        let [paced, first, gap] = &numbers;
        let args = ["paced", paced, first, gap];
        self.enqueue(&args, PACED_LIMIT).await?;
        self.all_started(workers, jobs + PACED, |_| Ok(())).await?;
        records::waits(&self.site.records)
    }
}

/// What workers are called among those that are watched.
pub(super) const WORKERS: &str = "workers";

/// Processor time at one moment.
pub(super) struct Look {
    usage: Usage,
    machine: f64,
    at: Instant,
}

/// Between two of them.
pub(super) struct Spent {
    usage: Usage,
    machine: f64,
    elapsed: Duration,
}

impl Look {
    pub(super) fn at(watched: &[Watched]) -> anyhow::Result<Self> {
        Ok(Self {
            usage: Usage::of(watched)?,
            machine: usage::of_machine()?,
            at: Instant::now(),
        })
    }

    pub(super) fn since(&self, before: &Self) -> Spent {
        Spent {
            usage: self.usage.since(&before.usage),
            machine: self.machine - before.machine,
            elapsed: self.at - before.at,
        }
    }
}

impl Spent {
    /// Processor seconds per 1,000 jobs of those whose name is asked for.
    pub(super) fn per_1000(&self, jobs: usize, is_asked: impl Fn(&str) -> bool) -> f64 {
        let asked = self.usage.by_name().filter(|(name, _)| is_asked(name));
        asked.map(|(_, seconds)| seconds).sum::<f64>() * 1000.0 / jobs as f64
    }

    /// Processors that were busy with something else.
    pub(super) fn others(&self) -> f64 {
        ((self.machine - self.usage.total()) / self.elapsed.as_secs_f64()).max(0.0)
    }
}

fn seconds_in(printed: &str) -> anyhow::Result<f64> {
    let mut lines = printed.lines().rev();
    let seconds = lines.find_map(|line| line.strip_prefix("seconds "));
    let seconds = seconds.and_then(|text| text.trim().parse().ok());
    seconds.with_context(|| format!("no line says how many seconds it took: {printed}"))
}
