//! A full queue → as many waiting jobs as may be.
//!
//! Two schedulers that count the same would both shed what is too much, so one of them has the right to, for
//! a few seconds: if it dies, another one has it then. It counts again when it has that right. What claims
//! take while it sheds is what may be missing in the queue afterwards.
//!
//! A priority is a value class: 0 for what is worth nothing when it is late, such as one-time codes; 1 for
//! what somebody waits for; 2 and 3 for what nobody misses. The lowest class goes first. Within it
//! whoever has most of it loses down to what the others have, the oldest first: a tenant that floods sheds
//! its own.

use std::time::{Duration, Instant};

use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Buffer, OnFull, Store, Waiting};

use crate::metrics;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// While no queue has a limit.
const PERIOD_UNLIMITED: Duration = Duration::from_secs(1);
/// Counting a long queue takes a while: at most a fifth of one connection's time.
const REST_PER_LOOK: u32 = 4;
const REST_MAX: Duration = Duration::from_secs(5);
/// Jobs in a step.
const STEP: u64 = 5000;
/// Steps for one queue before the others have their turn.
const STEPS: usize = 20;
/// How long a scheduler has the right to shed: more than it takes, the longest statements included.
const RIGHT_FOR: Duration = Duration::from_secs(45);
/// And how long it makes use of it.
const RIGHT_USED_FOR: Duration = Duration::from_secs(5);
/// What is deferred comes back after once to twice that long.
const DELAY: Duration = Duration::from_secs(60);
/// A queue that was full is opened when so much of it is free.
const OPENED_BELOW: f64 = 0.9;

/// The service.
pub struct Shedder {
    store: Store,
    rest: Duration,
    /// What counting has taken in this run.
    counting: Duration,
}

impl Shedder {
    /// Over `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            rest: PERIOD,
            counting: Duration::ZERO,
        }
    }

    /// Says whether more than could be shed in one go is still too much.
    async fn keep(&mut self, buffer: &Buffer) -> Result<bool, store::Error> {
        let all = count(&self.waiting(buffer).await?);
        if buffer.is_full || buffer.on_full == OnFull::Reject {
            self.open_or_close(buffer, all).await?;
        }
        if all <= buffer.waiting_max || buffer.on_full == OnFull::Reject {
            return Ok(false);
        }
        let right = self.store.begin_shedding(buffer.queue_id, RIGHT_FOR);
        let Some(right) = right.await? else {
            return Ok(false);
        };
        // After an error a statement may still be under way: then the right runs out by itself.
        let has_more = self.shed_excess(buffer).await?;
        self.store.end_shedding(right).await?;
        Ok(has_more)
    }

    /// What waits, as far as it could be shed now.
    async fn waiting(&mut self, buffer: &Buffer) -> Result<Vec<Waiting>, store::Error> {
        let most = buffer.waiting_max.saturating_add(STEP * STEPS as u64);
        let started = Instant::now();
        let waiting = self.store.waiting(buffer.queue_id, most).await;
        self.counting += started.elapsed();
        waiting
    }

    async fn shed_excess(&mut self, buffer: &Buffer) -> Result<bool, store::Error> {
        if buffer.on_full == OnFull::Coalesce {
            let until = Instant::now() + RIGHT_USED_FOR;
            self.coalesce(buffer, until).await?;
        }
        let waiting = self.waiting(buffer).await?;
        // Counting may take its time: that must not be all that is done.
        let until = Instant::now() + RIGHT_USED_FOR;
        let excess = count(&waiting).saturating_sub(buffer.waiting_max);
        self.shed(buffer, &excess_of(&waiting, excess), until).await
    }

    async fn open_or_close(&self, buffer: &Buffer, waiting: u64) -> Result<(), store::Error> {
        let is_full = buffer.on_full == OnFull::Reject
            && match buffer.is_full {
                false => waiting >= buffer.waiting_max,
                true => waiting as f64 >= buffer.waiting_max as f64 * OPENED_BELOW,
            };
        if is_full != buffer.is_full && self.store.set_full(buffer.queue_id, is_full).await? {
            let (queue, most) = (&buffer.queue, buffer.waiting_max);
            match is_full {
                true => tracing::warn!(
                    queue,
                    "queue `{queue}` is full: {waiting} jobs wait, and {most} may. No more are accepted"
                ),
                false => tracing::info!(queue, "queue `{queue}` takes jobs again"),
            }
        }
        Ok(())
    }

    async fn coalesce(&self, buffer: &Buffer, until: Instant) -> Result<(), store::Error> {
        for _ in 0..STEPS {
            let step = self.store.coalesce_waiting(buffer.queue_id, STEP as i64);
            let coalesced = step.await? as u64;
            metrics::shed(&buffer.queue, "coalesced", None, coalesced);
            if coalesced < STEP || Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    async fn shed(
        &self,
        buffer: &Buffer,
        victims: &[Waiting],
        until: Instant,
    ) -> Result<bool, store::Error> {
        let mut steps = steps(victims).into_iter();
        for step in steps.by_ref().take(STEPS) {
            let (what, shed) = match buffer.on_full {
                OnFull::Defer => (
                    "deferred",
                    self.store
                        .defer_waiting(buffer.queue_id, &step, DELAY)
                        .await?,
                ),
                OnFull::Reject | OnFull::Drop | OnFull::Coalesce => (
                    "dropped",
                    self.store.drop_waiting(buffer.queue_id, &step).await?,
                ),
            };
            let priority = step.first().map(|one| one.priority);
            metrics::shed(&buffer.queue, what, priority, shed as u64);
            if Instant::now() >= until {
                break;
            }
        }
        Ok(steps.next().is_some())
    }
}

impl Service for Shedder {
    const NAME: &'static str = "shedder";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let buffers = self.store.buffers().await?;
        self.counting = Duration::ZERO;
        let mut has_more = false;
        // One that cannot be counted must not keep the others from it.
        let mut first_error = None;
        for buffer in &buffers {
            match self.keep(buffer).await {
                Ok(more) => has_more |= more,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        self.rest = match buffers.is_empty() {
            true => PERIOD_UNLIMITED,
            false => (self.counting * REST_PER_LOOK).clamp(PERIOD, REST_MAX),
        };
        match first_error {
            Some(error) => Err(error),
            None => Ok(Progress::more_if(has_more)),
        }
    }
}

fn count(waiting: &[Waiting]) -> u64 {
    waiting.iter().map(|one| one.jobs).sum()
}

/// Which of the waiting jobs are too many: `excess` of them, of the lowest classes, and within a class
/// from those who have most.
fn excess_of(waiting: &[Waiting], excess: u64) -> Vec<Waiting> {
    let (mut left, mut victims) = (excess, Vec::new());
    for priority in (0..=3).rev() {
        let mut class: Vec<_> = waiting
            .iter()
            .filter(|one| one.priority == priority)
            .copied()
            .collect();
        class.sort_by_key(|one| std::cmp::Reverse(one.jobs));
        let all: u64 = class.iter().map(|one| one.jobs).sum();
        let most = level(&class, all.saturating_sub(left));
        for one in class {
            // The level is rounded down: the last one may lose a few less.
            let jobs = one.jobs.saturating_sub(most).min(left);
            if jobs > 0 {
                left -= jobs;
                victims.push(Waiting { jobs, ..one });
            }
        }
        if left == 0 {
            break;
        }
    }
    victims
}

/// What each of a class may keep, at most, so that all of them together keep no more than `kept`. Those
/// who have most come first.
fn level(class: &[Waiting], kept: u64) -> u64 {
    let mut rest: u64 = class.iter().map(|one| one.jobs).sum();
    if rest <= kept {
        return u64::MAX;
    }
    for (n, one) in class.iter().enumerate() {
        rest -= one.jobs;
        let those = n as u64 + 1;
        let next = class.get(n + 1).map_or(0, |next| next.jobs);
        // Those so far, cut to what the next one has, and the next ones as they are.
        if next * those + rest <= kept {
            return kept.saturating_sub(rest) / those;
        }
    }
    0
}

/// Cut into steps of one priority each.
fn steps(victims: &[Waiting]) -> Vec<Vec<Waiting>> {
    let mut steps: Vec<Vec<Waiting>> = Vec::new();
    let mut room = 0;
    for victim in victims {
        let mut left = victim.jobs;
        while left > 0 {
            let is_same = steps
                .last()
                .and_then(|step| step.first())
                .is_some_and(|one| one.priority == victim.priority);
            if room == 0 || !is_same {
                steps.push(Vec::new());
                room = STEP;
            }
            let jobs = left.min(room);
            let part = Waiting { jobs, ..*victim };
            steps
                .last_mut()
                .into_iter()
                .for_each(|step| step.push(part));
            left -= jobs;
            room -= jobs;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(tenant: i32, priority: i16, jobs: u64) -> Waiting {
        Waiting {
            tenant,
            priority,
            jobs,
        }
    }

    #[test]
    fn the_lowest_class_goes_first_and_whoever_has_most_of_it() {
        let all = [
            waiting(1, 0, 1000),
            waiting(1, 2, 50),
            waiting(2, 2, 900),
            waiting(3, 2, 100),
            waiting(3, 3, 10),
        ];
        assert_eq!(excess_of(&all, 0), []);
        assert_eq!(excess_of(&all, 10), [waiting(3, 3, 10)]);
        assert_eq!(
            excess_of(&all, 500),
            [waiting(3, 3, 10), waiting(2, 2, 490)],
            "who floods"
        );
        assert_eq!(
            excess_of(&all, 10 + 850),
            [waiting(3, 3, 10), waiting(2, 2, 825), waiting(3, 2, 25)],
            "down to what the others have"
        );
        assert_eq!(
            excess_of(&all, 5000)
                .iter()
                .map(|one| one.jobs)
                .sum::<u64>(),
            2060
        );
    }

    proptest! {
        #[test]
        fn exactly_the_excess_is_shed_and_no_class_before_a_lower_one(
            all in proptest::collection::vec((0..4i16, 0..10_000u64), 0..40),
            share in 0.0..1.2f64,
        ) {
            let all: Vec<_> = (0..).zip(&all).map(|(n, (priority, jobs))| waiting(n, *priority, *jobs)).collect();
            let there: u64 = all.iter().map(|one| one.jobs).sum();
            let excess = (there as f64 * share) as u64;
            let victims = excess_of(&all, excess);
            let shed: u64 = victims.iter().map(|one| one.jobs).sum();
            prop_assert_eq!(shed, excess.min(there));
            let of = |list: &[Waiting], priority| -> u64 {
                list.iter().filter(|one| one.priority == priority).map(|one| one.jobs).sum()
            };
            for priority in 0..3 {
                let is_touched = of(&victims, priority) > 0;
                let lower = of(&all, priority + 1) - of(&victims, priority + 1);
                prop_assert!(!is_touched || lower == 0);
            }
            // Nobody keeps less than another one loses down to, but for rounding.
            for priority in 0..4 {
                let kept = |one: &Waiting| {
                    let lost = victims.iter().find(|victim| victim.tenant == one.tenant);
                    one.jobs - lost.map_or(0, |victim| victim.jobs)
                };
                let most = all.iter().filter(|one| one.priority == priority).map(kept).max();
                for victim in victims.iter().filter(|one| one.priority == priority) {
                    let one = all.iter().find(|one| one.tenant == victim.tenant).copied();
                    let kept = one.map_or(0, |one| kept(&one));
                    prop_assert!(kept + all.len() as u64 >= most.unwrap_or(0));
                }
            }
            let parts = steps(&victims);
            for step in &parts {
                prop_assert!(step.iter().map(|one| one.jobs).sum::<u64>() <= STEP);
                prop_assert!(step.iter().all(|one| one.priority == step[0].priority));
            }
            prop_assert_eq!(parts.iter().flatten().map(|one| one.jobs).sum::<u64>(), shed);
        }
    }
}
