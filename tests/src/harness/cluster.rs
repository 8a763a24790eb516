//! Real schedulers and workers on a database and a virtual host of their own, with the simulator
//! as their provider.
//!
//! A test starts programs, breaks something, and waits for a condition; [`Cluster::finish`] then
//! checks what must hold after every test: no job between two states, no message between two
//! hands, no effect twice, and every program that was not killed ends when it is asked to.
//!
//! What a failed test leaves for its reader: the end of each program's log on standard error, and
//! the whole logs in a directory that it names.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use postroad_common::broker::topology::{DEAD_QUEUE, work_queue};
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{JobFilter, JobRow, Settings, Store};
use postroad_provision::{Child, ChildSpec, Processes, Servers, Signal};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::broker::{Stranger, Vhost};
use super::endpoints::{Endpoints, addr, at, connect, with_path};
pub use super::eventually::eventually;
pub use super::program::Program;
use super::roles;
use crate::faults::footprint::Footprint;
use crate::simulator::{self, Simulator};

/// Clusters that run at once: more would only make each other slow.
const CLUSTERS_MAX: usize = 4;
static ROOM: Semaphore = Semaphore::const_new(CLUSTERS_MAX);

/// How long a program may take to end when it was asked to.
const STOP_MAX: Duration = Duration::from_secs(40);

/// How long a command may take.
const CLI_MAX: Duration = Duration::from_secs(60);

/// How often programs may give messages back to a queue until it has to be empty.
const GIVE_BACKS_MAX: usize = 3;

/// Lines of each log that are shown when a test fails.
const LINES_SHOWN: usize = 40;

/// A program of a cluster, whether it still runs or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(usize);

struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// Where a cluster has its database and its virtual host.
#[derive(Clone, Debug)]
enum Place {
    /// New ones on the servers that all tests share.
    Shared,
    /// New ones on these servers.
    Beside(Endpoints),
    /// The ones that these servers have anyway.
    Given(Endpoints),
    /// A new database on these servers, and the virtual host that they have anyway: it is there
    /// again when the broker has lost everything.
    DatabaseBeside(Endpoints),
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Builder {
    place: Place,
    programs_dir: Option<PathBuf>,
    schema_of: Option<PathBuf>,
    env: BTreeMap<String, String>,
    schedulers: usize,
    workers: usize,
}

impl Builder {
    /// Uses these servers, and their own database and virtual host, instead of the shared ones.
    #[must_use]
    pub fn on(mut self, servers: &Servers) -> Self {
        self.place = Place::Given(Endpoints::of(servers));
        self
    }

    /// Makes a database and a virtual host of its own on these servers.
    #[must_use]
    pub fn beside(mut self, endpoints: Endpoints) -> Self {
        self.place = Place::Beside(endpoints);
        self
    }

    /// Makes a database of its own on these servers, and uses their virtual host.
    #[must_use]
    pub fn database_beside(mut self, endpoints: Endpoints) -> Self {
        self.place = Place::DatabaseBeside(endpoints);
        self
    }

    /// Starts the programs of this directory, and not those that were built with the test.
    #[must_use]
    pub fn programs_of(mut self, dir: impl Into<PathBuf>) -> Self {
        self.programs_dir = Some(dir.into());
        self
    }

    /// Has the `postroad` of this directory make the schema, and not this source tree.
    #[must_use]
    pub fn schema_of(mut self, programs: impl Into<PathBuf>) -> Self {
        self.schema_of = Some(programs.into());
        self
    }

    /// How many schedulers to start with; one unless said.
    #[must_use]
    pub fn schedulers(mut self, count: usize) -> Self {
        self.schedulers = count;
        self
    }

    /// How many workers to start with; one unless said.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Which queues workers consume; `default` unless said.
    #[must_use]
    pub fn queues(self, names: &str) -> Self {
        self.env("POSTROAD_QUEUES", names)
    }

    /// How many jobs of a queue a worker runs at once.
    #[must_use]
    pub fn prefetch(self, count: u16) -> Self {
        self.env("POSTROAD_PREFETCH", count)
    }

    /// After which silence a program is called lost; two seconds unless said.
    #[must_use]
    pub fn lease(self, lease: &str) -> Self {
        self.env("POSTROAD_LEASE", lease)
    }

    /// Sets a variable of every program.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Starts the cluster, and returns when every program is ready.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        let room = ROOM.acquire().await.expect("nobody closes the semaphore");
        let mut site = match &self.place {
            Place::Shared => Site::create(&Endpoints::shared()?, true).await?,
            Place::Beside(endpoints) => Site::create(endpoints, true).await?,
            Place::DatabaseBeside(endpoints) => Site::create(endpoints, false).await?,
            Place::Given(endpoints) => Site::given(endpoints).await?,
        };
        match &self.schema_of {
            Some(programs) => migrate_by(&binary(Some(programs), "postroad")?, &site).await?,
            None => site.migrate().await?,
        }
        let provider = Simulator::start(simulator::Config::default()).await?;
        let dir = tempfile::Builder::new()
            .prefix("postroad-cluster-")
            .tempdir();
        let dir = dir.context("making a directory for logs")?;
        let settings = Settings::of_url(&site.database_url, "postroad-tests", 4)?;
        let mut env = self.env;
        env.insert(
            "POSTROAD_SMS_GATEWAY_URL".to_owned(),
            format!("{}/sms", provider.url()),
        );
        let mut cluster = Cluster {
            processes: Processes::open(dir.path()).await?,
            store: Store::new(settings)?,
            sql: Mutex::new(None),
            programs: Vec::new(),
            accepted: Mutex::new(HashSet::new()),
            duplicates_expected: 0,
            parked_expected: 0,
            is_finished: false,
            programs_dir: self.programs_dir,
            dir,
            site,
            provider,
            env,
            _room: room,
        };
        let schedulers = vec![Program::scheduler(); self.schedulers];
        let workers = vec![Program::worker(); self.workers];
        let mut ids = Vec::new();
        for program in schedulers.into_iter().chain(workers) {
            ids.push(cluster.spawn(program)?);
        }
        for id in ids {
            cluster.wait_until_ready(id).await?;
        }
        Ok(cluster)
    }
}

/// A database and a virtual host.
struct Site {
    /// Where databases are created and dropped; none where these are not the test's own.
    admin_url: Option<String>,
    database_url: String,
    vhost: Vhost,
    owns_vhost: bool,
    /// Whether programs have login users of their own; those of an older schema have not.
    has_roles: bool,
}

impl Site {
    async fn create(endpoints: &Endpoints, owns_vhost: bool) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("postroad_cluster_{}_{count}", std::process::id());
        let admin = connect(&endpoints.database_url).await?;
        let create = format!("create database {name}");
        admin
            .batch_execute(&create)
            .await
            .context("creating a database")?;
        let database_url = with_path(&endpoints.database_url, &name)?;
        Ok(Self {
            admin_url: Some(endpoints.database_url.clone()),
            database_url,
            vhost: match owns_vhost {
                true => {
                    Vhost::create(&endpoints.amqp_url, &endpoints.management_url, &name).await?
                }
                false => Vhost::of(&endpoints.amqp_url, &endpoints.management_url)?,
            },
            owns_vhost,
            has_roles: false,
        })
    }

    async fn given(endpoints: &Endpoints) -> anyhow::Result<Self> {
        Ok(Self {
            admin_url: None,
            database_url: endpoints.database_url.clone(),
            vhost: Vhost::of(&endpoints.amqp_url, &endpoints.management_url)?,
            owns_vhost: false,
            has_roles: false,
        })
    }

    async fn migrate(&mut self) -> anyhow::Result<()> {
        let mut client = connect(&self.database_url).await?;
        postroad_migrations::migrate(&mut client).await?;
        roles::create(&mut client).await?;
        self.has_roles = true;
        Ok(())
    }

    /// How a program of this name connects: with the rights that it needs and no others.
    fn database_url_of(&self, program: &str) -> anyhow::Result<String> {
        match self.has_roles {
            true => roles::url_of(&self.database_url, program),
            false => Ok(self.database_url.clone()),
        }
    }

    async fn delete(&self) -> anyhow::Result<()> {
        let Some(admin_url) = &self.admin_url else {
            return Ok(());
        };
        match self.owns_vhost {
            true => self.vhost.delete().await?,
            false => self.vhost.delete_all_queues().await?,
        }
        let url: Url = self.database_url.parse().context("parsing a URL")?;
        let name = url.path().trim_start_matches('/');
        let drop = format!("drop database {name} with (force)");
        let admin = connect(admin_url).await?;
        admin
            .batch_execute(&drop)
            .await
            .context("dropping a database")
    }
}

/// Has this `postroad` make the schema.
async fn migrate_by(postroad: &Path, site: &Site) -> anyhow::Result<()> {
    let migrated = tokio::process::Command::new(postroad)
        .arg("migrate")
        .env("DATABASE_URL", &site.database_url)
        .env("AMQP_URL", site.vhost.amqp_url())
        .output();
    let migrated = migrated.await.context("running postroad migrate")?;
    ensure!(
        migrated.status.success(),
        "migrating ended with {}: {}",
        migrated.status,
        String::from_utf8_lossy(&migrated.stderr)
    );
    Ok(())
}

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
        let env = [
            ("POSTROAD_LEASE", "2s"),
            ("POSTROAD_WEBHOOK_ALLOW", "127.0.0.0/8"),
            ("POSTROAD_LOG", "info,postroad=debug"),
            ("NO_COLOR", "1"),
        ];
        Builder {
            place: Place::Shared,
            programs_dir: None,
            schema_of: None,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            schedulers: 1,
            workers: 1,
        }
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

    /// For more programs with the same end.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The virtual host.
    pub fn vhost(&self) -> &Vhost {
        &self.site.vhost
    }

    // === Programs ===

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
            self.site.vhost.amqp_url().to_owned(),
        );
        if let Some(proxy) = postgres {
            database_url = at(&database_url, proxy)?;
        }
        if let Some(proxy) = amqp {
            amqp_url = at(&amqp_url, proxy)?;
        }
        let mut all = self.env.clone();
        all.insert("DATABASE_URL".to_owned(), database_url);
        all.insert("AMQP_URL".to_owned(), amqp_url);
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

    // === Jobs ===

    /// Enqueues jobs, and says their ids.
    pub async fn enqueue(&self, jobs: &[NewJob]) -> anyhow::Result<Vec<JobId>> {
        self.store.enqueue(jobs, false).await?;
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        self.accepted.lock().await.extend(&ids);
        Ok(ids)
    }

    /// A job that posts to the provider.
    pub fn webhook(&self) -> NewJob {
        job(
            "webhook",
            &json!({"url": format!("{}/webhook", self.provider.url()), "body": "hi"}),
        )
    }

    /// A job, wherever it is.
    pub async fn job(&self, id: JobId) -> anyhow::Result<JobRow> {
        let filter = JobFilter {
            ids: Some(vec![*id.as_uuid()]),
            limit: 2,
            ..JobFilter::default()
        };
        let mut rows = self.store.jobs(&filter).await?;
        ensure!(rows.len() == 1, "job {id} exists {} times", rows.len());
        Ok(rows.remove(0))
    }

    /// How many jobs are in which state.
    pub async fn states(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let sql = "select state::text, count(*) from postroad.jobs group by 1";
        let rows = self.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Waits until so many jobs are in this state.
    pub async fn wait_for(&self, state: &str, count: i64) -> anyhow::Result<()> {
        eventually(format_args!("{count} jobs are {state}"), async || {
            let states = self.states().await?;
            let found = states.get(state).copied().unwrap_or(0);
            ensure!(found == count, "jobs are {states:?}");
            Ok(())
        })
        .await
    }

    /// Waits until a job is in this state, and returns it.
    pub async fn wait_for_job(&self, id: JobId, state: &str) -> anyhow::Result<JobRow> {
        eventually(format_args!("job {id} is {state}"), async || {
            let job = self.job(id).await?;
            ensure!(job.state == state, "it is {job:?}");
            Ok(job)
        })
        .await
    }

    /// Runs a statement in the test's own session.
    pub async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Vec<Row>> {
        let mut session = self.sql.lock().await;
        let client = match session.take().filter(|client| !client.is_closed()) {
            Some(client) => session.insert(client),
            None => session.insert(connect(&self.site.database_url).await?),
        };
        let rows = client.query(sql, params).await;
        rows.with_context(|| format!("running {sql}"))
    }

    /// A session of the test's own, for transactions.
    pub async fn session(&self) -> anyhow::Result<Client> {
        connect(&self.site.database_url).await
    }

    /// How long messages of the queues that there are may wait in RabbitMQ.
    pub async fn set_pipe_ttl(&self, ttl: &str) -> anyhow::Result<()> {
        let sql = "update postroad.queue set pipe_ttl = $1::text::interval";
        self.query(sql, &[&ttl]).await.map(drop)
    }

    /// How long a kind rests before its second attempt; workers set it when they start.
    pub async fn set_backoff(&self, kind: &str, base: &str) -> anyhow::Result<()> {
        let sql = "update postroad.kind set backoff_base = $2::text::interval where name = $1";
        self.query(sql, &[&kind, &base]).await.map(drop)
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

fn read(log: &Path) -> String {
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
fn binary(dir: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
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

/// A job of a kind, with these args.
pub fn job(kind: &str, args: &Value) -> NewJob {
    let kind = kind.parse().expect("a test's kinds have names");
    let args = serde_json::value::to_raw_value(args).expect("a value is JSON");
    NewJob::new(kind, args)
}

/// A text message.
pub fn sms() -> NewJob {
    job("sms", &json!({"to": "+33639980606", "text": "hi"}))
}

/// So many text messages.
pub fn many_sms(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| sms()).collect()
}
