//! How many calls a destination takes at once, found out from how it answers. Pure: the caller
//! brings the clock.
//!
//! Answers are looked at in rounds of about as many as there may be calls at once. A round that
//!
//! * is as fast as the destination is with little to do lets more through: a step of 1, which grows by
//!   half with each such round, so that what an outage took away is back in few of them;
//! * is slower than twice that, and by more than chance, lets fewer through, in proportion: what waits
//!   at the destination anyway is better kept here.
//!
//! Where somebody has said how many it takes, to be slow with no more than these is no reason for fewer.
//!
//! A failure that calls for less is acted on at once: as many calls as were under way are one too many.
//! So a destination that refuses what is above its capacity is left with its capacity, and one of which
//! nothing is heard with one call at a time, which finds out when that is over.
//!
//! Where it comes from: to go up in steps and down in proportion is AIMD (Chiu and Jain, 1989), with a step
//! that grows while nothing is wrong, as in CUBIC (RFC 9438); to compare with the time that an idle path
//! takes is TCP Vegas (Brakmo and Peterson, 1995); the gradient with a tolerance, no less than a half at a
//! time, and no growth while less than half of the limit is used, are those of Gradient2 in Netflix's
//! concurrency-limits. Two things differ from that. It averages over a long time what it calls normal, and
//! so gets used to a queue that it makes itself; here what is normal rises only while there is little to do.
//! And it changes with each answer, of which a hundred may tell of one and the same moment; here an answer
//! counts only if its call began after the change that it is to judge.
//!
//! What a destination does at first, with [`FIRST`] calls at once, is taken for normal until it is faster.

use std::time::{Duration, Instant};

/// Calls at once before anything is known, unless somebody has said how many it takes.
const FIRST: f64 = 20.0;
/// What the first step is, of [`FIRST`], and the largest, of the limit.
const STEP_SHARE: f64 = 0.5;
/// By how much a step is larger than the one before.
const STEP_GROWTH: f64 = 1.5;
/// Answers in a round: fewer say nothing, more are not waited for.
const ROUND: (f64, f64) = (4.0, 50.0);
/// Up to here, of what is normal, a round counts as fast.
const FAST: f64 = 1.2;
/// From here on as slow.
const SLOW: f64 = 2.0;
/// A slow round leaves at least this share of the limit.
const KEPT_LEAST: f64 = 0.5;
/// Nobody who answers within this time is slow: on a busy machine that much may be our own doing.
pub(super) const QUICK: Duration = Duration::from_millis(25);
/// So few calls at once are not what makes a destination slow.
const FEW: usize = 2;
/// By how much a round with few calls may raise what is normal: who becomes a thousand times slower is
/// taken for what it is after seventy rounds, and not at once.
const RISE: f64 = 1.1;
/// What one answer counts among the last few.
const RECENT: f64 = 0.2;
/// Standard errors within which a difference may be chance.
const CHANCE: f64 = 2.0;

/// How a call ended, as far as the limit goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It did what it was asked for.
    Done,
    /// It answered, perhaps without having done much: a fast answer of this sort says nothing.
    Answered,
    /// It failed in a way that calls for less.
    Failed,
}

/// The limit of one destination.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    most: f64,
    /// It is said to take so many, however long that takes; 1 where nobody has said so.
    told: f64,
    limit: f64,
    step: f64,
    changed_at: Instant,
    /// The logarithm of the seconds that an answer takes while there is little to do.
    normal: Option<f64>,
    /// The same of the last few answers, whatever there was to do.
    recent: Option<f64>,
    /// Whether it failed or was slow when it was last looked at, or has failed since.
    is_troubled: bool,
    round: Round,
}

/// Answers since the last look. Of logarithms: times of answers have a long tail, of which one would
/// outweigh all others.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    answers: f64,
    has_failures: bool,
    sum: f64,
    squares: f64,
    /// The most calls under way when one of them ended.
    peak: usize,
}

impl Limit {
    /// At most `most` calls at once.
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        let most = most.max(1) as f64;
        let limit = FIRST.min(most);
        Self {
            most,
            told: 1.0,
            limit,
            step: (limit * STEP_SHARE).max(1.0),
            changed_at: now,
            normal: None,
            recent: None,
            is_troubled: false,
            round: Round::default(),
        }
    }

    /// Somebody has said that it takes so many calls at once: it gets them, unless it fails.
    pub(crate) fn tell(&mut self, calls: usize) {
        let told = (calls as f64).clamp(1.0, self.most);
        if told != self.told && !self.is_troubled {
            self.limit = self.limit.max(told);
        }
        self.told = told;
    }

    /// How many calls may be under way now.
    pub(crate) fn calls(&self) -> usize {
        self.limit as usize
    }

    /// How many seconds an answer takes now; none before any is known.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.recent.map(f64::exp)
    }

    /// Whether something is wrong: it lets no more through for now.
    pub(crate) fn is_troubled(&self) -> bool {
        self.is_troubled
    }

    /// A call that began at `began` has ended now, as one of `under_way`.
    pub(crate) fn ended(&mut self, sign: Sign, began: Instant, now: Instant, under_way: usize) {
        let took = now.saturating_duration_since(began).as_secs_f64();
        let took = took.max(f64::EPSILON).ln();
        match sign {
            Sign::Failed => self.failed(under_way),
            Sign::Done => {
                let recent = self.recent.unwrap_or(took);
                self.recent = Some(recent + RECENT * (took - recent));
                self.answered(took, began, now, under_way);
            }
            Sign::Answered => {
                if let Some(recent) = self.recent {
                    self.answered(took.max(recent), began, now, under_way);
                }
            }
        }
    }

    /// Where few are under way they are not what is too much: then it goes half of the way only.
    fn failed(&mut self, under_way: usize) {
        let fit = under_way.saturating_sub(1) as f64;
        self.limit = (self.limit - 1.0).min(self.limit.midpoint(fit)).max(1.0);
        self.step = 1.0;
        self.round.has_failures = true;
        self.is_troubled = true;
    }

    fn answered(&mut self, took: f64, began: Instant, now: Instant, under_way: usize) {
        if began < self.changed_at {
            return;
        }
        let round = &mut self.round;
        round.peak = round.peak.max(under_way);
        round.answers += 1.0;
        round.sum += took;
        round.squares += took * took;
        if round.answers >= self.limit.clamp(ROUND.0, ROUND.1) {
            self.look(now);
        }
    }

    /// What follows from a round.
    fn look(&mut self, now: Instant) {
        let round = std::mem::take(&mut self.round);
        let (slowness, chance) = self.compare(&round);
        let is_slow = slowness - chance > SLOW.ln();
        self.is_troubled = (is_slow && self.limit > self.told) || round.has_failures;
        if is_slow {
            let kept = (SLOW.ln() - slowness).exp().max(KEPT_LEAST);
            // So many may be unanswered: to keep some of them back would only take its time from it.
            let least = self.limit.min(self.told);
            self.limit = (self.limit * kept).max(least);
            self.step = 1.0;
            self.changed_at = now;
        } else if slowness - chance > FAST.ln() {
            self.step = 1.0;
        } else if !round.has_failures && round.peak * 2 >= self.calls() && self.limit < self.most {
            self.limit = (self.limit + self.step).min(self.most);
            self.step = (self.step * STEP_GROWTH).min(self.limit * STEP_SHARE);
            self.step = self.step.max(1.0);
            self.changed_at = now;
        }
    }

    /// The logarithm of how many times slower than normal a round was, and how much of it may be chance;
    /// learns from it what is normal.
    fn compare(&mut self, round: &Round) -> (f64, f64) {
        let mean = round.sum / round.answers;
        let variance = (round.squares / round.answers - mean * mean).max(0.0);
        let chance = CHANCE * (variance / round.answers).sqrt();
        let normal = match self.normal {
            None => mean,
            Some(normal) if round.peak <= FEW => mean.min(normal + RISE.ln()),
            Some(normal) => normal.min(mean + chance),
        };
        self.normal = Some(normal);
        (mean - normal.max(QUICK.as_secs_f64().ln()), chance)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// A gateway that becomes a thousand times slower, with as many calls as it is said to take.
    #[test]
    fn to_be_slow_leaves_what_it_is_said_to_take_and_to_fail_does_not() {
        let after = |told| {
            let (mut now, mut least) = (Instant::now(), usize::MAX);
            let mut limit = Limit::new(1000, now);
            if let Some(calls) = told {
                limit.tell(calls);
            }
            for took in [Duration::from_millis(5), Duration::from_secs(5)] {
                least = usize::MAX;
                for _ in 0..1000 {
                    let began = now;
                    now += took;
                    limit.ended(Sign::Done, began, now, limit.calls());
                    least = least.min(limit.calls());
                }
            }
            (limit, least)
        };
        let (_, least) = after(None);
        assert!(least < 10, "{least}");
        let (mut limit, least) = after(Some(100));
        assert!(least == 100 && !limit.is_troubled(), "{least}: {limit:?}");
        limit.ended(Sign::Failed, Instant::now(), Instant::now(), 50);
        assert!(limit.calls() < 100 && limit.is_troubled(), "{limit:?}");
        limit.tell(100);
        assert!(limit.calls() < 100, "the same again is no news: {limit:?}");
    }

    /// A destination that works on so many calls at once and lets the others wait, or refuses them.
    /// Callers make as many calls as they may.
    struct Model {
        limit: Limit,
        capacity: usize,
        refuses: bool,
        service: Duration,
        is_away: bool,
        now: Instant,
        /// When each call began, in the order in which they end.
        under_way: VecDeque<Instant>,
        answers: usize,
    }

    impl Model {
        fn new(most: usize, capacity: usize, refuses: bool) -> Self {
            let now = Instant::now();
            Self {
                limit: Limit::new(most, now),
                capacity,
                refuses,
                service: Duration::from_millis(100),
                is_away: false,
                now,
                under_way: VecDeque::new(),
                answers: 0,
            }
        }

        fn begin(&mut self) {
            while self.under_way.len() < self.limit.calls() {
                self.under_way.push_back(self.now);
            }
        }

        /// One call ends.
        fn step(&mut self) {
            self.begin();
            let calls = self.under_way.len();
            let is_refused = self.is_away || (self.refuses && calls > self.capacity);
            let began = match is_refused {
                // At once, and it is the newest.
                true => self.under_way.pop_back(),
                false => {
                    // All that it works on end once in its time, evenly.
                    self.now += self.service / u32::try_from(calls.min(self.capacity)).unwrap();
                    self.under_way.pop_front()
                }
            };
            let began = began.expect("the limit is never below one");
            let sign = if is_refused { Sign::Failed } else { Sign::Done };
            self.limit.ended(sign, began, self.now, calls);
            self.answers += 1;
        }

        fn steps(&mut self, count: usize) {
            for _ in 0..count {
                self.step();
                assert!((1.0..=self.limit.most).contains(&self.limit.limit));
            }
        }

        /// How many answers it takes to let so many through.
        fn answers_until(&mut self, calls: usize) -> usize {
            let before = self.answers;
            while self.limit.calls() < calls {
                self.steps(1);
                assert!(self.answers - before < 100_000, "{:?}", self.limit);
            }
            self.answers - before
        }
    }

    /// Answers after which the limit is where it stays.
    const SETTLED: usize = 5000;

    #[test]
    fn a_destination_that_lets_calls_wait_gets_about_what_it_works_on() {
        for capacity in [10, 20, 50, 200] {
            let mut model = Model::new(1000, capacity, false);
            model.steps(SETTLED);
            for _ in 0..SETTLED {
                model.steps(1);
                let calls = model.limit.calls();
                let expected = capacity..=capacity * 5 / 2 + 3;
                assert!(expected.contains(&calls), "{calls} of {capacity}");
            }
        }
    }

    #[test]
    fn a_destination_that_refuses_gets_what_it_takes_and_has_to_refuse_few() {
        for capacity in [1, 2, 5, 10, 50, 200] {
            let mut model = Model::new(1000, capacity, true);
            model.steps(SETTLED);
            let mut refused = 0;
            for _ in 0..SETTLED {
                refused += usize::from(model.limit.calls() > capacity);
                model.steps(1);
                let calls = model.limit.calls();
                let expected = capacity * 9 / 10..=capacity + 1;
                assert!(expected.contains(&calls), "{calls} of {capacity}");
            }
            assert!(refused * 8 < SETTLED, "{refused} by {capacity}");
        }
    }

    #[test]
    fn an_outage_leaves_one_call_and_is_over_within_few_answers() {
        for capacity in [5, 20, 100, 500] {
            let mut model = Model::new(1000, capacity, true);
            model.steps(SETTLED);
            model.is_away = true;
            model.steps(capacity + 10);
            assert_eq!(model.limit.calls(), 1);
            model.is_away = false;
            let answers = model.answers_until(capacity);
            assert!(answers <= 4 * capacity + 30, "{answers} for {capacity}");
        }
    }

    #[test]
    fn a_gateway_that_slows_down_gets_less_at_once_and_all_when_it_is_back() {
        let mut model = Model::new(100, 10_000, false);
        model.service = Duration::from_millis(5);
        model.answers_until(100);
        model.service = Duration::from_secs(5);
        model.steps(400);
        assert!(model.limit.calls() <= 4, "{:?}", model.limit);
        model.service = Duration::from_millis(5);
        let answers = model.answers_until(100);
        assert!(answers <= 500, "{answers}");
    }

    /// Half of the answers within 60 ms, one in a hundred after half a second.
    #[test]
    fn chance_is_not_taken_for_slowness() {
        let mut random = StdRng::seed_from_u64(7);
        let mut limit = Limit::new(100, Instant::now());
        let mut now = Instant::now();
        let mut least = usize::MAX;
        for n in 0..20_000 {
            let normal = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
            let took = Duration::from_secs_f64(0.06 * (0.9 * normal).exp());
            now += took;
            limit.ended(Sign::Done, now - took, now, limit.calls());
            if n > 2000 {
                least = least.min(limit.calls());
            }
        }
        assert!(least >= 40, "{least}");
    }

    /// It is down, and an answer of a proxy before it comes fast: that is not what is normal.
    #[test]
    fn answers_that_may_be_empty_do_not_make_a_destination_slow() {
        let mut model = Model::new(100, 100, true);
        model.answers_until(100);
        let (began, now) = (model.now, model.now + Duration::from_millis(1));
        for _ in 0..500 {
            model.limit.ended(Sign::Answered, began, now, 100);
        }
        model.steps(500);
        assert!(model.limit.calls() >= 90, "{:?}", model.limit);
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let now = Instant::now();
        let mut limit = Limit::new(100, now);
        for _ in 0..500 {
            limit.ended(Sign::Done, now, now + QUICK, 5);
        }
        assert_eq!(limit.calls(), FIRST as usize);
        let seconds = limit.seconds().unwrap();
        assert!((seconds - QUICK.as_secs_f64()).abs() < 1e-6, "{seconds}");
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_whatever_happens(
            most in 0..300usize,
            calls in proptest::collection::vec(
                (prop_oneof![Just(Sign::Done), Just(Sign::Answered), Just(Sign::Failed)],
                 0..100_000u64, 0..10_000u64, 0..400usize),
                1..400),
        ) {
            let mut now = Instant::now();
            let mut limit = Limit::new(most, now);
            for (sign, took, rest, under_way) in calls {
                let began = now;
                now += Duration::from_micros(took);
                limit.ended(sign, began, now, under_way);
                now += Duration::from_micros(rest);
                prop_assert!((1..=most.max(1)).contains(&limit.calls()), "{:?}", limit);
                prop_assert!(limit.seconds().is_none_or(f64::is_finite), "{:?}", limit);
            }
        }
    }
}
