//! What is done to both stores: any step, on jobs and fences that are mostly, but not always, those
//! that the step is for.

use std::time::Duration;

use postroad_chaos::sim::Chance;
use postroad_chaos::sim::model_store::{Job, Millis, ModelStore};
use postroad_common::job::retry::Verdict;
use postroad_common::job::{JobId, JobState, NewJob, OnLost, QueueName, RunAt, TenantName};
use postroad_common::store::{Ending, Fenced, Outcome, ProcessId, Resolution, Role, Ruling};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::doors::{Claiming, Door, in_minutes};

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Enqueue(Vec<NewJob>, bool),
    DueQueues,
    Claim(Claiming),
    Release(Vec<(Fenced, Duration)>),
    Gate(ProcessId, Vec<Fenced>, bool),
    Finish(Vec<Outcome>),
    ReleaseNeverRun(ProcessId, Vec<Fenced>),
    Register(Role),
    Beat(ProcessId),
    Stop(ProcessId),
    Watched,
    CallLost(ProcessId, bool),
    ReleaseUnstarted(Duration),
    EndLostRuns,
    FailedOf(Vec<Fenced>),
    FailedLongAgo(Duration),
    Rule(Vec<Ruling>),
    NoteErrors(Vec<JobId>),
    Expire,
    Resolve(Vec<JobId>, Resolution),
    Census,
    Age(Duration),
    SetQueue(QueueName, i64, bool),
}

impl Step {
    /// Takes it. A claim is compared row by row, and so has many answers.
    pub(crate) async fn take(&self, door: &mut impl Door) -> Vec<String> {
        let answer = match self {
            Self::Claim(claiming) => return door.claim(claiming).await,
            Self::Enqueue(jobs, is_resend) => door.enqueue(jobs, *is_resend).await,
            Self::DueQueues => door.due_queues().await,
            Self::Release(jobs) => door.release(jobs).await,
            Self::Gate(worker, jobs, is_again) => door.gate(*worker, jobs, *is_again).await,
            Self::Finish(outcomes) => door.finish(outcomes).await,
            Self::ReleaseNeverRun(worker, jobs) => door.release_never_run(*worker, jobs).await,
            Self::Register(role) => format!("{:?}", door.register(*role).await),
            Self::Beat(process) => door.beat(*process).await,
            Self::Stop(process) => door.stop(*process).await,
            Self::Watched => door.watched().await,
            Self::CallLost(process, has_beaten) => door.call_lost(*process, *has_beaten).await,
            Self::ReleaseUnstarted(slack) => door.release_unstarted(*slack).await,
            Self::EndLostRuns => door.end_lost_runs().await,
            Self::FailedOf(jobs) => door.failed_of(jobs).await,
            Self::FailedLongAgo(age) => door.failed_long_ago(*age).await,
            Self::Rule(rulings) => door.rule(rulings).await,
            Self::NoteErrors(jobs) => door.note_errors(jobs).await,
            Self::Expire => door.expire().await,
            Self::Resolve(jobs, to) => door.resolve(jobs, *to).await,
            Self::Census => door.census().await,
            Self::Age(by) => {
                door.age(*by).await;
                String::new()
            }
            Self::SetQueue(queue, window, is_paused) => {
                door.set_queue(queue, *window, *is_paused).await;
                String::new()
            }
        };
        vec![answer]
    }
}

/// Writes the next step, knowing where every job is.
pub(crate) struct Author {
    pub(crate) chance: Chance,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) tenants: Vec<TenantName>,
    seed: u64,
    enqueued: Vec<NewJob>,
    /// Keeps times apart that one statement sets.
    minutes: i64,
}

impl Author {
    pub(crate) fn of(seed: u64) -> Self {
        let names = |what: &str, n: usize| (0..n).map(|n| format!("{what}-{n}")).collect();
        let (queues, tenants): (Vec<_>, Vec<_>) = (names("queue", 2), names("tenant", 3));
        Self {
            chance: Chance::of(seed),
            queues: queues.iter().map(|name| name.parse().unwrap()).collect(),
            tenants: tenants.iter().map(|name| name.parse().unwrap()).collect(),
            seed,
            enqueued: Vec::new(),
            minutes: 0,
        }
    }

    pub(crate) fn next(&mut self, store: &ModelStore, now: Millis) -> Step {
        use JobState as S;
        match self.chance.below(42) {
            0..=5 => self.enqueue(now),
            6..=12 => Step::Claim(self.claiming(store)),
            13..=16 => {
                let jobs = self.fences(store, &[S::Dispatched, S::Running]);
                Step::Gate(self.process(store, 3..=5), jobs, self.chance.is(0.3))
            }
            17..=18 => self.ask_again(store),
            19..=24 => self.finish(store),
            25 => {
                let jobs = self.fences(store, &[S::Dispatched, S::Running]);
                let delayed = |job| (job, self.delay());
                Step::Release(jobs.into_iter().map(delayed).collect())
            }
            26 => {
                let jobs = self.fences(store, &[S::Running]);
                Step::ReleaseNeverRun(self.process(store, 3..=5), jobs)
            }
            27 => Step::EndLostRuns,
            28 => match self.chance.is(0.5) {
                true => Step::ReleaseUnstarted(Duration::ZERO),
                false => Step::ReleaseUnstarted(hours(2)),
            },
            29..=31 => self.rule(store),
            32 => Step::FailedOf(self.fences(store, &[S::Failed])),
            33..=36 => {
                let jobs = self.fences(store, &[S::Held]);
                let to = [Resolution::Completed, Resolution::Retry, Resolution::Dead];
                // One at a time: two that are due at one moment have no order.
                let jobs = jobs.iter().map(|job| job.id).take(1).collect();
                Step::Resolve(jobs, *self.chance.one_of(&to))
            }
            37 => Step::Expire,
            38 => Step::Age(hours(*self.chance.one_of(&[1, 3, 30]))),
            39 => self.about_processes(store),
            40 => {
                let queue = self.chance.one_of(&self.queues).clone();
                Step::SetQueue(queue, self.chance.between(1, 8), self.chance.is(0.2))
            }
            _ => match self.chance.below(5) {
                0 => Step::DueQueues,
                1 => Step::Census,
                2 => Step::FailedLongAgo(hours(2)),
                3 => Step::FailedLongAgo(Duration::ZERO),
                _ => {
                    let jobs = self.fences(store, &[S::Scheduled, S::Dispatched]);
                    Step::NoteErrors(jobs.iter().map(|job| job.id).collect())
                }
            },
        }
    }

    /// A worker asks once more about a job that the gate has granted it, usually.
    fn ask_again(&mut self, store: &ModelStore) -> Step {
        let jobs = self.fences(store, &[JobState::Running]);
        let granted = store.jobs().find(|job| job.id == jobs[0].id);
        let worker = granted.and_then(|job| job.worker_id);
        let worker = worker.unwrap_or_else(|| self.process(store, 3..=5));
        Step::Gate(worker, jobs, true)
    }

    fn about_processes(&mut self, store: &ModelStore) -> Step {
        let process = self.process(store, 1..=5);
        match self.chance.below(7) {
            0 => Step::Register(Role::Worker),
            1 => Step::Register(Role::Scheduler),
            2 => Step::Beat(process),
            3 => Step::Stop(process),
            4 => Step::Watched,
            _ => Step::CallLost(process, self.chance.is(0.3)),
        }
    }

    /// A process: usually one of these, or one that came later.
    fn process(&mut self, store: &ModelStore, of: std::ops::RangeInclusive<i64>) -> ProcessId {
        let last = i64::try_from(store.processes().count()).unwrap();
        match self.chance.is(0.8) {
            true => self.chance.between(*of.start(), *of.end()).into(),
            false => self.chance.between(1, last + 1).into(),
        }
    }

    fn enqueue(&mut self, now: Millis) -> Step {
        let count = 1 + self.chance.below(4);
        let jobs: Vec<_> = (0..count).map(|_| self.job(now)).collect();
        if self.chance.is(0.15) && !self.enqueued.is_empty() {
            let again = self.chance.one_of(&self.enqueued).clone();
            return Step::Enqueue(vec![again], self.chance.is(0.7));
        }
        self.enqueued.extend(jobs.iter().cloned());
        Step::Enqueue(jobs, self.chance.is(0.1))
    }

    /// A job that is due, in the first queue: the lower its number, the longer it has waited.
    pub(crate) fn plain_job(&self, now: Millis, number: usize) -> NewJob {
        let args = RawValue::from_string(number.to_string()).unwrap();
        let mut job = NewJob::new("echo".parse().unwrap(), args);
        job.id = Uuid::from_u64_pair(self.seed, number as u64 + 1).into();
        job.queue = self.queues[0].clone();
        let minutes = i64::try_from(number).unwrap() - 100;
        job.run_at = RunAt::At(in_minutes(now, minutes));
        job
    }

    fn job(&mut self, now: Millis) -> NewJob {
        self.minutes += 2;
        let kind = *self.chance.one_of(&["echo", "webhook", "sms"]);
        let number = self.enqueued.len() as u64 * 8 + self.chance.number() % 8;
        let args = format!(r#"{{"n": {number}}}"#);
        let args = RawValue::from_string(args).unwrap();
        let mut job = NewJob::new(kind.parse().unwrap(), args);
        // Not by the clock: one seed is one sequence.
        job.id = Uuid::from_u64_pair(self.seed, self.chance.number()).into();
        job.tenant = self.chance.one_of(&self.tenants).clone();
        job.queue = self.chance.one_of(&self.queues).clone();
        job.priority = Some(i16::try_from(self.chance.below(4)).unwrap());
        job.on_lost = *self
            .chance
            .one_of(&[None, Some(OnLost::Retry), Some(OnLost::Hold)]);
        job.max_attempts = *self.chance.one_of(&[None, Some(1), Some(3)]);
        let due = match self.chance.below(4) {
            0 => 120 + self.minutes,
            _ => -120 - self.minutes,
        };
        job.run_at = match due {
            120.. if self.chance.is(0.5) => {
                RunAt::After(Duration::from_secs(due.unsigned_abs() * 60))
            }
            due => RunAt::At(in_minutes(now, due)),
        };
        if self.chance.is(0.25) {
            let after = *self.chance.one_of(&[30, 200, 2000]);
            job.expires_at = Some(in_minutes(now, due + after));
        }
        if self.chance.is(0.3) {
            job.dedup_key = Some(format!("key {}", self.chance.below(3)));
        }
        job
    }

    fn claiming(&mut self, store: &ModelStore) -> Claiming {
        Claiming {
            queue: self.chance.one_of(&self.queues).clone(),
            limit: self.chance.between(1, 8),
            credit_min: *self.chance.one_of(&[1, 1, 1, 3]),
            claimer: self.process(store, 1..=2),
            order: self.tenants.clone(),
        }
    }

    /// One to three jobs, usually in one of these states and under their fence.
    fn fences(&mut self, store: &ModelStore, states: &[JobState]) -> Vec<Fenced> {
        let count = 1 + self.chance.below(3);
        let fitting: Vec<&Job> = store
            .jobs()
            .filter(|job| states.contains(&job.state))
            .collect();
        let any: Vec<&Job> = store.jobs().collect();
        let mut fences = Vec::new();
        for _ in 0..count {
            let is_fitting = !fitting.is_empty() && self.chance.is(0.85);
            let from = if is_fitting { &fitting } else { &any };
            if from.is_empty() {
                let id = Uuid::from_u64_pair(self.seed, self.chance.number()).into();
                fences.push(Fenced { id, dispatch: 1 });
                continue;
            }
            let job = *self.chance.one_of(from);
            let off = *self.chance.one_of(&[0, 0, 0, 0, 0, 0, 0, 0, -1, 1]);
            let dispatch = job.dispatch + off;
            fences.push(Fenced {
                id: job.id,
                dispatch,
            });
        }
        fences
    }

    fn distinct(&mut self, store: &ModelStore, states: &[JobState]) -> Vec<Fenced> {
        let mut fences = self.fences(store, states);
        fences.sort();
        fences.dedup_by_key(|job| job.id);
        fences
    }

    fn finish(&mut self, store: &ModelStore) -> Step {
        use JobState as S;
        let states: &[_] = match self.chance.is(0.7) {
            true => &[S::Running],
            false => &[S::Failed, S::Held, S::Scheduled, S::Dispatched],
        };
        let jobs = self.distinct(store, states);
        let outcome = |job| Outcome {
            job,
            ending: self.ending(),
        };
        Step::Finish(jobs.into_iter().map(outcome).collect())
    }

    fn ending(&mut self) -> Ending {
        match self.chance.below(8) {
            0 => Ending::Completed(None),
            1 => Ending::Completed(Some("1".to_owned())),
            2 | 3 => Ending::Failed {
                fatal: self.chance.is(0.3),
                retry_after: self.chance.is(0.4).then(|| self.delay()),
                code: "failed",
                message: "text".to_owned(),
            },
            4 | 5 => Ending::Unknown {
                code: "unknown",
                message: "text".to_owned(),
            },
            6 => {
                self.minutes += 2;
                Ending::Snoozed(Duration::from_secs((60 + self.minutes.unsigned_abs()) * 60))
            }
            _ => Ending::Interrupted,
        }
    }

    fn rule(&mut self, store: &ModelStore) -> Step {
        let jobs = self.distinct(store, &[JobState::Failed]);
        let ruling = |job| {
            let verdict = match self.chance.is(0.7) {
                true => Verdict::RetryAfter(self.delay()),
                false => Verdict::Dead("attempts exhausted"),
            };
            Ruling { job, verdict }
        };
        // One at a time, for two that are due at one moment have no order.
        Step::Rule(jobs.into_iter().take(1).map(ruling).collect())
    }

    /// None, or hours, never the same.
    fn delay(&mut self) -> Duration {
        self.minutes += 2;
        match self.chance.is(0.5) {
            true => Duration::ZERO,
            false => Duration::from_secs((60 + self.minutes.unsigned_abs()) * 60),
        }
    }
}

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 60 * 60)
}
