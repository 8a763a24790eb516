//! Archive partitions made a week ahead and dropped after retention; before that, finished jobs away
//! whose queue has a shorter one; dead keys and rows away, and what timelines show no more.
//!
//! Everything here is idempotent and bounded; any number of pruners share it.

mod forgetting;

use std::time::Duration;

use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store};

use forgetting::Forgetting;

const PERIOD: Duration = Duration::from_secs(10 * 60);
/// Dedup keys per statement.
const BATCH: i64 = 5000;

/// Chunks of recipients, each of which may be hundreds of kilobytes, and announcements.
const CHUNKS: i64 = 200;

/// The service.
pub struct Pruner {
    store: Store,
    retention: Duration,
    forgetting: Forgetting,
}

impl Pruner {
    /// Keeps finished jobs for `retention`, or as long as their queue says if that is shorter.
    pub fn new(store: Store, retention: Duration) -> Self {
        Self {
            store,
            retention,
            forgetting: Forgetting::new(),
        }
    }
}

impl Service for Pruner {
    const NAME: &'static str = "pruner";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        // Each step on its own: what one of them cannot do must not keep the others from it.
        let keys = self.store.prune_dedup(BATCH).await;
        let made = self.store.make_partitions().await;
        let dropped = self.store.drop_partitions(self.retention).await;
        // Of what is left: what is dropped need not be walked.
        let forgotten = self.forgetting.step(&self.store).await;
        let ticks = self.store.prune_ticks(self.retention, BATCH).await;
        let stops = self.store.prune_stops(self.retention).await;
        let chunks = self.store.prune_chunks(self.retention, CHUNKS).await;
        let drafts = self.store.prune_drafts().await;
        let entries = self.store.prune_entries(BATCH).await;
        let readers = self.store.prune_readers(BATCH).await;
        let announcements = self.store.prune_announcements(self.retention, CHUNKS).await;
        let processes = self.store.prune_processes().await;
        let (keys, made, dropped) = (keys?, made?, dropped?);
        let (forgotten, ticks) = (forgotten?, ticks?);
        stops?;
        let chunks = chunks?;
        drafts?;
        let (entries, readers) = (entries?, readers?);
        let announcements = announcements?;
        processes?;
        if made + dropped > 0 {
            tracing::info!(made, dropped, "partitions: {made} made, {dropped} dropped");
        }
        Ok(Progress::more_if(
            forgotten
                || [keys, ticks, entries, readers].contains(&(BATCH as usize))
                || [chunks, announcements].contains(&(CHUNKS as usize)),
        ))
    }
}
