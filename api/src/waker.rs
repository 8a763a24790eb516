//! A job is due now: schedulers are called, and look at once instead of with their next look.
//!
//! Calls form batches by themselves: what is enqueued while one call is under way is in the next.

use std::sync::Arc;

use postroad_common::store::Store;
use tokio::sync::Notify;

/// Calls schedulers.
#[derive(Clone)]
pub(crate) struct Waker(Arc<Notify>);

impl Waker {
    pub(crate) fn spawn(store: Store) -> Self {
        let waker = Self(Arc::default());
        let asked = waker.0.clone();
        tokio::spawn(async move {
            loop {
                asked.notified().await;
                // Nothing depends on it: schedulers look by themselves, too.
                if let Err(error) = store.call_due().await {
                    tracing::debug!("{error}");
                }
            }
        });
        waker
    }

    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }
}
