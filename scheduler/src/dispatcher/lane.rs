//! What the last claims from a queue were like, and what that says of the next one.

use std::time::{Duration, Instant};

use postroad_common::store::{Claimed, Cursor, DueQueue, SHARED_FOR, ShortPipe, Wanted};

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

/// A short pipe is looked after again when this part of it has left it.
const SHORT_PART: f64 = 0.1;

/// A queue, as this scheduler knows it.
#[derive(Debug)]
pub(super) struct Lane {
    /// As it was when it was last claimed from.
    queue: DueQueue,
    claimed_at: Option<Instant>,
    next_limit: i64,
    pace: Option<Pace>,
    backlog: Option<Backlog>,
    /// When tenants waited for each other, and what the pipe held then at most.
    shared: Option<(Instant, i64)>,
    /// What a short pipe holds beside a job for every place: what leaves it in this time. None: no pipe is
    /// short.
    slack: Option<Duration>,
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
    pub(super) fn of(queue: DueQueue, slack: Option<Duration>) -> Self {
        Self {
            queue,
            claimed_at: None,
            next_limit: BATCH_FIRST,
            pace: None,
            backlog: None,
            shared: None,
            slack,
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

    /// How much the next claim should get. A full window is refilled a fifth at a time, so that batches
    /// form; but no job waits for room that is there.
    pub(super) fn wanted(&self, now: Instant) -> Wanted {
        let credit_min = match self.claimed_at {
            Some(at) if now.duration_since(at) < REFILL_PATIENCE => (self.queue.window / 5).max(1),
            _ => 1,
        };
        let pace = self.pace.as_ref().map_or(0.0, Pace::per_second);
        Wanted {
            limit: self.next_limit,
            credit_min,
            short: self.slack.map(|slack| ShortPipe { slack, pace }),
        }
    }

    /// Whether more should be claimed at once, after so many jobs: of a short pipe little leaves at a time.
    pub(super) fn is_hungry(&self, now: Instant, jobs: usize) -> bool {
        let least = self.part_of_short(now).unwrap_or(0.0);
        jobs as f64 >= least
    }

    fn part_of_short(&self, now: Instant) -> Option<f64> {
        let (at, window) = self.shared?;
        (now.duration_since(at) < SHARED_FOR).then_some(window as f64 * SHORT_PART)
    }

    /// How long to rest at most, where the pipe is short.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let pace = self.pace.as_ref()?;
        pace.time_of(self.part_of_short(now)?)
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
        self.shared = claimed
            .is_shared
            .then_some((now, claimed.window))
            .or(self.shared);
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

    fn queue() -> DueQueue {
        DueQueue {
            id: 1,
            name: "default".to_owned(),
            window: 1000,
            pipe_ttl: Duration::from_secs(60),
        }
    }

    fn claimed(is_backlog: bool) -> Claimed {
        Claimed {
            set_aside: 0,
            queue: queue(),
            jobs: Vec::new(),
            is_backlog,
            is_shared: false,
            window: 1000,
            in_pipe: 0,
            places: None,
            reached: Cursor::default(),
        }
    }

    #[test]
    fn a_short_pipe_is_looked_after_by_its_pace_for_a_moment_after_tenants_have_waited() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let claimed = |is_shared, window, in_pipe| Claimed {
            is_shared,
            window,
            in_pipe,
            ..claimed(true)
        };
        let slack = Duration::from_millis(10);
        let mut lane = Lane::of(queue(), Some(slack));
        let wanted = |pace| Wanted {
            limit: BATCH_FIRST,
            credit_min: 200,
            short: Some(ShortPipe { slack, pace }),
        };
        lane.claimed(at(0), 100, true, &claimed(false, 1000, 2000));
        assert_eq!(lane.wanted(at(1)), wanted(0.0));
        lane.claimed(at(1000), 100, true, &claimed(false, 1000, 0));
        assert_eq!(lane.wanted(at(1001)), wanted(2000.0));
        assert_eq!(lane.rest(at(1001)), None);

        lane.claimed(at(1010), 100, true, &claimed(true, 70, 0));
        let rest = |millis| lane.rest(at(millis)).map(|rest| rest.as_micros());
        assert_eq!(rest(1011), Some(3500), "7 of 70 jobs");
        assert_eq!(rest(3009), Some(3500));
        assert_eq!(rest(3010), None);
        assert!(lane.is_hungry(at(1011), 7) && !lane.is_hungry(at(1011), 6));
        assert!(lane.is_hungry(at(3010), 1), "a window has room enough");

        let off = Lane::of(queue(), None);
        assert_eq!(off.wanted(at(0)).short, None);
    }

    /// Nothing is claimed from the middle on for long: what came late must be found.
    #[test]
    fn a_backlog_is_known_for_a_moment_and_not_after_a_claim_that_left_nothing() {
        let start = Instant::now();
        let (mut lane, soon, later) = (
            Lane::of(queue(), None),
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
