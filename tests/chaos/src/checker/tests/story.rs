//! A run as it is when Postroad keeps all its promises: a little of everything that a history may
//! hold, and the tools to change it.

use postroad_common::job::JobState::{self, *};
use uuid::Uuid;

use crate::history::{
    Answer, AttemptError, Backing, Call, Decision, Fault, History, Lost, Move, QueueDepth, Resume,
    Row, Submit, Tick,
};

/// The jobs of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    /// A webhook, sent once.
    Plain,
    /// A webhook of another tenant.
    Neighbour,
    /// Its provider first says 503.
    Retried,
    /// Its worker was killed right after the effect: repeated, for a reason.
    Repeated,
    /// A text message, in doubt, held, and told to run again.
    Held,
    /// A text message, in doubt, held, and told that it had worked.
    Resolved,
    /// A text message, in doubt, and held to the end.
    Waiting,
    /// Expired before it was claimed.
    Expired,
    /// Expired in the pipe: the gate refused its start.
    Refused,
    /// Has a dedup key.
    Keyed,
    /// Has the same key, and was answered with the first.
    KeyedAgain,
    /// Its client heard nothing; it ran.
    UnknownRan,
    /// Its client heard nothing; it never came to be.
    UnknownGone,
    /// Its client heard nothing, asked again under the same id, and was told.
    AskedAgain,
    /// Its client was told no.
    TurnedAway,
    /// The first tick.
    TickOne,
    /// The first tick, from a second client, answered with the first's job.
    TickOneAgain,
    /// The second tick.
    TickTwo,
    /// Asked for another time.
    Snoozed,
    /// All its attempts failed.
    Dead,
    /// Cancelled in the pipe with its campaign, which was then resumed.
    CameBack,
    /// Its worker was called lost, and then said that it had worked.
    LateEvidence,
    /// Of a kind without a provider.
    Echo,
    /// Due in many years.
    Future,
}

impl Cast {
    /// Its id in a run.
    pub(super) fn id(self, run: u32) -> Uuid {
        Uuid::from_u128(u128::from(run + 1) << 64 | (self as u128 + 1))
    }
}

/// A history that is being told.
pub(super) struct Story {
    pub(super) history: History,
    run: u32,
}

/// When the first run begins. Times of a story are seconds since its run began.
const EPOCH: f64 = 1_800_000_000.0;

/// When faults of the story happen: a kill, and RabbitMQ out of reach.
pub(super) const KILL: f64 = 20.5;
pub(super) const RABBIT_CUT: (f64, f64) = (300.0, 310.0);

/// When the campaign of `CameBack` is resumed.
pub(super) const RESUMED: f64 = 40.0;

/// When `Plain` is due, and when it is called.
pub(super) const PLAIN_DUE: f64 = 10.0;
pub(super) const PLAIN_CALL: f64 = 10.25;

impl Story {
    /// What happens when nothing goes wrong that should not.
    pub(super) fn honest(run: u32) -> Self {
        let mut story = Self {
            history: History::default(),
            run,
        };
        story.tell_of_plain_jobs();
        story.tell_of_losses();
        story.tell_of_ends();
        story.tell_of_answers();
        story.tell_of_ticks();
        story.tell_of_servers();
        story
    }

    fn tell_of_plain_jobs(&mut self) {
        self.accept(Cast::Plain, PLAIN_DUE);
        self.call(Cast::Plain, PLAIN_CALL, true, true);
        self.moves(Cast::Plain, 1.0, &RAN);

        self.accept(Cast::Neighbour, 10.0);
        self.submit_mut(Cast::Neighbour).tenant = self.tenant("beta");
        self.call(Cast::Neighbour, 10.5, true, true);
        self.moves(Cast::Neighbour, 1.0, &RAN);

        self.accept(Cast::Retried, 11.0);
        self.call(Cast::Retried, 11.25, false, true);
        self.call(Cast::Retried, 16.5, true, true);
        let path = [
            Scheduled, Dispatched, Running, Failed, Scheduled, Dispatched, Running, Completed,
        ];
        self.moves(Cast::Retried, 1.0, &path);

        self.accept(Cast::Snoozed, 12.0);
        self.call(Cast::Snoozed, 15.0, true, true);
        let path = [
            Scheduled, Dispatched, Running, Scheduled, Dispatched, Running, Completed,
        ];
        self.moves(Cast::Snoozed, 1.0, &path);

        self.accept(Cast::Echo, 12.0);
        self.submit_mut(Cast::Echo).body_sha256 = None;
        self.moves(Cast::Echo, 1.0, &RAN);

        self.accept(Cast::Future, 1e9);
        self.moves(Cast::Future, 1.0, &[Scheduled]);
    }

    fn tell_of_losses(&mut self) {
        let rescued = [
            Scheduled, Dispatched, Running, Failed, Scheduled, Dispatched, Running, Completed,
        ];
        self.fault(KILL, KILL, "kill -9 worker", true);
        self.accept(Cast::Repeated, 20.0);
        self.call(Cast::Repeated, 20.25, true, true);
        self.call(Cast::Repeated, 58.0, true, true);
        self.moves(Cast::Repeated, 2.0, &rescued);

        self.accept(Cast::LateEvidence, 20.0);
        self.call(Cast::LateEvidence, 20.25, true, true);
        let path = [Scheduled, Dispatched, Running, Failed, Completed];
        self.moves(Cast::LateEvidence, 2.0, &path);

        for text in [Cast::Held, Cast::Resolved, Cast::Waiting] {
            self.accept(text, 20.0);
            self.submit_mut(text).on_lost = Lost::Hold;
            self.submit_mut(text).kind = "sms".to_owned();
            self.call(text, 20.25, false, false);
        }
        let held = [Scheduled, Dispatched, Running, Held];
        let decided = |path: &[JobState]| [&held[..], path].concat();
        self.decide(Cast::Held, 60.0, true);
        self.call(Cast::Held, 61.0, true, true);
        let path = decided(&[Scheduled, Dispatched, Running, Completed]);
        self.moves(Cast::Held, 2.0, &path);
        self.decide(Cast::Resolved, 60.0, false);
        self.moves(Cast::Resolved, 2.0, &decided(&[Completed]));
        self.moves(Cast::Waiting, 2.0, &held);
    }

    fn tell_of_ends(&mut self) {
        self.accept(Cast::Expired, 30.0);
        self.submit_mut(Cast::Expired).expires = Some(self.at(35.0));
        self.moves(Cast::Expired, 3.0, &[Scheduled, Expired]);

        self.accept(Cast::Refused, 30.0);
        self.submit_mut(Cast::Refused).expires = Some(self.at(35.0));
        self.moves(Cast::Refused, 3.0, &[Scheduled, Dispatched, Expired]);

        self.accept(Cast::Dead, 30.0);
        self.call(Cast::Dead, 30.25, false, true);
        self.call(Cast::Dead, 36.0, false, true);
        let path = [
            Scheduled, Dispatched, Running, Failed, Scheduled, Dispatched, Running, Failed, Dead,
        ];
        self.moves(Cast::Dead, 3.0, &path);

        self.accept(Cast::CameBack, 30.0);
        self.resume(Cast::CameBack, RESUMED);
        self.call(Cast::CameBack, RESUMED + 3.5, true, true);
        self.moves(Cast::CameBack, 3.0, &[Scheduled, Dispatched, Cancelled]);
        self.moves(Cast::CameBack, RESUMED + 1.0, &RAN);
    }

    fn tell_of_answers(&mut self) {
        for keyed in [Cast::Keyed, Cast::KeyedAgain] {
            self.accept(keyed, 40.0);
            self.submit_mut(keyed).dedup_key = Some("invoice 7".to_owned());
        }
        self.submit_mut(Cast::KeyedAgain).answer = Answer::Accepted(self.id(Cast::Keyed));
        self.runs(Cast::Keyed, 40.25);

        self.accept(Cast::UnknownRan, 41.0);
        self.submit_mut(Cast::UnknownRan).answer = Answer::Unknown;
        self.runs(Cast::UnknownRan, 41.25);

        self.accept(Cast::UnknownGone, 41.0);
        self.submit_mut(Cast::UnknownGone).answer = Answer::Unknown;

        self.accept(Cast::AskedAgain, 42.0);
        let mut first = self.submit_mut(Cast::AskedAgain).clone();
        first.t -= 10.0;
        first.answer = Answer::Unknown;
        self.history.submits.push(first);
        self.runs(Cast::AskedAgain, 42.25);

        self.accept(Cast::TurnedAway, 43.0);
        self.submit_mut(Cast::TurnedAway).answer = Answer::Refused;
    }

    fn tell_of_ticks(&mut self) {
        let ticks = [
            (Cast::TickOne, 1),
            (Cast::TickOneAgain, 1),
            (Cast::TickTwo, 2),
        ];
        for (tick, number) in ticks {
            let schedule = self.tenant("nightly");
            self.accept(tick, 50.0 + number as f64);
            let submit = self.submit_mut(tick);
            submit.dedup_key = Some(format!("nightly {number}"));
            submit.tick = Some(Tick { schedule, number });
        }
        self.submit_mut(Cast::TickOneAgain).answer = Answer::Accepted(self.id(Cast::TickOne));
        self.runs(Cast::TickOne, 51.25);
        self.runs(Cast::TickTwo, 52.25);
    }

    fn tell_of_servers(&mut self) {
        self.fault(RABBIT_CUT.0, RABBIT_CUT.1, "cut RabbitMQ off", false);
        self.look(10.0, 4, 5);
        self.look(320.0, 3, 1);
        self.look(600.0, 0, 0);
        for (queue, ready, may_hold) in [("jobs.default", 0, false), ("parked", 2, true)] {
            self.history.queues.push(QueueDepth {
                queue: queue.to_owned(),
                ready,
                unacked: 0,
                may_hold,
            });
        }
        self.history.errors.push(AttemptError {
            t: self.at(11.5),
            id: self.id(Cast::Retried),
            attempt: 1,
            code: "http_503".to_owned(),
        });
    }

    /// Its id in this run.
    pub(super) fn id(&self, job: Cast) -> Uuid {
        job.id(self.run)
    }

    /// A moment of this run.
    pub(super) fn at(&self, t: f64) -> f64 {
        EPOCH + f64::from(self.run) * 100_000.0 + t
    }

    /// The name of a tenant, or of what a tenant owns, in this run.
    pub(super) fn tenant(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    /// A client hands in a webhook, and is told that it is accepted.
    pub(super) fn accept(&mut self, job: Cast, due: f64) {
        let id = self.id(job);
        self.history.submits.push(Submit {
            t: self.at(0.5),
            id,
            tenant: self.tenant("alpha"),
            kind: "webhook".to_owned(),
            on_lost: Lost::Retry,
            due: self.at(due),
            expires: None,
            dedup_key: None,
            tick: None,
            body_sha256: Some(format!("body of {id}")),
            over_http: false,
            resumed: Vec::new(),
            answer: Answer::Accepted(id),
        });
    }

    /// It is called once, it works, and all is written down.
    pub(super) fn runs(&mut self, job: Cast, t: f64) {
        self.call(job, t, true, true);
        self.moves(job, 1.0, &RAN);
    }

    /// The provider is called.
    pub(super) fn call(&mut self, job: Cast, t: f64, effect: bool, answered: bool) {
        let submit = self.submit_mut(job).clone();
        self.history.calls.push(Call {
            t: self.at(t),
            id: Some(submit.id),
            tenant: Some(submit.tenant),
            body_sha256: submit.body_sha256.unwrap_or_default(),
            effect,
            answered,
        });
    }

    /// A job goes this way from its birth, and its row says so in the end.
    pub(super) fn moves(&mut self, job: Cast, born: f64, path: &[JobState]) {
        let mut from = None;
        for (step, to) in path.iter().enumerate() {
            self.step(job, born + step as f64, from, *to);
            from = Some(*to);
        }
    }

    /// One more move, counters and row as they should be.
    pub(super) fn step(&mut self, job: Cast, t: f64, from: Option<JobState>, to: JobState) {
        let submit = self.submit_mut(job).clone();
        let (dispatch_before, attempt_before) = match self.row(job) {
            Some(row) => (row.dispatch, row.attempt),
            None => (0, 0),
        };
        let row = Row {
            id: submit.id,
            tenant: submit.tenant,
            kind: submit.kind,
            state: to,
            dispatch: dispatch_before + i64::from(to == Dispatched),
            attempt: attempt_before + i32::from(to == Running)
                - i32::from((from, to) == (Some(Running), Scheduled)),
        };
        self.history.moves.push(Move {
            t: self.at(t),
            id: row.id,
            from,
            to: Some(to),
            dispatch_before,
            dispatch: row.dispatch,
            attempt_before,
            attempt: row.attempt,
        });
        self.history.rows.retain(|other| other.id != row.id);
        self.history.rows.push(row);
    }

    /// Something breaks.
    pub(super) fn fault(&mut self, from: f64, until: f64, name: &str, parts: bool) {
        self.history.faults.push(Fault {
            from: self.at(from),
            until: self.at(until),
            name: name.to_owned(),
            parts_effect_from_record: parts,
        });
    }

    /// Somebody resumes its campaign, and is answered a second later.
    pub(super) fn resume(&mut self, job: Cast, t: f64) {
        let asked = self.at(t);
        let answered = asked + 1.0;
        let resumed = &mut self.submit_mut(job).resumed;
        resumed.push(Resume { asked, answered });
    }

    /// Somebody decides about a held job.
    pub(super) fn decide(&mut self, job: Cast, t: f64, retry: bool) {
        self.history.decisions.push(Decision {
            t: self.at(t),
            id: self.id(job),
            retry,
        });
    }

    /// Somebody looks at both ends of the pipe.
    pub(super) fn look(&mut self, t: f64, rows: u64, messages: u64) {
        let t = self.at(t);
        self.history.backing.push(Backing { t, rows, messages });
    }

    /// As it was handed in last.
    pub(super) fn submit_mut(&mut self, job: Cast) -> &mut Submit {
        let id = self.id(job);
        let mut submits = self.history.submits.iter_mut();
        submits
            .rfind(|submit| submit.id == id)
            .expect("everybody of the cast is handed in")
    }

    /// Its row at the end.
    pub(super) fn row(&self, job: Cast) -> Option<&Row> {
        let id = self.id(job);
        self.history.rows.iter().find(|row| row.id == id)
    }

    /// Its row at the end.
    pub(super) fn row_mut(&mut self, job: Cast) -> &mut Row {
        let id = self.id(job);
        let mut rows = self.history.rows.iter_mut();
        rows.find(|row| row.id == id).expect("it has a row")
    }

    /// Its calls.
    pub(super) fn calls_mut(&mut self, job: Cast) -> Vec<&mut Call> {
        let id = Some(self.id(job));
        self.history
            .calls
            .iter_mut()
            .filter(|call| call.id == id)
            .collect()
    }

    /// Its moves.
    pub(super) fn moves_mut(&mut self, job: Cast) -> Vec<&mut Move> {
        let id = self.id(job);
        self.history
            .moves
            .iter_mut()
            .filter(|step| step.id == id)
            .collect()
    }

    /// Nobody ever saw a call of it.
    pub(super) fn without_calls(&mut self, job: Cast) {
        let id = Some(self.id(job));
        self.history.calls.retain(|call| call.id != id);
    }

    /// Its row is gone, as if the log did not know.
    pub(super) fn without_row(&mut self, job: Cast) {
        let id = self.id(job);
        self.history.rows.retain(|row| row.id != id);
    }

    /// It was handed in, and that is all.
    pub(super) fn without_a_trace(&mut self, job: Cast) {
        let id = self.id(job);
        self.without_calls(job);
        self.without_row(job);
        self.history.moves.retain(|step| step.id != id);
    }

    /// The counters from this move on are off by so much, in its log and in its row alike.
    pub(super) fn counters_off(&mut self, job: Cast, step: usize, dispatch: i64, attempt: i32) {
        for (n, later) in self.moves_mut(job).into_iter().enumerate().skip(step) {
            later.dispatch += dispatch;
            later.attempt += attempt;
            if n > step {
                later.dispatch_before += dispatch;
                later.attempt_before += attempt;
            }
        }
        let row = self.row_mut(job);
        row.dispatch += dispatch;
        row.attempt += attempt;
    }
}

/// The way of a job that works at once.
pub(super) const RAN: [JobState; 4] = [Scheduled, Dispatched, Running, Completed];
