//! Which kinds this worker runs.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postroad_common::job::{InvalidName, KindName, KindPolicy};

use crate::args;
use crate::destinations::Destination;
use crate::handler::{Done, Handler, JobContext, JobError};

/// The longest wait between two attempts that the database takes.
const BACKOFF_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The kinds of one worker, by name.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    kinds: BTreeMap<String, Arc<Kind>>,
}

/// One registered kind.
pub(crate) struct Kind {
    pub(crate) name: KindName,
    policy: KindPolicy,
    /// An operator's timeout in milliseconds; 0: none, and the policy's own holds.
    timeout_set: AtomicU64,
    handler: Box<dyn ErasedHandler>,
}

/// A worker that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Two handlers for one kind: only one could run, and nobody could tell which.
    #[error("the kind `{0}` is registered twice")]
    Twice(String),
    /// A name that no job could have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A policy that the database would refuse.
    #[error("the kind `{kind}`: {what}")]
    Policy {
        /// Which kind.
        kind: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl Registry {
    pub(crate) fn register<H: Handler>(&mut self, handler: H) -> Result<(), RegisterError> {
        let name: KindName = H::KIND.parse()?;
        let policy = handler.policy();
        check(H::KIND, &policy)?;
        let kind = Arc::new(Kind {
            name,
            policy,
            timeout_set: AtomicU64::new(0),
            handler: Box::new(Erased(Arc::new(handler))),
        });
        match self.kinds.insert(H::KIND.to_owned(), kind) {
            None => Ok(()),
            Some(_) => Err(RegisterError::Twice(H::KIND.to_owned())),
        }
    }

    pub(crate) fn find(&self, kind: &str) -> Option<Arc<Kind>> {
        self.kinds.get(kind).cloned()
    }

    pub(crate) fn policies(&self) -> Vec<(KindName, KindPolicy)> {
        self.kinds
            .values()
            .map(|kind| (kind.name.clone(), kind.policy))
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Kind>> {
        self.kinds.values().cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.kinds.keys().map(String::as_str).collect()
    }
}

fn check(kind: &'static str, policy: &KindPolicy) -> Result<(), RegisterError> {
    let what = if !(1..=1000).contains(&policy.max_attempts) {
        "max_attempts must be from 1 to 1000"
    } else if policy.timeout.is_zero() {
        "the timeout must be longer than nothing"
    } else if policy.backoff_cap > BACKOFF_MAX {
        "backoff_cap must be at most 366 days"
    } else if policy.backoff_base > policy.backoff_cap {
        "backoff_base must not be longer than backoff_cap"
    } else {
        return Ok(());
    };
    Err(RegisterError::Policy { kind, what })
}

impl Kind {
    /// How long an attempt that begins now may take.
    pub(crate) fn timeout(&self) -> Duration {
        match self.timeout_set.load(Ordering::Relaxed) {
            0 => self.policy.timeout,
            millis => Duration::from_millis(millis),
        }
    }

    /// What an operator has set; none: nothing.
    pub(crate) fn set_timeout(&self, set: Option<Duration>) {
        let millis = set.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(0));
        self.timeout_set.store(millis, Ordering::Relaxed);
    }

    /// Whom an attempt with these args calls.
    pub(crate) fn destination(&self, args: &[u8]) -> Option<Destination> {
        // A handler's code: a panic in it must not take the consumer along. The attempt will say more.
        let destination = AssertUnwindSafe(|| self.handler.destination(args));
        std::panic::catch_unwind(destination).unwrap_or_default()
    }

    /// Parses the args and runs the handler.
    pub(crate) fn run(&self, job: JobContext, args: Vec<u8>) -> Attempt {
        self.handler.run(job, args)
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<Done, JobError>> + Send>>;

/// A handler without its types.
trait ErasedHandler: Send + Sync {
    fn destination(&self, args: &[u8]) -> Option<Destination>;

    fn run(&self, job: JobContext, args: Vec<u8>) -> Attempt;
}

struct Erased<H>(Arc<H>);

impl<H: Handler> ErasedHandler for Erased<H> {
    fn destination(&self, args: &[u8]) -> Option<Destination> {
        self.0.destination(args)
    }

    fn run(&self, job: JobContext, args: Vec<u8>) -> Attempt {
        let handler = self.0.clone();
        Box::pin(async move {
            let args = args::parse(&args).map_err(|error| {
                JobError::fatal(anyhow::anyhow!(
                    "args do not fit the kind `{}`: {error}",
                    H::KIND
                ))
            })?;
            handler.run(job, args).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Handler for Nothing {
        const KIND: &'static str = "nothing";
        type Args = serde::de::IgnoredAny;

        async fn run(&self, _: JobContext, _: Self::Args) -> Result<Done, JobError> {
            Ok(Done::empty())
        }
    }

    struct Misnamed;

    impl Handler for Misnamed {
        const KIND: &'static str = "Mis Named";
        type Args = serde::de::IgnoredAny;

        async fn run(&self, _: JobContext, _: Self::Args) -> Result<Done, JobError> {
            Ok(Done::empty())
        }
    }

    #[test]
    fn a_kind_can_be_registered_once_and_under_a_legal_name() {
        let mut registry = Registry::default();
        assert!(registry.register(Nothing).is_ok());
        assert!(matches!(
            registry.register(Nothing),
            Err(RegisterError::Twice(_))
        ));
        assert!(matches!(
            registry.register(Misnamed),
            Err(RegisterError::Name(_))
        ));
        assert_eq!(registry.names(), ["nothing"]);
    }
}
