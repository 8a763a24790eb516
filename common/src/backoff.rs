//! The wait between two tries to reach a server. Pure but for the random number.

use std::time::Duration;

/// Doubles from `FIRST` to `LONGEST`, less a random part, until it is reset.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// The wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let full = Self::FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        // A fleet that lost its server at one moment must not come back at one moment.
        full.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= Backoff::FIRST);
        assert!(waits.iter().all(|wait| *wait <= Backoff::LONGEST));
        assert!(waits[39] >= Backoff::LONGEST / 2);
        backoff.reset();
        assert!(backoff.next_wait() <= Backoff::FIRST);
    }
}
