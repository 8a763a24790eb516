//! What independent observers saw of one run: the client who submitted, the provider who was
//! called, Postgres's own log of every move of every row, the broker's final counts, and whoever
//! injected the faults.
//!
//! Nobody here reports on itself: Postroad's programs contribute nothing to a history. All times
//! are Unix seconds of the machine that everything runs on.

use postroad_common::job::{JobState, OnLost};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Everything that was seen of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// What was submitted, in order.
    pub submits: Vec<Submit>,
    /// What reached the provider, in order.
    pub calls: Vec<Call>,
    /// What was broken, and when.
    pub faults: Vec<Fault>,
    /// What a person, or whoever acts for one, decided about held jobs.
    pub decisions: Vec<Decision>,
    /// Every move of every row, in the order of their commits per job.
    pub moves: Vec<Move>,
    /// What Postgres held at the end.
    pub rows: Vec<Row>,
    /// Every attempt error that Postgres held at the end.
    pub errors: Vec<AttemptError>,
    /// What the broker held at the end.
    pub queues: Vec<QueueDepth>,
    /// Looks at whether every job in the pipe had a message behind it.
    pub backing: Vec<Backing>,
}

/// One job that a client tried to hand in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submit {
    /// When the client began.
    pub t: f64,
    /// The id that the client gave the job.
    pub id: Uuid,
    /// Whose job it is.
    pub tenant: String,
    /// Its kind.
    pub kind: String,
    /// Whether a repeated effect is tolerable.
    pub on_lost: Lost,
    /// When it is due.
    pub due: f64,
    /// From when on it is pointless.
    pub expires: Option<f64>,
    /// The caller's key.
    pub dedup_key: Option<String>,
    /// The tick of a schedule that this job is for; several clients may submit one tick.
    pub tick: Option<Tick>,
    /// SHA-256 of the body that its provider must get; none for kinds without a provider.
    pub body_sha256: Option<String>,
    /// Whether it was handed in over HTTP, and not in SQL.
    #[serde(default)]
    pub over_http: bool,
    /// When the campaign that it is of was resumed after it had been cancelled: what was cancelled
    /// with it comes back once for each.
    #[serde(default)]
    pub resumed: Vec<Resume>,
    /// What the client was told.
    pub answer: Answer,
}

/// A campaign was resumed: at some moment between these two.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Resume {
    /// When somebody began to ask for it.
    pub asked: f64,
    /// When that was answered.
    pub answered: f64,
}

/// `on_lost`, as a history spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// The effect may be repeated after a loss.
    Retry,
    /// The effect is not repeated without a decision.
    Hold,
}

impl From<OnLost> for Lost {
    fn from(on_lost: OnLost) -> Self {
        match on_lost {
            OnLost::Retry => Self::Retry,
            OnLost::Hold => Self::Hold,
        }
    }
}

/// One occasion of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tick {
    /// The schedule.
    pub schedule: String,
    /// Its number.
    pub number: u64,
}

/// What became of a submit, as its client knows. A timeout is a third outcome: neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Accepted: the job of this id stands for it (another's, where a key was seen before).
    Accepted(Uuid),
    /// Refused: it must never run.
    Refused,
    /// Nobody told the client.
    Unknown,
}

/// One request that reached the provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// When.
    pub t: f64,
    /// The idempotency key: the job's id. None: it was not an id.
    pub id: Option<Uuid>,
    /// The tenant that the address it was sent to belongs to.
    pub tenant: Option<String>,
    /// SHA-256 of the body.
    pub body_sha256: String,
    /// Whether the provider did what it was asked for.
    pub effect: bool,
    /// Whether the provider sent its answer, whole.
    pub answered: bool,
}

/// Something that was broken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// From.
    pub from: f64,
    /// Until it was healed; the same as `from` for a kill.
    pub until: f64,
    /// What was done, to whom.
    pub name: String,
    /// Whether it can part an effect from its record: a kill, a pause, a cut wire to Postgres. Not:
    /// a cut wire to RabbitMQ, whose messages are only reminders.
    pub parts_effect_from_record: bool,
}

/// A decision about a held job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub t: f64,
    /// The job.
    pub id: Uuid,
    /// Whether it was to run again.
    pub retry: bool,
}

/// One move of one row, as a trigger of the observer's own saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Move {
    /// When, by Postgres's clock.
    pub t: f64,
    /// The job.
    pub id: Uuid,
    /// The state before; none: the row is new.
    #[serde(with = "state_name")]
    pub from: Option<JobState>,
    /// The state after; none: the row is gone, and in no archive.
    #[serde(with = "state_name")]
    pub to: Option<JobState>,
    /// The fence before.
    pub dispatch_before: i64,
    /// The fence after.
    pub dispatch: i64,
    /// Attempts before.
    pub attempt_before: i32,
    /// Attempts after.
    pub attempt: i32,
}

/// A job as Postgres held it at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The job.
    pub id: Uuid,
    /// Its tenant.
    pub tenant: String,
    /// Its kind.
    pub kind: String,
    /// Its state.
    #[serde(with = "state_name_always")]
    pub state: JobState,
    /// Attempts.
    pub attempt: i32,
    /// The fence.
    pub dispatch: i64,
}

/// An attempt that did not work, as Postgres held it at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptError {
    /// When.
    pub t: f64,
    /// The job.
    pub id: Uuid,
    /// Which attempt.
    pub attempt: i32,
    /// The class of the error.
    pub code: String,
}

/// What a queue of the broker held at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueDepth {
    /// Its name.
    pub queue: String,
    /// Messages that nobody has in hand.
    pub ready: u64,
    /// Messages in somebody's hands.
    pub unacked: u64,
    /// Whether something may be left in it: what nobody can read is parked for people.
    pub may_hold: bool,
}

/// One look at both ends of the pipe. A job in the pipe whose message is gone is stuck until a
/// timer repairs it, so outside of faults there must be none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backing {
    /// When.
    pub t: f64,
    /// Jobs that had been dispatched or running for longer than a confirm takes.
    pub rows: u64,
    /// Messages in queues of jobs, ready and in somebody's hands.
    pub messages: u64,
}

/// The state of this name.
pub fn state_of(name: &str) -> Option<JobState> {
    JobState::ALL
        .into_iter()
        .find(|state| state.as_str() == name)
}

mod state_name {
    use postroad_common::job::JobState;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        state: &Option<JobState>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match state {
            Some(state) => serializer.serialize_some(state.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<JobState>, D::Error> {
        let name: Option<String> = Option::deserialize(deserializer)?;
        name.map(|name| {
            super::state_of(&name).ok_or_else(|| D::Error::custom(format!("no state `{name}`")))
        })
        .transpose()
    }
}

mod state_name_always {
    use postroad_common::job::JobState;
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        state: &JobState,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<JobState, D::Error> {
        super::state_name::deserialize(deserializer)?
            .ok_or_else(|| D::Error::custom("a row has a state"))
    }
}
