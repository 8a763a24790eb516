//! The figures of a run, or of many added up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::lateness::Lateness;

/// How many samples of a figure are kept.
pub const SAMPLES_MAX: usize = 10;

/// What the checker found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How many runs these figures are of.
    pub runs: u64,
    /// What is only reported.
    pub context: Context,
    /// How late first effects were.
    pub lateness: Lateness,
    /// What must not be seen and was. A figure that is not here is zero.
    pub findings: BTreeMap<Figure, Finding>,
}

/// How often something was seen that must not be, and the first few times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// Which job, and what was seen of it; at most [`SAMPLES_MAX`].
    pub samples: Vec<String>,
}

/// What a run amounted to. None of it is good or bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Submits.
    pub attempts: u64,
    /// Submits that were accepted.
    pub acknowledged: u64,
    /// Of those, over HTTP and not in SQL.
    #[serde(default)]
    pub over_http: u64,
    /// Submits whose client was told nothing.
    pub indeterminate: u64,
    /// Submits that were refused.
    pub refused: u64,
    /// Jobs whose client was told nothing and that ran nevertheless.
    pub recovered: u64,
    /// Lost jobs whose effect was seen: only their record is gone.
    pub lost_records: u64,
    /// Jobs that wait for a decision at the end.
    pub held: u64,
    /// Ticks that a client was told are accepted.
    pub ticks: u64,
    /// Calls that reached the provider.
    pub calls: u64,
    /// Those that did what they asked for.
    pub effects: u64,
    /// Effects repeated for a reason that an outside observer saw.
    pub explained_duplicates: u64,
    /// Calls after `expires_at` whose worker may have been away since the gate let it start.
    pub delayed_starts: u64,
    /// Moves of rows.
    pub moves: u64,
    /// Faults.
    pub faults: u64,
}

impl Report {
    /// Whether nothing was seen that must not be.
    pub fn is_green(&self) -> bool {
        self.findings.is_empty()
    }

    /// The figures that are not zero.
    pub fn red(&self) -> Vec<(&'static str, u64)> {
        let told = |(figure, finding): (&Figure, &Finding)| (figure.as_str(), finding.count);
        self.findings.iter().map(told).collect()
    }

    /// How often it was seen.
    pub fn count(&self, figure: Figure) -> u64 {
        self.findings
            .get(&figure)
            .map_or(0, |finding| finding.count)
    }

    /// Adds the figures of other runs to these. The samples that came first are kept.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.context.merge(&other.context);
        self.lateness.merge(&other.lateness);
        for (figure, finding) in &other.findings {
            let own = self.findings.entry(*figure).or_default();
            own.count += finding.count;
            own.samples.extend_from_slice(&finding.samples);
            own.samples.truncate(SAMPLES_MAX);
        }
    }

    /// Notes one more time.
    pub(super) fn add(&mut self, figure: Figure, sample: impl FnOnce() -> String) {
        self.add_many(figure, 1, sample);
    }

    /// Notes that it was seen so many times at once, if it was.
    pub(super) fn add_many(&mut self, figure: Figure, n: u64, sample: impl FnOnce() -> String) {
        if n == 0 {
            return;
        }
        let finding = self.findings.entry(figure).or_default();
        finding.count += n;
        if finding.samples.len() < SAMPLES_MAX {
            finding.samples.push(sample());
        }
    }
}

impl Context {
    /// Named one by one, so that a field that is added and forgotten here does not compile.
    fn merge(&mut self, other: &Self) {
        let Self {
            attempts,
            acknowledged,
            over_http,
            indeterminate,
            refused,
            recovered,
            lost_records,
            held,
            ticks,
            calls,
            effects,
            explained_duplicates,
            delayed_starts,
            moves,
            faults,
        } = other;
        self.attempts += attempts;
        self.acknowledged += acknowledged;
        self.over_http += over_http;
        self.indeterminate += indeterminate;
        self.refused += refused;
        self.recovered += recovered;
        self.lost_records += lost_records;
        self.held += held;
        self.ticks += ticks;
        self.calls += calls;
        self.effects += effects;
        self.explained_duplicates += explained_duplicates;
        self.delayed_starts += delayed_starts;
        self.moves += moves;
        self.faults += faults;
    }
}
