//! Lost claims and the runs of lost workers → scheduled, failed or held, as each kind says.
//!
//! Who is lost is for the `watcher` to say. Any number of rescuers run at once: jobs are taken with
//! `skip locked`.

use std::time::Duration;

use postroad_common::failpoint;
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, Store};

use crate::metrics;

const PERIOD: Duration = Duration::from_millis(500);
/// After a message must have expired, how much longer it may take to come back by itself.
const EXPIRY_SLACK: Duration = Duration::from_secs(15);
/// Jobs per statement and queue.
const BATCH: i64 = 1000;

/// The service.
pub struct Rescuer {
    store: Store,
    dispatcher: Nudge,
}

impl Rescuer {
    /// Wakes `dispatcher` when there is something to dispatch again.
    pub fn new(store: Store, dispatcher: Nudge) -> Self {
        Self { store, dispatcher }
    }
}

impl Service for Rescuer {
    const NAME: &'static str = "rescuer";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let released = self.store.release_unstarted(EXPIRY_SLACK, BATCH).await?;
        let ended = self.store.end_lost_runs(BATCH).await?;
        if released > 0 {
            failpoint!("rescuer.released");
            metrics::rescued("claim", released);
            tracing::warn!(
                jobs = released,
                "{released} claims came to nothing: back to scheduled"
            );
            self.dispatcher.wake();
        }
        if ended.failed + ended.held > 0 {
            failpoint!("rescuer.ended");
            metrics::rescued("failed", ended.failed);
            metrics::rescued("held", ended.held);
            tracing::warn!(
                failed = ended.failed,
                held = ended.held,
                "runs of lost workers ended: {} to be retried, {} held",
                ended.failed,
                ended.held
            );
        }
        let most = released.max(ended.failed + ended.held) as i64;
        Ok(Progress::more_if(most >= BATCH))
    }
}
