//! The way into the pipe: which queues have due jobs, claiming them under a new fence, and
//! letting go of claims whose message did not arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

pub use self::cursor::Cursor;
pub use self::wanted::{SHARED_FOR, ShortPipe, Wanted};
use super::names::Of;
use super::{Error, Fenced, ProcessId, Store, from_millis, millis};
use crate::failpoint;
use crate::job::JobId;

mod cursor;
mod wanted;

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
    /// Whether the pipe was kept short, or will be from now on: tenants wait for each other.
    pub is_shared: bool,
    /// What the pipe holds at most.
    pub window: i64,
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
                   where s.lifted_at is null and (s.queue_id is null or s.queue_id = q.id)),
           exists (select from postroad.tenant t
                   where t.in_pipe_max is not null or t.rate_per_second is not null),
           exists (select from postroad.breaker b where b.provider_id = q.provider_id and b.tenant_id <> 0),
           q.provider_id, q.turn_tenant, q.turn_left, coalesce(q.shared_until > now(), false)
    from postroad.queue q
    left join postroad.provider v on v.id = q.provider_id
    cross join lateral (
        select case when bool_and(p.reads_bundles) then sum(p.places) end as total,
               min(p.places)::bigint as least
        from (
            select p.reads_bundles,
                   case when p.role = 'worker'
                        then least(coalesce(q.prefetch, p.prefetch), v.unanswered_max) end as places
            from postroad.process p
            where p.stopped_at is null
              and (p.role = 'scheduler' or (p.role = 'worker' and q.name = any(p.queues)))
              and (p.lost_at is null
                   or (not p.reads_bundles and p.lost_at > now() - interval '1 hour'))) p) readers
    where q.id = $1 and q.paused_at is null
      and not exists (
          select from postroad.stop s
          where s.lifted_at is null and s.mode = 'pause'
            and (s.queue_id = q.id or s.provider_id = q.provider_id)
            and (s.queue_id is null or s.queue_id = q.id)
            and (s.provider_id is null or s.provider_id = q.provider_id)
            and s.tenant_id is null and s.kind_id is null and s.campaign_id is null)
    for no key update of q skip locked";

/// What the provider ($1) of a queue has room for, whose other queues wait for their claims until this
/// one is over. Null: as much as there may be.
///
/// * It has room for what its workers may have under way, twice: so that none of them runs dry. No
///   queue ($3) gets more of that than its own workers have use for, as long as there are any workers:
///   what nobody consumes would keep what others could do out of the pipe.
/// * While its breaker is open for all tenants, for nothing; and when that has rested, for probes ($2).
/// * Another claim is at its row: that one is not waited for, as it may stand still.
/// * What is in the pipe is counted only where it matters: that takes as long as there is in it.
const LOCK_PROVIDER: &str = "
    select v.rate_per_second is not null from postroad.provider v where v.id = $1
    for no key update skip locked";
const ROOM_OF_PROVIDER: &str = "
    with queues as materialized (
        select q.id, q.name from postroad.queue q where q.provider_id = $1),
    in_pipe as (
        select count(*) as n from queues q join postroad.job j on j.queue_id = q.id and j.stage = 1),
    workers as materialized (
        select count(*) as n,
               count(*) filter (where (select name from queues where id = $3) = any(p.queues)) as own
        from postroad.process p
        where p.role = 'worker' and p.stopped_at is null and p.lost_at is null
          and p.queues && array(select name from queues))
    select least(
        case when v.unanswered_max is not null
             then v.unanswered_max * 2 * greatest(workers.n, 1) - (select n from in_pipe) end,
        case when v.unanswered_max is not null and workers.n > 0
             then v.unanswered_max * 2 * workers.own
                  - (select count(*) from postroad.job j where j.queue_id = $3 and j.stage = 1) end,
        case when v.rate_per_second is not null
             then floor(postroad.tokens(v.rate_per_second, v.rate_tokens, v.rate_at)) end,
        case when b.probe_at > now() or (b.probe_at is not null and workers.own = 0 and workers.n > 0) then 0
             when b.probe_at is not null then $2 - (select n from in_pipe) end)::bigint
    from postroad.provider v cross join workers
    left join postroad.breaker b on b.provider_id = v.id and b.tenant_id = 0
    where v.id = $1";

/// Jobs of a provider and tenant that try whether it works again.
pub(super) const PROBES: i64 = 5;

/// Takes $2 tokens out of the bucket of a queue, after what has dripped in, and says whose turn is next; and
/// that it is shared for $5 seconds, if it is.
const SETTLE_QUEUE: &str = "
    update postroad.queue
    set rate_tokens = case when rate_per_second is null then rate_tokens
                           else postroad.tokens(rate_per_second, rate_tokens, rate_at) - $2 end,
        rate_at = case when rate_per_second is null then rate_at else clock_timestamp() end,
        turn_tenant = $3, turn_left = $4,
        shared_until = coalesce(now() + $5::float8 * interval '1 s', shared_until)
    where id = $1";

/// The same for a provider's.
const SPEND_OF_PROVIDER: &str = "
    update postroad.provider
    set rate_tokens = postroad.tokens(rate_per_second, rate_tokens, rate_at) - $2,
        rate_at = clock_timestamp()
    where id = $1";

/// And for those of tenants ($1, $2), whose rows the claim has locked.
const SPEND_OF_TENANTS: &str = "
    update postroad.tenant_bucket b
    set rate_tokens = postroad.tokens(t.rate_per_second, b.rate_tokens, b.rate_at) - spent.n,
        rate_at = clock_timestamp()
    from unnest($1::int[], $2::bigint[]) spent(tenant_id, n)
    join postroad.tenant t on t.id = spent.tenant_id
    where b.tenant_id = spent.tenant_id and t.rate_per_second is not null";

/// Claims up to $2 due jobs of queue $1, if at least $4 of its window are free.
///
/// * Runs under the queue's lock, after it: so it counts what the last holder claimed.
/// * Too little credit is a zero and not the lack of a row: `limit null` means no limit.
/// * Tenants are served in turn (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995), from $10
///   on, where the last claim ended. Each gets what its weight gives it, and who was cut off goes on
///   with what is left of that ($11). What a tenant leaves of its share is claimed by the next call.
///   Within a tenant: priority, then due time.
/// * Of many tenants one claim serves only some, so that it costs the same however many have due jobs:
///   the walk from one to the next is lazy, and ends when there are enough. (`offset 0`: the next one is
///   looked for once, and not wherever it is named.) Those that have none yet are walked over. Its first
///   row, at place 0, is where it begins and no tenant.
/// * Tenants of whom nothing can be claimed, because it is expired or locked, have had their turn: they
///   would otherwise keep back all that come after them.
/// * A tenant whose next job is hardly late, beside one with a job that has waited for much longer, waits for
///   what that one has in the pipe. Who gets no more than its bounds allow has its backlog from them.
/// * A pipe that is to be short ($13) has room for what its workers run. What was claimed more than a second
///   ago and has not been started does not count: it is behind much else, or nobody runs it, as what a dead
///   scheduler had claimed; and the window bounds it.
/// * A queue with a rate has a bucket of tokens. It is spent under the queue's lock, so the rate is
///   that of all schedulers together. What its provider has room for ($12) is known under that one's.
/// * `skip locked` passes over rows that an enqueueing or resolving transaction still holds.
/// * What earlier claims came to ($5 to $9: tenants, and a due time for each of their priorities) is
///   passed over, and so are the tenants themselves when tenants are found.
/// * Rows are locked when they are picked, so they stay where they are, and are updated by that
///   place: by id, the planner may walk the ids of all jobs there are to meet five hundred.
macro_rules! claim {
    ($held:literal, $most:literal, $buckets:literal, $least:literal, $set:expr, $noted:literal) => {
        concat!("
    with recursive credit as materialized (
        select case when space.n > 0 and space.n >= $4
               then greatest(least(space.n, $2, rate.n, $12), 0) else 0 end as n,
               in_pipe.n as in_pipe
        from postroad.queue q,
             (select count(*) as n from postroad.job j where j.queue_id = $1 and j.stage = 1) in_pipe,
             lateral (select least(q.window_size - in_pipe.n, case when $13::bigint is not null then
                                 $13 - (select count(*) from postroad.job j
                                        where j.queue_id = $1 and j.stage = 1
                                          and (j.started_at is not null
                                               or j.claimed_at > now() - interval '1 s')) end) as n offset 0) space,
             lateral (select case when q.rate_per_second is not null
                             then floor(postroad.tokens(q.rate_per_second, q.rate_tokens, q.rate_at))::bigint
                             end as n) rate
        where q.id = $1),
    reached as materialized (
        select r.tenant_id, array[r.p0, r.p1, r.p2, r.p3] as times
        from unnest($5::int[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
            as r(tenant_id, p0, p1, p2, p3)),
    ", $held, "
    walk(tenant_id, has_wrapped, place) as (
        select $10::int - 1, false, 0
        from credit where credit.n > 0
        union all
        select next.tenant_id, w.has_wrapped or next.tenant_id = 0, w.place + 1
        from walk w
        cross join lateral (select min(r.tenant_id) as id from reached r where r.tenant_id > w.tenant_id) known
        cross join lateral (
            select coalesce(
                (select j.tenant_id from postroad.job j
                 where j.queue_id = $1 and j.stage = 0 and j.tenant_id > w.tenant_id
                   and j.tenant_id < coalesce(known.id, 2147483647)
                 order by j.tenant_id limit 1),
                known.id, case when not w.has_wrapped then 0 end) as tenant_id
            offset 0) next
        where next.tenant_id is not null and not (w.has_wrapped and next.tenant_id >= $10)),
    due as materialized (
        select w.tenant_id, w.place, own.weight, own.most, r.times,
               now() - first.next_at as next_waited, now() - first.oldest_at as waited
        from walk w
        left join lateral (select r.times from reached r where r.tenant_id = w.tenant_id limit 1) r on true
        cross join lateral (
            select t.weight, ", $most, " as most from postroad.tenant t
            where t.id = w.tenant_id limit 1) own
        cross join lateral (
            select min(one.run_at) as oldest_at, (array_agg(one.run_at order by p.priority))[1] as next_at
            from generate_series(0, 3) p(priority)
            cross join lateral (
                select j.run_at from postroad.job j
                where j.queue_id = $1 and j.tenant_id = w.tenant_id and j.priority = p.priority
                  and j.stage = 0 and j.run_at <= now()
                  and j.run_at >= coalesce(r.times[p.priority + 1], '-infinity')
                order by j.run_at
                limit 1) one) first
        where w.place > 0 and coalesce(own.most, 1) > 0 and first.next_at is not null
        limit 64),
    ", $buckets, "
    quantum as materialized (
        select count(*) < 64 as is_round,
               case when count(*) < 64 then greatest(ceil(max(credit.n)::numeric / sum(due.weight)), 1)
                    else 16 end as n
        from due, credit),
    share as materialized (
        select due.tenant_id, due.times, due.place,
               least(case when due.tenant_id = $10 and $11::bigint > 0 and (quantum.n = 1 or not quantum.is_round)
                          then $11::bigint else quantum.n * due.weight end, ", $least, ")::bigint as n
        from due, quantum
        order by due.place),
    pick as materialized (
        select job.at, due.tenant_id, due.place, due.n
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
        limit (select n from credit)),
    picked as materialized (
        select tenant_id, place, n as share, count(*) as n, count(*) >= n as is_full
        from pick group by tenant_id, place, n),
    turn as materialized (
        select case when last.is_cut then last.tenant_id
                    when last.is_all then last.tenant_id + 1
                    else seen.tenant_id + 1 end as tenant_id,
               case when last.is_cut then last.share - last.n else 0 end as rest
        from (select tenant_id from due order by place desc limit 1) seen
        left join (select p.*, is_all, is_all and not p.is_full as is_cut
                   from picked p, credit,
                        lateral (select (select sum(n) from picked) >= credit.n as is_all) filled
                   order by p.place desc limit 1) last on true),
    met as (
    update postroad.job j
    set ",
            $set,
            "
    where j.ctid = any(array(select at from pick))
    returning j.id, j.dispatch, j.kind_id, j.tenant_id, j.attempt, j.traceparent,
              case when j.stage = 1 then j.args::text end as args,
              floor(extract(epoch from j.claimed_at))::bigint, j.priority, j.run_at, j.stage, j.stopped_by)",
            $noted,
            "
    select met.*,
           (select not is_round from quantum) or coalesce((select bool_or(is_full) from picked), false),
           (select in_pipe from credit), turn.tenant_id, turn.rest::bigint,
           (select min(next_waited) < interval '1 s'
                   and max(waited) filter (where most is null or most >= credit.n)
                       > greatest(4 * min(next_waited), interval '100 ms')
            from due, credit)
    from turn left join met on true"
        )
    };
}

/// What a claim met, claimed or set aside.
struct Seen {
    jobs: usize,
    is_backlog: bool,
    is_mixed: bool,
    in_pipe: i64,
    reached: Cursor,
    turn: Turn,
}

/// At which tenant the next claim begins, and with how much of its share.
type Turn = (i32, i64);

impl Seen {
    /// None: of no tenant anything is due, or may be claimed. Every row says of all of the claim what is
    /// from the thirteenth column on; if nothing was met, there is one with nothing else in it.
    fn of(rows: &[Row]) -> Option<Self> {
        let first = rows.first()?;
        let met = if is_met(first) { rows } else { &[] };
        Some(Self {
            jobs: met.len(),
            is_backlog: first.get(12),
            in_pipe: first.get(13),
            reached: Cursor::of(met.iter().map(|row| (row.get(3), row.get(8), row.get(9)))),
            turn: (first.get(14), first.get(15)),
            is_mixed: first.get::<_, Option<bool>>(16).unwrap_or(false),
        })
    }
}

fn is_met(row: &Row) -> bool {
    row.get::<_, Option<i16>>(10).is_some()
}

fn is_claimed(row: &Row) -> bool {
    row.get::<_, Option<i16>>(10) == Some(1)
}

/// What a queue's row and what bounds its claims say under its lock.
struct Locked {
    has_rate: bool,
    places: Option<Places>,
    provider: Option<i32>,
    turn: Turn,
    has_bounded_tenants: bool,
    /// Tenants wait for each other.
    is_shared: bool,
    /// Not everything that is due may be claimed.
    is_bounded: bool,
}

impl Locked {
    fn of(row: &Row) -> Self {
        let (total, least): (Option<i64>, Option<i64>) = (row.get(5), row.get(6));
        let (has_stops, has_bounded_tenants, has_breakers): (bool, bool, bool) =
            (row.get(7), row.get(8), row.get(9));
        Self {
            has_rate: row.get(4),
            places: total
                .zip(least)
                .map(|(total, least)| Places { total, least }),
            provider: row.get(10),
            turn: (row.get(11), row.get(12)),
            has_bounded_tenants,
            is_shared: row.get(13),
            is_bounded: has_stops || has_bounded_tenants || has_breakers,
        }
    }
}

/// What a provider has room for, and whether it has a rate. None: another of its queues is claimed from.
async fn lock_provider(
    tx: &Transaction<'_>,
    provider: i32,
    queue: i32,
) -> Result<Option<(Option<i64>, bool)>, tokio_postgres::Error> {
    let lock = tx.prepare_cached(LOCK_PROVIDER).await?;
    let Some(locked) = tx.query_opt(&lock, &[&provider]).await? else {
        return Ok(None);
    };
    // In a statement of its own, which sees what the last holder of the lock did.
    let room = tx.prepare_cached(ROOM_OF_PROVIDER).await?;
    let room = tx.query_one(&room, &[&provider, &PROBES, &queue]).await?;
    Ok(Some((room.get(0), locked.get(0))))
}

/// Tenants, and how many jobs of each.
fn by_tenant(rows: &[Row]) -> (Vec<i32>, Vec<i64>) {
    let mut jobs: BTreeMap<i32, i64> = BTreeMap::new();
    for row in rows {
        *jobs.entry(row.get(3)).or_default() += 1;
    }
    jobs.into_iter().unzip()
}

const CLAIM: &str = claim!(
    "",
    "null::bigint",
    "",
    "null",
    "stage = 1, dispatch = j.dispatch + 1, claimed_at = now(), claimed_by = $3",
    ""
);

/// The same where there are stops, or a tenant that may not have as much as it likes.
///
/// * A tenant that is stopped as a whole is passed over, and so is one whose breaker is open with the
///   queue's provider ($14), or who has all that it may have: what it has in the pipe here is known from
///   `held`, a map, as it is asked for every tenant that is met; and what it may start now from its
///   bucket. That is locked before it is relied on: another queue's claim may be at it.
/// * What else is met and stopped is set aside, so that no claim walks over it again: then it takes as
///   long to come past a million stopped jobs as to claim them.
const CLAIM_WITHIN_BOUNDS: &str = claim!(
    "held as materialized (
        select jsonb_object_agg(tenant_id, n) as jobs
        from (select j.tenant_id, count(*) as n from postroad.job j
              where j.queue_id = $1 and j.stage = 1 group by j.tenant_id) one),",
    "(select case when exists (
                    select from postroad.stop s
                    where s.lifted_at is null and s.mode = 'pause'
                      and coalesce(s.tenant_id, 0) = t.id and coalesce(s.campaign_id, 0) = 0
                      and s.kind_id is null
                      and (s.queue_id is null or s.queue_id = $1)
                      and (s.provider_id is null or s.provider_id = $14))
                 then 0
                 else least(
                    case when t.in_pipe_max is not null then t.in_pipe_max - h.n end,
                    case when b.probe_at > now() then 0
                         when b.probe_at is not null then $15 - h.n end,
                    case when t.rate_per_second is not null
                         then floor(postroad.tokens(t.rate_per_second, k.rate_tokens, k.rate_at)) end)
                 end::bigint
          from (select coalesce(((select jobs from held) ->> t.id::text)::bigint, 0) as n) h
          left join postroad.breaker b on b.provider_id = $14 and b.tenant_id = t.id
          left join postroad.tenant_bucket k on k.tenant_id = t.id)",
    "bucket as materialized (
        select k.tenant_id, k.rate_tokens, k.rate_at from postroad.tenant_bucket k
        where k.tenant_id = any(array(
            select due.tenant_id from due join postroad.tenant t on t.id = due.tenant_id
            where t.rate_per_second is not null))
        order by k.tenant_id
        for no key update skip locked),",
    "due.most, (
                  select case when t.rate_per_second is not null then coalesce((
                      select floor(postroad.tokens(t.rate_per_second, k.rate_tokens, k.rate_at))
                      from bucket k where k.tenant_id = t.id), 0) end
                  from postroad.tenant t where t.id = due.tenant_id)",
    concat!(
        "(stage, stopped_by, dispatch, claimed_at, claimed_by) =
            (select case when stop.id is null then 1 else 4 end, stop.id,
                    j.dispatch + (stop.id is null)::int, case when stop.id is null then now() end,
                    case when stop.id is null then $3::bigint end
             from (select ",
        stop_of_j!(),
        " as id) stop)"
    ),
    ",
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select stopped_by, 'waiting', count(*) from met where stage = 4 group by stopped_by)"
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

    /// Claims due jobs of a queue for the scheduler `claimer`, in the order in which they should be sent;
    /// what is before `cursor` is passed over. None when less of the window is free than is `wanted`,
    /// when nothing is due, or while another scheduler is claiming from this queue.
    pub async fn claim(
        &self,
        queue: &DueQueue,
        wanted: Wanted,
        claimer: ProcessId,
        cursor: &Cursor,
    ) -> Result<Option<Claimed>, Error> {
        let tenants: Vec<_> = cursor.tenants.keys().copied().collect();
        let times = [0, 1, 2, 3].map(|priority| cursor.times(priority));
        self.with_connection("claiming jobs", async |connection| {
            let tx = connection.transaction().await?;
            let lock = tx.prepare_cached(LOCK_QUEUE).await?;
            let Some(row) = tx.query_opt(&lock, &[&queue.id]).await? else {
                return Ok(None);
            };
            let locked = Locked::of(&row);
            let (room, provider_has_rate) = match locked.provider {
                None => (None, false),
                Some(provider) => match lock_provider(&tx, provider, queue.id).await? {
                    Some(locked) => locked,
                    None => return Ok(None),
                },
            };
            let short = wanted.short.zip(locked.places);
            let window_max = short.filter(|_| locked.is_shared);
            let window_max = window_max.map(|(short, places)| short.window(places));
            let credit_min = window_max.map_or(wanted.credit_min, |_| 1);
            let params: [&(dyn ToSql + Sync); 15] = [
                &queue.id,
                &wanted.limit,
                &claimer.0,
                &credit_min,
                &tenants,
                &times[0],
                &times[1],
                &times[2],
                &times[3],
                &locked.turn.0,
                &locked.turn.1,
                &room,
                &window_max,
                &locked.provider,
                &PROBES,
            ];
            let (sql, params) = match locked.is_bounded {
                true => (CLAIM_WITHIN_BOUNDS, &params[..]),
                false => (CLAIM, &params[..13]),
            };
            let claim = tx.prepare_cached(sql).await?;
            let met = tx.query(&claim, params).await?;
            let Some(seen) = Seen::of(&met) else {
                return Ok(None);
            };
            let mut rows: Vec<_> = met.into_iter().filter(is_claimed).collect();
            let spent = rows.len() as f64;
            let held = seen.in_pipe + rows.len() as i64;
            // Where many places are empty nobody waits.
            let shared = short.filter(|(_, places)| seen.is_mixed && 2 * held >= places.total);
            let shared = shared.map(|(short, places)| short.seconds(places, held));
            if (locked.has_rate && !rows.is_empty()) || locked.turn != seen.turn || shared.is_some()
            {
                let settle = tx.prepare_cached(SETTLE_QUEUE).await?;
                let (tenant, left) = &seen.turn;
                tx.execute(&settle, &[&queue.id, &spent, tenant, left, &shared])
                    .await?;
            }
            if seen.jobs == 0 {
                tx.commit().await?;
                return Ok(None);
            }
            if let Some(provider) = locked.provider.filter(|_| provider_has_rate) {
                let spend = tx.prepare_cached(SPEND_OF_PROVIDER).await?;
                tx.execute(&spend, &[&provider, &spent]).await?;
            }
            if locked.has_bounded_tenants {
                let (tenants, jobs) = by_tenant(&rows);
                let spend = tx.prepare_cached(SPEND_OF_TENANTS).await?;
                tx.execute(&spend, &[&tenants, &jobs]).await?;
            }
            rows.sort_by_cached_key(|row| (row.get::<_, i16>(8), row.get::<_, Timestamp>(9)));
            // Before the commit: a claim that cannot be answered for must not be made.
            let ids = |column| rows.iter().map(|row| row.get(column)).collect::<Vec<i32>>();
            let kinds = self.names.read(&tx, Of::Kinds, &ids(2)).await?;
            let tenants = self.names.read(&tx, Of::Tenants, &ids(3)).await?;
            failpoint!("claim.before_commit");
            tx.commit().await?;
            failpoint!("claim.committed");
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
            let queue = DueQueue::of(&row);
            Ok(Some(Claimed {
                window: window_max.map_or(queue.window, |most| most.min(queue.window)),
                is_shared: window_max.is_some() || shared.is_some(),
                queue,
                set_aside: seen.jobs - rows.len(),
                is_backlog: seen.is_backlog,
                in_pipe: seen.in_pipe,
                places: locked.places,
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
