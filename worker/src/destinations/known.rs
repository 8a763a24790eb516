//! What is known of one destination: its calls, who waits to make one, and when the others come again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::oneshot;

use super::evidence::Evidence;
use super::limit::{Limit, QUICK};
use super::{Call, RETURNS_PER_SECOND, WAIT_MAX};

/// Nobody is sent back for less: a round through the schedule takes that long anyway.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// Nobody is sent back for more, so that all are back by then if the destination is.
const DELAY_MAX: Duration = Duration::from_secs(5 * 60);
/// By how much of it a delay is longer, by chance: others send jobs back as well.
const JITTER: f64 = 0.25;
/// The longest pause: what one tenant is told for an hour need not be so for others who call the same host.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One destination.
pub(super) struct Known {
    limit: Limit,
    calls: usize,
    /// The same by queue.
    calls_by_lane: Vec<usize>,
    waiting: VecDeque<Waiter>,
    paused_until: Option<Instant>,
    /// When the last of those is due that were sent back.
    last_return: Instant,
    /// When it answered last, or the first of the calls began that are under way.
    heard_at: Instant,
    pub(super) seen_at: Instant,
    pub(super) logged_at: Option<Instant>,
}

/// A job that waits for a call.
pub(super) struct Waiter {
    pub(super) lane: usize,
    pub(super) grant: oneshot::Sender<Call>,
}

impl Known {
    pub(super) fn new(most: usize, lanes: usize, now: Instant) -> Self {
        Self {
            limit: Limit::new(most, now),
            calls: 0,
            calls_by_lane: vec![0; lanes],
            waiting: VecDeque::new(),
            paused_until: None,
            last_return: now,
            heard_at: now,
            seen_at: now,
            logged_at: None,
        }
    }

    /// It is said to take so many calls at once.
    pub(super) fn tell(&mut self, calls: usize) {
        self.limit.tell(calls);
    }

    pub(super) fn calls_max(&self) -> usize {
        self.limit.calls()
    }

    pub(super) fn calls_in(&self, lane: usize) -> usize {
        self.calls_by_lane[lane]
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.calls > 0 || self.waiting.iter().any(|waiter| !waiter.grant.is_closed())
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Whether jobs that were sent back are still to come again.
    pub(super) fn has_put_off(&self, now: Instant) -> bool {
        self.last_return > now
    }

    pub(super) fn takes_more(&self, now: Instant) -> bool {
        self.calls < self.limit.calls() && !self.is_paused(now)
    }

    // === Calls ===

    pub(super) fn begin(&mut self, lane: usize, now: Instant) {
        if self.calls == 0 {
            self.heard_at = now;
        }
        self.calls += 1;
        self.calls_by_lane[lane] += 1;
    }

    pub(super) fn end(&mut self, lane: usize) {
        self.calls -= 1;
        self.calls_by_lane[lane] -= 1;
    }

    /// One of the calls, which is still counted, has ended so.
    pub(super) fn heard(&mut self, evidence: Evidence, began: Instant, now: Instant) {
        self.heard_at = now;
        self.limit.ended(evidence.sign(), began, now, self.calls);
        if let Some(pause) = evidence.pause() {
            let until = now + pause.min(PAUSE_MAX);
            self.paused_until = self.paused_until.max(Some(until));
        }
    }

    // === Waiting ===

    pub(super) fn next_waiting(&self) -> Option<usize> {
        self.waiting.front().map(|waiter| waiter.lane)
    }

    pub(super) fn take_waiting(&mut self) -> Option<Waiter> {
        self.waiting.pop_front()
    }

    /// Whoever has given up waiting keeps nobody waiting.
    pub(super) fn forget_gone(&mut self) {
        self.waiting.retain(|waiter| !waiter.grant.is_closed());
    }

    /// Lets a job wait, if it is to have its turn within [`WAIT_MAX`]. One always may: so the next call
    /// need not come out of the schedule first.
    pub(super) fn wait(&mut self, now: Instant, waiter: Waiter) -> Result<(), Waiter> {
        let most = self.turns_within(WAIT_MAX, now).max(1.0);
        if self.is_paused(now) || self.waiting.len() as f64 >= most {
            return Err(waiter);
        }
        self.waiting.push_back(waiter);
        Ok(())
    }

    /// How many calls there will be for those who wait, as it looks. Where nothing is known and not much
    /// time has passed that is good.
    fn turns_within(&self, time: Duration, now: Instant) -> f64 {
        if self.silence(now) >= time {
            return 0.0;
        }
        let turns = |seconds| self.limit.calls() as f64 * time.as_secs_f64() / seconds;
        self.limit.seconds().map_or(f64::INFINITY, turns)
    }

    /// For how long it has had calls under way and said nothing.
    fn silence(&self, now: Instant) -> Duration {
        match self.calls {
            0 => Duration::ZERO,
            _ => now.saturating_duration_since(self.heard_at),
        }
    }

    // === Coming again ===

    /// For how long a job is sent back: until all have had their turn that were sent back before it. It
    /// came over a queue with so many places; `put_off` destinations have such jobs.
    pub(super) fn put_off(&mut self, now: Instant, places: usize, put_off: usize) -> Duration {
        let turn = Duration::from_secs_f64(1.0 / self.returns_per_second(now, places, put_off));
        let earliest = (now + DELAY_MIN).max(self.paused_until.unwrap_or(now));
        self.last_return = (self.last_return.max(earliest) + turn).min(now + DELAY_MAX);
        let delay = self.last_return.saturating_duration_since(now);
        let chance = rand::rng().random::<f64>();
        match delay < DELAY_MAX {
            true => delay.mul_f64(1.0 + JITTER * chance),
            // They are too many to take turns: evenly over half of the time.
            false => delay.mul_f64(1.0 - chance / 2.0),
        }
    }

    /// As it answers. Where nothing is wrong the limit grows, and what is sent back now comes when it has:
    /// as if all places were calls.
    fn returns_per_second(&self, now: Instant, places: usize, put_off: usize) -> f64 {
        let calls = match self.limit.is_troubled() {
            true => self.limit.calls(),
            false => self.limit.calls().max(places),
        };
        let silence = self.silence(now).as_secs_f64();
        let seconds = self.limit.seconds().unwrap_or(QUICK.as_secs_f64());
        let answers = calls as f64 / seconds.max(silence);
        answers.max(RETURNS_PER_SECOND / put_off.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 100;

    /// One of which nothing has been heard for long.
    fn silent(now: Instant) -> Known {
        let long_ago = now.checked_sub(Duration::from_secs(3600));
        let mut known = Known::new(10, 1, long_ago.unwrap());
        known.begin(0, long_ago.unwrap());
        known
    }

    fn delays(known: &mut Known, now: Instant, jobs: usize, put_off: usize) -> Vec<Duration> {
        let delay = |_| known.put_off(now, PLACES, put_off);
        (0..jobs).map(delay).collect()
    }

    #[test]
    fn what_is_sent_back_comes_again_one_after_the_other() {
        let now = Instant::now();
        let delays = delays(&mut silent(now), now, 1000, 1);
        for (n, delay) in delays.iter().enumerate() {
            let turn = DELAY_MIN + (Duration::from_secs(1) / 200) * (n as u32 + 1);
            let expected = turn..turn.mul_f64(1.0 + JITTER);
            assert!(expected.contains(delay), "{n}: {delay:?}");
        }
    }

    /// Of one that was only busy they come as fast as all places could have them.
    #[test]
    fn where_nothing_is_wrong_what_is_sent_back_is_soon_there() {
        let now = Instant::now();
        let mut known = Known::new(10, 1, now);
        known.begin(0, now);
        let later = now + Duration::from_millis(100);
        let last = delays(&mut known, later, 1000, 1).pop().unwrap();
        let expected = DELAY_MIN + Duration::from_secs(1);
        assert!((expected..expected * 2).contains(&last), "{last:?}");
    }

    #[test]
    fn of_many_destinations_each_has_its_share_of_what_comes_again() {
        let now = Instant::now();
        let last = delays(&mut silent(now), now, 100, 10).pop().unwrap();
        assert!(last >= Duration::from_secs(5), "{last:?}");
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_a_few_minutes_and_not_all_for_the_same_time() {
        let now = Instant::now();
        let delays = delays(&mut silent(now), now, 200_000, 1);
        let longest = DELAY_MAX.mul_f64(1.0 + JITTER);
        assert!(delays.iter().all(|delay| *delay <= longest));
        let is_early = |delay: &&Duration| **delay < DELAY_MAX.mul_f64(0.75);
        let early = delays[100_000..].iter().filter(is_early).count();
        assert!((40_000..60_000).contains(&early), "{early}");
    }

    #[test]
    fn while_it_wants_to_be_left_alone_nobody_calls_waits_or_comes_again() {
        let now = Instant::now();
        let mut known = Known::new(10, 1, now);
        known.begin(0, now);
        let hour = Duration::from_secs(3600);
        known.heard(Evidence::overloaded(Some(hour)), now, now);
        known.end(0);
        let (grant, _granted) = oneshot::channel();
        assert!(!known.takes_more(now) && known.wait(now, Waiter { lane: 0, grant }).is_err());
        assert!(known.put_off(now, PLACES, 1) >= PAUSE_MAX);
        assert!(known.takes_more(now + PAUSE_MAX), "but not for an hour");
    }

    /// Others could have the places meanwhile.
    #[test]
    fn where_nothing_is_heard_one_job_waits() {
        let now = Instant::now();
        let mut known = Known::new(100, 1, now);
        let calls = known.calls_max();
        (0..calls).for_each(|_| known.begin(0, now));
        let mut waiting = Vec::new();
        let mut waits = |known: &mut Known, now| {
            let (grant, granted) = oneshot::channel();
            let is_taken = known.wait(now, Waiter { lane: 0, grant }).is_ok();
            waiting.extend(is_taken.then_some(granted));
            is_taken
        };
        let at_once = (0..100).filter(|_| waits(&mut known, now)).count();
        assert_eq!(at_once, 100, "it may be fast: nobody knows");
        let later = now + Duration::from_secs(1);
        assert!(!waits(&mut known, later));
        known.waiting.clear();
        assert!(waits(&mut known, later));
        assert!(!waits(&mut known, later));
    }
}
