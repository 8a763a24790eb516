//! Every queue that the database knows → a queue in the broker.
//!
//! A worker makes the row of a queue that nobody has used before, and may not be allowed to declare
//! it in the broker; until somebody has, it consumes none of its queues. The dispatcher announces
//! queues with due jobs, sooner; this is for those that have none yet.

use std::time::Duration;

use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store};
use tokio::sync::watch;

const PERIOD: Duration = Duration::from_secs(5);

/// The service.
pub struct Declarer {
    store: Store,
    queues: watch::Sender<Vec<String>>,
}

impl Declarer {
    /// Over `store`; `queues` tells the publisher which queues must exist.
    pub fn new(store: Store, queues: watch::Sender<Vec<String>>) -> Self {
        Self { store, queues }
    }
}

impl Service for Declarer {
    const NAME: &'static str = "declarer";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let names = self.store.queue_names().await?;
        self.queues.send_if_modified(|known| {
            let before = known.len();
            let new = names.into_iter().filter(|name| !known.contains(name));
            let new: Vec<_> = new.collect();
            known.extend(new);
            known.len() > before
        });
        Ok(Progress::Idle)
    }
}
