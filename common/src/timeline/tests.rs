use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;
use crate::audience::{Recipient, Rule};

fn content(json: &serde_json::Value) -> Result<Content, String> {
    Content::parse(&json.to_string()).map_err(|invalid| invalid.to_string())
}

fn said(content: &Content, wanted: Option<&str>) -> String {
    let (language, message) = content.message_for(wanted).expect("there is one");
    format!("{language}: {}", message.get())
}

#[test]
fn a_message_is_in_the_language_that_is_nearest() {
    let texts = json!({"language": "en", "messages": {
        "en": {"title": "a"}, "FR": {"title": "b"}, "zh-hant": {"title": "c"}}});
    let content = content(&texts).unwrap();
    let kept = Content::of_kept(&content.json()).expect("it was just written");
    assert_eq!(kept.json(), content.json());
    for (wanted, expected) in [
        (None, "en"),
        (Some("en-GB"), "en"),
        (Some("fr"), "fr"),
        (Some("fr-CA-x-y"), "fr"),
        (Some("zh-Hant-TW"), "zh-Hant"),
        (Some("zh"), "en"),
        (Some("f"), "en"),
    ] {
        let said = said(&kept, wanted);
        assert!(
            said.starts_with(&format!("{expected}: ")),
            "{wanted:?}: {said}"
        );
    }
}

#[test]
fn what_is_too_much_or_there_twice_is_no_content() {
    let many: serde_json::Map<_, _> = (0..=LANGUAGES_MAX)
        .map(|n| (format!("xa-{n}"), json!({"title": "x"})))
        .collect();
    assert!(
        content(&json!({"language": "xa-0", "messages": many}))
            .unwrap_err()
            .contains("64 languages")
    );
    let twice = json!({"language": "fr", "messages": {"fr": {"title": "x"}, "FR": {"title": "y"}}});
    assert!(content(&twice).unwrap_err().contains("twice"));
    let long: serde_json::Map<_, _> = (0..10)
        .map(|n| {
            (
                format!("en-{n}"),
                json!({"title": "x", "body": "x".repeat(4000)}),
            )
        })
        .collect();
    let long = content(&json!({"language": "en-0", "messages": long})).unwrap_err();
    assert!(long.contains("32768"), "{long}");
}

#[test]
fn a_link_leads_nowhere_that_runs_by_itself() {
    let is_taken = |url: &str| {
        let message = MessageInput {
            title: Some("x".to_owned()),
            url: Some(url.to_owned()),
            ..MessageInput::default()
        };
        message.into_message().is_ok()
    };
    for good in [
        "/",
        "/a?b#c",
        "https://x.example/",
        "http://x",
        "myapp://open/7",
        "mailto:a@b.example",
    ] {
        assert!(is_taken(good), "{good}");
    }
    let long = format!("/{}", "x".repeat(URL_BYTES_MAX));
    for bad in [
        "",
        "x",
        "//x.example",
        "/\\x.example",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "blob:x",
        "file:///etc/passwd",
        "/a b",
        &long,
    ] {
        assert!(!is_taken(bad), "{bad}");
    }
}

#[test]
fn something_is_shown_for_as_long_as_is_said_or_usual_and_never_backwards() {
    let now: Timestamp = "2028-02-29T12:00:00Z".parse().unwrap();
    let hours = |hours: i64| Some(now + SignedDuration::from_hours(hours));
    let of = |starts, ends| {
        Period::of(starts, ends, now)
            .map(|p| (p.starts_at, p.ends_at))
            .ok()
    };
    assert_eq!(of(None, None), Some((now, hours(24 * 90).unwrap())));
    assert_eq!(of(hours(-1), hours(1)), Some((now, hours(1).unwrap())));
    assert_eq!(of(hours(5), hours(5)), None);
    assert_eq!(
        of(hours(5), hours(6)),
        Some((hours(5).unwrap(), hours(6).unwrap()))
    );
    assert_eq!(of(None, Some(now)), None);
    assert!(of(None, hours(24 * 366)).is_some() && of(None, hours(24 * 366 + 1)).is_none());
    assert!(of(Some(Timestamp::MAX), None).is_none());
}

fn id(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// For everybody if `n` is even.
fn announcement(n: u8, starts: i64, ends: i64) -> Announcement {
    let rule = if n.is_multiple_of(2) {
        r#"{"all":true}"#
    } else {
        r#"{"plan":["pro"]}"#
    };
    Announcement {
        id: id(n),
        starts_at: at(starts),
        ends_at: at(ends),
        rule: Rule::parse(rule).unwrap(),
        content: content(&json!({"messages": {"en": {"title": "x"}}})).unwrap(),
    }
}

fn entry(n: u8, created: i64, is_marked: bool) -> Entry {
    Entry {
        id: id(n),
        created_at: at(created),
        ends_at: at(1000),
        is_marked,
        language: None,
        message: RawValue::from_string("{}".to_owned()).unwrap(),
    }
}

/// What the database would answer.
fn glance(entries: &[Entry], read_to: Position, read_ids: &[Uuid], asked: Asked) -> Glance {
    let position = |entry: &Entry| Position {
        at: entry.created_at,
        id: entry.id,
    };
    let is_read = |entry: &Entry| entry.is_marked || position(entry) <= read_to;
    let mut entries: Vec<Entry> = entries.to_vec();
    entries.sort_by_key(|entry| std::cmp::Reverse(position(entry)));
    let unread_entries = entries.iter().filter(|entry| !is_read(entry)).count();
    let entries = entries.into_iter().filter(|entry| {
        asked.before.is_none_or(|before| position(entry) < before)
            && !(asked.is_unread && is_read(entry))
    });
    Glance {
        now: at(50),
        version: 1,
        recipient: Recipient::default(),
        read_to,
        read_ids: read_ids.to_vec(),
        entries: entries.take(asked.limit + 1).collect(),
        unread_entries,
    }
}

proptest! {
    #[test]
    fn pages_one_after_the_other_are_all_of_it_in_order_and_once(
        announced in proptest::collection::vec((0_i64..100, 1_i64..100), 0..30),
        created in proptest::collection::vec((0_i64..50, any::<bool>()), 0..30),
        (read_to, is_unread, limit) in (0_i64..60, any::<bool>(), 1_usize..10),
    ) {
        let announced: Vec<_> = announced.iter().zip(0..)
            .map(|(&(starts, length), n)| announcement(n, starts, starts + length)).collect();
        let entries: Vec<_> = created.iter().zip(100..)
            .map(|(&(second, is_marked), n)| entry(n, second, is_marked)).collect();
        let read_to = Position { at: at(read_to), id: id(90) };
        let read_ids: Vec<_> = (0..20).step_by(3).map(id).collect();

        let mut expected: Vec<(Position, bool)> = announced.iter()
            .filter(|one| one.id.as_u128() % 2 == 0 && one.starts_at <= at(50) && one.ends_at > at(50))
            .map(|one| (Position { at: one.starts_at, id: one.id }, read_ids.contains(&one.id)))
            .chain(entries.iter().map(|one| (Position { at: one.created_at, id: one.id }, one.is_marked)))
            .map(|(position, is_marked)| (position, is_marked || position <= read_to))
            .collect();
        let unread = expected.iter().filter(|(_, is_read)| !is_read).count();
        expected.retain(|(_, is_read)| !(is_unread && *is_read));
        expected.sort_by_key(|(position, _)| std::cmp::Reverse(*position));

        let announcements = Announcements::new(announced, 0);
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let asked = Asked { limit, before, is_unread };
            let glance = glance(&entries, read_to, &read_ids, asked);
            let page = page(&glance, &announcements, asked);
            prop_assert!(page.items.len() <= limit);
            prop_assert_eq!(page.unread, unread.min(UNREAD_MAX));
            found.extend(page.items.iter().map(|item| (Position { at: item.at, id: item.id }, item.read)));
            before = match page.next {
                // As it is written and read again.
                Some(next) => Position::of_cursor(&next.to_string()),
                None => break,
            };
            prop_assert!(before.is_some());
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn fuzz_any_text_is_a_place_or_none(text in "(?s).{0,60}|[0-9]{0,20}\\.[0-9a-f-]{36}") {
        if let Some(position) = Position::of_cursor(&text) {
            prop_assert_eq!(Position::of_cursor(&position.to_string()), Some(position));
        }
    }
}
