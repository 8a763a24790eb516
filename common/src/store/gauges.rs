//! How much is where, at one moment, for the gauges of a scheduler. Read every few seconds by each
//! of them, so every count is the range of a small index or ends at a bound.

use super::{BreakerState, Error, StopMode, Store};

/// Due jobs that are counted in one queue, and failed and held ones over all queues; there may be
/// more.
pub const COUNTED_MAX: i64 = 10_000;

/// One queue at one moment, over all tenants.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueGauges {
    /// The queue.
    pub queue: String,
    /// Whether somebody has paused it.
    pub is_paused: bool,
    /// Due and not dispatched, counted up to [`COUNTED_MAX`].
    pub due: i64,
    /// Committed to the pipe and not started.
    pub dispatched: i64,
    /// Running.
    pub running: i64,
    /// Failed and not yet ruled on, counted up to [`COUNTED_MAX`] over all queues.
    pub failed: i64,
    /// Waiting for a decision, counted as far as the failed ones.
    pub held: i64,
    /// Set aside by stops, counted as far as the failed ones.
    pub stopped: i64,
    /// How long the oldest due job has been due; zero where none is.
    pub oldest_due_seconds: f64,
}

/// Due jobs are found as a claim finds them, from tenant to tenant and priority to priority: a
/// million jobs of next week are passed over by one probe. The inner limit keeps the planner from
/// counting all before the outer one cuts. The pipe is bounded by the windows.
///
/// A job that was enqueued with a time in the past is late since it was enqueued.
const QUEUES: &str = "
    with recursive walk as (
        select q.id as queue_id, first.tenant_id
        from postroad.queue q
        cross join lateral (
            select j.tenant_id from postroad.job j where j.queue_id = q.id and j.stage = 0
            order by j.tenant_id limit 1) first
        union all
        select w.queue_id, next.tenant_id
        from walk w
        cross join lateral (
            select j.tenant_id from postroad.job j
            where j.queue_id = w.queue_id and j.stage = 0 and j.tenant_id > w.tenant_id
            order by j.tenant_id limit 1) next),
    lanes as materialized (
        select w.queue_id, w.tenant_id, p.priority, greatest(first.run_at, first.created_at) as due_at
        from walk w
        cross join generate_series(0, 3) p(priority)
        cross join lateral (
            select j.run_at, j.created_at from postroad.job j
            where j.queue_id = w.queue_id and j.tenant_id = w.tenant_id
              and j.priority = p.priority and j.stage = 0
            order by j.run_at limit 1) first
        where first.run_at <= now()),
    pipe as (
        select queue_id, count(*) filter (where started_at is null) as dispatched,
               count(started_at) as running
        from postroad.job where stage = 1 group by queue_id),
    failed as (
        select queue_id, count(*) as n
        from (select queue_id from postroad.job where stage = 2 limit $1) one group by queue_id),
    held as (
        select queue_id, count(*) as n
        from (select queue_id from postroad.job where stage = 3 limit $1) one group by queue_id),
    stopped as (
        select queue_id, count(*) as n
        from (select queue_id from postroad.job where stage = 4 limit $1) one group by queue_id)
    select q.name, q.paused_at is not null, due.n,
           coalesce(pipe.dispatched, 0), coalesce(pipe.running, 0),
           coalesce(failed.n, 0), coalesce(held.n, 0),
           coalesce((select extract(epoch from now() - min(l.due_at))::double precision
                     from lanes l where l.queue_id = q.id), 0),
           coalesce(stopped.n, 0)
    from postroad.queue q
    left join pipe on pipe.queue_id = q.id
    left join failed on failed.queue_id = q.id
    left join held on held.queue_id = q.id
    left join stopped on stopped.queue_id = q.id
    cross join lateral (
        select count(*) as n
        from (select from lanes l
              cross join lateral (
                  select from postroad.job j
                  where j.queue_id = l.queue_id and j.tenant_id = l.tenant_id
                    and j.priority = l.priority and j.stage = 0 and j.run_at <= now()
                  limit $1) one
              where l.queue_id = q.id
              limit $1) counted) due
    order by q.name";

const PROCESSES: &str = "
    select role, count(*) from postroad.process
    where stopped_at is null and lost_at is null and seen_at > now() - lease
    group by role order by role";

/// Both modes, also the one of which there is no stop.
const STOPS: &str = "
    select (select count(*) from postroad.stop where lifted_at is null and mode = 'pause'),
           (select count(*) from postroad.stop where lifted_at is null and mode = 'cancel')";

/// Both states, also the one in which there is no breaker.
const BREAKERS: &str = "
    select count(*) filter (where probe_at > now()), count(*) filter (where probe_at <= now())
    from postroad.breaker";

impl Store {
    /// How many breakers are not closed: those that are open, and those that are half open.
    pub async fn breaker_gauges(&self) -> Result<[(BreakerState, i64); 2], Error> {
        let rows = self.query("counting breakers", BREAKERS, &[]).await?;
        let count = |(column, state)| (state, rows[0].get(column));
        Ok([(0, BreakerState::Open), (1, BreakerState::HalfOpen)].map(count))
    }

    /// How many stops are in force: those that pause, and those that cancel.
    pub async fn stop_gauges(&self) -> Result<[(StopMode, i64); 2], Error> {
        let rows = self.query("counting stops", STOPS, &[]).await?;
        let count = |(column, mode)| (mode, rows[0].get(column));
        Ok([(0, StopMode::Pause), (1, StopMode::Cancel)].map(count))
    }

    /// Every queue at this moment.
    pub async fn queue_gauges(&self) -> Result<Vec<QueueGauges>, Error> {
        let rows = self
            .query("counting jobs by queue", QUEUES, &[&COUNTED_MAX])
            .await?;
        let gauges = |row: &tokio_postgres::Row| QueueGauges {
            queue: row.get(0),
            is_paused: row.get(1),
            due: row.get(2),
            dispatched: row.get(3),
            running: row.get(4),
            failed: row.get(5),
            held: row.get(6),
            oldest_due_seconds: row.get(7),
            stopped: row.get(8),
        };
        Ok(rows.iter().map(gauges).collect())
    }

    /// How many processes of each role have been heard of within their lease.
    pub async fn process_gauges(&self) -> Result<Vec<(String, i64)>, Error> {
        let rows = self.query("counting processes", PROCESSES, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
