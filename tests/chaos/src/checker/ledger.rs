//! A history, sorted by job: one pass over what each observer saw, so that every figure is then a
//! look at one job at a time.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::history::{Answer, Call, Decision, History, Move, Row, Submit};

/// Everything that was seen, by job. The order of the ids makes samples the same every time.
pub(super) struct Ledger<'h> {
    /// Every job that any observer knows.
    pub(super) jobs: BTreeMap<Uuid, Job<'h>>,
    /// Calls whose idempotency key was no id.
    pub(super) nameless: Vec<&'h Call>,
    /// The time of the last thing that anybody saw.
    pub(super) end: f64,
    owners: HashMap<&'h str, Owner<'h>>,
}

/// One job, as all observers together know it.
#[derive(Default)]
pub(super) struct Job<'h> {
    /// What it was handed in as; none: no client ever gave a job this id.
    pub(super) submit: Option<&'h Submit>,
    /// Whether a client was told that this job stands for what it handed in.
    pub(super) is_acknowledged: bool,
    /// What reached its provider, by time.
    pub(super) calls: Vec<&'h Call>,
    /// What was decided about it.
    pub(super) decisions: Vec<&'h Decision>,
    /// Its moves, in the order of their commits.
    pub(super) moves: Vec<&'h Move>,
    /// What Postgres held of it: one row, or none.
    pub(super) rows: Vec<&'h Row>,
}

/// Whose a body is.
#[derive(Clone, Copy)]
enum Owner<'h> {
    /// One tenant's.
    One(&'h str),
    /// More than one tenant handed in the same bytes.
    Several,
}

/// Whose body a call carried, from the view of the job it named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The job's own.
    Own,
    /// Another tenant's.
    Foreign,
    /// None that this job or another tenant handed in.
    Unknown,
}

impl<'h> Ledger<'h> {
    pub(super) fn of(history: &'h History) -> Self {
        let mut ledger = Self {
            jobs: BTreeMap::new(),
            nameless: Vec::new(),
            end: end_of(history),
            owners: HashMap::new(),
        };
        for submit in &history.submits {
            ledger.add_submit(submit);
        }
        for call in &history.calls {
            match call.id {
                Some(id) => ledger.job(id).calls.push(call),
                None => ledger.nameless.push(call),
            }
        }
        for decision in &history.decisions {
            ledger.job(decision.id).decisions.push(decision);
        }
        for step in &history.moves {
            ledger.job(step.id).moves.push(step);
        }
        for row in &history.rows {
            ledger.job(row.id).rows.push(row);
        }
        for job in ledger.jobs.values_mut() {
            job.calls.sort_by(|a, b| in_time(a, b));
            job.rows.sort_by_key(|row| (row.state, row.dispatch));
        }
        ledger
    }

    /// Whose body a call carried that named this job.
    pub(super) fn body(&self, submit: &Submit, call: &Call) -> Body {
        if submit.body_sha256.as_ref() == Some(&call.body_sha256) {
            return Body::Own;
        }
        match self.owners.get(call.body_sha256.as_str()) {
            None => Body::Unknown,
            Some(Owner::One(tenant)) if *tenant == submit.tenant => Body::Unknown,
            Some(Owner::One(_) | Owner::Several) => Body::Foreign,
        }
    }

    fn job(&mut self, id: Uuid) -> &mut Job<'h> {
        self.jobs.entry(id).or_default()
    }

    fn add_submit(&mut self, submit: &'h Submit) {
        if let Answer::Accepted(id) = submit.answer {
            self.job(id).is_acknowledged = true;
        }
        let job = self.job(submit.id);
        if job.submit.is_none_or(|known| says_more(submit, known)) {
            job.submit = Some(submit);
        }
        if let Some(body) = &submit.body_sha256 {
            let owner = self
                .owners
                .entry(body)
                .or_insert(Owner::One(&submit.tenant));
            if !matches!(owner, Owner::One(tenant) if *tenant == submit.tenant) {
                *owner = Owner::Several;
            }
        }
    }
}

impl<'h> Job<'h> {
    /// Whether it was handed in and its client was not told that it will not run.
    pub(super) fn may_run(&self) -> bool {
        self.is_acknowledged && self.submit.is_some() || self.is_indeterminate()
    }

    /// Whether its client never learned what became of it.
    pub(super) fn is_indeterminate(&self) -> bool {
        let is_unknown = |submit: &Submit| submit.answer == Answer::Unknown;
        !self.is_acknowledged && self.submit.is_some_and(is_unknown)
    }

    /// What was handed in, if it may run.
    pub(super) fn expected(&self) -> Option<&'h Submit> {
        self.submit.filter(|_| self.may_run())
    }

    /// Whether a provider is to be called for it.
    pub(super) fn has_provider(&self) -> bool {
        let has_body = |submit: &Submit| submit.body_sha256.is_some();
        self.submit.is_some_and(has_body)
    }

    /// The first call that did what it asked for.
    pub(super) fn first_effect(&self) -> Option<&'h Call> {
        self.calls.iter().copied().find(|call| call.effect)
    }

    /// Its row at the end.
    pub(super) fn row(&self) -> Option<&'h Row> {
        self.rows.first().copied()
    }

    /// Whether somebody decided, in this time, that it should run again.
    pub(super) fn was_told_to_retry(&self, from: f64, until: f64) -> bool {
        let is_in_time = |decision: &Decision| (from..=until).contains(&decision.t);
        self.decisions
            .iter()
            .any(|decision| decision.retry && is_in_time(decision))
    }

    /// Whether somebody decided that it should not run again.
    pub(super) fn was_told_to_end(&self) -> bool {
        self.decisions.iter().any(|decision| !decision.retry)
    }
}

/// By time; what happened at once, in an order that does not depend on who was asked first.
fn in_time(a: &Call, b: &Call) -> std::cmp::Ordering {
    let rest = |call: &Call| (call.effect, call.answered);
    a.t.total_cmp(&b.t)
        .then_with(|| rest(a).cmp(&rest(b)))
        .then_with(|| a.body_sha256.cmp(&b.body_sha256))
}

/// Of two submits under one id (a client that asks again), the job is what the accepted one said;
/// or else what may have been accepted; or else the first.
fn says_more(new: &Submit, known: &Submit) -> bool {
    let rank = |submit: &Submit| match submit.answer {
        Answer::Accepted(id) if id == submit.id => 0,
        Answer::Unknown => 1,
        Answer::Accepted(_) => 2,
        Answer::Refused => 3,
    };
    rank(new)
        .cmp(&rank(known))
        .then_with(|| new.t.total_cmp(&known.t))
        .then_with(|| new.due.total_cmp(&known.due))
        .is_lt()
}

fn end_of(history: &History) -> f64 {
    let History {
        submits,
        calls,
        faults,
        decisions,
        moves,
        rows: _,
        errors,
        queues: _,
        backing,
    } = history;
    let times = submits
        .iter()
        .map(|submit| submit.t)
        .chain(calls.iter().map(|call| call.t))
        .chain(faults.iter().map(|fault| fault.until))
        .chain(decisions.iter().map(|decision| decision.t))
        .chain(moves.iter().map(|step| step.t))
        .chain(errors.iter().map(|error| error.t))
        .chain(backing.iter().map(|look| look.t));
    times.fold(f64::NEG_INFINITY, f64::max)
}
