//! A cluster of real programs behind proxies, a load, and whoever breaks things while it runs.
//!
//! A run has four parts, as Jepsen's have: load; a fault in the middle of it; then no fault, until
//! nothing is on its way any more; then the observers' history is taken. A client, the provider,
//! triggers in Postgres and the broker are the observers.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use postroad_common::job::JobId;
use postroad_common::store::{JobFilter, Resolution};
use postroad_common::token::Permission;
use postroad_tests::faults::disk::SmallDisk;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually};
use postroad_tests::harness::endpoints::Endpoints;
use postroad_tests::proxy::Proxy;
use postroad_tests::simulator::{Behaviour, Latency};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::door::Doors;
use crate::history::{Backing, Decision, Fault, History, Submit};
use crate::load::{self, Load};
use crate::observer::{self, now};
use crate::schedules;

/// How long a drain may take: a lost message is missed after `pipe_ttl` and 16 seconds, and a retry
/// may wait for its backoff.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// What the queue's `pipe_ttl` is here: short, so that what a broker lost is soon missed.
pub const PIPE_TTL: Duration = Duration::from_secs(5);
/// How often programs may give messages back before that is a finding.
const GIVE_BACKS_MAX: usize = 3;
/// Ids per decision.
const HELD_AT_ONCE: i64 = 10_000;

/// What a run is set up with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many.
    pub schedulers: usize,
    /// How many.
    pub workers: usize,
    /// How many to begin with.
    pub apis: usize,
    /// Jobs at once per worker.
    pub prefetch: u16,
    /// Silence after which a program is called lost.
    pub lease: Duration,
    /// How the provider behaves.
    pub provider: Behaviour,
    /// What the clients do.
    pub load: Load,
    /// Variables of every program.
    pub env: Vec<(&'static str, String)>,
    /// Whether to look at what is behind the jobs in the pipe. The management API, which is a second
    /// or more behind, cannot say it of a queue that is busy.
    pub looks_at_backing: bool,
    /// Instead of `postroad-worker`.
    pub worker_program: Option<&'static str>,
    /// Begins with the schema and the programs of the version before.
    pub upgrades: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            schedulers: 2,
            workers: 2,
            apis: 1,
            prefetch: 50,
            lease: Duration::from_secs(3),
            provider: Behaviour {
                latency: Latency::Uniform(Duration::from_millis(2), Duration::from_millis(40)),
                ..Behaviour::default()
            },
            load: Load::default(),
            env: Vec::new(),
            looks_at_backing: false,
            worker_program: None,
            upgrades: false,
        }
    }
}

/// Where a run takes place.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The servers.
    pub endpoints: Endpoints,
    /// Whether the broker may lose its virtual hosts, so that only the one that it has anyway is
    /// sure to come back.
    pub is_alone: bool,
    /// The programs to run.
    pub programs: PathBuf,
    /// The programs of an earlier version; or why there are none.
    pub previous: Result<PathBuf, String>,
    /// The disk that the servers live on, where it is one of their own.
    pub disk: Option<Arc<SmallDisk>>,
    /// Decides everything that is left to chance.
    pub seed: u64,
}

/// The programs, as faults name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `postroad-scheduler`.
    Scheduler,
    /// `postroad-worker`.
    Worker,
    /// `postroad-api`.
    Api,
}

impl Role {
    /// Those that a job passes after it was accepted.
    pub const BOTH: [Self; 2] = [Self::Scheduler, Self::Worker];
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scheduler, Self::Worker, Self::Api];
}

/// The wires of one role.
pub struct Wires {
    /// To Postgres.
    pub postgres: Proxy,
    /// To RabbitMQ.
    pub rabbitmq: Proxy,
}

impl Wires {
    fn before(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self {
            postgres: Proxy::start(cluster.postgres_addr()?)?,
            rabbitmq: Proxy::start(cluster.amqp_addr()?)?,
        })
    }
}

/// A program that runs, and as what.
#[derive(Clone)]
pub struct Actor {
    /// Its place in the cluster.
    pub id: Id,
    /// What it is.
    pub role: Role,
}

/// A run under way.
pub struct Stage {
    /// The programs, the database and the provider.
    pub cluster: Cluster,
    /// Decides what is left to chance.
    pub rng: StdRng,
    /// The programs that run.
    pub actors: Vec<Actor>,
    /// The disk that the servers live on, where it is one of their own.
    pub disk: Option<Arc<SmallDisk>>,
    /// What a fault has handed in itself.
    pub handed_in: Vec<Submit>,
    /// How many programs were killed.
    pub kills: u64,
    /// How many wires were cut or degraded.
    pub partitions: u64,
    /// The setup.
    pub setup: Setup,
    previous: Option<PathBuf>,
    scheduler_wires: Wires,
    worker_wires: Wires,
    api_wires: Wires,
    doors: Doors,
    /// An operator's, for every api.
    token: Option<String>,
    faults: Vec<Fault>,
    decisions: Vec<Decision>,
    backing: Vec<Backing>,
    clients: Option<Clients>,
}

struct Clients {
    stop: CancellationToken,
    done: JoinHandle<anyhow::Result<Vec<Submit>>>,
}

impl Stage {
    /// Sets everything up; nothing is handed in yet.
    pub async fn open(ground: &Ground, setup: Setup) -> anyhow::Result<Self> {
        let mut builder = Cluster::builder()
            .schedulers(0)
            .workers(0)
            .prefetch(setup.prefetch)
            .lease(&format!("{}ms", setup.lease.as_millis()))
            .env("POSTROAD_LOG", "info")
            .programs_of(&ground.programs);
        builder = match ground.is_alone {
            true => builder.database_beside(ground.endpoints.clone()),
            false => builder.beside(ground.endpoints.clone()),
        };
        for (name, value) in &setup.env {
            builder = builder.env(name, value);
        }
        let previous = match (setup.upgrades, &ground.previous) {
            (true, Ok(programs)) => Some(programs.clone()),
            (true, Err(why)) => bail!("there are no programs of an earlier version: {why}"),
            (false, _) => None,
        };
        if let Some(programs) = &previous {
            builder = builder.schema_of(programs);
        }
        let cluster = builder.start().await?;
        observer::install(&cluster).await?;
        cluster
            .set_pipe_ttl(&format!("{} seconds", PIPE_TTL.as_secs()))
            .await?;
        cluster.provider.set(setup.provider.clone())?;
        let mut stage = Self {
            doors: Doors::of(cluster.store.clone()),
            token: None,
            api_wires: Wires::before(&cluster)?,
            scheduler_wires: Wires::before(&cluster)?,
            worker_wires: Wires::before(&cluster)?,
            cluster,
            rng: StdRng::seed_from_u64(ground.seed),
            actors: Vec::new(),
            disk: ground.disk.clone(),
            handed_in: Vec::new(),
            kills: 0,
            partitions: 0,
            faults: Vec::new(),
            decisions: Vec::new(),
            backing: Vec::new(),
            clients: None,
            previous,
            setup,
        };
        for _ in 0..stage.setup.schedulers {
            stage.start(Role::Scheduler).await?;
        }
        for _ in 0..stage.setup.workers {
            stage.start(Role::Worker).await?;
        }
        for _ in 0..stage.setup.apis {
            stage.start(Role::Api).await?;
        }
        Ok(stage)
    }

    /// Lets the clients begin.
    pub fn load(&mut self, seed: u64) {
        let stop = CancellationToken::new();
        let clients = load::run(
            self.setup.load.clone(),
            seed,
            self.doors.clone(),
            self.cluster.provider.url(),
            stop.clone(),
        );
        self.clients = Some(Clients {
            stop,
            done: tokio::spawn(clients),
        });
    }

    // === Programs ===

    /// The wires of all programs of a role.
    pub fn wires(&self, role: Role) -> &Wires {
        match role {
            Role::Scheduler => &self.scheduler_wires,
            Role::Worker => &self.worker_wires,
            Role::Api => &self.api_wires,
        }
    }

    /// A program of a role, as it is started here.
    pub fn program(&self, role: Role) -> Program {
        let program = match (role, self.setup.worker_program) {
            (Role::Scheduler, _) => Program::scheduler(),
            (Role::Api, _) => Program::api(),
            (Role::Worker, None) => Program::worker(),
            (Role::Worker, Some(name)) => Program::named(name),
        };
        let program = match &self.previous {
            Some(programs) => program.of_dir(programs),
            None => program,
        };
        let wires = self.wires(role);
        program
            .postgres_through(&wires.postgres)
            .amqp_through(&wires.rabbitmq)
    }

    /// From now on, programs of this version are started; those that run are left alone.
    pub fn upgrade(&mut self) {
        self.previous = None;
    }

    /// Starts a program of a role, and returns when it is ready.
    pub async fn start(&mut self, role: Role) -> anyhow::Result<Id> {
        self.start_as(role, self.program(role)).await
    }

    /// Starts this program, and returns when it is ready.
    pub async fn start_as(&mut self, role: Role, program: Program) -> anyhow::Result<Id> {
        let id = self.cluster.start(program).await?;
        self.actors.push(Actor { id, role });
        if role == Role::Api {
            self.open_doors(id).await?;
        }
        if role == Role::Worker {
            // A worker writes its kinds' policies when it starts. Their backoff is five seconds.
            for kind in ["webhook", "sms"] {
                self.cluster.set_backoff(kind, "500 milliseconds").await?;
            }
        }
        Ok(id)
    }

    /// Tells clients of an api.
    async fn open_doors(&mut self, id: Id) -> anyhow::Result<()> {
        let token = match self.token.take() {
            Some(token) => token,
            None => {
                // Over HTTP a tenant has to be there before its first job.
                let create = "select postroad.tenant_id('tenant-' || n)
                    from generate_series(0, $1::int - 1) n";
                let count = i32::try_from(self.setup.load.tenants)?;
                self.cluster.query(create, &[&count]).await?;
                self.cluster.token(None, &[Permission::JobsWrite]).await?
            }
        };
        let api = Api::at(self.cluster.api_url(id)?, token.clone())?;
        self.token = Some(token);
        self.doors.open(id, api);
        Ok(())
    }

    /// Starts this program, and does not wait for it.
    pub fn spawn_as(&mut self, role: Role, program: Program) -> anyhow::Result<Id> {
        let id = self.cluster.spawn(program)?;
        self.actors.push(Actor { id, role });
        Ok(id)
    }

    /// The programs of a role that run.
    pub fn of(&self, role: Role) -> Vec<Id> {
        let of_role = self.actors.iter().filter(|actor| actor.role == role);
        of_role.map(|actor| actor.id).collect()
    }

    /// Kills a program.
    pub async fn kill(&mut self, id: Id) -> anyhow::Result<()> {
        self.note("kill", true);
        self.cluster.kill(id).await?;
        self.kills += 1;
        self.forget(id);
        Ok(())
    }

    /// Takes a program that has ended off the list.
    pub fn forget(&mut self, id: Id) {
        self.actors.retain(|actor| actor.id != id);
        self.doors.close(id);
    }

    // === Faults ===

    /// Notes something that is over as soon as it has happened.
    pub fn note(&mut self, name: &str, parts_effect_from_record: bool) {
        let t = now();
        self.faults.push(Fault {
            from: t,
            until: t,
            name: name.to_owned(),
            parts_effect_from_record,
        });
    }

    /// Notes that something begins; the answer is for [`Stage::end`].
    pub fn begin(&mut self, name: &str, parts_effect_from_record: bool) -> usize {
        self.note(name, parts_effect_from_record);
        let index = self.faults.len() - 1;
        self.faults[index].until = f64::INFINITY;
        index
    }

    /// Notes that it is over.
    pub fn end(&mut self, fault: usize) {
        self.faults[fault].until = now();
    }

    /// When the last fault was over; none when there was none.
    pub fn healed_at(&self) -> Option<f64> {
        self.faults.iter().map(|fault| fault.until).reduce(f64::max)
    }

    /// When the first fault began.
    pub fn broken_at(&self) -> Option<f64> {
        self.faults.iter().map(|fault| fault.from).reduce(f64::min)
    }

    // === The end ===

    /// Has the clients stop, and says what they were told.
    pub async fn stop_clients(&mut self) -> anyhow::Result<Vec<Submit>> {
        let Some(clients) = self.clients.take() else {
            return Ok(Vec::new());
        };
        clients.stop.cancel();
        clients.done.await.context("the clients panicked")?
    }

    /// Waits until the clients have handed in everything that they wanted to.
    pub async fn await_clients(&mut self) -> anyhow::Result<Vec<Submit>> {
        match self.clients.take() {
            Some(clients) => clients.done.await.context("the clients panicked")?,
            None => Ok(Vec::new()),
        }
    }

    /// Waits until nothing is on its way, and decides about held jobs by the provider's record.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            let left = self.unfinished().await;
            match left {
                Ok(0) if self.resolve_held().await? == 0 => return Ok(()),
                _ if Instant::now() < deadline => {}
                Ok(left) => {
                    let states = self.cluster.states().await?;
                    bail!("{left} jobs are on their way after {DRAIN_MAX:?}: {states:?}")
                }
                Err(error) => return Err(error).context("draining"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.setup.looks_at_backing
                && let Some(sample) = observer::backing(&self.cluster, "default").await
            {
                self.backing.push(sample);
            }
        }
    }

    async fn unfinished(&self) -> anyhow::Result<i64> {
        let sql = "select count(*) from postroad.job where stage <> 3";
        Ok(self.cluster.query(sql, &[]).await?[0].get(0))
    }

    /// Decides about the jobs that are held now: those that the provider has seen did take effect.
    /// Nothing runs any more at this time, so nobody can prove it wrong.
    async fn resolve_held(&mut self) -> anyhow::Result<usize> {
        let filter = JobFilter {
            state: Some("held".to_owned()),
            limit: HELD_AT_ONCE,
            ..JobFilter::default()
        };
        let held: Vec<JobId> = self
            .cluster
            .store
            .jobs(&filter)
            .await?
            .iter()
            .map(|job| job.id)
            .collect();
        if held.is_empty() {
            return Ok(0);
        }
        let seen: HashSet<String> = self
            .cluster
            .provider
            .seen(held.iter().map(ToString::to_string).collect())
            .into_iter()
            .collect();
        let (done, again): (Vec<_>, Vec<_>) =
            held.iter().partition(|id| seen.contains(&id.to_string()));
        for (ids, to) in [(done, Resolution::Completed), (again, Resolution::Retry)] {
            let t = now();
            for id in self.cluster.store.resolve(&ids, to).await? {
                self.decisions.push(Decision {
                    t,
                    id: *id.as_uuid(),
                    retry: to == Resolution::Retry,
                });
            }
        }
        Ok(held.len())
    }

    /// Stops every program when nothing is left for it in the broker.
    ///
    /// What a program has in hand as it stops goes back to its queue, for somebody else: so it may
    /// take another one to drop what the gate refuses.
    async fn empty_queues(&mut self) -> anyhow::Result<()> {
        for _ in 0..GIVE_BACKS_MAX {
            eventually("the queues are empty", async || {
                ensure!(left_in_queues(&self.cluster).await? == 0);
                Ok(())
            })
            .await?;
            for (name, status) in self.cluster.stop_programs().await? {
                ensure!(
                    status.success(),
                    "{name} ended with {status} when asked to stop"
                );
            }
            if left_in_queues(&self.cluster).await? == 0 {
                return Ok(());
            }
            for role in Role::BOTH {
                self.start(role).await?;
            }
        }
        Ok(())
    }

    /// Waits until nothing is on its way, or until this much time has passed.
    pub async fn drain_within(&mut self, most: Duration) -> anyhow::Result<()> {
        match tokio::time::timeout(most, self.drain()).await {
            Ok(drained) => drained,
            Err(_) => Ok(()),
        }
    }

    /// Stops every program, takes the observers' history, and takes everything down.
    pub async fn close(mut self, submits: Vec<Submit>) -> anyhow::Result<History> {
        self.empty_queues().await?;
        self.take(submits).await
    }

    /// Takes the observers' history as it is, and everything down.
    pub async fn take(mut self, mut submits: Vec<Submit>) -> anyhow::Result<History> {
        self.cluster.stop_programs().await?;
        let records = self.cluster.provider.records();
        submits.append(&mut self.handed_in);
        schedules::name_jobs(&mut submits, &schedules::births(&self.cluster).await?);
        let history = History {
            submits,
            calls: records.iter().map(observer::call).collect(),
            faults: std::mem::take(&mut self.faults),
            decisions: std::mem::take(&mut self.decisions),
            moves: observer::moves(&self.cluster).await?,
            rows: observer::rows(&self.cluster).await?,
            errors: observer::errors(&self.cluster).await?,
            queues: observer::queues(&self.cluster).await?,
            backing: std::mem::take(&mut self.backing),
        };
        self.cluster.take_down().await?;
        Ok(history)
    }
}

/// Messages in queues that must be empty at the end.
async fn left_in_queues(cluster: &Cluster) -> anyhow::Result<u64> {
    let depths = observer::queues(cluster).await?;
    Ok(depths
        .iter()
        .filter(|queue| !queue.may_hold)
        .map(|queue| queue.ready)
        .sum())
}
