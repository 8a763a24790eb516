//! What is known of one destination: its calls, who waits to make one, and when the others come again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::oneshot;

use super::evidence::Evidence;
use super::limit::Limit;
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
        let soon = self.answers_per_second(now) * WAIT_MAX.as_secs_f64();
        let most = (1.0 + soon).min(self.limit.calls() as f64) as usize;
        if self.is_paused(now) || self.waiting.len() >= most {
            return Err(waiter);
        }
        self.waiting.push_back(waiter);
        Ok(())
    }

    /// As it answers when all that it takes are under way; less, if nothing has been heard for long.
    fn answers_per_second(&self, now: Instant) -> f64 {
        let known = self.limit.rate().unwrap_or(f64::INFINITY);
        match self.calls {
            0 => known,
            _ => {
                let silence = now.saturating_duration_since(self.heard_at);
                known.min(1.0 / silence.as_secs_f64().max(1e-6))
            }
        }
    }

    // === Coming again ===

    /// For how long a job is sent back: until all have had their turn that were sent back before it.
    /// `put_off` destinations have such jobs.
    pub(super) fn put_off(&mut self, now: Instant, put_off: usize) -> Duration {
        let least = RETURNS_PER_SECOND / put_off.max(1) as f64;
        let known = self.limit.rate().unwrap_or_default();
        let turn = Duration::from_secs_f64(1.0 / known.max(least));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(known: &mut Known, now: Instant, jobs: usize, put_off: usize) -> Vec<Duration> {
        (0..jobs).map(|_| known.put_off(now, put_off)).collect()
    }

    #[test]
    fn what_is_sent_back_comes_again_one_after_the_other() {
        let now = Instant::now();
        let mut known = Known::new(10, 1, now);
        let delays = delays(&mut known, now, 1000, 1);
        for (n, delay) in delays.iter().enumerate() {
            let turn = DELAY_MIN + (Duration::from_secs(1) / 200) * (n as u32 + 1);
            assert!(
                (turn..turn.mul_f64(1.0 + JITTER)).contains(delay),
                "{n}: {delay:?}"
            );
        }
    }

    #[test]
    fn of_many_destinations_each_has_its_share_of_what_comes_again() {
        let now = Instant::now();
        let last = delays(&mut Known::new(10, 1, now), now, 100, 10)
            .pop()
            .unwrap();
        assert!(last >= Duration::from_secs(5), "{last:?}");
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_a_few_minutes_and_not_all_for_the_same_time() {
        let now = Instant::now();
        let mut known = Known::new(10, 1, now);
        let delays = delays(&mut known, now, 200_000, 1);
        let last = &delays[100_000..];
        assert!(
            delays
                .iter()
                .all(|delay| *delay <= DELAY_MAX.mul_f64(1.0 + JITTER))
        );
        let early = last
            .iter()
            .filter(|delay| **delay < DELAY_MAX.mul_f64(0.75))
            .count();
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
        assert!(known.put_off(now, 1) >= PAUSE_MAX);
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
        assert_eq!(at_once, calls, "it may be fast: nobody knows");
        let later = now + Duration::from_secs(1);
        assert!(!waits(&mut known, later));
        known.waiting.clear();
        assert!(waits(&mut known, later));
        assert!(!waits(&mut known, later));
    }
}
