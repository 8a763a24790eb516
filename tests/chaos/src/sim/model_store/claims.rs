//! The way into the pipe: due queues, claims under a new fence, and letting go of them.

use std::time::Duration;

use postroad_common::job::{JobEvent, JobId, JobState, QueueName, TenantName};
use postroad_common::store::{Claim, DueQueue, Fenced, ProcessId};

use super::{Job, ModelStore, millis};
use crate::sim::Bug;

impl ModelStore {
    /// The queues that are not paused and have a due job.
    pub fn due_queues(&self) -> Vec<DueQueue> {
        let mut due = Vec::new();
        for (id, queue) in (1..).zip(&self.queues) {
            // A job that is due and has expired is looked for too: the claim then passes over it.
            if !queue.is_paused && self.jobs().any(|job| self.is_due(job, &queue.name)) {
                due.push(DueQueue {
                    id,
                    name: queue.name.to_string(),
                    window: queue.window,
                    pipe_ttl: queue.pipe_ttl,
                });
            }
        }
        due
    }

    /// Claims up to `limit` due jobs of a queue if at least `credit_min` of its window are free.
    /// `order` says in which order the tenants with due jobs are served, which the real claim
    /// leaves to chance.
    pub fn claim(
        &mut self,
        queue: &QueueName,
        limit: i64,
        credit_min: i64,
        claimer: ProcessId,
        order: impl FnOnce(&mut Vec<TenantName>),
    ) -> Vec<Claim> {
        let window = match self.queue(queue) {
            Some(queue) if !queue.is_paused => queue.window,
            _ => return Vec::new(),
        };
        let free = window - self.in_pipe(queue);
        let credit = match free > 0 && free >= credit_min {
            true => free.min(limit),
            false => 0,
        };
        let credit = match self.has_bug(Bug::WindowIgnored) {
            true => limit,
            false => credit,
        };
        let mut tenants = self.due_tenants(queue);
        order(&mut tenants);
        let picked = self.pick(queue, &tenants, credit);
        self.check_shares(&tenants, &picked, credit);
        for id in &picked {
            self.take(*id, claimer);
        }
        if self.in_pipe(queue) > window && !picked.is_empty() {
            self.violations
                .push(format!("a claim overran the window of {queue}"));
        }
        picked.iter().map(|id| self.claimed(*id)).collect()
    }

    /// Puts dispatched jobs that were never started back to scheduled, without charging an
    /// attempt.
    pub fn release(&mut self, jobs: &[(Fenced, Duration)]) -> Vec<JobId> {
        let now = self.now;
        let mut released = Vec::new();
        for (fenced, delay) in jobs {
            let is_dispatched = |job: &&Job| job.state == JobState::Dispatched;
            if self.under_fence(*fenced).filter(is_dispatched).is_some() {
                self.advance(fenced.id, JobEvent::Released, |job| {
                    job.clear();
                    if !delay.is_zero() {
                        job.run_at = now + millis(*delay);
                    }
                });
                released.push(fenced.id);
            }
        }
        released
    }

    /// How many jobs of a queue are between the claim and the finish line.
    pub fn in_pipe(&self, queue: &QueueName) -> i64 {
        let is_counted = |job: &&Job| job.queue == *queue && job.is_in_pipe();
        i64::try_from(self.jobs().filter(is_counted).count()).unwrap_or(i64::MAX)
    }

    fn is_due(&self, job: &Job, queue: &QueueName) -> bool {
        let ahead = match self.has_bug(Bug::Early) {
            true => 1000,
            false => 0,
        };
        job.queue == *queue && job.state == JobState::Scheduled && job.run_at <= self.now + ahead
    }

    /// In the order in which they were first heard of, as their ids are.
    fn due_tenants(&self, queue: &QueueName) -> Vec<TenantName> {
        let has_due = |tenant: &&TenantName| {
            self.jobs()
                .any(|job| job.tenant == **tenant && self.is_due(job, queue))
        };
        self.tenants.iter().filter(has_due).cloned().collect()
    }

    /// Every tenant gets an equal share, rounded up, until the credit is spent; within a tenant
    /// priority decides, then the time.
    fn pick(&self, queue: &QueueName, tenants: &[TenantName], credit: i64) -> Vec<JobId> {
        let credit = usize::try_from(credit).unwrap_or(0);
        let share = credit.div_ceil(tenants.len().max(1));
        let mut picked = Vec::new();
        for tenant in tenants {
            let is_wanted = |job: &&Job| {
                let is_in_time = !job.has_expired(self.now) || self.has_bug(Bug::RunsAfterExpiry);
                job.tenant == *tenant && is_in_time && self.is_due(job, queue)
            };
            let mut due: Vec<&Job> = self.jobs().filter(is_wanted).collect();
            due.sort_by_key(|job| (job.priority, job.run_at, job.id));
            picked.extend(due.iter().take(share).map(|job| job.id));
        }
        picked.truncate(credit);
        picked.sort_by_key(|id| {
            let job = &self.jobs[id];
            (job.priority, job.run_at, *id)
        });
        picked
    }

    /// Nobody gets more than their share. (Whoever comes last may get less than it rounded down:
    /// the shares before are rounded up.)
    fn check_shares(&mut self, tenants: &[TenantName], picked: &[JobId], credit: i64) {
        let credit = usize::try_from(credit).unwrap_or(0);
        let share = credit.div_ceil(tenants.len().max(1));
        for tenant in tenants {
            let got = picked.iter().filter(|id| self.jobs[id].tenant == *tenant);
            let got = got.count();
            if got > share {
                self.violations.push(format!(
                    "{tenant} was given {got}, and its share was {share}"
                ));
            }
        }
    }

    fn take(&mut self, id: JobId, claimer: ProcessId) {
        let (now, fence) = (self.now, i64::from(!self.has_bug(Bug::FenceKept)));
        self.advance(id, JobEvent::Claimed, |job| {
            job.dispatch = (job.dispatch + fence).max(1);
            job.claimed_at = Some(now);
            job.claimed_by = Some(claimer);
        });
    }

    fn claimed(&self, id: JobId) -> Claim {
        let job = &self.jobs[&id];
        let other = self.jobs().find(|other| other.tenant != job.tenant);
        let args = match other.filter(|_| self.has_bug(Bug::WrongTenant)) {
            Some(other) => &other.args,
            None => &job.args,
        };
        Claim {
            id,
            dispatch: job.dispatch,
            kind: job.kind.as_str().into(),
            tenant: job.tenant.as_str().into(),
            attempts_before: job.attempt,
            traceparent: None,
            args: args.clone(),
            claimed_at: u64::try_from(self.now / 1000).unwrap_or(0),
        }
    }
}
