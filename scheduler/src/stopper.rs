//! What stops leave to be done: jobs that were set aside come back when their stop is lifted, and what
//! a stop cancels is archived.
//!
//! Nothing depends on this being prompt: claims and gates hold to a stop from the moment that it is
//! committed.

use std::time::Duration;

use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, Store};

use crate::metrics;

const PERIOD: Duration = Duration::from_millis(500);
/// Jobs that are brought back in a transaction.
const RELEASED: i64 = 1000;
/// Jobs that are looked at in a transaction: most are passed over.
const LOOKED_AT: i64 = 5000;

/// The service.
pub struct Stopper {
    store: Store,
    dispatch: Nudge,
}

impl Stopper {
    /// `dispatch` is woken for jobs that may be started again.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self { store, dispatch }
    }
}

impl Service for Stopper {
    const NAME: &'static str = "stopper";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let back = self.store.release_set_aside(RELEASED).await?;
        if back.released > 0 {
            self.dispatch.wake();
        }
        let swept = self.store.sweep_cancelled(LOOKED_AT).await?;
        metrics::stopped("released", back.released);
        metrics::stopped("cancelled", swept.cancelled);
        Ok(Progress::more_if(back.has_more || swept.has_more))
    }
}
