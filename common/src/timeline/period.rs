//! From when to when something is shown.

use jiff::{Span, Timestamp};

use crate::audience::Invalid;

/// How long something is shown that does not say so.
pub const DAYS_DEFAULT: i64 = 90;
/// And at most: everything ends, so that what is kept is bounded.
pub const DAYS_MAX: i64 = 366;

/// From a start, which belongs to it, to an end, which does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Not before then.
    pub starts_at: Timestamp,
    /// Not from then on.
    pub ends_at: Timestamp,
}

impl Period {
    /// Of what was asked for. A start that has passed, or none, is now.
    pub fn of(
        starts_at: Option<Timestamp>,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, Invalid> {
        let starts_at = starts_at.map_or(now, |at| at.max(now));
        let period = Self {
            starts_at,
            // At the end of time there is nothing later.
            ends_at: ends_at.unwrap_or_else(|| after_days(starts_at, DAYS_DEFAULT)),
        };
        period.check(now)?;
        Ok(period)
    }

    /// The same with another end.
    pub fn ending(self, ends_at: Timestamp, now: Timestamp) -> Result<Self, Invalid> {
        let period = Self { ends_at, ..self };
        period.check(now)?;
        Ok(period)
    }

    fn check(self, now: Timestamp) -> Result<(), Invalid> {
        let rule = match self.ends_at {
            at if at <= now => "must be later than now".to_owned(),
            at if at <= self.starts_at => "must be later than starts_at".to_owned(),
            at if at > after_days(self.starts_at, DAYS_MAX) => {
                format!("must be at most {DAYS_MAX} days after starts_at")
            }
            _ => return Ok(()),
        };
        Err(Invalid::at("/ends_at", rule))
    }
}

fn after_days(at: Timestamp, days: i64) -> Timestamp {
    at.checked_add(Span::new().hours(24 * days))
        .unwrap_or(Timestamp::MAX)
}
