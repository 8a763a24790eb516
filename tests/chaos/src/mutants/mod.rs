//! The checker, checked: programs with a bug each, put in on purpose, on the real servers. Every
//! one of them must turn the verdict red, and an honest program of the same making must not.
//!
//! The bugs live in a worker and a scheduler made for this, out of the rooms that the real ones are
//! made of (`postroad-common`), and in the client: so nothing of the product can be told to
//! misbehave.

mod scheduler;
mod worker;

use std::time::Duration;

use anyhow::Context as _;
use postroad_common::broker::{Broker, Settings};
use postroad_common::shutdown::Shutdown;
use postroad_tests::simulator::{Behaviour, Latency};
use tokio::task::JoinHandle;

use crate::checker::Figure;
use crate::history::History;
use crate::load::Load;
use crate::run;
use crate::stage::{Ground, Role, Setup, Stage};
use crate::table::Mutant;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None: the honest program.
    None,
    /// The worker acks as soon as it has a delivery.
    AckBeforeCommit,
    /// The worker acks by the tags of a connection that is gone.
    StaleAck,
    /// The worker does not ask the gate.
    GateOff,
    /// The worker does what it is asked twice.
    CallTwice,
    /// The worker completes what it has not done.
    CompleteWithoutCall,
    /// The worker calls a failure that it is not sure of a definite one.
    HoldRetried,
    /// The worker forgets a job that failed.
    FailureDropped,
    /// The worker starts what has expired.
    RunExpired,
    /// The worker sends one tenant what belongs to another.
    TenantsMixed,
    /// The worker writes an outcome whatever the fence is.
    FenceIgnored,
    /// The worker gives an attempt back that it has made.
    AttemptNotCharged,
    /// The worker calls under an id that nobody handed in.
    UnknownId,
    /// The worker never acks.
    NeverAck,
    /// The scheduler does not wait for confirms.
    NoConfirmWait,
    /// The scheduler claims a second too early.
    EarlyByASecond,
    /// The client hands every tick in without its key.
    DoubleTick,
    /// The scheduler makes two jobs for a tick of a schedule, as two of them without a key would.
    ScheduleTicksTwice,
    /// The scheduler moves a schedule on before it makes the job.
    ScheduleTickLost,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AckBeforeCommit,
        Self::StaleAck,
        Self::GateOff,
        Self::CallTwice,
        Self::CompleteWithoutCall,
        Self::HoldRetried,
        Self::FailureDropped,
        Self::RunExpired,
        Self::TenantsMixed,
        Self::FenceIgnored,
        Self::AttemptNotCharged,
        Self::UnknownId,
        Self::NeverAck,
        Self::NoConfirmWait,
        Self::EarlyByASecond,
        Self::DoubleTick,
        Self::ScheduleTicksTwice,
        Self::ScheduleTickLost,
    ];

    /// As the table calls it.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    fn is_the_schedulers(self) -> bool {
        matches!(
            self,
            Self::NoConfirmWait
                | Self::EarlyByASecond
                | Self::ScheduleTicksTwice
                | Self::ScheduleTickLost
        )
    }

    /// The figure that must not stay zero.
    pub fn figure(self) -> Option<Figure> {
        Some(match self {
            Self::None => return None,
            Self::AckBeforeCommit | Self::StaleAck | Self::NoConfirmWait => Figure::Unbacked,
            Self::GateOff | Self::CallTwice => Figure::UnexplainedDuplicates,
            Self::CompleteWithoutCall => Figure::Silent,
            Self::HoldRetried => Figure::HoldRepeats,
            Self::FailureDropped => Figure::Lost,
            Self::RunExpired => Figure::LateStarts,
            Self::TenantsMixed => Figure::CrossTenant,
            Self::FenceIgnored | Self::AttemptNotCharged => Figure::IllegalMoves,
            Self::UnknownId => Figure::Unexpected,
            Self::NeverAck => Figure::MessagesLeft,
            Self::EarlyByASecond => Figure::Early,
            Self::DoubleTick | Self::ScheduleTicksTwice => Figure::ExtraTicks,
            Self::ScheduleTickLost => Figure::MissedTicks,
        })
    }

    /// What it needs to show itself.
    fn setup(self) -> Setup {
        let mut provider = Behaviour {
            latency: Latency::Fixed(Duration::from_millis(20)),
            ..Behaviour::default()
        };
        let mut load = Load {
            rate: 60,
            jobs_max: 24,
            tenants: 3,
            no_echo: true,
            schedules: 0,
            recipients: 0,
            ..Load::default()
        };
        match self {
            Self::AckBeforeCommit => {
                provider.latency = Latency::Fixed(Duration::from_secs(8));
                load.jobs_max = 10;
                load.is_plain = true;
            }
            Self::HoldRetried => provider.rate_reset = 0.5,
            Self::FailureDropped => provider.rate_500 = 0.5,
            Self::RunExpired => {
                // Time to be claimed; and then the worker waits until it is over.
                load.all_expire_in = Some(Duration::from_secs(2));
                load.jobs_max = 4;
            }
            // Some of them come later, or are ticks, as the seed has it.
            Self::EarlyByASecond => load.jobs_max = 150,
            Self::DoubleTick => load.jobs_max = 60,
            Self::NoConfirmWait => {
                provider.latency = Latency::Fixed(Duration::from_millis(500));
                load.is_plain = true;
            }
            Self::StaleAck | Self::FenceIgnored => load.is_plain = true,
            Self::ScheduleTicksTwice | Self::ScheduleTickLost => {
                load.schedules = 2;
                load.jobs_max = 120;
                load.is_plain = true;
            }
            _ => {}
        }
        load.http_percent = 0;
        load.has_keyless_ticks = self == Self::DoubleTick;
        Setup {
            schedulers: usize::from(!self.is_the_schedulers()),
            workers: 0,
            apis: 0,
            prefetch: if self == Self::NoConfirmWait { 1 } else { 50 },
            provider,
            load,
            looks_at_backing: true,
            ..Setup::default()
        }
    }
}

/// How long a program with a bug may take to come to an end: some never do.
const DRAIN: Duration = Duration::from_secs(9);

/// Lets a program with this bug run, and says what the checker finds.
pub async fn make(bug: Bug, ground: &Ground) -> anyhow::Result<(Mutant, History)> {
    let mut stage = Stage::open(ground, bug.setup()).await?;
    let rogue = start(bug, &mut stage).await?;
    stage.load(ground.seed);
    let submits = stage.await_clients().await?;
    stage.drain_within(DRAIN).await?;
    rogue.stop().await;
    let history = stage.take(submits).await?;
    let report = run::check(&history);
    let red: Vec<_> = report.findings.keys().copied().collect();
    let mutant = Mutant {
        name: bug.name(),
        is_caught: bug.figure().is_some_and(|figure| red.contains(&figure)),
        red: red.iter().map(ToString::to_string).collect(),
    };
    Ok((mutant, history))
}

async fn start(bug: Bug, stage: &mut Stage) -> anyhow::Result<Rogue> {
    let broker = broker(stage, bug)?;
    let shutdown = Shutdown::new();
    let store = stage.cluster.store.clone();
    let mut tasks = Vec::new();
    if bug.is_the_schedulers() {
        if bug == Bug::NoConfirmWait {
            stage.cluster.vhost().limit_queues(2).await?;
        }
        let scheduler = scheduler::Scheduler::join(bug, store, broker, &shutdown).await?;
        tasks.push(tokio::spawn(scheduler.run()));
        stage.start(Role::Worker).await?;
    } else {
        let gateway = format!("{}/sms", stage.cluster.provider.url());
        let worker = worker::Worker::join(bug, store, broker, gateway, &shutdown).await?;
        tasks.push(tokio::spawn(worker.run()));
    }
    Ok(Rogue { shutdown, tasks })
}

fn broker(stage: &Stage, bug: Bug) -> anyhow::Result<Broker> {
    let settings =
        Settings::of_url(stage.cluster.vhost().amqp_url()).map_err(anyhow::Error::msg)?;
    Ok(Broker::new(settings, format!("rogue {}", bug.name())))
}

/// A program with a bug, in this process.
struct Rogue {
    shutdown: Shutdown,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Rogue {
    /// Ends it, whatever it is doing.
    async fn stop(self) {
        self.shutdown.quiesce.cancel();
        self.shutdown.cancel.cancel();
        for task in self.tasks {
            let ended = task.await.context("a rogue panicked");
            if let Err(error) = ended.flatten() {
                tracing::debug!("a rogue ended: {error:#}");
            }
        }
    }
}
