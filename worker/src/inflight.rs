//! What this worker has in hand, and over which delivery each job is to be settled.
//!
//! When a connection breaks, the broker delivers again what was in hand, usually to this very
//! worker. The job must not be asked for at the gate a second time (the gate would grant it: the
//! worker itself started it), so a second delivery only takes the place of the first one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use postroad_common::broker::{Settle, Settler};
use postroad_common::store::Fenced;

/// The jobs in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    jobs: Arc<Mutex<HashMap<Fenced, Receipt>>>,
}

/// How to settle one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) settler: Settler,
    pub(crate) tag: u64,
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

/// Settles a batch, each job over its newest delivery, with one message per channel.
pub(crate) async fn redeem(tickets: impl IntoIterator<Item = (Ticket, Settle)>) {
    let mut by_channel: Vec<(Settler, Vec<(u64, Settle)>)> = Vec::new();
    for (ticket, settle) in tickets {
        let Some(Receipt { settler, tag }) = ticket.redeem() else {
            continue;
        };
        match by_channel
            .iter_mut()
            .find(|(known, _)| known.is_same(&settler))
        {
            Some((_, batch)) => batch.push((tag, settle)),
            None => by_channel.push((settler, vec![(tag, settle)])),
        }
    }
    for (settler, batch) in by_channel {
        settler.settle(batch).await;
    }
}
