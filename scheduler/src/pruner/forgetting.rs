//! Finished jobs that their queue does not keep as long as others are kept: a day of the archive is
//! walked from its first block to its last, some blocks at a time.
//!
//! How far the walk is, only this process knows: one that dies has it begun again, where there is
//! then little to delete. Of walkers at once Postgres lets one through at a time, and the others
//! rest; one whose queues' settings have changed meanwhile begins anew.

use std::time::Duration;

use postroad_common::store::{self, DayToForget, Store};
use tokio::time::Instant;

/// Blocks of the first statement: small, in case they are full of large args.
const BLOCKS_FIRST: i64 = 32;
/// Blocks per statement at most: 8 MiB, some fifty thousand jobs.
const BLOCKS_MAX: i64 = 1024;
/// A statement that takes longer than this was too large: people who retry the jobs wait for it.
const LONG: Duration = Duration::from_millis(500);
/// One that takes less could have been larger.
const SHORT: Duration = Duration::from_millis(100);

/// The walk, and how fast it goes.
pub(super) struct Forgetting {
    walk: Option<Walk>,
    blocks: i64,
}

struct Walk {
    of: DayToForget,
    /// All blocks before this one are done.
    next: i64,
    forgotten: i64,
}

impl Walk {
    fn is_of(&self, of: &DayToForget) -> bool {
        // Not the blocks: a vacuum may have cut off those at the end.
        (self.of.day, &self.of.queues) == (of.day, &of.queues)
    }
}

impl Forgetting {
    pub(super) fn new() -> Self {
        Self {
            walk: None,
            blocks: BLOCKS_FIRST,
        }
    }

    /// Goes one step further. False: there is nothing to forget, or not now.
    pub(super) async fn step(&mut self, store: &Store) -> Result<bool, store::Error> {
        // Looked up for every step: the settings may change, and somebody else may be done with it.
        let Some(of) = store.day_to_forget().await? else {
            self.walk = None;
            return Ok(false);
        };
        let walk = match &mut self.walk {
            Some(walk) if walk.is_of(&of) => walk,
            walk => walk.insert(Walk {
                of,
                next: 0,
                forgotten: 0,
            }),
        };
        let end = (walk.next + self.blocks).min(walk.of.blocks);
        if walk.next < end {
            let started = Instant::now();
            let forgotten = store.forget_finished(&walk.of, walk.next..end).await;
            // A statement that was too large to be finished at all was long, too.
            self.blocks = blocks_after(self.blocks, started.elapsed());
            let Some(forgotten) = forgotten? else {
                return Ok(false);
            };
            walk.forgotten += forgotten;
            walk.next = end;
        }
        if walk.next >= walk.of.blocks {
            store.note_forgotten(&walk.of).await?;
            let (day, forgotten) = (walk.of.day, walk.forgotten);
            tracing::info!(forgotten, "archive: {forgotten} jobs of {day} forgotten");
            self.walk = None;
        }
        Ok(true)
    }
}

/// How many blocks the next statement is to go through.
fn blocks_after(blocks: i64, took: Duration) -> i64 {
    if took > LONG {
        (blocks / 2).max(1)
    } else if took < SHORT {
        (blocks * 2).min(BLOCKS_MAX)
    } else {
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_as_large_as_their_time_allows() {
        let mut blocks = BLOCKS_FIRST;
        for _ in 0..20 {
            blocks = blocks_after(blocks, Duration::ZERO);
        }
        assert_eq!(blocks, BLOCKS_MAX);
        assert_eq!(blocks_after(blocks, SHORT), blocks);
        assert_eq!(blocks_after(blocks, LONG), blocks);
        for _ in 0..20 {
            blocks = blocks_after(blocks, Duration::from_secs(9));
        }
        assert_eq!(blocks, 1, "one block is always possible");
    }
}
