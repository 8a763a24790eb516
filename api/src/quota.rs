//! What a tenant may submit: jobs a second, and jobs that are unfinished at once.
//!
//! Both are counted by each api process for itself, so that no job costs a query: the rate is that
//! of one process, and the quota may be exceeded by what all of them take within a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad_common::store::Scope;

use crate::auth::Caller;
use crate::metrics;
use crate::problem::Problem;

/// How long a count of unfinished jobs is used; what is taken meanwhile is added to it.
const COUNT_AGE_MAX: Duration = Duration::from_secs(1);
/// Tenants that are remembered. Forgetting one gives it a full bucket, which is a second's worth.
const TENANTS_MAX: usize = 10_000;

/// What is known of each tenant that has a limit.
#[derive(Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<HashMap<Scope, State>>>);

struct State {
    tokens: f64,
    filled_at: Instant,
    unfinished: u64,
    counted_at: Option<Instant>,
}

impl Quotas {
    /// Takes so many jobs off what the caller may submit now, or says when to come again.
    pub(crate) async fn take(&self, caller: &Caller, jobs: u64) -> Result<(), Problem> {
        let Some(limits) = caller.settings().await? else {
            return Ok(());
        };
        if limits.submit_rate.is_none() && limits.unfinished_max.is_none() {
            return Ok(());
        }
        if limits.unfinished_max.is_some() && self.is_count_old(caller.scope()) {
            let unfinished = caller.store().unfinished().await?;
            self.with(caller.scope(), |state| {
                state.unfinished = unfinished;
                state.counted_at = Some(Instant::now());
            });
        }
        self.with(caller.scope(), |state| {
            state.take(limits.submit_rate, limits.unfinished_max, jobs)
        })
    }

    fn is_count_old(&self, scope: Scope) -> bool {
        self.with(scope, |state| {
            state
                .counted_at
                .is_none_or(|at| at.elapsed() > COUNT_AGE_MAX)
        })
    }

    fn with<T>(&self, scope: Scope, act: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() > TENANTS_MAX {
            states.clear();
        }
        act(states.entry(scope).or_insert_with(|| State {
            // Full: a second's worth, whatever the rate is.
            tokens: f64::INFINITY,
            filled_at: Instant::now(),
            unfinished: 0,
            counted_at: None,
        }))
    }
}

impl State {
    fn take(&mut self, rate: Option<u32>, most: Option<u64>, jobs: u64) -> Result<(), Problem> {
        if let Some(most) = most
            && self.unfinished + jobs > most
        {
            metrics::rejected("quota", jobs);
            let detail = format!(
                "the tenant has {} unfinished jobs, and may have {most}",
                self.unfinished
            );
            return Err(Problem::too_many(detail, 1));
        }
        if let Some(rate) = rate {
            let rate = f64::from(rate);
            let dripped = self.filled_at.elapsed().as_secs_f64() * rate;
            self.tokens = (self.tokens + dripped).min(rate);
            self.filled_at = Instant::now();
            // A batch larger than the bucket is let in when the bucket is full, and paid for after.
            let need = (jobs as f64).min(rate);
            if self.tokens < need {
                metrics::rejected("rate", jobs);
                let wait = ((need - self.tokens) / rate).ceil();
                let detail = format!("the tenant may submit {rate} jobs a second");
                return Err(Problem::too_many(detail, wait as u64));
            }
            self.tokens -= jobs as f64;
        }
        self.unfinished += jobs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            tokens: f64::INFINITY,
            filled_at: Instant::now(),
            unfinished: 0,
            counted_at: None,
        }
    }

    #[test]
    fn a_rate_lets_a_seconds_worth_in_at_once_and_no_more() {
        let mut state = state();
        for n in 0..5 {
            assert!(state.take(Some(5), None, 1).is_ok(), "{n}");
        }
        assert!(state.take(Some(5), None, 1).is_err());
    }

    #[test]
    fn a_batch_larger_than_the_rate_is_taken_and_paid_for_after() {
        let mut state = state();
        assert!(state.take(Some(5), None, 1000).is_ok());
        assert!(state.tokens < -900.0);
        assert!(state.take(Some(5), None, 1).is_err());
    }

    #[test]
    fn a_quota_counts_what_was_taken_since_it_was_counted() {
        let mut state = state();
        assert!(state.take(None, Some(10), 8).is_ok());
        assert!(state.take(None, Some(10), 3).is_err());
        assert!(state.take(None, Some(10), 2).is_ok());
    }
}
