//! The states of a job, and every legal move between them.
//!
//! This is the one place that says what may follow what. The SQL that makes the moves is held to
//! it by a test that walks all pairs (`tests/it/store_transitions.rs`).

use std::fmt;

/// Where a job is. `docs/LIFECYCLE.md` says who moves a job out of each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// Waits for its time, or for room in the pipe.
    Scheduled,
    /// Committed to the pipe under the current fence; its message may be anywhere or nowhere.
    Dispatched,
    /// A named worker started it.
    Running,
    /// An attempt ended in an error, written down; the retrier decides what follows.
    Failed,
    /// May or may not have taken effect; waits for a decision.
    Held,
    /// Done.
    Completed,
    /// Given up, visible, and can be redriven.
    Dead,
    /// Called off before it ran.
    Cancelled,
    /// Not started in time.
    Expired,
}

impl JobState {
    /// All nine.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Dispatched,
        Self::Running,
        Self::Failed,
        Self::Held,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The name in SQL, API and UI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether the job is finished and its row is in the archive.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Dead | Self::Cancelled | Self::Expired
        )
    }

    /// The state after `event`, or why there is none.
    ///
    /// Every event but `Claimed` speaks of the current fence: what is said under an older one is
    /// refused before it gets here.
    pub fn next(self, event: JobEvent) -> Result<Self, IllegalTransition> {
        use JobEvent as E;
        use JobState as S;
        Ok(match (self, event) {
            (S::Scheduled, E::Claimed) => S::Dispatched,
            (S::Dispatched, E::Released) => S::Scheduled,
            (S::Dispatched, E::Started) => S::Running,
            (S::Running, E::Snoozed | E::Interrupted) => S::Scheduled,
            // Evidence may come late: after a rescuer called the worker lost, the outcome it
            // reports under a fence that nobody has taken since is still the truth.
            (S::Running | S::Held, E::Failed) => S::Failed,
            (S::Running | S::Held | S::Failed | S::Scheduled, E::Succeeded) => S::Completed,
            (S::Running, E::BecameUnclear) => S::Held,
            (S::Failed, E::RetryScheduled) => S::Scheduled,
            (S::Failed, E::GivenUp) => S::Dead,
            (S::Held, E::ResolvedCompleted) => S::Completed,
            (S::Held, E::ResolvedRetry) => S::Scheduled,
            (S::Held, E::ResolvedDead) => S::Dead,
            // A running one only if its worker has not heard that it may start, and asks again.
            (S::Scheduled | S::Dispatched | S::Running, E::Expired) => S::Expired,
            // A running job is asked about first: it comes here by the way of failed.
            (S::Scheduled | S::Dispatched | S::Failed, E::Cancelled) => S::Cancelled,
            (S::Dead | S::Cancelled | S::Expired, E::Revived) => S::Scheduled,
            (state, event) => return Err(IllegalTransition { state, event }),
        })
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// The dispatcher took it into the pipe under a new fence.
    Claimed,
    /// Its message did not arrive, expired, or was never started; no attempt is charged.
    Released,
    /// The start gate let a worker run it.
    Started,
    /// The handler asked for another time; no attempt is charged.
    Snoozed,
    /// The worker had to stop before the handler ended, and the kind may be repeated.
    Interrupted,
    /// The attempt definitely failed.
    Failed,
    /// The attempt worked.
    Succeeded,
    /// Nobody can say whether the attempt took effect, and the kind says `hold`.
    BecameUnclear,
    /// The retrier granted another attempt.
    RetryScheduled,
    /// The retrier gave up.
    GivenUp,
    /// A decision: it did take effect.
    ResolvedCompleted,
    /// A decision: run it again.
    ResolvedRetry,
    /// A decision: give up.
    ResolvedDead,
    /// `expires_at` passed before it started.
    Expired,
    /// Somebody called it off.
    Cancelled,
    /// Somebody wants it to run after all, as if it were new.
    Revived,
}

impl JobEvent {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Claimed,
        Self::Released,
        Self::Started,
        Self::Snoozed,
        Self::Interrupted,
        Self::Failed,
        Self::Succeeded,
        Self::BecameUnclear,
        Self::RetryScheduled,
        Self::GivenUp,
        Self::ResolvedCompleted,
        Self::ResolvedRetry,
        Self::ResolvedDead,
        Self::Expired,
        Self::Cancelled,
        Self::Revived,
    ];
}

/// A move that no job may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} cannot be moved by {event:?}")]
pub struct IllegalTransition {
    /// Where the job was.
    pub state: JobState,
    /// What was to happen.
    pub event: JobEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_person_leaves_a_final_state_and_nobody_undoes_a_success() {
        for state in JobState::ALL.into_iter().filter(|s| s.is_final()) {
            for event in JobEvent::ALL {
                let may_leave = event == JobEvent::Revived && state != JobState::Completed;
                assert_eq!(state.next(event).is_ok(), may_leave, "{state} by {event:?}");
            }
        }
    }

    #[test]
    fn only_a_claim_leads_into_the_pipe_and_only_the_gate_starts() {
        for state in JobState::ALL {
            for event in JobEvent::ALL {
                match state.next(event) {
                    Ok(JobState::Dispatched) => assert_eq!(event, JobEvent::Claimed),
                    Ok(JobState::Running) => assert_eq!(event, JobEvent::Started),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn every_state_can_be_left_or_is_final_and_every_event_has_a_use() {
        for state in JobState::ALL {
            let leaves = JobEvent::ALL
                .into_iter()
                .any(|event| state.next(event).is_ok());
            assert_eq!(leaves, state != JobState::Completed, "{state}");
        }
        for event in JobEvent::ALL {
            assert!(
                JobState::ALL
                    .into_iter()
                    .any(|state| state.next(event).is_ok()),
                "{event:?}"
            );
        }
    }
}
