use jiff::{SignedDuration, ToSpan};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn zone(name: &str) -> TimeZone {
    zone::find(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn day() -> Reachable {
    Reachable::read(&json!({
        "send_window": {"from": "09:00", "until": "20:00", "days": ["mon", "tue", "wed", "thu", "fri"]},
        "quiet_hours": {"from": "21:00", "until": "08:00"},
        "timezone": "Europe/Paris",
    }))
    .unwrap()
}

fn closes(text: &str) -> Reach {
    Reach::Open {
        closes_at: Some(at(text)),
    }
}

fn opens(text: &str) -> Reach {
    Reach::Closed { opens_at: at(text) }
}

#[test]
fn a_window_opens_and_closes_by_the_clock_of_the_recipient() {
    // A Monday.
    let now = at("2026-11-30T12:00:00Z");
    assert_eq!(day().at(None, now), closes("2026-11-30T19:00:00Z"));
    let noumea = zone("Pacific/Noumea");
    assert_eq!(day().at(Some(&noumea), now), opens("2026-11-30T22:00:00Z"));
    // `from` is in it, `until` is not.
    assert_eq!(
        day().at(None, at("2026-11-30T07:59:59.9Z")),
        opens("2026-11-30T08:00:00Z")
    );
    assert_eq!(
        day().at(None, at("2026-11-30T08:00:00Z")),
        closes("2026-11-30T19:00:00Z")
    );
    assert_eq!(
        day().at(None, at("2026-11-30T18:59:59.9Z")),
        closes("2026-11-30T19:00:00Z")
    );
    // On Friday evening, until Monday.
    assert_eq!(
        day().at(None, at("2026-12-04T19:00:00Z")),
        opens("2026-12-07T08:00:00Z")
    );
}

#[test]
fn quiet_hours_cut_into_a_window() {
    let reachable = Reachable::read(&json!({
        "send_window": {"from": "08:00", "until": "20:00"},
        "quiet_hours": {"from": "12:00", "until": "14:00"},
        "timezone": "UTC",
    }))
    .unwrap();
    assert_eq!(
        reachable.at(None, at("2026-11-30T11:00:00Z")),
        closes("2026-11-30T12:00:00Z")
    );
    assert_eq!(
        reachable.at(None, at("2026-11-30T12:00:00Z")),
        opens("2026-11-30T14:00:00Z")
    );
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_began() {
    let reachable = Reachable::read(&json!({
        "send_window": {"from": "22:00", "until": "02:00", "days": ["sun"]},
        "timezone": "UTC",
    }))
    .unwrap();
    // Sunday is 29 November; Monday's early hours are still its window.
    assert_eq!(
        reachable.at(None, at("2026-11-29T21:00:00Z")),
        opens("2026-11-29T22:00:00Z")
    );
    assert_eq!(
        reachable.at(None, at("2026-11-30T01:00:00Z")),
        closes("2026-11-30T02:00:00Z")
    );
    assert_eq!(
        reachable.at(None, at("2026-11-30T22:30:00Z")),
        opens("2026-12-06T22:00:00Z")
    );
}

#[test]
fn without_hours_it_is_always_open() {
    let always = Reach::Open { closes_at: None };
    let now = at("2026-11-30T12:00:00Z");
    assert_eq!(Reachable::always().at(None, now), always);
    for window in [
        json!({}),
        json!({"timezone": "Europe/Paris"}),
        json!({"send_window": {"from": "00:00", "until": "24:00"}, "timezone": "UTC"}),
        json!({"send_window": null, "quiet_hours": null}),
    ] {
        let reachable = Reachable::read(&window).unwrap();
        assert_eq!(reachable.at(None, now), always, "{window}");
        assert_eq!(reachable.at(None, Timestamp::MAX), always);
        assert_eq!(reachable.at(None, Timestamp::MIN), always);
    }
}

#[test]
fn clocks_are_changed() {
    let at_hours = |from: &str, until: &str| {
        let window = json!({"send_window": {"from": from, "until": until}, "timezone": "UTC"});
        Reachable::read(&window).unwrap()
    };
    for (name, from, until, now, reach) in [
        // 02:00 to 03:00 is passed over: what opens in it opens when it is over.
        (
            "Europe/Paris",
            "02:30",
            "04:00",
            "2026-03-29T00:30:00Z",
            opens("2026-03-29T01:00:00Z"),
        ),
        // What lies in it whole is not that day.
        (
            "Europe/Paris",
            "02:10",
            "02:50",
            "2026-03-29T00:30:00Z",
            opens("2026-03-30T00:10:00Z"),
        ),
        // 02:00 to 03:00 comes twice, and is the same both times.
        (
            "Europe/Paris",
            "02:30",
            "02:40",
            "2026-10-25T00:20:00Z",
            opens("2026-10-25T00:30:00Z"),
        ),
        (
            "Europe/Paris",
            "02:30",
            "02:40",
            "2026-10-25T00:45:00Z",
            opens("2026-10-25T01:30:00Z"),
        ),
        // Open when the clock goes back to when it was not.
        (
            "Europe/Paris",
            "02:30",
            "04:00",
            "2026-10-25T00:30:00Z",
            closes("2026-10-25T01:00:00Z"),
        ),
        // Midnight itself was passed over.
        (
            "America/Sao_Paulo",
            "00:00",
            "06:00",
            "2018-11-04T02:30:00Z",
            opens("2018-11-04T03:00:00Z"),
        ),
        // 23:00 to midnight came twice.
        (
            "America/Sao_Paulo",
            "23:30",
            "24:00",
            "2018-02-18T01:59:00Z",
            closes("2018-02-18T02:00:00Z"),
        ),
        (
            "America/Sao_Paulo",
            "23:30",
            "24:00",
            "2018-02-18T02:00:00Z",
            opens("2018-02-18T02:30:00Z"),
        ),
        // Half an hour.
        (
            "Australia/Lord_Howe",
            "02:00",
            "02:20",
            "2026-10-03T15:00:00Z",
            opens("2026-10-04T15:00:00Z"),
        ),
        (
            "Australia/Lord_Howe",
            "01:30",
            "02:00",
            "2026-04-04T14:55:00Z",
            closes("2026-04-04T15:30:00Z"),
        ),
        // A day that never was: 30 December 2011.
        (
            "Pacific/Apia",
            "09:00",
            "17:00",
            "2011-12-30T09:00:00Z",
            opens("2011-12-30T19:00:00Z"),
        ),
    ] {
        let reachable = at_hours(from, until);
        assert_eq!(
            reachable.at(Some(&zone(name)), at(now)),
            reach,
            "{name} {from} {now}"
        );
    }
    // The Friday that never was.
    let fridays = Reachable::read(&json!({
        "send_window": {"from": "09:00", "until": "17:00", "days": ["fri"]}, "timezone": "Pacific/Apia",
    }));
    assert_eq!(
        fridays.unwrap().at(None, at("2011-12-29T00:00:00Z")),
        opens("2012-01-05T19:00:00Z")
    );
}

#[test]
fn what_is_refused_names_its_place() {
    for (window, said) in [
        (json!([]), "must be an object"),
        (json!({"window": 1}), "/window: is not known"),
        (
            json!({"send_window": 1, "timezone": "UTC"}),
            "/send_window: must be an object",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00"}}),
            "/timezone: is missing",
        ),
        (
            json!({"timezone": "CET"}),
            "/timezone: must be UTC or a name",
        ),
        (json!({"timezone": 1}), "/timezone: must be a text"),
        (
            json!({"send_window": {"until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from: is missing",
        ),
        (
            json!({"send_window": {"from": "9:00", "until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from: must be a time",
        ),
        (
            json!({"send_window": {"from": "09:60", "until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from: must be a time",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "24:01"}, "timezone": "UTC"}),
            "/send_window/until: must be a time",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "+9:00"}, "timezone": "UTC"}),
            "/send_window/until: must be a time",
        ),
        (
            json!({"send_window": {"from": 9, "until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from: must be a time",
        ),
        (
            json!({"send_window": {"from": "24:00", "until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from: must be a time of a day",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "09:00"}, "timezone": "UTC"}),
            "/send_window/until: must not be the same",
        ),
        (
            json!({"quiet_hours": {"from": "09:00", "until": "09:00"}, "timezone": "UTC"}),
            "/quiet_hours/until: must not be the same",
        ),
        (
            json!({"quiet_hours": {"from": "00:00", "until": "24:00"}, "timezone": "UTC"}),
            "/quiet_hours: never end",
        ),
        (
            json!({"quiet_hours": {"from": "21:00", "until": "08:00", "days": ["mon"]}, "timezone": "UTC"}),
            "/quiet_hours/days: is not known",
        ),
        (
            json!({"send_window": {"from": "22:00", "until": "07:00"}, "quiet_hours": {"from": "21:00", "until": "08:00"}, "timezone": "UTC"}),
            "/send_window: never opens",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00", "days": []}, "timezone": "UTC"}),
            "/send_window/days: must be a list of one to seven",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00", "days": ["Mon"]}, "timezone": "UTC"}),
            "/send_window/days/0: must be one of mon, tue",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00", "days": ["mon", "mon"]}, "timezone": "UTC"}),
            "/send_window/days/1: is there a second time",
        ),
    ] {
        let problems = Reachable::read(&window).expect_err("it is wrong");
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|problem| problem.contains(said)),
            "{said}: {problems:?}"
        );
    }
    assert!(Reachable::parse(b"{").is_err());
    assert!(Reachable::parse(&[b' '; WINDOW_BYTES_MAX + 1]).is_err());
}

/// Hours of a day that may go over midnight, said once more and more simply.
fn holds(hours: &str, day: i8, minute: i16, days: &[bool; 7]) -> bool {
    let (from, until) = hours.split_once('-').unwrap();
    let read = |text: &str| -> i16 {
        let (hour, minute) = text.split_once(':').unwrap();
        hour.parse::<i16>().unwrap() * 60 + minute.parse::<i16>().unwrap()
    };
    let (from, until) = (read(from), read(until));
    let is_day = |day: i8| days[usize::try_from(day.rem_euclid(7)).unwrap()];
    match from < until {
        true => is_day(day) && (from..until).contains(&minute),
        false => is_day(day) && minute >= from || is_day(day - 1) && minute < until,
    }
}

struct Naive {
    send: String,
    days: [bool; 7],
    quiet: Option<String>,
    zone: TimeZone,
}

impl Naive {
    fn is_open(&self, at: Timestamp) -> bool {
        let wall = self.zone.to_datetime(at);
        let day = wall.weekday().to_monday_zero_offset();
        let minute = i16::from(wall.hour()) * 60 + i16::from(wall.minute());
        let quiet = self.quiet.as_ref();
        holds(&self.send, day, minute, &self.days)
            && !quiet.is_some_and(|quiet| holds(quiet, day, minute, &[true; 7]))
    }

    fn read(&self) -> Option<Reachable> {
        let hours = |text: &str| {
            let (from, until) = text.split_once('-').unwrap();
            json!({"from": from, "until": until})
        };
        let mut send = hours(&self.send);
        let days = DAYS.iter().zip(self.days).filter(|(_, is_day)| *is_day);
        send["days"] = days.map(|((name, _), _)| *name).collect();
        let quiet = self.quiet.as_deref().map(hours);
        Reachable::read(&json!({"send_window": send, "quiet_hours": quiet, "timezone": "UTC"})).ok()
    }
}

/// Walks minute by minute and compares what is said with what is.
fn walk(naive: &Naive, from: Timestamp, minutes: i64) {
    let Some(reachable) = naive.read() else {
        return;
    };
    let mut said = reachable.at(Some(&naive.zone), from);
    let mut now = from;
    for _ in 0..minutes {
        let is_open = naive.is_open(now);
        let reach = reachable.at(Some(&naive.zone), now);
        assert_eq!(matches!(reach, Reach::Open { .. }), is_open, "{now}");
        let next = match said {
            Reach::Open { closes_at } => closes_at,
            Reach::Closed { opens_at } => Some(opens_at),
        };
        // What was said holds up to the minute it names, and not in that minute.
        match next {
            Some(next) if now >= next => {
                assert_eq!(now, next);
                assert_ne!(matches!(said, Reach::Open { .. }), is_open, "{now}");
                let before = next.checked_sub(1.minute()).unwrap();
                assert_ne!(naive.is_open(before), is_open, "{now}");
                said = reach;
            }
            _ => assert_eq!(said, reach, "{now}"),
        }
        now = now.checked_add(SignedDuration::from_mins(1)).unwrap();
    }
}

fn hours() -> impl Strategy<Value = String> {
    let time = |minute: i16| format!("{:02}:{:02}", minute / 60, minute % 60);
    // Half of them near the hours at which clocks are changed.
    let minute = prop_oneof![0..1440i16, 0..240i16];
    (minute.clone(), minute)
        .prop_filter("they differ", |(from, until)| from != until)
        .prop_map(move |(from, until)| format!("{}-{}", time(from), time(until)))
}

const ZONES: [&str; 6] = [
    "Europe/Paris",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/St_Johns",
    "UTC",
];

#[test]
fn a_year_minute_by_minute_agrees_with_a_naive_clock() {
    // 2011: Apia lost a day, São Paulo changed its clocks at midnight.
    for name in ZONES {
        let naive = Naive {
            send: "08:30-00:15".to_owned(),
            days: [true, true, false, true, true, true, false],
            quiet: Some("12:00-13:30".to_owned()),
            zone: zone(name),
        };
        walk(&naive, at("2011-01-01T00:00:00Z"), 366 * 24 * 60);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_hours_agree_with_a_naive_clock_around_every_change(
        send in hours(), quiet in prop::option::of(hours()), days in any::<[bool; 7]>(),
        name in prop::sample::select(&ZONES[..]), year in prop::sample::select(vec![2011i16, 2018, 2026]),
        start in 0..365i64,
    ) {
        let zone = zone(name);
        let naive = Naive { send, days, quiet, zone: zone.clone() };
        let first = at(&format!("{year}-01-01T00:00:00Z"));
        let start = first.checked_add(SignedDuration::from_hours(start * 24)).unwrap();
        walk(&naive, start, 8 * 24 * 60);
        for change in zone.following(first).take(2) {
            let before = change.timestamp().checked_sub(SignedDuration::from_hours(30)).unwrap();
            if change.timestamp().as_second() % 60 == 0 {
                walk(&naive, before, 3 * 24 * 60);
            }
        }
    }

    #[test]
    fn any_moment_has_an_answer(
        second in Timestamp::MIN.as_second()..Timestamp::MAX.as_second(), nano in 0..1_000_000_000i32,
    ) {
        if let Ok(now) = Timestamp::new(second, nano) {
            match day().at(None, now) {
                Reach::Open { closes_at } => prop_assert!(closes_at.is_none_or(|then| then > now)),
                Reach::Closed { opens_at } => prop_assert!(opens_at > now),
            }
        }
    }
}

#[test]
fn the_ends_of_time_have_an_answer() {
    for now in [
        Timestamp::MIN,
        Timestamp::MAX,
        at("1969-12-31T23:59:59.5Z"),
        at("1600-01-01T00:00:00Z"),
    ] {
        for name in ZONES {
            match day().at(Some(&zone(name)), now) {
                Reach::Open { closes_at } => assert!(closes_at.is_none_or(|then| then > now)),
                Reach::Closed { opens_at } => assert!(opens_at > now || now == Timestamp::MAX),
            }
        }
    }
}
