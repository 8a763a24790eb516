//! How far claims from a queue have come.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// How far claims from a queue have come, by tenant and priority, in due time.
///
/// An index keeps the places of what was claimed until Postgres vacuums it, and whoever looks for
/// what is due walks over them: after a hundred thousand jobs that costs more than claiming the next
/// thousand. A claim with a cursor begins behind them. It passes over jobs that come late with an
/// earlier due time (from a long transaction, or released), so now and then there must be one without.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// By priority.
    pub(super) tenants: BTreeMap<i32, [Option<Timestamp>; 4]>,
}

/// Tenants in a cursor, at most: a look passes over each of them.
const CURSOR_TENANTS_MAX: usize = 32;
/// A tenant that has less than such a share of a claim has few places to walk over.
const CURSOR_SHARE: usize = 20;

impl Cursor {
    /// Goes on to where the next claim came to.
    pub fn advance(&mut self, reached: Self) {
        for (tenant, times) in reached.tenants {
            let is_full = self.tenants.len() >= CURSOR_TENANTS_MAX;
            if is_full && !self.tenants.contains_key(&tenant) {
                continue;
            }
            let known = self.tenants.entry(tenant).or_default();
            for (known, time) in known.iter_mut().zip(times) {
                *known = time.or(*known);
            }
        }
    }

    /// The end of what was claimed: tenants, priorities and due times.
    pub(super) fn of(claimed: impl ExactSizeIterator<Item = (i32, i16, Timestamp)>) -> Self {
        let total = claimed.len();
        let mut tenants: BTreeMap<i32, (usize, [Option<Timestamp>; 4])> = BTreeMap::new();
        for (tenant, priority, run_at) in claimed {
            let (jobs, times) = tenants.entry(tenant).or_default();
            *jobs += 1;
            if let Some(time) = usize::try_from(priority)
                .ok()
                .and_then(|n| times.get_mut(n))
            {
                *time = (*time).max(Some(run_at));
            }
        }
        tenants.retain(|_, (jobs, _)| *jobs * CURSOR_SHARE >= total);
        let times = |(tenant, (_, times))| (tenant, times);
        Self {
            tenants: tenants.into_iter().map(times).collect(),
        }
    }

    pub(super) fn times(&self, priority: usize) -> Vec<Option<Timestamp>> {
        self.tenants.values().map(|times| times[priority]).collect()
    }
}
