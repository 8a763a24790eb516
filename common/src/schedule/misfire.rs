//! What becomes of the ticks that are due: pure, and at a cost that does not grow with how long
//! nobody was there.

use std::time::Duration;

use jiff::Timestamp;

use super::Recurrence;

/// A tick this late is still on time: schedulers were restarted, or the database was away.
pub const ON_TIME: Duration = Duration::from_secs(60);
/// Ticks that are caught up at once, at most.
pub const CATCH_UP_MAX: i32 = 10_000;
/// Of the late ticks that get no job, so many are written down: the newest.
pub const PASSED_OVER_MAX: usize = 100;

/// What becomes of ticks that are later than [`ON_TIME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfire {
    /// Nothing.
    Skip,
    /// One job, for the newest of them.
    RunOnce,
    /// A job for each of the newest so many.
    CatchUp(i32),
}

impl Misfire {
    /// The policy of this name.
    pub fn of_name(name: &str, catch_up_max: i32) -> Option<Self> {
        Some(match name {
            "skip" => Self::Skip,
            "run_once" => Self::RunOnce,
            "catch_up" => Self::CatchUp(catch_up_max),
            _ => return None,
        })
    }

    fn most(self) -> usize {
        match self {
            Self::Skip => 0,
            Self::RunOnce => 1,
            Self::CatchUp(most) => usize::try_from(most.min(CATCH_UP_MAX)).unwrap_or(0),
        }
    }
}

/// What is to be done about a schedule that is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ticks that get a job, oldest first.
    pub ticks: Vec<Timestamp>,
    /// The ticks that get none, oldest first; of more than [`PASSED_OVER_MAX`] the newest.
    pub passed_over: Vec<Timestamp>,
    /// The first tick that is not due yet; none if the expression never ticks again.
    pub next: Option<Timestamp>,
}

impl Plan {
    /// The beginning of the plan: at most so many jobs. The schedule stays due for the rest.
    #[must_use]
    pub fn first(mut self, most: usize) -> Self {
        if let Some(rest) = self.ticks.get(most) {
            self.next = Some(*rest);
            self.ticks.truncate(most);
        }
        self
    }
}

impl Recurrence {
    /// What to do now about a schedule whose next tick was `due`.
    pub fn plan(&self, due: Timestamp, now: Timestamp, misfire: Misfire) -> Plan {
        if due > now {
            return Plan {
                next: Some(due),
                ..Plan::default()
            };
        }
        let on_time = now.checked_sub(ON_TIME).unwrap_or(now).max(due);
        let most = misfire.most();
        let mut passed_over = self.newest(due, on_time, most + PASSED_OVER_MAX);
        let mut ticks = passed_over.split_off(passed_over.len().saturating_sub(most));
        ticks.extend(self.between(due, on_time, now));
        let last = ticks.last().copied().unwrap_or(now);
        Plan {
            ticks,
            passed_over,
            next: self.next_after(last.max(now)),
        }
    }

    /// The newest `most` ticks from `due` on and before `until`, oldest first. Found from their
    /// end, so that nobody counts a year of seconds for its last hundred.
    fn newest(&self, due: Timestamp, until: Timestamp, most: usize) -> Vec<Timestamp> {
        let earlier =
            std::iter::successors(self.last_before(until), |tick| self.last_before(*tick));
        let mut ticks: Vec<_> = earlier.take_while(|tick| *tick > due).take(most).collect();
        // Was a tick when it was written down, whatever the zone's rules are by now.
        if ticks.len() < most && due < until {
            ticks.push(due);
        }
        ticks.reverse();
        ticks
    }

    /// The ticks from one moment to another, both included, of which none is before `due`.
    fn between(&self, due: Timestamp, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let first = match from == due {
            true => Some(due),
            false => self.next_after(from.checked_sub(Duration::from_millis(1)).unwrap_or(from)),
        };
        std::iter::successors(first, |tick| self.next_after(*tick))
            .take_while(|tick| *tick <= to)
            .collect()
    }
}
