//! When calls were made: never early, how late, and never after `expires_at`.

use uuid::Uuid;

use super::Limits;
use super::faults::Faults;
use super::ledger::{Job, Ledger};
use super::{Figure, Report};

pub(super) fn check(ledger: &Ledger<'_>, faults: &Faults, limits: &Limits, report: &mut Report) {
    for (id, job) in &ledger.jobs {
        let Some(submit) = job.expected() else {
            continue;
        };
        find_early(id, job, submit.due, report);
        if let Some(effect) = job.first_effect() {
            report.lateness.add(effect.t - submit.due);
        }
        if let Some(expires) = submit.expires {
            find_late_starts(id, job, expires, faults, limits, report);
        }
    }
}

/// Whether it took effect or not: to be called is to be started.
fn find_early(id: &Uuid, job: &Job<'_>, due: f64, report: &mut Report) {
    for call in job.calls.iter().filter(|call| call.t < due) {
        let by = due - call.t;
        report.add(Figure::Early, || {
            format!("{id}: called at {:.3}, {by:.3} s early", call.t)
        });
    }
}

/// The gate decides before the call is made. The wire between the two takes some slack; a worker
/// that was paused right there takes as long as it was paused, and that is only reported.
fn find_late_starts(
    id: &Uuid,
    job: &Job<'_>,
    expires: f64,
    faults: &Faults,
    limits: &Limits,
    report: &mut Report,
) {
    let last = expires + limits.start_slack_seconds;
    for call in job.calls.iter().filter(|call| call.t > last) {
        if faults.part_effect_from_record(expires, call.t) {
            report.context.delayed_starts += 1;
        } else {
            let by = call.t - expires;
            report.add(Figure::LateStarts, || {
                format!("{id}: called {by:.3} s after it had expired")
            });
        }
    }
}
