//! What breaks a Postgres from within: sessions that end, locks that nobody gives back, and no
//! connection left for anybody.
//!
//! Whoever calls has to be a superuser of the server.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use postroad_provision::Postgres;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::harness::eventually::eventually;

/// More than any server of a test has room for.
const CONNECTIONS_MAX: usize = 1000;

/// How long a session or a lock may take to be given up by whoever has it.
const GIVE_UP_MAX: Duration = Duration::from_secs(30);

/// A connection that is known to be closed when [`close`](Self::close) returns.
struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    async fn open(database_url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
        // An error ends the client's calls too, which say it better.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self { client, connection })
    }

    async fn close(self) -> anyhow::Result<()> {
        drop(self.client);
        let closed = tokio::time::timeout(GIVE_UP_MAX, self.connection).await;
        closed.context("a connection was not closed in time")??;
        Ok(())
    }
}

async fn open(database_url: &str) -> anyhow::Result<Session> {
    let session = Session::open(database_url).await;
    session.context("connecting to Postgres")
}

/// The pids of the backends that serve programs whose `application_name` contains `text`.
pub async fn backends(database_url: &str, text: &str) -> anyhow::Result<Vec<i32>> {
    let session = open(database_url).await?;
    let sql = "select pid from pg_stat_activity
               where backend_type = 'client backend' and strpos(application_name, $1) > 0
                 and pid <> pg_backend_pid()";
    let rows = session.client.query(sql, &[&text]).await;
    let pids = rows.context("listing backends")?;
    Ok(pids.iter().map(|row| row.get(0)).collect())
}

/// Ends the sessions of programs whose `application_name` contains `text`, and says how many.
pub async fn terminate_backends(database_url: &str, text: &str) -> anyhow::Result<usize> {
    let pids = backends(database_url, text).await?;
    let session = open(database_url).await?;
    let limit = i64::try_from(GIVE_UP_MAX.as_millis())?;
    let sql = "select pg_terminate_backend($1, $2)";
    for pid in &pids {
        let row = session.client.query_one(sql, &[pid, &limit]).await;
        let is_gone: bool = row.context("ending a backend")?.get(0);
        // Also false for one that went by itself meanwhile, which is as good.
        ensure!(
            is_gone || !backends(database_url, text).await?.contains(pid),
            "backend {pid} runs on after {GIVE_UP_MAX:?}"
        );
    }
    Ok(pids.len())
}

/// Kills a backend with SIGKILL, so that the server ends all sessions and recovers; returns when
/// it takes connections again.
pub async fn crash_backend(postgres: &Postgres) -> anyhow::Result<()> {
    let victim = open(postgres.url()).await?;
    let row = victim
        .client
        .query_one("select pg_backend_pid()", &[])
        .await;
    let pid: i32 = row.context("asking for a backend's pid")?.get(0);
    postgres.kill_backend(u32::try_from(pid)?).await?;
    eventually("Postgres has recovered", async || {
        open(postgres.url()).await?.close().await
    })
    .await
}

/// A table that nobody else can even read, until this is released or dropped.
pub struct TableLock {
    session: Session,
}

impl TableLock {
    /// Waits for the table, and keeps it.
    pub async fn hold(database_url: &str, table: &str) -> anyhow::Result<Self> {
        let session = open(database_url).await?;
        let lock = format!(
            "set lock_timeout = {}; begin; lock table {table} in access exclusive mode",
            GIVE_UP_MAX.as_millis()
        );
        let locked = session.client.batch_execute(&lock).await;
        locked.with_context(|| format!("locking {table}"))?;
        Ok(Self { session })
    }

    /// Gives the table back.
    pub async fn release(self) -> anyhow::Result<()> {
        let rollback = self.session.client.batch_execute("rollback").await;
        rollback.context("giving a lock back")?;
        self.session.close().await
    }
}

/// Connections that leave nearly none for others, until they are released or dropped.
pub struct Exhausted {
    sessions: Vec<Session>,
}

impl Exhausted {
    /// Takes what connections the server has left, but for `spare`. Who is connected stays so.
    pub async fn all_but(database_url: &str, spare: usize) -> anyhow::Result<Self> {
        let mut sessions = Vec::new();
        loop {
            ensure!(
                sessions.len() < CONNECTIONS_MAX,
                "Postgres has more than {CONNECTIONS_MAX} connections to give"
            );
            match Session::open(database_url).await {
                Ok(session) => sessions.push(session),
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => break,
                Err(error) => return Err(error).context("taking a connection"),
            }
        }
        ensure!(
            sessions.len() > spare,
            "Postgres has only {} connections left, and {spare} are to be spared",
            sessions.len()
        );
        let spared = sessions.split_off(sessions.len() - spare);
        close_all(spared, &sessions[0]).await?;
        Ok(Self { sessions })
    }

    /// How many it holds.
    pub fn held(&self) -> usize {
        self.sessions.len()
    }

    /// Gives them back; returns when the server has them.
    pub async fn release(mut self) -> anyhow::Result<()> {
        // Those of a server that was restarted meanwhile.
        self.sessions.retain(|session| !session.client.is_closed());
        let Some(witness) = self.sessions.pop() else {
            return Ok(());
        };
        close_all(self.sessions, &witness).await?;
        witness.close().await
    }
}

/// Closes connections, and waits until another sees that their backends are gone.
async fn close_all(sessions: Vec<Session>, witness: &Session) -> anyhow::Result<()> {
    let mut pids = Vec::new();
    for session in &sessions {
        let row = session
            .client
            .query_one("select pg_backend_pid()", &[])
            .await;
        pids.push(row.context("asking for a backend's pid")?.get::<_, i32>(0));
    }
    for session in sessions {
        session.close().await?;
    }
    let sql = "select count(*) from pg_stat_activity where pid = any($1)";
    eventually("the backends of closed connections are gone", async || {
        let row = witness.client.query_one(sql, &[&pids]).await?;
        match row.get::<_, i64>(0) {
            0 => Ok(()),
            left => bail!("{left} of them are there"),
        }
    })
    .await
}
