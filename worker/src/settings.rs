//! What operators set of kinds and queues, kept current while the worker runs.

use std::sync::Arc;
use std::time::Duration;

use postroad_common::changes::{Changes, Mark, TRUSTED};
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store, Topic};
use tokio::sync::watch;

use crate::breaker::Breakers;
use crate::prefetch::{Prefetch, ProviderRooms};
use crate::registry::Kind;

/// It is woken by changes. How often it looks whether there was one all the same.
const PERIOD: Duration = Duration::from_secs(1);

/// Reads the timeouts of these kinds, the prefetch of these queues and their providers whenever they
/// change.
pub(crate) struct Settings {
    pub(crate) store: Store,
    pub(crate) kinds: Vec<Arc<Kind>>,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: watch::Sender<Prefetch>,
    pub(crate) provider_rooms: Arc<ProviderRooms>,
    pub(crate) breakers: Breakers,
    pub(crate) changes: Changes,
    pub(crate) looked: Option<Mark>,
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
}

impl Service for Settings {
    const NAME: &'static str = "settings";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let is_unchanged = |mark| {
            [Topic::Kind, Topic::Queue]
                .into_iter()
                .all(|topic| self.changes.is_unchanged(topic, None, mark))
        };
        // While nobody knows whether anything has changed, it is read.
        let known_for = self.changes.known_for();
        let is_known = known_for.is_some_and(|known| known <= TRUSTED);
        if is_known && self.looked.is_some_and(is_unchanged) {
            return Ok(Progress::Idle);
        }
        let mark = self.changes.mark();
        self.read().await?;
        self.looked = Some(mark);
        Ok(Progress::Idle)
    }
}
