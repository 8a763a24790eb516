//! How late effects were, in a form that adds up over runs.
//!
//! A histogram whose classes grow by an eighth of a doubling: any number of jobs takes a few
//! hundred numbers, two of them add up exactly, and a quantile is told at most 9.1 % (and, below a
//! millisecond, one millisecond) too high, never too low.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Seconds between a job's due time and its first effect, of many jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lateness {
    count: u64,
    max: f64,
    classes: BTreeMap<u16, u64>,
}

/// The end of the first class, in seconds.
const FIRST: f64 = 0.001;

/// Classes per doubling.
const PER_DOUBLING: f64 = 8.0;

impl Lateness {
    /// Adds one effect. One that came early is not late at all.
    pub fn add(&mut self, seconds: f64) {
        let seconds = seconds.max(0.0);
        self.count += 1;
        self.max = self.max.max(seconds);
        *self.classes.entry(class(seconds)).or_default() += 1;
    }

    /// Adds up the effects of another run.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.max = self.max.max(other.max);
        for (class, count) in &other.classes {
            *self.classes.entry(*class).or_default() += count;
        }
    }

    /// How many effects there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latest of them, exactly.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// The lateness that this part of them did not exceed; none, if there were none.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = (part * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let class = self.classes.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        })?;
        Some(end(*class.0).min(self.max))
    }
}

fn class(seconds: f64) -> u16 {
    if seconds < FIRST {
        return 0;
    }
    // The cast saturates, so even the longest wait has a class.
    ((seconds / FIRST).log2() * PER_DOUBLING).floor() as u16 + 1
}

fn end(class: u16) -> f64 {
    FIRST * (f64::from(class) / PER_DOUBLING).exp2()
}
