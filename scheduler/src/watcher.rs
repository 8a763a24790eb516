//! Silent processes → lost.
//!
//! A process is called lost only after *this* watcher has itself seen its heartbeat stand still for
//! a whole lease, in a view without gaps. So an outage of the database, during which nobody could
//! beat, kills nobody: the view begins anew when the database is back.
//!
//! A service of its own, so that slow rescues make no gaps in the view. Any number of watchers run
//! at once; calling a process lost is void if it has beaten since.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postroad_common::failpoint;
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, ProcessId, Store, WatchedProcess};

use crate::metrics;

const PERIOD: Duration = Duration::from_millis(500);
/// A longer time between two looks, or one longer than half a lease, is a gap in the view.
const GAP_MAX: Duration = Duration::from_secs(2);

/// The service.
pub struct Watcher {
    store: Store,
    rescuer: Nudge,
    view: View,
}

impl Watcher {
    /// Wakes `rescuer` when somebody was lost.
    pub fn new(store: Store, rescuer: Nudge) -> Self {
        Self {
            store,
            rescuer,
            view: View::default(),
        }
    }
}

impl Service for Watcher {
    const NAME: &'static str = "watcher";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let processes = self.store.watched_processes().await?;
        for process in self.view.observe(&processes, Instant::now()) {
            if self.store.call_lost(&process).await? {
                failpoint!("watcher.called_lost");
                metrics::process_lost();
                let id = process.id;
                tracing::warn!(
                    "process {id} was silent for {:?}: called lost",
                    process.lease
                );
                self.rescuer.wake();
            }
        }
        Ok(Progress::Idle)
    }
}

/// What one watcher has seen of all heartbeats, without a gap.
#[derive(Debug, Default)]
struct View {
    looked_at: Option<Instant>,
    seen: HashMap<ProcessId, (jiff::Timestamp, Instant)>,
}

impl View {
    /// Takes in one look, and says whose heartbeat has stood still for its lease.
    fn observe(&mut self, processes: &[WatchedProcess], now: Instant) -> Vec<WatchedProcess> {
        let gap = self.looked_at.map_or(Duration::MAX, |before| now - before);
        self.looked_at = Some(now);
        let before = std::mem::take(&mut self.seen);
        let mut lost = Vec::new();
        for process in processes {
            let since = match before.get(&process.id) {
                Some((seen_at, since))
                    if *seen_at == process.seen_at && gap <= GAP_MAX.min(process.lease / 2) =>
                {
                    *since
                }
                _ => now,
            };
            if now - since >= process.lease {
                lost.push(process.clone());
            }
            self.seen.insert(process.id, (process.seen_at, since));
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn process(beat: i64) -> WatchedProcess {
        let seen_at = jiff::Timestamp::from_second(beat).unwrap();
        WatchedProcess {
            id: ProcessId::from(1),
            seen_at,
            lease: LEASE,
        }
    }

    /// Looks every second from `from` to `to` seconds; the second at which it is called lost.
    fn watch(
        view: &mut View,
        start: Instant,
        seconds: std::ops::RangeInclusive<u64>,
        beat: i64,
    ) -> Option<u64> {
        seconds.into_iter().find(|second| {
            !view
                .observe(&[process(beat)], start + Duration::from_secs(*second))
                .is_empty()
        })
    }

    #[test]
    fn a_silent_process_is_lost_after_its_lease_and_not_before() {
        let (mut view, start) = (View::default(), Instant::now());
        assert_eq!(watch(&mut view, start, 0..=100, 7), Some(30));
    }

    #[test]
    fn a_heartbeat_starts_the_lease_again() {
        let (mut view, start) = (View::default(), Instant::now());
        assert_eq!(watch(&mut view, start, 0..=29, 7), None);
        assert_eq!(watch(&mut view, start, 30..=100, 8), Some(60));
    }

    #[test]
    fn a_gap_in_the_view_starts_the_lease_again() {
        let (mut view, start) = (View::default(), Instant::now());
        assert_eq!(watch(&mut view, start, 0..=29, 7), None);
        // The database was away for 40 seconds: nobody could beat, and nobody is blamed.
        assert_eq!(watch(&mut view, start, 70..=200, 7), Some(100));
    }
}
