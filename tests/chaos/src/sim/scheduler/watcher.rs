//! Silent processes → lost, seen as `postroad-scheduler`'s watcher sees them.

use std::collections::BTreeMap;

use postroad_common::store::{ProcessId, WatchedProcess};

use crate::sim::Bug;
use crate::sim::executor::Sim;
use crate::sim::model_store::Millis;
use crate::sim::world::ProcessNo;

/// A longer time between two looks, or one longer than half a lease, is a gap in the view.
const GAP_MAX: Millis = 2_000;

/// The service.
pub(super) async fn watch(sim: Sim, me: ProcessNo) {
    let mut view = View {
        is_hasty: sim.with(|world| world.has_bug(Bug::HastyWatcher)),
        ..View::default()
    };
    loop {
        if let Ok(processes) = sim.call(me, |store| store.watched_processes()).await {
            for process in view.observe(&processes, sim.now()) {
                if sim
                    .call(me, move |store| store.call_lost(&process))
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        sim.sleep(500).await;
    }
}

/// What one watcher has seen of all heartbeats, without a gap.
#[derive(Default)]
struct View {
    looked_at: Option<Millis>,
    seen: BTreeMap<ProcessId, (jiff::Timestamp, Millis)>,
    is_hasty: bool,
}

impl View {
    fn observe(&mut self, processes: &[WatchedProcess], now: Millis) -> Vec<WatchedProcess> {
        let gap = self.looked_at.map_or(Millis::MAX, |before| now - before);
        self.looked_at = Some(now);
        let before = std::mem::take(&mut self.seen);
        let mut lost = Vec::new();
        for process in processes {
            let lease = process.lease.as_millis() as Millis;
            let since = match before.get(&process.id) {
                Some((seen_at, since))
                    if *seen_at == process.seen_at && gap <= GAP_MAX.min(lease / 2) =>
                {
                    *since
                }
                _ => now,
            };
            let patience = if self.is_hasty { 1 } else { lease };
            if now - since >= patience {
                lost.push(process.clone());
            }
            self.seen.insert(process.id, (process.seen_at, since));
        }
        lost
    }
}
