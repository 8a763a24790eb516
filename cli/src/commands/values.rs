//! Values on the command line that several commands take.

use std::time::Duration;

use jiff::Timestamp;
use postroad_common::config::parse_duration;
use postroad_common::job::{InvalidName, ProviderName};

/// A limit that may be taken away: a number, or `none`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

/// A limit from 1, or none.
pub(crate) fn rate(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 1_000_000)
}

/// A limit from 0, or none.
pub(crate) fn quota(text: &str) -> Result<Limit<i64>, String> {
    limit(text, 0, 1_000_000_000)
}

/// RabbitMQ's limit for quorum queues.
pub(crate) fn prefetch(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 2000)
}

/// Jobs that may wait, or none.
pub(crate) fn waiting(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 2_000_000_000)
}

/// A share over 0, up to 1, or none.
pub(crate) fn share(text: &str) -> Result<Limit<f64>, &'static str> {
    match (text, text.parse()) {
        ("none", _) => Ok(Limit(None)),
        (_, Ok(share)) if share > 0.0 && share <= 1.0 => Ok(Limit(Some(share))),
        _ => Err("a share over 0 and up to 1, or `none`, is expected"),
    }
}

/// Jobs of a tenant in the pipe, or none.
pub(crate) fn in_pipe(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 100_000)
}

/// The name of a provider, or none.
pub(crate) fn provider(text: &str) -> Result<Limit<ProviderName>, InvalidName> {
    match text {
        "none" => Ok(Limit(None)),
        name => Ok(Limit(Some(name.parse()?))),
    }
}

/// Which jobs go first, or none.
pub(crate) fn priority(text: &str) -> Result<Limit<i16>, String> {
    limit(text, 0, 3)
}

/// Attempts before a job is dead, or none.
pub(crate) fn max_attempts(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 1000)
}

/// Whole days, or none.
pub(crate) fn days(text: &str) -> Result<Limit<i32>, String> {
    limit(text, 1, 3650)
}

fn limit<T>(text: &str, least: T, most: T) -> Result<Limit<T>, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    if text == "none" {
        return Ok(Limit(None));
    }
    match text.parse() {
        Ok(number) if number >= least && number <= most => Ok(Limit(Some(number))),
        _ => Err(format!(
            "a whole number from {least} to {most}, or `none`, is expected"
        )),
    }
}

/// A stretch of time with its unit, longer than nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or("a duration with its unit, such as `30s`, is expected")
}

/// How long after it is due a job is pointless.
pub(crate) fn expires_after(text: &str) -> Result<Duration, &'static str> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 60 * 60);
    duration(text)
        .ok()
        .filter(|time| allowed.contains(time))
        .ok_or("a duration from 1s to 366d is expected")
}

/// The same, or none.
pub(crate) fn expires_after_or_none(text: &str) -> Result<Limit<Duration>, &'static str> {
    match text {
        "none" => Ok(Limit(None)),
        _ => expires_after(text)
            .map(|time| Limit(Some(time)))
            .map_err(|_| "a duration from 1s to 366d, or `none`, is expected"),
    }
}

/// Why something is done.
pub(crate) fn reason(text: &str) -> Result<String, &'static str> {
    let is_short = text.len() <= 500;
    is_short
        .then(|| text.to_owned())
        .ok_or("at most 500 bytes are kept")
}

/// At most so long: what Postgres and calendars take.
const SINCE_MAX: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

/// A moment: RFC 3339, or how long ago.
pub(crate) fn since(text: &str) -> Result<Timestamp, &'static str> {
    const EXPECTED: &str =
        "a moment such as 2026-11-25T06:00:00Z, or how long ago such as `2h`, is expected";
    match parse_duration(text) {
        Some(ago) if ago <= SINCE_MAX => Timestamp::now().checked_sub(ago).map_err(|_| EXPECTED),
        Some(_) => Err(EXPECTED),
        None => text.parse().map_err(|_| EXPECTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_in_range_or_none() {
        assert_eq!(rate("7").unwrap().0, Some(7));
        assert_eq!(quota("0").unwrap().0, Some(0));
        assert_eq!(rate("none").unwrap().0, None);
        for bad in ["", "0", "-1", "1000001", "1.5", "NONE", "many"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_expiry_is_a_time_in_range_or_none() {
        let seconds = |text| expires_after_or_none(text).map(|limit| limit.0.map(|t| t.as_secs()));
        assert_eq!(seconds("1s"), Ok(Some(1)));
        assert_eq!(seconds("366d"), Ok(Some(366 * 86_400)));
        assert_eq!(seconds("none"), Ok(None));
        for bad in ["", "0s", "999ms", "367d", "60", "never"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(expires_after("none").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert!(since("2026-11-25T06:00:00Z").is_ok());
        assert!(since("2h").unwrap() < Timestamp::now());
        for bad in ["", "2", "yesterday", "2026-11-25", "99999999d", "-1h"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
