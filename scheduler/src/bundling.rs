//! How many due jobs of a queue travel in one message: several under backlog, one otherwise.
//!
//! What a message costs (publishing, storing, confirming, delivering, acking) it costs whatever is in
//! it, and with one job in each that is most of what a job costs. But a job in a bundle can be run by
//! nobody else while its worker has the bundle in hand. So a bundle is never larger than
//!
//! * the operator allows: `POSTROAD_BUNDLE`;
//! * the workers' places allow: half of what the smallest of them runs at once, so that many of its
//!   jobs must be slow before others wait for a place in its hands;
//! * the window allows: with a bundle in every place of every worker, half of it still waits in the
//!   broker for whoever is faster, or comes later;
//! * the pace allows: it holds work of [`WORK_MAX`] for one place. Jobs that take long travel alone.
//!
//! There is a backlog where a claim got all that it was allowed to: more is due. Without one nothing
//! would be saved, and a job would wait for its neighbours.

use std::time::{Duration, Instant};

use postroad_common::store::Places;

/// The work in a bundle, at most, as long as the queue keeps its pace.
const WORK_MAX: Duration = Duration::from_millis(500);
/// Bytes of args in a bundle, at most, unless one job has more. Workers hold a bundle for each place.
pub(crate) const BYTES_MAX: usize = 16 * 1024;
/// How long jobs are counted before the pace is another.
const PERIOD: Duration = Duration::from_millis(200);

/// How many jobs of a queue leave the pipe a second, as far as one scheduler can tell: what others
/// claim meanwhile only makes it look slower.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    /// In the pipe at that time.
    in_pipe: i64,
    /// Claimed since.
    claimed: i64,
    per_second: f64,
}

impl Pace {
    /// From a first look on; nothing is known yet.
    pub(crate) fn new(now: Instant, in_pipe: i64) -> Self {
        Self {
            since: now,
            in_pipe,
            claimed: 0,
            per_second: 0.0,
        }
    }

    /// Notes a claim that found so many jobs in the pipe.
    pub(crate) fn claimed(&mut self, now: Instant, in_pipe: i64, jobs: usize) {
        let period = now.saturating_duration_since(self.since);
        if period >= PERIOD {
            let left = (self.in_pipe + self.claimed - in_pipe).max(0);
            *self = Self {
                per_second: left as f64 / period.as_secs_f64(),
                ..Self::new(now, in_pipe)
            };
        }
        self.claimed += i64::try_from(jobs).unwrap_or(i64::MAX);
    }

    /// In which time so many jobs leave the pipe. None: none do.
    pub(crate) fn time_of(&self, jobs: f64) -> Option<Duration> {
        Duration::try_from_secs_f64(jobs / self.per_second).ok()
    }

    /// Jobs that leave the pipe in a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }
}

/// How many jobs of a queue with a window to put into a message. 1: no bundles.
pub(crate) fn jobs_per_message(most: usize, window: i64, places: Places, pace: &Pace) -> usize {
    let total = places.total.max(1);
    let by_window = window / 2 / total;
    let by_pace = pace.per_second * WORK_MAX.as_secs_f64() / total as f64;
    let jobs = by_window.min(by_pace as i64).min(places.least / 2);
    usize::try_from(jobs).unwrap_or(0).clamp(1, most.max(1))
}

/// Cuts what was claimed into messages of at most so many jobs and bytes, in order.
pub(crate) fn pack<T>(jobs: Vec<T>, most: usize, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut messages: Vec<Vec<T>> = Vec::with_capacity(jobs.len().div_ceil(most.max(1)));
    let mut held = 0;
    for job in jobs {
        let size = bytes(&job);
        match messages.last_mut() {
            Some(last) if last.len() < most && held + size <= BYTES_MAX => {
                held += size;
                last.push(job);
            }
            _ => {
                held = size;
                messages.push(vec![job]);
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A queue that was watched while so many jobs left it each second.
    fn pace(per_second: f64) -> Pace {
        Pace {
            per_second,
            ..Pace::new(Instant::now(), 0)
        }
    }

    #[test]
    fn a_bundle_is_bounded_by_the_setting_the_places_the_window_and_the_pace() {
        let jobs = |most, window, (total, least), per_second| {
            jobs_per_message(most, window, Places { total, least }, &pace(per_second))
        };
        assert_eq!(jobs(50, 100_000, (100, 100), 1e6), 50, "set");
        assert_eq!(jobs(50, 100_000, (100, 20), 1e6), 10, "places");
        assert_eq!(jobs(50, 4000, (200, 100), 1e6), 10, "window");
        assert_eq!(jobs(50, 100_000, (100, 100), 2000.0), 10, "pace");
        assert_eq!(jobs(1, 100_000, (100, 100), 1e6), 1, "off");
        for slow in [0.0, 2.0, 100.0] {
            assert_eq!(jobs(50, 100_000, (100, 100), slow), 1);
        }
        assert_eq!(jobs(50, 100_000, (1, 1), 1e6), 1);
        assert_eq!(jobs(50, 100, (2000, 2000), 1e6), 1);
    }

    #[test]
    fn the_pace_is_of_what_has_left_and_not_of_what_was_claimed() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start, 0);
        pace.claimed(at(0), 0, 2000);
        pace.claimed(at(200), 2000, 1);
        assert_eq!(pace.per_second, 0.0, "a window was filled, and nothing ran");
        pace.claimed(at(300), 1501, 500);
        assert_eq!(pace.per_second, 0.0, "the period is not over");
        pace.claimed(at(400), 1501, 500);
        assert_eq!(pace.per_second, 5000.0);
        pace.claimed(at(10_400), 0, 100);
        assert_eq!(pace.per_second, 200.1, "a rest is slow");
        pace.claimed(at(11_400), 5000, 100);
        assert_eq!(pace.per_second, 0.0, "another scheduler claimed them");
    }

    proptest! {
        #[test]
        fn what_is_packed_is_all_there_in_order_and_in_bounds(
            sizes in proptest::collection::vec(prop_oneof![0..2000usize, Just(BYTES_MAX), Just(2 * BYTES_MAX)], 0..200),
            most in 1..60usize,
        ) {
            let messages = pack(sizes.clone(), most, |size| *size);
            for message in &messages {
                prop_assert!((1..=most).contains(&message.len()));
                prop_assert!(message.len() == 1 || message.iter().sum::<usize>() <= BYTES_MAX);
            }
            prop_assert_eq!(messages.concat(), sizes);
        }
    }
}
