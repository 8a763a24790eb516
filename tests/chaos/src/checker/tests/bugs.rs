//! The honest story with one bug each. The checker must name that bug's figures and no other: a
//! checker that was never red has not checked anything.

use postroad_common::job::JobState::*;
use uuid::Uuid;

use super::story::{Cast, PLAIN_CALL, PLAIN_DUE, RABBIT_CUT, RAN, RESUMED, Story};
use crate::checker::{Figure, Limits, check, check_with};
use crate::history::Answer;

/// A bug that Postroad could have.
pub(super) struct Bug {
    name: &'static str,
    /// What must turn red, and how often it is seen.
    red: &'static [(Figure, u64)],
    /// The job that samples must name; none where no job is at fault.
    culprit: Option<Cast>,
    /// What observers see of it.
    pub(super) plant: fn(&mut Story),
}

impl Bug {
    /// How the checker got it wrong, if it did.
    fn misjudged(&self) -> Option<String> {
        let mut story = Story::honest(0);
        (self.plant)(&mut story);
        let report = check(&story.history);
        let expected = self
            .red
            .iter()
            .map(|(figure, count)| (figure.as_str(), *count));
        if report.red() != expected.collect::<Vec<_>>() {
            return Some(format!("{}: expected {:?}\n{report}", self.name, self.red));
        }
        let id = self.culprit.map(|culprit| story.id(culprit).to_string())?;
        let mut samples = report
            .findings
            .values()
            .flat_map(|finding| &finding.samples);
        let silent = samples.find(|sample| !sample.contains(&id))?;
        Some(format!("{}: {silent:?} does not name {id}", self.name))
    }
}

impl std::fmt::Debug for Bug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[test]
fn the_honest_story_is_green() {
    let report = check(&Story::honest(0).history);
    assert!(report.is_green(), "{report}");
    let context = report.context;
    assert_eq!((context.attempts, context.acknowledged), (25, 21));
    assert_eq!((context.indeterminate, context.refused), (3, 1));
    assert_eq!((context.recovered, context.held), (1, 1));
    assert_eq!((context.ticks, context.lost_records), (2, 0));
    assert_eq!(context.explained_duplicates, 1);
    assert_eq!(report.lateness.count(), 13);
}

#[test]
fn every_bug_turns_its_figures_red_and_no_other() {
    let missed: Vec<_> = BUGS.iter().filter_map(Bug::misjudged).collect();
    let (missed_count, all) = (missed.len(), BUGS.len());
    assert!(
        missed.is_empty(),
        "{missed_count} of {all} misjudged:\n{}",
        missed.join("\n")
    );
}

#[test]
fn every_figure_has_a_bug() {
    for figure in Figure::ALL {
        let alone = |bug: &&Bug| matches!(bug.red, [(only, _)] if *only == figure);
        let any = |bug: &&Bug| bug.red.iter().any(|(red, _)| *red == figure);
        // A second job for a tick is also a second job for its key.
        let bug = BUGS.iter().find(alone).or(BUGS.iter().find(any));
        assert!(bug.is_some(), "{figure}");
    }
}

#[test]
fn limits_are_what_they_say() {
    let mut story = Story::honest(0);
    story.look(RABBIT_CUT.1 + 80.0, 2, 1);
    story.submit_mut(Cast::Plain).expires = Some(story.at(PLAIN_CALL - 0.5));
    assert!(check(&story.history).is_green());
    let strict = Limits {
        shadow_seconds: 79.0,
        start_slack_seconds: 0.25,
        ..Limits::default()
    };
    let red = check_with(&story.history, &strict).red();
    assert_eq!(red, [("late_starts", 1), ("unbacked", 1)]);
}

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "ack before commit: a client is told of a job that never came to be",
        red: &[(Figure::Lost, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.without_a_trace(Cast::Plain),
    },
    Bug {
        name: "ack before commit: a worker settles, and dies before the outcome is written",
        red: &[(Figure::Unfinished, 1), (Figure::Unbacked, 1)],
        culprit: None,
        plant: |story| {
            story.without_a_trace(Cast::Plain);
            story.call(Cast::Plain, PLAIN_CALL, true, true);
            story.moves(Cast::Plain, 1.0, &[Scheduled, Dispatched, Running]);
            story.look(200.0, 1, 0);
        },
    },
    Bug {
        name: "no confirm wait: a message that the broker never took leaves its job in the pipe",
        red: &[(Figure::Unfinished, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            story.without_a_trace(Cast::Plain);
            story.moves(Cast::Plain, 1.0, &[Scheduled, Dispatched]);
        },
    },
    Bug {
        name: "stale ack: a tag of an old channel settles another job's message",
        red: &[(Figure::Unbacked, 2)],
        culprit: None,
        plant: |story| {
            story.look(200.0, 5, 4);
            story.look(RABBIT_CUT.1 + 80.25, 5, 4);
        },
    },
    Bug {
        name: "gate off: both copies of a message run",
        red: &[(Figure::UnexplainedDuplicates, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.call(Cast::Plain, PLAIN_CALL + 0.25, true, true),
    },
    Bug {
        name: "gate off: a message that RabbitMQ redelivers after a cut runs again",
        red: &[(Figure::UnexplainedDuplicates, 2)],
        culprit: Some(Cast::UnknownRan),
        plant: |story| {
            story.call(Cast::UnknownRan, RABBIT_CUT.1, true, true);
            story.call(Cast::UnknownRan, RABBIT_CUT.1 + 1.0, true, true);
        },
    },
    Bug {
        name: "called again after a whole answer; that the second call failed is no excuse",
        red: &[(Figure::UnexplainedDuplicates, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            story.call(Cast::Plain, PLAIN_CALL + 0.25, false, false);
            story.call(Cast::Plain, 70.0, true, true);
        },
    },
    Bug {
        name: "early by a second",
        red: &[(Figure::Early, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            let t = story.at(PLAIN_DUE - 1.0);
            story.calls_mut(Cast::Plain)[0].t = t;
        },
    },
    Bug {
        name: "early by a hair, and in vain",
        red: &[(Figure::Early, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.call(Cast::Plain, PLAIN_DUE - 0.001, false, true),
    },
    Bug {
        name: "double tick: two clients' jobs for one occasion",
        red: &[(Figure::ExtraTicks, 1), (Figure::DedupBreaks, 1)],
        culprit: Some(Cast::TickOneAgain),
        plant: |story| {
            let own = Answer::Accepted(story.id(Cast::TickOneAgain));
            story.submit_mut(Cast::TickOneAgain).answer = own;
            story.runs(Cast::TickOneAgain, 51.5);
        },
    },
    Bug {
        name: "double tick: under two keys",
        red: &[(Figure::ExtraTicks, 1)],
        culprit: Some(Cast::TickOneAgain),
        plant: |story| {
            let own = Answer::Accepted(story.id(Cast::TickOneAgain));
            let submit = story.submit_mut(Cast::TickOneAgain);
            submit.answer = own;
            submit.dedup_key = Some("nightly 1, other zone".to_owned());
            story.runs(Cast::TickOneAgain, 51.5);
        },
    },
    Bug {
        name: "missed tick: the key forgets the number, so one job stands for two occasions",
        red: &[(Figure::MissedTicks, 1)],
        culprit: Some(Cast::TickOne),
        plant: |story| {
            let (first, key) = (story.id(Cast::TickOne), Some("nightly 1".to_owned()));
            story.without_a_trace(Cast::TickTwo);
            let submit = story.submit_mut(Cast::TickTwo);
            submit.answer = Answer::Accepted(first);
            submit.dedup_key = key;
        },
    },
    Bug {
        name: "missed tick: lost like any job",
        red: &[(Figure::Lost, 1), (Figure::MissedTicks, 1)],
        culprit: Some(Cast::TickTwo),
        plant: |story| story.without_a_trace(Cast::TickTwo),
    },
    Bug {
        name: "tenant filter dropped: sent to a neighbour's address",
        red: &[(Figure::CrossTenant, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            let neighbour = story.tenant("beta");
            story.calls_mut(Cast::Plain)[0].tenant = Some(neighbour);
        },
    },
    Bug {
        name: "tenant filter dropped: sent with a neighbour's body",
        red: &[(Figure::CrossTenant, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            let body = story.calls_mut(Cast::Neighbour)[0].body_sha256.clone();
            story.calls_mut(Cast::Plain)[0].body_sha256 = body;
        },
    },
    Bug {
        name: "tenant filter dropped: the row becomes a neighbour's",
        red: &[(Figure::CrossTenant, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.row_mut(Cast::Plain).tenant = story.tenant("beta"),
    },
    Bug {
        name: "dedup off: one key, two jobs",
        red: &[(Figure::DedupBreaks, 1)],
        culprit: Some(Cast::KeyedAgain),
        plant: |story| {
            let own = Answer::Accepted(story.id(Cast::KeyedAgain));
            story.submit_mut(Cast::KeyedAgain).answer = own;
            story.runs(Cast::KeyedAgain, 40.5);
        },
    },
    Bug {
        name: "dedup off: one key, a second job that nobody was told of",
        red: &[(Figure::DedupBreaks, 1)],
        culprit: Some(Cast::KeyedAgain),
        plant: |story| {
            story.submit_mut(Cast::KeyedAgain).answer = Answer::Unknown;
            story.runs(Cast::KeyedAgain, 40.5);
        },
    },
    Bug {
        name: "dedup across tenants: answered with a neighbour's job",
        red: &[(Figure::DedupBreaks, 1)],
        culprit: Some(Cast::KeyedAgain),
        plant: |story| story.submit_mut(Cast::KeyedAgain).tenant = story.tenant("beta"),
    },
    Bug {
        name: "stale outcome accepted: the success of an older claim is written over the newer's",
        red: &[(Figure::DoubleSuccess, 1)],
        culprit: Some(Cast::Repeated),
        plant: |story| story.step(Cast::Repeated, 70.0, Some(Completed), Completed),
    },
    Bug {
        name: "stale outcome accepted: archived twice",
        red: &[
            (Figure::DoubleSuccess, 1),
            (Figure::IllegalMoves, 1),
            (Figure::Contradictions, 1),
        ],
        culprit: Some(Cast::Repeated),
        plant: |story| {
            let row = story.row_mut(Cast::Repeated).clone();
            story.step(Cast::Repeated, 70.0, Some(Running), Completed);
            story.history.rows.push(row);
        },
    },
    Bug {
        name: "fence not raised at the second claim",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Retried),
        plant: |story| story.counters_off(Cast::Retried, 5, -1, 0),
    },
    Bug {
        name: "fence raised by more than the claim",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Retried),
        plant: |story| story.counters_off(Cast::Retried, 3, 1, 0),
    },
    Bug {
        name: "hold kind repeated without a decision",
        red: &[(Figure::HoldRepeats, 1)],
        culprit: Some(Cast::Held),
        plant: |story| story.history.decisions.retain(|decision| !decision.retry),
    },
    Bug {
        name: "hold kind repeated twice after one decision",
        red: &[(Figure::HoldRepeats, 1)],
        culprit: Some(Cast::Held),
        plant: |story| story.call(Cast::Held, 62.0, false, true),
    },
    Bug {
        name: "hold kind repeated after a kill, which excuses the duplicate and not the repeat",
        red: &[(Figure::HoldRepeats, 1)],
        culprit: Some(Cast::Waiting),
        plant: |story| {
            story.calls_mut(Cast::Waiting)[0].effect = true;
            story.call(Cast::Waiting, 58.0, true, true);
        },
    },
    Bug {
        name: "completed without a call",
        red: &[(Figure::Silent, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.without_calls(Cast::Plain),
    },
    Bug {
        name: "completed although the provider refused",
        red: &[(Figure::Silent, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.calls_mut(Cast::Plain)[0].effect = false,
    },
    Bug {
        name: "row dropped after the effect",
        red: &[(Figure::Lost, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.without_row(Cast::Plain),
    },
    Bug {
        name: "row deleted before its time",
        red: &[(Figure::Lost, 1), (Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            story.step(Cast::Plain, 30.0, Some(Completed), Completed);
            let mut moves = story.moves_mut(Cast::Plain);
            moves.last_mut().expect("it has moved").to = None;
            story.without_row(Cast::Plain);
        },
    },
    Bug {
        name: "row of a job that nobody was told of dropped",
        red: &[(Figure::Contradictions, 1)],
        culprit: Some(Cast::UnknownRan),
        plant: |story| story.without_row(Cast::UnknownRan),
    },
    Bug {
        name: "resurrected: a dead job runs once more",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Dead),
        plant: |story| {
            story.call(Cast::Dead, 70.0, true, true);
            story.step(Cast::Dead, 68.0, Some(Dead), Scheduled);
            story.step(Cast::Dead, 69.0, Some(Scheduled), Dispatched);
            story.step(Cast::Dead, 70.0, Some(Dispatched), Running);
            story.step(Cast::Dead, 71.0, Some(Running), Completed);
        },
    },
    Bug {
        name: "cancelled with its campaign, and back although nobody has resumed it",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| story.submit_mut(Cast::CameBack).resumed.clear(),
    },
    Bug {
        name: "cancelled with its campaign, and back before it was resumed",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| {
            story.submit_mut(Cast::CameBack).resumed.clear();
            story.resume(Cast::CameBack, RESUMED + 1.5);
        },
    },
    Bug {
        name: "cancelled with its campaign, and back for a resume of before",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| {
            story.submit_mut(Cast::CameBack).resumed.clear();
            story.resume(Cast::CameBack, 3.5);
            story.resume(Cast::CameBack, RESUMED + 1.5);
        },
    },
    Bug {
        name: "cancelled with its campaign, and back twice",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| {
            story.without_a_trace(Cast::CameBack);
            story.moves(Cast::CameBack, 3.0, &[Scheduled, Dispatched, Cancelled]);
            story.moves(
                Cast::CameBack,
                RESUMED + 1.0,
                &[Scheduled, Dispatched, Cancelled],
            );
            story.moves(Cast::CameBack, RESUMED + 5.0, &RAN);
            story.call(Cast::CameBack, RESUMED + 7.5, true, true);
        },
    },
    Bug {
        name: "cancelled with its campaign, and not back although it was resumed",
        red: &[(Figure::Unfinished, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| {
            story.without_a_trace(Cast::CameBack);
            story.moves(Cast::CameBack, 3.0, &[Scheduled, Dispatched, Cancelled]);
        },
    },
    Bug {
        name: "cancelled with its campaign, and back under an older fence",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::CameBack),
        plant: |story| story.counters_off(Cast::CameBack, 3, -1, 0),
    },
    Bug {
        name: "attempt not charged",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| story.counters_off(Cast::Plain, 2, 0, -1),
    },
    Bug {
        name: "attempt not given back by a snooze",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Snoozed),
        plant: |story| story.counters_off(Cast::Snoozed, 3, 0, 1),
    },
    Bug {
        name: "started without a claim",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Echo),
        plant: |story| {
            story.without_a_trace(Cast::Echo);
            // The attempt is charged in vain: no event makes this move, so none may charge it.
            story.moves(Cast::Echo, 1.0, &[Scheduled, Running, Completed]);
        },
    },
    Bug {
        name: "born running",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Echo),
        plant: |story| {
            story.without_a_trace(Cast::Echo);
            story.moves(Cast::Echo, 1.0, &RAN[2..]);
        },
    },
    Bug {
        name: "a move that left no trace in the log",
        red: &[(Figure::IllegalMoves, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            let id = story.id(Cast::Plain);
            let moves = &mut story.history.moves;
            moves.retain(|step| (step.id, step.to) != (id, Some(Running)));
        },
    },
    Bug {
        name: "a row that its log knows nothing of",
        red: &[(Figure::Contradictions, 1)],
        culprit: Some(Cast::Echo),
        plant: |story| {
            let id = story.id(Cast::Echo);
            story.history.moves.retain(|step| step.id != id);
        },
    },
    Bug {
        name: "run after it had expired",
        red: &[(Figure::LateStarts, 1)],
        culprit: Some(Cast::Refused),
        plant: |story| {
            story.without_a_trace(Cast::Refused);
            story.runs(Cast::Refused, 36.0);
        },
    },
    Bug {
        name: "message left over",
        red: &[(Figure::MessagesLeft, 3)],
        culprit: None,
        plant: |story| {
            story.history.queues[0].ready = 1;
            story.history.queues[0].unacked = 2;
        },
    },
    Bug {
        name: "dead letter forgotten",
        red: &[(Figure::Unfinished, 1)],
        culprit: Some(Cast::Dead),
        plant: |story| {
            story.without_a_trace(Cast::Dead);
            story.call(Cast::Dead, 30.25, false, true);
            story.moves(Cast::Dead, 3.0, &[Scheduled, Dispatched, Running, Failed]);
        },
    },
    Bug {
        name: "due job forgotten",
        red: &[(Figure::Pending, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            story.without_a_trace(Cast::Plain);
            story.moves(Cast::Plain, 1.0, &[Scheduled]);
        },
    },
    Bug {
        name: "call for a job that nobody handed in",
        red: &[(Figure::Unexpected, 1)],
        culprit: None,
        plant: |story| {
            story.call(Cast::Plain, 11.0, true, true);
            let call = story.history.calls.last_mut().expect("just pushed");
            call.id = Some(Uuid::from_u128(7));
        },
    },
    Bug {
        name: "call whose key is no id",
        red: &[(Figure::Unexpected, 1)],
        culprit: None,
        plant: |story| {
            story.call(Cast::Plain, 11.0, true, true);
            let call = story.history.calls.last_mut().expect("just pushed");
            call.id = None;
        },
    },
    Bug {
        name: "call with a body of the same tenant's other job",
        red: &[(Figure::Unexpected, 1)],
        culprit: Some(Cast::Plain),
        plant: |story| {
            let body = story.calls_mut(Cast::Retried)[0].body_sha256.clone();
            story.calls_mut(Cast::Plain)[0].body_sha256 = body;
        },
    },
    Bug {
        name: "refused job ran",
        red: &[(Figure::Unexpected, 1)],
        culprit: Some(Cast::TurnedAway),
        plant: |story| story.call(Cast::TurnedAway, 43.5, true, true),
    },
    Bug {
        name: "refused job was kept",
        red: &[(Figure::Unexpected, 2)],
        culprit: Some(Cast::TurnedAway),
        plant: |story| story.runs(Cast::TurnedAway, 43.5),
    },
];
