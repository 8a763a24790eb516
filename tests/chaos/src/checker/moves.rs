//! Postgres's log of every row, replayed through the state machine, and compared with the rows.

use postroad_common::job::{JobEvent, JobState};
use uuid::Uuid;

use super::ledger::{Job, Ledger};
use super::{Figure, Report};
use crate::history::{Move, Resume, Row};

pub(super) fn check(ledger: &Ledger<'_>, report: &mut Report) {
    for (id, job) in &ledger.jobs {
        replay(job, report);
        find_double_success(id, job, report);
        find_contradictions(id, job, report);
    }
}

fn replay(job: &Job<'_>, report: &mut Report) {
    let mut last = None;
    let mut resumes = job.submit.map_or(&[][..], |submit| &submit.resumed);
    for step in &job.moves {
        let flaw = match last {
            Some(last) if comes_back(last, step) => flaw_of_comeback(&mut resumes, last, step),
            _ => flaw(last, step).or_else(|| runs_and_expires(job, last, step)),
        };
        if let Some(flaw) = flaw {
            report.add(Figure::IllegalMoves, || describe(step, flaw));
        }
        last = Some(*step);
    }
}

/// What is wrong with a move, given the one before.
fn flaw(last: Option<&Move>, step: &Move) -> Option<&'static str> {
    let Some(to) = step.to else {
        return Some("the row vanished");
    };
    let Some(from) = step.from else {
        return flaw_at_birth(last, step, to);
    };
    let Some(last) = last else {
        return Some("the first move of a job is the birth of its row");
    };
    let left_at = (last.to, last.dispatch, last.attempt);
    if left_at != (Some(from), step.dispatch_before, step.attempt_before) {
        return Some("it does not begin where the move before ended");
    }
    if from != to && !is_legal(from, to) {
        return Some("no event leads there");
    }
    let (dispatch, attempt) = charge(from, to);
    if step.dispatch != step.dispatch_before + dispatch {
        return Some("the fence is not what this move makes it");
    }
    if step.attempt != step.attempt_before + attempt || step.attempt < 0 {
        return Some("the attempts are not what this move makes them");
    }
    None
}

/// Only a job whose worker never heard that it may start expires once it is running.
fn runs_and_expires(job: &Job<'_>, last: Option<&Move>, step: &Move) -> Option<&'static str> {
    let is_buried = step.from == Some(JobState::Running) && step.to == Some(JobState::Expired);
    let started_at = last.filter(|_| is_buried)?.t;
    let was_called = job.calls.iter().any(|call| call.t >= started_at);
    was_called.then_some("it was called, and then it expired")
}

fn flaw_at_birth(last: Option<&Move>, step: &Move, to: JobState) -> Option<&'static str> {
    if last.is_some() {
        return Some("the job had a row before");
    }
    if to != JobState::Scheduled || (step.dispatch, step.attempt) != (0, 0) {
        return Some("a row is born scheduled, without a claim or an attempt");
    }
    None
}

/// Whether a row is born of what was cancelled: it comes from the archive, of which no departures are
/// logged.
fn comes_back(last: &Move, step: &Move) -> bool {
    last.to == Some(JobState::Cancelled) && step.from.is_none() && step.to.is_some()
}

/// What was cancelled with its campaign comes back when that is resumed, once for each time: under its
/// fence, and without attempts. `resumes` are those that are not used up.
fn flaw_of_comeback(resumes: &mut &[Resume], last: &Move, step: &Move) -> Option<&'static str> {
    // One that was answered before it was cancelled is not what brings it back.
    let since = resumes.iter().position(|resume| resume.answered >= last.t);
    let Some(index) = since.filter(|index| resumes[*index].asked <= step.t) else {
        return Some("it was cancelled, and nobody has resumed its campaign since");
    };
    *resumes = &resumes[index + 1..];
    let left_at = (Some(JobState::Scheduled), last.dispatch.max(1), 0);
    if (step.to, step.dispatch, step.attempt) != left_at {
        return Some("what comes back is scheduled, under its fence and without an attempt");
    }
    None
}

fn is_legal(from: JobState, to: JobState) -> bool {
    // What comes back is born again.
    JobEvent::ALL
        .into_iter()
        .filter(|event| *event != JobEvent::Revived)
        .any(|event| from.next(event) == Ok(to))
}

/// What a move adds to the fence and to the attempts.
fn charge(from: JobState, to: JobState) -> (i64, i32) {
    match (from, to) {
        (JobState::Scheduled, JobState::Dispatched) => (1, 0),
        (JobState::Dispatched, JobState::Running) => (0, 1),
        // Snoozed, interrupted, or started for nobody: the attempt is given back.
        (JobState::Running, JobState::Scheduled) => (0, -1),
        _ => (0, 0),
    }
}

/// Every write of a success counts, also one over another: the second was accepted too.
fn find_double_success(id: &Uuid, job: &Job<'_>, report: &mut Report) {
    let is_success = |step: &&&Move| step.to == Some(JobState::Completed);
    let successes = job.moves.iter().filter(is_success).count();
    if successes > 1 {
        report.add(Figure::DoubleSuccess, || {
            format!("{id}: {successes} successes were recorded")
        });
    }
}

/// The log and the row are written by different hands; they must tell the same story.
fn find_contradictions(id: &Uuid, job: &Job<'_>, report: &mut Report) {
    if let [_, _, ..] = job.rows[..] {
        report.add(Figure::Contradictions, || {
            format!("{id}: has {} rows", job.rows.len())
        });
    }
    let found = match (job.moves.last(), job.row()) {
        (None, Some(row)) => format!("has a row, {}, and no log", row.state),
        (Some(last), Some(row)) if !agree(last, row) => {
            format!(
                "its row is {}, its log ends with {}",
                row.state,
                moved(last)
            )
        }
        // Without a row, a job that somebody was told of is lost, and counted there.
        (Some(last), None) if last.to.is_some() && !job.is_acknowledged => {
            format!("has no row, its log ends with {}", moved(last))
        }
        _ => return,
    };
    report.add(Figure::Contradictions, || format!("{id}: {found}"));
}

fn agree(last: &Move, row: &Row) -> bool {
    (last.to, last.dispatch, last.attempt) == (Some(row.state), row.dispatch, row.attempt)
}

fn describe(step: &Move, flaw: &str) -> String {
    format!(
        "{} at {:.3}: {}, fence {} → {}, attempts {} → {}: {flaw}",
        step.id,
        step.t,
        moved(step),
        step.dispatch_before,
        step.dispatch,
        step.attempt_before,
        step.attempt,
    )
}

fn moved(step: &Move) -> String {
    let name = |state: Option<JobState>| state.map_or("nothing", JobState::as_str);
    format!("{} → {}", name(step.from), name(step.to))
}
