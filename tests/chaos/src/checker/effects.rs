//! Repeats: what took effect more than once, and whether anybody outside can say why.

use uuid::Uuid;

use super::Limits;
use super::faults::Faults;
use super::ledger::{Job, Ledger};
use super::{Figure, Report};
use crate::history::{Call, Lost, Submit};

pub(super) fn check(ledger: &Ledger<'_>, faults: &Faults, limits: &Limits, report: &mut Report) {
    let is_hold = |submit: &Submit| submit.on_lost == Lost::Hold;
    for (id, job) in &ledger.jobs {
        for (call, next) in repeats(job) {
            if is_explained(job, call, next, faults, limits) {
                report.context.explained_duplicates += 1;
            } else {
                report.add(Figure::UnexplainedDuplicates, || {
                    let (t, next) = (call.t, next.t);
                    format!("{id}: took effect at {t:.3}, called again at {next:.3}, no fault near")
                });
            }
        }
        if job.submit.is_some_and(is_hold) {
            find_hold_repeats(id, job, report);
        }
    }
}

/// Every effective call that another effect follows, with the very next call: whatever made
/// Postroad call again lies before that one, whether it was the one that took effect or not.
fn repeats<'j>(job: &'j Job<'_>) -> impl Iterator<Item = (&'j Call, &'j Call)> {
    let last_effect = job.calls.iter().rposition(|call| call.effect).unwrap_or(0);
    let until_last_effect = job.calls.get(..=last_effect).unwrap_or_default();
    until_last_effect
        .windows(2)
        .map(|pair| (pair[0], pair[1]))
        .filter(|(call, _)| call.effect)
}

/// "No fault, no excuse": the rule is in the head of [`super`].
fn is_explained(job: &Job<'_>, call: &Call, next: &Call, faults: &Faults, limits: &Limits) -> bool {
    !call.answered
        || faults.part_effect_from_record(call.t - limits.lead_seconds, next.t)
        || job.was_told_to_retry(call.t, next.t)
}

/// For a kind that is held when in doubt: any call after one that worked, or of which nobody can
/// say whether it did, needs a decision in between. A call that was answered whole and took no
/// effect is no doubt: calling again is right.
fn find_hold_repeats(id: &Uuid, job: &Job<'_>, report: &mut Report) {
    let mut doubt: Option<&Call> = None;
    for call in &job.calls {
        // The latest doubt is the one that is hardest to have been decided since.
        if let Some(earlier) = doubt
            && !job.was_told_to_retry(earlier.t, call.t)
        {
            report.add(Figure::HoldRepeats, || {
                let (t, again) = (earlier.t, call.t);
                format!("{id}: in doubt since {t:.3}, called again at {again:.3} undecided")
            });
        }
        if call.effect || !call.answered {
            doubt = Some(call);
        }
    }
}
