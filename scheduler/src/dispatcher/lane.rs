//! What the last claims from a queue were like, and what that says of the next one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_common::store::{Claim, Claimed, Cursor, DueQueue, Wanted};

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

/// How long a queue is known to be shared, after a tenant was met that had less than its share beside one
/// that had as much.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// So much longer at most, where claims of several tenants are too small to tell.
const SHARED_PERHAPS_FOR: Duration = Duration::from_secs(30);
/// How long a pipe that should be short may be too full for any claim. What it holds is slow, or nobody
/// runs it, as what a dead scheduler had claimed: then the window is the queue's again.
const STILL_MAX: Duration = Duration::from_secs(1);
/// And for how long it stays so.
const LONG_FOR: Duration = Duration::from_secs(30);
/// When nothing could be claimed, a short pipe is looked after again when this part of it has left it.
const SHORT_PART: f64 = 0.1;
/// A claim of so few jobs tells nothing of shares.
const SMALL: usize = 4;
/// With so much, a pipe is never short.
pub(crate) const SLACK_MAX: Duration = Duration::from_secs(60 * 60);

/// A queue, as this scheduler knows it.
#[derive(Debug)]
pub(super) struct Lane {
    /// As it was when it was last claimed from.
    queue: DueQueue,
    claimed_at: Option<Instant>,
    next_limit: i64,
    pace: Option<Pace>,
    backlog: Option<Backlog>,
    shared: Option<Shared>,
    /// The pipe is not kept short before.
    long_until: Option<Instant>,
    /// What a short pipe holds beside a job for every place: what leaves it in this time.
    slack: Duration,
    is_bundled: bool,
}

/// A tenant had less than its share beside one that had as much. What the other has in the pipe is what
/// the next job of the first one waits for: so there should be hardly more than runs.
#[derive(Debug)]
struct Shared {
    /// When that was seen last.
    seen_at: Instant,
    until: Instant,
    /// What the pipe should hold, as last known.
    window: i64,
    /// Whose the last job was that was claimed.
    last: Option<Arc<str>>,
}

/// More is due than the claims since then were allowed to take.
#[derive(Debug)]
struct Backlog {
    since: Instant,
    cursor: Cursor,
}

impl Lane {
    /// Of a queue that this scheduler has never claimed from.
    pub(super) fn of(queue: DueQueue, slack: Duration) -> Self {
        Self {
            queue,
            claimed_at: None,
            next_limit: BATCH_FIRST,
            pace: None,
            backlog: None,
            shared: None,
            long_until: None,
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
    /// form; but no job waits for room that is there, and none in a short pipe.
    pub(super) fn wanted(&self, now: Instant) -> Wanted {
        let short = self.short(now);
        let credit_min = match self.claimed_at {
            Some(at) if short.is_none() && now.duration_since(at) < REFILL_PATIENCE => {
                (self.queue.window / 5).max(1)
            }
            _ => 1,
        };
        Wanted {
            limit: self.next_limit,
            credit_min,
            window_max: short,
        }
    }

    /// What the pipe holds at most, where that is less than the queue allows.
    fn short(&self, now: Instant) -> Option<i64> {
        let shared = self.shared.as_ref()?;
        let is_short = now < shared.until && shared.window < self.queue.window;
        is_short.then_some(shared.window)
    }

    /// What the pipe holds at most.
    fn window(&self, now: Instant) -> i64 {
        self.short(now).unwrap_or(self.queue.window)
    }

    /// How long to rest at most when nothing could be claimed, where the pipe is short.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let pace = self.pace.as_ref()?;
        pace.time_of(self.short(now)? as f64 * SHORT_PART)
    }

    /// Notes that nothing could be claimed.
    pub(super) fn claimed_nothing(&mut self, now: Instant) {
        let is_still = self
            .claimed_at
            .is_some_and(|at| now.duration_since(at) >= STILL_MAX);
        if is_still && self.short(now).is_some() {
            self.shared = None;
            self.long_until = Some(now + LONG_FOR);
        }
    }

    /// Whether the pipe should be short after this claim, and for how long.
    fn shared_after(&self, now: Instant, claimed: &Claimed, pace: &Pace) -> Option<Shared> {
        let is_long = self.long_until.is_some_and(|until| now < until);
        // Without places nobody can tell how much is hardly more than runs.
        let places = claimed
            .places
            .filter(|_| self.slack < SLACK_MAX && !is_long)?;
        let window = places.total + pace.in_time(self.slack);
        let held = claimed.in_pipe + claimed.jobs.len() as i64;
        let last = claimed.jobs.last().map(|job| job.tenant.clone());
        let known = self.shared.as_ref();
        // Where many places are empty nobody waits.
        let (seen_at, until) = if claimed.is_mixed && 2 * held >= places.total {
            (now, now + SHARED_FOR)
        } else {
            let known = known?;
            let perhaps = now < known.until && may_be_mixed(&claimed.jobs, known.last.as_deref());
            let until = if perhaps {
                now + SHARED_FOR
            } else {
                known.until
            };
            let until = until.min(known.seen_at + SHARED_PERHAPS_FOR);
            (known.seen_at, until.max(known.until))
        };
        Some(Shared {
            seen_at,
            until,
            window,
            last,
        })
    }

    /// Where to begin, when more is known to be due. None: at the beginning, if anything is.
    pub(super) fn backlog(&self, now: Instant) -> Option<&Cursor> {
        let backlog = self.backlog.as_ref()?;
        let is_known = now.duration_since(backlog.since) < BACKLOG_KNOWN;
        is_known.then_some(&backlog.cursor)
    }

    /// Notes a claim of up to `limit` jobs, made from the beginning or where [`Self::backlog`] said; says
    /// how much the pipe holds at most, and at what pace jobs leave it.
    pub(super) fn claimed(
        &mut self,
        now: Instant,
        limit: i64,
        is_from_beginning: bool,
        claimed: &Claimed,
    ) -> (i64, &Pace) {
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
        let pace = self.pace.take();
        let mut pace = pace.unwrap_or_else(|| Pace::new(now, in_pipe));
        pace.claimed(now, in_pipe, claimed.jobs.len());
        self.shared = self.shared_after(now, claimed, &pace);
        (self.window(now), self.pace.insert(pace))
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

/// Whether a claim is too small to tell who had less than its share, but not of one tenant only, or not of
/// the one that was served `last`.
fn may_be_mixed(jobs: &[Claim], last: Option<&str>) -> bool {
    let tenants: HashSet<&str> = jobs.iter().map(|job| &*job.tenant).chain(last).collect();
    tenants.len() > 1 && jobs.len() <= SMALL.max(2 * tenants.len())
}

/// How many jobs to claim, `most` at most, after a claim of up to `limit` whose jobs had so many bytes
/// each.
fn next_limit(limit: i64, most: i64, bytes_each: usize) -> i64 {
    let bytes_each = i64::try_from(bytes_each).unwrap_or(i64::MAX).max(1);
    (BATCH_BYTES / bytes_each).clamp(1, most.min(limit * BATCH_GROWTH))
}

#[cfg(test)]
mod tests {
    use postroad_common::store::Places;

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
            is_mixed: false,
            in_pipe: 0,
            places: None,
            reached: Cursor::default(),
        }
    }

    fn job_of(tenant: &str) -> Claim {
        Claim {
            id: postroad_common::job::JobId::new(),
            dispatch: 1,
            kind: "echo".into(),
            tenant: tenant.into(),
            attempts_before: 0,
            traceparent: None,
            args: "{}".to_owned(),
            claimed_at: 0,
        }
    }

    fn mixed() -> Claimed {
        Claimed {
            is_mixed: true,
            in_pipe: 2000,
            places: Some(Places {
                total: 50,
                least: 50,
            }),
            ..claimed(true)
        }
    }

    #[test]
    fn a_pipe_is_short_for_a_moment_after_tenants_have_waited_for_each_other() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let places = |total| {
            Some(Places {
                total,
                least: total,
            })
        };
        let claimed = |is_mixed, places, in_pipe| Claimed {
            is_mixed,
            places,
            in_pipe,
            ..claimed(true)
        };
        let full = Wanted {
            limit: BATCH_FIRST,
            credit_min: 200,
            window_max: None,
        };
        let mut lane = Lane::of(queue(), Duration::from_millis(10));
        lane.claimed(at(0), 100, true, &claimed(false, places(50), 2000));
        assert_eq!(lane.wanted(at(1)), full);
        assert_eq!(lane.rest(at(1)), None);

        let short = |window| Wanted {
            credit_min: 1,
            window_max: Some(window),
            ..full
        };
        lane.claimed(at(10), 100, true, &claimed(true, places(50), 2000));
        assert_eq!(lane.wanted(at(11)), short(50), "no pace is known yet");
        lane.claimed(at(1000), 100, true, &claimed(false, places(50), 0));
        assert_eq!(lane.wanted(at(1001)), short(50 + 20), "2,000 jobs a second");
        let rest = lane.rest(at(1001)).map(|rest| rest.as_micros());
        assert_eq!(rest, Some(3500), "7 of 70 jobs");
        lane.claimed(at(1010), 100, true, &claimed(true, places(80), 1000));
        assert_eq!(lane.wanted(at(1011)), short(80 + 20), "a worker has come");
        lane.claimed(at(3000), 100, true, &claimed(false, places(80), 100));
        assert!(lane.short(at(3009)).is_some());
        assert_eq!(lane.wanted(at(3010)), full, "two seconds later");

        let none = |case, lane: &mut Lane, claimed: &Claimed| {
            lane.claimed(at(4000), 100, true, claimed);
            assert_eq!(lane.wanted(at(4001)), full, "{case}");
        };
        none("never more", &mut lane, &claimed(true, places(2000), 2000));
        none("unknown places", &mut lane, &claimed(true, None, 2000));
        none("empty places", &mut lane, &claimed(true, places(50), 24));
        let mut off = Lane::of(queue(), SLACK_MAX);
        none("turned off", &mut off, &claimed(true, places(50), 2000));
    }

    #[test]
    fn a_short_pipe_that_stands_still_is_not_waited_for() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lane = Lane::of(queue(), Duration::ZERO);
        let mixed = mixed();
        lane.claimed(at(0), 100, true, &mixed);
        lane.claimed_nothing(at(999));
        assert!(lane.short(at(1000)).is_some());
        lane.claimed_nothing(at(1000));
        assert!(lane.short(at(1000)).is_none());
        lane.claimed(at(30_999), 100, true, &mixed);
        assert!(lane.short(at(30_999)).is_none(), "and not soon again");
        lane.claimed(at(31_000), 100, true, &mixed);
        assert!(lane.short(at(31_000)).is_some());
    }

    /// With one place to give at a time, no claim can see two tenants.
    #[test]
    fn small_claims_of_several_tenants_keep_a_pipe_short_for_a_while() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let of = |tenants: &[&str]| Claimed {
            is_mixed: false,
            jobs: tenants.iter().map(|tenant| job_of(tenant)).collect(),
            ..mixed()
        };
        let short_after = |claims: &[&[&str]]| {
            let mut lane = Lane::of(queue(), Duration::ZERO);
            lane.claimed(at(0), 100, true, &mixed());
            for (n, tenants) in (1..).zip(claims) {
                lane.claimed(at(100 * n), 100, true, &of(tenants));
            }
            let until = lane.shared.expect("it was mixed").until;
            until.duration_since(start).as_millis()
        };
        assert_eq!(short_after(&[&["a"], &["a"], &["a"]]), 2000);
        assert_eq!(short_after(&[&["a"], &["b"], &["b"]]), 2200);
        assert_eq!(short_after(&[&["a", "b"], &["b"]]), 2100);
        assert_eq!(
            short_after(&[&["a", "b", "a", "b", "a"]]),
            2000,
            "it would tell"
        );
        let turns: Vec<&[&str]> = [&["a"][..], &["b"]].into_iter().cycle().take(400).collect();
        assert_eq!(short_after(&turns), 30_000, "not for ever");
    }

    /// Nothing is claimed from the middle on for long: what came late must be found.
    #[test]
    fn a_backlog_is_known_for_a_moment_and_not_after_a_claim_that_left_nothing() {
        let start = Instant::now();
        let (mut lane, soon, later) = (
            Lane::of(queue(), Duration::ZERO),
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
