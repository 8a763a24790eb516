//! From a delivery to the right to start, to an outcome, to its record; then, and only then, to
//! the delivery's end.

use std::rc::Rc;
use std::time::Duration;

use postroad_common::broker::Settle;
use postroad_common::store::{Ending, Fenced, Gate, GateVerdict, Moved, Outcome, ProcessId};

use super::Worker;
use crate::sim::Bug;
use crate::sim::executor::{Bell, NoAnswer};
use crate::sim::membership::Backoff;
use crate::sim::model_store::{Millis, ModelStore};
use crate::sim::provider::{self, Reply, unknown};
use crate::sim::world::{Parcel, kinds};

/// How long outcomes are still tried to be written after the worker was told to let go.
const LAST_TRIES: Millis = 5_000;

impl Worker {
    /// Answers with the jobs it asked for last without getting an answer.
    pub(super) async fn gatekeeper(self: &Rc<Self>) -> Vec<Fenced> {
        loop {
            if self.stop.quiesce.get() {
                return Vec::new();
            }
            let batch: Vec<Parcel> = self.asking.borrow_mut().drain(..).collect();
            if batch.is_empty() {
                self.until_rung().await;
                continue;
            }
            let fences: Vec<_> = batch.iter().map(|parcel| parcel.job).collect();
            let Some((to, verdicts)) = self.ask(&fences).await else {
                return fences;
            };
            for (parcel, verdict) in batch.into_iter().zip(verdicts) {
                match verdict {
                    GateVerdict::Start { .. } => self.execute(parcel, to),
                    _ => {
                        self.leave_room(parcel.job);
                        self.redeem(parcel.job, Settle::Ack);
                    }
                }
            }
        }
    }

    /// Asks until there is an answer. None: the worker stops first.
    async fn ask(&self, fences: &[Fenced]) -> Option<(ProcessId, Vec<GateVerdict>)> {
        let (mut backoff, mut is_again) = (Backoff::default(), false);
        loop {
            if let Some(id) = self.membership.id() {
                let (jobs, again) = (fences.to_vec(), std::mem::replace(&mut is_again, true));
                let ask = move |store: &mut ModelStore| match again {
                    false => store.gate(id, &jobs),
                    true => store.gate_again(id, &jobs),
                };
                match self.sim.call(self.me, ask).await {
                    Ok(Gate::Judged(verdicts)) if self.membership.id() == Some(id) => {
                        return Some((id, verdicts));
                    }
                    Ok(Gate::WorkerIsLost) => self.membership.rejoin(id).await,
                    // Too late to start anything by it, or no answer at all.
                    Ok(Gate::Judged(_)) | Err(NoAnswer) => {}
                }
            }
            let wait = backoff.next_wait(&self.sim);
            self.sim.sleep(wait).await;
            if self.stop.quiesce.get() {
                return None;
            }
        }
    }

    fn execute(self: &Rc<Self>, parcel: Parcel, to: ProcessId) {
        self.running.set(self.running.get() + 1);
        let worker = self.clone();
        self.sim.spawn(self.me, async move {
            let ending = worker.attempt(&parcel, to).await;
            worker.leave_room(parcel.job);
            let outcome = Outcome {
                job: parcel.job,
                ending,
            };
            worker.finished.borrow_mut().push_back(outcome);
            worker.running.set(worker.running.get() - 1);
            worker.ring();
        });
    }

    /// A permit goes back to the lane that the job came by.
    fn leave_room(&self, job: Fenced) {
        let in_flight = self.in_flight.borrow();
        let mut room = self.room.borrow_mut();
        let lane = in_flight.get(&job).map(|receipt| &receipt.lane);
        if let Some(taken) = lane.and_then(|lane| room.get_mut(lane)) {
            *taken -= 1;
        }
    }

    async fn attempt(&self, parcel: &Parcel, to: ProcessId) -> Ending {
        self.sim.step().await;
        // It may have stood still for longer than its lease, and the job been judged.
        if self.membership.id() != Some(to) {
            return Ending::Snoozed(Duration::ZERO);
        }
        let timeout = kinds()[0].1.timeout.as_millis() as Millis;
        let give_up_at = self.sim.now() + timeout;
        let reply = provider::call(&self.sim, parcel);
        let (takes, ending) = match reply {
            Reply::After(takes, ending) => (takes, ending),
            Reply::Never => (timeout, unknown("timeout")),
        };
        let done_at = (self.sim.now() + takes).min(give_up_at);
        while self.sim.now() < done_at {
            if self.stop.cancel.get() {
                return Ending::Interrupted;
            }
            self.sim
                .wait(Bell::Process(self.me), done_at - self.sim.now())
                .await;
        }
        ending
    }

    pub(super) async fn finisher(&self) {
        loop {
            let outcomes: Vec<_> = self.finished.borrow_mut().drain(..).collect();
            if outcomes.is_empty() {
                if self.has_gate_ended.get() && self.running.get() == 0 {
                    return;
                }
                self.until_rung().await;
                continue;
            }
            if self.sim.with(|world| world.has_bug(Bug::AckBeforeCommit)) {
                for outcome in &outcomes {
                    self.redeem(outcome.job, settle_of(guess(&outcome.ending)));
                }
            }
            let Some(moved) = self.write(&outcomes).await else {
                if self.stop.cancel.get() {
                    return;
                }
                continue;
            };
            for (outcome, moved) in outcomes.iter().zip(moved) {
                self.redeem(outcome.job, settle_of(moved));
            }
        }
    }

    /// Writes until it is written. None: the process has to go, and nobody answers.
    async fn write(&self, outcomes: &[Outcome]) -> Option<Vec<Moved>> {
        let (mut backoff, mut give_up_at) = (Backoff::default(), None);
        loop {
            if let Ok(moved) = self.finish(outcomes).await {
                return Some(moved);
            }
            if self.sim.with(|world| world.has_bug(Bug::FinishedOnce)) {
                return None;
            }
            if self.stop.cancel.get() {
                let give_up_at = *give_up_at.get_or_insert(self.sim.now() + LAST_TRIES);
                if self.sim.now() >= give_up_at {
                    return None;
                }
            }
            let wait = backoff.next_wait(&self.sim);
            self.sim.sleep(wait).await;
        }
    }

    /// Two statements, each its own transaction.
    async fn finish(&self, outcomes: &[Outcome]) -> Result<Vec<Moved>, NoAnswer> {
        let completing = outcomes.to_vec();
        let complete = move |store: &mut ModelStore| store.complete(&completing);
        let completed = self.sim.call(self.me, complete).await?;
        let ending = outcomes.to_vec();
        let ended = self
            .sim
            .call(self.me, move |store| store.end(&ending))
            .await?;
        let both = completed.into_iter().zip(ended);
        Ok(both
            .map(|(c, e)| c.or(e).unwrap_or(Moved::Superseded))
            .collect())
    }
}

fn settle_of(moved: Moved) -> Settle {
    match moved {
        Moved::Failed => Settle::DeadLetter,
        Moved::Completed | Moved::Held | Moved::Scheduled | Moved::Superseded => Settle::Ack,
    }
}

/// What somebody who does not wait for the answer takes it to be.
fn guess(ending: &Ending) -> Moved {
    match ending {
        Ending::Failed { .. } | Ending::Unknown { .. } => Moved::Failed,
        _ => Moved::Completed,
    }
}
