//! One tick of a schedule, one job: however many clients submit it at once.

use std::collections::{BTreeMap, BTreeSet};

use postroad_common::job::JobState;
use uuid::Uuid;

use super::ledger::{Job, Ledger};
use super::{Figure, Report};
use crate::history::{Answer, History, Submit, Tick};

/// What was seen of a tick.
#[derive(Default)]
struct Seen {
    /// Jobs that clients were told stand for it.
    accepted: BTreeSet<Uuid>,
    /// All that exist for it: those, and those that left an effect or a row.
    jobs: BTreeSet<Uuid>,
}

pub(super) fn check(history: &History, ledger: &Ledger<'_>, report: &mut Report) {
    for (tick, seen) in by_tick(history, ledger) {
        let Seen { accepted, jobs } = &seen;
        let extra = jobs.len().saturating_sub(1) as u64;
        report.add_many(Figure::ExtraTicks, extra, || {
            format!("{} has {extra} too many: {jobs:?}", name(tick))
        });
        if accepted.is_empty() {
            continue;
        }
        report.context.ticks += 1;
        let is_missed = |id: &Uuid| came_to_nothing(&ledger.jobs[id], tick, ledger.end);
        if accepted.iter().all(is_missed) {
            report.add(Figure::MissedTicks, || {
                format!("nothing came of {}, accepted as {accepted:?}", name(tick))
            });
        }
    }
}

fn by_tick<'h>(history: &'h History, ledger: &Ledger<'h>) -> BTreeMap<&'h Tick, Seen> {
    let mut ticks: BTreeMap<&Tick, Seen> = BTreeMap::new();
    for submit in &history.submits {
        let Some(tick) = &submit.tick else { continue };
        let seen = ticks.entry(tick).or_default();
        if let Answer::Accepted(id) = submit.answer {
            seen.accepted.insert(id);
            seen.jobs.insert(id);
        }
        let own = &ledger.jobs[&submit.id];
        if own.first_effect().is_some() || own.row().is_some() {
            seen.jobs.insert(submit.id);
        }
    }
    ticks
}

/// Whether a due tick has neither an effect nor an end that says why not. A job of another tick
/// is no job of this one.
fn came_to_nothing(job: &Job<'_>, tick: &Tick, end: f64) -> bool {
    let is_for_it = |submit: &&Submit| submit.tick.as_ref() == Some(tick);
    let Some(submit) = job.submit.filter(is_for_it) else {
        return true;
    };
    if submit.due > end || job.first_effect().is_some() || job.was_told_to_end() {
        return false;
    }
    match job.row().map(|row| row.state) {
        Some(JobState::Completed) => job.has_provider(),
        Some(state) => !state.is_final() && state != JobState::Held,
        None => true,
    }
}

fn name(tick: &Tick) -> String {
    format!("tick {} of {}", tick.number, tick.schedule)
}
