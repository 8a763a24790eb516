//! "No fault, no excuse": what explains a repeat, and what does not.

use super::story::{Cast, PLAIN_CALL, Story};
use crate::checker::{Figure, check};
use crate::history::Lost;

/// When `Plain` takes effect again in these tests.
const AGAIN: f64 = 100.0;

/// Checks the story in which `Plain` took effect twice and this was seen besides: how many repeats
/// are explained, and how many are not.
fn repeats(besides: impl FnOnce(&mut Story)) -> (u64, u64) {
    let mut story = Story::honest(0);
    // The kill of the story explains the repeat of another job; here it must explain nothing.
    story.history.faults.clear();
    story.without_a_trace(Cast::Repeated);
    story.runs(Cast::Repeated, 20.25);
    story.history.backing.clear();
    story.call(Cast::Plain, AGAIN, true, true);
    besides(&mut story);
    let report = check(&story.history);
    let explained = report.context.explained_duplicates;
    let unexplained = report.count(Figure::UnexplainedDuplicates);
    assert_eq!(report.is_green(), unexplained == 0, "{report}");
    (explained, unexplained)
}

const EXPLAINED: (u64, u64) = (1, 0);
const UNEXPLAINED: (u64, u64) = (0, 1);

#[test]
fn a_repeat_without_a_fault_is_unexplained() {
    assert_eq!(repeats(|_| {}), UNEXPLAINED);
}

#[test]
fn a_fault_explains_only_what_it_overlaps() {
    let cases = [
        ("long before", 0.0, 1.0, UNEXPLAINED),
        ("just before", 5.0, PLAIN_CALL - 1.001, UNEXPLAINED),
        ("just reaching", 5.0, PLAIN_CALL - 1.0, EXPLAINED),
        ("in between", 50.0, 50.0, EXPLAINED),
        ("all the time", 0.0, 500.0, EXPLAINED),
        ("from the next call on", AGAIN, AGAIN, EXPLAINED),
        ("just after", AGAIN + 0.001, 500.0, UNEXPLAINED),
    ];
    for (when, from, until, expected) in cases {
        let seen = repeats(|story| story.fault(from, until, "pause worker", true));
        assert_eq!(seen, expected, "{when}");
        let seen = repeats(|story| story.fault(from, until, "cut RabbitMQ off", false));
        assert_eq!(seen, UNEXPLAINED, "{when}, of what is only a reminder");
    }
}

#[test]
fn a_long_fault_is_not_forgotten_behind_shorter_ones() {
    let seen = repeats(|story| {
        story.fault(0.0, 500.0, "cut Postgres off", true);
        story.fault(1.0, 2.0, "pause worker", true);
        story.fault(3.0, 4.0, "pause worker", true);
    });
    assert_eq!(seen, EXPLAINED);
}

#[test]
fn a_fault_explains_one_repeat_and_not_the_next() {
    let seen = repeats(|story| {
        story.fault(50.0, 50.0, "kill -9 worker", true);
        story.call(Cast::Plain, AGAIN + 50.0, true, true);
    });
    assert_eq!(seen, (1, 1));
}

#[test]
fn what_happened_after_it_was_called_again_is_no_excuse() {
    let seen = repeats(|story| {
        story.call(Cast::Plain, 40.0, false, false);
        story.fault(50.0, 50.0, "kill -9 worker", true);
        story.decide(Cast::Plain, 60.0, true);
    });
    assert_eq!(seen, UNEXPLAINED);
}

#[test]
fn an_answer_that_was_cut_short_explains_the_repeat() {
    let seen = repeats(|story| story.calls_mut(Cast::Plain)[0].answered = false);
    assert_eq!(seen, EXPLAINED);
    let seen = repeats(|story| story.calls_mut(Cast::Plain)[1].answered = false);
    assert_eq!(seen, UNEXPLAINED, "the second answer");
}

#[test]
fn a_decision_explains_the_repeat_that_follows_it() {
    for (t, retry, expected) in [
        (50.0, true, EXPLAINED),
        (50.0, false, UNEXPLAINED),
        (PLAIN_CALL - 1.0, true, UNEXPLAINED),
        (AGAIN + 1.0, true, UNEXPLAINED),
    ] {
        let seen = repeats(|story| story.decide(Cast::Plain, t, retry));
        assert_eq!(seen, expected, "{t} {retry}");
    }
}

#[test]
fn postroads_own_errors_explain_nothing() {
    let seen = repeats(|story| {
        let mut own = story.history.errors[0].clone();
        own.id = story.id(Cast::Plain);
        own.t = story.at(50.0);
        own.code = "worker_lost".to_owned();
        story.history.errors.push(own);
    });
    assert_eq!(seen, UNEXPLAINED);
}

#[test]
fn a_definite_failure_may_be_called_again_also_for_hold_kinds() {
    let mut story = Story::honest(0);
    story.submit_mut(Cast::Retried).on_lost = Lost::Hold;
    assert!(check(&story.history).is_green());
    story.calls_mut(Cast::Retried)[0].answered = false;
    assert_eq!(check(&story.history).red(), [("hold_repeats", 1)]);
}

/// A pause between the gate and the call makes the call late, and not the decision.
#[test]
fn a_call_after_expiry_is_excused_by_a_pause_at_that_time_only() {
    for (from, until, late, delayed) in [(34.0, 60.0, 0, 1), (61.0, 62.0, 1, 0), (1.0, 2.0, 1, 0)] {
        let mut story = Story::honest(0);
        story.without_a_trace(Cast::Refused);
        story.runs(Cast::Refused, 60.25);
        story.fault(from, until, "pause worker", true);
        let report = check(&story.history);
        assert_eq!(report.count(Figure::LateStarts), late, "{from} to {until}");
        assert_eq!(report.context.delayed_starts, delayed, "{from} to {until}");
    }
}
