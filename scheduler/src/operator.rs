//! Dead letters that somebody wants back: in batches, oldest operation first.
//!
//! What if the process dies after a batch? The batch and the operation's cursor are one transaction:
//! any scheduler goes on where it was.

use std::time::Duration;

use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, Store};

/// Jobs per transaction.
const BATCH: i64 = 500;
const PERIOD: Duration = Duration::from_secs(1);

/// The service.
pub struct Operator {
    store: Store,
    dispatch: Nudge,
}

impl Operator {
    /// Works operations off; `dispatch` is woken for jobs that are due again.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self { store, dispatch }
    }
}

impl Service for Operator {
    const NAME: &'static str = "operator";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let redriven = self.store.step_operation(BATCH).await?;
        if redriven.is_some_and(|jobs| jobs > 0) {
            self.dispatch.wake();
        }
        Ok(Progress::more_if(redriven.is_some()))
    }
}
