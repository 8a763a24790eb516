//! What this worker has in hand, and over which delivery each job is to be settled.
//!
//! A delivery holds one job or a bundle of them, and is settled when each has been dealt with: dead-
//! lettered if one of them is to be, so that the scheduler reads of it; acked otherwise. Should a
//! worker die before, those that have been started are refused when the bundle comes again.
//!
//! When a connection breaks, the broker delivers again what was in hand, usually to this very
//! worker. The job must not be asked for at the gate a second time (the gate would grant it: the
//! worker itself started it), so a second delivery only takes the place of the first one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postroad_common::broker::{Settle, Settler};
use postroad_common::store::Fenced;

/// The jobs in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    jobs: Arc<Mutex<HashMap<Fenced, Receipt>>>,
}

/// How to settle the delivery that one job came with. There is one for each job in it.
#[derive(Debug)]
pub(crate) struct Receipt {
    delivery: Arc<Parcel>,
}

/// A delivery, of which some jobs have not been dealt with.
#[derive(Debug)]
struct Parcel {
    settler: Settler,
    tag: u64,
    state: Mutex<ParcelState>,
}

#[derive(Debug)]
struct ParcelState {
    open: usize,
    is_dead: bool,
    is_given_back: bool,
}

/// One receipt for each of the `jobs` in a delivery.
pub(crate) fn receipts(settler: Settler, tag: u64, jobs: usize) -> Vec<Receipt> {
    let state = Mutex::new(ParcelState {
        open: jobs,
        is_dead: false,
        is_given_back: false,
    });
    let delivery = Arc::new(Parcel {
        settler,
        tag,
        state,
    });
    let receipt = || Receipt {
        delivery: delivery.clone(),
    };
    std::iter::repeat_with(receipt).take(jobs).collect()
}

impl Receipt {
    /// Its job has been dealt with: what is to be done with the delivery, if it was the last one.
    fn close(&self, settle: Settle) -> Option<Settle> {
        let mut state = self.lock();
        state.open -= 1;
        state.is_dead |= settle == Settle::DeadLetter;
        let is_over = state.open == 0 && !state.is_given_back;
        is_over.then_some(if state.is_dead {
            Settle::DeadLetter
        } else {
            Settle::Ack
        })
    }

    /// As [`Self::close`], and does it.
    pub(crate) async fn settle(self, settle: Settle) {
        if let Some(settle) = self.close(settle) {
            let Parcel { settler, tag, .. } = &*self.delivery;
            settler.settle(vec![(*tag, settle)]).await;
        }
    }

    /// Gives the delivery back with all that is in it. What of it has been started here goes on, and
    /// is refused to whoever gets the delivery next.
    pub(crate) async fn give_back(self) {
        let is_first = !std::mem::replace(&mut self.lock().is_given_back, true);
        if is_first {
            let Parcel { settler, tag, .. } = &*self.delivery;
            settler.settle(vec![(*tag, Settle::Requeue)]).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ParcelState> {
        let state = &self.delivery.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a delivery means.
pub(crate) enum Taken {
    /// The job was not in hand.
    New(Ticket),
    /// It was, and is to be settled over this delivery from now on; the one before is done with.
    Again(Receipt),
}

impl InFlight {
    pub(crate) fn take(&self, job: Fenced, receipt: Receipt) -> Taken {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.entry(job) {
            Entry::Occupied(mut entry) => Taken::Again(entry.insert(receipt)),
            Entry::Vacant(entry) => {
                entry.insert(receipt);
                Taken::New(Ticket {
                    job,
                    in_flight: self.clone(),
                    is_redeemed: false,
                })
            }
        }
    }

    fn remove(&self, job: Fenced) -> Option<Receipt> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(&job)
    }
}

/// One job in hand. Dropped without being redeemed, it leaves its delivery to the broker, who will
/// deliver it again.
#[derive(Debug)]
pub(crate) struct Ticket {
    job: Fenced,
    in_flight: InFlight,
    is_redeemed: bool,
}

impl Ticket {
    pub(crate) fn job(&self) -> Fenced {
        self.job
    }

    /// Gives the newest delivery of the job back, with all that is in it: the job has not been started.
    pub(crate) async fn give_back(self) {
        if let Some(receipt) = self.redeem() {
            receipt.give_back().await;
        }
    }

    /// The newest delivery of the job, which is in hand no longer. From here on the next delivery
    /// has an entry of its own, which the end of this ticket must not touch.
    fn redeem(mut self) -> Option<Receipt> {
        self.is_redeemed = true;
        self.in_flight.remove(self.job)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_redeemed {
            self.in_flight.remove(self.job);
        }
    }
}

/// Settles what a batch of jobs leaves to be settled, each over its newest delivery, with one message
/// per channel.
pub(crate) async fn redeem(tickets: impl IntoIterator<Item = (Ticket, Settle)>) {
    let mut by_channel: Vec<(Settler, Vec<(u64, Settle)>)> = Vec::new();
    for (ticket, settle) in tickets {
        let Some(receipt) = ticket.redeem() else {
            continue;
        };
        let Some(settle) = receipt.close(settle) else {
            continue;
        };
        let Parcel { settler, tag, .. } = &*receipt.delivery;
        match by_channel
            .iter_mut()
            .find(|(known, _)| known.is_same(settler))
        {
            Some((_, batch)) => batch.push((*tag, settle)),
            None => by_channel.push((settler.clone(), vec![(*tag, settle)])),
        }
    }
    for (settler, batch) in by_channel {
        settler.settle(batch).await;
    }
}
