//! JSON without the whitespace between its tokens, and otherwise byte for byte.
//!
//! Parsing and printing again would sort keys, drop digits of numbers and rewrite escapes, and a
//! receiver that compares what it got with what the producer sent would find a difference.

use serde_json::value::RawValue;

/// Removes the whitespace outside strings.
pub(in crate::kinds) fn compact(json: &RawValue) -> String {
    let mut text = json.get().to_owned();
    let (mut in_string, mut escaped) = (false, false);
    text.retain(|c| {
        if !in_string {
            in_string = c == '"';
            return !matches!(c, ' ' | '\t' | '\n' | '\r');
        }
        in_string = escaped || c != '"';
        escaped = !escaped && c == '\\';
        true
    });
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::ser::{PrettyFormatter, Serializer};
    use serde_json::{Value, json};

    use super::*;

    fn compacted(json: &str) -> String {
        compact(&RawValue::from_string(json.to_owned()).expect("JSON"))
    }

    #[test]
    fn order_numbers_and_escapes_stay_as_they_are() {
        let cases = [
            (" null ", "null"),
            (
                "{ \"b\" : 1.0 ,\r\n\t\"a\" : 1e+05 }",
                "{\"b\":1.0,\"a\":1e+05}",
            ),
            (
                r#"[ 10000000000000000000000.50 , -0 ]"#,
                r#"[10000000000000000000000.50,-0]"#,
            ),
            (
                r#"[ "a \" b" , "\\" , " \u00e9 / \/ " ]"#,
                r#"["a \" b","\\"," \u00e9 / \/ "]"#,
            ),
            (r#"{ "a" : 1 , "a" : 2 }"#, r#"{"a":1,"a":2}"#),
            ("\"\u{a0}\u{2003}\"", "\"\u{a0}\u{2003}\""),
        ];
        for (json, expected) in cases {
            assert_eq!(compacted(json), expected);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
            r#"[ \t\r\n"\\a-cé😀\x00-\x1f]{0,12}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(r#"[ "\\a-z]{0,4}"#, inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_compact_form_is_what_serde_json_prints(value in any_json(), indent in "[ \t\r\n]{0,3}") {
            let mut spaced = Vec::new();
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            serde::Serialize::serialize(&value, &mut Serializer::with_formatter(&mut spaced, formatter))
                .expect("serializes");
            let spaced = String::from_utf8(spaced).expect("UTF-8");
            let plain = value.to_string();
            prop_assert_eq!(compacted(&spaced), plain.as_str());
            prop_assert_eq!(compacted(&plain), plain);
        }
    }
}
