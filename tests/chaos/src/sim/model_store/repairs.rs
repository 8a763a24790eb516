//! What the scheduler's sweeps read and move, and what people decide about held jobs.

use std::time::Duration;

use postroad_common::job::retry::{FailedAttempt, Verdict};
use postroad_common::job::{JobEvent, JobId, JobState, OnLost};
use postroad_common::store::{FailedJob, Fenced, Rescued, Resolution, Ruling};

use super::{Job, ModelStore, from_millis, millis};
use crate::sim::Bug;

impl ModelStore {
    /// Those of `jobs` that are still failed under the same fence.
    pub fn failed_of(&self, jobs: &[Fenced]) -> Vec<FailedJob> {
        let found = jobs.iter().filter_map(|job| self.under_fence(*job));
        let failed = found.filter(|job| job.state == JobState::Failed);
        failed.map(|job| self.failed_job(job)).collect()
    }

    /// Up to `limit` jobs that failed at least `age` ago.
    pub fn failed_long_ago(&self, age: Duration, limit: usize) -> Vec<FailedJob> {
        let latest = self.now - millis(age);
        let is_old = |job: &&Job| {
            job.state == JobState::Failed && job.ended_at.is_some_and(|at| at <= latest)
        };
        let mut old: Vec<_> = self.jobs().filter(is_old).collect();
        old.sort_by_key(|job| job.ended_at);
        let old = old.into_iter().take(limit);
        old.map(|job| self.failed_job(job)).collect()
    }

    fn failed_job(&self, job: &Job) -> FailedJob {
        let policy = self.policy(job);
        FailedJob {
            job: fenced(job),
            failed: FailedAttempt {
                attempt: job.attempt,
                max_attempts: job.max_attempts.unwrap_or(policy.max_attempts),
                fatal: job.fatal,
                retry_after: job.retry_after,
                backoff_base: policy.backoff_base,
                backoff_cap: policy.backoff_cap,
                expires_in: job.expires_at.map(|at| from_millis(at - self.now)),
            },
        }
    }

    /// Carries out rulings; says how many still applied.
    pub fn rule(&mut self, rulings: &[Ruling]) -> usize {
        let now = self.now;
        let mut applied = 0;
        for Ruling { job, verdict } in rulings {
            let is_failed = |job: &&Job| job.state == JobState::Failed;
            if self.under_fence(*job).filter(is_failed).is_none() {
                continue;
            }
            applied += 1;
            match verdict {
                Verdict::RetryAfter(wait) => {
                    self.advance(job.id, JobEvent::RetryScheduled, |job| {
                        job.clear();
                        job.run_at = now + millis(*wait);
                    });
                }
                Verdict::Dead(reason) => {
                    self.advance_because(job.id, JobEvent::GivenUp, Some(reason), |_| {});
                }
            }
        }
        applied
    }

    /// Writes an error beside live jobs that were refused, unless it is there already. (A job that
    /// is named twice is noted twice: one statement does not see its own rows.)
    pub fn note_errors(&mut self, jobs: &[JobId], code: &'static str) {
        let is_known = |id: &JobId| {
            let mut errors = self.errors.iter();
            errors.any(|error| error.id == *id.as_uuid() && error.code == code)
        };
        let unknown: Vec<_> = jobs.iter().copied().filter(|id| !is_known(id)).collect();
        for id in unknown {
            if let Some(attempt) = self.jobs.get(&id).map(|job| job.attempt) {
                self.note_error(id, attempt, code);
            }
        }
    }

    /// Puts claims that came to nothing back to scheduled. At most `limit` per queue.
    pub fn release_unstarted(&mut self, slack: Duration, limit: usize) -> usize {
        if self.has_bug(Bug::NoRescue) {
            return 0;
        }
        let is_lost = |store: &Self, job: &Job| {
            let ttl = store.queue(&job.queue).map_or(0, |q| millis(q.pipe_ttl));
            let oldest = store.now - ttl - millis(slack);
            job.state == JobState::Dispatched
                && (job.claimed_at.is_some_and(|at| at < oldest)
                    || job.claimed_by.is_some_and(|id| store.is_called_lost(id)))
        };
        let lost = self.oldest_claims(limit, is_lost);
        for id in &lost {
            self.advance(*id, JobEvent::Released, Job::clear);
        }
        lost.len()
    }

    /// Ends runs whose worker is gone, as each kind says. At most `limit` per queue.
    pub fn end_lost_runs(&mut self, limit: usize) -> Rescued {
        let now = self.now;
        let is_lost = |store: &Self, job: &Job| {
            let is_gone = job.worker_id.is_none_or(|id| !store.is_alive(id));
            job.state == JobState::Running && (is_gone || store.has_bug(Bug::HastyRescuer))
        };
        let mut rescued = Rescued::default();
        for id in self.oldest_claims(limit, is_lost) {
            let job = &self.jobs[&id];
            let (attempt, holds) = (job.attempt, self.on_lost(job) == OnLost::Hold);
            let (event, count) = match holds {
                true => (JobEvent::BecameUnclear, &mut rescued.held),
                false => (JobEvent::Failed, &mut rescued.failed),
            };
            *count += 1;
            self.advance(id, event, |job| job.ended_at = Some(now));
            self.note_error(id, attempt, "worker_lost");
        }
        rescued
    }

    fn oldest_claims(&self, limit: usize, is_lost: impl Fn(&Self, &Job) -> bool) -> Vec<JobId> {
        let mut lost = Vec::new();
        for queue in &self.queues {
            let of_queue = self.jobs().filter(|job| job.queue == queue.name);
            let mut found: Vec<_> = of_queue.filter(|job| is_lost(self, job)).collect();
            found.sort_by_key(|job| job.claimed_at);
            lost.extend(found.iter().take(limit).map(|job| job.id));
        }
        lost
    }

    /// Archives up to `limit` scheduled jobs whose time has passed.
    pub fn expire(&mut self, limit: usize) -> usize {
        let is_late = |job: &&Job| job.state == JobState::Scheduled && job.has_expired(self.now);
        let mut late: Vec<_> = self.jobs().filter(is_late).collect();
        late.sort_by_key(|job| job.expires_at);
        let late: Vec<_> = late.iter().take(limit).map(|job| job.id).collect();
        let reason = Some("expired before it was dispatched");
        for id in &late {
            self.advance_because(*id, JobEvent::Expired, reason, |_| {});
        }
        late.len()
    }

    /// Decides about held jobs. Answers with those that were held and are not any more.
    pub fn resolve(&mut self, ids: &[JobId], to: Resolution) -> Vec<JobId> {
        let now = self.now;
        let is_held = |job: &Job| job.state == JobState::Held;
        let mut resolved = Vec::new();
        for id in ids {
            if !self.jobs.get(id).is_some_and(is_held) {
                continue;
            }
            resolved.push(*id);
            let reason = Some("resolved");
            match to {
                Resolution::Retry => self.advance(*id, JobEvent::ResolvedRetry, |job| {
                    job.clear();
                    job.run_at = now;
                }),
                Resolution::Completed => {
                    self.advance_because(*id, JobEvent::ResolvedCompleted, reason, |_| {});
                }
                Resolution::Dead => {
                    self.advance_because(*id, JobEvent::ResolvedDead, reason, |_| {});
                }
            }
        }
        resolved
    }
}

/// A job and its fence.
pub(super) fn fenced(job: &Job) -> Fenced {
    Fenced {
        id: job.id,
        dispatch: job.dispatch,
    }
}
