//! How much a claim should get, and what a pipe holds while tenants wait for each other.

use std::time::Duration;

use super::Places;

/// How much a claim should get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Jobs, at most.
    pub limit: i64,
    /// Less than so much of the window, and it is not worth a claim; but in a short pipe everything is.
    pub credit_min: i64,
    /// What the pipe should hold while tenants wait for each other. None: as much as the window allows.
    pub short: Option<ShortPipe>,
}

/// A pipe that holds a job for every place of a queue's workers, and what leaves it in a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShortPipe {
    /// That moment.
    pub slack: Duration,
    /// Jobs that leave the pipe in a second, as far as is known.
    pub pace: f64,
}

impl ShortPipe {
    pub(super) fn window(self, places: Places) -> i64 {
        places.total + (self.pace * self.slack.as_secs_f64()) as i64
    }

    /// For how long a queue is shared that has so many jobs in its pipe: nothing is claimed, and so
    /// nothing seen, until those that are too many have left it.
    pub(super) fn seconds(self, places: Places, in_pipe: i64) -> f64 {
        // Of a pace that is not known yet, the next claim says more.
        let drained = match self.pace {
            ..1.0 => 0.0,
            pace => (in_pipe - self.window(places)) as f64 / pace,
        };
        SHARED_FOR.as_secs_f64() + drained.clamp(0.0, DRAINED_MAX.as_secs_f64())
    }
}

/// How long a queue is known to be shared by tenants that wait for each other.
pub const SHARED_FOR: Duration = Duration::from_secs(2);
/// So much longer at most, until what its pipe has too much has left it.
const DRAINED_MAX: Duration = Duration::from_secs(60);

impl Wanted {
    /// Whatever there is room for, up to so many jobs.
    pub fn up_to(limit: i64) -> Self {
        Self {
            limit,
            credit_min: 1,
            short: None,
        }
    }
}
