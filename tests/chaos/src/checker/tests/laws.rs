//! What holds for every history: who was asked first does not matter, and runs add up.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::bugs::{BUGS, Bug};
use super::story::Story;
use crate::checker::{Context, Figure, Lateness, Limits, Report, SAMPLES_MAX, bound_95, check};
use crate::history::History;

/// One bug, or none.
fn bugs() -> impl Strategy<Value = Vec<&'static Bug>> {
    subsequence(BUGS.iter().collect::<Vec<_>>(), 0..=1)
}

fn told(run: u32, bugs: &[&Bug]) -> History {
    let mut story = Story::honest(run);
    for bug in bugs {
        (bug.plant)(&mut story);
    }
    story.history
}

/// All that a report counts.
fn counts(report: &Report) -> (Context, Lateness, BTreeMap<Figure, u64>) {
    let findings = report.findings.iter();
    let counts = findings.map(|(figure, finding)| (*figure, finding.count));
    (report.context, report.lateness.clone(), counts.collect())
}

/// The same things in another order.
fn shuffle<T>(things: &mut [T], swaps: &[Index]) {
    if things.is_empty() {
        return;
    }
    for (n, swap) in swaps.iter().enumerate() {
        things.swap(n % things.len(), swap.index(things.len()));
    }
}

/// Everything that happened in two runs, as one.
fn both(mut a: History, b: History) -> History {
    a.submits.extend(b.submits);
    a.calls.extend(b.calls);
    a.faults.extend(b.faults);
    a.decisions.extend(b.decisions);
    a.moves.extend(b.moves);
    a.rows.extend(b.rows);
    a.errors.extend(b.errors);
    a.queues.extend(b.queues);
    a.backing.extend(b.backing);
    a
}

proptest! {
    #[test]
    fn the_order_of_observations_changes_no_count(
        bugs in bugs(),
        swaps in prop::collection::vec(any::<Index>(), 40),
    ) {
        let history = told(0, &bugs);
        let mut other = history.clone();
        shuffle(&mut other.submits, &swaps);
        shuffle(&mut other.calls, &swaps);
        shuffle(&mut other.rows, &swaps);
        shuffle(&mut other.faults, &swaps);
        shuffle(&mut other.decisions, &swaps);
        shuffle(&mut other.queues, &swaps);
        shuffle(&mut other.backing, &swaps);
        prop_assert_eq!(counts(&check(&history)), counts(&check(&other)));
    }

    #[test]
    fn the_reports_of_two_runs_add_up_to_the_report_of_both(a in bugs(), b in bugs()) {
        let (a, b) = (told(0, &a), told(1, &b));
        let mut sum = check(&a);
        sum.merge(&check(&b));
        prop_assert_eq!(sum.runs, 2);
        prop_assert_eq!(counts(&sum), counts(&check(&both(a, b))));
    }

    #[test]
    fn lateness_is_told_at_most_a_class_too_high_and_never_too_low(
        mut seconds in prop::collection::vec(0.0..10_000.0f64, 1..200),
        part in 0.0..=1.0f64,
    ) {
        let mut lateness = Lateness::default();
        seconds.iter().for_each(|seconds| lateness.add(*seconds));
        seconds.sort_by(f64::total_cmp);
        let rank = (part * seconds.len() as f64).ceil().max(1.0) as usize;
        let exact = seconds[rank - 1];
        let told = lateness.quantile(part).expect("there are some");
        prop_assert!(told >= exact, "{} < {}", told, exact);
        prop_assert!(told <= (exact * 1.0906).max(0.001), "{} > {}", told, exact);
    }

    #[test]
    fn a_history_survives_being_written_and_read(bugs in bugs()) {
        let history = told(0, &bugs);
        let text = serde_json::to_string(&history).expect("it can be written");
        let back: History = serde_json::from_str(&text).expect("it can be read");
        prop_assert_eq!(format!("{history:?}"), format!("{back:?}"));
        prop_assert_eq!(check(&history), check(&back));
    }
}

#[test]
fn merging_with_nothing_changes_nothing() {
    let report = check(&told(0, &[]));
    let mut sum = Report::default();
    sum.merge(&report);
    assert_eq!(sum, report);
    sum.merge(&Report::default());
    assert_eq!(sum, report);
}

#[test]
fn counts_add_up_and_samples_stay_few() {
    let red = told(0, &[&BUGS[0]]);
    let mut sum = Report::default();
    for _ in 0..3 * SAMPLES_MAX {
        sum.merge(&check(&red));
    }
    let lost = &sum.findings[&Figure::Lost];
    assert_eq!(lost.count, 3 * SAMPLES_MAX as u64);
    assert_eq!(lost.samples.len(), SAMPLES_MAX);
}

#[test]
fn nothing_at_all_is_green() {
    let report = check(&History::default());
    assert!(report.is_green());
    assert_eq!(report.lateness.quantile(0.5), None);
}

#[test]
fn a_report_survives_being_written_and_read() {
    let report = check(&told(0, &[&BUGS[0]]));
    let text = serde_json::to_string(&report).expect("it can be written");
    assert!(text.contains(r#""lost":{"count":1"#), "{text}");
    let back: Report = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(back, report);
}

#[test]
fn a_figure_is_called_the_same_everywhere() {
    for figure in Figure::ALL {
        let written = serde_json::to_value(figure).expect("it can be written");
        assert_eq!(written, figure.as_str());
    }
}

#[test]
fn a_report_is_told_in_full_and_in_one_row() {
    let report = check(&told(0, &[&BUGS[0]]));
    let text = report.to_string();
    assert!(text.contains("RED lost 1\n    0000"), "{text}");
    assert!(text.contains("neither an effect nor a row"), "{text}");
    let (head, row) = (Report::table_head(), report.table_row("kills"));
    for line in head.lines() {
        assert_eq!(
            line.matches('|').count(),
            row.matches('|').count(),
            "{head}\n{row}"
        );
    }
    assert!(row.ends_with("| **red**: lost 1 |"), "{row}");
    assert!(
        check(&told(0, &[]))
            .table_row("kills")
            .ends_with("| green |")
    );
}

#[test]
fn three_over_n_bounds_what_was_never_seen() {
    assert_eq!(bound_95(0), 1.0);
    assert_eq!(bound_95(3), 1.0);
    assert_eq!(bound_95(1000), 0.003);
}

#[test]
fn the_default_shadow_covers_the_pipe_and_its_rescuer() {
    assert!(Limits::default().shadow_seconds >= 60.0 + 16.0);
}
