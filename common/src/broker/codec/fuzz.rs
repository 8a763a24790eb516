//! Messages as somebody may forge them who can write to the broker.

use std::collections::BTreeMap;

use lapin::types::{AMQPType, DecimalValue};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::*;
use crate::job::JobId;

/// Short strings, near their limit too.
fn short_string() -> impl Strategy<Value = ShortString> {
    let text = prop_oneof![
        4 => ".{0,12}",
        1 => "[a-z]{250,255}",
        1 => Just("\0".to_owned()),
    ];
    text.prop_map(|text| ShortString::try_new(text).unwrap_or_default())
}

fn leaf() -> impl Strategy<Value = AMQPValue> {
    prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        prop_oneof![any::<i32>(), Just(VERSION)].prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        prop_oneof![any::<i64>(), Just(0), Just(-1)].prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        short_string().prop_map(AMQPValue::ShortString),
        ".{0,40}".prop_map(|text| AMQPValue::LongString(text.into())),
        vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        Just(AMQPValue::Void),
    ]
}

/// Every type that AMQP knows, tables and arrays nested in each other.
fn value() -> impl Strategy<Value = AMQPValue> {
    leaf().prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|values| AMQPValue::FieldArray(values.into())),
            btree_map(short_string(), inner, 0..5)
                .prop_map(|fields| AMQPValue::FieldTable(fields.into())),
        ]
    })
}

/// What a broker writes, and what somebody else may write in its name.
fn deaths() -> impl Strategy<Value = AMQPValue> {
    let known = prop_oneof![Just("rejected"), Just("expired"), Just("delivery_limit")];
    let known = known.prop_map(|reason| AMQPValue::LongString(reason.into()));
    let reason = prop_oneof![known, value()];
    let death = reason.prop_map(|reason| {
        let mut death = FieldTable::default();
        death.insert("reason".into(), reason);
        AMQPValue::FieldTable(death)
    });
    let deaths = vec(prop_oneof![death, value()], 0..3);
    prop_oneof![
        deaths.prop_map(|deaths| AMQPValue::FieldArray(deaths.into())),
        value(),
    ]
}

fn headers() -> impl Strategy<Value = FieldTable> {
    let right = |name: &'static str, right: AMQPValue| {
        let one = prop_oneof![2 => Just(right), 1 => value()];
        option::weighted(0.9, one.prop_map(move |value| (name, value)))
    };
    let known = [X_VERSION, X_DISPATCH, X_ATTEMPT, X_TENANT, TRACEPARENT].map(|name| {
        let text = matches!(name, X_TENANT | TRACEPARENT);
        let value = match text {
            true => AMQPValue::LongString("acme".into()),
            false => AMQPValue::LongInt(VERSION),
        };
        right(name, value)
    });
    let bundle = option::weighted(0.3, Just((X_VERSION, AMQPValue::LongInt(BUNDLE_VERSION))));
    let deaths = option::of(deaths().prop_map(|deaths| (X_DEATH, deaths)));
    let other = btree_map(short_string(), value(), 0..3);
    (known, deaths, bundle, other).prop_map(|(known, deaths, bundle, other)| {
        let mut headers = FieldTable::from(other);
        for (name, value) in known.into_iter().chain([deaths, bundle]).flatten() {
            headers.insert(name.into(), value);
        }
        headers
    })
}

fn message_id() -> impl Strategy<Value = ShortString> {
    let id = any::<[u8; 16]>().prop_map(|bytes| Uuid::from_bytes(bytes).to_string());
    prop_oneof![id.prop_map(|id| id.as_str().into()), short_string()]
}

fn any_properties() -> impl Strategy<Value = BasicProperties> {
    let fields = (
        option::weighted(0.9, message_id()),
        option::weighted(0.9, short_string()),
        option::weighted(0.9, headers()),
        option::of(short_string()),
        option::of(any::<u8>()),
    );
    fields.prop_map(|(id, kind, headers, expiration, mode)| {
        let mut properties = BasicProperties::default();
        if let Some(id) = id {
            properties = properties.with_message_id(id);
        }
        if let Some(kind) = kind {
            properties = properties.with_type(kind);
        }
        if let Some(headers) = headers {
            properties = properties.with_headers(headers);
        }
        if let Some(expiration) = expiration {
            properties = properties.with_expiration(expiration);
        }
        if let Some(mode) = mode {
            properties = properties.with_delivery_mode(mode);
        }
        properties
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(".{0,4}", inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Bytes that are nearly JSON, and some that are not at all.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(json, at, byte)| {
            let mut body = json.to_string().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            body
        });
    let bundle = (
        any::<[u8; 16]>(),
        -1..9i64,
        json(),
        0..4usize,
        any::<prop::sample::Index>(),
        any::<u8>(),
    )
        .prop_map(|(id, dispatch, args, jobs, at, byte)| {
            let job = Envelope {
                id: JobId::from(Uuid::from_bytes(id)),
                dispatch,
                kind: "sms".to_owned(),
                tenant: "acme".to_owned(),
                attempt: 1,
                traceparent: None,
                body: args.to_string().into_bytes(),
            };
            let mut body = bundle_body(&vec![job; jobs]);
            let at = at.index(body.len());
            // Every other one is left as it is.
            if byte >= 128 {
                body[at] = byte & 127;
            }
            body
        });
    let tokens = r#"[\[\]{},:"\\ue0-9.+\-tfn \x00]{0,40}"#;
    prop_oneof![
        damaged,
        bundle,
        tokens.prop_map(String::into_bytes),
        vec(any::<u8>(), 0..60)
    ]
}

fn raw(properties: BasicProperties, body: Vec<u8>) -> RawMessage {
    RawMessage { properties, body }
}

fn accepts(body: &[u8]) -> bool {
    check_body(body).is_ok()
}

/// What a second reader says, which builds everything it reads. None: it came to something that
/// it could not hold, and does not know the rest.
fn is_json(body: &[u8]) -> Option<bool> {
    let Err(error) = serde_json::from_slice::<Value>(body) else {
        return Some(true);
    };
    let text = error.to_string();
    let limits = ["number out of range", "surrogate", "recursion limit"];
    let is_full = limits.iter().any(|limit| text.contains(limit));
    (!is_full).then_some(false)
}

#[test]
fn the_strategy_makes_every_type_of_value() {
    let mut runner = TestRunner::deterministic();
    let mut seen = Vec::new();
    for _ in 0..2000 {
        let tree = value().new_tree(&mut runner).unwrap();
        let of_type = tree.current().get_type();
        if !seen.contains(&of_type) {
            seen.push(of_type);
        }
    }
    for code in ('\0'..='~').filter_map(AMQPType::from_id) {
        assert!(seen.contains(&code), "{code:?} is missing in {seen:?}");
    }
}

#[test]
fn what_a_value_cannot_hold_is_json_all_the_same() {
    for body in [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\u0000""#,
        "1e999999",
        "-0",
        r#"{"a":1,"a":2}"#,
        &"9".repeat(100_000),
    ] {
        assert!(accepts(body.as_bytes()), "{body:.40}");
    }
    for body in [
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "0x1",
        "NaN",
        "Infinity",
        "'a'",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\0",
        "{}\0",
        "// {}",
        "\u{a0}1",
        "nul",
        "truee",
    ] {
        assert!(!accepts(body.as_bytes()), "{body}");
    }
    for opening in ["[", "{\"a\":"] {
        assert!(!accepts(opening.repeat(100_000).as_bytes()), "{opening}");
    }
}

proptest! {
    #[test]
    fn a_forged_message_is_read_or_refused_and_parked_as_it_is(
        properties in any_properties(),
        body in any_body(),
        reason in ".{0,60}",
    ) {
        let message = raw(properties.clone(), body.clone());
        let is_json = is_json(&body).unwrap_or(accepts(&body));
        let jobs = message.clone().into_jobs();
        for job in jobs.iter().flatten() {
            prop_assert!(job.dispatch > 0);
            prop_assert!(!job.kind.is_empty());
        }
        match (message.named_job(), jobs) {
            (Some(head), Ok(jobs)) => {
                prop_assert!(is_json);
                prop_assert_eq!(jobs, vec![Envelope { body: body.clone(), ..head }]);
            }
            (Some(head), Err(why)) => {
                prop_assert!(head.body.is_empty());
                prop_assert_eq!((why, is_json), (Unreadable::Body, false), "{:?}", body);
            }
            // A bundle, or what nobody can read.
            (None, Ok(_)) => prop_assert!(message.is_bundle() && is_json),
            (None, Err(_)) => {}
        }
        message.death_reason();

        let (parked, same_body) = message.parked(&reason);
        prop_assert_eq!(same_body, body);
        prop_assert_eq!(parked.message_id(), properties.message_id());
        prop_assert_eq!(parked.kind(), properties.kind());
        let inner = |properties: &BasicProperties| -> BTreeMap<_, _> {
            properties.headers().clone().unwrap_or_default().inner().clone()
        };
        let mut expected = inner(&properties);
        expected.insert(X_PARKED_REASON.into(), AMQPValue::LongString(reason.into()));
        prop_assert_eq!(inner(&parked), expected);
    }

    #[test]
    fn what_is_written_is_what_is_read_whatever_it_is(
        id in any::<[u8; 16]>(),
        dispatch in 1..=i64::MAX,
        kind in "[a-z0-9][a-z0-9._-]{0,62}",
        tenant in "[a-z0-9][a-z0-9._-]{0,62}",
        attempt in any::<i32>(),
        traceparent in option::of("(?s).{0,255}"),
        json in json(),
        wait in any::<u64>(),
        timestamp in any::<u64>(),
    ) {
        let envelope = Envelope {
            id: JobId::from(Uuid::from_bytes(id)),
            dispatch,
            kind,
            tenant,
            attempt,
            traceparent,
            body: json.to_string().into_bytes(),
        };
        let properties = properties(&envelope, Duration::from_millis(wait), timestamp);
        let message = raw(properties, envelope.body.clone());
        prop_assert_eq!(message.into_jobs(), Ok(vec![envelope.clone()]));
        let bundle = vec![envelope; 3];
        let properties = bundle_properties(bundle.len(), Duration::from_millis(wait), timestamp);
        prop_assert_eq!(raw(properties, bundle_body(&bundle)).into_jobs(), Ok(bundle));
    }

    #[test]
    fn a_body_that_was_cut_off_is_refused_wherever_it_was(json in json()) {
        let body = serde_json::json!({ "a": json }).to_string();
        prop_assert!(accepts(body.as_bytes()));
        for end in 0..body.len() {
            prop_assert!(!accepts(&body.as_bytes()[..end]), "accepted: {}", end);
        }
    }

    #[test]
    fn what_a_value_holds_is_accepted(json in json(), space in "[ \t\r\n]{0,3}") {
        let body = format!("{space}{json}{space}");
        prop_assert!(accepts(body.as_bytes()), "refused: {}", body);
    }

    #[test]
    fn bytes_that_are_no_json_are_refused(body in any_body()) {
        let accepted = accepts(&body);
        prop_assert_eq!(accepted, is_json(&body).unwrap_or(accepted));
    }
}
