//! How fast the parts are, on the machine at hand. Nothing fails because it is slow.
//!
//! `cargo test --release -p postroad-common --features campaign campaign::measure -- --ignored --nocapture --test-threads=1`

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

/// The recipients of the demo.
const SAMPLE: &str = include_str!("../../../cli/data/recipients.sample.csv");

fn content() -> Content {
    let content = json!({
        "channels": {"sms": {"kind": "sms", "args": {
            "en": {"to": "{{to}}", "text": "Hi {{name}}"},
            "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
        }}},
        "language": "en",
        "variables": {"name": {"default": "friend"}},
    });
    Content::read(&content).unwrap()
}

/// An upload of this many recipients.
fn upload(recipients: usize) -> String {
    let rows = SAMPLE.lines().skip(1).cycle().take(recipients);
    let mut csv = String::from("to,name,language,timezone\n");
    for row in rows {
        let fields: Vec<&str> = row.split(',').collect();
        csv.push_str(&format!("{},Ana,{},{}\n", fields[0], fields[2], fields[3]));
    }
    csv
}

fn read(format: Format, text: &str) -> Vec<Recipient> {
    let mut reader = Reader::new(format, &content(), None);
    let mut lines = Vec::new();
    for piece in text.as_bytes().chunks(64 * 1024) {
        reader.feed(piece, &mut lines).unwrap();
    }
    reader.finish(&mut lines).unwrap();
    lines
        .into_iter()
        .map(|line| line.recipient.unwrap())
        .collect()
}

fn told(what: &str, count: usize, took: Duration) {
    println!(
        "{what}: {:.2} µs each of {count}",
        took.as_secs_f64() * 1e6 / count as f64
    );
}

#[test]
#[ignore = "prints figures"]
fn of_a_phone_number() {
    let numbers: Vec<&str> = SAMPLE
        .lines()
        .skip(1)
        .filter_map(|row| row.split(',').next())
        .collect();
    let start = Instant::now();
    for number in numbers.iter().cycle().take(500_000) {
        assert!(AddressKind::Phone.check(black_box(number), None).is_ok());
    }
    told("a phone number", 500_000, start.elapsed());
}

#[test]
#[ignore = "prints figures"]
fn of_a_line() {
    let csv = upload(500_000);
    let start = Instant::now();
    let recipients = read(Format::Csv, &csv);
    told("a line of CSV", recipients.len(), start.elapsed());
    let ndjson: String = recipients
        .iter()
        .map(|r| {
            json!({"to": r.to, "name": "Ana", "language": r.language, "timezone": r.timezone})
                .to_string()
                + "\n"
        })
        .collect();
    let start = Instant::now();
    let recipients = read(Format::Ndjson, &ndjson);
    told("a line of NDJSON", recipients.len(), start.elapsed());
    let start = Instant::now();
    let rows: usize = recipients
        .chunks(1_000)
        .map(|rows| serde_json::to_string(rows).unwrap().len())
        .sum();
    told("a recipient written", recipients.len(), start.elapsed());
    println!(
        "a recipient kept: {:.1} bytes",
        rows as f64 / recipients.len() as f64
    );
    let row = serde_json::to_string(&recipients[..1_000]).unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        let back: Vec<Recipient> = serde_json::from_str(black_box(&row)).unwrap();
        assert_eq!(back.len(), 1_000);
    }
    told("a recipient read back", 200_000, start.elapsed());
}

#[test]
#[ignore = "prints figures"]
fn of_a_message() {
    let recipients = read(Format::Csv, &upload(1_000));
    let content = content();
    let common = Common {
        campaign: "spring",
        timezone: "UTC",
    };
    let start = Instant::now();
    for recipient in recipients.iter().cycle().take(500_000) {
        black_box(content.render(black_box(recipient), common).unwrap());
    }
    told("a message", 500_000, start.elapsed());
    let start = Instant::now();
    let id = uuid::Uuid::now_v7();
    for recipient in recipients.iter().cycle().take(500_000) {
        black_box(child_id(
            id,
            &recipient.key(&content),
            jiff::Timestamp::UNIX_EPOCH,
        ));
    }
    told("an id", 500_000, start.elapsed());
    let window = json!({
        "send_window": {"from": "09:00", "until": "20:00", "days": ["mon", "tue", "wed", "thu", "fri"]},
        "quiet_hours": {"from": "21:00", "until": "08:00"}, "timezone": "Europe/Paris",
    });
    let window = Reachable::read(&window).unwrap();
    let now: jiff::Timestamp = "2026-11-28T20:00:00Z".parse().unwrap();
    let start = Instant::now();
    for recipient in recipients.iter().cycle().take(500_000) {
        let zone = recipient.timezone.as_deref().and_then(crate::zone::find);
        black_box(window.at(zone.as_ref(), black_box(now)));
    }
    told("a look at the clock", 500_000, start.elapsed());
}

#[test]
#[ignore = "prints figures"]
fn of_the_worst() {
    // As many expressions as there may be, in as many bytes.
    let texts = vec!["{{ name|upper }} {{ to }}"; 240];
    let languages: serde_json::Map<_, _> = ('a'..='t')
        .map(|letter| (format!("e{letter}"), json!(texts)))
        .collect();
    let content = json!({
        "channels": {"sms": {"kind": "sms", "args": languages}},
        "language": "ea",
        "variables": {"name": {}},
    });
    let start = Instant::now();
    let content = Content::read(black_box(&content)).unwrap();
    told("a content of 9,600 expressions", 1, start.elapsed());
    drop(content);
    // As much work as is allowed, and some that is not.
    let text = "{{ name|upper|lower|upper|lower|upper|lower|upper|lower|upper|lower|length }}";
    let content = json!({
        "channels": {"push": {"kind": "push", "args": {"en": vec![text; 100]}}},
        "language": "en",
        "variables": {"name": {}},
    });
    let content = Content::read(&content).unwrap();
    let recipient = Recipient {
        to: "x".to_owned(),
        channel: None,
        language: None,
        timezone: None,
        variables: vec![Some("é".repeat(2_000))],
    };
    let common = Common {
        campaign: "spring",
        timezone: "UTC",
    };
    let start = Instant::now();
    for _ in 0..100 {
        assert!(content.render(&recipient, common).is_err());
    }
    told("a message that is too much work", 100, start.elapsed());
}
