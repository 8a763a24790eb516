//! A job is due now: schedulers are called, and look at once instead of with their next look.
//!
//! Calls form batches by themselves: what is enqueued while one call is under way is in the next.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use postroad_common::job::{NewJob, QueueName, RunAt};
use postroad_common::store::Store;
use tokio::sync::Notify;

/// Queues named in a call, at most: of more it says only that there are some.
const NAMED_MAX: usize = 16;

/// Calls schedulers.
#[derive(Clone, Default)]
pub(crate) struct Waker(Arc<Asked>);

#[derive(Default)]
struct Asked {
    queues: Mutex<BTreeSet<QueueName>>,
    any: Notify,
}

impl Waker {
    pub(crate) fn spawn(store: Store) -> Self {
        let waker = Self::default();
        let asked = waker.0.clone();
        tokio::spawn(async move {
            loop {
                asked.any.notified().await;
                // Nothing depends on it: schedulers look by themselves, too.
                if let Err(error) = store.call_due(&asked.take()).await {
                    tracing::debug!("{error}");
                }
            }
        });
        waker
    }

    /// Calls that something is due in some queue.
    pub(crate) fn wake(&self) {
        self.0.any.notify_one();
    }

    /// Calls those queues of whose jobs, which are in the database, one is due now.
    pub(crate) fn wake_for<'a>(&self, jobs: impl IntoIterator<Item = &'a NewJob>) {
        let due: BTreeSet<_> = jobs
            .into_iter()
            .filter(|job| is_due(job))
            .map(|job| &job.queue)
            .collect();
        if due.is_empty() {
            return;
        }
        self.0.lock().extend(due.into_iter().cloned());
        self.wake();
    }
}

impl Asked {
    fn take(&self) -> Vec<QueueName> {
        let queues = std::mem::take(&mut *self.lock());
        if queues.len() > NAMED_MAX {
            return Vec::new();
        }
        queues.into_iter().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<QueueName>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_due(job: &NewJob) -> bool {
    match job.run_at {
        RunAt::Now => true,
        RunAt::After(wait) => wait.is_zero(),
        RunAt::At(at) => at <= jiff::Timestamp::now(),
    }
}
