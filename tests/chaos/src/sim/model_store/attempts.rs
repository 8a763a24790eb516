//! What a worker writes: the start gate, and how attempts ended.

use postroad_common::job::{JobEvent, JobState, OnLost};
use postroad_common::store::{Ending, Fenced, Gate, GateVerdict, Moved, Outcome, ProcessId};

use super::{Job, Millis, ModelStore, millis};
use crate::sim::Bug;

impl ModelStore {
    /// Asks for the right to start these deliveries, each once.
    pub fn gate(&mut self, worker: ProcessId, jobs: &[Fenced]) -> Gate {
        self.ask_gate(worker, jobs, false)
    }

    /// Asks the very same question again, whose answer did not come.
    pub fn gate_again(&mut self, worker: ProcessId, jobs: &[Fenced]) -> Gate {
        self.ask_gate(worker, jobs, true)
    }

    fn ask_gate(&mut self, worker: ProcessId, jobs: &[Fenced], is_again: bool) -> Gate {
        if !self.is_alive(worker) {
            return match jobs.is_empty() {
                true => Gate::Judged(Vec::new()),
                false => Gate::WorkerIsLost,
            };
        }
        let mut verdicts: Vec<(Fenced, GateVerdict)> = Vec::new();
        for job in jobs {
            // A delivery that is in the batch twice is judged once.
            if !verdicts.iter().any(|(judged, _)| judged == job) {
                verdicts.push((*job, self.judge_start(worker, *job, is_again)));
            }
        }
        let verdict = |job: &Fenced| {
            let judged = verdicts.iter().find(|(judged, _)| judged == job);
            judged.map_or(GateVerdict::Refused, |(_, verdict)| *verdict)
        };
        Gate::Judged(jobs.iter().map(verdict).collect())
    }

    fn judge_start(&mut self, worker: ProcessId, asked: Fenced, is_again: bool) -> GateVerdict {
        let now = self.now;
        if self.has_bug(Bug::GateOff) {
            return self.start_whatever(worker, asked);
        }
        let Some(job) = self.under_fence(asked).filter(|job| job.is_in_pipe()) else {
            return GateVerdict::Refused;
        };
        let is_running = job.state == JobState::Running;
        if is_running && !(is_again && job.worker_id == Some(worker)) {
            return GateVerdict::Refused;
        }
        if job.has_expired(now) && !self.has_bug(Bug::RunsAfterExpiry) {
            let reason = Some("expired in the pipe");
            self.advance_because(asked.id, JobEvent::Expired, reason, |_| {});
            return GateVerdict::Expired;
        }
        if is_running {
            return GateVerdict::Start {
                attempt: job.attempt,
            };
        }
        let attempt = job.attempt + i32::from(!self.has_bug(Bug::AttemptNotCharged));
        self.advance(asked.id, JobEvent::Started, |job| {
            job.attempt = attempt;
            job.started_at = Some(now);
            job.worker_id = Some(worker);
        });
        GateVerdict::Start { attempt }
    }

    /// A gate that does not look: what is not dispatched is not even marked.
    fn start_whatever(&mut self, worker: ProcessId, asked: Fenced) -> GateVerdict {
        let now = self.now;
        let job = self.jobs.get(&asked.id);
        if job.is_some_and(|job| job.state == JobState::Dispatched) {
            self.advance(asked.id, JobEvent::Started, |job| {
                job.attempt += 1;
                job.started_at = Some(now);
                job.worker_id = Some(worker);
            });
        }
        GateVerdict::Start { attempt: 1 }
    }

    /// Writes how attempts ended. Two statements in the real store, and so two calls where the
    /// moment between them matters.
    pub fn finish(&mut self, outcomes: &[Outcome]) -> Vec<Moved> {
        let completed = self.complete(outcomes);
        let ended = self.end(outcomes);
        completed
            .into_iter()
            .zip(ended)
            .map(|(completed, ended)| completed.or(ended).unwrap_or(Moved::Superseded))
            .collect()
    }

    /// The first statement: what completed.
    pub fn complete(&mut self, outcomes: &[Outcome]) -> Vec<Option<Moved>> {
        let mut moved = Vec::new();
        for Outcome { job, ending } in outcomes {
            let is_any = self.has_bug(Bug::OutcomeUnfenced);
            let can_have_run = |job: &&Job| match job.state {
                JobState::Dispatched => is_any,
                JobState::Scheduled => is_any || job.attempt > 0,
                _ => true,
            };
            let is_done = matches!(ending, Ending::Completed(_))
                && self.named(*job).filter(can_have_run).is_some();
            if is_done {
                self.advance(job.id, JobEvent::Succeeded, |_| {});
            }
            moved.push(is_done.then_some(Moved::Completed));
        }
        moved
    }

    /// The second statement: what ended in any other way.
    pub fn end(&mut self, outcomes: &[Outcome]) -> Vec<Option<Moved>> {
        outcomes
            .iter()
            .map(|outcome| self.end_one(outcome.job, &outcome.ending))
            .collect()
    }

    fn end_one(&mut self, fenced: Fenced, ending: &Ending) -> Option<Moved> {
        let job = self.named(fenced)?;
        let is_failure = matches!(ending, Ending::Failed { .. });
        let is_current = job.state == JobState::Running
            || (job.state == JobState::Held && is_failure)
            || self.has_bug(Bug::OutcomeUnfenced);
        if !is_current {
            return None;
        }
        let (attempt, holds) = (job.attempt, self.on_lost(job) == OnLost::Hold);
        let now = self.now;
        let moved = match ending {
            Ending::Completed(_) => return None,
            Ending::Failed {
                fatal, retry_after, ..
            } => {
                // A failure that is final says nothing of another time.
                let retry_after = retry_after.filter(|_| !fatal);
                self.advance(fenced.id, JobEvent::Failed, |job| {
                    (job.fatal, job.retry_after) = (*fatal, retry_after);
                    job.ended_at = Some(now);
                });
                self.drop_failed(fenced);
                Moved::Failed
            }
            Ending::Snoozed(wait) => {
                self.give_back(fenced, JobEvent::Snoozed, Some(now + millis(*wait)));
                Moved::Scheduled
            }
            Ending::Unknown { .. } | Ending::Interrupted | Ending::Cancelled if holds => {
                self.advance(fenced.id, JobEvent::BecameUnclear, |job| {
                    job.ended_at = Some(now);
                });
                Moved::Held
            }
            Ending::Interrupted => {
                self.give_back(fenced, JobEvent::Interrupted, None);
                Moved::Scheduled
            }
            Ending::Unknown { .. } | Ending::Cancelled => {
                self.advance(fenced.id, JobEvent::Failed, |job| {
                    job.ended_at = Some(now);
                });
                Moved::Failed
            }
        };
        match ending {
            Ending::Failed { code, .. } | Ending::Unknown { code, .. } => {
                self.note_error(fenced.id, attempt, code);
            }
            Ending::Interrupted => self.note_error(fenced.id, attempt, "interrupted"),
            Ending::Cancelled => self.note_error(fenced.id, attempt, "cancelled"),
            Ending::Completed(_) | Ending::Snoozed(_) => {}
        }
        Some(moved)
    }

    /// At the end of a worker: gives back what it asked the gate for without an answer.
    pub fn release_never_run(&mut self, worker: ProcessId, jobs: &[Fenced]) -> usize {
        let is_ours = |job: &&Job| job.is_in_pipe() && job.worker_id == Some(worker);
        let mut released = 0;
        for fenced in jobs {
            if self.under_fence(*fenced).filter(is_ours).is_some() {
                self.give_back(*fenced, JobEvent::Interrupted, None);
                released += 1;
            }
        }
        released
    }

    fn give_back(&mut self, fenced: Fenced, event: JobEvent, run_at: Option<Millis>) {
        self.advance(fenced.id, event, |job| {
            job.clear();
            job.attempt -= 1;
            job.run_at = run_at.unwrap_or(job.run_at);
        });
    }

    /// The job that an outcome is about.
    fn named(&self, fenced: Fenced) -> Option<&Job> {
        match self.has_bug(Bug::OutcomeUnfenced) {
            true => self.jobs.get(&fenced.id),
            false => self.under_fence(fenced),
        }
    }

    fn drop_failed(&mut self, fenced: Fenced) {
        if self.has_bug(Bug::FailedDropped) {
            self.jobs.remove(&fenced.id);
        }
    }
}
