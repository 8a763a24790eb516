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

/// The gate is the dedup, the lease and the expiry check in one statement.
///
/// * Asked again ($4), because the first answer was lost, it grants a worker what it has granted it
///   before; the attempt is not charged twice. Asked for the first time it never does: then a
///   start under this worker's id is one that ran, and lost its outcome.
/// * Neither time it grants what has expired. The grant that was never heard started nothing.
/// * A worker that was called lost gets no verdicts: what it was told about its jobs is over.
/// * A batch may hold an old and a new message of one job: a verdict is for a job *and* its fence.
/// * Locks rows in the order of ids, as every statement here does.
/// * Changes no indexed column, so the update stays on its page (HOT).
/// * A row is known by its id. The stage is asked for in a `case`, through which the planner does not
///   see the index of what is in the pipe: it would read the whole window for every batch.
/// * What was started cannot have expired: only the others are looked up again.
/// * What a stop names is set aside, and no attempt is charged. While there is none, that is one look
///   at an empty index for the whole batch.
/// * How long a job has been in the worker's hands ($5) tells whether the stop met it there or in
///   RabbitMQ.
/// * Says how late each job starts: since it was due, and not since before it was there.
const GATE: &str = concat!(
    "
    with asked as materialized (
        select * from unnest($2::uuid[], $3::bigint[], $5::bigint[])
            with ordinality as u(id, dispatch, in_hand_ms, n)
        order by id),
    stops as materialized (
        select exists (select from postroad.stop where lifted_at is null) as are_there),
    worker as materialized (
        select from postroad.process p
        where p.id = $1 and p.lost_at is null and p.stopped_at is null),
    started as (
        update postroad.job j
        set started_at = coalesce(j.started_at, now()), worker_id = $1,
            attempt = j.attempt + (j.started_at is null)::int
        from asked
        where j.id = asked.id and j.dispatch = asked.dispatch
          and case when j.stage = 1 then j.started_at is null or ($4 and j.worker_id = $1)
                   else false end
          and (j.expires_at is null or j.expires_at > now())
          and not ((select are_there from stops) and ",
    stop_of_j!(),
    " is not null)
          and exists (select from worker)
        returning j.id, j.dispatch, j.attempt,
                  date_part('epoch', j.started_at - greatest(j.run_at, j.created_at)) as late),
    not_started as materialized (
        select a.id, a.dispatch, a.in_hand_ms from asked a
        where not exists (select from started s where s.id = a.id and s.dispatch = a.dispatch)),
    expired as (
        delete from postroad.job j
        using not_started asked
        where j.id = asked.id and j.dispatch = asked.dispatch
          and case when j.stage = 1 then j.started_at is null or ($4 and j.worker_id = $1)
                   else false end
          and j.expires_at <= now()
          and exists (select from worker)
        returning j.*),
    archived as (
        ",
    archive_from!(
        "expired",
        "'expired'",
        "'expired in the pipe'",
        "null",
        "args"
    ),
    "),
    stopped as (
        update postroad.job j
        set stage = 4, stopped_by = ",
    stop_of_j!(),
    ",
            claimed_at = null, claimed_by = null, started_at = null, worker_id = null,
            attempt = j.attempt - (j.started_at is not null)::int
        from not_started asked
        where j.id = asked.id and j.dispatch = asked.dispatch
          and case when j.stage = 1 then j.started_at is null or ($4 and j.worker_id = $1)
                   else false end
          and (j.expires_at is null or j.expires_at > now())
          and (select are_there from stops) and ",
    stop_of_j!(),
    " is not null
          and exists (select from worker)
        returning j.id, j.dispatch, j.stopped_by, asked.in_hand_ms),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select c.stopped_by, p.place, count(*)
        from stopped c
        join postroad.stop s on s.id = c.stopped_by
        cross join lateral (
            select case when now() - c.in_hand_ms * interval '1 ms' < s.created_at
                   then 'prefetched' else 'pipe' end as place) p
        group by c.stopped_by, p.place)
    select exists (select from worker), started.attempt, expired.id is not null, started.late,
           stopped.id is not null
    from asked
    left join started on started.id = asked.id and started.dispatch = asked.dispatch
    left join expired on expired.id = asked.id and expired.dispatch = asked.dispatch
    left join stopped on stopped.id = asked.id and stopped.dispatch = asked.dispatch
    order by asked.n"
);

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
        let jobs: Vec<_> = asked.iter().map(|(job, _)| *job).collect();
        let in_hand: Vec<_> = asked.iter().map(|(_, time)| millis(*time)).collect();
        let (ids, dispatches) = fences(&jobs);
        let rows = self
            .query(
                "starting jobs",
                GATE,
                &[&worker.0, &ids, &dispatches, &is_again, &in_hand],
            )
            .await?;
        if rows.first().is_some_and(|row| !row.get::<_, bool>(0)) {
            return Ok(Gate::WorkerIsLost);
        }
        let verdict = |row: &tokio_postgres::Row| match row.get(1) {
            Some(attempt) => GateVerdict::Start { attempt },
            None if row.get(2) => GateVerdict::Expired,
            None if row.get(4) => GateVerdict::Stopped,
            None => GateVerdict::Refused,
        };
        for row in &rows {
            let seconds: Option<f64> = row.get(3);
            late(Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default());
        }
        Ok(Gate::Judged(rows.iter().map(verdict).collect()))
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
