//! Failed → scheduled again by the kind's policy, or dead; called off while it ran → cancelled.
//!
//! Usually a failed job's dead letter brings it here at once (`dead_letters`). This sweep does the
//! same for failed jobs whose letter was lost. Any number of sweeps may judge one job: the first
//! ruling that lands moves it, and the others find nothing.

use std::time::Duration;

use postroad_common::failpoint;
use postroad_common::job::retry::{self, Verdict};
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, FailedJob, Ruling, Store};

use crate::metrics;

/// Younger failures are left to their dead letters.
const LETTER_PATIENCE: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_secs(1);
const BATCH: i64 = 1000;

/// The service.
pub struct Retrier {
    store: Store,
}

impl Retrier {
    /// A sweep over `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Service for Retrier {
    const NAME: &'static str = "retrier";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let cancelled = self.store.finish_cancelling(BATCH).await?;
        let failed = self.store.failed_long_ago(LETTER_PATIENCE, BATCH).await?;
        rule(&self.store, &failed).await?;
        let is_full = |count: usize| count as i64 == BATCH;
        Ok(Progress::more_if(
            is_full(failed.len()) || is_full(cancelled),
        ))
    }
}

/// Decides about failed jobs and carries it out.
pub(crate) async fn rule(store: &Store, failed: &[FailedJob]) -> Result<(), store::Error> {
    let decide = |job: &FailedJob| {
        let verdict = retry::decide(&job.failed, rand::random());
        metrics::ruled(match verdict {
            Verdict::RetryAfter(_) => "retry",
            Verdict::Dead(_) => "dead",
        });
        Ruling {
            job: job.job,
            verdict,
        }
    };
    let rulings: Vec<_> = failed.iter().map(decide).collect();
    if !rulings.is_empty() {
        failpoint!("retrier.decided");
    }
    store.rule(&rulings).await.map(drop)
}
