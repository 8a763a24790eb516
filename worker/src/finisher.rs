//! Outcomes → committed, many in one statement; then, and only then, settled.
//!
//! An outcome is written until Postgres has answered for it: it is the only record that the effect
//! took place. What is written twice because an answer was lost changes nothing the second time.
//!
//! | the outcome left the job | the delivery is |
//! |---|---|
//! | failed | dead-lettered: the scheduler takes it from there |
//! | completed, held, scheduled | acked |
//! | nowhere: the fence had moved on | acked |

use postroad_common::backoff::Backoff;
use postroad_common::broker::Settle;
use postroad_common::failpoint;
use postroad_common::health::Health;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Moved, Outcome, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

use crate::gather::gather;
use crate::inflight::{self, Ticket};
use crate::metrics;
use crate::prefetch::Prefetch;

/// Outcomes per statement.
const BATCH: usize = 512;
/// After the process was told to let go, how long outcomes are still tried to be written.
const LAST_TRIES: Duration = Duration::from_secs(5);

const HEALTH: &str = "outcomes";

/// An attempt that has ended.
pub(crate) struct Finished {
    pub(crate) ticket: Ticket,
    pub(crate) outcome: Outcome,
}

/// Writes outcomes until nobody brings any more.
pub(crate) struct Finisher {
    pub(crate) store: Store,
    pub(crate) prefetch: watch::Receiver<Prefetch>,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Finisher {
    /// Says whether every outcome was written.
    pub(crate) async fn run(self, mut finished: mpsc::Receiver<Finished>) -> bool {
        self.health.expect(HEALTH);
        self.health.good(HEALTH);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let enough = self.prefetch.borrow().half();
            if gather(&mut finished, &mut batch, BATCH, enough).await == 0 {
                return true;
            }
            let (tickets, outcomes): (Vec<_>, Vec<_>) = batch
                .drain(..)
                .map(|Finished { ticket, outcome }| (ticket, outcome))
                .unzip();
            let Some(moved) = self.write(&outcomes).await else {
                tracing::error!(
                    jobs = outcomes.len(),
                    "the outcomes of {} attempts could not be written: a rescuer will judge them as lost",
                    outcomes.len()
                );
                return false;
            };
            failpoint!("finisher.committed");
            let settle = |(ticket, moved): (Ticket, Moved)| {
                metrics::moved(moved);
                let settle = match moved {
                    Moved::Failed => Settle::DeadLetter,
                    Moved::Completed | Moved::Held | Moved::Scheduled | Moved::Superseded => {
                        Settle::Ack
                    }
                };
                (ticket, settle)
            };
            inflight::redeem(tickets.into_iter().zip(moved).map(settle)).await;
        }
    }

    /// Writes until it is written. None: the process has to go, and Postgres does not answer.
    async fn write(&self, outcomes: &[Outcome]) -> Option<Vec<Moved>> {
        let mut backoff = Backoff::default();
        let mut give_up_at = None;
        loop {
            match self.store.finish(outcomes).await {
                Ok(moved) => {
                    self.health.good(HEALTH);
                    return Some(moved);
                }
                Err(error) => self.health.bad(HEALTH, error),
            }
            if self.shutdown.cancel.is_cancelled() {
                let give_up_at = *give_up_at.get_or_insert(Instant::now() + LAST_TRIES);
                if Instant::now() >= give_up_at {
                    return None;
                }
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}
