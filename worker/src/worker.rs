//! A worker from its parts: what is started in which order, and how it comes to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use postroad_common::broker::Broker;
use postroad_common::changes::Changes;
use postroad_common::health::{AdminPage, Health};
use postroad_common::membership::{Membership, host_name};
use postroad_common::service::{Nudge, spawn};
use postroad_common::settings::Tenants;
use postroad_common::shutdown::Shutdown;
use postroad_common::startup;
use postroad_common::store::{Channel, Fenced, Listener, NewProcess, Role, Store};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::{self, Breakers};
use crate::canceller::{Cancellations, Canceller};
use crate::config::Config;
use crate::consumer::{self, Consumer, Session};
use crate::destinations::{Destinations, Tidier};
use crate::executor::Executor;
use crate::finisher::Finisher;
use crate::gate::Gatekeeper;
use crate::handler::Handler;
use crate::intake::{Exits, Intake};
use crate::metrics;
use crate::prefetch::{Prefetch, ProviderRooms};
use crate::registry::{RegisterError, Registry};
use crate::releaser::Releaser;
use crate::settings::Settings;

/// Jobs waiting for the gate, or to be sent back. They have places, which bound them long before.
const CHANNEL: usize = 1024;
/// After it was told to let go, how long a worker may still take to write what it has: moments when
/// Postgres answers, and two tries when it does not.
const LET_GO_WITHIN: Duration = Duration::from_secs(25);

/// Runs jobs of the registered kinds.
#[derive(Default)]
pub struct Worker {
    registry: Registry,
}

/// Collects the kinds of a worker.
#[derive(Default)]
pub struct Builder {
    registry: Registry,
    error: Option<RegisterError>,
}

impl Builder {
    /// Adds a kind.
    #[must_use]
    pub fn register(mut self, handler: impl Handler) -> Self {
        if let Err(error) = self.registry.register(handler) {
            self.error.get_or_insert(error);
        }
        self
    }

    /// The worker, unless a kind was registered twice or cannot be.
    pub fn build(self) -> Result<Worker, RegisterError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(Worker {
                registry: self.registry,
            }),
        }
    }
}

impl Worker {
    /// A worker without kinds, to be given some.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs until the process is asked to stop: SIGTERM or SIGINT finishes what runs and gives back
    /// the rest; a second one lets go at once.
    pub async fn run(self, config: Config) -> anyhow::Result<()> {
        config.log.install();
        let shutdown = Shutdown::on_signals(config.grace).context("listening for signals")?;
        let health = Health::new();
        // From the start: a worker is ready when it consumes, not when its servers have answered.
        health.expect(consumer::HEALTH);
        AdminPage::bind(config.admin_listen)
            .await?
            .serve(health.clone());
        metrics::describe();

        let listened = config.database.clone();
        let store = Store::new(config.database)?;
        let (host, pid) = (host_name(), std::process::id());
        let version = env!("CARGO_PKG_VERSION");
        let broker = Broker::new(
            config.broker,
            format!("postroad-worker/{version} {host}:{pid}"),
        );
        startup::postgres(&store, &health, &shutdown).await?;
        startup::rabbitmq(&broker, &health, &shutdown).await?;

        let policies = self.registry.policies();
        let names: Vec<_> = config.queues.iter().map(|queue| queue.as_str()).collect();
        let process = NewProcess {
            role: Role::Worker,
            host: host.clone(),
            pid,
            version,
            queues: names.iter().map(|name| (*name).to_owned()).collect(),
            lease: config.lease,
            prefetch: Some(config.prefetch),
        };
        let join = async || {
            store.register_queues(&names).await?;
            // Before the first job: what a lost worker means must be known before one is lost.
            store.register_kinds(&policies).await?;
            Membership::join(store.clone(), process.clone(), &health, &shutdown).await
        };
        let membership = startup::repeat(&health, &shutdown, join).await?;

        let calls = Listener::spawn(&listened, &[Channel::Settings], &shutdown);
        let changes = Changes::spawn(store.clone(), calls, &health, &shutdown);
        let tenants = Tenants::new(store.clone(), &changes);
        let (prefetch_set, prefetch) = watch::channel(Prefetch::new(config.prefetch));
        let places = usize::from(config.prefetch) * names.len();
        let (provider_rooms, breakers) = (Arc::new(ProviderRooms::default()), Breakers::default());
        let outside = Outside {
            store: &store,
            membership: &membership,
            health: &health,
            shutdown: &shutdown,
        };
        let (stages, exits) = Stages::start(places, outside, tenants, breakers.clone(), &prefetch);
        let canceller = Canceller {
            store: store.clone(),
            membership: membership.clone(),
            cancellations: stages.cancellations.clone(),
            period: config.lease / 6,
        };
        // Until the very end: what is being drained can still be called off.
        drop(spawn(canceller, Nudge::default(), &health, &shutdown));
        tracing::info!(
            "postroad-worker {version} is running: queues {}, kinds {}",
            names.join(", "),
            self.registry.names().join(", ")
        );
        let queues = process.queues.clone();
        let most = config.destination_max;
        let destinations = most.map(|most| Destinations::new(most.get(), &queues));
        if let Some(destinations) = destinations.clone() {
            let tidier = Tidier(destinations);
            drop(spawn(tidier, Nudge::default(), &health, &shutdown));
        }
        let settings = Settings {
            store: store.clone(),
            kinds: self.registry.all(),
            queues: queues.clone(),
            prefetch: prefetch_set,
            provider_rooms: provider_rooms.clone(),
            breakers: breakers.clone(),
            changes,
            looked: None,
        };
        // Before the first job: it keeps to what is set now.
        startup::repeat(&health, &shutdown, async || settings.read().await).await?;
        let nudge = settings.changes.nudged();
        drop(spawn(settings, nudge, &health, &shutdown));
        let writer = breaker::Writer {
            store: store.clone(),
            breakers,
        };
        let nudge = writer.nudge();
        drop(spawn(writer, nudge, &health, &shutdown));
        let consumer = Consumer {
            broker,
            intake: Intake::new(self.registry, &queues, provider_rooms, destinations, exits),
            queues,
            prefetch,
            consumer_tag: format!("worker.{host}.{pid}"),
            health,
            shutdown: shutdown.clone(),
        };
        let session = tokio::select! {
            session = consumer.run() => session,
            () = stages.ended_early(&shutdown) => bail!("a stage of the worker ended by itself"),
        };
        let told_to_let_go = async {
            shutdown.cancel.cancelled().await;
            tokio::time::sleep(LET_GO_WITHIN).await;
        };
        tokio::select! {
            drained = stages.drain(session, &store, membership) => drained,
            () = told_to_let_go => bail!("stopped with work in hand: a rescuer will judge it as lost"),
        }
    }
}

/// What every stage has to do with.
struct Outside<'a> {
    store: &'a Store,
    membership: &'a Membership,
    health: &'a Health,
    shutdown: &'a Shutdown,
}

/// What stands between the consumer and the database.
struct Stages {
    gatekeeper: JoinHandle<Vec<Fenced>>,
    waiting: TaskTracker,
    releaser: JoinHandle<()>,
    running: TaskTracker,
    cancellations: Cancellations,
    finisher: JoinHandle<bool>,
    /// Cancelled when a stage ends, in whatever way.
    ended: CancellationToken,
}

impl Stages {
    /// Starts them, for so many jobs at once. Jobs go into the exits of the consumer; when those are
    /// dropped, the stages come to an end.
    fn start(
        places: usize,
        outside: Outside<'_>,
        tenants: Tenants,
        breakers: Breakers,
        prefetch: &watch::Receiver<Prefetch>,
    ) -> (Self, Exits) {
        let Outside {
            store,
            membership,
            health,
            shutdown,
        } = outside;
        let (asking, asked) = mpsc::channel(CHANNEL);
        // So many wait to be written, and then no more begin.
        let (finished, outcomes) = mpsc::channel(places.max(1));
        let (releases, released) = mpsc::channel(CHANNEL);
        let waiting = TaskTracker::new();
        let running = TaskTracker::new();
        let cancellations = Cancellations::default();
        let gatekeeper = Gatekeeper {
            store: store.clone(),
            membership: membership.clone(),
            executor: Executor {
                membership: membership.clone(),
                running: running.clone(),
                finished,
                shutdown: shutdown.clone(),
                tenants,
                cancellations: cancellations.clone(),
                breakers,
            },
            prefetch: prefetch.clone(),
            health: health.clone(),
            shutdown: shutdown.clone(),
        };
        let finisher = Finisher {
            store: store.clone(),
            prefetch: prefetch.clone(),
            health: health.clone(),
            shutdown: shutdown.clone(),
        };
        let releaser = Releaser {
            store: store.clone(),
            prefetch: prefetch.clone(),
            health: health.clone(),
            shutdown: shutdown.clone(),
        };
        let ended = CancellationToken::new();
        let stages = Self {
            gatekeeper: tokio::spawn(alarmed(gatekeeper.run(asked), &ended)),
            finisher: tokio::spawn(alarmed(finisher.run(outcomes), &ended)),
            releaser: tokio::spawn(alarmed(releaser.run(released), &ended)),
            waiting: waiting.clone(),
            running,
            cancellations,
            ended,
        };
        let exits = Exits {
            asking,
            releases,
            waiting,
            quiesce: shutdown.quiesce.clone(),
        };
        (stages, exits)
    }

    /// Resolves when a stage has ended although nobody asked the worker to stop.
    async fn ended_early(&self, shutdown: &Shutdown) {
        self.ended.cancelled().await;
        if shutdown.is_requested() {
            std::future::pending::<()>().await;
        }
    }

    /// Nothing new comes in any more: each stage ends when the one before it has.
    async fn drain(
        self,
        session: Option<Session>,
        store: &Store,
        membership: Membership,
    ) -> anyhow::Result<()> {
        let unanswered = self.gatekeeper.await.context("the gate")?;
        self.waiting.close();
        self.waiting.wait().await;
        self.releaser.await.context("sending jobs back")?;
        self.running.close();
        self.running.wait().await;
        let is_all_written = self.finisher.await.context("writing outcomes")?;
        if let Some(session) = session {
            session.close().await;
        }
        sign_off(store, membership, &unanswered).await;
        if !is_all_written {
            bail!("stopped with outcomes unwritten: a rescuer will judge them as lost");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Runs a stage that cancels `ended` when it ends, in whatever way.
fn alarmed<S: Future>(
    stage: S,
    ended: &CancellationToken,
) -> impl Future<Output = S::Output> + use<S> {
    let alarm = ended.clone().drop_guard();
    async move {
        let _alarm = alarm;
        stage.await
    }
}

/// Signs off. What is left running under this id, if anything, ran and lost its outcome: a rescuer
/// ends it as each kind says.
async fn sign_off(store: &Store, membership: Membership, unanswered: &[Fenced]) {
    let result = async {
        if !unanswered.is_empty() {
            let released = store
                .release_never_run(membership.last_id(), unanswered)
                .await?;
            tracing::info!(
                released,
                "{released} jobs were started but never run: given back"
            );
        }
        membership.leave().await
    };
    if let Err(error) = result.await {
        tracing::warn!("{error}: this worker will be called lost");
    }
}
