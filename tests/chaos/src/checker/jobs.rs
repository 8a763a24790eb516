//! What became of each job: lost, silent, unexpected, recovered, held.

use postroad_common::job::JobState;
use uuid::Uuid;

use super::ledger::{Body, Job, Ledger};
use super::{Figure, Report};

pub(super) fn check(ledger: &Ledger<'_>, report: &mut Report) {
    for (id, job) in &ledger.jobs {
        find_lost(id, job, report);
        find_silent(id, job, report);
        find_unexpected(id, job, ledger, report);
        if job.is_indeterminate() && has_run(job) {
            report.context.recovered += 1;
        }
        if is_in(job, JobState::Held) {
            report.context.held += 1;
        }
    }
    for call in &ledger.nameless {
        let t = call.t;
        report.add(Figure::Unexpected, || {
            format!("a call at {t:.3} whose idempotency key is no job's id")
        });
    }
}

/// Accepted is kept: the row is there, whatever its state says. An effect does not make up for a
/// row that is gone, because nobody can find the job any more; it is only not lost entirely.
fn find_lost(id: &Uuid, job: &Job<'_>, report: &mut Report) {
    if !job.is_acknowledged || job.row().is_some() {
        return;
    }
    let effect = job.first_effect();
    if effect.is_some() {
        report.context.lost_records += 1;
    }
    report.add(Figure::Lost, || match effect.map(|call| call.t) {
        Some(t) => format!("{id}: accepted, took effect at {t:.3}, and has no row"),
        None => format!("{id}: accepted, and has neither an effect nor a row"),
    });
}

/// A success that its provider knows nothing of, unless a person said so.
fn find_silent(id: &Uuid, job: &Job<'_>, report: &mut Report) {
    let is_done = is_in(job, JobState::Completed) && job.has_provider();
    if is_done && job.first_effect().is_none() && !job.was_told_to_end() {
        let calls = job.calls.len();
        report.add(Figure::Silent, || {
            format!("{id}: completed, but none of {calls} calls of its provider took effect")
        });
    }
}

/// What nobody asked for, one by one: all that is seen of a job that may not run, and calls with a
/// body that is not their job's. A body of another tenant's is worse, and counted in `tenants`.
fn find_unexpected(id: &Uuid, job: &Job<'_>, ledger: &Ledger<'_>, report: &mut Report) {
    let Some(submit) = job.expected() else {
        let why = match job.submit {
            None => "was never submitted",
            Some(_) => "its client was told that it will not run",
        };
        for call in &job.calls {
            report.add(Figure::Unexpected, || {
                format!("{id}: {why}, but was called at {:.3}", call.t)
            });
        }
        for row in &job.rows {
            report.add(Figure::Unexpected, || {
                format!("{id}: {why}, but has a row, {}", row.state)
            });
        }
        return;
    };
    for call in &job.calls {
        if ledger.body(submit, call) == Body::Unknown {
            let t = call.t;
            report.add(Figure::Unexpected, || {
                format!("{id}: called at {t:.3} with a body that is not its own")
            });
        }
    }
}

fn has_run(job: &Job<'_>) -> bool {
    job.first_effect().is_some() || is_in(job, JobState::Completed)
}

fn is_in(job: &Job<'_>, state: JobState) -> bool {
    job.row().is_some_and(|row| row.state == state)
}
