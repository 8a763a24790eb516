//! What a message carries, apart from how AMQP spells it: one attempt of one job, or of several.
//!
//! Version 1 is one job per message: the properties and headers name the job and its fence, the
//! body is the job's args. Version 2 is a bundle: the body is a JSON array of jobs, each with its own
//! id, fence, kind, tenant and args. Both are read; a scheduler writes bundles under backlog.

use crate::job::JobId;

/// The version of a message with one job.
pub const VERSION: i32 = 1;
/// The version of a message with several.
pub const BUNDLE_VERSION: i32 = 2;
/// Jobs in one message, at most.
pub const BUNDLE_JOBS_MAX: usize = 1000;

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
    /// `x-version` is missing or none that this program reads.
    #[error("x-version is {0:?}, this program reads {VERSION} and {BUNDLE_VERSION}")]
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
    /// The body of a bundle is no list of jobs, or of none, or of too many.
    #[error("the body is not a list of 1 to {BUNDLE_JOBS_MAX} jobs")]
    Jobs,
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
            Self::Jobs => "jobs",
        }
    }
}
