//! A started job → how its attempt ended. One task per job, under its kind's timeout (see [`crate::settings`]).
//!
//! A right to start does not last: where this process may have been called lost since the gate said
//! yes, the attempt is not made.
//!
//! An attempt that is cut off (timeout, panic, the worker's own end) may or may not have had its
//! effect. It is reported as unknown or interrupted, and the job's `on_lost` says what that means.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use postroad_common::failpoint;
use postroad_common::job::retry::RETRY_AFTER_MAX;
use postroad_common::job::{ARGS_BYTES_MAX, JobId, KindName};
use postroad_common::membership::Membership;
use postroad_common::settings::Tenants;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Ending, Outcome, ProcessId};
use postroad_common::telemetry::ATTEMPT_TARGET;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::breaker::Breakers;
use crate::canceller::Cancellations;
use crate::destinations::Evidence;
use crate::finisher::Finished;
use crate::gate::Asking;
use crate::handler::{Done, JobContext, JobError};
use crate::metrics;

/// The longest snooze.
const SNOOZE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Starts jobs and hands their outcomes on.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) membership: Membership,
    pub(crate) running: TaskTracker,
    pub(crate) finished: mpsc::Sender<Finished>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tenants: Tenants,
    pub(crate) cancellations: Cancellations,
    pub(crate) breakers: Breakers,
}

impl Executor {
    /// Starts a job that the gate has granted to this process under the id `to`.
    pub(crate) fn start(&self, asking: Asking, to: ProcessId, attempt: i32, late: Duration) {
        let membership = self.membership.clone();
        let (finished, shutdown) = (self.finished.clone(), self.shutdown.clone());
        let (settings, breakers) = (self.tenants.clone(), self.breakers.clone());
        let called_off = self.cancellations.enter(asking.ticket.job());
        self.running.spawn(async move {
            let Asking {
                taken_at: _,
                ticket,
                queue,
                kind,
                envelope,
                permit,
                call,
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
            let (started, timeout) = (Instant::now(), kind.timeout());
            let (id, name) = (job.id, kind.name.clone());
            let line = AttemptLine::of(&job, late);
            let tenant = breakers.watches(&queue).then(|| job.tenant.clone());
            // A handler's code also runs when its future is dropped and when its error is printed:
            // a panic there must not swallow the outcome either.
            let attempt_ended = AssertUnwindSafe(async {
                // The process may have stood still since the gate's answer, for longer than its lease:
                // then the job has been judged, and somebody may have decided by what there was.
                if membership.id() != Some(to) {
                    metrics::refused("late");
                    return (Ending::Snoozed(Duration::ZERO), None);
                }
                let attempted = kind.run(job, envelope.body);
                tokio::select! {
                    biased;
                    result = tokio::time::timeout(timeout, attempted) => match result {
                        Ok(result) => {
                            let evidence = Evidence::of(&result);
                            (ending(result), evidence)
                        }
                        Err(_) => {
                            let ending = unknown("timeout", format!("no end after {timeout:?}"));
                            let is_call = call.is_some() || tenant.is_some();
                            (ending, is_call.then(Evidence::silence))
                        }
                    },
                    () = called_off.cancelled() => (Ending::Cancelled, None),
                    () = shutdown.cancel.cancelled() => (Ending::Interrupted, None),
                }
            });
            let (ending, evidence) = match attempt_ended.catch_unwind().await {
                Ok(ended) => ended,
                Err(panic) => (unknown("panic", panic_text(&*panic)), None),
            };
            failpoint!("executor.ended");
            if let Some(failure) = evidence.and_then(Evidence::failure) {
                metrics::provider_failed(name.as_str(), failure);
            }
            if let Some((tenant, evidence)) = tenant.zip(evidence) {
                breakers.note(&queue, &tenant, evidence.failure(), started);
            }
            match (call, evidence) {
                (Some(call), Some(evidence)) => call.ended(evidence, started),
                (call, _) => drop(call),
            }
            let (word, took) = (word(&ending), started.elapsed());
            metrics::attempt(name.as_str(), word, late, took);
            if let Some(line) = line {
                line.log(id, &name, word, took);
            }
            let outcome = Outcome {
                job: ticket.job(),
                ending,
            };
            // Fails only when the finisher is gone, at the very end: then the rescuer decides.
            drop(finished.send(Finished { ticket, outcome }).await);
            // Not before: outcomes that cannot be written must not let more jobs begin.
            drop(permit);
        });
    }
}

/// What the log says of an attempt that the job itself takes along. Only where somebody listens:
/// at ten thousand jobs a second a line for each is a cost of its own.
struct AttemptLine {
    tenant: String,
    attempt: i32,
    late: Duration,
    traceparent: Option<String>,
}

impl AttemptLine {
    fn of(job: &JobContext, late: Duration) -> Option<Self> {
        tracing::enabled!(target: ATTEMPT_TARGET, tracing::Level::INFO).then(|| Self {
            tenant: job.tenant.clone(),
            attempt: job.attempt,
            late,
            traceparent: job.traceparent.clone(),
        })
    }

    fn log(self, id: JobId, kind: &KindName, outcome: &'static str, took: Duration) {
        let Self { attempt, late, .. } = self;
        tracing::info!(
            target: ATTEMPT_TARGET,
            // Not a name with a dot: the macro takes no such one after a target.
            attempt,
            job.id = %id,
            job.kind = %kind,
            tenant = self.tenant,
            outcome,
            duration_ms = took.as_millis() as u64,
            lateness_ms = late.as_millis() as u64,
            trace.id = self.traceparent.as_deref().and_then(trace_id),
            "attempt {attempt} of job {id} {outcome}"
        );
    }
}

/// The trace in `00-<trace>-<span>-<flags>`.
fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}

fn ending(result: Result<Done, JobError>) -> Ending {
    match result {
        Ok(done) => completed(&done),
        Err(JobError::Retry { error, after, .. }) => Ending::Failed {
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
        Err(JobError::Unknown { error, .. }) => unknown("unknown", format!("{error:#}")),
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
