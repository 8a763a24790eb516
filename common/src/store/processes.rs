//! Schedulers and workers: they register, they beat, they are watched, they stop.

use std::time::Duration;

use super::{Error, Store, from_millis, millis};
use crate::job::{KindName, KindPolicy};

/// One start of one scheduler or worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub(super) i64);

impl From<i64> for ProcessId {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dispatches, retries, rescues, prunes.
    Scheduler,
    /// Runs jobs.
    Worker,
}

impl Role {
    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

/// A process that introduces itself.
#[derive(Clone, Debug)]
pub struct NewProcess {
    /// What it does.
    pub role: Role,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its version.
    pub version: &'static str,
    /// The queues it consumes.
    pub queues: Vec<String>,
    /// How long it may be silent before it is called lost.
    pub lease: Duration,
    /// How many jobs of a queue it runs at once, unless the queue says otherwise. None: it runs none,
    /// or is a worker that cannot read messages with several.
    pub prefetch: Option<u16>,
}

/// A process as its watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedProcess {
    /// Which.
    pub id: ProcessId,
    /// Its last heartbeat. Only compared for equality, never with a clock.
    pub seen_at: jiff::Timestamp,
    /// How long it may be silent.
    pub lease: Duration,
}

const REGISTER: &str = "
    insert into postroad.process (role, host, pid, version, queues, lease, prefetch, reads_bundles)
    values ($1, $2, $3, $4, $5, $6 * interval '1 ms', $7, $1 <> 'worker' or $7::int is not null)
    returning id";

const BEAT: &str = "
    update postroad.process set seen_at = now()
    where id = $1 and lost_at is null and stopped_at is null
    returning id";

const STOP: &str = "
    update postroad.process set stopped_at = now() where id = $1 and stopped_at is null
    returning id";

const WATCH: &str = "
    select id, seen_at, (extract(epoch from lease) * 1000)::bigint
    from postroad.process where stopped_at is null and lost_at is null";

/// A heartbeat since the watcher looked last makes the verdict void.
const CALL_LOST: &str = "
    update postroad.process set lost_at = now()
    where id = $1 and seen_at = $2 and lost_at is null and stopped_at is null
    returning id";

/// What an operator has set stays, whatever the worker would have it; that the worker runs the kind
/// is noted all the same.
const REGISTER_KINDS: &str = "
    insert into postroad.kind as k
        (name, on_lost, max_attempts, backoff_base, backoff_cap, timeout, registered_at)
    select u.name, u.on_lost, u.max_attempts, u.base_ms * interval '1 ms',
           u.cap_ms * interval '1 ms', u.timeout_ms * interval '1 ms', now()
    from unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[])
        as u(name, on_lost, max_attempts, base_ms, cap_ms, timeout_ms)
    order by u.name
    on conflict (name) do update
        set on_lost = case when k.overridden_at is null then excluded.on_lost else k.on_lost end,
            max_attempts = case when k.overridden_at is null then excluded.max_attempts else k.max_attempts end,
            backoff_base = case when k.overridden_at is null then excluded.backoff_base else k.backoff_base end,
            backoff_cap = case when k.overridden_at is null then excluded.backoff_cap else k.backoff_cap end,
            timeout = excluded.timeout,
            registered_at = coalesce(k.registered_at, excluded.registered_at)
        where k.registered_at is null or k.timeout is distinct from excluded.timeout
           or (k.overridden_at is null
               and (k.on_lost, k.max_attempts, k.backoff_base, k.backoff_cap)
                   is distinct from
                   (excluded.on_lost, excluded.max_attempts, excluded.backoff_base, excluded.backoff_cap))";

/// More than any attempt takes, and less than Postgres has of time.
const TIMEOUT_SHOWN_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

const REGISTER_QUEUES: &str = "
    insert into postroad.queue (name)
    select n from unnest($1::text[]) n
    where not exists (select from postroad.queue q where q.name = n)
    order by n
    on conflict (name) do nothing";

impl Store {
    /// Introduces a process.
    pub async fn register(&self, process: &NewProcess) -> Result<ProcessId, Error> {
        let pid = i32::try_from(process.pid).unwrap_or(i32::MAX);
        let lease = millis(process.lease) as f64;
        let role = process.role.as_str();
        let prefetch = process.prefetch.map(i32::from);
        let rows = self
            .query(
                "registering the process",
                REGISTER,
                &[
                    &role,
                    &process.host,
                    &pid,
                    &process.version,
                    &process.queues,
                    &lease,
                    &prefetch,
                ],
            )
            .await?;
        Ok(ProcessId(rows[0].get(0)))
    }

    /// Says that a process is alive. False: it was called lost, and must register anew.
    pub async fn beat(&self, id: ProcessId) -> Result<bool, Error> {
        Ok(!self
            .query("sending the heartbeat", BEAT, &[&id.0])
            .await?
            .is_empty())
    }

    /// Says that a process has written everything it had to write, and ends.
    pub async fn stop(&self, id: ProcessId) -> Result<(), Error> {
        self.query("signing off", STOP, &[&id.0]).await.map(drop)
    }

    /// The processes that have neither stopped nor been called lost.
    pub async fn watched_processes(&self) -> Result<Vec<WatchedProcess>, Error> {
        let rows = self.query("watching processes", WATCH, &[]).await?;
        let watched = |row: &tokio_postgres::Row| WatchedProcess {
            id: ProcessId(row.get(0)),
            seen_at: row.get(1),
            lease: from_millis(row.get(2)),
        };
        Ok(rows.iter().map(watched).collect())
    }

    /// Calls a process lost, unless it has been heard of since `process` was read.
    pub async fn call_lost(&self, process: &WatchedProcess) -> Result<bool, Error> {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&process.id.0, &process.seen_at];
        Ok(!self
            .query("calling a process lost", CALL_LOST, &params)
            .await?
            .is_empty())
    }

    /// Writes the policies of the kinds that a worker runs, except those that an operator has set.
    pub async fn register_kinds(&self, kinds: &[(KindName, KindPolicy)]) -> Result<(), Error> {
        let names: Vec<_> = kinds.iter().map(|(name, _)| name.as_str()).collect();
        let on_lost: Vec<_> = kinds
            .iter()
            .map(|(_, policy)| policy.on_lost.as_str())
            .collect();
        let attempts: Vec<_> = kinds
            .iter()
            .map(|(_, policy)| policy.max_attempts)
            .collect();
        let bases: Vec<_> = kinds
            .iter()
            .map(|(_, policy)| millis(policy.backoff_base))
            .collect();
        let caps: Vec<_> = kinds
            .iter()
            .map(|(_, policy)| millis(policy.backoff_cap))
            .collect();
        // To be shown: what holds is the worker's own.
        let timeouts: Vec<_> = kinds
            .iter()
            .map(|(_, policy)| millis(policy.timeout.min(TIMEOUT_SHOWN_MAX)).max(1))
            .collect();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&names, &on_lost, &attempts, &bases, &caps, &timeouts];
        self.query("registering kinds", REGISTER_KINDS, &params)
            .await
            .map(drop)
    }

    /// Makes sure that the queues exist.
    pub async fn register_queues(&self, names: &[&str]) -> Result<(), Error> {
        self.query("registering queues", REGISTER_QUEUES, &[&names])
            .await
            .map(drop)
    }

    /// The names of all queues.
    pub async fn queue_names(&self) -> Result<Vec<String>, Error> {
        const SQL: &str = "select name from postroad.queue order by name";
        let rows = self.query("reading queues", SQL, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
