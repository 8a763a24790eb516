//! Dies at every point of the table, the first time it is passed, the seventh, and for the last
//! job of all, and looks at what the others make of it.

mod commands;
pub mod points;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use postroad_tests::harness::cluster::{Id, eventually};
use postroad_tests::simulator::{self, Behaviour, Latency};

use self::points::{Needs, POINTS, Point, Program};
use crate::checker::Report;
use crate::history::{History, Submit};
use crate::load::Load;
use crate::run::{self, Outcome, Ran, Verdict};
use crate::stage::{Ground, Role, Setup, Stage};

/// Which time the point is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// This one.
    Nth(u32),
    /// The first one after every job but the last is done.
    Last,
}

impl Hit {
    fn name(self) -> String {
        match self {
            Self::Nth(n) => n.to_string(),
            Self::Last => "last".to_owned(),
        }
    }
}

/// A death: where, and when.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// Where.
    pub point: &'static Point,
    /// When.
    pub hit: Hit,
}

impl Death {
    /// As `--only` takes it.
    pub fn name(&self) -> String {
        format!("{}@{}", self.point.name, self.hit.name())
    }
}

/// Every death, in the order of the table.
pub fn deaths() -> Vec<Death> {
    let of = |point: &'static Point| {
        hits(point)
            .iter()
            .map(move |hit| Death { point, hit: *hit })
    };
    POINTS.iter().flat_map(of).collect()
}

/// A program registers once and leaves once; commands pass their points a few times.
fn hits(point: &Point) -> &'static [Hit] {
    const ONCE: &[Hit] = &[Hit::Nth(1)];
    match (point.program, point.needs) {
        (Program::Migrate, _) if point.name.starts_with("topology") => &[Hit::Nth(1), Hit::Nth(3)],
        (Program::Migrate, _) | (_, Needs::LostPrograms | Needs::Sigterm) => ONCE,
        (Program::Enqueue, _) => &[Hit::Nth(1), Hit::Nth(3)],
        _ if point.name == "membership.registered" => ONCE,
        // The last job alone finds room.
        _ if point.needs == Needs::FullDestinations => &[Hit::Nth(1), Hit::Nth(7)],
        // A schedule has no last job: it ticks until it is ended.
        _ if point.name.starts_with("ticker.") => &[Hit::Nth(1), Hit::Nth(7)],
        // A campaign's last job is made in the middle of others.
        _ if point.name.starts_with("expander.") => &[Hit::Nth(1), Hit::Nth(7)],
        _ => &[Hit::Nth(1), Hit::Nth(7), Hit::Last],
    }
}

/// More than are handed in before any point is passed for the seventh time.
const JOBS_MAX: usize = 5000;
/// How a process ends that `abort` ends.
const SIGABRT: i32 = 6;
/// Longer than a point takes to be passed, wherever it is.
const DEATH_MAX: Duration = Duration::from_secs(60);

/// Has a program die so, and judges what follows.
pub async fn make(death: Death, ground: &Ground) -> Ran {
    let started = Instant::now();
    let made = match death.point.program {
        Program::Migrate => commands::migrate(death, ground).await.map(|()| None),
        Program::Enqueue => commands::enqueue(death, ground).await.map(Some),
        Program::Scheduler | Program::Worker | Program::Api => {
            of_program(death, ground).await.map(Some)
        }
    };
    let (history, report, verdict) = match made {
        Ok(history) => {
            let report = history.as_ref().map(run::check).unwrap_or_default();
            let verdict = judge(death, &report);
            (history, report, verdict)
        }
        Err(error) => (
            None,
            Report::default(),
            Verdict::Red(vec![format!("{error:#}")]),
        ),
    };
    Ran {
        history,
        outcome: Outcome {
            name: death.name(),
            seed: ground.seed,
            seconds: started.elapsed().as_secs_f64(),
            kills: 1,
            partitions: 0,
            recovered_after: None,
            report,
            verdict,
            is_second: false,
        },
    }
}

fn judge(death: Death, report: &Report) -> Verdict {
    let mut red = run::complaints(report);
    if !death.point.may_repeat && report.context.explained_duplicates > 0 {
        red.push(format!(
            "{} effects were repeated, and nothing was lost here that excuses it",
            report.context.explained_duplicates
        ));
    }
    if red.is_empty() {
        Verdict::Green
    } else {
        Verdict::Red(red)
    }
}

/// The seventh time, jobs come in bundles.
const BUNDLE: u32 = 5;

fn setup(Death { point, hit }: Death) -> Setup {
    let mut provider = Behaviour {
        latency: Latency::Fixed(Duration::from_millis(20)),
        retry_after: Duration::from_secs(1),
        ..Behaviour::default()
    };
    let mut prefetch = 10;
    match point.needs {
        Needs::Failures | Needs::LostLetters => provider.rate_503 = 0.3,
        Needs::FullQueues => {
            provider.latency = Latency::Fixed(Duration::from_millis(100));
            prefetch = 1;
        }
        Needs::LostPrograms => provider.latency = Latency::Fixed(Duration::from_millis(200)),
        Needs::FullDestinations => provider.latency = Latency::Fixed(Duration::from_millis(100)),
        Needs::Nothing | Needs::Sigterm | Needs::Schedules | Needs::Campaigns => {}
    }
    let schedules = if point.needs == Needs::Schedules {
        2
    } else {
        0
    };
    let recipients = if point.needs == Needs::Campaigns {
        1000
    } else {
        0
    };
    let is_api = point.program == Program::Api;
    Setup {
        schedulers: 0,
        workers: 0,
        apis: 0,
        prefetch,
        lease: Duration::from_secs(2),
        env: [
            (hit == Hit::Nth(7)).then(|| ("POSTROAD_TEST_BUNDLE", BUNDLE.to_string())),
            // A host that answers one in three with `Retry-After` is left alone most of the time: jobs
            // would be there for minutes, and few letters.
            match point.needs {
                Needs::FullDestinations => Some(("POSTROAD_DESTINATION_MAX", 1.to_string())),
                Needs::Failures | Needs::LostLetters => {
                    Some(("POSTROAD_DESTINATION_MAX", 0.to_string()))
                }
                _ => None,
            },
        ]
        .into_iter()
        .flatten()
        .collect(),
        provider,
        load: Load {
            rate: 80,
            jobs_max: 80,
            tenants: 2,
            is_plain: true,
            schedules,
            recipients,
            http_percent: if is_api { 100 } else { 0 },
            ..Load::default()
        },
        ..Setup::default()
    }
}

async fn of_program(death: Death, ground: &Ground) -> anyhow::Result<History> {
    let mut stage = Stage::open(ground, setup(death)).await?;
    match die(death, ground, &mut stage).await {
        Ok(submits) => stage.close(submits).await,
        Err(error) => {
            let logs = stage.cluster.keep_logs();
            Err(error.context(format!("logs are in {}", logs.display())))
        }
    }
}

async fn die(death: Death, ground: &Ground, stage: &mut Stage) -> anyhow::Result<Vec<Submit>> {
    let point = death.point;
    let role = match point.program {
        Program::Worker => Role::Worker,
        Program::Api => Role::Api,
        _ => Role::Scheduler,
    };
    if point.needs == Needs::FullQueues {
        stage.cluster.vhost().limit_queues(3).await?;
    }
    let mut submits = Vec::new();
    if point.needs == Needs::LostPrograms {
        submits = lose_programs(stage, ground).await?;
    } else {
        for other in Role::BOTH.into_iter().filter(|one| *one != role) {
            stage.start(other).await?;
        }
    }
    let armed = stage.cluster.dir().join("armed");
    let victim = start_victim(stage, role, death, &armed).await?;
    let more = match death.hit {
        Hit::Nth(_) => {
            // As long as it takes: how many jobs a batch has depends on the machine.
            stage.setup.load.jobs_max = JOBS_MAX;
            stage.load(ground.seed);
            if point.needs == Needs::Sigterm {
                stage.cluster.wait_until_ready(victim).await?;
                let is_at_work = |report: &simulator::Report| report.effects > 0;
                stage.cluster.provider.wait_for(is_at_work).await?;
                stage
                    .cluster
                    .signal(victim, postroad_provision::Signal::TERM)?;
            }
            await_death(stage, victim, point).await?;
            stage.start(role).await?;
            stage.stop_clients().await?
        }
        Hit::Last => {
            stage.load(ground.seed);
            let mut submits = stage.await_clients().await?;
            stage.drain().await?;
            submits.extend(last_job(stage, ground, point, &armed, victim).await?);
            stage.start(role).await?;
            submits
        }
    };
    submits.extend(more);
    if point.needs == Needs::FullQueues {
        stage.cluster.vhost().limit_queues(1_000_000).await?;
    }
    if matches!(point.needs, Needs::FullQueues | Needs::FullDestinations) {
        // It was slow to have them full; one job after the other, hundreds would take a minute.
        stage.cluster.provider.set(Behaviour::default())?;
    }
    stage.drain().await?;
    Ok(submits)
}

/// Starts the program that is to die. It may do so before it is ready.
async fn start_victim(
    stage: &mut Stage,
    role: Role,
    death: Death,
    armed: &Path,
) -> anyhow::Result<Id> {
    let hit = match death.hit {
        Hit::Nth(n) => n.to_string(),
        Hit::Last => "armed".to_owned(),
    };
    let program = stage
        .program(role)
        .env(
            "POSTROAD_FAILPOINT",
            format_args!("{}:abort@{hit}", death.point.name),
        )
        .env("POSTROAD_FAILPOINT_ARMED", armed.display());
    if role == Role::Api {
        // Clients have to know where it is.
        return stage.start_as(role, program).await;
    }
    stage.spawn_as(role, program)
}

/// One more job when all the others are done, and a death on its way.
async fn last_job(
    stage: &mut Stage,
    ground: &Ground,
    point: &Point,
    armed: &PathBuf,
    victim: Id,
) -> anyhow::Result<Vec<Submit>> {
    std::fs::write(armed, "").context("arming the failpoint")?;
    let fails = matches!(point.needs, Needs::Failures | Needs::LostLetters);
    if fails {
        stage.cluster.provider.set(Behaviour {
            rate_503: 1.0,
            ..stage.setup.provider.clone()
        })?;
    }
    // A queue that is full already refuses the last job: so there are some more of it.
    let jobs_max = if point.needs == Needs::FullQueues {
        300
    } else {
        1
    };
    stage.setup.load = Load {
        rate: 1000,
        jobs_max,
        no_echo: true,
        ..stage.setup.load.clone()
    };
    stage.load(ground.seed + 1);
    if point.program == Program::Api {
        // Its client is told by another one.
        await_death(stage, victim, point).await?;
        stage.start(Role::Api).await?;
        return stage.await_clients().await;
    }
    let submits = stage.await_clients().await?;
    await_death(stage, victim, point).await?;
    if fails {
        stage.cluster.provider.set(Behaviour {
            rate_503: 0.0,
            ..stage.setup.provider.clone()
        })?;
    }
    Ok(submits)
}

/// Waits until the program has aborted, and takes it off the list.
async fn await_death(stage: &mut Stage, victim: Id, point: &Point) -> anyhow::Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let deadline = tokio::time::Instant::now() + DEATH_MAX;
    let status = loop {
        if let Some(status) = stage.cluster.has_ended(victim)? {
            break status;
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("{} was not passed within {DEATH_MAX:?}", point.name);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    ensure!(
        status.signal() == Some(SIGABRT),
        "the victim ended with {status}"
    );
    stage.note("abort", true);
    stage.kills += 1;
    stage.forget(victim);
    Ok(())
}

/// Leaves jobs that were claimed by a scheduler which died before it published them, and jobs that
/// run in a worker which died, to whoever is started next.
async fn lose_programs(stage: &mut Stage, ground: &Ground) -> anyhow::Result<Vec<Submit>> {
    let claims_and_dies = stage
        .program(Role::Scheduler)
        .env("POSTROAD_FAILPOINT", "claim.committed:abort@4");
    let worker = stage.start(Role::Worker).await?;
    let scheduler = stage.start_as(Role::Scheduler, claims_and_dies).await?;
    stage.setup.load.jobs_max = JOBS_MAX;
    stage.load(ground.seed);
    let last = POINTS
        .iter()
        .find(|point| point.name == "claim.committed")
        .context("there is such a point")?;
    await_death(stage, scheduler, last).await?;
    eventually("the worker has something in hand", async || {
        ensure!(stage.cluster.store.census().await?.running > 0);
        Ok(())
    })
    .await?;
    stage.kill(worker).await?;
    let submits = stage.stop_clients().await?;
    stage.start(Role::Worker).await?;
    Ok(submits)
}
