//! What is left after the drain, and whether the pipe held a message for each of its jobs.

use postroad_common::job::JobState;
use uuid::Uuid;

use super::Limits;
use super::faults::Faults;
use super::ledger::{Job, Ledger};
use super::{Figure, Report};
use crate::history::{Backing, History};

pub(super) fn check(
    history: &History,
    ledger: &Ledger<'_>,
    faults: &Faults,
    limits: &Limits,
    report: &mut Report,
) {
    find_messages_left(history, report);
    for (id, job) in &ledger.jobs {
        find_unfinished(id, job, ledger.end, report);
    }
    find_unbacked(history, faults, limits, report);
}

fn find_messages_left(history: &History, report: &mut Report) {
    for queue in history.queues.iter().filter(|queue| !queue.may_hold) {
        let (name, ready, unacked) = (&queue.queue, queue.ready, queue.unacked);
        report.add_many(Figure::MessagesLeft, ready + unacked, || {
            format!("{name}: {ready} messages ready and {unacked} unacked")
        });
    }
}

/// Held jobs are none of these: they wait for a person, visibly.
fn find_unfinished(id: &Uuid, job: &Job<'_>, end: f64, report: &mut Report) {
    let Some(row) = job.row() else { return };
    match row.state {
        JobState::Dispatched | JobState::Running | JobState::Failed => {
            report.add(Figure::Unfinished, || {
                format!("{id}: still {} at the end", row.state)
            });
        }
        JobState::Scheduled => {
            let due = job.submit.map(|submit| submit.due);
            if let Some(due) = due.filter(|due| *due <= end) {
                report.add(Figure::Pending, || {
                    format!("{id}: still scheduled, {:.3} s after it was due", end - due)
                });
            }
        }
        // Nobody here calls off a job, only campaigns.
        JobState::Cancelled => {
            if job.submit.is_some_and(|submit| !submit.resumed.is_empty()) {
                report.add(Figure::Unfinished, || {
                    format!("{id}: cancelled with its campaign, which was resumed")
                });
            }
        }
        JobState::Held | JobState::Completed | JobState::Dead | JobState::Expired => {}
    }
}

/// A job in the pipe whose message is gone waits for a timer. Any fault may cost messages, and
/// their jobs are found again within its shadow; without one, none may be missing.
fn find_unbacked(history: &History, faults: &Faults, limits: &Limits, report: &mut Report) {
    let lacking = |look: &&Backing| look.rows > look.messages;
    for look in history.backing.iter().filter(lacking) {
        if !faults.overlap(look.t - limits.shadow_seconds, look.t) {
            report.add(Figure::Unbacked, || {
                let (t, rows, messages) = (look.t, look.rows, look.messages);
                format!("{rows} jobs in the pipe at {t:.3}, and {messages} messages")
            });
        }
    }
}
