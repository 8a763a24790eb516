//! What follows a failed attempt. Pure: the caller brings the random number and the database
//! brings the clock.

use std::time::Duration;

/// The longest wait another side may impose by `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What the retrier knows of a job that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt {
    /// Attempts so far.
    pub attempt: i32,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// The attempt said that no further one can help.
    pub fatal: bool,
    /// How long the other side asked us to wait.
    pub retry_after: Option<Duration>,
    /// Wait before the second attempt.
    pub backoff_base: Duration,
    /// The longest wait.
    pub backoff_cap: Duration,
    /// Time until the job expires; zero when it already has.
    pub expires_in: Option<Duration>,
}

/// What the retrier does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run again after this long.
    RetryAfter(Duration),
    /// Give up, for this reason.
    Dead(&'static str),
}

/// Decides. `random` is uniform in 0..1.
pub fn decide(failed: &FailedAttempt, random: f64) -> Verdict {
    if failed.fatal {
        return Verdict::Dead("fatal");
    }
    if failed.attempt >= failed.max_attempts {
        return Verdict::Dead("attempts exhausted");
    }
    let wait = match failed.retry_after {
        Some(told) => told.min(RETRY_AFTER_MAX) + spread(told, random),
        None => backoff(failed, random),
    };
    match failed.expires_in {
        Some(left) if left <= wait => Verdict::Dead("expires before the next attempt"),
        _ => Verdict::RetryAfter(wait),
    }
}

/// Doubles from the base to the cap, then a random half of it off: between 50 % and 100 %.
fn backoff(failed: &FailedAttempt, random: f64) -> Duration {
    let doublings = u32::try_from(failed.attempt - 1).unwrap_or(0).min(30);
    let full = failed
        .backoff_base
        .saturating_mul(1 << doublings)
        .min(failed.backoff_cap);
    full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// Many jobs are told the same `Retry-After` at the same moment; up to a tenth more, and never
/// less, keeps them from coming back at the same moment too.
fn spread(told: Duration, random: f64) -> Duration {
    told.min(RETRY_AFTER_MAX)
        .mul_f64(random.clamp(0.0, 1.0) / 10.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failed(attempt: i32) -> FailedAttempt {
        FailedAttempt {
            attempt,
            max_attempts: 20,
            fatal: false,
            retry_after: None,
            backoff_base: Duration::from_secs(5),
            backoff_cap: Duration::from_secs(3600),
            expires_in: None,
        }
    }

    #[test]
    fn waits_double_until_the_cap() {
        let full = |attempt| decide(&failed(attempt), 1.0);
        assert_eq!(full(1), Verdict::RetryAfter(Duration::from_secs(5)));
        assert_eq!(full(2), Verdict::RetryAfter(Duration::from_secs(10)));
        assert_eq!(full(19), Verdict::RetryAfter(Duration::from_secs(3600)));
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        assert_eq!(
            decide(&failed(20), 0.0),
            Verdict::Dead("attempts exhausted")
        );
    }

    #[test]
    fn a_fatal_failure_is_final_at_once() {
        let fatal = FailedAttempt {
            fatal: true,
            ..failed(1)
        };
        assert_eq!(decide(&fatal, 0.0), Verdict::Dead("fatal"));
    }

    #[test]
    fn a_job_that_would_expire_while_it_waits_is_dead_now() {
        let short = FailedAttempt {
            expires_in: Some(Duration::from_secs(2)),
            ..failed(1)
        };
        assert!(matches!(decide(&short, 0.0), Verdict::Dead(_)));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_told_nor_longer_than_the_limit(
            told in 0u64..200_000, attempt in 1..19, random in 0.0..1.0f64,
        ) {
            let told = Duration::from_secs(told);
            let failed = FailedAttempt { retry_after: Some(told), ..failed(attempt) };
            let Verdict::RetryAfter(wait) = decide(&failed, random) else { panic!("attempts are left") };
            prop_assert!(wait >= told.min(RETRY_AFTER_MAX));
            prop_assert!(wait <= RETRY_AFTER_MAX.mul_f64(1.1));
        }

        #[test]
        fn backoff_stays_between_half_and_whole(attempt in 1..1000i32, random in 0.0..1.0f64) {
            let failed = FailedAttempt { max_attempts: 2000, ..failed(attempt) };
            let Verdict::RetryAfter(wait) = decide(&failed, random) else { panic!("attempts are left") };
            prop_assert!(wait >= failed.backoff_base.mul_f64(0.5));
            prop_assert!(wait <= failed.backoff_cap);
        }
    }
}
