//! Queues that are full and reject: nothing is let in, until schedulers say that there is room again.
//!
//! Each api process looks for itself while jobs come, a few times a second at most, so no job costs a
//! query. What comes between a queue's becoming full and the next look is let in.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use postroad_common::store::Store;
use tokio::sync::Mutex;

use crate::problem::Problem;

/// How long a look is used.
const LOOK_AGE_MAX: Duration = Duration::from_millis(250);
/// When to come again: a queue is open again when a tenth of it is free.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Which queues are full.
#[derive(Clone)]
pub(crate) struct Doors {
    store: Store,
    seen: Arc<RwLock<Seen>>,
    looking: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Seen {
    full: HashSet<String>,
    at: Option<Instant>,
}

impl Doors {
    /// Over `store`, which sees all queues.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            seen: Arc::default(),
            looking: Arc::default(),
        }
    }

    /// Refuses what is for a queue that is full.
    pub(crate) async fn check(&self, queue: &str) -> Result<(), Problem> {
        if self.is_old() {
            self.look().await;
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        match seen.full.contains(queue) {
            false => Ok(()),
            true => {
                let detail = format!("the queue `{queue}` is full: as many jobs wait in it as may");
                Err(Problem::too_many(detail, RETRY_AFTER_SECONDS))
            }
        }
    }

    fn is_old(&self) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.at.is_none_or(|at| at.elapsed() > LOOK_AGE_MAX)
    }

    /// One looks, and the others go by what was seen before. A database that does not answer closes
    /// nothing: the insert finds out.
    async fn look(&self) {
        let Ok(_looking) = self.looking.try_lock() else {
            return;
        };
        let found = self.store.full_queues().await;
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.at = Some(Instant::now());
        match found {
            Ok(full) => seen.full = full.into_iter().collect(),
            Err(error) => tracing::debug!("{error}: going by what was full before"),
        }
    }
}
