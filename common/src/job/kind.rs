//! The policy of a job kind: how often, how long, how patient, and what a lost worker means.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What becomes of a job whose worker was lost while it ran.
///
/// Nobody can tell from outside whether the effect took place, so the kind has to say which
/// mistake is the smaller one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLost {
    /// Run it again: the effect is idempotent, or the receiver knows the job's id.
    #[default]
    Retry,
    /// Hold it until a person, or a reconciliation, decides. For effects that hurt when doubled.
    Hold,
}

impl OnLost {
    /// The name in SQL, API and UI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
        }
    }
}

impl fmt::Display for OnLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no policy.
#[derive(Debug, thiserror::Error)]
#[error("on_lost must be `retry` or `hold`, not `{0}`")]
pub struct InvalidOnLost(String);

impl FromStr for OnLost {
    type Err = InvalidOnLost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "retry" => Ok(Self::Retry),
            "hold" => Ok(Self::Hold),
            other => Err(InvalidOnLost(other.to_owned())),
        }
    }
}

/// How the jobs of one kind are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindPolicy {
    /// What a lost worker means.
    pub on_lost: OnLost,
    /// Attempts before a job is dead, unless the job says otherwise. 1 to 1,000.
    pub max_attempts: i32,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Wait before the second attempt; doubles with each further one.
    pub backoff_base: Duration,
    /// The longest wait between two attempts.
    pub backoff_cap: Duration,
}

impl Default for KindPolicy {
    fn default() -> Self {
        Self {
            on_lost: OnLost::Retry,
            max_attempts: 20,
            timeout: Duration::from_secs(30),
            backoff_base: Duration::from_secs(5),
            backoff_cap: Duration::from_secs(6 * 60 * 60),
        }
    }
}
