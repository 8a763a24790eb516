//! What the end of an attempt says of whoever was called.

use std::time::Duration;

use postroad_common::job::ProviderFailure;

use super::limit::Sign;
use crate::handler::JobError;

/// The end of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Evidence {
    /// It did what it was asked for.
    Done,
    /// It failed, and perhaps said for how long to leave it alone.
    Failed {
        failure: ProviderFailure,
        pause: Option<Duration>,
    },
}

impl Evidence {
    /// None: a failure that is not the provider's tells nothing of it.
    pub(crate) fn of<T>(result: &Result<T, JobError>) -> Option<Self> {
        match result {
            Ok(_) => Some(Self::Done),
            Err(error) => Some(Self::Failed {
                failure: error.provider_failure()?,
                pause: error.told_to_wait(),
            }),
        }
    }

    /// The attempt took as long as it may, and was given up.
    pub(crate) fn silence() -> Self {
        Self::Failed {
            failure: ProviderFailure::Silent,
            pause: None,
        }
    }

    pub(crate) fn failure(self) -> Option<ProviderFailure> {
        match self {
            Self::Done => None,
            Self::Failed { failure, .. } => Some(failure),
        }
    }

    pub(super) fn sign(self) -> Sign {
        match self.failure() {
            None => Sign::Done,
            Some(failure) if failure.calls_for_less() => Sign::Failed,
            Some(_) => Sign::Answered,
        }
    }

    pub(super) fn pause(self) -> Option<Duration> {
        match self {
            Self::Failed {
                failure: ProviderFailure::Overloaded,
                pause,
            } => pause,
            _ => None,
        }
    }
}

#[cfg(test)]
impl Evidence {
    pub(super) fn overloaded(pause: Option<Duration>) -> Self {
        Self::Failed {
            failure: ProviderFailure::Overloaded,
            pause,
        }
    }
}
