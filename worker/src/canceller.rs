//! Jobs that somebody calls off while they run here.
//!
//! Asked for as often as this worker sends its heartbeat. A job that is called off is dropped at its
//! next await; how that leaves it is for its `on_lost` to say (see [`Ending::Cancelled`]).
//!
//! [`Ending::Cancelled`]: postroad_common::store::Ending::Cancelled

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postroad_common::membership::Membership;
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Fenced, Store};
use tokio_util::sync::CancellationToken;

/// The jobs that run, and how to stop each.
#[derive(Clone, Default)]
pub(crate) struct Cancellations(Arc<Mutex<HashMap<Fenced, CancellationToken>>>);

/// One job that runs. Dropped when it has ended.
pub(crate) struct CalledOff {
    job: Fenced,
    token: CancellationToken,
    all: Cancellations,
}

impl Cancellations {
    pub(crate) fn enter(&self, job: Fenced) -> CalledOff {
        let token = CancellationToken::new();
        self.lock().insert(job, token.clone());
        CalledOff {
            job,
            token,
            all: self.clone(),
        }
    }

    fn cancel(&self, jobs: &[Fenced]) {
        let running = self.lock();
        for token in jobs.iter().filter_map(|job| running.get(job)) {
            token.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fenced, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CalledOff {
    /// Resolves when the job is called off.
    pub(crate) async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for CalledOff {
    fn drop(&mut self) {
        self.all.lock().remove(&self.job);
    }
}

/// Looks for jobs that are to be cancelled.
pub(crate) struct Canceller {
    pub(crate) store: Store,
    pub(crate) membership: Membership,
    pub(crate) cancellations: Cancellations,
    pub(crate) period: Duration,
}

impl Service for Canceller {
    const NAME: &'static str = "canceller";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.period
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let called_off = self.store.to_cancel(self.membership.last_id()).await?;
        self.cancellations.cancel(&called_off);
        Ok(Progress::Idle)
    }
}
