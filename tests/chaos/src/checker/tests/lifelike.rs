//! A history as large as those of long runs.

use std::time::Instant;

use super::story::Story;
use crate::checker::check;
use crate::history::History;

/// The honest story many times over, its runs mixed as they would be if they ran at once.
fn large(runs: u32) -> History {
    let mut history = History::default();
    for run in 0..runs {
        let story = Story::honest(run).history;
        history.submits.extend(story.submits);
        history.calls.extend(story.calls);
        history.faults.extend(story.faults);
        history.decisions.extend(story.decisions);
        history.moves.extend(story.moves);
        history.rows.extend(story.rows);
        history.errors.extend(story.errors);
        history.backing.extend(story.backing);
    }
    let place = |id: uuid::Uuid| id.as_u64_pair().1;
    history.submits.sort_by_key(|submit| place(submit.id));
    history.moves.sort_by_key(|step| place(step.id));
    history.rows.sort_by_key(|row| place(row.id));
    history
}

#[test]
fn many_runs_at_once_are_as_green_as_one() {
    let report = check(&large(100));
    assert!(report.is_green(), "{report}");
    assert_eq!(report.context.explained_duplicates, 100);
}

/// `cargo test --release -p postroad-chaos -- --ignored --nocapture two_hundred_thousand`
#[test]
#[ignore = "a measurement and not a test: it needs a release build to mean anything"]
fn two_hundred_thousand_jobs() {
    let history = large(9000);
    let began = Instant::now();
    let report = check(&history);
    let took = began.elapsed();
    let (jobs, moves) = (report.context.attempts, report.context.moves);
    println!("{jobs} submits, {moves} moves: {took:?}");
    assert!(report.is_green(), "{report}");
}
