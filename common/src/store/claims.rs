//! The way into the pipe: which queues have due jobs, claiming them under a new fence, and
//! letting go of claims whose message did not arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::names::Of;
use super::{Error, Fenced, ProcessId, Store, from_millis, millis};
use crate::failpoint;
use crate::job::JobId;

/// A queue that has a due job.
#[derive(Clone, Debug)]
pub struct DueQueue {
    /// Its id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// Its window.
    pub window: i64,
    /// How long a message of it may wait in RabbitMQ.
    pub pipe_ttl: Duration,
}

/// A claimed job: what its message needs.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The job.
    pub id: JobId,
    /// The new fence.
    pub dispatch: i64,
    /// Its kind.
    pub kind: Arc<str>,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// Attempts before this one.
    pub attempts_before: i32,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Its args.
    pub args: String,
    /// The database's clock at the claim, in Unix seconds.
    pub claimed_at: u64,
}

/// What was claimed from a queue, and what was seen of it.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The queue as it was then: what is known from a look may be old.
    pub queue: DueQueue,
    /// The jobs, in the order in which they should be sent. None, where all that was met is stopped.
    pub jobs: Vec<Claim>,
    /// How many were met that are stopped, and set aside.
    pub set_aside: usize,
    /// Whether a tenant had as many due jobs as its share, or more: then more may be due.
    pub is_backlog: bool,
    /// How many were in the pipe before.
    pub in_pipe: i64,
    /// What its workers have room for. None: it has none, or somebody who may get its messages can
    /// read only one job in each.
    pub places: Option<Places>,
    /// How far it came, for the next claim.
    pub reached: Cursor,
}

/// How many jobs the workers of a queue run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// All together.
    pub total: i64,
    /// The one with the fewest.
    pub least: i64,
}

impl DueQueue {
    /// Of a row that begins with its columns.
    fn of(row: &Row) -> Self {
        Self {
            id: row.get(0),
            name: row.get(1),
            window: row.get(2),
            pipe_ttl: from_millis(row.get(3)),
        }
    }
}

impl Claimed {
    /// Bytes of args, all together.
    pub fn args_bytes(&self) -> usize {
        self.jobs.iter().map(|job| job.args.len()).sum()
    }
}

/// How far claims from a queue have come, by tenant and priority, in due time.
///
/// An index keeps the places of what was claimed until Postgres vacuums it, and whoever looks for
/// what is due walks over them: after a hundred thousand jobs that costs more than claiming the next
/// thousand. A claim with a cursor begins behind them. It passes over jobs that come late with an
/// earlier due time (from a long transaction, or released), so now and then there must be one without.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// By priority.
    tenants: BTreeMap<i32, [Option<Timestamp>; 4]>,
}

/// Tenants in a cursor, at most: a look passes over each of them.
const CURSOR_TENANTS_MAX: usize = 32;
/// A tenant that has less than such a share of a claim has few places to walk over.
const CURSOR_SHARE: usize = 20;

impl Cursor {
    /// Goes on to where the next claim came to.
    pub fn advance(&mut self, reached: Self) {
        for (tenant, times) in reached.tenants {
            let is_full = self.tenants.len() >= CURSOR_TENANTS_MAX;
            if is_full && !self.tenants.contains_key(&tenant) {
                continue;
            }
            let known = self.tenants.entry(tenant).or_default();
            for (known, time) in known.iter_mut().zip(times) {
                *known = time.or(*known);
            }
        }
    }

    /// The end of what was claimed: tenants, priorities and due times.
    fn of(claimed: impl ExactSizeIterator<Item = (i32, i16, Timestamp)>) -> Self {
        let total = claimed.len();
        let mut tenants: BTreeMap<i32, (usize, [Option<Timestamp>; 4])> = BTreeMap::new();
        for (tenant, priority, run_at) in claimed {
            let (jobs, times) = tenants.entry(tenant).or_default();
            *jobs += 1;
            if let Some(time) = usize::try_from(priority)
                .ok()
                .and_then(|n| times.get_mut(n))
            {
                *time = (*time).max(Some(run_at));
            }
        }
        tenants.retain(|_, (jobs, _)| *jobs * CURSOR_SHARE >= total);
        let times = |(tenant, (_, times))| (tenant, times);
        Self {
            tenants: tenants.into_iter().map(times).collect(),
        }
    }

    fn times(&self, priority: usize) -> Vec<Option<Timestamp>> {
        self.tenants.values().map(|times| times[priority]).collect()
    }
}

/// Tenants are found by walking the index from one to the next, so a million jobs of one tenant
/// cost one probe; then one probe per priority tells whether any of them is due. Queues of which that
/// is known ($1) are not looked at.
const DUE_QUEUES: &str = "
    with recursive walk as (
        select q.id as queue_id, first.tenant_id
        from postroad.queue q
        cross join lateral (
            select j.tenant_id from postroad.job j where j.queue_id = q.id and j.stage = 0
            order by j.tenant_id limit 1) first
        where q.paused_at is null and q.id <> all($1)
        union all
        select w.queue_id, next.tenant_id
        from walk w
        cross join lateral (
            select j.tenant_id from postroad.job j
            where j.queue_id = w.queue_id and j.stage = 0 and j.tenant_id > w.tenant_id
            order by j.tenant_id limit 1) next),
    found as (
        select q.* from postroad.queue q
        where exists (
            select from walk w
            cross join generate_series(0, 3) p(priority)
            cross join lateral (
                select from postroad.job j
                where j.queue_id = w.queue_id and j.tenant_id = w.tenant_id
                  and j.priority = p.priority and j.stage = 0 and j.run_at <= now()
                limit 1) due
            where w.queue_id = q.id)
        union all
        select q.* from postroad.queue q where q.id = any($1) and q.paused_at is null)
    select id, name, window_size::bigint, (extract(epoch from pipe_ttl) * 1000)::bigint
    from found
    order by id";

/// One scheduler per queue at a time. Who does not get the lock leaves the queue to who has it.
/// The lock is the queue's row and not an advisory one: it needs no number space of its own.
///
/// Whoever may get one of its messages, as a delivery or as a dead letter, must be able to read it
/// before it may hold several jobs. One that could not and was called lost may be back, or still
/// listen to RabbitMQ: for an hour it counts.
const LOCK_QUEUE: &str = "
    select q.id, q.name, q.window_size::bigint, (extract(epoch from q.pipe_ttl) * 1000)::bigint,
           q.rate_per_second is not null, readers.total, readers.least,
           exists (select from postroad.stop s
                   where s.lifted_at is null and (s.queue_id is null or s.queue_id = q.id))
    from postroad.queue q
    cross join lateral (
        select case when bool_and(p.reads_bundles) then sum(p.places) end as total,
               min(p.places)::bigint as least
        from (
            select p.reads_bundles,
                   case when p.role = 'worker' then coalesce(q.prefetch, p.prefetch) end as places
            from postroad.process p
            where p.stopped_at is null
              and (p.role = 'scheduler' or (p.role = 'worker' and q.name = any(p.queues)))
              and (p.lost_at is null
                   or (not p.reads_bundles and p.lost_at > now() - interval '1 hour'))) p) readers
    where q.id = $1 and q.paused_at is null
      and not exists (
          select from postroad.stop s
          where s.lifted_at is null and s.mode = 'pause' and s.queue_id = q.id
            and s.tenant_id is null and s.kind_id is null and s.campaign_id is null)
    for no key update of q skip locked";

/// Takes $2 tokens out of the bucket, after what has dripped in.
const SPEND: &str = "
    update postroad.queue
    set rate_tokens = least(rate_per_second, rate_tokens
            + rate_per_second * greatest(extract(epoch from clock_timestamp() - rate_at), 0)) - $2,
        rate_at = clock_timestamp()
    where id = $1 and rate_per_second is not null";

/// Claims up to $2 due jobs of queue $1, if at least $4 of its window are free.
///
/// * Runs under the queue's lock, after it: so it counts what the last holder claimed.
/// * Too little credit is a zero and not the lack of a row: `limit null` means no limit.
/// * Every tenant with due work gets a share by its weight, in an order that changes from claim to
///   claim; what a tenant leaves of its share is claimed by the next call. Within a tenant:
///   priority, then due time.
/// * A queue with a rate has a bucket of tokens, one second's worth at most. It is spent under the
///   queue's lock, so the rate is that of all schedulers together.
/// * `skip locked` passes over rows that an enqueueing or resolving transaction still holds.
/// * What earlier claims came to ($5 to $9: tenants, and a due time for each of their priorities) is
///   passed over, and so are the tenants themselves when tenants are found.
/// * Rows are locked when they are picked, so they stay where they are, and are updated by that
///   place: by id, the planner may walk the ids of all jobs there are to meet five hundred.
macro_rules! claim {
    ($tenants:literal, $begin:literal, $set:expr, $end:literal) => {
        concat!("
    with recursive credit as materialized (
        select case when q.window_size > in_pipe.n and q.window_size - in_pipe.n >= $4
               then least(q.window_size - in_pipe.n, $2, rate.n) else 0 end as n,
               in_pipe.n as in_pipe
        from postroad.queue q,
             (select count(*) as n from postroad.job j where j.queue_id = $1 and j.stage = 1) in_pipe,
             lateral (select case when q.rate_per_second is null then $2
                             else floor(least(q.rate_per_second, q.rate_tokens
                                 + q.rate_per_second * greatest(extract(epoch from clock_timestamp() - q.rate_at), 0)))::bigint
                             end as n) rate
        where q.id = $1),
    reached as materialized (
        select r.tenant_id, array[r.p0, r.p1, r.p2, r.p3] as times
        from unnest($5::int[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
            as r(tenant_id, p0, p1, p2, p3)),
    walk(tenant_id) as (
        select 0
        union all
        select coalesce(
            (select j.tenant_id from postroad.job j
             where j.queue_id = $1 and j.stage = 0 and j.tenant_id > w.tenant_id
               and j.tenant_id < coalesce(known.next, 2147483647)
             order by j.tenant_id limit 1), known.next)
        from walk w
        cross join lateral (select min(r.tenant_id) as next from reached r where r.tenant_id > w.tenant_id) known
        where w.tenant_id is not null),
    due as materialized (
        select w.tenant_id, t.weight, r.times, random() as turn
        from walk w join postroad.tenant t on t.id = w.tenant_id
        left join reached r on r.tenant_id = w.tenant_id
        where ",
            $tenants,
            "exists (
            select from generate_series(0, 3) p(priority)
            cross join lateral (
                select from postroad.job j
                where j.queue_id = $1 and j.tenant_id = w.tenant_id and j.priority = p.priority
                  and j.stage = 0 and j.run_at <= now()
                  and j.run_at >= coalesce(r.times[p.priority + 1], '-infinity')
                limit 1) one)),
    share as materialized (
        select due.tenant_id, due.times,
               ceil(credit.n::numeric * due.weight / sum(due.weight) over ())::bigint as n
        from due, credit
        order by due.turn),
    pick as materialized (
        select job.at, due.tenant_id, due.n
        from share due
        cross join lateral (
            select one.at
            from generate_series(0, 3) p(priority)
            cross join lateral (
                select j.ctid as at from postroad.job j
                where j.queue_id = $1 and j.tenant_id = due.tenant_id and j.priority = p.priority
                  and j.stage = 0 and j.run_at <= now()
                  and j.run_at >= coalesce(due.times[p.priority + 1], '-infinity')
                  and (j.expires_at is null or j.expires_at > now()) and j.cancel_at is null
                order by j.run_at
                limit due.n
                for no key update skip locked) one
            limit due.n) job
        limit (select n from credit))
    ",
            $begin,
            "update postroad.job j
    set ",
            $set,
            "
    where j.ctid = any(array(select at from pick))
    returning j.id, j.dispatch, j.kind_id, j.tenant_id, j.attempt, j.traceparent,
              case when j.stage = 1 then j.args::text end as args,
              floor(extract(epoch from j.claimed_at))::bigint, j.priority, j.run_at,
              (select exists (select from pick p group by p.tenant_id, p.n having count(*) >= p.n)),
              (select in_pipe from credit), j.stage, j.stopped_by",
            $end
        )
    };
}

/// What a claim met, claimed or set aside.
struct Seen {
    jobs: usize,
    is_backlog: bool,
    in_pipe: i64,
    reached: Cursor,
}

impl Seen {
    /// Of rows, of which there must be one.
    fn of(rows: &[Row]) -> Self {
        Self {
            jobs: rows.len(),
            is_backlog: rows[0].get(10),
            in_pipe: rows[0].get(11),
            reached: Cursor::of(rows.iter().map(|row| (row.get(3), row.get(8), row.get(9)))),
        }
    }
}

const CLAIM: &str = claim!(
    "",
    "",
    "stage = 1, dispatch = j.dispatch + 1, claimed_at = now(), claimed_by = $3",
    ""
);

/// The same while there are stops. A tenant that is stopped as a whole is passed over; what else is
/// met and stopped is set aside, so that no claim walks over it again: then it takes as long to come
/// past a million stopped jobs as to claim them.
const CLAIM_BESIDE_STOPS: &str = claim!(
    "not exists (
            select from postroad.stop s
            where s.lifted_at is null and s.mode = 'pause' and s.tenant_id = w.tenant_id
              and s.kind_id is null and s.campaign_id is null
              and (s.queue_id is null or s.queue_id = $1))
          and ",
    ", met as (
    ",
    concat!(
        "(stage, stopped_by, dispatch, claimed_at, claimed_by) =
            (select case when stop.id is null then 1 else 4 end, stop.id,
                    j.dispatch + (stop.id is null)::int, case when stop.id is null then now() end,
                    case when stop.id is null then $3::bigint end
             from (select ",
        stop_of_j!(),
        " as id) stop)"
    ),
    "),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select stopped_by, 'waiting', count(*) from met where stage = 4 group by stopped_by)
    select * from met"
);

/// Only what was never started may be let go: a started job is its worker's. A row is known by its id:
/// the stage is asked for in a `case`, or the planner reads the whole pipe, for each job anew.
const RELEASE: &str = "
    update postroad.job j
    set stage = 0, claimed_at = null, claimed_by = null,
        run_at = case when d.delay_ms > 0 then now() + d.delay_ms * interval '1 ms' else j.run_at end
    from unnest($1::uuid[], $2::bigint[], $3::bigint[]) d(id, dispatch, delay_ms)
    where j.id = d.id and j.dispatch = d.dispatch
      and case when j.stage = 1 then j.started_at is null else false end
    returning j.id";

impl Store {
    /// The queues that are not paused and have a due job. Of the `known` ones that is not asked.
    pub async fn due_queues(&self, known: &[i32]) -> Result<Vec<DueQueue>, Error> {
        let rows = self
            .query("looking for due jobs", DUE_QUEUES, &[&known])
            .await?;
        Ok(rows.iter().map(DueQueue::of).collect())
    }

    /// Claims up to `limit` due jobs of a queue for the scheduler `claimer`, in the order in which
    /// they should be sent; what is before `cursor` is passed over. None when less than `credit_min`
    /// of the window is free, when nothing is due, or while another scheduler is claiming from this
    /// queue.
    pub async fn claim(
        &self,
        queue: &DueQueue,
        limit: i64,
        credit_min: i64,
        claimer: ProcessId,
        cursor: &Cursor,
    ) -> Result<Option<Claimed>, Error> {
        let tenants: Vec<_> = cursor.tenants.keys().copied().collect();
        let times = [0, 1, 2, 3].map(|priority| cursor.times(priority));
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
            &queue.id,
            &limit,
            &claimer.0,
            &credit_min,
            &tenants,
            &times[0],
            &times[1],
            &times[2],
            &times[3],
        ];
        self.with_connection("claiming jobs", async |connection| {
            let tx = connection.transaction().await?;
            let lock = tx.prepare_cached(LOCK_QUEUE).await?;
            let Some(locked) = tx.query_opt(&lock, &[&queue.id]).await? else {
                return Ok(None);
            };
            let sql = match locked.get(7) {
                true => CLAIM_BESIDE_STOPS,
                false => CLAIM,
            };
            let claim = tx.prepare_cached(sql).await?;
            let met = tx.query(&claim, &params).await?;
            if met.is_empty() {
                return Ok(None);
            }
            let seen = Seen::of(&met);
            let is_claimed = |row: &Row| row.get::<_, i16>(12) == 1;
            let mut rows: Vec<_> = met.into_iter().filter(is_claimed).collect();
            if locked.get(4) && !rows.is_empty() {
                let spend = tx.prepare_cached(SPEND).await?;
                let spent = rows.len() as f64;
                tx.execute(&spend, &[&queue.id, &spent]).await?;
            }
            rows.sort_by_cached_key(|row| (row.get::<_, i16>(8), row.get::<_, Timestamp>(9)));
            // Before the commit: a claim that cannot be answered for must not be made.
            let ids = |column| rows.iter().map(|row| row.get(column)).collect::<Vec<i32>>();
            let kinds = self.names.read(&tx, Of::Kinds, &ids(2)).await?;
            let tenants = self.names.read(&tx, Of::Tenants, &ids(3)).await?;
            failpoint!("claim.before_commit");
            tx.commit().await?;
            failpoint!("claim.committed");
            let (total, least): (Option<i64>, Option<i64>) = (locked.get(5), locked.get(6));
            let places = total
                .zip(least)
                .map(|(total, least)| Places { total, least });
            let claim = |((row, kind), tenant): ((&Row, _), _)| Claim {
                id: row.get::<_, uuid::Uuid>(0).into(),
                dispatch: row.get(1),
                kind,
                tenant,
                attempts_before: row.get(4),
                traceparent: row.get(5),
                args: row.get(6),
                claimed_at: u64::try_from(row.get::<_, i64>(7)).unwrap_or(0),
            };
            Ok(Some(Claimed {
                queue: DueQueue::of(&locked),
                set_aside: seen.jobs - rows.len(),
                is_backlog: seen.is_backlog,
                in_pipe: seen.in_pipe,
                places,
                reached: seen.reached,
                jobs: rows.iter().zip(kinds).zip(tenants).map(claim).collect(),
            }))
        })
        .await
    }

    /// Puts dispatched jobs that were never started back to scheduled, without charging an
    /// attempt; each no sooner than its delay from now, or at its old time when that is zero.
    pub async fn release(&self, jobs: &[(Fenced, Duration)]) -> Result<Vec<JobId>, Error> {
        let ids: Vec<_> = jobs.iter().map(|(job, _)| *job.id.as_uuid()).collect();
        let dispatches: Vec<_> = jobs.iter().map(|(job, _)| job.dispatch).collect();
        let delays: Vec<_> = jobs.iter().map(|(_, delay)| millis(*delay)).collect();
        let rows = self
            .query("releasing jobs", RELEASE, &[&ids, &dispatches, &delays])
            .await?;
        Ok(rows
            .iter()
            .map(|row| row.get::<_, uuid::Uuid>(0).into())
            .collect())
    }
}
