//! Where a cluster lives: a database and a virtual host, and what it is started with.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use postroad_common::broker::{self, Broker, topology};
use postroad_common::store::{Settings, Store};
use postroad_provision::{Processes, Servers};
use reqwest::Url;
use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::Client;

use super::super::broker::Vhost;
use super::super::endpoints::{Endpoints, connect, with_path};
use super::super::program::Program;
use super::super::roles;
use super::Cluster;
use super::programs::binary;
use crate::simulator::{self, Simulator};

/// Clusters that run at once: more would only make each other slow.
const CLUSTERS_MAX: usize = 4;
static ROOM: Semaphore = Semaphore::const_new(CLUSTERS_MAX);

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
    owns_broker: bool,
}

impl Default for Builder {
    /// One scheduler and one worker.
    fn default() -> Self {
        let env = [
            ("POSTROAD_LEASE", "2s"),
            ("POSTROAD_WEBHOOK_ALLOW", "127.0.0.0/8"),
            ("POSTROAD_LOG", "info,postroad=debug"),
            ("NO_COLOR", "1"),
        ];
        Self {
            place: Place::Shared,
            programs_dir: None,
            schema_of: None,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            schedulers: 1,
            workers: 1,
            owns_broker: false,
        }
    }
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

    /// Makes a database of its own on these servers, and uses their virtual host, as its owner.
    #[must_use]
    pub fn database_beside(mut self, endpoints: Endpoints) -> Self {
        self.place = Place::DatabaseBeside(endpoints);
        self.as_broker_owner()
    }

    /// Programs log in to the broker as its administrator: a broker that loses everything loses all
    /// other users, too.
    #[must_use]
    pub fn as_broker_owner(mut self) -> Self {
        self.owns_broker = true;
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
        site.has_broker_users = !self.owns_broker;
        match &self.schema_of {
            Some(programs) => {
                let postroad = binary(Some(programs), "postroad")?;
                site.migrate_by(&postroad).await?;
            }
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

/// A database and a virtual host, and users of both for the programs.
pub(super) struct Site {
    /// Where databases are created and dropped; none where these are not the test's own.
    admin_url: Option<String>,
    pub(super) database_url: String,
    pub(super) vhost: Vhost,
    owns_vhost: bool,
    /// Whether programs are users of their own in the broker, too.
    has_broker_users: bool,
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
            has_broker_users: true,
        })
    }

    async fn given(endpoints: &Endpoints) -> anyhow::Result<Self> {
        Ok(Self {
            admin_url: None,
            database_url: endpoints.database_url.clone(),
            vhost: Vhost::of(&endpoints.amqp_url, &endpoints.management_url)?,
            owns_vhost: false,
            has_broker_users: true,
        })
    }

    async fn migrate(&self) -> anyhow::Result<()> {
        let mut client = connect(&self.database_url).await?;
        postroad_migrations::migrate(&mut client).await?;
        postroad_migrations::grant_roles(&mut client).await?;
        // A worker may not declare what it consumes.
        let broker = broker::Settings::of_url(self.vhost.amqp_url()).map_err(anyhow::Error::msg)?;
        let broker = Broker::new(broker, "postroad-tests".to_owned());
        let connection = broker.connect("migrate").await?;
        topology::declare(&connection, &["default".to_owned()]).await?;
        // That it was about to close its channels when it was closed is none of our business.
        drop(connection.close().await);
        self.create_users(&client).await
    }

    async fn create_users(&self, client: &Client) -> anyhow::Result<()> {
        roles::create_users(client).await?;
        match self.has_broker_users {
            true => roles::create_broker_users(&self.vhost).await,
            false => Ok(()),
        }
    }

    /// Has this `postroad` make the schema and the roles.
    async fn migrate_by(&self, postroad: &Path) -> anyhow::Result<()> {
        for args in [&["migrate"][..], &["migrate", "--roles"]] {
            let migrated = tokio::process::Command::new(postroad)
                .args(args)
                .env("DATABASE_URL", &self.database_url)
                .env("AMQP_URL", self.vhost.amqp_url())
                .output();
            let migrated = migrated.await.context("running postroad migrate")?;
            ensure!(
                migrated.status.success(),
                "{args:?} ended with {}: {}",
                migrated.status,
                String::from_utf8_lossy(&migrated.stderr)
            );
        }
        self.create_users(&connect(&self.database_url).await?).await
    }

    /// How a program of this name connects: with the rights that it needs and no others.
    pub(super) fn database_url_of(&self, program: &str) -> anyhow::Result<String> {
        roles::url_of(&self.database_url, program)
    }

    /// The same for the broker; none if the program does not know it.
    pub(super) fn amqp_url_of(&self, program: &str) -> anyhow::Result<Option<String>> {
        let owners = self.vhost.amqp_url();
        match self.has_broker_users {
            true => roles::amqp_url_of(owners, program),
            false => Ok(Some(owners.to_owned())),
        }
    }

    pub(super) async fn delete(&self) -> anyhow::Result<()> {
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
