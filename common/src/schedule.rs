//! Recurring schedules: when a cron expression ticks in a time zone, and what becomes of ticks that
//! nobody was there for. Pure: no clock, no database.
//!
//! Expressions are those of Vixie cron with five fields (minute, hour, day of month, month, weekday),
//! or six with seconds first, and its extensions `L`, `W`, `#` and `@daily`. In daylight saving time
//! they are Vixie's, too: a tick at a fixed time that falls into a gap comes at the gap's end, one in
//! an overlap comes once, the first time; every other tick follows the clock on the wall.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The longest expression, in bytes.
pub const CRON_BYTES_MAX: usize = 200;
/// A tick this late is still on time: schedulers were restarted, or the database was away.
pub const ON_TIME: Duration = Duration::from_secs(60);
/// Ticks that are caught up at once, at most.
pub const CATCH_UP_MAX: i32 = 10_000;

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Recurrence {
    cron: Cron,
    zone: TimeZone,
}

/// Why a schedule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSchedule {
    /// The offending field: `cron` or `timezone`.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl InvalidSchedule {
    fn cron(message: impl Into<String>) -> Self {
        Self {
            field: "cron",
            message: message.into(),
        }
    }
}

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
            Self::CatchUp(most) => usize::try_from(most).unwrap_or(0),
        }
    }
}

/// What is to be done about a schedule that is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The ticks that get a job, oldest first.
    pub ticks: Vec<Timestamp>,
    /// The first tick that is not due yet; none if the expression never ticks again.
    pub next: Option<Timestamp>,
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
            return Err(InvalidSchedule::cron(format!(
                "must be at most {CRON_BYTES_MAX} bytes"
            )));
        }
        let fields = cron.split_whitespace().count();
        if !cron.trim_start().starts_with('@') && !(5..=6).contains(&fields) {
            return Err(InvalidSchedule::cron(format!(
                "must have five fields (minute, hour, day of month, month, weekday), or six with \
                 seconds first, not {fields}"
            )));
        }
        if !cron.is_ascii() {
            return Err(InvalidSchedule::cron("must be ASCII"));
        }
        let has_gap = |field: &str| field.split(',').any(str::is_empty);
        if cron.split_whitespace().any(has_gap) {
            return Err(InvalidSchedule::cron(
                "must have a value between two commas",
            ));
        }
        let cron = Cron::from_str(cron).map_err(|error| InvalidSchedule::cron(text_of(&error)))?;
        // Only names of the database: what POSIX writes (`EST5EDT,M3.2.0`) or an offset has no rules
        // that somebody keeps up to date.
        let is_name = !zone.is_empty()
            && zone.len() <= 100
            && zone
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
        let zone = Some(zone)
            .filter(|_| is_name)
            .and_then(|zone| TimeZone::get(zone).ok())
            .ok_or_else(|| InvalidSchedule {
                field: "timezone",
                message: "must be a name of the IANA database, such as Europe/Stockholm or UTC"
                    .to_owned(),
            })?;
        Ok(Self { cron, zone })
    }

    /// The first tick after this moment. None: it never ticks again.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let mut from = at.to_zoned(self.zone.clone());
        // A zone may skip a whole day, which is longer than the search looks through a gap.
        for _ in 0..4 {
            match self.cron.find_next_occurrence(&from, false) {
                Ok(next) => return Some(next.timestamp()).filter(|next| *next > at),
                Err(CronError::TimeSearchLimitExceeded) => {
                    from = from.checked_add(jiff::Span::new().hours(13)).ok()?;
                }
                Err(_) => return None,
            }
        }
        None
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

    /// What to do now about a schedule whose next tick was `due`. The work does not grow with how
    /// long it has been due.
    pub fn plan(&self, due: Timestamp, now: Timestamp, misfire: Misfire) -> Plan {
        if due > now {
            return Plan {
                ticks: Vec::new(),
                next: Some(due),
            };
        }
        let late = (now - ON_TIME).max(due);
        let mut ticks = self.newest_misfires(due, late, misfire.most());
        let on_time = self.between(late, now);
        let last = on_time.last().copied();
        ticks.extend(on_time);
        Plan {
            ticks,
            next: self.next_after(last.unwrap_or(now).max(now)),
        }
    }

    /// The newest `most` ticks from `due` on and before `late`. Looks back twice as far each time:
    /// nobody counts a year of seconds to find its last hundred.
    fn newest_misfires(&self, due: Timestamp, late: Timestamp, most: usize) -> Vec<Timestamp> {
        if most == 0 || due >= late {
            return Vec::new();
        }
        let mut window = ON_TIME;
        loop {
            let from = late.checked_sub(window).map_or(due, |from| from.max(due));
            let mut found = self.between(from, late);
            // `late` itself is on time.
            found.retain(|tick| *tick < late);
            if found.len() >= most || from == due {
                let surplus = found.len().saturating_sub(most);
                return found.split_off(surplus);
            }
            window *= 2;
        }
    }

    /// The ticks from one moment to another, both included.
    fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let before = from.checked_sub(Duration::from_millis(1)).unwrap_or(from);
        std::iter::successors(self.next_after(before), |tick| self.next_after(*tick))
            .take_while(|tick| *tick <= to)
            .collect()
    }
}

/// The library's texts, on one line.
fn text_of(error: &CronError) -> String {
    format!("is not a cron expression: {error}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn of(cron: &str, zone: &str) -> Recurrence {
        Recurrence::parse(cron, zone).expect("a schedule")
    }

    /// The next ticks, as the wall clock of the zone shows them.
    fn ticks(cron: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
        let of = of(cron, zone);
        of.next(at(from), n)
            .into_iter()
            .map(|tick| {
                tick.to_zoned(of.zone().clone())
                    .strftime("%m-%d %H:%M %z")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn a_fixed_time_in_a_gap_comes_at_the_end_of_the_gap() {
        // Europe: 02:00 to 03:00 on 2026-03-29 does not exist.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Stockholm", "2026-03-28T00:00:00Z", 3),
            [
                "03-28 02:30 +0100",
                "03-29 03:00 +0200",
                "03-30 02:30 +0200"
            ]
        );
        assert_eq!(
            ticks("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
            ["03-08 03:00 -0400", "03-09 02:30 -0400"]
        );
        // Half an hour: 02:00 to 02:30 on 2026-10-04.
        assert_eq!(
            ticks(
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T00:00:00Z",
                2
            ),
            ["10-04 02:30 +1100", "10-05 02:15 +1100"]
        );
        // At midnight: Egypt's summer begins at 00:00 on 2026-04-24.
        assert_eq!(
            ticks("15 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", 2),
            ["04-24 01:00 +0300", "04-25 00:15 +0300"]
        );
    }

    #[test]
    fn a_fixed_time_in_an_overlap_comes_once() {
        // 02:00 to 03:00 on 2026-10-25 comes twice.
        assert_eq!(
            ticks("30 2 * * *", "Europe/Stockholm", "2026-10-24T12:00:00Z", 2),
            ["10-25 02:30 +0200", "10-26 02:30 +0100"]
        );
        assert_eq!(
            ticks("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
            ["11-01 01:30 -0400", "11-02 01:30 -0500"]
        );
    }

    #[test]
    fn every_half_hour_follows_the_clock_on_the_wall() {
        assert_eq!(
            ticks(
                "*/30 * * * *",
                "Europe/Stockholm",
                "2026-03-29T00:29:00Z",
                3
            ),
            [
                "03-29 01:30 +0100",
                "03-29 03:00 +0200",
                "03-29 03:30 +0200"
            ]
        );
        let overlap = ticks(
            "*/30 * * * *",
            "Europe/Stockholm",
            "2026-10-24T23:59:00Z",
            5,
        );
        assert_eq!(
            overlap,
            [
                "10-25 02:00 +0200",
                "10-25 02:30 +0200",
                "10-25 02:00 +0100",
                "10-25 02:30 +0100",
                "10-25 03:00 +0100"
            ]
        );
    }

    #[test]
    fn a_zone_that_skips_a_day_skips_its_ticks() {
        // Samoa had no 2011-12-30.
        assert_eq!(
            ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 2),
            ["12-29 12:00 -1000", "12-31 12:00 +1400"]
        );
    }

    #[test]
    fn what_never_ticks_or_cannot_be_is_refused_with_its_field() {
        let long = "1,".repeat(200) + "1 * * * *";
        for cron in [
            "",
            " ",
            "*",
            "* * * *",
            "* * * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "a * * * *",
            "* * * * MOO",
            "1- * * * *",
            "-1 * * * *",
            "1,,2 * * * *",
            "@never",
            "@",
            "* * * * *;",
            "0 0 * * 1#6",
            "0 0 32W * *",
            "\u{0}",
            "٣ * * * *",
            "1.5 * * * *",
            "0x1 * * * *",
            &long,
        ] {
            let refused = Recurrence::parse(cron, "UTC").expect_err(cron);
            assert_eq!(refused.field, "cron", "{cron}");
            assert!(!refused.message.is_empty());
        }
        for zone in [
            "",
            "Europe",
            "Europe/Atlantis",
            "CEST",
            "+02:00",
            "EST5EDT,M3.2.0,M11.1.0",
            "../etc",
            "Europe/Stockholm ",
            "europe/stockholm\0",
            "UTC+2",
        ] {
            let refused = Recurrence::parse("* * * * *", zone).expect_err(zone);
            assert_eq!(refused.field, "timezone", "{zone}");
        }
        let never = of("0 0 31 2 *", "UTC");
        assert_eq!(never.next_after(at("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn expressions_mean_what_cron_means() {
        for (cron, expected) in [
            ("0 9 * * MON-FRI", "11-26 09:00 +0000"),
            ("@daily", "11-26 00:00 +0000"),
            ("@hourly", "11-25 13:00 +0000"),
            ("0 0 L * *", "11-30 00:00 +0000"),
            ("0 0 * * 1#1", "12-07 00:00 +0000"),
            // Day of month or weekday, as Vixie has it.
            ("0 0 13 * FRI", "11-27 00:00 +0000"),
            ("*/15 * * * *", "11-25 12:15 +0000"),
            ("0 0 29 2 *", "02-29 00:00 +0000"),
        ] {
            assert_eq!(
                ticks(cron, "UTC", "2026-11-25T12:00:00Z", 1),
                [expected],
                "{cron}"
            );
        }
    }

    #[test]
    fn a_year_of_seconds_is_caught_up_by_its_newest() {
        let seconds = of("* * * * * *", "UTC");
        let (due, now) = (at("2025-11-25T00:00:00Z"), at("2026-11-25T00:00:00Z"));
        let plan = seconds.plan(due, now, Misfire::CatchUp(100));
        assert_eq!(plan.ticks.len(), 100 + 61);
        assert_eq!(plan.ticks[0], now - ON_TIME - Duration::from_secs(100));
        assert_eq!(plan.next, Some(now + Duration::from_secs(1)));
        assert_eq!(seconds.plan(due, now, Misfire::RunOnce).ticks.len(), 1 + 61);
        assert_eq!(seconds.plan(due, now, Misfire::Skip).ticks.len(), 61);
    }

    #[test]
    fn a_tick_a_day_ago_is_skipped_run_once_or_caught_up() {
        let hourly = of("0 * * * *", "UTC");
        let (due, now) = (at("2026-11-24T00:00:00Z"), at("2026-11-25T00:30:00Z"));
        let plan = |misfire| hourly.plan(due, now, misfire);
        assert_eq!(plan(Misfire::Skip).ticks, []);
        assert_eq!(plan(Misfire::RunOnce).ticks, [at("2026-11-25T00:00:00Z")]);
        assert_eq!(plan(Misfire::CatchUp(100)).ticks.len(), 25);
        assert_eq!(plan(Misfire::CatchUp(3)).ticks.len(), 3);
        assert_eq!(plan(Misfire::Skip).next, Some(at("2026-11-25T01:00:00Z")));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_plan_moves_on_and_has_each_tick_once(
            cron in prop::sample::select(vec!["* * * * *", "*/7 * * * * *", "30 2 * * *", "0 0 1 * *", "15 */3 * * 1-5"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Stockholm", "America/New_York", "Australia/Lord_Howe"]),
            start in 1_700_000_000_i64..1_800_000_000,
            away in 0_i64..3_000_000,
            most in 1_i32..50,
        ) {
            let of = of(cron, zone);
            let due = of.next_after(Timestamp::from_second(start).expect("in range")).expect("it ticks");
            let now = Timestamp::from_second(start + away).expect("in range");
            let plan = of.plan(due, now, Misfire::CatchUp(most));
            prop_assert!(plan.ticks.windows(2).all(|two| two[0] < two[1]));
            prop_assert!(plan.ticks.iter().all(|tick| (due..=now.max(due)).contains(tick)));
            let next = plan.next.expect("it ticks on");
            prop_assert!(next >= due && next > now || due > now);
            if due <= now {
                // The newest tick that is due is never left out.
                let days = if cron.starts_with("*/7") { 0 } else { 40 };
                let from = now - Duration::from_secs(days * 86_400 + 60);
                let newest = of.between(from, now).into_iter().rfind(|tick| *tick >= due);
                prop_assert_eq!(plan.ticks.last().copied(), newest);
                prop_assert!(plan.ticks.len() <= usize::try_from(most).unwrap_or(0) + 61);
            }
        }
    }
}
