//! A database for each test, on the server that `DATABASE_URL` names.
//!
//! Migrating takes a second and cloning a tenth of one, so there is one migrated template per
//! schema and server, and each test clones it. Any number of test programs may do this at once:
//! they queue at an advisory lock, and who comes second finds the template.
//!
//! A test's database goes with its [`TestDatabase`]. What a killed test left over is swept by the
//! next program that makes a template.

use std::time::Duration;

use postroad_common::config::Env;
use postroad_common::store::{Settings, Store};
use reqwest::Url;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Held while looking for the template and making it.
const TEMPLATE_LOCK: i64 = 0x7072_5f74_6d70_6c74;

/// Enough for the tests that act eight times at once.
const CONNECTIONS_MAX: usize = 8;

/// Databases of tests that cannot be running any more. A database has no creation time, but the
/// file with its version is written once.
const LEFTOVERS: &str = "
    select datname from pg_database d
    where (datname like 'postroad\\_test\\_%' or datname like 'postroad\\_template\\_%')
      and datname <> $1
      and (pg_stat_file('base/' || d.oid || '/PG_VERSION', true)).modification
          < now() - $2 * interval '1 s'
      and not exists (select from pg_stat_activity a where a.datid = d.oid)";

/// No test takes that long.
const LEFTOVER_AGE: Duration = Duration::from_secs(60 * 60);

/// A database of one test, with Postroad's schema; dropped with this.
pub struct TestDatabase {
    name: String,
    url: String,
}

impl TestDatabase {
    /// A database with the schema that this source tree has.
    ///
    /// # Panics
    ///
    /// Without a server to make it on, with the command to run.
    pub async fn create() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(template).await;
        Self::of_template(template).await
    }

    /// A database with nothing in it.
    ///
    /// # Panics
    ///
    /// Without a server to make it on, with the command to run.
    pub async fn create_empty() -> Self {
        Self::of_template("template0").await
    }

    async fn of_template(template: &str) -> Self {
        let name = format!("postroad_test_{}", Uuid::now_v7().simple());
        let create = format!("create database {name} template {template}");
        execute(&connect(&server_url()).await, &create).await;
        let url = url_of(&name);
        Self { name, url }
    }

    /// Where it is, for programs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A store of its own pool of connections.
    pub fn store(&self) -> Store {
        let settings =
            Settings::of_url(&self.url, "test", CONNECTIONS_MAX).expect("the URL was used before");
        Store::new(settings).expect("no TLS is asked for")
    }

    /// A connection of its own, for what no store says.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("drop database if exists {} with (force)", self.name);
        // The runtime of the test cannot wait here, and may be going down. The thread is waited
        // for: the end of the program would cut it off. What it cannot do, the next sweep does.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime without threads takes only memory");
            runtime.block_on(async { execute(&connect(&server_url()).await, &drop).await });
        });
        if dropped.join().is_err() {
            eprintln!("the database {} is left over", self.name);
        }
    }
}

/// Makes the template if it is not there, and says its name.
async fn template() -> String {
    let server = connect(&server_url()).await;
    let lock = format!("select pg_advisory_lock({TEMPLATE_LOCK})");
    execute(&server, &lock).await;
    // The day is in the name because the schema makes the partitions of the days to come.
    let sql = "select to_char(now() at time zone 'UTC', 'YYYYMMDD')";
    let row = server.query_one(sql, &[]).await.expect("reading the day");
    let (fingerprint, day) = (postroad_migrations::fingerprint(), row.get::<_, String>(0));
    let name = format!("postroad_template_{fingerprint:016x}_{day}");

    let sql = "select from pg_database where datname = $1";
    let found = server.query_opt(sql, &[&name]).await;
    if found.expect("looking for the template").is_none() {
        sweep(&server, &name).await;
        make_template(&server, &name).await;
    }
    // Closing the connection gives the lock back.
    name
}

/// Under another name until it is complete, so that what a killed test began is never cloned.
async fn make_template(server: &Client, name: &str) {
    let unfinished = format!("{name}_unfinished");
    let drop = format!("drop database if exists {unfinished} with (force)");
    execute(server, &drop).await;
    execute(server, &format!("create database {unfinished}")).await;
    let (mut client, connection) = open(&url_of(&unfinished)).await;
    let migrated = postroad_migrations::migrate(&mut client).await;
    migrated.expect("migrating the template");
    // A database cannot be renamed, nor cloned, while somebody is connected to it.
    drop_client(client, connection).await;
    execute(
        server,
        &format!("alter database {unfinished} rename to {name}"),
    )
    .await;
}

async fn drop_client(client: Client, connection: JoinHandle<()>) {
    drop(client);
    connection.await.expect("closing a connection cannot panic");
}

async fn sweep(server: &Client, keep: &str) {
    let age = LEFTOVER_AGE.as_secs_f64();
    let leftovers = server.query(LEFTOVERS, &[&keep, &age]).await;
    for row in leftovers.expect("looking for leftovers") {
        let drop = format!("drop database if exists {}", row.get::<_, String>(0));
        execute(server, &drop).await;
    }
}

async fn connect(url: &str) -> Client {
    open(url).await.0
}

async fn open(url: &str) -> (Client, JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("connecting to the Postgres of DATABASE_URL: {error:?}"));
    // An error ends the client's calls too, which say it better.
    let connection = tokio::spawn(async { drop(connection.await) });
    (client, connection)
}

async fn execute(client: &Client, sql: &str) {
    client
        .batch_execute(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn server_url() -> String {
    let env = Env::of_process();
    let url = env.text("DATABASE_URL");
    url.expect("DATABASE_URL is not set; `make test` starts the servers and runs the tests")
        .to_owned()
}

fn url_of(database: &str) -> String {
    let mut url = Url::parse(&server_url()).expect("DATABASE_URL is a URL");
    url.set_path(database);
    url.into()
}
