//! Jobs come in, with dedup. Names that are new are made.

use std::collections::BTreeSet;

use postroad_common::job::{DEDUP_FOR, InvalidJob, JobId, JobState, NewJob, RunAt};
use postroad_common::store::Enqueued;

use super::{Job, Kept, Millis, ModelStore, millis};
use crate::sim::Bug;

impl ModelStore {
    /// Enqueues a batch: all of it is accepted, or none.
    pub fn enqueue(
        &mut self,
        jobs: &[NewJob],
        is_resend: bool,
    ) -> Result<Vec<Enqueued>, InvalidJob> {
        for job in jobs {
            job.check()?;
        }
        self.add_names(jobs);
        self.free_expired_keys(jobs);
        let won = self.keep_keys(jobs);
        let mut inserted = BTreeSet::new();
        for job in jobs {
            let is_wanted = job.dedup_key.is_none() || won.contains(&job.id);
            let is_finished = is_resend && self.archive.iter().any(|a| a.job.id == job.id);
            let is_there = self.jobs.contains_key(&job.id);
            if is_wanted && !is_finished && !is_there {
                self.insert(job);
                inserted.insert(job.id);
            }
        }
        let answer = |job: &NewJob| {
            let first = key(job).and_then(|key| self.dedup.get(&key));
            Enqueued {
                id: first.map_or(job.id, |kept| kept.job),
                is_new: inserted.contains(&job.id),
                // What the words were and what the database decided is not modelled.
                is_same: true,
                inserted: None,
            }
        };
        let answer_all = jobs.iter().map(|job| match self.has_bug(Bug::DoubleTick) {
            true => Enqueued {
                id: job.id,
                is_new: true,
                is_same: true,
                inserted: None,
            },
            false => answer(job),
        });
        Ok(answer_all.collect())
    }

    fn add_names(&mut self, jobs: &[NewJob]) {
        let queues: BTreeSet<_> = jobs.iter().map(|job| &job.queue).collect();
        for queue in queues {
            self.queue_mut(queue);
        }
        for job in jobs {
            self.kinds.entry(job.kind.clone()).or_default();
        }
        let tenants: BTreeSet<_> = jobs.iter().map(|job| &job.tenant).collect();
        for tenant in tenants {
            self.add_tenant(tenant);
        }
    }

    /// A key outlives its time as long as its job is unfinished.
    fn free_expired_keys(&mut self, jobs: &[NewJob]) {
        for key in jobs.iter().filter_map(key) {
            let is_over =
                |kept: &Kept| kept.expires_at < self.now && !self.jobs.contains_key(&kept.job);
            if self.dedup.get(&key).is_some_and(is_over) {
                self.dedup.remove(&key);
            }
        }
    }

    /// The first job of the batch with a key that nobody has gets it.
    fn keep_keys(&mut self, jobs: &[NewJob]) -> BTreeSet<JobId> {
        let mut won = BTreeSet::new();
        for job in jobs {
            let Some(key) = key(job) else { continue };
            let is_free = !self.dedup.contains_key(&key);
            if is_free || self.has_bug(Bug::DoubleTick) {
                let due = self.due(job).max(self.now);
                let kept = Kept {
                    job: job.id,
                    expires_at: due + millis(DEDUP_FOR),
                };
                self.dedup.insert(key, kept);
                won.insert(job.id);
            }
        }
        won
    }

    fn due(&self, job: &NewJob) -> Millis {
        match job.run_at {
            RunAt::Now => self.now,
            RunAt::After(wait) => self.now + millis(wait),
            RunAt::At(at) => at.as_millisecond(),
        }
    }

    fn insert(&mut self, new: &NewJob) {
        let job = Job {
            id: new.id,
            state: JobState::Scheduled,
            dispatch: 0,
            attempt: 0,
            claimed_at: None,
            claimed_by: None,
            started_at: None,
            worker_id: None,
            ended_at: None,
            fatal: false,
            retry_after: None,
            // No tenant here has defaults.
            priority: new.priority.unwrap_or(1),
            queue: new.queue.clone(),
            kind: new.kind.clone(),
            tenant: new.tenant.clone(),
            run_at: self.due(new),
            expires_at: new.expires_at.map(|at| at.as_millisecond()),
            max_attempts: new.max_attempts,
            on_lost: new.on_lost,
            args: new.args.get().to_owned(),
        };
        self.note_move(None, &job);
        self.jobs.insert(job.id, job);
    }
}

fn key(job: &NewJob) -> Option<super::DedupKey> {
    let key = job.dedup_key.clone()?;
    Some((job.tenant.clone(), job.kind.clone(), key))
}
