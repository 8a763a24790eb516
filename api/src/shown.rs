//! The announcements of tenants, kept in memory with their rules read and their messages made.
//!
//! Each look at a timeline asks the database for the version of its tenant's announcements, in the
//! statement that it makes anyway. What is kept under that version is what the look is to see: there
//! is nobody to be told of a change, and nothing to be missed.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use postroad_common::store::Store;
use postroad_common::timeline::Announcements;

use crate::metrics;
use crate::problem::Problem;

/// What all of them may take. A tenant's are [`READ_FACTOR`] times 8 MiB at most.
const BYTES_MAX: u64 = 256 << 20;
/// What rules and messages take in memory, as a multiple of their JSON.
const READ_FACTOR: usize = 4;
/// Those of a tenant of whom nobody asks any more, and those of an older version, are dropped. So
/// are those in use: what has ended meanwhile is left out when they are read again.
const KEPT: Duration = Duration::from_secs(60);

/// Announcements by tenant and version.
#[derive(Clone)]
pub(crate) struct Shown {
    kept: Cache<(i32, i64), Arc<Announcements>>,
}

impl Shown {
    pub(crate) fn new() -> Self {
        let weigh = |_: &(i32, i64), all: &Arc<Announcements>| {
            u32::try_from(all.bytes().saturating_mul(READ_FACTOR) + 1024).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder()
            .weigher(weigh)
            .max_capacity(BYTES_MAX)
            // A new version is never turned away for the sake of an old one that was asked for often.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(KEPT)
            .build();
        Self { kept }
    }

    /// Those of a tenant at this version or a later one. Any number of callers at once make one read.
    pub(crate) async fn of(
        &self,
        store: &Store,
        tenant: i32,
        version: i64,
    ) -> Result<Arc<Announcements>, Problem> {
        let read = async {
            metrics::announcements_read();
            store.shown_announcements(tenant).await.map(Arc::new)
        };
        let found = self.kept.try_get_with((tenant, version), read).await;
        found.map_err(|error| Problem::from(&*error))
    }
}
