//! The zones here are named, and so are the days on which their clocks were changed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn of(cron: &str, zone: &str) -> Recurrence {
    Recurrence::parse(cron, zone).unwrap_or_else(|error| panic!("{cron} in {zone}: {error}"))
}

/// The next ticks after a moment, as the clock on the wall shows them.
fn ticks(cron: &str, zone: &str, from: &str, n: usize) -> Vec<String> {
    let of = of(cron, zone);
    of.next(at(from), n)
        .into_iter()
        .map(|tick| {
            let shown = tick.to_zoned(of.zone().clone());
            shown.strftime("%m-%d %H:%M %z").to_string()
        })
        .collect()
}

/// An expression, a zone, a moment before, and what follows it.
type Story = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

fn check(stories: &[Story]) {
    for (cron, zone, from, expected) in stories {
        let seen = ticks(cron, zone, from, expected.len());
        assert_eq!(seen, *expected, "{cron} in {zone} after {from}");
    }
}

#[test]
fn a_fixed_time_in_a_gap_runs_once_at_the_end_of_the_gap() {
    check(&[
        // 02:00 to 03:00 on 2026-03-29.
        (
            "30 2 * * *",
            "Europe/Stockholm",
            "2026-03-28T00:00:00Z",
            &[
                "03-28 02:30 +0100",
                "03-29 03:00 +0200",
                "03-30 02:30 +0200",
            ],
        ),
        // 02:00 to 03:00 on 2026-03-08.
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            &["03-08 03:00 -0400", "03-09 02:30 -0400"],
        ),
        // Half an hour: 02:00 to 02:30 on 2026-10-04.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            &["10-04 02:30 +1100", "10-05 02:15 +1100"],
        ),
        // At midnight: 00:00 to 01:00 on 2026-04-24.
        (
            "15 0 * * *",
            "Africa/Cairo",
            "2026-04-23T12:00:00Z",
            &["04-24 01:00 +0300", "04-25 00:15 +0300"],
        ),
        // The day began at 01:00 on 2018-11-04.
        (
            "@daily",
            "America/Sao_Paulo",
            "2018-11-03T12:00:00Z",
            &["11-04 01:00 -0200", "11-05 00:00 -0200"],
        ),
        // Also where the day is not named again by its end.
        (
            "0 0 4 11 *",
            "America/Sao_Paulo",
            "2018-01-01T00:00:00Z",
            &["11-04 01:00 -0200", "11-04 00:00 -0300"],
        ),
    ]);
}

#[test]
fn several_fixed_times_in_one_gap_are_one_tick_at_its_end() {
    check(&[
        (
            "0,15,30 2 * * *",
            "Europe/Stockholm",
            "2026-03-29T00:00:00Z",
            &["03-29 03:00 +0200", "03-30 02:00 +0200"],
        ),
        // And the one that is there anyway.
        (
            "30 2,3 * * *",
            "Europe/Stockholm",
            "2026-03-29T00:00:00Z",
            &[
                "03-29 03:00 +0200",
                "03-29 03:30 +0200",
                "03-30 02:30 +0200",
            ],
        ),
        (
            "0 2,3 * * *",
            "Europe/Stockholm",
            "2026-03-29T00:00:00Z",
            &["03-29 03:00 +0200", "03-30 02:00 +0200"],
        ),
    ]);
}

#[test]
fn a_fixed_time_in_an_overlap_runs_once_the_first_time() {
    check(&[
        // 02:00 to 03:00 comes twice on 2026-10-25.
        (
            "30 2 * * *",
            "Europe/Stockholm",
            "2026-10-24T12:00:00Z",
            &["10-25 02:30 +0200", "10-26 02:30 +0100"],
        ),
        (
            "0,30 2,14 * * *",
            "Europe/Stockholm",
            "2026-10-24T22:00:00Z",
            &[
                "10-25 02:00 +0200",
                "10-25 02:30 +0200",
                "10-25 14:00 +0100",
            ],
        ),
        // Between the two times: it was there.
        (
            "30 2 * * *",
            "Europe/Stockholm",
            "2026-10-25T00:45:00Z",
            &["10-26 02:30 +0100"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            &["11-01 01:30 -0400", "11-02 01:30 -0500"],
        ),
        // 01:30 to 02:00 on 2026-04-05.
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            &["04-05 01:45 +1100", "04-06 01:45 +1030"],
        ),
        // 23:00 to 24:00 on 2026-10-29.
        (
            "30 23 * * *",
            "Africa/Cairo",
            "2026-10-29T12:00:00Z",
            &["10-29 23:30 +0300", "10-30 23:30 +0200"],
        ),
        (
            "30 23 * * *",
            "America/Sao_Paulo",
            "2018-02-17T12:00:00Z",
            &["02-17 23:30 -0200", "02-18 23:30 -0300"],
        ),
    ]);
}

#[test]
fn any_other_tick_follows_the_clock_on_the_wall() {
    check(&[
        (
            "*/30 * * * *",
            "Europe/Stockholm",
            "2026-03-29T00:29:00Z",
            &[
                "03-29 01:30 +0100",
                "03-29 03:00 +0200",
                "03-29 03:30 +0200",
            ],
        ),
        (
            "*/30 * * * *",
            "Europe/Stockholm",
            "2026-10-24T23:59:00Z",
            &[
                "10-25 02:00 +0200",
                "10-25 02:30 +0200",
                "10-25 02:00 +0100",
                "10-25 02:30 +0100",
                "10-25 03:00 +0100",
            ],
        ),
        // Every minute of an hour that is not there.
        (
            "* 2 * * *",
            "America/New_York",
            "2026-03-08T00:00:00Z",
            &["03-09 02:00 -0400"],
        ),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:29:00Z",
            &["10-04 02:30 +1100", "10-04 02:45 +1100"],
        ),
        (
            "*/20 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:39:00Z",
            &[
                "04-05 01:40 +1100",
                "04-05 01:40 +1030",
                "04-05 02:00 +1030",
            ],
        ),
        (
            "@hourly",
            "Africa/Cairo",
            "2026-04-23T20:30:00Z",
            &["04-23 23:00 +0200", "04-24 01:00 +0300"],
        ),
        (
            "@hourly",
            "America/Sao_Paulo",
            "2018-02-18T00:30:00Z",
            &[
                "02-17 23:00 -0200",
                "02-17 23:00 -0300",
                "02-18 00:00 -0300",
            ],
        ),
    ]);
}

#[test]
fn a_day_that_a_zone_skips_has_no_ticks() {
    // Samoa had no 2011-12-30.
    check(&[
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            &["12-29 12:00 -1000", "12-31 12:00 +1400"],
        ),
        (
            "*/30 12 * * *",
            "Pacific/Apia",
            "2011-12-29T22:10:00Z",
            &["12-29 12:30 -1000", "12-31 12:00 +1400"],
        ),
        (
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-01-01T00:00:00Z",
            &["12-30 12:00 +1400"],
        ),
    ]);
    let next = of("0 12 30 12 *", "Pacific/Apia").next_after(at("2011-01-01T00:00:00Z"));
    assert_eq!(next, Some(at("2012-12-29T22:00:00Z")), "a year later");
}

#[test]
fn expressions_mean_what_cron_means() {
    for (cron, expected) in [
        ("0 9 * * MON-FRI", "11-26 09:00 +0000"),
        ("0 9 * * mon-fri", "11-26 09:00 +0000"),
        ("0 9 * * SAT-SUN", "11-28 09:00 +0000"),
        ("0 9 * * 7", "11-29 09:00 +0000"),
        ("@yearly", "01-01 00:00 +0000"),
        ("@annually", "01-01 00:00 +0000"),
        ("@monthly", "12-01 00:00 +0000"),
        ("@weekly", "11-29 00:00 +0000"),
        ("@daily", "11-26 00:00 +0000"),
        ("@Midnight", "11-26 00:00 +0000"),
        ("@hourly", "11-25 13:00 +0000"),
        ("0 0 L * *", "11-30 00:00 +0000"),
        ("0 0 LW * *", "11-30 00:00 +0000"),
        ("0 0 29W 11 *", "11-30 00:00 +0000"),
        ("0 0 * * 1#1", "12-07 00:00 +0000"),
        ("0 0 * * FRI#2", "12-11 00:00 +0000"),
        ("0 0 * * 5L", "11-27 00:00 +0000"),
        // Day of month or weekday, where both are given.
        ("0 0 13 * FRI", "11-27 00:00 +0000"),
        ("0 0 ? * FRI", "11-27 00:00 +0000"),
        ("*/15 * * * *", "11-25 12:15 +0000"),
        ("5-59/20 * * * *", "11-25 12:05 +0000"),
        ("0\t0  1 \t jan *", "01-01 00:00 +0000"),
        ("30 0 12 * * *", "11-25 12:00 +0000"),
        ("0 0 29 2 *", "02-29 00:00 +0000"),
    ] {
        let seen = ticks(cron, "UTC", "2026-11-25T12:00:00Z", 1);
        assert_eq!(seen, [expected], "{cron}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_field_and_its_place() {
    let table = include_str!("../../../tests/data/schedules_refused.json");
    let table: Vec<(String, String, String)> = serde_json::from_str(table).expect("the table");
    assert!(table.len() >= 48);
    for (field, value, says) in &table {
        let refused = match field.as_str() {
            "cron" => Recurrence::parse(value, "UTC"),
            _ => Recurrence::parse("* * * * *", value),
        };
        let error = refused.expect_err(value);
        assert_eq!(error.field, field, "{value:?}: {error}");
        assert!(error.message.contains(says.as_str()), "{value:?}: {error}");
        assert!(!error.message.contains('\n') && error.message.len() < 200);
    }
    for long in ["1,".repeat(200) + "1 * * * *", " ".repeat(10_240)] {
        let error = Recurrence::parse(&long, "UTC").expect_err("it is long");
        assert_eq!(error.message, "must be at most 200 bytes");
    }
    let error = Recurrence::parse("* * * * *", &"x/".repeat(5000)).expect_err("it is long");
    assert_eq!(error.field, "timezone");
}

#[test]
fn there_are_zones_where_the_system_has_none() {
    for zone in [
        "UTC",
        "Europe/Stockholm",
        "US/Eastern",
        "Etc/GMT+2",
        "America/Argentina/Ushuaia",
    ] {
        assert!(Recurrence::parse("* * * * *", zone).is_ok(), "{zone}");
        assert!(TimeZone::get(zone).is_ok());
    }
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    assert!(bundled.get("Europe/Stockholm").is_ok());
}

#[test]
fn a_tick_is_never_in_the_next_century_but_one() {
    let of = of("0 0 1 1 *", "UTC");
    assert_eq!(
        of.next_after(at("2198-06-01T00:00:00Z")),
        Some(at("2199-01-01T00:00:00Z"))
    );
    assert_eq!(of.next_after(at("2199-06-01T00:00:00Z")), None);
}

// === Misfires ===

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_year_of_seconds_is_caught_up_by_its_newest() {
    let seconds = of("* * * * * *", "UTC");
    let (due, now) = (at("2025-11-25T00:00:00Z"), at("2026-11-25T00:00:00Z"));
    let plan = seconds.plan(due, now, Misfire::CatchUp(100));
    assert_eq!(plan.ticks.len(), 100 + 61);
    assert_eq!(plan.ticks[0], now - ON_TIME - SECOND * 100);
    assert_eq!(plan.passed_over.len(), PASSED_OVER_MAX);
    assert_eq!(plan.next, Some(now + SECOND));
    assert_eq!(seconds.plan(due, now, Misfire::RunOnce).ticks.len(), 1 + 61);
    assert_eq!(seconds.plan(due, now, Misfire::Skip).ticks.len(), 61);
}

#[test]
fn a_burst_long_ago_is_found_without_counting_it() {
    let january = of("* * * * 1 *", "Europe/Stockholm");
    let (due, now) = (at("2025-01-01T12:00:00Z"), at("2026-12-01T00:00:00Z"));
    let plan = january.plan(due, now, Misfire::CatchUp(5));
    assert_eq!(plan.ticks.len(), 5);
    assert_eq!(plan.ticks[4], at("2026-01-31T22:59:59Z"));
}

#[test]
fn a_tick_a_day_ago_is_skipped_run_once_or_caught_up() {
    let hourly = of("0 * * * *", "UTC");
    let (due, now) = (at("2026-11-24T00:00:00Z"), at("2026-11-25T00:30:00Z"));
    let plan = |misfire| hourly.plan(due, now, misfire);
    assert_eq!(plan(Misfire::Skip).ticks, []);
    assert_eq!(plan(Misfire::Skip).passed_over.len(), 25);
    assert_eq!(plan(Misfire::RunOnce).ticks, [at("2026-11-25T00:00:00Z")]);
    assert_eq!(plan(Misfire::RunOnce).passed_over.len(), 24);
    assert_eq!(plan(Misfire::CatchUp(100)).ticks.len(), 25);
    assert_eq!(plan(Misfire::CatchUp(3)).ticks.len(), 3);
    assert_eq!(plan(Misfire::CatchUp(3)).passed_over.len(), 22);
    assert_eq!(plan(Misfire::Skip).next, Some(at("2026-11-25T01:00:00Z")));
}

#[test]
fn a_tick_within_a_minute_is_on_time_whatever_the_policy() {
    let daily = of("0 9 * * *", "UTC");
    let due = at("2026-11-25T09:00:00Z");
    let late_by = |late: Duration| daily.plan(due, due + late, Misfire::Skip);
    assert_eq!(late_by(Duration::ZERO).ticks, [due]);
    assert_eq!(late_by(ON_TIME).ticks, [due]);
    let missed = late_by(ON_TIME + Duration::from_millis(1));
    assert_eq!((missed.ticks, missed.passed_over), (vec![], vec![due]));
}

#[test]
fn a_long_plan_is_carried_out_in_parts_and_nothing_is_left_out() {
    let minutes = of("* * * * *", "UTC");
    let (due, now) = (at("2026-11-24T00:00:00Z"), at("2026-11-25T00:00:30Z"));
    let whole = minutes.plan(due, now, Misfire::CatchUp(1000));
    assert_eq!(whole.ticks.len(), 1000 + 1);
    let (mut made, mut next) = (Vec::new(), due);
    while next <= now {
        let part = minutes.plan(next, now, Misfire::CatchUp(1000)).first(300);
        assert!(part.ticks.len() <= 300);
        made.extend(part.ticks);
        next = part.next.expect("it ticks on");
    }
    assert_eq!(made, whole.ticks);
    assert_eq!(Some(next), whole.next);
}

#[test]
fn a_tick_that_was_announced_is_made_whatever_the_zone_says_by_now() {
    let hourly = of("0 * * * *", "UTC");
    let announced = at("2026-11-25T09:15:00Z");
    let plan = hourly.plan(announced, announced + SECOND, Misfire::Skip);
    assert_eq!(plan.ticks, [announced]);
}

// === Properties ===

const CRONS: &[&str] = &[
    "* * * * *",
    "*/7 * * * * *",
    "30 2 * * *",
    "0,30 0-3 * * *",
    "15,45 1,2,23 * * 0",
    "0 0 1 * *",
    "15 */3 * * 1-5",
    "0 0 L * *",
    "59 59 23 * * *",
    "0 */2 * * SUN#1",
];
const ZONES: &[&str] = &[
    "UTC",
    "Europe/Stockholm",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Cairo",
    "America/Sao_Paulo",
];

/// Moments near a change of a clock as often as far from one.
fn moment() -> impl Strategy<Value = Timestamp> {
    let changes = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-10-03T15:30:00Z",
        "2026-04-04T15:00:00Z",
        "2011-12-30T10:00:00Z",
        "2026-04-23T22:00:00Z",
        "2026-10-29T21:00:00Z",
        "2018-11-04T03:00:00Z",
        "2018-02-18T02:00:00Z",
    ];
    let near = (
        prop::sample::select(changes.to_vec()),
        -100_000_000_i64..100_000_000,
    )
        .prop_map(|(change, millis)| at(change) + SignedDuration::from_millis(millis));
    let far = (1_300_000_000_000_i64..1_900_000_000_000)
        .prop_map(|millis| Timestamp::from_millisecond(millis).expect("in range"));
    prop_oneof![near, far]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn ticks_are_the_same_in_both_directions(
        cron in prop::sample::select(CRONS.to_vec()),
        zone in prop::sample::select(ZONES.to_vec()),
        from in moment(),
    ) {
        let of = of(cron, zone);
        let ahead = of.next(from, 20);
        prop_assert!(ahead.windows(2).all(|two| two[0] < two[1]), "{ahead:?}");
        for two in ahead.windows(2) {
            prop_assert_eq!(of.last_before(two[1]), Some(two[0]));
        }
        let first = ahead[0];
        prop_assert!(first > from);
        let before = of.last_before(first).expect("there was one");
        prop_assert!(before <= from);
        prop_assert_eq!(of.next_after(before), Some(first));
        // A moment within a second of its own.
        prop_assert_eq!(of.last_before(first + Duration::from_micros(1)), Some(first));
    }

    #[test]
    fn a_plan_moves_on_and_has_each_tick_once(
        cron in prop::sample::select(CRONS.to_vec()),
        zone in prop::sample::select(ZONES.to_vec()),
        start in moment(),
        away in 0_i64..100_000,
        most in 0_i32..50,
    ) {
        let of = of(cron, zone);
        let due = of.next_after(start).expect("it ticks");
        let now = start + SignedDuration::from_secs(away);
        let misfire = match most {
            0 => Misfire::Skip,
            1 => Misfire::RunOnce,
            most => Misfire::CatchUp(most),
        };
        let plan = of.plan(due, now, misfire);
        let next = plan.next.expect("it ticks on");
        if due > now {
            prop_assert_eq!(plan, Plan { next: Some(due), ..Plan::default() });
            return Ok(());
        }
        prop_assert!(next > now);
        // What was due, as somebody finds out who counts it.
        let mut all = vec![due];
        while let Some(tick) = of.next_after(all[all.len() - 1]).filter(|tick| *tick <= now) {
            all.push(tick);
        }
        prop_assert_eq!(of.next_after(all[all.len() - 1]), Some(next));
        let on_time = all.iter().filter(|tick| **tick >= now - ON_TIME).count();
        let late = all.len() - on_time;
        let caught_up = late.min(usize::try_from(most).expect("positive"));
        prop_assert_eq!(&plan.ticks[..], &all[late - caught_up..]);
        let passed_over = &all[..late - caught_up];
        let written = passed_over.len().saturating_sub(PASSED_OVER_MAX);
        prop_assert_eq!(&plan.passed_over[..], &passed_over[written..]);
    }

    /// What is read here is never refused, or understood otherwise, by the library behind it.
    #[test]
    fn the_library_takes_whatever_is_well_formed(
        cron in "([0-9*/,LW#?A-Z-]{1,6} ){4,5}[0-9*/,LW#?A-Z-]{1,6}|(\\*|[0-9]{1,2}|[0-9]{1,2}-[0-9]{1,2}|\\*/[0-9]{1,2}|L|[0-9]W|[0-7]#[1-5]|[0-7]L|MON|JAN)( (\\*|[0-9]{1,2}|[0-9]-[0-9]{1,2}|\\*/[0-9]|L|[0-9]W|[0-7]#[1-5]|[0-7]L|MON|JAN)){4,5}",
    ) {
        if let Err(error) = Recurrence::parse(&cron, "UTC") {
            prop_assert!(!error.message.contains("understood"), "{cron}: {error}");
        }
    }
}
