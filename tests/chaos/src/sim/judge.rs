//! A history → what is wrong with it. The simulation's own short verdict.
//!
//! To be replaced by `crate::checker`: [`red`] is called in one place (`Run::red`), and nothing
//! else here is used by anybody.

use std::collections::{BTreeMap, BTreeSet};

use postroad_common::job::{JobEvent, JobState};
use uuid::Uuid;

use crate::history::{Answer, Call, History, Lost, Move, Submit};

/// How long after a fault what it parted may still be repeated: a lease, and what follows it.
const FAULT_LASTS: f64 = 20.0;
/// Clocks here are one clock, in milliseconds.
const EPSILON: f64 = 0.0005;

/// Everything that is wrong, one sentence each. Empty: all is well.
pub(super) fn red(history: &History) -> Vec<String> {
    let view = View::of(history);
    let mut red = Vec::new();
    view.lost(&mut red);
    view.refused(&mut red);
    view.repeats(&mut red);
    view.early_and_foreign(&mut red);
    view.moves(&mut red);
    view.residue(&mut red);
    view.ticks(&mut red);
    view.unbacked(&mut red);
    red
}

struct View<'a> {
    history: &'a History,
    /// The submit of each id that a client gave.
    submits: BTreeMap<Uuid, &'a Submit>,
    calls: BTreeMap<Uuid, Vec<&'a Call>>,
    moves: BTreeMap<Uuid, Vec<&'a Move>>,
    states: BTreeMap<Uuid, JobState>,
}

impl<'a> View<'a> {
    fn of(history: &'a History) -> Self {
        let (mut calls, mut moves) = (BTreeMap::new(), BTreeMap::new());
        for call in &history.calls {
            let of_job: &mut Vec<_> = calls.entry(call.id.unwrap_or_default()).or_default();
            of_job.push(call);
        }
        for one in &history.moves {
            let of_job: &mut Vec<_> = moves.entry(one.id).or_default();
            of_job.push(one);
        }
        Self {
            history,
            submits: history
                .submits
                .iter()
                .map(|submit| (submit.id, submit))
                .collect(),
            calls,
            moves,
            states: history.rows.iter().map(|row| (row.id, row.state)).collect(),
        }
    }

    fn accepted(&self) -> BTreeSet<Uuid> {
        let accepted = |submit: &Submit| match submit.answer {
            Answer::Accepted(id) => Some(id),
            Answer::Refused | Answer::Unknown => None,
        };
        self.history.submits.iter().filter_map(accepted).collect()
    }

    fn has_effect(&self, id: Uuid) -> bool {
        let calls = self.calls.get(&id);
        calls.is_some_and(|calls| calls.iter().any(|call| call.effect))
    }

    fn lost(&self, red: &mut Vec<String>) {
        for id in self.accepted() {
            match self.states.get(&id) {
                None => red.push(format!("lost: {id} was accepted and is nowhere")),
                Some(JobState::Completed) if !self.has_effect(id) => {
                    red.push(format!("lost: {id} is completed and had no effect"));
                }
                Some(state) if !state.is_final() => {
                    red.push(format!("lost: {id} is {state} for good"));
                }
                Some(_) => {}
            }
        }
    }

    fn refused(&self, red: &mut Vec<String>) {
        for submit in &self.history.submits {
            if submit.answer == Answer::Refused && self.states.contains_key(&submit.id) {
                red.push(format!(
                    "unexpected: {} was refused and is there",
                    submit.id
                ));
            }
        }
    }

    fn repeats(&self, red: &mut Vec<String>) {
        for (id, calls) in &self.calls {
            let effects: Vec<_> = calls.iter().filter(|call| call.effect).collect();
            let decisions = self.history.decisions.iter();
            let retries = decisions.filter(|one| one.id == *id && one.retry).count();
            let holds = self
                .submits
                .get(id)
                .is_some_and(|s| s.on_lost == Lost::Hold);
            if holds && effects.len() > 1 + retries {
                red.push(format!(
                    "hold repeat: {id} took effect {} times",
                    effects.len()
                ));
            }
            for pair in effects.windows(2) {
                if !holds && !self.is_explained(pair[0], pair[1]) {
                    red.push(format!(
                        "duplicate: {id} at {} and {}",
                        pair[0].t, pair[1].t
                    ));
                }
            }
        }
    }

    /// A repeated effect is explained by an answer that never came, or by a fault that can part an
    /// effect from its record.
    fn is_explained(&self, first: &Call, second: &Call) -> bool {
        let overlaps = |from: f64, until: f64| from <= second.t && until + FAULT_LASTS >= first.t;
        let mut faults = self
            .history
            .faults
            .iter()
            .filter(|fault| fault.parts_effect_from_record);
        !first.answered || faults.any(|fault| overlaps(fault.from, fault.until))
    }

    fn early_and_foreign(&self, red: &mut Vec<String>) {
        for call in &self.history.calls {
            let Some(submit) = call.id.and_then(|id| self.submits.get(&id)) else {
                red.push(format!(
                    "unexpected: a call for {:?}, which nobody submitted",
                    call.id
                ));
                continue;
            };
            if call.t + EPSILON < submit.due {
                red.push(format!(
                    "early: {} at {}, due at {}",
                    submit.id, call.t, submit.due
                ));
            }
            let is_own = call.tenant.as_ref() == Some(&submit.tenant);
            if !is_own || Some(&call.body_sha256) != submit.body_sha256.as_ref() {
                red.push(format!(
                    "cross-tenant: {} was sent what is another's",
                    submit.id
                ));
            }
        }
    }

    fn moves(&self, red: &mut Vec<String>) {
        for (id, moves) in &self.moves {
            let expires = self.submits.get(id).and_then(|submit| submit.expires);
            let (mut before, mut successes) = (None, 0);
            for one in moves {
                if one.from != before || !is_legal(one) {
                    red.push(format!("illegal move: {one:?}"));
                }
                before = one.to;
                successes += usize::from(one.to == Some(JobState::Completed));
                let starts = one.to == Some(JobState::Running);
                if starts && expires.is_some_and(|at| at + EPSILON < one.t) {
                    red.push(format!("late: {id} was started after it had expired"));
                }
            }
            if successes > 1 {
                red.push(format!("double success: {id} completed {successes} times"));
            }
            if before != self.states.get(id).copied() {
                red.push(format!(
                    "illegal move: {id} is not where its last move left it"
                ));
            }
        }
    }

    fn residue(&self, red: &mut Vec<String>) {
        for row in self.history.rows.iter().filter(|row| !row.state.is_final()) {
            red.push(format!("residue: {} is {}", row.id, row.state));
        }
        for depth in self.history.queues.iter().filter(|depth| !depth.may_hold) {
            if depth.ready + depth.unacked > 0 {
                red.push(format!("residue: {depth:?}"));
            }
        }
    }

    fn ticks(&self, red: &mut Vec<String>) {
        let mut ticks: BTreeMap<_, (BTreeSet<Uuid>, bool)> = BTreeMap::new();
        for submit in &self.history.submits {
            let Some(tick) = &submit.tick else { continue };
            let (rows, is_accepted) = ticks.entry(tick).or_default();
            rows.extend(self.states.get_key_value(&submit.id).map(|(id, _)| *id));
            *is_accepted |= matches!(submit.answer, Answer::Accepted(_));
        }
        for (tick, (rows, is_accepted)) in ticks {
            if rows.len() > 1 {
                red.push(format!("extra tick: {tick:?} is {} jobs", rows.len()));
            }
            if rows.is_empty() && is_accepted {
                red.push(format!("missed tick: {tick:?}"));
            }
        }
    }

    /// Looks are only taken when it is calm.
    fn unbacked(&self, red: &mut Vec<String>) {
        for look in &self.history.backing {
            if look.rows > look.messages {
                red.push(format!("unbacked: {look:?}"));
            }
        }
    }
}

/// Whether some event explains a move, fence and attempt included.
fn is_legal(one: &Move) -> bool {
    let (fence, attempt) = (
        one.dispatch - one.dispatch_before,
        one.attempt - one.attempt_before,
    );
    let Some(to) = one.to else { return false };
    let Some(from) = one.from else {
        return to == JobState::Scheduled && one.dispatch == 0 && one.attempt == 0;
    };
    let explains = |event: &JobEvent| {
        let counts = match event {
            JobEvent::Claimed => (1, 0),
            JobEvent::Started => (0, 1),
            JobEvent::Snoozed | JobEvent::Interrupted => (0, -1),
            _ => (0, 0),
        };
        from.next(*event) == Ok(to) && counts == (fence, attempt)
    };
    JobEvent::ALL.iter().any(explains)
}
