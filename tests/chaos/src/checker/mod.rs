//! A history → figures and a verdict. Pure.
//!
//! The checker knows what Postroad promises and nothing of how it keeps it: it compares what
//! clients were told with what the provider saw, what Postgres logged and held, and what the broker
//! held, and calls every difference by a name. It is Jepsen's `total-queue` checker with a
//! scheduler's figures added: what goes in must come out, a timeout is neither yes nor no, and a
//! repeat needs an excuse.
//!
//! [`Figure`] names all that must not be seen, [`Context`] what is only reported.
//!
//! | file | looks for |
//! |---|---|
//! | `ledger` | nothing: it sorts what was seen by job |
//! | `jobs` | lost, silent, unexpected |
//! | `effects` | unexplained duplicates, hold repeats |
//! | `times` | early, late starts; lateness |
//! | `tenants` | cross-tenant |
//! | `ticks` | missed and extra ticks |
//! | `dedup` | dedup breaks |
//! | `moves` | illegal moves, double success, contradictions |
//! | `residue` | messages left, unfinished, pending, unbacked |
//!
//! # No fault, no excuse
//!
//! Postroad may repeat the effect of a `retry` kind, but only where its record of the first one
//! can have been lost. So the repeat after an effective call is *explained* if
//!
//! * the provider did not send that call's answer whole, or
//! * a fault that can part an effect from its record overlaps the time from a second before that
//!   call until the next one of the job, or
//! * somebody decided between the two that the job should run again,
//!
//! and *unexplained* otherwise. The next call ends that time whether it took effect or not: it is
//! the one that needs the excuse. Only outside observers can excuse: an error that Postroad wrote
//! down about itself never does, or a bug could forgive itself.
//!
//! For a `hold` kind no fault is an excuse, only a decision.
//!
//! # Assumptions
//!
//! * The history is taken after a drain: faults are healed, and jobs that were due had the time to
//!   end.
//! * All times are of one machine. Who injects a fault notes its beginning before it acts and its
//!   end after; who decides notes the time before the decision is carried out.
//! * Every row is logged from its birth on: the log begins before the first submit.
//! * The provider means what it says: it does not answer a call that took effect with an error.

mod dedup;
mod effects;
mod faults;
mod figure;
mod jobs;
mod lateness;
mod ledger;
mod moves;
mod report;
mod residue;
mod table;
mod tenants;
#[cfg(test)]
mod tests;
mod ticks;
mod times;

pub use figure::Figure;
pub use lateness::Lateness;
pub use report::{Context, Finding, Report, SAMPLES_MAX};
pub use table::bound_95;

use self::faults::Faults;
use self::ledger::Ledger;
use crate::history::{Answer, History, Submit};

/// How much the clocks and the recovery of a run are allowed, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How long after a fault the pipe may still lack messages.
    pub shadow_seconds: f64,
    /// How long before an effective call a fault may have begun that parts it from its record.
    pub lead_seconds: f64,
    /// How long after the start gate's decision the call may reach the provider.
    pub start_slack_seconds: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // `pipe_ttl` (60 s) and the rescuer's 16 s (docs/GUARANTEES.md), and some slack.
            shadow_seconds: 80.0,
            lead_seconds: 1.0,
            start_slack_seconds: 0.5,
        }
    }
}

/// The figures of one run.
pub fn check(history: &History) -> Report {
    check_with(history, &Limits::default())
}

/// The figures of one run under other limits than the default ones.
pub fn check_with(history: &History, limits: &Limits) -> Report {
    let ledger = Ledger::of(history);
    let faults = Faults::of(history);
    let mut report = Report {
        runs: 1,
        context: context(history),
        ..Report::default()
    };
    jobs::check(&ledger, &mut report);
    effects::check(&ledger, &faults, limits, &mut report);
    times::check(&ledger, &faults, limits, &mut report);
    tenants::check(&ledger, &mut report);
    ticks::check(history, &ledger, &mut report);
    dedup::check(history, &ledger, &mut report);
    moves::check(&ledger, &mut report);
    residue::check(history, &ledger, &faults, limits, &mut report);
    report
}

/// What can be counted without judging.
fn context(history: &History) -> Context {
    let answers = |is: fn(&Answer) -> bool| {
        let answers = history.submits.iter().map(|submit| &submit.answer);
        answers.filter(|answer| is(answer)).count() as u64
    };
    let is_taken_over_http =
        |submit: &&Submit| submit.over_http && matches!(submit.answer, Answer::Accepted(_));
    Context {
        over_http: history.submits.iter().filter(is_taken_over_http).count() as u64,
        attempts: history.submits.len() as u64,
        acknowledged: answers(|answer| matches!(answer, Answer::Accepted(_))),
        indeterminate: answers(|answer| matches!(answer, Answer::Unknown)),
        refused: answers(|answer| matches!(answer, Answer::Refused)),
        calls: history.calls.len() as u64,
        effects: history.calls.iter().filter(|call| call.effect).count() as u64,
        moves: history.moves.len() as u64,
        faults: history.faults.len() as u64,
        ..Context::default()
    }
}
