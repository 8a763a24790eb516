//! Queues and kinds, as people see and set them. What is set is read with the next claim.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::audit::{Change, if_so, one};
use super::{Changed, Error, OnFull, Store, from_millis, millis};

/// A queue: its settings, and what is in it of this store's tenant.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct QueueRow {
    pub name: String,
    pub paused_at: Option<Timestamp>,
    pub window_size: i32,
    pub pipe_ttl_seconds: f64,
    pub prefetch: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub retention_days: Option<i32>,
    /// Whose limits its jobs keep to, beside its own.
    pub provider: Option<String>,
    /// So many of its jobs may be due and wait.
    pub waiting_max: Option<i32>,
    /// What becomes of more.
    pub on_full: String,
    /// Since when it accepts nothing.
    pub full_at: Option<Timestamp>,
    /// Due and not dispatched, counted up to 10,000.
    pub due: i64,
    pub dispatched: i64,
    pub running: i64,
    pub failed: i64,
    pub held: i64,
    /// Set aside by stops, to be scheduled again when they are lifted.
    pub stopped: i64,
    /// How long the oldest due job has been due.
    pub oldest_due_seconds: Option<f64>,
}

/// A change of a queue. Empty fields stay as they are; an inner `None` takes the limit away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueChange {
    /// Jobs in the pipe at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_size: Option<i32>,
    /// How long a message may wait in RabbitMQ.
    #[serde(
        rename = "pipe_ttl_seconds",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub pipe_ttl: Option<Duration>,
    /// Jobs of it that a worker runs at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<Option<i32>>,
    /// Jobs of it that enter the pipe in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<Option<i32>>,
    /// Whole days after which its finished jobs are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<Option<i32>>,
    /// Whose limits its jobs keep to. It must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Option<String>>,
    /// How many of its jobs may be due and wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_max: Option<Option<i32>>,
    /// What becomes of more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
}

/// A kind: how its jobs are tried.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct KindRow {
    pub name: String,
    pub on_lost: String,
    pub max_attempts: i32,
    pub backoff_base_seconds: f64,
    pub backoff_cap_seconds: f64,
    /// How long an attempt may take; none: no worker has said yet.
    pub timeout_seconds: Option<f64>,
    /// When a worker said first that it runs them; none: no worker has yet.
    pub registered_at: Option<Timestamp>,
    /// Since when an operator's policy stands instead of the workers'.
    pub overridden_at: Option<Timestamp>,
}

/// A change of a kind's policy. Empty fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindChange {
    /// `retry` or `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<String>,
    /// Attempts before a job is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i32>,
    /// Wait before the second attempt.
    #[serde(
        rename = "backoff_base_seconds",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub backoff_base: Option<Duration>,
    /// The longest wait between two.
    #[serde(
        rename = "backoff_cap_seconds",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub backoff_cap: Option<Duration>,
    /// How long one attempt may take.
    #[serde(
        rename = "timeout_seconds",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
}

impl KindChange {
    /// Why this would make the first wait between attempts longer than the longest one.
    pub fn too_long_a_first_wait(&self, before: &KindRow) -> Option<String> {
        if self.backoff_base.is_none() && self.backoff_cap.is_none() {
            return None;
        }
        let seconds = |new: Option<Duration>, old| new.map_or(old, |time| time.as_secs_f64());
        let base = seconds(self.backoff_base, before.backoff_base_seconds);
        let cap = seconds(self.backoff_cap, before.backoff_cap_seconds);
        (base > cap).then(|| {
            format!(
                "the longest wait ({cap} s) would be shorter than the first ({base} s): set both"
            )
        })
    }
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// Each count is the range of a small index; due jobs are counted to an end.
const QUEUES: &str = "
    with pipe as (
        select queue_id, count(*) filter (where started_at is null) as dispatched,
               count(started_at) as running
        from postroad.job
        where stage = 1 and ($1::int is null or tenant_id = $1) group by queue_id),
    failed as (
        select queue_id, count(*) as n from postroad.job
        where stage = 2 and ($1::int is null or tenant_id = $1) group by queue_id),
    held as (
        select queue_id, count(*) as n from postroad.job
        where stage = 3 and ($1::int is null or tenant_id = $1) group by queue_id),
    stopped as (
        select queue_id, count(*) as n from postroad.job
        where stage = 4 and ($1::int is null or tenant_id = $1) group by queue_id)
    select q.name, q.paused_at, q.window_size,
           extract(epoch from q.pipe_ttl)::double precision, q.prefetch, q.rate_per_second,
           q.retention_days, due.n, coalesce(pipe.dispatched, 0), coalesce(pipe.running, 0),
           coalesce(failed.n, 0), coalesce(held.n, 0),
           extract(epoch from now() - due.oldest)::double precision, coalesce(stopped.n, 0), v.name,
           q.waiting_max, q.on_full, q.full_at
    from postroad.queue q
    left join postroad.provider v on v.id = q.provider_id
    left join pipe on pipe.queue_id = q.id
    left join failed on failed.queue_id = q.id
    left join held on held.queue_id = q.id
    left join stopped on stopped.queue_id = q.id
    cross join lateral (
        select count(*) as n, min(run_at) as oldest
        from (select j.run_at from postroad.job j
              where j.queue_id = q.id and j.stage = 0 and j.run_at <= now()
                and ($1::int is null or j.tenant_id = $1)
              limit 10000) counted) due
    where ($2::text is null or q.name = $2)
    order by q.name";

const PAUSE: &str = "
    with changed as (
        update postroad.queue set paused_at = case when $2 then now() end
        where name = $1 and (paused_at is null) = $2
        returning id)
    select exists (select from changed), null::int from postroad.queue where name = $1";

const SET_QUEUE: &str = "
    update postroad.queue
    set window_size = coalesce($2, window_size),
        pipe_ttl = coalesce($3::float8 * interval '1 ms', pipe_ttl),
        prefetch = case when $4 then $5 else prefetch end,
        rate_per_second = case when $6 then $7 else rate_per_second end,
        retention_days = case when $8 then $9 else retention_days end,
        provider_id = case when $10 then (select v.id from postroad.provider v where v.name = $11)
                           else provider_id end,
        waiting_max = case when $12 then $13 else waiting_max end,
        on_full = coalesce($14, on_full)
    where name = $1 and ($11::text is null or exists (select from postroad.provider where name = $11))
    returning id";

const KINDS: &str = "
    select name, on_lost, max_attempts, extract(epoch from backoff_base)::double precision,
           extract(epoch from backoff_cap)::double precision, registered_at, overridden_at,
           extract(epoch from coalesce(timeout_set, timeout))::double precision
    from postroad.kind where ($1::text is null or name = $1) order by name";

const SET_KIND: &str = "
    update postroad.kind
    set on_lost = coalesce($2, on_lost), max_attempts = coalesce($3, max_attempts),
        backoff_base = coalesce($4::float8 * interval '1 ms', backoff_base),
        backoff_cap = coalesce($5::float8 * interval '1 ms', backoff_cap),
        timeout_set = coalesce($6::float8 * interval '1 ms', timeout_set),
        overridden_at = now()
    where name = $1 returning id";

const RESET_KIND: &str = "
    with changed as (
        update postroad.kind set overridden_at = null, timeout_set = null
        where name = $1 and (overridden_at is not null or timeout_set is not null)
        returning id)
    select exists (select from changed), null::int from postroad.kind where name = $1";

impl Store {
    /// All queues, or the one of this name, with what is in them of this store's tenant.
    pub async fn queues(&self, name: Option<&str>) -> Result<Vec<QueueRow>, Error> {
        let rows = self
            .query("reading queues", QUEUES, &[&self.tenant_id(), &name])
            .await?;
        let queue = |row: &tokio_postgres::Row| QueueRow {
            name: row.get(0),
            paused_at: row.get(1),
            window_size: row.get(2),
            pipe_ttl_seconds: row.get(3),
            prefetch: row.get(4),
            rate_per_second: row.get(5),
            retention_days: row.get(6),
            due: row.get(7),
            dispatched: row.get(8),
            running: row.get(9),
            failed: row.get(10),
            held: row.get(11),
            oldest_due_seconds: row.get::<_, Option<f64>>(12).map(|age| age.max(0.0)),
            stopped: row.get(13),
            provider: row.get(14),
            waiting_max: row.get(15),
            on_full: row.get(16),
            full_at: row.get(17),
        };
        Ok(rows.iter().map(queue).collect())
    }

    /// Pauses or resumes a queue: nothing is dispatched of a paused one.
    pub async fn pause_queue(&self, name: &str, pause: bool) -> Result<Changed, Error> {
        let change = Change {
            operation: "pausing or resuming a queue",
            sql: PAUSE,
            params: &[&name, &pause],
            action: match pause {
                true => "queue.pause",
                false => "queue.resume",
            },
            detail: json!({}),
        };
        Ok(Changed::of(&self.change(change, if_so(name)).await?))
    }

    /// Sets a queue. False: there is none of this name, or no such provider.
    pub async fn set_queue(&self, name: &str, settings: &QueueChange) -> Result<bool, Error> {
        let change = Change {
            operation: "setting a queue",
            sql: SET_QUEUE,
            params: &[
                &name,
                &settings.window_size,
                &settings.pipe_ttl.map(|ttl| millis(ttl) as f64),
                &settings.prefetch.is_some(),
                &settings.prefetch.flatten(),
                &settings.rate_per_second.is_some(),
                &settings.rate_per_second.flatten(),
                &settings.retention_days.is_some(),
                &settings.retention_days.flatten(),
                &settings.provider.is_some(),
                &settings.provider.as_ref().and_then(Option::as_ref),
                &settings.waiting_max.is_some(),
                &settings.waiting_max.flatten(),
                &settings.on_full.map(OnFull::as_str),
            ],
            action: "queue.set",
            detail: json!(settings),
        };
        Ok(!self.change(change, one(None, name)).await?.is_empty())
    }

    /// All kinds, or the one of this name.
    pub async fn kinds(&self, name: Option<&str>) -> Result<Vec<KindRow>, Error> {
        let rows = self.query("reading kinds", KINDS, &[&name]).await?;
        let kind = |row: &tokio_postgres::Row| KindRow {
            name: row.get(0),
            on_lost: row.get(1),
            max_attempts: row.get(2),
            backoff_base_seconds: row.get(3),
            backoff_cap_seconds: row.get(4),
            registered_at: row.get(5),
            overridden_at: row.get(6),
            timeout_seconds: row.get(7),
        };
        Ok(rows.iter().map(kind).collect())
    }

    /// Sets a kind's policy, which workers then leave alone. False: there is none of this name.
    pub async fn set_kind(&self, name: &str, policy: &KindChange) -> Result<bool, Error> {
        let change = Change {
            operation: "setting a kind",
            sql: SET_KIND,
            params: &[
                &name,
                &policy.on_lost,
                &policy.max_attempts,
                &policy.backoff_base.map(|base| millis(base) as f64),
                &policy.backoff_cap.map(|cap| millis(cap) as f64),
                &policy.timeout.map(|timeout| millis(timeout) as f64),
            ],
            action: "kind.set",
            detail: json!(policy),
        };
        Ok(!self.change(change, one(None, name)).await?.is_empty())
    }

    /// Gives a kind back to its workers, whose next start writes their policy.
    pub async fn reset_kind(&self, name: &str) -> Result<Changed, Error> {
        let change = Change {
            operation: "resetting a kind",
            sql: RESET_KIND,
            params: &[&name],
            action: "kind.reset",
            detail: json!({}),
        };
        Ok(Changed::of(&self.change(change, if_so(name)).await?))
    }

    /// The timeouts of these kinds that operators have set.
    pub async fn kind_timeouts(&self, kinds: &[&str]) -> Result<HashMap<String, Duration>, Error> {
        const SQL: &str = "
            select name, ceil(extract(epoch from timeout_set) * 1000)::bigint
            from postroad.kind where name = any($1) and timeout_set is not null";
        let rows = self.query("reading timeouts", SQL, &[&kinds]).await?;
        let timeout = |row: &tokio_postgres::Row| (row.get(0), from_millis(row.get(1)));
        Ok(rows.iter().map(timeout).collect())
    }

    /// How many jobs of a queue a worker is to run at once, where somebody has set it.
    pub async fn prefetch_hints(&self, queues: &[String]) -> Result<Vec<(String, u16)>, Error> {
        const SQL: &str = "
            select name, prefetch from postroad.queue where name = any($1) and prefetch is not null";
        let rows = self
            .query("reading prefetch hints", SQL, &[&queues])
            .await?;
        let hint = |row: &tokio_postgres::Row| {
            let prefetch = u16::try_from(row.get::<_, i32>(1)).unwrap_or(u16::MAX);
            (row.get(0), prefetch)
        };
        Ok(rows.iter().map(hint).collect())
    }
}
