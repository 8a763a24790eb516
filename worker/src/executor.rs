//! A started job → how its attempt ended. One task per job, under its kind's timeout.
//!
//! An attempt that is cut off (timeout, panic, the worker's own end) may or may not have had its
//! effect. It is reported as unknown or interrupted, and the job's `on_lost` says what that means.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use postroad_common::failpoint;
use postroad_common::job::ARGS_BYTES_MAX;
use postroad_common::job::retry::RETRY_AFTER_MAX;
use postroad_common::settings::TenantSettings;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Ending, Outcome};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::canceller::Cancellations;
use crate::finisher::Finished;
use crate::gate::Asking;
use crate::handler::{Done, JobContext, JobError};
use crate::metrics;

/// The longest snooze.
const SNOOZE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Starts jobs and hands their outcomes on.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) running: TaskTracker,
    pub(crate) finished: mpsc::Sender<Finished>,
    pub(crate) shutdown: Shutdown,
    pub(crate) settings: TenantSettings,
    pub(crate) cancellations: Cancellations,
}

impl Executor {
    pub(crate) fn start(&self, asking: Asking, attempt: i32) {
        let (finished, shutdown) = (self.finished.clone(), self.shutdown.clone());
        let settings = self.settings.clone();
        let called_off = self.cancellations.enter(asking.ticket.job());
        self.running.spawn(async move {
            let Asking {
                ticket,
                kind,
                envelope,
                permit,
            } = asking;
            let job = JobContext {
                id: envelope.id,
                dispatch: envelope.dispatch,
                tenant: envelope.tenant,
                kind: envelope.kind,
                attempt,
                traceparent: envelope.traceparent,
                stop: shutdown.quiesce.clone(),
                settings,
            };
            let started = Instant::now();
            let (id, name) = (job.id, kind.name.clone());
            // A handler's code also runs when its future is dropped and when its error is printed:
            // a panic there must not swallow the outcome either.
            let attempt_ended = AssertUnwindSafe(async {
                let attempted = kind.run(job, envelope.body);
                tokio::select! {
                    biased;
                    result = tokio::time::timeout(kind.policy.timeout, attempted) => match result {
                        Ok(result) => ending(result),
                        Err(_) => unknown("timeout", format!("no end after {:?}", kind.policy.timeout)),
                    },
                    () = called_off.cancelled() => Ending::Cancelled,
                    () = shutdown.cancel.cancelled() => Ending::Interrupted,
                }
            });
            let ending = match attempt_ended.catch_unwind().await {
                Ok(ending) => ending,
                Err(panic) => unknown("panic", panic_text(&*panic)),
            };
            failpoint!("executor.ended");
            drop(permit);
            let word = word(&ending);
            metrics::attempt(name.as_str(), word, started.elapsed().as_secs_f64());
            tracing::debug!(
                job.id = %id,
                job.kind = %name,
                attempt,
                duration_ms = started.elapsed().as_millis() as u64,
                "attempt {attempt} of job {id} {word}"
            );
            let outcome = Outcome {
                job: ticket.job(),
                ending,
            };
            // Fails only when the finisher is gone, at the very end: then the rescuer decides.
            drop(finished.send(Finished { ticket, outcome }).await);
        });
    }
}

fn ending(result: Result<Done, JobError>) -> Ending {
    match result {
        Ok(done) => completed(&done),
        Err(JobError::Retry { error, after }) => Ending::Failed {
            fatal: false,
            retry_after: after.map(|after| after.min(RETRY_AFTER_MAX)),
            code: "failed",
            message: format!("{error:#}"),
        },
        Err(JobError::Fatal { error }) => Ending::Failed {
            fatal: true,
            retry_after: None,
            code: "fatal",
            message: format!("{error:#}"),
        },
        Err(JobError::Unknown { error }) => unknown("unknown", format!("{error:#}")),
        Err(JobError::Snooze { after }) => Ending::Snoozed(after.min(SNOOZE_MAX)),
    }
}

/// A job that worked stays completed even if its result is too large to be kept.
fn completed(done: &Done) -> Ending {
    let result = done.result().filter(|result| {
        let fits = result.len() <= ARGS_BYTES_MAX;
        if !fits {
            tracing::warn!(bytes = result.len(), "a result over 256 KiB is not kept");
        }
        fits
    });
    Ending::Completed(result.map(str::to_owned))
}

fn unknown(code: &'static str, message: String) -> Ending {
    Ending::Unknown { code, message }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "the handler panicked: {}",
        text.unwrap_or_else(|| "no text".to_owned())
    )
}

fn word(ending: &Ending) -> &'static str {
    match ending {
        Ending::Completed(_) => "completed",
        Ending::Failed { fatal: true, .. } => "failed for good",
        Ending::Failed { .. } => "failed",
        Ending::Unknown { .. } => "ended unclear",
        Ending::Snoozed(_) => "snoozed",
        Ending::Interrupted => "was interrupted",
        Ending::Cancelled => "was cancelled",
    }
}
