//! What `postroad_common::store` means, without a database: the same operations on the same types,
//! each atomic, on a clock that the caller moves.
//!
//! The rooms mirror those of the real store, and `tests/conformance.rs` holds the two together. A
//! state changes in one place here, through `JobState::next`; what it refuses is noted as a
//! violation and not done.

mod attempts;
mod claims;
mod jobs;
mod processes;
mod repairs;

use std::collections::BTreeMap;
use std::time::Duration;

use postroad_common::job::{
    JobEvent, JobId, JobState, KindName, KindPolicy, OnLost, QueueName, TenantName,
};
use postroad_common::store::{Census, Fenced, ProcessId};

use super::Bug;
use crate::history::{AttemptError, Move};

/// Milliseconds: of the Unix epoch, or between two moments.
pub type Millis = i64;

/// A job that is not finished.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the columns of postroad.job")]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    pub dispatch: i64,
    pub attempt: i32,
    pub claimed_at: Option<Millis>,
    pub claimed_by: Option<ProcessId>,
    pub started_at: Option<Millis>,
    pub worker_id: Option<ProcessId>,
    pub ended_at: Option<Millis>,
    pub fatal: bool,
    pub retry_after: Option<Duration>,
    pub priority: i16,
    pub queue: QueueName,
    pub kind: KindName,
    pub tenant: TenantName,
    pub run_at: Millis,
    pub expires_at: Option<Millis>,
    pub max_attempts: Option<i32>,
    pub on_lost: Option<OnLost>,
    pub args: String,
}

impl Job {
    /// Stage 1: between the claim and the finish line.
    pub fn is_in_pipe(&self) -> bool {
        matches!(self.state, JobState::Dispatched | JobState::Running)
    }

    fn has_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Back in stage 0, where no column speaks of a claim.
    fn clear(&mut self) {
        (self.claimed_at, self.claimed_by) = (None, None);
        (self.started_at, self.worker_id) = (None, None);
        (self.ended_at, self.retry_after, self.fatal) = (None, None, false);
    }
}

/// A finished job.
#[derive(Clone, Debug)]
pub struct Archived {
    /// As it was, in its final state.
    pub job: Job,
    /// Why it ended, when it did not complete.
    pub reason: Option<&'static str>,
}

/// A queue's row.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// How many of its jobs may be in the pipe.
    pub window: i64,
    /// How long a message may wait in the pipe.
    pub pipe_ttl: Duration,
    /// Whether nothing is dispatched.
    pub is_paused: bool,
}

#[derive(Clone, Debug)]
struct Process {
    seen_at: Millis,
    lease: Duration,
    is_stopped: bool,
    is_lost: bool,
}

type DedupKey = (TenantName, KindName, String);

#[derive(Clone, Debug)]
struct Kept {
    job: JobId,
    expires_at: Millis,
}

/// The model.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    now: Millis,
    bug: Option<Bug>,
    jobs: BTreeMap<JobId, Job>,
    archive: Vec<Archived>,
    dedup: BTreeMap<DedupKey, Kept>,
    queues: Vec<Queue>,
    kinds: BTreeMap<KindName, KindPolicy>,
    tenants: Vec<TenantName>,
    processes: BTreeMap<ProcessId, Process>,
    errors: Vec<AttemptError>,
    moves: Vec<Move>,
    violations: Vec<String>,
}

impl ModelStore {
    /// An empty one, as the migrations leave it, at this moment.
    pub fn new(now: Millis) -> Self {
        let name = |text: &str| text.parse().expect("built-in names are names");
        let policy = |on_lost| KindPolicy {
            on_lost,
            ..KindPolicy::default()
        };
        let kinds = [
            ("echo", OnLost::Retry),
            ("webhook", OnLost::Retry),
            ("sms", OnLost::Hold),
        ];
        let mut store = Self {
            now,
            kinds: kinds
                .map(|(kind, on_lost)| (name(kind), policy(on_lost)))
                .into(),
            ..Self::default()
        };
        store.queue_mut(&"default".parse().expect("`default` is a name"));
        store.add_tenant(&"default".parse().expect("`default` is a name"));
        store
    }

    /// The same with one mistake in it.
    pub fn with_bug(mut self, bug: Option<Bug>) -> Self {
        self.bug = bug;
        self
    }

    /// Moves the clock, which never goes back.
    pub fn set_now(&mut self, now: Millis) {
        self.now = self.now.max(now);
    }

    /// The clock.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// The live rows.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// The archive, oldest first.
    pub fn archive(&self) -> &[Archived] {
        &self.archive
    }

    /// Every attempt error.
    pub fn errors(&self) -> &[AttemptError] {
        &self.errors
    }

    /// Every move of every row so far.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// What no correct store does: a move that the state machine refuses, a window overrun, an
    /// unfair claim.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Counts the jobs that are on their way.
    pub fn census(&self) -> Census {
        let count = |state| {
            let n = self.jobs().filter(|job| job.state == state).count();
            i64::try_from(n).unwrap_or(i64::MAX)
        };
        Census {
            dispatched: count(JobState::Dispatched),
            running: count(JobState::Running),
            failed: count(JobState::Failed),
            held: count(JobState::Held),
        }
    }

    /// Whether each process that ever registered was called lost, and whether it has stopped.
    pub fn processes(&self) -> impl Iterator<Item = (ProcessId, bool, bool)> {
        let ends = |(id, one): (&ProcessId, &Process)| (*id, one.is_lost, one.is_stopped);
        self.processes.iter().map(ends)
    }

    /// Makes everything that happened, or is to happen, so much earlier.
    pub fn age(&mut self, by: Millis) {
        let earlier = |at: &mut Option<Millis>| *at = at.map(|at| at - by);
        for job in self.jobs.values_mut() {
            job.run_at -= by;
            earlier(&mut job.expires_at);
            earlier(&mut job.claimed_at);
            earlier(&mut job.started_at);
            earlier(&mut job.ended_at);
        }
        for kept in self.dedup.values_mut() {
            kept.expires_at -= by;
        }
    }

    /// Sets what an operator sets in a queue's row, which is made if need be.
    pub fn set_queue(&mut self, name: &QueueName, window: i64, pipe_ttl: Duration) {
        let queue = self.queue_mut(name);
        (queue.window, queue.pipe_ttl) = (window, pipe_ttl);
    }

    /// Stops or restarts dispatching from a queue.
    pub fn pause_queue(&mut self, name: &QueueName, is_paused: bool) {
        self.queue_mut(name).is_paused = is_paused;
    }

    fn has_bug(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn queue(&self, name: &QueueName) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.name == *name)
    }

    fn queue_mut(&mut self, name: &QueueName) -> &mut Queue {
        let at = self.queues.iter().position(|queue| queue.name == *name);
        let at = at.unwrap_or_else(|| {
            self.queues.push(Queue {
                name: name.clone(),
                window: 2000,
                pipe_ttl: Duration::from_secs(60),
                is_paused: false,
            });
            self.queues.len() - 1
        });
        &mut self.queues[at]
    }

    fn add_tenant(&mut self, name: &TenantName) {
        if !self.tenants.contains(name) {
            self.tenants.push(name.clone());
        }
    }

    fn policy(&self, job: &Job) -> KindPolicy {
        self.kinds.get(&job.kind).copied().unwrap_or_default()
    }

    fn on_lost(&self, job: &Job) -> OnLost {
        match self.has_bug(Bug::HoldRetried) {
            true => OnLost::Retry,
            false => job.on_lost.unwrap_or(self.policy(job).on_lost),
        }
    }

    /// The live job, if this is its fence.
    fn under_fence(&self, fenced: Fenced) -> Option<&Job> {
        let job = self.jobs.get(&fenced.id)?;
        (job.dispatch == fenced.dispatch).then_some(job)
    }

    /// The one place where a state changes: `event` says where to, `change` does the rest.
    fn advance(&mut self, id: JobId, event: JobEvent, change: impl FnOnce(&mut Job)) {
        self.advance_because(id, event, None, change);
    }

    fn advance_because(
        &mut self,
        id: JobId,
        event: JobEvent,
        reason: Option<&'static str>,
        change: impl FnOnce(&mut Job),
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let (before, to) = match job.state.next(event) {
            Ok(to) => (job.clone(), to),
            Err(illegal) => {
                self.violations.push(format!("{id}: {illegal}"));
                return;
            }
        };
        job.state = to;
        change(job);
        let after = job.clone();
        self.note_move(Some(&before), &after);
        if to.is_final() {
            self.jobs.remove(&id);
            self.archive.push(Archived { job: after, reason });
        }
    }

    fn note_move(&mut self, before: Option<&Job>, after: &Job) {
        self.moves.push(Move {
            t: seconds(self.now),
            id: *after.id.as_uuid(),
            from: before.map(|job| job.state),
            to: Some(after.state),
            dispatch_before: before.map_or(0, |job| job.dispatch),
            dispatch: after.dispatch,
            attempt_before: before.map_or(0, |job| job.attempt),
            attempt: after.attempt,
        });
    }

    fn note_error(&mut self, id: JobId, attempt: i32, code: &str) {
        self.errors.push(AttemptError {
            t: seconds(self.now),
            id: *id.as_uuid(),
            attempt,
            code: code.to_owned(),
        });
    }
}

/// Milliseconds as a history spells time.
pub(super) fn seconds(at: Millis) -> f64 {
    at as f64 / 1000.0
}

/// A duration in the model's milliseconds.
pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}

fn from_millis(millis: Millis) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
