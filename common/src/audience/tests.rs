use jiff::civil::date;
use serde_json::{Value, json};

use super::*;

fn rule(json: &Value) -> Result<Rule, Invalid> {
    Rule::parse(&json.to_string())
}

fn recipient(json: &Value) -> Recipient {
    let input = RecipientInput::parse(json.to_string().as_bytes()).expect("it is JSON");
    input.into_recipient(Some("k")).expect("it is a recipient")
}

fn is_in(rules: &Value, who: &Value) -> bool {
    let rule = rule(rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
    rule.matches(&recipient(who), date(2024, 2, 29))
}

#[test]
fn each_condition_holds_for_what_it_names_and_for_nothing_else() {
    let who = json!({
        "language": "en-gb", "country": "FR", "plan": "pro", "birth_date": "2004-02-29",
        "attributes": {"text": "é", "one": 1.0, "flag": false, "nothing": null, "list": [1],
                       "day": "2024-02-29", "moment": "2024-02-29T23:30:00-01:00", "big": 1e30},
    });
    let holds = [
        json!({"all": true}),
        json!({"equals": {"attribute": "text", "value": "é"}}),
        json!({"equals": {"attribute": "one", "value": 1}}),
        json!({"equals": {"attribute": "big", "value": 1e30}}),
        json!({"equals": {"attribute": "flag", "value": false}}),
        json!({"in": {"attribute": "one", "values": [7, 1]}}),
        json!({"range": {"attribute": "one", "min": 1, "max": 1}}),
        json!({"range": {"attribute": "day", "min": "2024-02-29", "max": "2024-02-29"}}),
        json!({"range": {"attribute": "moment", "min": "2024-03-01T00:30:00Z"}}),
        json!({"range": {"attribute": "moment", "max": "2024-03-01"}}),
        json!({"has": {"attribute": "list"}}),
        json!({"has": {"attribute": "flag"}}),
        json!({"not": {"has": {"attribute": "nothing"}}}),
        json!({"country": ["DE", "FR"]}),
        json!({"language": ["EN"]}),
        json!({"language": ["en-GB"]}),
        json!({"age": {"min": 20, "max": 20}}),
        json!({"plan": ["free", "pro"]}),
        json!({"or": [{"plan": ["free"]}, {"country": ["FR"]}]}),
    ];
    for rules in &holds {
        assert!(is_in(rules, &who), "{rules}");
        assert!(!is_in(&json!({"not": rules}), &who), "not {rules}");
    }
    let holds_not = [
        json!({"equals": {"attribute": "one", "value": "1"}}),
        json!({"equals": {"attribute": "list", "value": 1}}),
        json!({"equals": {"attribute": "missing", "value": 1}}),
        json!({"in": {"attribute": "text", "values": ["É", "e\u{301}"]}}),
        json!({"range": {"attribute": "text", "min": 0}}),
        json!({"range": {"attribute": "day", "max": "2024-02-28"}}),
        json!({"range": {"attribute": "moment", "max": "2024-02-29"}}),
        json!({"range": {"attribute": "one", "min": "2000-01-01"}}),
        json!({"language": ["e"], "x": 1}),
        json!({"language": ["en-GB-x"]}),
        json!({"language": ["fr"]}),
        json!({"country": ["GB"]}),
        json!({"age": {"min": 21}}),
        json!({"age": {"max": 19}}),
        json!({"plan": ["Pro"]}),
        json!({"and": [{"plan": ["pro"]}, {"country": ["DE"]}]}),
    ];
    for rules in &holds_not {
        if rule(rules).is_ok() {
            assert!(!is_in(rules, &who), "{rules}");
            assert!(is_in(&json!({"not": rules}), &who), "not {rules}");
        }
    }
}

#[test]
fn what_is_missing_is_not_matched_and_not_of_it_is() {
    let nobody = json!({});
    for rules in [
        json!({"equals": {"attribute": "a", "value": 1}}),
        json!({"in": {"attribute": "a", "values": [1]}}),
        json!({"range": {"attribute": "a", "min": 1}}),
        json!({"has": {"attribute": "a"}}),
        json!({"country": ["FR"]}),
        json!({"language": ["fr"]}),
        json!({"age": {"min": 0}}),
        json!({"plan": ["pro"]}),
    ] {
        assert!(!is_in(&rules, &nobody), "{rules}");
        assert!(is_in(&json!({"not": rules}), &nobody), "not {rules}");
    }
}

#[test]
fn who_was_born_on_a_leap_day_gets_older_on_the_first_of_march() {
    let who = recipient(&json!({"birth_date": "2004-02-29"}));
    let age_on = |year, month, day| {
        (0..=AGE_MAX).find(|age| {
            let exactly = json!({"age": {"min": age, "max": age}});
            let rule = rule(&exactly).expect("it is a rule");
            rule.matches(&who, date(year, month, day))
        })
    };
    assert_eq!(age_on(2004, 2, 28), None);
    assert_eq!(age_on(2004, 2, 29), Some(0));
    assert_eq!(age_on(2005, 2, 28), Some(0));
    assert_eq!(age_on(2005, 3, 1), Some(1));
    assert_eq!(age_on(2008, 2, 28), Some(3));
    assert_eq!(age_on(2008, 2, 29), Some(4));
}

#[test]
fn a_refusal_names_its_place_and_says_why() {
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let cases = [
        (json!({}), "", "exactly one"),
        (json!([]), "", "object"),
        (json!({"country": ["FR"], "plan": ["a"]}), "", "exactly one"),
        (json!({"colour": ["red"]}), "/colour", "no such condition"),
        (json!({"a/b~c": 1}), "/a~1b~0c", "no such condition"),
        (json!({"all": false}), "/all", "true"),
        (json!({"and": []}), "/and", "empty"),
        (json!({"and": {}}), "/and", "list"),
        (json!({"and": [{"plan": ["a"]}, 1]}), "/and/1", "object"),
        (
            json!({"not": {"or": [{"plan": []}]}}),
            "/not/or/0/plan",
            "empty",
        ),
        (
            json!({"equals": {"attribute": "a"}}),
            "/equals/value",
            "required",
        ),
        (
            json!({"equals": {"value": 1}}),
            "/equals/attribute",
            "required",
        ),
        (
            json!({"equals": {"attribute": "", "value": 1}}),
            "/equals/attribute",
            "name",
        ),
        (
            json!({"equals": {"attribute": "x".repeat(64), "value": 1}}),
            "/equals/attribute",
            "63",
        ),
        (
            json!({"equals": {"attribute": "a", "value": null}}),
            "/equals/value",
            "null",
        ),
        (
            json!({"equals": {"attribute": "a", "value": [1]}}),
            "/equals/value",
            "text",
        ),
        (
            json!({"equals": {"attribute": "a", "value": long}}),
            "/equals/value",
            "1024",
        ),
        (
            json!({"equals": {"attribute": "a", "value": "\0"}}),
            "/equals/value",
            "U+0000",
        ),
        (
            json!({"equals": {"attribute": "a", "value": 1, "or": 2}}),
            "/equals/or",
            "no such field",
        ),
        (
            json!({"equals": {"attribute": "a", "value": 9_007_199_254_740_993_i64}}),
            "/equals/value",
            "whole number",
        ),
        (
            json!({"equals": {"attribute": "a", "value": u64::MAX}}),
            "/equals/value",
            "whole number",
        ),
        (
            json!({"equals": {"attribute": "a", "value": 1e200}}),
            "/equals/value",
            "1e100",
        ),
        (
            json!({"equals": {"attribute": "a", "value": 1e-200}}),
            "/equals/value",
            "1e-100",
        ),
        (
            json!({"in": {"attribute": "a", "values": []}}),
            "/in/values",
            "empty",
        ),
        (
            json!({"in": {"attribute": "a", "values": [1, "1"]}}),
            "/in/values/1",
            "number",
        ),
        (json!({"range": {"attribute": "a"}}), "/range", "min"),
        (
            json!({"range": {"attribute": "a", "min": 2, "max": 1}}),
            "/range/min",
            "max",
        ),
        (
            json!({"range": {"attribute": "a", "min": "2024-01-02", "max": "2024-01-01"}}),
            "/range/min",
            "later",
        ),
        (
            json!({"range": {"attribute": "a", "min": 1, "max": "2024-01-01"}}),
            "/range/max",
            "type",
        ),
        (
            json!({"range": {"attribute": "a", "min": "2023-02-29"}}),
            "/range/min",
            "RFC 3339",
        ),
        (
            json!({"range": {"attribute": "a", "max": "2024-01-01T00:00:00"}}),
            "/range/max",
            "RFC 3339",
        ),
        (
            json!({"range": {"attribute": "a", "max": true}}),
            "/range/max",
            "RFC 3339",
        ),
        (json!({"has": "a"}), "/has", "object"),
        (json!({"country": "FR"}), "/country", "list"),
        (json!({"country": ["FR", "fr"]}), "/country/1", "capital"),
        (json!({"country": ["FRA"]}), "/country/0", "capital"),
        (json!({"country": [1]}), "/country/0", "text"),
        (json!({"language": ["english"]}), "/language/0", "BCP 47"),
        (json!({"language": ["en_GB"]}), "/language/0", "BCP 47"),
        (json!({"age": {}}), "/age", "min"),
        (json!({"age": {"min": 2, "max": 1}}), "/age/min", "max"),
        (json!({"age": {"min": -1}}), "/age/min", "0 to 150"),
        (json!({"age": {"max": 1.5}}), "/age/max", "whole"),
        (json!({"plan": ["\n"]}), "/plan/0", "control"),
    ];
    for (rules, pointer, says) in cases {
        let error = rule(&rules).expect_err(&rules.to_string());
        assert_eq!(error.pointer, pointer, "{rules}: {error}");
        assert!(error.message.contains(says), "{rules}: {error}");
        assert!(!error.is_syntax, "{rules}");
    }
    for text in [
        "",
        "nope",
        "{",
        "{\"not\":",
        "{\"all\":true} x",
        "{\"plan\":[\"\\ud800\"]}",
    ] {
        assert!(Rule::parse(text).expect_err(text).is_syntax, "{text}");
    }
}

fn nested(depth: usize) -> String {
    let inner = r#"{"in":{"attribute":"a","values":[1]}}"#;
    "{\"and\":[".repeat(depth - 1) + inner + &"]}".repeat(depth - 1)
}

#[test]
fn rules_have_limits() {
    assert!(Rule::parse(&nested(DEPTH_MAX)).is_ok());
    for depth in [DEPTH_MAX + 1, 40, 60, 64, 100, 1000, 6000] {
        let error = Rule::parse(&nested(depth)).expect_err("it is too deep");
        assert!(error.message.contains("32 deep"), "{depth}: {error}");
        assert!(!error.is_syntax);
    }
    let nots = "{\"not\":".repeat(1000) + "{\"all\":true}" + &"}".repeat(1000);
    let error = Rule::parse(&nots).expect_err("it is too deep");
    assert!(error.message.contains("32 deep"), "{error}");

    let many = |n: usize| json!({"or": vec![json!({"all": true}); n]});
    assert!(rule(&many(NODES_MAX - 1)).is_ok());
    let error = rule(&many(NODES_MAX)).expect_err("one too many");
    assert_eq!(error.pointer, format!("/or/{}", NODES_MAX - 1));

    let values = |n: usize| json!({"in": {"attribute": "a", "values": vec![1; n]}});
    assert!(rule(&values(VALUES_MAX)).is_ok());
    let error = rule(&values(VALUES_MAX + 1)).expect_err("one too many");
    assert_eq!(error.pointer, format!("/in/values/{VALUES_MAX}"));

    let large = json!({"plan": ["x".repeat(RULES_BYTES_MAX)]});
    assert!(
        rule(&large)
            .expect_err("it is too large")
            .message
            .contains("65536")
    );
    // No part of what was given is repeated without end.
    let name = "x".repeat(50_000);
    assert!(
        rule(&json!({name: 1}))
            .expect_err("no condition")
            .to_string()
            .len()
            < 1000
    );
}

#[test]
fn a_rule_is_the_same_after_it_was_written_and_read() {
    for rules in [
        json!({"in": {"attribute": "a", "values": [0.1, 1e30, -0.0, 1e18, 5]}}),
        json!({"range": {"attribute": "a", "min": "2024-01-01", "max": "2024-01-01T10:00:00.123456789+02:00"}}),
    ] {
        let first = rule(&rules).expect("it is a rule");
        assert_eq!(Rule::parse(first.json()).expect("it still is"), first);
    }
}

#[test]
fn a_recipient_is_read_whole_or_refused_at_its_place() {
    let who = recipient(&json!({
        "addresses": {"sms": "+33639980606", "push": null}, "language": "ZH-hant-tw",
        "country": "TW", "timezone": "europe/paris", "birth_date": "1990-02-28", "plan": "Équipe",
        "attributes": {"n": -0.0, "x": null, "at": "2024-01-01T00:00:00Z", "no": "2024-13-01"},
    }));
    assert_eq!(who.language.as_deref(), Some("zh-Hant-TW"));
    assert_eq!(who.timezone.as_deref(), Some("Europe/Paris"));
    assert_eq!(who.addresses.len(), 1);
    assert_eq!(who.attributes["n"].to_string(), "0.0");
    assert!(!who.attributes.contains_key("x"));
    assert_eq!(
        Value::from(who.instants()),
        json!({"at": 1_704_067_200_000_000_i64})
    );

    let attributes = |n: usize| -> Value {
        (0..n)
            .map(|n| (n.to_string(), json!(n)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let cases = [
        (json!({"key": "other"}), "/key"),
        (json!({"colour": "red"}), "/colour"),
        (json!({"addresses": {"SMS": "+33"}}), "/addresses/SMS"),
        (json!({"addresses": {"sms": ""}}), "/addresses/sms"),
        (json!({"addresses": {"sms": 33}}), "/addresses/sms"),
        (json!({"addresses": {"sms": "+33\n"}}), "/addresses/sms"),
        (
            json!({"addresses": {"sms": "x".repeat(ADDRESS_BYTES_MAX + 1)}}),
            "/addresses/sms",
        ),
        (json!({"language": "english"}), "/language"),
        (json!({"country": "fr"}), "/country"),
        (json!({"timezone": "Mars/Olympus"}), "/timezone"),
        (json!({"timezone": ""}), "/timezone"),
        (json!({"birth_date": "1990-02-30"}), "/birth_date"),
        (json!({"birth_date": "1990-2-3"}), "/birth_date"),
        (json!({"birth_date": "1066-10-14"}), "/birth_date"),
        (json!({"plan": ""}), "/plan"),
        (json!({"attributes": [1]}), "/attributes"),
        (json!({"attributes": {"": 1}}), "/attributes/"),
        (json!({"attributes": {"a\nb": 1}}), "/attributes/a\nb"),
        (
            json!({"attributes": {"é".repeat(64): 1}}),
            &format!("/attributes/{}", "é".repeat(64)),
        ),
        (json!({"attributes": {"a": "\0"}}), "/attributes/a"),
        (
            json!({"attributes": {"a": [{"b": "\0"}]}}),
            "/attributes/a/0/b",
        ),
        (json!({"attributes": {"a": {"\0": 1}}}), "/attributes/a/\0"),
        (json!({"attributes": {"a": 1e300}}), "/attributes/a"),
        (json!({"attributes": {"a": [1e300]}}), "/attributes/a/0"),
        (
            json!({"attributes": {"a": 9_007_199_254_740_993_i64}}),
            "/attributes/a",
        ),
        (
            json!({"attributes": attributes(ATTRIBUTES_MAX + 1)}),
            "/attributes",
        ),
        (
            json!({"attributes": {"a": "x".repeat(ATTRIBUTES_BYTES_MAX)}}),
            "/attributes",
        ),
    ];
    for (input, pointer) in cases {
        let read = RecipientInput::parse(input.to_string().as_bytes());
        let error = read
            .and_then(|input| input.into_recipient(Some("k")))
            .expect_err(&input.to_string());
        assert_eq!(error.pointer, pointer, "{input}: {error}");
    }
    assert!(RecipientInput::default().into_recipient(None).is_err());
    for key in ["", "a\0b", "a\nb", &"x".repeat(256)] {
        assert!(
            RecipientInput::default().into_recipient(Some(key)).is_err(),
            "{key:?}"
        );
    }
    assert!(
        RecipientInput::default()
            .into_recipient(Some("a/b c?é"))
            .is_ok()
    );
    recipient(&json!({"attributes": attributes(ATTRIBUTES_MAX)}));
}

#[test]
fn a_moment_is_what_rfc_3339_says_and_nothing_else() {
    let second = |text: &str| instant_of(text).map(|at| at.div_euclid(1_000_000));
    for (text, is) in [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01t01:00:01.5+01:00", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
    ] {
        assert_eq!(second(text), Some(is), "{text}");
    }
    for text in [
        "",
        "1970",
        "1970-1-1",
        "19700101",
        "1970-02-30",
        "1970-01-01T",
        "1970-01-01 00:00:00Z",
        "1970-01-01T00:00Z",
        "1970-01-01T00:00:00",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00Z[UTC]",
        "1970-01-01T00:00:00.1234567890Z",
        "1970-01-01T00:00:00é",
        "１９７０-01-01",
        " 1970-01-01",
        "+001970-01-01",
    ] {
        assert_eq!(instant_of(text), None, "{text}");
    }
}

#[test]
fn rules_that_pick_nobody_are_warned_of_where_it_is_plain() {
    let equals = |value: i32| json!({"equals": {"attribute": "a", "value": value}});
    for all in [
        vec![equals(1), equals(2)],
        vec![equals(1), json!({"and": [{"plan": ["x"]}, equals(2)]})],
        vec![
            equals(1),
            json!({"in": {"attribute": "a", "values": [2, 3]}}),
        ],
        vec![equals(1), json!({"range": {"attribute": "a", "min": 2}})],
        vec![equals(1), json!({"not": {"has": {"attribute": "a"}}})],
        vec![equals(1), json!({"not": equals(1)})],
        vec![json!({"country": ["FR"]}), json!({"country": ["DE", "AT"]})],
        vec![json!({"language": ["en-GB"]}), json!({"language": ["fr"]})],
        vec![json!({"age": {"min": 30}}), json!({"age": {"max": 20}})],
        vec![
            json!({"range": {"attribute": "a", "max": "2024-01-01"}}),
            json!({"range": {"attribute": "a", "min": "2024-01-02"}}),
        ],
    ] {
        let rules = json!({"not": {"and": all}});
        let warnings = rule(&rules).expect("contradictions are allowed").warnings();
        assert_eq!(warnings.len(), 1, "{rules}: {warnings:?}");
        assert!(warnings[0].pointer.starts_with("/not/and"), "{warnings:?}");
    }
    for all in [
        vec![equals(1), equals(1)],
        vec![equals(1), json!({"range": {"attribute": "a", "min": 1}})],
        vec![json!({"language": ["en-GB"]}), json!({"language": ["en"]})],
        vec![json!({"country": ["FR"]}), json!({"country": ["DE", "FR"]})],
        vec![json!({"or": [equals(1), equals(2)]})],
    ] {
        let rules = json!({"and": all});
        assert_eq!(
            rule(&rules).expect("it is a rule").warnings(),
            [],
            "{rules}"
        );
    }
}
