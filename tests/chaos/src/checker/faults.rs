//! What was broken when, in a form that answers "anything between here and there?" at once.

use crate::history::History;

/// The faults of a run.
pub(super) struct Faults {
    all: Spans,
    parting: Spans,
}

impl Faults {
    pub(super) fn of(history: &History) -> Self {
        let spans = |only_parting: bool| {
            let faults = history.faults.iter();
            let chosen = faults.filter(|fault| fault.parts_effect_from_record || !only_parting);
            Spans::of(chosen.map(|fault| (fault.from, fault.until)))
        };
        Self {
            all: spans(false),
            parting: spans(true),
        }
    }

    /// Whether anything was broken in this time.
    pub(super) fn overlap(&self, from: f64, until: f64) -> bool {
        self.all.overlap(from, until)
    }

    /// Whether something was broken in this time that can part an effect from its record.
    pub(super) fn part_effect_from_record(&self, from: f64, until: f64) -> bool {
        self.parting.overlap(from, until)
    }
}

/// Spans of time by their beginnings, each with the latest end of those up to it: of all spans that
/// have begun by some moment, that one lasts the longest.
struct Spans {
    begins: Vec<f64>,
    latest_end: Vec<f64>,
}

impl Spans {
    fn of(spans: impl Iterator<Item = (f64, f64)>) -> Self {
        let mut spans: Vec<_> = spans.collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut latest = f64::NEG_INFINITY;
        let mut end_so_far = |end: f64| {
            latest = latest.max(end);
            latest
        };
        Self {
            begins: spans.iter().map(|span| span.0).collect(),
            latest_end: spans.iter().map(|span| end_so_far(span.1)).collect(),
        }
    }

    fn overlap(&self, from: f64, until: f64) -> bool {
        let begun = self.begins.partition_point(|begin| *begin <= until);
        begun > 0 && self.latest_end[begun - 1] >= from
    }
}
