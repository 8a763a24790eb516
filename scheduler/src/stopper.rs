//! What stops leave to be done: jobs that were set aside come back when their stop is lifted, and what
//! a stop cancels is archived.
//!
//! Nothing depends on this being prompt: claims and gates hold to a stop from the moment that it is
//! committed.

use std::time::Duration;

use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, Store};
use uuid::Uuid;

use crate::metrics;

const PERIOD: Duration = Duration::from_millis(500);
/// Jobs that are brought back in a transaction.
const RELEASED: i64 = 1000;
/// Jobs that are looked at in a transaction: most are passed over.
const LOOKED_AT: i64 = 5000;
/// And at least, after steps that took too long: what is archived may be a quarter of a megabyte each.
const LOOKED_AT_LEAST: i64 = 20;

/// The service.
pub struct Stopper {
    store: Store,
    dispatch: Nudge,
    /// The last job that was brought back, and the stop that had set it aside.
    last: Option<(Uuid, Uuid)>,
    looked_at: i64,
}

impl Stopper {
    /// `dispatch` is woken for jobs that may be started again.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self {
            store,
            dispatch,
            last: None,
            looked_at: LOOKED_AT,
        }
    }

    async fn release(&mut self) -> Result<bool, store::Error> {
        let (back, last) = self.store.release_set_aside(self.last, RELEASED).await?;
        // From the beginning again when there is nothing behind it: what was passed over is met then.
        let was_behind = self.last.is_some();
        self.last = last.filter(|_| back.has_more);
        if back.released > 0 {
            self.dispatch.wake();
        }
        metrics::stopped("released", back.released);
        Ok(back.has_more || was_behind)
    }

    async fn sweep(&mut self) -> Result<bool, store::Error> {
        let swept = self.store.sweep_cancelled(self.looked_at).await;
        self.looked_at = match &swept {
            Ok(_) => (self.looked_at * 2).min(LOOKED_AT),
            Err(_) => (self.looked_at / 4).max(LOOKED_AT_LEAST),
        };
        let swept = swept?;
        metrics::stopped("cancelled", swept.cancelled);
        Ok(swept.has_more)
    }
}

impl Service for Stopper {
    const NAME: &'static str = "stopper";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        // Each on its own: what one of them cannot do must not keep the others from it.
        let (released, swept) = (self.release().await, self.sweep().await);
        let folded = self.store.fold_catches().await;
        let has_more = released? | swept?;
        folded?;
        Ok(Progress::more_if(has_more))
    }
}
