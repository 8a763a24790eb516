//! The ledger: what was accepted against where it is, and which jobs do not fit.
//!
//! Everything here only reads, but for the fold. Each read is one statement and so one snapshot: a
//! difference that it shows is there, and not the trace of something that was just moving.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Error, Store, millis};
use crate::job::JobId;

/// Ids that a look names, at most.
pub const IDS_MAX: usize = 20;

/// What was accepted, and where it is, at one moment.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The moment, by the database's clock.
    pub at: jiff::Timestamp,
    /// One account per tenant.
    pub accounts: Vec<Account>,
}

/// The ledger of one tenant: `accepted` is the sum of the nine states, or the account is not balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are the states of the public job, in the same words"
)]
pub struct Account {
    pub tenant: String,
    pub accepted: i64,
    pub scheduled: i64,
    pub dispatched: i64,
    pub running: i64,
    pub failed: i64,
    pub held: i64,
    pub completed: i64,
    pub dead: i64,
    pub cancelled: i64,
    pub expired: i64,
    pub balanced: bool,
    /// Those of the cancelled ones that a full queue has shed.
    pub shed: i64,
}

impl Account {
    /// How many jobs are in any state.
    pub fn known(&self) -> i64 {
        self.scheduled
            + self.dispatched
            + self.running
            + self.failed
            + self.held
            + self.completed
            + self.dead
            + self.cancelled
            + self.expired
    }

    /// Jobs known beyond those accepted; negative: jobs accepted and lost.
    pub fn difference(&self) -> i64 {
        self.known() - self.accepted
    }
}

/// The pipe of one queue, as Postgres knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePipe {
    /// The queue.
    pub queue: String,
    /// Committed to the pipe and not started.
    pub dispatched: i64,
    /// Running.
    pub running: i64,
    /// Those of both that a rescuer should have taken out by now.
    pub stuck: i64,
    /// The oldest of them.
    pub stuck_ids: Vec<JobId>,
}

/// One step of the search for jobs that exist twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubled {
    /// Jobs that exist twice, in the archive or in both tables.
    pub ids: Vec<JobId>,
    /// Where the next step goes on; none where this one came to the end.
    pub next: Option<JobId>,
}

/// Any number of folders share the entries: each takes those that no other has. Totals are
/// written in the order of tenants, so that two folders cannot deadlock.
const FOLD: &str = "
    with taken as (
        delete from postroad.ledger_entry
        where ctid = any(array(
            select ctid from postroad.ledger_entry limit $1 for update skip locked))
        returning tenant_id, accepted, completed, dead, cancelled, expired, shed),
    folded as (
        insert into postroad.ledger_total as t
            (tenant_id, accepted, completed, dead, cancelled, expired, shed)
        select tenant_id, sum(accepted), sum(completed), sum(dead), sum(cancelled), sum(expired), sum(shed)
        from taken group by tenant_id order by tenant_id
        on conflict (tenant_id) do update
            set accepted = t.accepted + excluded.accepted,
                completed = t.completed + excluded.completed,
                dead = t.dead + excluded.dead,
                cancelled = t.cancelled + excluded.cancelled,
                expired = t.expired + excluded.expired,
                shed = t.shed + excluded.shed)
    select count(*) from taken";

/// The same for the accounts of campaigns.
const FOLD_CAMPAIGNS: &str = "
    with taken as (
        delete from postroad.campaign_entry
        where ctid = any(array(
            select ctid from postroad.campaign_entry limit $1 for update skip locked))
        returning campaign_id, made, completed, dead, cancelled, expired, suppressed, duplicates, rejected),
    folded as (
        insert into postroad.campaign_total as t
            (campaign_id, made, completed, dead, cancelled, expired, suppressed, duplicates, rejected)
        select campaign_id, sum(made), sum(completed), sum(dead), sum(cancelled), sum(expired),
               sum(suppressed), sum(duplicates), sum(rejected)
        from taken group by campaign_id order by campaign_id
        on conflict (campaign_id) do update
            set made = t.made + excluded.made, completed = t.completed + excluded.completed,
                dead = t.dead + excluded.dead, cancelled = t.cancelled + excluded.cancelled,
                expired = t.expired + excluded.expired, suppressed = t.suppressed + excluded.suppressed,
                duplicates = t.duplicates + excluded.duplicates, rejected = t.rejected + excluded.rejected)
    select count(*) from taken";

/// A row for the moment even where there is no such tenant.
const LEDGER: &str = "
    select m.at, l.tenant, l.accepted, l.scheduled, l.dispatched, l.running, l.failed, l.held,
           l.completed, l.dead, l.cancelled, l.expired, l.balanced, l.shed
    from (select now() as at) m
    left join postroad.ledger l on $1::text is null or l.tenant = $1
    order by l.tenant";

/// Bounded by the windows. Nothing is stuck as long as there is no scheduler to rescue it.
const PIPE: &str = "
    with rescuers as materialized (
        select from postroad.process
        where role = 'scheduler' and stopped_at is null and lost_at is null
          and seen_at > now() - lease and started_at < now() - $1 * interval '1 ms'
        limit 1),
    pipe as (
        select j.queue_id, j.id, j.claimed_at, j.started_at,
               exists (select from rescuers) and case
                   when j.started_at is null
                   then j.claimed_at < now() - q.pipe_ttl - $1 * interval '1 ms'
                   else p.id is null
                     or least(p.lost_at, p.stopped_at) < now() - $1 * interval '1 ms'
               end as is_stuck
        from postroad.queue q
        join postroad.job j on j.queue_id = q.id and j.stage = 1
        left join postroad.process p on p.id = j.worker_id)
    select q.name,
           count(pipe.id) filter (where pipe.started_at is null),
           count(pipe.id) filter (where pipe.started_at is not null),
           count(pipe.id) filter (where pipe.is_stuck),
           coalesce((array_agg(pipe.id order by pipe.claimed_at) filter (where pipe.is_stuck))[1:$2],
                    '{}')
    from postroad.queue q
    left join pipe on pipe.queue_id = q.id
    group by q.name order by q.name";

/// Looks at the jobs finished among the $2 youngest, at the next $2 of a walk through the whole
/// archive that goes on at $1, and again at $3. Copies lie side by side in the index, and a step
/// begins with the last id of the one before: so a pair is never torn.
const DOUBLED: &str = "
    with youngest as materialized (
        select id from postroad.archive order by id desc limit $2),
    walk as materialized (
        select id from postroad.archive where id >= $1 order by id limit $2),
    doubled as (
        select id from youngest group by id having count(*) > 1
        union
        select id from walk group by id having count(*) > 1
        union
        select y.id from youngest y where exists (select from postroad.job j where j.id = y.id)
        union
        select w.id from walk w where exists (select from postroad.job j where j.id = w.id)
        union
        select k.id from unnest($3::uuid[]) k(id)
        where (select count(*) from postroad.archive a where a.id = k.id)
            + (select count(*) from postroad.job j where j.id = k.id) > 1)
    select array(select id from doubled order by id limit $4),
           (select id from walk order by id desc limit 1),
           (select count(*) from walk) = $2";

/// Ids that others still name although the job is nowhere: its dedup key, or its errors. Only ids
/// made since the oldest partition are looked for, and since the last day of which some queue's jobs
/// are forgotten, because the archive does not know older ones; and of these the $2 keys and errors
/// that are first at hand.
const MISSING: &str = "
    with forgotten as (
        select max(greatest(forgotten_before, (now() at time zone 'UTC')::date - retention_days)) as before
        from postroad.queue),
    oldest as materialized (
        select (lpad(to_hex((extract(epoch from greatest(min(p.day), max(f.before))) * 1000)::bigint), 12, '0')
                || repeat('0', 20))::uuid as id
        from postroad.partitions() p, forgotten f where p.parent = 'archive'),
    named as materialized (
        (select d.job_id as id from postroad.dedup d
         join postroad.tenant t on t.id = d.tenant_id
         where t.name = $1 and d.job_id >= (select id from oldest)
         limit $2)
        union
        (select e.job_id from postroad.attempt_error e
         where e.job_id >= (select id from oldest)
         order by e.job_id desc limit $2))
    select n.id from named n
    where not exists (select from postroad.job j where j.id = n.id)
      and not exists (select from postroad.archive a where a.id = n.id)
    order by n.id limit $3";

impl Store {
    /// Moves up to `limit` entries of the ledger into its totals; answers with how many.
    pub async fn fold_ledger(&self, limit: i64) -> Result<i64, Error> {
        let rows = self.query("folding the ledger", FOLD, &[&limit]).await?;
        Ok(rows[0].get(0))
    }

    /// The same for entries of campaigns' accounts.
    pub async fn fold_campaigns(&self, limit: i64) -> Result<i64, Error> {
        let rows = self
            .query("folding campaigns' accounts", FOLD_CAMPAIGNS, &[&limit])
            .await?;
        Ok(rows[0].get(0))
    }

    /// The ledger of one tenant, or of all.
    pub async fn ledger(&self, tenant: Option<&str>) -> Result<Ledger, Error> {
        let rows = self.query("reading the ledger", LEDGER, &[&tenant]).await?;
        Ok(Ledger {
            at: rows[0].get(0),
            accounts: rows.iter().filter_map(account).collect(),
        })
    }

    /// What is in the pipe, queue by queue. A job is stuck `patience` after a rescuer's own reason
    /// to take it out: its message must have expired, or its worker is gone.
    pub async fn pipe(&self, patience: Duration) -> Result<Vec<QueuePipe>, Error> {
        let (patience, most) = (millis(patience) as f64, IDS_MAX as i32);
        let rows = self
            .query("looking into the pipe", PIPE, &[&patience, &most])
            .await?;
        let pipe = |row: &Row| QueuePipe {
            queue: row.get(0),
            dispatched: row.get(1),
            running: row.get(2),
            stuck: row.get(3),
            stuck_ids: ids(row.get(4)),
        };
        Ok(rows.iter().map(pipe).collect())
    }

    /// Looks for jobs that exist twice: among the `step` youngest that are finished, among the next
    /// `step` of a walk through all finished ones, which goes on at `from`, and among `known`.
    pub async fn doubled(
        &self,
        from: Option<JobId>,
        step: i64,
        known: &[JobId],
    ) -> Result<Doubled, Error> {
        let from = from.map_or(uuid::Uuid::nil(), |id| *id.as_uuid());
        let known: Vec<_> = known.iter().map(|id| *id.as_uuid()).collect();
        let rows = self
            .query(
                "looking for doubled jobs",
                DOUBLED,
                &[&from, &step, &known, &(IDS_MAX as i64)],
            )
            .await?;
        let last: Option<uuid::Uuid> = rows[0].get(1);
        let is_full: bool = rows[0].get(2);
        Ok(Doubled {
            ids: ids(rows[0].get(0)),
            // A step that ends where it began would never end.
            next: last
                .filter(|last| is_full && *last != from)
                .map(JobId::from),
        })
    }

    /// Jobs of a tenant that are nowhere, as far as something still names them; looks at most at
    /// `limit` dedup keys and as many errors.
    pub async fn missing(&self, tenant: &str, limit: i64) -> Result<Vec<JobId>, Error> {
        let rows = self
            .query(
                "looking for missing jobs",
                MISSING,
                &[&tenant, &limit, &(IDS_MAX as i64)],
            )
            .await?;
        Ok(ids(rows.iter().map(|row| row.get(0)).collect()))
    }
}

fn ids(uuids: Vec<uuid::Uuid>) -> Vec<JobId> {
    uuids.into_iter().map(JobId::from).collect()
}

/// None in the row of the moment alone.
fn account(row: &Row) -> Option<Account> {
    Some(Account {
        tenant: row.get::<_, Option<String>>(1)?,
        accepted: row.get(2),
        scheduled: row.get(3),
        dispatched: row.get(4),
        running: row.get(5),
        failed: row.get(6),
        held: row.get(7),
        completed: row.get(8),
        dead: row.get(9),
        cancelled: row.get(10),
        expired: row.get(11),
        balanced: row.get(12),
        shed: row.get(13),
    })
}
