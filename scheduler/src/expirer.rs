//! Scheduled and past `expires_at` → expired.
//!
//! The claim passes over expired jobs and the gate refuses them, so nothing depends on this being
//! prompt; it only keeps them from standing at the head of their queue.

use std::time::Duration;

use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store};

use crate::metrics;

const PERIOD: Duration = Duration::from_secs(1);
const BATCH: i64 = 1000;

/// The service.
pub struct Expirer {
    store: Store,
}

impl Expirer {
    /// Over `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Service for Expirer {
    const NAME: &'static str = "expirer";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let expired = self.store.expire(BATCH).await?;
        metrics::expired(expired);
        Ok(Progress::more_if(expired as i64 >= BATCH))
    }
}
