//! Recurring schedules: when a cron expression ticks in a time zone, and what becomes of ticks that
//! nobody was there for. Pure: no clock, no database.
//!
//! Expressions are those of Vixie cron with five fields (minute, hour, day of month, month, weekday),
//! or six with seconds first, and the extensions `L`, `W`, `#` and `@daily`. In daylight saving time
//! they are Vixie's, too:
//!
//! | | a gap | an overlap |
//! |---|---|---|
//! | a fixed time: seconds, minutes and hours without `*` | once, at the end of the gap | once, the first time |
//! | any other | passed over: the clock on the wall does not show it | at both |
//!
//! A gap of more than [`GAP_MAX`] is no daylight saving time but a change of the calendar, and what
//! lies in it is passed over by both.

mod misfire;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::zone;
pub use crate::zone::ZONE_BYTES_MAX;
pub use misfire::{CATCH_UP_MAX, Misfire, ON_TIME, PASSED_OVER_MAX, Plan};

/// The longest expression, in bytes.
pub const CRON_BYTES_MAX: usize = 200;
/// The longest gap at whose end fixed times run: as in Vixie cron, three hours.
pub const GAP_MAX: SignedDuration = SignedDuration::from_hours(3);

/// No time of a job is later: the year 2200.
const LAST_SECOND: i64 = 7_258_118_400;
/// Ticks of a gap or an overlap that are looked at in search of one outside of it: a day of seconds,
/// and some.
const SEARCH_MAX: usize = 100_000;

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Recurrence {
    cron: Cron,
    is_fixed: bool,
    zone: TimeZone,
}

/// Why a schedule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchedule {
    /// The offending field: `cron` or `timezone`.
    pub field: &'static str,
    /// What is wrong with it, and where.
    pub message: String,
}

impl InvalidSchedule {
    fn cron(message: impl fmt::Display) -> Self {
        Self {
            field: "cron",
            message: message.to_string(),
        }
    }

    fn zone(message: &str) -> Self {
        Self {
            field: "timezone",
            message: message.to_owned(),
        }
    }
}

impl fmt::Debug for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?}", self.cron.as_str(), self.zone)
    }
}

impl Recurrence {
    /// Reads both texts.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        if cron.len() > CRON_BYTES_MAX {
            let rule = format!("must be at most {CRON_BYTES_MAX} bytes");
            return Err(InvalidSchedule::cron(rule));
        }
        let read = syntax::read(cron).map_err(InvalidSchedule::cron)?;
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(&read.text)
            .map_err(|error| InvalidSchedule::cron(format!("is not understood: {error}")))?;
        if cron.find_next_occurrence(&beginning(), true).is_err() {
            let rule = "never ticks: no year has such a day";
            return Err(InvalidSchedule::cron(rule));
        }
        Ok(Self {
            cron,
            is_fixed: read.is_fixed,
            zone: zone_of(zone)?,
        })
    }

    /// The first tick after this moment. None: there is none in this and the next century.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let next = match self.is_fixed {
            true => self.next_fixed(at)?,
            false => {
                let from = at.to_zoned(self.zone.clone());
                self.cron
                    .find_next_occurrence(&from, false)
                    .ok()?
                    .timestamp()
            }
        };
        (next > at && next.as_second() < LAST_SECOND).then_some(next)
    }

    /// The last tick before this moment.
    pub fn last_before(&self, at: Timestamp) -> Option<Timestamp> {
        let last = match self.is_fixed {
            true => self.last_fixed(at)?,
            false => {
                let from = at.to_zoned(self.zone.clone());
                self.last_in(&from, at)?.timestamp()
            }
        };
        (last < at).then_some(last)
    }

    /// The next `n` ticks after this moment.
    pub fn next(&self, at: Timestamp, n: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(at), |tick| self.next_after(*tick))
            .take(n)
            .collect()
    }

    /// The zone, for whoever shows times.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    // === Fixed times: found on a calendar without a zone, then looked up in it ===

    fn next_fixed(&self, at: Timestamp) -> Option<Timestamp> {
        let mut wall = at.to_zoned(self.zone.clone()).datetime();
        for _ in 0..SEARCH_MAX {
            let from = wall.to_zoned(TimeZone::UTC).ok()?;
            wall = self
                .cron
                .find_next_occurrence(&from, false)
                .ok()?
                .datetime();
            match self.moment_of(wall) {
                Some(moment) if moment > at => return Some(moment),
                _ => {}
            }
        }
        None
    }

    fn last_fixed(&self, at: Timestamp) -> Option<Timestamp> {
        let here = at.to_zoned(self.zone.clone()).datetime();
        // The second time of an overlap: its later part has been there before.
        let overlap = match self.zone.to_ambiguous_timestamp(here).offset() {
            AmbiguousOffset::Fold { before, after } => before.duration_until(after).abs(),
            _ => SignedDuration::ZERO,
        };
        let mut from = here
            .checked_add(overlap)
            .ok()?
            .to_zoned(TimeZone::UTC)
            .ok()?;
        for _ in 0..SEARCH_MAX {
            let last = self.last_in(&from, from.timestamp())?;
            match self.moment_of(last.datetime()) {
                Some(moment) if moment < at => return Some(moment),
                _ => from = last,
            }
        }
        None
    }

    /// The library counts whole seconds: one that has begun lies before `at`.
    fn last_in(&self, from: &jiff::Zoned, at: Timestamp) -> Option<jiff::Zoned> {
        let has_begun = at.subsec_nanosecond() > 0;
        self.cron.find_previous_occurrence(from, has_begun).ok()
    }

    /// When the clock on the wall shows this, for a fixed time.
    fn moment_of(&self, wall: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { before, after } => {
                if before.duration_until(after).abs() > GAP_MAX {
                    return None;
                }
                let inside = before.to_timestamp(wall).ok()?;
                let beyond = inside.checked_add(SignedDuration::from_secs(1)).ok()?;
                Some(self.zone.preceding(beyond).next()?.timestamp())
            }
        }
    }
}

/// Whether an expression ever ticks does not depend on when one asks: the calendar repeats itself.
fn beginning() -> jiff::Zoned {
    Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC)
}

fn zone_of(name: &str) -> Result<TimeZone, InvalidSchedule> {
    zone::find(name).ok_or_else(|| InvalidSchedule::zone(zone::RULE))
}
