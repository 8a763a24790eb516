//! The message that carries one attempt of one job, apart from how AMQP spells it.
//!
//! Version 1 is one job per message: the properties and headers name the job and its fence, the
//! body is the job's args. Version 2 is kept for bundles.

use crate::job::JobId;

/// The version this program writes and reads.
pub const VERSION: i32 = 1;

/// One attempt of one job, on its way to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The job.
    pub id: JobId,
    /// The fence: what the worker must name in every write.
    pub dispatch: i64,
    /// The job's kind.
    pub kind: String,
    /// Whose job it is.
    pub tenant: String,
    /// Attempts before this one, plus one. For people who read the queue; the gate counts.
    pub attempt: i32,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The job's args: JSON.
    pub body: Vec<u8>,
}

/// Why a message cannot be read as an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// `message_id` is missing or no UUID.
    #[error("message_id is not a job id")]
    Id,
    /// `x-version` is missing or not the one this program reads.
    #[error("x-version is {0:?}, this program reads {VERSION}")]
    Version(Option<i64>),
    /// `x-dispatch` is missing or not a positive number.
    #[error("x-dispatch is not a fence")]
    Dispatch,
    /// `type` is missing.
    #[error("type names no kind")]
    Kind,
    /// The body is not JSON.
    #[error("the body is not JSON")]
    Body,
}

impl Unreadable {
    /// The reason as a metric label and a header value.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Id => "message_id",
            Self::Version(_) => "version",
            Self::Dispatch => "dispatch",
            Self::Kind => "kind",
            Self::Body => "body",
        }
    }
}
