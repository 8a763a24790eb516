//! When a recipient may be reached: by the clock on their own wall.
//!
//! A moment is open if the clock shows a time in the send window, on a day on which that window
//! began, and none in the quiet hours. `from` belongs to a window, `until` no longer does; a window
//! whose `until` is not later than its `from` goes over midnight. What clocks do follows from that:
//! a time that is passed over in spring is neither open nor closed, and one that comes twice in
//! autumn is the same both times.

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::problem::{Members, Problem, Problems, document};
use crate::zone;

const DAY_MINUTES: u16 = 24 * 60;
const WEEK_MINUTES: u16 = 7 * DAY_MINUTES;
/// The largest document, in bytes.
const WINDOW_BYTES_MAX: usize = 4 * 1024;
/// Changes of the clock or of the state that are looked at in search of one that matters. A week
/// has a few, and a zone a few a year.
const SEARCH_MAX: usize = 1_000;

/// When recipients may be reached.
#[derive(Clone, Debug)]
pub struct Reachable {
    /// Minutes of a week, from Monday, at which it begins to be open or closed: in turn.
    changes: Vec<(u16, bool)>,
    /// Whether it is open at the end of Sunday, and so until the first change.
    is_open_before: bool,
    zone: TimeZone,
}

/// Whether a recipient may be reached now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Yes, until this moment; none: always.
    Open {
        /// The first moment at which it is closed.
        closes_at: Option<Timestamp>,
    },
    /// Not before this moment.
    Closed {
        /// The first moment at which it is open.
        opens_at: Timestamp,
    },
}

impl Reachable {
    /// At any time.
    pub fn always() -> Self {
        Self {
            changes: Vec::new(),
            is_open_before: true,
            zone: TimeZone::UTC,
        }
    }

    /// Reads JSON. All that is wrong is told at once.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Problem>> {
        Self::read(&document(json, WINDOW_BYTES_MAX)?)
    }

    /// Reads JSON that was parsed already. All that is wrong is told at once.
    pub fn read(window: &Value) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let reachable = read(window, &mut problems);
        problems.or(reachable)
    }

    /// The zone of recipients that have none.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether somebody in this zone may be reached now.
    pub fn at(&self, zone: Option<&TimeZone>, now: Timestamp) -> Reach {
        let zone = zone.unwrap_or(&self.zone);
        let is_open = self.is_open(zone, now);
        let change = self.next_change(zone, now, is_open);
        match is_open {
            true => Reach::Open { closes_at: change },
            // It opens every week; none is the end of all time.
            false => Reach::Closed {
                opens_at: change.unwrap_or(Timestamp::MAX),
            },
        }
    }

    fn is_open(&self, zone: &TimeZone, at: Timestamp) -> bool {
        let minute = second_of_week(zone, at) / 60;
        let passed = self
            .changes
            .partition_point(|(change, _)| i64::from(*change) <= minute);
        match passed.checked_sub(1) {
            Some(last) => self.changes[last].1,
            None => self.is_open_before,
        }
    }

    fn next_change(&self, zone: &TimeZone, now: Timestamp, is_open: bool) -> Option<Timestamp> {
        if self.changes.is_empty() {
            return None;
        }
        let mut at = now.as_second();
        // A moment before 1970 is rounded up: its second began before it.
        if now.subsec_nanosecond() < 0 {
            at -= 1;
        }
        for _ in 0..SEARCH_MAX {
            let here = Timestamp::from_second(at).ok()?;
            // Until the clock is changed, it goes as fast as time.
            let by_clock = at + self.seconds_to_change(second_of_week(zone, here));
            let changed = zone.following(here).next();
            let changed = changed.map(|transition| transition.timestamp().as_second());
            at = changed.map_or(by_clock, |changed| changed.min(by_clock));
            let there = Timestamp::from_second(at).ok()?;
            if self.is_open(zone, there) != is_open {
                return Some(there);
            }
        }
        None
    }

    /// From this second of a week to the next minute with a change.
    fn seconds_to_change(&self, second: i64) -> i64 {
        let next = self
            .changes
            .iter()
            .map(|(minute, _)| i64::from(*minute) * 60)
            .find(|change| *change > second);
        let first = self
            .changes
            .first()
            .map_or(0, |(minute, _)| i64::from(*minute) * 60);
        next.unwrap_or(first + i64::from(WEEK_MINUTES) * 60) - second
    }
}

/// What the clock shows, in seconds since Monday.
fn second_of_week(zone: &TimeZone, at: Timestamp) -> i64 {
    let wall = zone.to_datetime(at);
    let day = i64::from(wall.weekday().to_monday_zero_offset());
    let (hour, minute) = (i64::from(wall.hour()), i64::from(wall.minute()));
    ((day * 24 + hour) * 60 + minute) * 60 + i64::from(wall.second())
}

// === Reading ===

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// Hours of a day, or over midnight, in minutes.
#[derive(Clone, Copy)]
struct Hours {
    from: u16,
    until: u16,
}

fn read(window: &Value, problems: &mut Problems) -> Option<Reachable> {
    let known = ["send_window", "quiet_hours", "timezone"];
    let window = Members::read(window, String::new(), &known, problems);
    let send = window.get("send_window").map(|value| {
        let send = Members::read(
            value,
            window.at("send_window"),
            &["from", "until", "days"],
            problems,
        );
        (hours(&send, problems), days(&send, problems))
    });
    let quiet = window.get("quiet_hours").map(|value| {
        let pointer = window.at("quiet_hours");
        let quiet = Members::read(value, pointer, &["from", "until"], problems);
        hours(&quiet, problems)
    });
    let zone = zone_of(&window, send.is_some() || quiet.is_some(), problems);
    let (key, why) = match send.is_some() {
        true => ("send_window", "never opens: it lies within the quiet hours"),
        false => ("quiet_hours", "never end"),
    };
    let mut open = vec![send.is_none(); usize::from(WEEK_MINUTES)];
    if let Some((hours, days)) = send {
        mark(&mut open, hours?, &days?, true);
    }
    if let Some(hours) = quiet {
        mark(&mut open, hours?, &[true; 7], false);
    }
    if !open.contains(&true) {
        problems.add(&window.at(key), why);
    }
    Some(Reachable {
        changes: changes(&open),
        is_open_before: open.last().copied().unwrap_or(true),
        zone: zone?,
    })
}

fn zone_of(window: &Members<'_>, is_needed: bool, problems: &mut Problems) -> Option<TimeZone> {
    if window.get("timezone").is_none() {
        if is_needed {
            let what = "is missing: hours are in the zone of the recipient, and of whom has none?";
            problems.add(&window.at("timezone"), what);
        }
        return Some(TimeZone::UTC);
    }
    let zone = zone::find(window.text("timezone", problems)?);
    if zone.is_none() {
        problems.add(&window.at("timezone"), zone::RULE);
    }
    zone
}

fn hours(window: &Members<'_>, problems: &mut Problems) -> Option<Hours> {
    let from = time(window, "from", problems);
    let until = time(window, "until", problems);
    let hours = Hours {
        from: from?,
        until: until?,
    };
    if hours.from == DAY_MINUTES {
        let what = "must be a time of a day: 24:00 is only an end";
        problems.add(&window.at("from"), what);
        return None;
    }
    if hours.from == hours.until {
        let what = "must not be the same as `from`: is that all day, or never? All day is from \
                    00:00 until 24:00";
        problems.add(&window.at("until"), what);
        return None;
    }
    Some(hours)
}

/// A time such as `09:00`, in minutes.
fn time(window: &Members<'_>, key: &str, problems: &mut Problems) -> Option<u16> {
    let value = window.require(key, problems)?;
    let minutes = value.as_str().and_then(minutes);
    if minutes.is_none() {
        problems.add(&window.at(key), "must be a time such as 09:00, up to 24:00");
    }
    minutes
}

fn minutes(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY_MINUTES).then_some(minutes)
}

/// On which days, from Monday, the window begins.
fn days(window: &Members<'_>, problems: &mut Problems) -> Option<[bool; 7]> {
    let Some(value) = window.get("days") else {
        return Some([true; 7]);
    };
    let names = DAYS.map(|(name, _)| name).join(", ");
    let pointer = window.at("days");
    let Some(list) = value
        .as_array()
        .filter(|list| (1..=7).contains(&list.len()))
    else {
        problems.add(
            &pointer,
            format!("must be a list of one to seven of {names}"),
        );
        return None;
    };
    let mut days = [false; 7];
    for (place, day) in list.iter().enumerate() {
        let pointer = format!("{pointer}/{place}");
        let known = DAYS.iter().find(|(name, _)| day.as_str() == Some(name));
        match known.map(|(_, day)| usize::from(day.to_monday_zero_offset().unsigned_abs())) {
            None => problems.add(&pointer, format!("must be one of {names}")),
            Some(day) if days[day] => problems.add(&pointer, "is there a second time"),
            Some(day) => days[day] = true,
        }
    }
    Some(days)
}

/// Marks the hours that begin on these days.
fn mark(week: &mut [bool], hours: Hours, days: &[bool; 7], is_open: bool) {
    let length = match hours.from < hours.until {
        true => hours.until - hours.from,
        false => DAY_MINUTES - hours.from + hours.until,
    };
    for (day, _) in (0_u16..).zip(days).filter(|(_, is_day)| **is_day) {
        let start = day * DAY_MINUTES + hours.from;
        for minute in start..start + length {
            week[usize::from(minute % WEEK_MINUTES)] = is_open;
        }
    }
}

/// The minutes at which a week becomes open or closed.
fn changes(open: &[bool]) -> Vec<(u16, bool)> {
    let before = open.iter().cycle().skip(open.len().saturating_sub(1));
    (0_u16..)
        .zip(open.iter().zip(before))
        .filter(|(_, (now, before))| now != before)
        .map(|(minute, (now, _))| (minute, *now))
        .collect()
}

#[cfg(test)]
mod tests;
