//! One door, two rooms behind it: the real store and its model.
//!
//! Answers are text in which everything is spelled that must be the same. Times are told in whole
//! minutes from now, and differ by hours where they differ at all: a slow machine changes nothing.

use std::time::Duration;

use jiff::Timestamp;
use postroad_chaos::sim::model_store::Millis;
use postroad_common::job::{JobId, NewJob, QueueName, TenantName};
use postroad_common::store::{
    Claim, DueQueue, Enqueued, FailedJob, Fenced, Outcome, ProcessId, Resolution, Role, Ruling,
};

/// More than any sequence has.
pub(crate) const ALL: usize = 1000;
/// Of every process.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// Everything that the simulation asks a store.
pub(crate) trait Door {
    async fn enqueue(&mut self, jobs: &[NewJob], is_resend: bool) -> String;
    async fn due_queues(&mut self) -> String;
    async fn claim(&mut self, claiming: &Claiming) -> Vec<String>;
    async fn release(&mut self, jobs: &[(Fenced, Duration)]) -> String;
    async fn gate(&mut self, worker: ProcessId, jobs: &[Fenced], is_again: bool) -> String;
    async fn finish(&mut self, outcomes: &[Outcome]) -> String;
    async fn release_never_run(&mut self, worker: ProcessId, jobs: &[Fenced]) -> String;
    async fn register(&mut self, role: Role) -> ProcessId;
    async fn beat(&mut self, process: ProcessId) -> String;
    async fn stop(&mut self, process: ProcessId) -> String;
    async fn watched(&mut self) -> String;
    /// Calls a process lost; `has_beaten` between the look and the verdict.
    async fn call_lost(&mut self, process: ProcessId, has_beaten: bool) -> String;
    async fn release_unstarted(&mut self, slack: Duration) -> String;
    async fn end_lost_runs(&mut self) -> String;
    async fn failed_of(&mut self, jobs: &[Fenced]) -> String;
    async fn failed_long_ago(&mut self, age: Duration) -> String;
    async fn rule(&mut self, rulings: &[Ruling]) -> String;
    async fn note_errors(&mut self, jobs: &[JobId]) -> String;
    async fn expire(&mut self) -> String;
    async fn resolve(&mut self, jobs: &[JobId], to: Resolution) -> String;
    async fn census(&mut self) -> String;
    /// Makes everything so much earlier.
    async fn age(&mut self, by: Duration);
    async fn set_queue(&mut self, queue: &QueueName, window: i64, is_paused: bool);
    /// Every row, in words.
    async fn rows(&mut self) -> Vec<String>;
}

/// A claim to be made.
#[derive(Clone, Debug)]
pub(crate) struct Claiming {
    pub(crate) queue: QueueName,
    pub(crate) limit: i64,
    pub(crate) credit_min: i64,
    pub(crate) claimer: ProcessId,
    /// In which order the model serves the tenants; the real store draws its own.
    pub(crate) order: Vec<TenantName>,
}

pub(crate) fn told_queues(queues: &[DueQueue]) -> String {
    let told = |queue: &DueQueue| format!("{} {} {:?}", queue.name, queue.window, queue.pipe_ttl);
    queues.iter().map(told).collect::<Vec<_>>().join(", ")
}

pub(crate) fn told_claim(claim: &Claim) -> String {
    format!(
        "{} fence {}, {} of {}, {} before, {}",
        claim.id, claim.dispatch, claim.kind, claim.tenant, claim.attempts_before, claim.args
    )
}

/// Which job stands for which, and whether it is new. What words came before, and the database's
/// clock, are not modelled.
pub(crate) fn told_enqueued(enqueued: &[Enqueued]) -> String {
    let told: Vec<_> = enqueued.iter().map(|one| (one.id, one.is_new)).collect();
    format!("{told:?}")
}

pub(crate) fn told_ids(mut ids: Vec<JobId>) -> String {
    ids.sort();
    format!("{ids:?}")
}

pub(crate) fn told_failed(mut failed: Vec<FailedJob>) -> String {
    failed.sort_by_key(|failed| failed.job);
    for failed in &mut failed {
        // To the minute, as everything that has to do with now.
        let minutes = |left: Duration| Duration::from_secs((left.as_secs() + 30) / 60 * 60);
        failed.failed.expires_in = failed.failed.expires_in.map(minutes);
    }
    format!("{failed:?}")
}

/// A moment so many minutes from now.
pub(crate) fn in_minutes(now: Millis, minutes: i64) -> Timestamp {
    Timestamp::from_millisecond(now + minutes * 60_000).unwrap()
}
