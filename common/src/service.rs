//! The skeleton of every background loop.
//!
//! A service is level-triggered: `run_once` takes no input, reads the truth, may run at the same
//! time in any number of processes, and leaves the rest to the next run. The driver owns
//! everything else: the timer, the nudge, errors and panics, the health condition, the stop.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::health::Health;
use crate::shutdown::Shutdown;

/// One background loop.
pub trait Service: Send + 'static {
    /// Its name in logs, metrics and `/readyz`.
    const NAME: &'static str;

    /// Why a run failed.
    type Error: Display + Send;

    /// How long to rest after a run that found nothing to do.
    fn period(&self) -> Duration;

    /// How long to rest after a run that failed; none: longer each time.
    fn period_after_error(&self) -> Option<Duration> {
        None
    }

    /// Does what there is to do now.
    fn run_once(&mut self) -> impl Future<Output = Result<Progress, Self::Error>> + Send;
}

/// What a run found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more to do for now: rest for a period.
    Idle,
    /// There may be more: run again at once.
    More,
}

impl Progress {
    /// `More` if `yes`.
    pub fn more_if(yes: bool) -> Self {
        if yes { Self::More } else { Self::Idle }
    }
}

/// Wakes a service now. Carries no data; two nudges before the service looks are one.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Wakes the service, or makes its next rest end at once.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Runs `service` until shutdown begins. A run that has begun is finished.
pub fn spawn<S: Service>(
    service: S,
    nudge: Nudge,
    health: &Health,
    shutdown: &Shutdown,
) -> JoinHandle<()> {
    health.expect(S::NAME);
    tokio::spawn(drive(service, nudge, health.clone(), shutdown.clone()))
}

async fn drive<S: Service>(mut service: S, nudge: Nudge, health: Health, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    while !shutdown.is_requested() {
        let started = Instant::now();
        // A panic in one run is an error of this run, not the end of the service.
        let result = AssertUnwindSafe(service.run_once()).catch_unwind().await;
        metrics::histogram!("postroad_service_run_seconds", "service" => S::NAME)
            .record(started.elapsed().as_secs_f64());
        let rest = match result {
            Ok(Ok(progress)) => {
                health.good(S::NAME);
                backoff.reset();
                match progress {
                    Progress::More => Duration::ZERO,
                    Progress::Idle => service.period(),
                }
            }
            Ok(Err(error)) => {
                let wait = failed(S::NAME, format_args!("{error}"), &health, &mut backoff);
                service.period_after_error().unwrap_or(wait)
            }
            Err(_) => failed(S::NAME, format_args!("panicked"), &health, &mut backoff),
        };
        if rest.is_zero() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = nudge.0.notified() => {}
            () = shutdown.quiesce.cancelled() => {}
        }
    }
}

fn failed(
    name: &'static str,
    why: std::fmt::Arguments<'_>,
    health: &Health,
    backoff: &mut Backoff,
) -> Duration {
    metrics::counter!("postroad_service_errors_total", "service" => name).increment(1);
    health.bad(name, why);
    backoff.next_wait()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Stumbling(Arc<AtomicUsize>);

    impl Service for Stumbling {
        const NAME: &'static str = "stumbling";
        type Error = String;

        fn period(&self) -> Duration {
            Duration::from_secs(3600)
        }

        async fn run_once(&mut self) -> Result<Progress, String> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the first run panics"),
                1 => Err("the second run fails".to_owned()),
                2 => Ok(Progress::More),
                _ => Ok(Progress::Idle),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_outlives_its_panics_and_errors_and_wakes_by_nudge() {
        let runs = Arc::new(AtomicUsize::new(0));
        let (nudge, health, shutdown) = (Nudge::default(), Health::new(), Shutdown::new());
        let service = Stumbling(runs.clone());
        let task = spawn(service, nudge.clone(), &health, &shutdown);
        assert_eq!(health.reasons()["stumbling"], "starting");

        // Time is paused, so it only moves when everything rests.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 4);
        assert!(health.reasons().is_empty());

        nudge.wake();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 5);

        shutdown.quiesce.cancel();
        task.await.expect("the driver does not panic");
    }
}
