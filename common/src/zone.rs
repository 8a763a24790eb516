//! Names of time zones as anybody may give them.

use jiff::tz::TimeZone;

/// The longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 100;

/// What a name of a zone must be, for an error.
pub const RULE: &str = "must be UTC or a name of the IANA database with its area, such as \
                        Europe/Stockholm; abbreviations and offsets are none";

/// `UTC`, or a name of the IANA database with its area. What POSIX writes (`EST5EDT,M3.2.0`) and
/// offsets have no rules that somebody keeps up to date, and abbreviations have several meanings.
pub fn find(name: &str) -> Option<TimeZone> {
    let is_name = (1..=ZONE_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
    let (area, place) = name.split_once('/').unwrap_or((name, ""));
    let has_area = !place.is_empty() && !["posix", "right"].contains(&area);
    if !is_name || !(name == "UTC" || has_area) || name.eq_ignore_ascii_case("Etc/Unknown") {
        return None;
    }
    TimeZone::get(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_an_area_and_rules_that_are_kept_up_to_date() {
        for good in [
            "UTC",
            "Europe/Paris",
            "America/Argentina/Ushuaia",
            "Etc/GMT+5",
        ] {
            assert!(find(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "CET",
            "EST5EDT,M3.2.0",
            "+02:00",
            "posix/UTC",
            "Mars/Olympus",
            "a/../b",
        ] {
            assert!(find(bad).is_none(), "{bad}");
        }
    }
}
