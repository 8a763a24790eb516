//! Full queues: how much waits in them, and shedding what is more than may.
//!
//! What if a scheduler dies in the middle? Each step is one transaction of a bounded batch, and the next
//! look counts again.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::{Error, Store, millis};

/// What becomes of jobs that are more than may wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// They are not accepted.
    Reject,
    /// The lowest class is shed, from whoever has most of it, the oldest first.
    Drop,
    /// The same are due later.
    Defer,
    /// Of each key all but the newest are shed; and if that is not enough, as with `drop`.
    Coalesce,
}

impl OnFull {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Reject, Self::Drop, Self::Defer, Self::Coalesce];

    /// Its name in SQL, API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Defer => "defer",
            Self::Coalesce => "coalesce",
        }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

/// A queue in which only so many jobs may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The queue's id.
    pub queue_id: i32,
    /// Its name.
    pub queue: String,
    /// So many may be due and wait.
    pub waiting_max: u64,
    /// What becomes of more.
    pub on_full: OnFull,
    /// Whether nothing is accepted now.
    pub is_full: bool,
}

/// Jobs of one tenant and priority that are due and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The tenant's id.
    pub tenant: i32,
    /// The priority, which is the class: 0 first.
    pub priority: i16,
    /// How many.
    pub jobs: u64,
}

const BUFFERS: &str = "
    select q.id, q.name, q.waiting_max::bigint, q.on_full, q.full_at is not null
    from postroad.queue q where q.waiting_max is not null or q.full_at is not null
    order by q.id";

/// Counted in the index, tenant by tenant and priority by priority.
const WAITING: &str = "
    with recursive walk as (
        (select j.tenant_id from postroad.job j where j.queue_id = $1 and j.stage = 0
         order by j.tenant_id limit 1)
        union all
        select next.tenant_id from walk w
        cross join lateral (
            select j.tenant_id from postroad.job j
            where j.queue_id = $1 and j.stage = 0 and j.tenant_id > w.tenant_id
            order by j.tenant_id limit 1) next)
    select w.tenant_id, p.priority::smallint, waiting.n
    from walk w cross join generate_series(0, 3) p(priority)
    cross join lateral (
        select count(*) as n from postroad.job j
        where j.queue_id = $1 and j.tenant_id = w.tenant_id and j.priority = p.priority
          and j.stage = 0 and j.run_at <= now()) waiting
    where waiting.n > 0";

/// Of $1's waiting jobs the oldest $4 each of tenants $2 and priorities $3. Passes over those that a claim
/// or somebody who cancels has in hand: they leave anyway.
macro_rules! victims {
    () => {
        "victim as materialized (
            select one.at
            from unnest($2::int[], $3::smallint[], $4::bigint[]) v(tenant_id, priority, n)
            cross join lateral (
                select j.ctid as at from postroad.job j
                where j.queue_id = $1 and j.tenant_id = v.tenant_id and j.priority = v.priority
                  and j.stage = 0 and j.run_at <= now()
                order by j.run_at limit v.n
                for update skip locked) one)"
    };
}

const DROP: &str = concat!(
    "
    with ",
    victims!(),
    ",
    gone as (
        delete from postroad.job j where j.ctid = any(array(select at from victim)) returning j.*)
    ",
    archive_from!("gone", "'cancelled'", "'shed'", "null", "args")
);

/// Spread, so that they do not come back together.
const DEFER: &str = concat!(
    "
    with ",
    victims!(),
    "
    update postroad.job j
    set run_at = now() + (1 + random()) * $5::float8 * interval '1 ms'
    where j.ctid = any(array(select at from victim))
    returning j.id"
);

/// Ids are in the order of time, as far as their makers' clocks are right.
const COALESCE: &str = concat!(
    "
    with victim as materialized (
        select j.ctid as at from postroad.job j
        where j.queue_id = $1 and j.stage = 0 and j.coalesce_key is not null and j.run_at <= now()
          and exists (
              select from postroad.job n
              where n.queue_id = $1 and n.tenant_id = j.tenant_id and n.kind_id = j.kind_id
                and n.coalesce_key = j.coalesce_key and n.stage = 0 and n.id > j.id
                and n.run_at <= now())
        limit $2
        for update of j skip locked),
    gone as (
        delete from postroad.job j where j.ctid = any(array(select at from victim)) returning j.*)
    ",
    archive_from!("gone", "'cancelled'", "'coalesced'", "null", "args")
);

const BEGIN_SHEDDING: &str = "
    update postroad.queue set shed_until = now() + $2::float8 * interval '1 ms'
    where id = $1 and (shed_until is null or shed_until < now()) returning id";

const END_SHEDDING: &str = "
    update postroad.queue set shed_until = null where id = $1 returning id";

const SET_FULL: &str = "
    update postroad.queue set full_at = case when $2 then now() end
    where id = $1 and (full_at is null) = $2 and (not $2 or (waiting_max is not null and on_full = 'reject'))
    returning id";

const FULL: &str =
    "select name from postroad.queue where full_at is not null order by name limit 10000";

impl Store {
    /// The queues in which only so many jobs may wait, and those that were full and may be filled by now.
    pub async fn buffers(&self) -> Result<Vec<Buffer>, Error> {
        let rows = self.query("reading buffers", BUFFERS, &[]).await?;
        let buffer = |row: &tokio_postgres::Row| Buffer {
            queue_id: row.get(0),
            queue: row.get(1),
            waiting_max: row
                .get::<_, Option<i64>>(2)
                .map_or(u64::MAX, |most| u64::try_from(most).unwrap_or(0)),
            on_full: OnFull::of_name(row.get(3)).unwrap_or(OnFull::Reject),
            is_full: row.get(4),
        };
        Ok(rows.iter().map(buffer).collect())
    }

    /// What is due and waits in a queue.
    pub async fn waiting(&self, queue_id: i32) -> Result<Vec<Waiting>, Error> {
        let rows = self
            .query("counting what waits", WAITING, &[&queue_id])
            .await?;
        let waiting = |row: &tokio_postgres::Row| Waiting {
            tenant: row.get(0),
            priority: row.get(1),
            jobs: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        };
        Ok(rows.iter().map(waiting).collect())
    }

    /// Takes the right to shed jobs of a queue for so long. False: another scheduler has it.
    pub async fn begin_shedding(&self, queue_id: i32, time: Duration) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&queue_id, &(millis(time) as f64)];
        let rows = self
            .query("beginning to shed", BEGIN_SHEDDING, &params)
            .await?;
        Ok(!rows.is_empty())
    }

    /// Gives that right back.
    pub async fn end_shedding(&self, queue_id: i32) -> Result<(), Error> {
        self.query("ending to shed", END_SHEDDING, &[&queue_id])
            .await
            .map(drop)
    }

    /// Sheds the oldest waiting jobs of these tenants and priorities; says how many.
    pub async fn drop_waiting(&self, queue_id: i32, victims: &[Waiting]) -> Result<usize, Error> {
        let (tenants, priorities, jobs) = columns(victims);
        let params: [&(dyn ToSql + Sync); 4] = [&queue_id, &tenants, &priorities, &jobs];
        Ok(self.query("shedding jobs", DROP, &params).await?.len())
    }

    /// Has the oldest waiting jobs of these tenants and priorities wait for `delay` to twice as long;
    /// says how many.
    pub async fn defer_waiting(
        &self,
        queue_id: i32,
        victims: &[Waiting],
        delay: Duration,
    ) -> Result<usize, Error> {
        let (tenants, priorities, jobs) = columns(victims);
        let delay = millis(delay) as f64;
        let params: [&(dyn ToSql + Sync); 5] = [&queue_id, &tenants, &priorities, &jobs, &delay];
        Ok(self.query("deferring jobs", DEFER, &params).await?.len())
    }

    /// Sheds up to `limit` waiting jobs of a queue for which there is a newer one with the same key; says
    /// how many.
    pub async fn coalesce_waiting(&self, queue_id: i32, limit: i64) -> Result<usize, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&queue_id, &limit];
        Ok(self
            .query("coalescing jobs", COALESCE, &params)
            .await?
            .len())
    }

    /// Closes a queue that rejects, or opens it. Says whether that is new.
    pub async fn set_full(&self, queue_id: i32, is_full: bool) -> Result<bool, Error> {
        let rows = self
            .query(
                "closing or opening a queue",
                SET_FULL,
                &[&queue_id, &is_full],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// The queues that accept nothing now.
    pub async fn full_queues(&self) -> Result<Vec<String>, Error> {
        let rows = self.query("looking for full queues", FULL, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

fn columns(victims: &[Waiting]) -> (Vec<i32>, Vec<i16>, Vec<i64>) {
    let jobs = |one: &Waiting| i64::try_from(one.jobs).unwrap_or(i64::MAX);
    (
        victims.iter().map(|one| one.tenant).collect(),
        victims.iter().map(|one| one.priority).collect(),
        victims.iter().map(jobs).collect(),
    )
}
