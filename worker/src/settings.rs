//! What operators set of kinds and queues, kept current while the worker runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, Listener, Store};
use tokio::sync::watch;

use crate::breaker::Breakers;
use crate::prefetch::{Prefetch, ProviderRooms};
use crate::registry::Kind;

/// A change is called out. How often is looked all the same.
const LOOK: Duration = Duration::from_secs(60);
/// And while nothing can be heard.
const LOOK_WHILE_DEAF: Duration = Duration::from_secs(1);

/// Reads the timeouts of these kinds, the prefetch of these queues and their providers again and again.
pub(crate) struct Settings {
    pub(crate) store: Store,
    pub(crate) kinds: Vec<Arc<Kind>>,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: watch::Sender<Prefetch>,
    pub(crate) provider_rooms: Arc<ProviderRooms>,
    pub(crate) breakers: Breakers,
    pub(crate) listener: Listener,
    pub(crate) looked: Option<Looked>,
}

/// When was looked last, and how much had been called out by then.
pub(crate) struct Looked {
    at: Instant,
    heard: u64,
}

impl Settings {
    /// Reads them once: attempts that begin from now on keep to them.
    pub(crate) async fn read(&self) -> Result<(), store::Error> {
        let names: Vec<&str> = self.kinds.iter().map(|kind| kind.name.as_str()).collect();
        let set = self.store.kind_timeouts(&names).await?;
        for kind in &self.kinds {
            kind.set_timeout(set.get(kind.name.as_str()).copied());
        }
        let hints = self.store.prefetch_hints(&self.queues).await?;
        let providers = self.store.worker_providers(&self.queues).await?;
        self.provider_rooms.set(&providers);
        self.breakers.set(&providers);
        self.prefetch
            .send_if_modified(|prefetch| prefetch.set(hints, &providers));
        Ok(())
    }

    /// Wakes the service whenever a change is called out.
    pub(crate) fn nudged(&self) -> Nudge {
        let (nudge, mut listener) = (Nudge::default(), self.listener.clone());
        let woken = nudge.clone();
        tokio::spawn(async move {
            loop {
                listener.next().await;
                woken.wake();
            }
        });
        nudge
    }
}

impl Service for Settings {
    const NAME: &'static str = "settings";
    type Error = store::Error;

    fn period(&self) -> Duration {
        LOOK_WHILE_DEAF
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let heard = self.listener.count();
        let is_current = self
            .looked
            .as_ref()
            .is_some_and(|looked| looked.heard == heard && looked.at.elapsed() < LOOK);
        if is_current && self.listener.deaf_since().is_none() {
            return Ok(Progress::Idle);
        }
        self.read().await?;
        let at = Instant::now();
        self.looked = Some(Looked { at, heard });
        Ok(Progress::Idle)
    }
}
