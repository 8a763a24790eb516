//! What the last claims from a queue were like, and what that says of the next one.

use std::time::{Duration, Instant};

use postroad_common::store::{Claimed, Cursor, DueQueue};

use crate::bundling::Pace;

/// Jobs per claim and per published batch, at most, where each has a message of its own.
pub(super) const BATCH: i64 = 1000;
/// Where bundles carry them: they take less memory on their way, and what a claim costs whatever its
/// size is a larger part of the whole.
const BATCH_BUNDLED: i64 = 2 * BATCH;
/// Jobs per message from which on bundles carry them.
const BUNDLED_LEAST: usize = 4;
/// Bytes of args per batch, about: the next claim is sized by what the last one of its queue held.
const BATCH_BYTES: i64 = 2 * 1024 * 1024;
/// Jobs of the first claim from a queue: how large its args are is not known yet.
const BATCH_FIRST: i64 = 100;
/// A claim is at most so many times as large as the one before it: what comes may be larger.
const BATCH_GROWTH: i64 = 4;
/// How long a full window is left to drain before fewer than a fifth of it is refilled.
const REFILL_PATIENCE: Duration = Duration::from_millis(100);
/// How long a queue with a backlog is known to have one, and its claims begin where the last one came
/// to. So much longer may a job wait that came late with an earlier due time.
const BACKLOG_KNOWN: Duration = Duration::from_millis(250);

/// A queue, as this scheduler knows it.
#[derive(Debug)]
pub(super) struct Lane {
    /// As it was when it was last claimed from.
    queue: DueQueue,
    claimed_at: Option<Instant>,
    next_limit: i64,
    pace: Option<Pace>,
    backlog: Option<Backlog>,
    is_bundled: bool,
}

/// More is due than the claims since then were allowed to take.
#[derive(Debug)]
struct Backlog {
    since: Instant,
    cursor: Cursor,
}

impl Lane {
    /// Of a queue that this scheduler has never claimed from.
    pub(super) fn of(queue: DueQueue) -> Self {
        Self {
            queue,
            claimed_at: None,
            next_limit: BATCH_FIRST,
            pace: None,
            backlog: None,
            is_bundled: false,
        }
    }

    /// The queue.
    pub(super) fn queue(&self) -> &DueQueue {
        &self.queue
    }

    /// How many jobs to claim at most.
    pub(super) fn limit(&self) -> i64 {
        self.next_limit
    }

    /// A full window is refilled a fifth at a time, so that batches form; but no job waits for
    /// room that is there.
    pub(super) fn credit_min(&self, now: Instant) -> i64 {
        match self.claimed_at {
            Some(at) if now.duration_since(at) < REFILL_PATIENCE => (self.queue.window / 5).max(1),
            _ => 1,
        }
    }

    /// Where to begin, when more is known to be due. None: at the beginning, if anything is.
    pub(super) fn backlog(&self, now: Instant) -> Option<&Cursor> {
        let backlog = self.backlog.as_ref()?;
        let is_known = now.duration_since(backlog.since) < BACKLOG_KNOWN;
        is_known.then_some(&backlog.cursor)
    }

    /// Notes a claim of up to `limit` jobs, made from the beginning or where [`Self::backlog`] said; says
    /// at what pace jobs leave the pipe.
    pub(super) fn claimed(
        &mut self,
        now: Instant,
        limit: i64,
        is_from_beginning: bool,
        claimed: &Claimed,
    ) -> &Pace {
        let bytes_each = claimed.args_bytes() / claimed.jobs.len().max(1);
        let most = if self.is_bundled {
            BATCH_BUNDLED
        } else {
            BATCH
        };
        self.queue.clone_from(&claimed.queue);
        self.claimed_at = Some(now);
        if !claimed.jobs.is_empty() {
            self.next_limit = next_limit(limit, most, bytes_each);
        }
        let reached = claimed.reached.clone();
        self.backlog = match self.backlog.take() {
            _ if !claimed.is_backlog => None,
            // Only a claim from the beginning has passed over nothing.
            _ if is_from_beginning => Some(Backlog {
                since: now,
                cursor: reached,
            }),
            known => known.map(|mut known| {
                known.cursor.advance(reached);
                known
            }),
        };
        let in_pipe = claimed.in_pipe;
        let pace = self.pace.get_or_insert_with(|| Pace::new(now, in_pipe));
        pace.claimed(now, in_pipe, claimed.jobs.len());
        pace
    }

    /// Notes how many messages carry what was claimed.
    pub(super) fn packed(&mut self, jobs: usize, messages: usize) {
        self.is_bundled = jobs >= messages * BUNDLED_LEAST;
    }

    /// Notes a claim of up to `limit` jobs that failed. One that was too large to be answered in time
    /// must not be asked for again.
    pub(super) fn failed(&mut self, now: Instant, limit: i64) {
        self.claimed_at = Some(now);
        self.next_limit = (limit / 2).max(1);
    }
}

/// How many jobs to claim, `most` at most, after a claim of up to `limit` whose jobs had so many bytes
/// each.
fn next_limit(limit: i64, most: i64, bytes_each: usize) -> i64 {
    let bytes_each = i64::try_from(bytes_each).unwrap_or(i64::MAX).max(1);
    (BATCH_BYTES / bytes_each).clamp(1, most.min(limit * BATCH_GROWTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_grow_step_by_step_and_are_small_when_args_are_large() {
        let mut limit = BATCH_FIRST;
        for _ in 0..3 {
            limit = next_limit(limit, BATCH, 100);
        }
        assert_eq!(limit, BATCH, "as many as there may be, soon");
        let grown = next_limit(BATCH_FIRST, BATCH, 0);
        assert_eq!(grown, BATCH_FIRST * BATCH_GROWTH);
        let largest = postroad_common::job::ARGS_BYTES_MAX;
        assert_eq!(next_limit(BATCH, BATCH, largest), 8);
        assert_eq!(next_limit(1, BATCH, largest), 4, "and from one on again");
        assert_eq!(next_limit(BATCH, BATCH, 8 * largest), 1, "but never none");
    }

    /// Nothing is claimed from the middle on for long: what came late must be found.
    #[test]
    fn a_backlog_is_known_for_a_moment_and_not_after_a_claim_that_left_nothing() {
        let queue = DueQueue {
            id: 1,
            name: "default".to_owned(),
            window: 1000,
            pipe_ttl: Duration::from_secs(60),
        };
        let claimed = |is_backlog| Claimed {
            set_aside: 0,
            queue: queue.clone(),
            jobs: Vec::new(),
            is_backlog,
            in_pipe: 0,
            places: None,
            reached: Cursor::default(),
        };
        let start = Instant::now();
        let (mut lane, soon, later) = (
            Lane::of(queue.clone()),
            start + BACKLOG_KNOWN / 2,
            start + BACKLOG_KNOWN,
        );
        assert!(lane.backlog(start).is_none());
        lane.claimed(start, 100, true, &claimed(true));
        assert!(lane.backlog(soon).is_some());
        lane.claimed(soon, 100, false, &claimed(true));
        assert!(lane.backlog(later).is_none(), "since the first");
        // Begun before, and answered late.
        lane.claimed(later, 100, false, &claimed(true));
        assert!(lane.backlog(later).is_none(), "it passed over something");
        lane.claimed(later, 100, true, &claimed(true));
        assert!(lane.backlog(later).is_some());
        lane.claimed(later, 100, false, &claimed(false));
        assert!(lane.backlog(later).is_none());
    }
}
