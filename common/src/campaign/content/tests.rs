use proptest::prelude::*;
use serde_json::json;

use super::*;

fn sms() -> Value {
    json!({
        "channels": {
            "sms": {
                "kind": "sms", "queue": "sms", "address": "phone", "priority": 1, "max_attempts": 5,
                "cost": 0.045,
                "args": {
                    "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                    "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
                },
            },
            "push": {"kind": "push", "args": {"en": {"user": "{{to}}", "title": "Hi", "badge": 1}}},
        },
        "channel": "sms",
        "language": "en",
        "variables": {"name": {"default": "friend"}, "code": {}},
        "currency": "EUR",
    })
}

fn recipient(language: Option<&str>, variables: &[Option<&str>]) -> Recipient {
    Recipient {
        to: "+33639980606".to_owned(),
        channel: None,
        language: language.map(str::to_owned),
        timezone: None,
        variables: variables
            .iter()
            .map(|text| text.map(str::to_owned))
            .collect(),
    }
}

const COMMON: Common<'static> = Common {
    campaign: "spring",
    timezone: "Europe/Paris",
};

/// What is said of a content, as `pointer: what`.
fn refused(content: &Value) -> Vec<String> {
    let problems = Content::read(content).expect_err("it is wrong");
    problems.iter().map(ToString::to_string).collect()
}

/// The content with one member set to something else.
fn with(pointer: &str, value: Value) -> Value {
    let mut content = sms();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = content
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap();
    parent.insert(key.to_owned(), value);
    content
}

#[test]
fn a_content_is_read() {
    let content = Content::read(&sms()).unwrap();
    let names: Vec<&str> = content
        .channels()
        .iter()
        .map(|channel| &*channel.name)
        .collect();
    assert_eq!(names, ["push", "sms"]);
    let sms = content.default_channel();
    assert_eq!(&*sms.name, "sms");
    assert_eq!((sms.kind.as_str(), sms.queue.as_str()), ("sms", "sms"));
    assert_eq!(sms.address, AddressKind::Phone);
    assert_eq!((sms.priority, sms.max_attempts), (Some(1), Some(5)));
    assert_eq!(sms.cost_micros, Some(45_000));
    let languages: Vec<&str> = sms.languages().map(Language::as_str).collect();
    assert_eq!(languages, ["en", "fr"]);
    let push = content.channel("push").unwrap();
    assert_eq!(
        (push.queue.as_str(), push.address),
        ("default", AddressKind::Text)
    );
    assert_eq!(
        (push.priority, push.max_attempts, push.cost_micros),
        (None, None, None)
    );
    let variables: Vec<_> = content
        .variables()
        .iter()
        .map(|v| (&*v.name, v.default.as_deref()))
        .collect();
    assert_eq!(variables, [("code", None), ("name", Some("friend"))]);
    assert_eq!(
        (content.language().as_str(), content.currency()),
        ("en", Some("EUR"))
    );
}

#[test]
fn the_smallest_content_has_one_channel_in_one_language() {
    let content = json!({"channels": {"m": {"kind": "sms", "args": {"en": {}}}}, "language": "EN"});
    let content = Content::read(&content).unwrap();
    assert_eq!(content.default_channel().address, AddressKind::Phone);
    let message = content.render(&recipient(None, &[]), COMMON).unwrap();
    assert_eq!(message.args.get(), "{}");
}

#[test]
fn a_language_is_the_nearest_one() {
    let content = Content::read(&sms()).unwrap();
    for (wanted, text) in [
        (Some("fr"), "Bonjour Ana"),
        (Some("fr-CA"), "Bonjour Ana"),
        (Some("de"), "Hi Ana"),
        (Some("en-GB"), "Hi Ana"),
        (None, "Hi Ana"),
    ] {
        let recipient = recipient(wanted, &[Some("x"), Some("Ana")]);
        let message = content.render(&recipient, COMMON).unwrap();
        let args: Value = serde_json::from_str(message.args.get()).unwrap();
        assert_eq!(
            args,
            json!({"to": "+33639980606", "text": text}),
            "{wanted:?}"
        );
    }
}

#[test]
fn a_default_stands_in_and_a_required_variable_is_missed() {
    let content = Content::read(&sms()).unwrap();
    let message = content
        .render(&recipient(None, &[Some("x")]), COMMON)
        .unwrap();
    assert!(message.args.get().contains("Hi friend"), "{}", message.args);
    let error = content.render(&recipient(None, &[]), COMMON).unwrap_err();
    assert_eq!(
        error.to_string(),
        "+33639980606: channel sms, language en: the variable `code` is missing"
    );
    let stray = Recipient {
        channel: Some("fax".to_owned()),
        ..recipient(None, &[])
    };
    let error = content.render(&stray, COMMON).unwrap_err().to_string();
    assert!(error.contains("no such channel"), "{error}");
}

#[test]
fn each_refusal_names_its_place() {
    let many = |count: usize, value: Value| -> Value {
        (0..count)
            .map(|n| (format!("x{n}"), value.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let tags: serde_json::Map<_, _> = (0..65u8)
        .map(|n| {
            (
                format!("{}{}", (b'a' + n / 26) as char, (b'a' + n % 26) as char),
                json!({}),
            )
        })
        .collect();
    let cases = [
        (json!([]), "must be an object"),
        (json!({}), "/channels: is missing"),
        (with("/chanels", json!({})), "/chanels: is not known"),
        (
            with("/channel", json!("fax")),
            "/channel: is none of the channels",
        ),
        (with("/channel", json!(null)), "/channel: is missing"),
        (with("/channel", json!(1)), "/channel: must be a text"),
        (
            with("/language", json!("english")),
            "/language: must be the tag",
        ),
        (with("/language", json!(null)), "/language: is missing"),
        (
            with("/language", json!("de")),
            "/channels/push/args: lack the language de",
        ),
        (
            with("/currency", json!("euro")),
            "/currency: must be the three letters",
        ),
        (with("/currency", json!(null)), "/channels/sms/cost: needs"),
        (
            with("/variables", json!([])),
            "/variables: must be an object",
        ),
        (
            with("/variables", many(65, json!({}))),
            "/variables: must have at most 64",
        ),
        (
            with("/variables/to", json!({})),
            "/variables/to: must be named",
        ),
        (
            with("/variables/channel", json!({})),
            "/variables/channel: must be named",
        ),
        (
            with("/variables/if", json!({})),
            "/variables/if: must be named",
        ),
        (
            with("/variables/a b", json!({})),
            "/variables/a b: must be named",
        ),
        (
            with("/variables/a~1b", json!({})),
            "/variables/a~01b: must be named",
        ),
        (
            with("/variables/1a", json!({})),
            "/variables/1a: must be named",
        ),
        (
            with("/variables/code/defualt", json!("x")),
            "/variables/code/defualt: is not known",
        ),
        (
            with("/variables/code/default", json!([])),
            "/variables/code/default: must be a text",
        ),
        (
            with("/variables/code/default", json!("x".repeat(5000))),
            "/variables/code/default: must be at most 4 KiB",
        ),
        (with("/channels", json!({})), "/channels: must have 1 to 16"),
        (
            with("/channels", many(17, json!({}))),
            "/channels: must have 1 to 16",
        ),
        (
            with("/channels/SMS", json!({})),
            "/channels/SMS: must be named",
        ),
        (
            with("/channels/sms/kind", json!(null)),
            "/channels/sms/kind: is missing",
        ),
        (
            with("/channels/sms/kind", json!("No!")),
            "/channels/sms/kind: kind must be 1 to 63",
        ),
        (
            with("/channels/sms/queue", json!("No!")),
            "/channels/sms/queue: queue must be 1 to 63",
        ),
        (
            with("/channels/sms/queue", json!(1)),
            "/channels/sms/queue: must be a text",
        ),
        (
            with("/channels/sms/address", json!("pigeon")),
            "/channels/sms/address: must be phone",
        ),
        (
            with("/channels/sms/priority", json!(4)),
            "/channels/sms/priority: must be a whole number from 0 to 3",
        ),
        (
            with("/channels/sms/priority", json!(1.5)),
            "/channels/sms/priority: must be a whole number",
        ),
        (
            with("/channels/sms/max_attempts", json!(0)),
            "/channels/sms/max_attempts: must be",
        ),
        (
            with("/channels/sms/cost", json!(-1)),
            "/channels/sms/cost: must be a number",
        ),
        (
            with("/channels/sms/cost", json!("0.1")),
            "/channels/sms/cost: must be a number",
        ),
        (
            with("/channels/sms/cost", json!(0.000_000_1)),
            "/channels/sms/cost: must be a number",
        ),
        (
            with("/channels/sms/cots", json!(1)),
            "/channels/sms/cots: is not known",
        ),
        (
            with("/channels/sms/args", json!(null)),
            "/channels/sms/args: is missing",
        ),
        (
            with("/channels/sms/args", json!("x")),
            "/channels/sms/args: must be an object",
        ),
        (
            with("/channels/sms/args", tags.into()),
            "/channels/sms/args: must have at most 64",
        ),
        (
            with("/channels/sms/args/french", json!({})),
            "/channels/sms/args/french: must be the tag",
        ),
        (
            with("/channels/sms/args/EN", json!({})),
            "is the language en a second time",
        ),
        (
            with(
                "/channels/sms/args/fr",
                json!({"a": ["", "one\ntwo {{ nam }}"]}),
            ),
            "/channels/sms/args/fr/a/1: line 2, column 8: unknown variable `nam`; known are code, name, to, language, timezone, campaign",
        ),
        (
            with(
                "/channels/sms/args/fr",
                json!({"a/b": "{% if name %}x{% endif %}"}),
            ),
            "/channels/sms/args/fr/a~1b: line 1, column 1: a block is not allowed: only expressions",
        ),
        (
            with("/channels/sms/args/fr", json!("x".repeat(300_000))),
            "must be at most 256 KiB",
        ),
    ];
    for (content, said) in cases {
        let problems = refused(&content);
        assert!(
            problems.iter().any(|problem| problem.contains(said)),
            "{said}: {problems:?}"
        );
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_not_more_than_can_be_read() {
    let content = json!({
        "channels": {"a": {"kind": "No", "args": {"en": "{{"}}, "b": {"args": {"en": "{{ x }}"}}},
        "language": "en", "nope": 1, "\u{1b}[2J": 1,
    });
    let problems = refused(&content);
    for pointer in [
        "/channels/a/kind: ",
        "/channels/a/args/en: ",
        "/channels/b/kind: ",
        "/channels/b/args/en: ",
        "/nope: ",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(pointer)),
            "{pointer}: {problems:?}"
        );
    }
    assert!(
        problems
            .iter()
            .all(|problem| !problem.contains(char::is_control))
    );
    let many: serde_json::Map<_, _> = (0..500).map(|n| (format!("k{n}"), json!(1))).collect();
    assert_eq!(refused(&many.into()).len(), 100);
}

#[test]
fn bytes_are_read_too_and_are_bounded() {
    assert!(Content::parse(sms().to_string().as_bytes()).is_ok());
    let problem = |bytes: &[u8]| Content::parse(bytes).unwrap_err()[0].to_string();
    assert!(problem(b"{").starts_with("is not JSON"));
    assert!(problem(b"\xff").starts_with("is not JSON"));
    assert!(problem("[".repeat(100_000).as_bytes()).starts_with("is not JSON"));
    assert_eq!(
        problem(&vec![b' '; CONTENT_BYTES_MAX + 1]),
        "must be at most 256 KiB"
    );
}

#[test]
fn costs_are_exact() {
    for (text, cost) in [
        ("0", Some(0)),
        ("0.0", Some(0)),
        ("0.045", Some(45_000)),
        ("0.000001", Some(1)),
        ("1e-6", Some(1)),
        ("1e-7", None),
        ("0.1000000000", Some(100_000)),
        ("1000", Some(1_000_000_000)),
        ("1000.000001", None),
        ("1e3", Some(1_000_000_000)),
        ("1e300", None),
        ("-1", None),
        ("1e-999999999999", None),
        ("0.1", Some(100_000)),
        ("0.30000000000000004", None),
    ] {
        assert_eq!(micros(text), cost, "{text}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z{}%|\"' .()\\[\\]]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            json!("en"),
            json!("sms"),
            json!("{{to}}"),
            json!("{{ name|upper }}"),
            json!({}),
            json!(0),
            json!("EUR"),
            json!("{{ name|replace('a', name) }}"),
        ]),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let key = prop_oneof!["[a-z]{1,3}", Just("~/".to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..3).prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

fn pointers(value: &Value, at: String, all: &mut Vec<String>) {
    if let Some(map) = value.as_object() {
        for (key, value) in map {
            let at = format!("{at}/{key}");
            pointers(value, at.clone(), all);
            all.push(at);
        }
    }
}

proptest! {
    #[test]
    fn any_content_is_read_or_refused_and_what_is_read_can_be_said(
        place in any::<prop::sample::Index>(), value in value(), name in ".{0,20}",
    ) {
        let mut all = Vec::new();
        pointers(&sms(), String::new(), &mut all);
        let content = with(&all[place.index(all.len())], value);
        match Content::read(&content) {
            Ok(content) => {
                let name = (!name.contains('\0')).then_some(name);
                let recipient = recipient(Some("fr"), &[name.as_deref(), name.as_deref()]);
                if let Ok(message) = content.render(&recipient, COMMON) {
                    let args: Result<Value, _> = serde_json::from_str(message.args.get());
                    prop_assert!(args.is_ok());
                }
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(!problem.to_string().contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_content_or_not(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Content::parse(&bytes);
    }
}
