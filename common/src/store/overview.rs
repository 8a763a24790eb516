//! What only people look at: processes, what they did, and the whole at a glance.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;

use super::{Error, Store};

/// A scheduler, a worker or an API process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRow {
    /// What the others call it.
    pub id: i64,
    /// `scheduler`, `worker` or `api`.
    pub role: String,
    /// The machine it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// Its version.
    pub version: String,
    /// The queues that it consumes.
    pub queues: Vec<String>,
    /// `running`; `silent`, when it has not been heard of for a lease; `lost`, when a watcher has
    /// called it so; `stopped`.
    pub state: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, or was called lost.
    pub ended_at: Option<Timestamp>,
    /// How long ago it was heard of.
    pub seen_seconds: f64,
    /// How long it may be silent.
    pub lease_seconds: f64,
    /// Jobs that it has started and not ended.
    pub jobs: i64,
}

/// Bounded by the windows, and by the day that ended processes are remembered.
const PROCESSES: &str = "
    with in_hand as (
        select worker_id, count(*) as n from postroad.job
        where stage = 1 and started_at is not null group by worker_id)
    select p.id, p.role, p.host, p.pid, p.version, p.queues,
           case when p.stopped_at is not null then 'stopped'
                when p.lost_at is not null then 'lost'
                when p.seen_at < now() - p.lease then 'silent'
                else 'running' end,
           p.started_at, coalesce(p.stopped_at, p.lost_at),
           greatest(extract(epoch from now() - p.seen_at), 0)::double precision,
           extract(epoch from p.lease)::double precision, coalesce(i.n, 0)
    from postroad.process p left join in_hand i on i.worker_id = p.id
    where ($1 or (p.stopped_at is null and p.lost_at is null) or i.n > 0)
      and ($2::text is null or p.role = $2)
    order by p.role, p.host, p.id";

/// One thing that somebody did.
#[derive(Clone, Debug, Serialize)]
pub struct AuditRow {
    /// Its number; later ones are greater.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// To which tenant's; none where it concerns them all.
    pub tenant: Option<String>,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// The id of the request, if it came in one.
    pub request_id: Option<String>,
    /// With what.
    pub detail: Option<Box<RawValue>>,
}

/// What to show of the audit log. Empty fields do not restrict.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// By this actor.
    pub actor: Option<String>,
    /// With this action, or one that begins with it and a dot.
    pub action: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// At this moment or later.
    pub since: Option<Timestamp>,
    /// With a lower number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

const AUDIT: &str = "
    select a.id, a.at, a.actor, t.name, a.action, a.target, a.request_id, a.detail::text
    from postroad.audit_log a left join postroad.tenant t on t.id = a.tenant_id
    where ($1::text is null or a.actor = $1)
      and ($2::text is null or a.action = $2 or starts_with(a.action, $2 || '.'))
      and ($3::text is null or t.name = $3)
      and ($4::timestamptz is null or a.at >= $4)
      and ($5::bigint is null or a.id < $5)
    order by a.id desc limit $6";

/// All tenants' ledgers in one line, and the dead of each queue.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Jobs accepted since the beginning.
    pub accepted: i64,
    /// Jobs completed since the beginning.
    pub completed: i64,
    /// Jobs that are dead by the ledger.
    pub dead: i64,
    /// Jobs cancelled or expired.
    pub given_up: i64,
    /// The database's clock, in seconds.
    pub clock: f64,
}

const TOTALS: &str = "
    select coalesce(sum(accepted), 0)::bigint, coalesce(sum(completed), 0)::bigint,
           coalesce(sum(dead), 0)::bigint, coalesce(sum(cancelled + expired), 0)::bigint,
           extract(epoch from now())::double precision
    from (select accepted, completed, dead, cancelled, expired from postroad.ledger_total
          union all
          select accepted, completed, dead, cancelled, expired from postroad.ledger_entry) both_kinds";

/// Counted to an end: nobody needs to know how many ten thousands there are.
const DEAD: &str = "
    select q.name, dead.n
    from postroad.queue q
    join (select queue_id, count(*) filter (where state = 'dead') as n
          from (select queue_id, state from postroad.archive
                where state <> 'completed' limit $1) counted
          group by queue_id) dead on dead.queue_id = q.id
    where dead.n > 0
    order by q.name";

/// Jobs that ended without success and are looked at for a glance.
pub const DEAD_COUNTED_MAX: i64 = 100_000;

impl Store {
    /// The processes that run, or that hold jobs still; with `all`, those too that have ended in
    /// the last day.
    pub async fn processes(&self, all: bool, role: Option<&str>) -> Result<Vec<ProcessRow>, Error> {
        let rows = self
            .query("reading processes", PROCESSES, &[&all, &role])
            .await?;
        let process = |row: &Row| ProcessRow {
            id: row.get(0),
            role: row.get(1),
            host: row.get(2),
            pid: row.get(3),
            version: row.get(4),
            queues: row.get(5),
            state: row.get(6),
            started_at: row.get(7),
            ended_at: row.get(8),
            seen_seconds: row.get(9),
            lease_seconds: row.get(10),
            jobs: row.get(11),
        };
        Ok(rows.iter().map(process).collect())
    }

    /// What people did, newest first.
    pub async fn audit_rows(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, Error> {
        let AuditFilter {
            actor,
            action,
            tenant,
            since,
            before,
            limit,
        } = filter;
        let rows = self
            .query(
                "reading the audit log",
                AUDIT,
                &[actor, action, tenant, since, before, limit],
            )
            .await?;
        let row = |row: &Row| AuditRow {
            id: row.get(0),
            at: row.get(1),
            actor: row.get(2),
            tenant: row.get(3),
            action: row.get(4),
            target: row.get(5),
            request_id: row.get(6),
            // What the database took for JSON is JSON.
            detail: RawValue::from_string(row.get(7)).ok(),
        };
        Ok(rows.iter().map(row).collect())
    }

    /// What all tenants' ledgers add up to.
    pub async fn totals(&self) -> Result<Totals, Error> {
        let rows = self.query("adding up the ledger", TOTALS, &[]).await?;
        let row = &rows[0];
        Ok(Totals {
            accepted: row.get(0),
            completed: row.get(1),
            dead: row.get(2),
            given_up: row.get(3),
            clock: row.get(4),
        })
    }

    /// The dead jobs of each queue that has any, among [`DEAD_COUNTED_MAX`] that ended without
    /// success.
    pub async fn dead_by_queue(&self) -> Result<Vec<(String, i64)>, Error> {
        let rows = self
            .query("counting dead jobs", DEAD, &[&DEAD_COUNTED_MAX])
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
