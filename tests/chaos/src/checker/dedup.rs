//! A dedup key stands for one job. Runs are shorter than the time for which a key holds.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::ledger::Ledger;
use super::{Figure, Report};
use crate::history::{Answer, History, Submit};

pub(super) fn check(history: &History, ledger: &Ledger<'_>, report: &mut Report) {
    let mut jobs: BTreeMap<Key<'_>, BTreeSet<Uuid>> = BTreeMap::new();
    for submit in &history.submits {
        let accepted = match submit.answer {
            Answer::Accepted(id) => Some(id),
            Answer::Refused | Answer::Unknown => None,
        };
        if let Some(id) = accepted.filter(|id| !stands_for(*id, submit, ledger)) {
            report.add(Figure::DedupBreaks, || {
                format!("{}: answered with {id}, which is not of its key", submit.id)
            });
            continue;
        }
        let Some(key) = key(submit) else { continue };
        let has_row = ledger.jobs[&submit.id].row().is_some();
        let own = has_row.then_some(submit.id);
        let known = jobs.entry(key).or_default();
        known.extend(accepted.into_iter().chain(own));
    }
    for ((tenant, kind, key), jobs) in jobs {
        let extra = jobs.len().saturating_sub(1) as u64;
        report.add_many(Figure::DedupBreaks, extra, || {
            format!("key {key:?} of {tenant}'s {kind} has {extra} too many: {jobs:?}")
        });
    }
}

/// Tenant, kind, and the caller's key.
type Key<'h> = (&'h str, &'h str, &'h str);

fn key(submit: &Submit) -> Option<Key<'_>> {
    let key = submit.dedup_key.as_deref()?;
    Some((&submit.tenant, &submit.kind, key))
}

/// Whether a submit may be answered with this job: with itself, or with one of the same key.
fn stands_for(id: Uuid, submit: &Submit, ledger: &Ledger<'_>) -> bool {
    let other_key = || ledger.jobs[&id].submit.and_then(key);
    id == submit.id || key(submit).is_some() && key(submit) == other_key()
}
