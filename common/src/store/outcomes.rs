//! What a worker writes: the start gate, and how the attempt ended.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Error, Fenced, ProcessId, Store, millis};
use crate::failpoint;

/// What the start gate says to a batch of deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// One verdict per delivery, in the order asked.
    Judged(Vec<GateVerdict>),
    /// A watcher has called this worker lost: it may start nothing under this id.
    WorkerIsLost,
}

/// What the start gate says to one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateVerdict {
    /// Run it; this is the attempt's number.
    Start {
        /// 1 for the first.
        attempt: i32,
    },
    /// Its time had passed; it is now `expired`.
    Expired,
    /// A stop keeps it from being started; it is set aside.
    Stopped,
    /// Its recipient is suppressed; it is now `cancelled`.
    Suppressed,
    /// Its recipient may not be reached any more today; it waits again.
    Closed,
    /// The breaker of its provider is open; it waits again.
    Broken,
    /// Somebody else has it, or had it: drop the delivery.
    Refused,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The job and the fence under which it ran.
    pub job: Fenced,
    /// The end.
    pub ending: Ending,
}

/// The ways in which an attempt ends.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It worked; a result to keep, as JSON.
    Completed(Option<String>),
    /// It definitely failed.
    Failed {
        /// No further attempt can help.
        fatal: bool,
        /// How long the other side asked us to wait.
        retry_after: Option<Duration>,
        /// The class of the error, for counting.
        code: &'static str,
        /// What it said.
        message: String,
    },
    /// Nobody knows whether it took effect: held, or failed where the kind may be repeated.
    Unknown {
        /// The class of the error, for counting.
        code: &'static str,
        /// What it said.
        message: String,
    },
    /// The handler wants to run later.
    Snoozed(Duration),
    /// The worker had to stop first: held, or scheduled again where the kind may be repeated.
    Interrupted,
    /// Somebody called it off while it ran: held where it may not be repeated, as nobody knows
    /// whether it took effect; cancelled otherwise.
    Cancelled,
}

/// Where an ended attempt left its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// In the archive.
    Completed,
    /// On its way through the dead-letter queue.
    Failed,
    /// Waiting for a decision.
    Held,
    /// Back in the schedule.
    Scheduled,
    /// Nowhere: the fence had moved on, or this outcome was written before.
    Superseded,
}

/// The longest error text kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Whether the job of alias `j` is in the pipe and nobody has started it; or only this worker has, who
/// asks again because it has not heard so.
macro_rules! may_start_j {
    () => {
        "case when j.stage = 1 then j.started_at is null or ($4 and j.worker_id = $1)
              else false end"
    };
}

/// Whether the recipient of the job of alias `j` is not to get anything any more.
macro_rules! is_suppressed_j {
    () => {
        "(j.recipient is not null and exists (
              select from postroad.suppression u
              where u.tenant_id = j.tenant_id and u.recipient = j.recipient
                and u.kind_id in (0, j.kind_id)))"
    };
}

/// Whether a breaker keeps the job of alias `j` back.
macro_rules! is_broken_j {
    () => {
        "(exists (
              select from postroad.queue q
              join postroad.breaker b on b.provider_id = q.provider_id
              where q.id = j.queue_id and b.tenant_id in (0, j.tenant_id) and b.probe_at > now()))"
    };
}

/// The gate is the dedup, the lease, the expiry check and the kill switch in one statement.
///
/// * Asked again ($4), because the first answer was lost, it grants a worker what it has granted it
///   before; the attempt is not charged twice. Asked for the first time it never does: then a
///   start under this worker's id is one that ran, and lost its outcome.
/// * Neither time it grants what has expired, what a stop names, what an open breaker keeps back, or
///   what is for a recipient that is not to get anything any more, or not now. What becomes of those is for [`REFUSE`] to say, which is a
///   statement of its own: planned with this one it cost every job a third of a millisecond.
/// * A worker that was called lost gets no verdicts: what it was told about its jobs is over.
/// * A batch may hold an old and a new message of one job: a verdict is for a job *and* its fence.
/// * Locks rows in the order of ids, as every statement here does.
/// * Changes no indexed column, so the update stays on its page (HOT).
/// * A row is known by its id. The stage is asked for in a `case`, through which the planner does not
///   see the index of what is in the pipe: it would read the whole window for every batch.
/// * Says how late each job starts: since it was due, and not since before it was there.
const START: &str = concat!(
    "
    with asked as materialized (
        select * from unnest($2::uuid[], $3::bigint[]) with ordinality as u(id, dispatch, n)
        order by id),
    worker as materialized (
        select from postroad.process p
        where p.id = $1 and p.lost_at is null and p.stopped_at is null),
    started as (
        update postroad.job j
        set started_at = coalesce(j.started_at, now()), worker_id = $1,
            attempt = j.attempt + (j.started_at is null)::int
        from asked
        where j.id = asked.id and j.dispatch = asked.dispatch
          and ",
    may_start_j!(),
    "
          and (j.expires_at is null or j.expires_at > now())
          and (j.closes_at is null or j.closes_at > now())
          and not ((select exists (select from postroad.stop where lifted_at is null)) and ",
    stop_of_j!(),
    " is not null)
          and not ((select exists (select from postroad.breaker where probe_at > now())) and ",
    is_broken_j!(),
    ")
          and not ",
    is_suppressed_j!(),
    "
          and exists (select from worker)
        returning j.id, j.dispatch, j.attempt,
                  date_part('epoch', j.started_at - greatest(j.run_at, j.created_at)) as late)
    select exists (select from worker), started.attempt, started.late
    from asked
    left join started on started.id = asked.id and started.dispatch = asked.dispatch
    order by asked.n"
);

/// What becomes of jobs that the gate did not start, if they are in the pipe and this worker's to start.
///
/// * What has expired is archived.
/// * A recipient that is suppressed gets nothing any more: the job is cancelled. One that may not be
///   reached any more today is looked at by a scheduler, which says when again: until then the job
///   waits, and for a few seconds if no scheduler is there.
/// * What a breaker keeps back waits as it did before: claims pass over it until that is closed.
/// * What a stop names is set aside, and no attempt is charged. How long a job has been in the worker's
///   hands ($5) tells whether the stop met it there or in RabbitMQ.
/// * A batch may ask about a job twice.
/// * Of what there is no reason any more not to start, it says so: it has to be asked for again.
const REFUSE: &str = concat!(
    "
    with asked as materialized (
        select * from unnest($2::uuid[], $3::bigint[], $5::bigint[])
            with ordinality as u(id, dispatch, in_hand_ms, n)),
    judged as materialized (
        select j.id, j.dispatch, a.in_hand_ms, stop.id as stop_id, case
            when j.expires_at <= now() then 'expired'
            when ",
    is_suppressed_j!(),
    " then 'suppressed'
            when stop.id is not null then 'stopped'
            when ",
    is_broken_j!(),
    " then 'broken'
            when j.closes_at <= now() then 'closed'
            else 'open' end as verdict
        from (select id, dispatch, max(in_hand_ms) as in_hand_ms from asked group by id, dispatch) a
        join postroad.job j on j.id = a.id and j.dispatch = a.dispatch
        cross join lateral (select ",
    stop_of_j!(),
    " as id) stop
        where ",
    may_start_j!(),
    "
          and exists (select from postroad.process p
                      where p.id = $1 and p.lost_at is null and p.stopped_at is null)
        order by j.id
        for no key update of j),
    gone as (
        delete from postroad.job j
        using judged v
        where j.id = v.id and v.verdict in ('expired', 'suppressed')
        returning j.*, v.verdict),
    archived as (
        ",
    archive_from!(
        "gone",
        "(case verdict when 'expired' then 'expired' else 'cancelled' end)::postroad.job_state",
        "case verdict when 'expired' then 'expired in the pipe' else verdict end",
        "null",
        "args"
    ),
    "),
    back as (
        update postroad.job j
        set stage = case v.verdict when 'stopped' then 4 else 0 end, stopped_by = v.stop_id,
            run_at = case v.verdict when 'closed' then now() + interval '5 seconds' else j.run_at end,
            claimed_at = null, claimed_by = null, started_at = null, worker_id = null,
            attempt = j.attempt - (j.started_at is not null)::int
        from judged v
        where j.id = v.id and v.verdict in ('stopped', 'broken', 'closed')
        returning v.stop_id, v.in_hand_ms),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select b.stop_id, p.place, count(*)
        from back b
        join postroad.stop s on s.id = b.stop_id
        cross join lateral (
            select case when now() - b.in_hand_ms * interval '1 ms' < s.created_at
                   then 'prefetched' else 'pipe' end as place) p
        group by b.stop_id, p.place)
    select judged.verdict
    from asked left join judged on judged.id = asked.id and judged.dispatch = asked.dispatch
    order by asked.n"
);

/// How often jobs are asked for of which there was no reason any more not to start them.
const OPEN_ASKED_MAX: usize = 3;

/// Completes jobs of arrays $1 (ids), $2 (fences), $3 (results).
///
/// The fence decides, and hardly the stage: as long as nobody has claimed the job again, a success
/// that comes after a rescuer gave the worker up is evidence, and saves a second run. But a job
/// that nobody has started under this fence cannot have succeeded under it: one that is in the pipe
/// and not started, or back in the schedule without an attempt.
const COMPLETE: &str = concat!(
    "
    with done as (
        select * from unnest($1::uuid[], $2::bigint[], $3::text[]) as u(id, dispatch, result)),
    gone as (
        delete from postroad.job j
        using done
        where j.id = done.id and j.dispatch = done.dispatch
          and case j.stage when 1 then j.started_at is not null
                           when 0 then j.attempt > 0
                           when 4 then j.attempt > 0
                           else true end
        returning j.*, done.result)
    ",
    archive_from!("gone", "'completed'", "null", "result", "null")
);

/// What completes a job, for a handler that does it inside its own transaction: arrays of ids ($1),
/// fences ($2) and results ($3).
pub const COMPLETE_IN_TRANSACTION: &str = COMPLETE;

/// Ends attempts that did not complete. `verb` is what the worker says; what an unclear end means
/// is for the job's `on_lost` to say.
///
/// A failure may also end a job that is held: the worker was given up too early, and now says that
/// there was no effect.
const END: &str = "
    with ended as (
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[])
            as u(id, dispatch, verb, wait_ms, code, message)),
    judged as materialized (
        select e.*, j.attempt, j.worker_id, case
            when e.verb in ('failed', 'fatal') then 2
            when e.verb = 'snoozed' then 0
            when coalesce(j.on_lost, k.on_lost) = 'hold' then 3
            when e.verb = 'interrupted' then 0
            else 2 end as stage
        from ended e
        join postroad.job j on j.id = e.id and j.dispatch = e.dispatch
        join postroad.kind k on k.id = j.kind_id
        where (j.stage = 1 and j.started_at is not null)
           or (j.stage = 3 and e.verb in ('failed', 'fatal'))
        for no key update of j),
    moved as (
        update postroad.job j
        set stage = v.stage,
            fatal = v.verb = 'fatal',
            retry_after = case when v.stage = 2 then v.wait_ms * interval '1 ms' end,
            ended_at = case when v.stage <> 0 then now() end,
            claimed_at = case when v.stage <> 0 then j.claimed_at end,
            claimed_by = case when v.stage <> 0 then j.claimed_by end,
            started_at = case when v.stage <> 0 then j.started_at end,
            worker_id = case when v.stage <> 0 then j.worker_id end,
            attempt = j.attempt - (v.stage = 0)::int,
            run_at = case when v.verb = 'snoozed' then now() + v.wait_ms * interval '1 ms'
                          else j.run_at end
        from judged v
        where j.id = v.id and j.dispatch = v.dispatch
        returning j.id, j.dispatch, v.stage, v.attempt, v.worker_id, v.code, v.message),
    noted as (
        insert into postroad.attempt_error (job_id, attempt, worker_id, code, message)
        select id, attempt, worker_id, code, message from moved where code is not null)
    select id, dispatch, stage from moved";

/// Only for jobs that the worker asked the gate for and never got an answer about: they did not run.
const RELEASE_NEVER_RUN: &str = "
    update postroad.job j
    set stage = 0, claimed_at = null, claimed_by = null, started_at = null, worker_id = null,
        attempt = j.attempt - 1
    from unnest($2::uuid[], $3::bigint[]) d(id, dispatch)
    where j.id = d.id and j.dispatch = d.dispatch and j.stage = 1 and j.worker_id = $1
    returning j.id";

impl Store {
    /// Asks for the right to start these deliveries, each once.
    pub async fn gate(&self, worker: ProcessId, jobs: &[Fenced]) -> Result<Gate, Error> {
        self.ask_gate(worker, &just_taken(jobs), false, |_| ())
            .await
    }

    /// Asks the very same question again, whose answer did not come: jobs that the first one
    /// started are granted once more.
    pub async fn gate_again(&self, worker: ProcessId, jobs: &[Fenced]) -> Result<Gate, Error> {
        self.ask_gate(worker, &just_taken(jobs), true, |_| ()).await
    }

    /// The one or the other, about jobs of which is told how long they have been in the worker's
    /// hands; tells `late`, job by job in the order given, how long it had been due when it started.
    /// Those that do not start are zero.
    pub async fn ask_gate(
        &self,
        worker: ProcessId,
        asked: &[(Fenced, Duration)],
        is_again: bool,
        mut late: impl FnMut(Duration),
    ) -> Result<Gate, Error> {
        let mut answers = vec![(GateVerdict::Refused, Duration::ZERO); asked.len()];
        let mut open: Vec<usize> = (0..asked.len()).collect();
        for _ in 0..OPEN_ASKED_MAX {
            let jobs: Vec<_> = open.iter().map(|place| asked[*place]).collect();
            let Some(started) = self.start(worker, &jobs, is_again).await? else {
                return Ok(Gate::WorkerIsLost);
            };
            let mut not_started = Vec::new();
            for (place, started) in open.iter().zip(started) {
                match started {
                    Some(started) => answers[*place] = started,
                    None => not_started.push(*place),
                }
            }
            if not_started.is_empty() {
                break;
            }
            let jobs: Vec<_> = not_started.iter().map(|place| asked[*place]).collect();
            let refused = self.refuse(worker, &jobs, is_again).await?;
            open.clear();
            for (place, verdict) in not_started.into_iter().zip(refused) {
                match verdict {
                    Some(verdict) => answers[place].0 = verdict,
                    None => open.push(place),
                }
            }
            if open.is_empty() {
                break;
            }
        }
        let verdicts = answers.iter().map(|(verdict, _)| *verdict).collect();
        answers.iter().for_each(|(_, by)| late(*by));
        Ok(Gate::Judged(verdicts))
    }

    /// Starts what may be started: the verdict, and how late. None: the worker is lost.
    async fn start(
        &self,
        worker: ProcessId,
        asked: &[(Fenced, Duration)],
        is_again: bool,
    ) -> Result<Option<Vec<Option<(GateVerdict, Duration)>>>, Error> {
        let jobs: Vec<_> = asked.iter().map(|(job, _)| *job).collect();
        let (ids, dispatches) = fences(&jobs);
        let rows = self
            .query(
                "starting jobs",
                START,
                &[&worker.0, &ids, &dispatches, &is_again],
            )
            .await?;
        if rows.first().is_some_and(|row| !row.get::<_, bool>(0)) {
            return Ok(None);
        }
        let started = |row: &tokio_postgres::Row| {
            let attempt = row.get::<_, Option<i32>>(1)?;
            let late = Duration::try_from_secs_f64(row.get(2)).unwrap_or_default();
            Some((GateVerdict::Start { attempt }, late))
        };
        Ok(Some(rows.iter().map(started).collect()))
    }

    /// Says why jobs were not started, and does what follows. None: there is no reason any more.
    async fn refuse(
        &self,
        worker: ProcessId,
        asked: &[(Fenced, Duration)],
        is_again: bool,
    ) -> Result<Vec<Option<GateVerdict>>, Error> {
        let jobs: Vec<_> = asked.iter().map(|(job, _)| *job).collect();
        let in_hand: Vec<_> = asked.iter().map(|(_, time)| millis(*time)).collect();
        let (ids, dispatches) = fences(&jobs);
        let rows = self
            .query(
                "refusing jobs",
                REFUSE,
                &[&worker.0, &ids, &dispatches, &is_again, &in_hand],
            )
            .await?;
        let verdict = |row: &tokio_postgres::Row| match row.get(0) {
            Some("expired") => Some(GateVerdict::Expired),
            Some("stopped") => Some(GateVerdict::Stopped),
            Some("suppressed") => Some(GateVerdict::Suppressed),
            Some("closed") => Some(GateVerdict::Closed),
            Some("broken") => Some(GateVerdict::Broken),
            Some("open") => None,
            _ => Some(GateVerdict::Refused),
        };
        Ok(rows.iter().map(verdict).collect())
    }

    /// Writes how attempts ended, and says where that left each job, in the order given.
    pub async fn finish(&self, outcomes: &[Outcome]) -> Result<Vec<Moved>, Error> {
        // Two statements, each its own transaction: what the first wrote stays true if the second
        // has to be repeated.
        let completed = self.complete(outcomes).await?;
        failpoint!("finisher.between_statements");
        let ended = self.end(outcomes).await?;
        let moved = |outcome: &Outcome| match &outcome.ending {
            Ending::Completed(_) if completed.contains(&outcome.job) => Moved::Completed,
            Ending::Completed(_) => Moved::Superseded,
            _ => match ended.get(&outcome.job) {
                Some(0) => Moved::Scheduled,
                Some(3) => Moved::Held,
                Some(_) => Moved::Failed,
                None => Moved::Superseded,
            },
        };
        Ok(outcomes.iter().map(moved).collect())
    }

    async fn complete(&self, outcomes: &[Outcome]) -> Result<HashSet<Fenced>, Error> {
        let mut done: Vec<(Fenced, Option<&str>)> = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            if let Ending::Completed(result) = &outcome.ending {
                done.push((outcome.job, result.as_deref()));
            }
        }
        if done.is_empty() {
            return Ok(Default::default());
        }
        // In the order of ids, as every statement here locks rows.
        done.sort_unstable_by_key(|(job, _)| *job);
        let jobs: Vec<_> = done.iter().map(|(job, _)| *job).collect();
        let results: Vec<_> = done.iter().map(|(_, result)| *result).collect();
        let (ids, dispatches) = fences(&jobs);
        let rows = self
            .query("completing jobs", COMPLETE, &[&ids, &dispatches, &results])
            .await?;
        Ok(rows.iter().map(fenced).collect())
    }

    async fn end(&self, outcomes: &[Outcome]) -> Result<HashMap<Fenced, i32>, Error> {
        let mut ended: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| Some((outcome.job, Verb::of(&outcome.ending)?)))
            .collect();
        if ended.is_empty() {
            return Ok(Default::default());
        }
        ended.sort_unstable_by_key(|(job, _)| *job);
        let jobs: Vec<_> = ended.iter().map(|(job, _)| *job).collect();
        let verbs: Vec<_> = ended.iter().map(|(_, verb)| verb.name).collect();
        let waits: Vec<_> = ended
            .iter()
            .map(|(_, verb)| verb.wait.map(millis))
            .collect();
        let codes: Vec<_> = ended.iter().map(|(_, verb)| verb.code).collect();
        let messages: Vec<_> = ended
            .iter()
            .map(|(_, verb)| verb.message.as_deref())
            .collect();
        let (ids, dispatches) = fences(&jobs);
        let rows = self
            .query(
                "ending attempts",
                END,
                &[&ids, &dispatches, &verbs, &waits, &codes, &messages],
            )
            .await?;
        Ok(rows.iter().map(|row| (fenced(row), row.get(2))).collect())
    }

    /// At the end of a worker: gives back the jobs that it asked the gate for and never got an
    /// answer about. They may have been started under its id, but they never ran.
    pub async fn release_never_run(
        &self,
        worker: ProcessId,
        jobs: &[Fenced],
    ) -> Result<usize, Error> {
        let (ids, dispatches) = fences(jobs);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&worker.0, &ids, &dispatches];
        Ok(self
            .query("releasing unrun jobs", RELEASE_NEVER_RUN, &params)
            .await?
            .len())
    }
}

/// An ending as the statement takes it.
struct Verb {
    name: &'static str,
    wait: Option<Duration>,
    code: Option<&'static str>,
    message: Option<String>,
}

impl Verb {
    fn of(ending: &Ending) -> Option<Self> {
        let verb = |name, wait, code, message: Option<&String>| {
            Some(Self {
                name,
                wait,
                code,
                message: message.map(|m| clipped(m)),
            })
        };
        match ending {
            Ending::Completed(_) => None,
            Ending::Failed {
                fatal: true,
                code,
                message,
                ..
            } => verb("fatal", None, Some(*code), Some(message)),
            Ending::Failed {
                retry_after,
                code,
                message,
                ..
            } => verb("failed", *retry_after, Some(*code), Some(message)),
            Ending::Unknown { code, message } => verb("unknown", None, Some(*code), Some(message)),
            Ending::Snoozed(wait) => verb("snoozed", Some(*wait), None, None),
            Ending::Cancelled => Some(Self {
                name: "cancelled",
                wait: None,
                code: Some("cancelled"),
                message: Some("called off while it ran; it may have taken effect".to_owned()),
            }),
            Ending::Interrupted => Some(Self {
                name: "interrupted",
                wait: None,
                code: Some("interrupted"),
                message: Some("the worker stopped before the attempt ended".to_owned()),
            }),
        }
    }
}

/// At most [`MESSAGE_BYTES_MAX`] of a text, without the NUL that Postgres cannot store.
fn clipped(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].replace('\0', "\u{fffd}")
}

/// The first two columns of a row.
fn fenced(row: &tokio_postgres::Row) -> Fenced {
    Fenced {
        id: row.get::<_, uuid::Uuid>(0).into(),
        dispatch: row.get(1),
    }
}

fn just_taken(jobs: &[Fenced]) -> Vec<(Fenced, Duration)> {
    jobs.iter().map(|job| (*job, Duration::ZERO)).collect()
}

fn fences(jobs: &[Fenced]) -> (Vec<uuid::Uuid>, Vec<i64>) {
    jobs.iter()
        .map(|job| (*job.id.as_uuid(), job.dispatch))
        .unzip()
}
