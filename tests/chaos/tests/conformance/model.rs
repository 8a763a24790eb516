//! The room without one.

use std::fmt::Display;
use std::time::Duration;

use postroad_chaos::sim::model_store::{Job, Millis, ModelStore};
use postroad_common::job::{JobId, NewJob, QueueName, TenantName};
use postroad_common::store::{Fenced, Outcome, ProcessId, Resolution, Role, Ruling};

use crate::doors::{
    ALL, Claiming, Door, LEASE, told_claim, told_enqueued, told_failed, told_ids, told_queues,
};

/// The model, kept at the real store's time.
#[derive(Clone)]
pub(crate) struct Model(pub(crate) ModelStore);

impl Model {
    /// Two statements are never at one moment.
    pub(crate) fn set_now(&mut self, now: Millis) {
        let later = self.0.now() + 1;
        self.0.set_now(now.max(later));
    }

    fn told_job(&self, job: &Job) -> String {
        let minutes = |at: Millis| (((at - self.0.now()) as f64) / 60_000.0).round() as i64;
        let minutes = |at: Option<Millis>| or_dash(at.map(minutes));
        format!(
            "{} is {}, fence {}, attempt {}, of {}, on {}, fatal {}, retry after {}, priority {}, \
             at {}, until {}, claimed {}, started {}, ended {}",
            job.id,
            job.state,
            job.dispatch,
            job.attempt,
            or_dash(job.claimed_by),
            or_dash(job.worker_id),
            t_or_f(job.fatal),
            or_dash(job.retry_after.map(|wait| wait.as_secs())),
            job.priority,
            minutes(Some(job.run_at)),
            minutes(job.expires_at),
            minutes(job.claimed_at),
            minutes(job.started_at),
            minutes(job.ended_at),
        )
    }
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// As Postgres spells it.
fn t_or_f(is: bool) -> &'static str {
    if is { "t" } else { "f" }
}

impl Door for Model {
    async fn enqueue(&mut self, jobs: &[NewJob], is_resend: bool) -> String {
        told_enqueued(&self.0.enqueue(jobs, is_resend).unwrap())
    }

    async fn due_queues(&mut self) -> String {
        told_queues(&self.0.due_queues())
    }

    async fn claim(&mut self, claiming: &Claiming) -> Vec<String> {
        let Claiming {
            queue,
            limit,
            credit_min,
            claimer,
            order,
        } = claiming;
        let place = |tenant: &TenantName| order.iter().position(|other| other == tenant);
        let in_order = |tenants: &mut Vec<TenantName>| tenants.sort_by_key(place);
        let claims = self.0.claim(queue, *limit, *credit_min, *claimer, in_order);
        claims.iter().map(told_claim).collect()
    }

    async fn release(&mut self, jobs: &[(Fenced, Duration)]) -> String {
        told_ids(self.0.release(jobs))
    }

    async fn gate(&mut self, worker: ProcessId, jobs: &[Fenced], is_again: bool) -> String {
        let answer = match is_again {
            false => self.0.gate(worker, jobs),
            true => self.0.gate_again(worker, jobs),
        };
        format!("{answer:?}")
    }

    async fn finish(&mut self, outcomes: &[Outcome]) -> String {
        format!("{:?}", self.0.finish(outcomes))
    }

    async fn release_never_run(&mut self, worker: ProcessId, jobs: &[Fenced]) -> String {
        format!("{:?}", self.0.release_never_run(worker, jobs))
    }

    async fn register(&mut self, _: Role) -> ProcessId {
        self.0.register(LEASE)
    }

    async fn beat(&mut self, process: ProcessId) -> String {
        format!("{:?}", self.0.beat(process))
    }

    async fn stop(&mut self, process: ProcessId) -> String {
        self.0.stop(process);
        "()".to_owned()
    }

    async fn watched(&mut self) -> String {
        let watched = self.0.watched_processes();
        format!(
            "{:?}",
            watched
                .iter()
                .map(|one| (one.id, one.lease))
                .collect::<Vec<_>>()
        )
    }

    async fn call_lost(&mut self, process: ProcessId, has_beaten: bool) -> String {
        let watched = self.0.watched_processes();
        let Some(seen) = watched.iter().find(|one| one.id == process) else {
            return "not watched".to_owned();
        };
        if has_beaten {
            self.set_now(0);
            self.0.beat(process);
        }
        format!("{:?}", self.0.call_lost(seen))
    }

    async fn release_unstarted(&mut self, slack: Duration) -> String {
        format!("{:?}", self.0.release_unstarted(slack, ALL))
    }

    async fn end_lost_runs(&mut self) -> String {
        format!("{:?}", self.0.end_lost_runs(ALL))
    }

    async fn failed_of(&mut self, jobs: &[Fenced]) -> String {
        told_failed(self.0.failed_of(jobs))
    }

    async fn failed_long_ago(&mut self, age: Duration) -> String {
        told_failed(self.0.failed_long_ago(age, ALL))
    }

    async fn rule(&mut self, rulings: &[Ruling]) -> String {
        format!("{:?}", self.0.rule(rulings))
    }

    async fn note_errors(&mut self, jobs: &[JobId]) -> String {
        self.0.note_errors(jobs, "refused");
        "()".to_owned()
    }

    async fn expire(&mut self) -> String {
        format!("{:?}", self.0.expire(ALL))
    }

    async fn resolve(&mut self, jobs: &[JobId], to: Resolution) -> String {
        told_ids(self.0.resolve(jobs, to))
    }

    async fn census(&mut self) -> String {
        format!("{:?}", self.0.census())
    }

    async fn age(&mut self, by: Duration) {
        self.0.age(Millis::try_from(by.as_millis()).unwrap());
    }

    async fn set_queue(&mut self, queue: &QueueName, window: i64, is_paused: bool) {
        self.0.set_queue(queue, window, Duration::from_secs(60));
        self.0.pause_queue(queue, is_paused);
    }

    async fn rows(&mut self) -> Vec<String> {
        let mut rows: Vec<_> = self.0.jobs().map(|job| self.told_job(job)).collect();
        rows.extend(self.0.archive().iter().map(|archived| {
            let job = &archived.job;
            let (id, state) = (job.id, job.state);
            let reason = archived.reason.unwrap_or("-");
            let (fence, attempt) = (job.dispatch, job.attempt);
            format!("{id} is {state}, fence {fence}, attempt {attempt}, reason {reason}")
        }));
        rows.extend(self.0.errors().iter().map(|error| {
            format!(
                "error of {}, attempt {}: {}",
                error.id, error.attempt, error.code
            )
        }));
        rows.extend(self.0.processes().map(|(id, lost, stopped)| {
            format!(
                "process {id}, lost {}, stopped {}",
                t_or_f(lost),
                t_or_f(stopped)
            )
        }));
        rows.sort();
        rows
    }
}
