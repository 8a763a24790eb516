//! What a job kind is made of: its name, its policy, its arguments, and the code that runs.
//!
//! A handler never touches the broker and never settles a delivery.
//! It returns what happened; the engine writes that down first and settles afterwards.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use postroad_common::job::{JobId, KindPolicy, ProviderFailure};
use postroad_common::settings::Tenants;
use postroad_common::store::COMPLETE_IN_TRANSACTION;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::destinations::Destination;

/// The code of one job kind.
///
/// ```
/// use postroad_worker::{Done, Handler, JobContext, JobError};
///
/// struct Greet;
///
/// #[derive(serde::Deserialize)]
/// struct GreetArgs {
///     name: String,
/// }
///
/// impl Handler for Greet {
///     const KIND: &'static str = "greet";
///     type Args = GreetArgs;
///
///     async fn run(&self, _job: JobContext, args: GreetArgs) -> Result<Done, JobError> {
///         println!("hello, {}", args.name);
///         Ok(Done::empty())
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The name under which jobs ask for this handler.
    const KIND: &'static str;

    /// What `args` must parse as. Args that do not are a final failure: they will never fit.
    type Args: DeserializeOwned + Send;

    /// Attempts, backoff, timeout, and what becomes of a job whose worker is lost.
    fn policy(&self) -> KindPolicy {
        KindPolicy::default()
    }

    /// Whom an attempt with these args will call. The worker then finds out how many calls that
    /// destination takes at once, and a job that finds no room waits in Postgres, with no attempt
    /// charged, instead of in the place of a job for somebody else. None: it calls nobody, or nobody
    /// who has to be spared.
    ///
    /// It is asked before the job is started, for each job and in between deliveries: it should be
    /// quick. The args are as they came, JSON that may not even fit [`Self::Args`]: read no more of them
    /// than it takes, and answer with none if they make no sense; the attempt itself says so then.
    ///
    /// What the destination takes follows from how long attempts need that end well, and from those
    /// that end in an error [by the provider](JobError::by_provider).
    ///
    /// ```
    /// # use postroad_worker::{Destination, Done, Handler, JobContext, JobError};
    /// # struct Push;
    /// # impl Handler for Push {
    /// #     const KIND: &'static str = "push";
    /// #     type Args = serde_json::Value;
    /// fn destination(&self, _args: &[u8]) -> Option<Destination> {
    ///     Some(Destination::new("push.example"))
    /// }
    /// #     async fn run(&self, _: JobContext, _: Self::Args) -> Result<Done, JobError> {
    /// #         Ok(Done::empty())
    /// #     }
    /// # }
    /// ```
    fn destination(&self, args: &[u8]) -> Option<Destination> {
        let _ = args;
        None
    }

    /// Runs one attempt. May be dropped at any await when the timeout passes or the worker stops.
    fn run(
        &self,
        job: JobContext,
        args: Self::Args,
    ) -> impl Future<Output = Result<Done, JobError>> + Send;
}

/// What an attempt may know about its job.
#[derive(Clone, Debug)]
pub struct JobContext {
    /// The job's id: the same at every attempt, so also the idempotency key for providers.
    pub id: JobId,
    /// The fence of this attempt.
    pub dispatch: i64,
    /// Whose job it is.
    pub tenant: String,
    /// The kind, as registered.
    pub kind: String,
    /// 1 for the first attempt.
    pub attempt: i32,
    /// W3C trace context of whoever enqueued the job.
    pub traceparent: Option<String>,
    /// Cancelled when the worker wants its handlers to come to an end.
    pub stop: CancellationToken,
    /// What is set for tenants: its own is `settings.of(&tenant)`, kept in memory until it changes.
    pub settings: Tenants,
}

/// An attempt that worked, with an optional result kept in the archive.
#[derive(Debug, Default)]
pub struct Done {
    pub(crate) result: Option<Box<RawValue>>,
}

impl JobContext {
    /// Completes the job inside the handler's own transaction: the effect and its record become
    /// true together, or not at all.
    ///
    /// The job must live in the same database. Commit `transaction` and return [`Done`]; the
    /// engine then finds the job completed. If this fails, roll back: somebody else has the job.
    ///
    /// ```no_run
    /// # use postroad_worker::{Done, JobContext, JobError};
    /// # async fn run(job: JobContext, mut client: tokio_postgres::Client) -> Result<Done, JobError> {
    /// let transaction = client.transaction().await?;
    /// transaction.execute("update account set balance = balance - 1", &[]).await?;
    /// job.complete_in(&transaction).await?;
    /// transaction.commit().await?;
    /// Ok(Done::empty())
    /// # }
    /// ```
    pub async fn complete_in(
        &self,
        transaction: &tokio_postgres::Transaction<'_>,
    ) -> Result<(), CompleteInError> {
        let (ids, dispatches) = (vec![*self.id.as_uuid()], vec![self.dispatch]);
        let results: Vec<Option<&str>> = vec![None];
        let completed = transaction
            .query(COMPLETE_IN_TRANSACTION, &[&ids, &dispatches, &results])
            .await
            .map_err(CompleteInError::Postgres)?;
        if completed.is_empty() {
            Err(CompleteInError::Superseded)
        } else {
            Ok(())
        }
    }
}

/// Why a job could not be completed inside a transaction.
#[derive(Debug, thiserror::Error)]
pub enum CompleteInError {
    /// The job is not ours any more: roll back.
    #[error("somebody else has the job by now")]
    Superseded,
    /// The statement failed.
    #[error("completing the job in the handler's transaction")]
    Postgres(#[source] tokio_postgres::Error),
}

impl Done {
    /// Nothing to remember beyond the fact.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Remembers `value`, as JSON, with the finished job.
    pub fn with(value: &impl Serialize) -> Result<Self, JobError> {
        Ok(Self {
            result: Some(serde_json::value::to_raw_value(value)?),
        })
    }

    /// The remembered JSON.
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref().map(RawValue::get)
    }
}

/// An attempt that did not work, and what should follow from it.
///
/// Any `std::error::Error` turns into [`JobError::Retry`] by `?`.
pub enum JobError {
    /// It definitely had no effect: try again after `after`, or after the kind's backoff.
    Retry {
        /// What went wrong.
        error: anyhow::Error,
        /// How long the other side asked us to wait.
        after: Option<Duration>,
        /// Whether it was the provider who failed, and how.
        provider: Option<ProviderFailure>,
    },
    /// It definitely had no effect, and trying again cannot help: the job is dead.
    Fatal {
        /// What went wrong.
        error: anyhow::Error,
    },
    /// Nobody can say whether it had an effect. A kind that is lost as `hold` is held for a
    /// decision; a kind that is lost as `retry` is tried again.
    Unknown {
        /// What went wrong.
        error: anyhow::Error,
        /// Whether it was the provider who failed, and how.
        provider: Option<ProviderFailure>,
    },
    /// Not now: run again after this long. Does not count as an attempt.
    Snooze {
        /// How long.
        after: Duration,
    },
}

impl JobError {
    /// A failed attempt, to be repeated by the kind's backoff.
    pub fn retry(error: impl Into<anyhow::Error>) -> Self {
        Self::Retry {
            error: error.into(),
            after: None,
            provider: None,
        }
    }

    /// A failed attempt, to be repeated when the other side said so.
    pub fn retry_after(error: impl Into<anyhow::Error>, after: Duration) -> Self {
        Self::Retry {
            error: error.into(),
            after: Some(after),
            provider: None,
        }
    }

    /// A failure that no further attempt can mend.
    pub fn fatal(error: impl Into<anyhow::Error>) -> Self {
        Self::Fatal {
            error: error.into(),
        }
    }

    /// An attempt that may or may not have taken effect.
    pub fn unknown(error: impl Into<anyhow::Error>) -> Self {
        Self::Unknown {
            error: error.into(),
            provider: None,
        }
    }

    /// Says that it is the provider who failed, and how; none: that it is not. Other jobs for the
    /// same provider are spared a failure by it.
    #[must_use]
    pub fn by_provider(mut self, failure: impl Into<Option<ProviderFailure>>) -> Self {
        if let Self::Retry { provider, .. } | Self::Unknown { provider, .. } = &mut self {
            *provider = failure.into();
        }
        self
    }

    /// How the provider failed. None: the failure is the job's own, or ours.
    pub fn provider_failure(&self) -> Option<ProviderFailure> {
        match self {
            Self::Retry { provider, .. } | Self::Unknown { provider, .. } => *provider,
            Self::Fatal { .. } | Self::Snooze { .. } => None,
        }
    }

    /// How long the other side asked us to wait.
    pub fn told_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Retry { after, .. } => *after,
            Self::Unknown { .. } | Self::Fatal { .. } | Self::Snooze { .. } => None,
        }
    }

    /// Run again later without counting this as an attempt.
    pub fn snooze(after: Duration) -> Self {
        Self::Snooze { after }
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry {
                error, after: None, ..
            } => write!(f, "retry: {error:#}"),
            Self::Retry {
                error,
                after: Some(after),
                ..
            } => write!(f, "retry in {after:?}: {error:#}"),
            Self::Fatal { error } => write!(f, "fatal: {error:#}"),
            Self::Unknown { error, .. } => write!(f, "outcome unknown: {error:#}"),
            Self::Snooze { after } => write!(f, "snooze for {after:?}"),
        }
    }
}

impl<E> From<E> for JobError
where
    E: std::error::Error + Send + Sync + 'static,
{
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}
