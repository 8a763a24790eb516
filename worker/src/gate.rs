//! Deliveries → the right to start, many in one statement.
//!
//! Batches form by themselves: while one statement is under way, the next deliveries collect; and
//! under load, as [`gather`] says.
//! A delivery leaves here in one of three ways: started; refused, and acked; or, when the worker
//! stops first, dropped, so that the broker gives it to somebody else.
//!
//! While Postgres is away nothing starts and nothing is settled. An answer that was lost is asked
//! for again: the gate grants a worker again what it has granted it before. So is an answer that
//! took so long that the worker may have been called lost meanwhile, and its jobs given away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_common::backoff::Backoff;
use postroad_common::broker::Settle;
use postroad_common::failpoint;
use postroad_common::health::Health;
use postroad_common::membership::Membership;
use postroad_common::message::Envelope;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Fenced, Gate, GateVerdict, ProcessId, Store};
use tokio::sync::{mpsc, watch};

use crate::destinations::Call;
use crate::executor::Executor;
use crate::gather::gather;
use crate::inflight::{self, Ticket};
use crate::metrics;
use crate::prefetch::{Place, Prefetch};
use crate::registry::Kind;

/// Deliveries per statement.
const BATCH: usize = 512;

const HEALTH: &str = "gate";

/// A delivery that asks to be started.
pub(crate) struct Asking {
    pub(crate) ticket: Ticket,
    /// The queue it came from.
    pub(crate) queue: Arc<str>,
    pub(crate) kind: Arc<Kind>,
    pub(crate) envelope: Envelope,
    /// The room it takes in its queue's and its provider's concurrency.
    pub(crate) permit: Place,
    /// What it is counted by, where its destination is limited.
    pub(crate) call: Option<Call>,
    /// When its delivery was opened.
    pub(crate) taken_at: Instant,
}

/// Asks for batches until nobody brings any more, or the worker stops.
pub(crate) struct Gatekeeper {
    pub(crate) store: Store,
    pub(crate) membership: Membership,
    pub(crate) executor: Executor,
    pub(crate) prefetch: watch::Receiver<Prefetch>,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Gatekeeper {
    /// Answers with the jobs it asked for last without getting an answer: they never ran.
    pub(crate) async fn run(self, mut asking: mpsc::Receiver<Asking>) -> Vec<Fenced> {
        self.health.expect(HEALTH);
        self.health.good(HEALTH);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let enough = self.prefetch.borrow().half();
            tokio::select! {
                biased;
                () = self.shutdown.quiesce.cancelled() => return Vec::new(),
                taken = gather(&mut asking, &mut batch, BATCH, enough) => if taken == 0 { return Vec::new() },
            }
            failpoint!("gate.before_asking");
            let Some((to, verdicts)) = self.ask(&batch).await else {
                return batch.iter().map(|one| one.ticket.job()).collect();
            };
            failpoint!("gate.granted");
            let mut refused = Vec::new();
            for (one, (verdict, late)) in batch.drain(..).zip(verdicts) {
                let GateVerdict::Start { attempt } = verdict else {
                    metrics::refused(reason(verdict));
                    tracing::debug!(job.id = %one.ticket.job().id, "refused by the gate ({verdict:?}): dropped");
                    refused.push((one.ticket, Settle::Ack));
                    continue;
                };
                self.executor.start(one, to, attempt, late);
            }
            inflight::redeem(refused).await;
        }
    }

    /// Asks until there is an answer: under which id, what to do with each, and how late those are
    /// that start. None: the worker stops first.
    async fn ask(&self, batch: &[Asking]) -> Option<(ProcessId, Vec<(GateVerdict, Duration)>)> {
        let (mut backoff, mut is_again) = (Backoff::default(), false);
        let mut late = Vec::with_capacity(batch.len());
        loop {
            late.clear();
            let in_hand = |one: &Asking| (one.ticket.job(), one.taken_at.elapsed());
            let asked: Vec<_> = batch.iter().map(in_hand).collect();
            match self.membership.id() {
                None => self
                    .health
                    .bad(HEALTH, "no heartbeat for half a lease: starting nothing"),
                Some(id) => match self
                    .store
                    .ask_gate(id, &asked, std::mem::replace(&mut is_again, true), |by| {
                        late.push(by);
                    })
                    .await
                {
                    Ok(Gate::Judged(verdicts)) if self.membership.id() == Some(id) => {
                        self.health.good(HEALTH);
                        return Some((id, verdicts.into_iter().zip(late).collect()));
                    }
                    // Asked again, the gate grants what is still this worker's and nothing else.
                    Ok(Gate::Judged(_)) => self
                        .health
                        .bad(HEALTH, "the answer came too late to start anything by it"),
                    Ok(Gate::WorkerIsLost) => {
                        if let Err(error) = self.membership.rejoin(id).await {
                            self.health.bad(HEALTH, error);
                        }
                    }
                    Err(error) => self.health.bad(HEALTH, error),
                },
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.shutdown.quiesce.cancelled() => return None,
            }
        }
    }
}

/// Why a job does not start, as the metrics have it.
fn reason(verdict: GateVerdict) -> &'static str {
    match verdict {
        GateVerdict::Expired => "expired",
        GateVerdict::Stopped => "stopped",
        GateVerdict::Suppressed => "suppressed",
        GateVerdict::Closed => "closed",
        GateVerdict::Broken => "breaker",
        GateVerdict::Refused | GateVerdict::Start { .. } => "stale",
    }
}
