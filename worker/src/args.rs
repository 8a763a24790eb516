//! Args, as handlers get them.

use serde::de::DeserializeOwned;

/// Reads args; what is wrong with them is said without repeating them. Errors are kept and logged,
/// and args hold phone numbers, messages and credentials.
pub(crate) fn parse<A: DeserializeOwned>(args: &[u8]) -> Result<A, String> {
    serde_json::from_slice(args).map_err(|error| without_value(&error.to_string()))
}

/// serde's two texts that quote a value: "invalid type: string "…", expected …".
fn without_value(error: &str) -> String {
    let quoting = ["invalid type: ", "invalid value: "];
    let Some(kind) = quoting.iter().find(|kind| error.starts_with(**kind)) else {
        return error.to_owned();
    };
    // The value itself may have the words in it, what is expected has not.
    let Some((found, expected)) = error[kind.len()..].rsplit_once(", expected ") else {
        return kind.trim_end_matches(": ").to_owned();
    };
    let found = found.split(['`', '"']).next().unwrap_or_default();
    format!("{kind}{}, expected {expected}", found.trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Person {
        #[expect(dead_code, reason = "only read")]
        age: u8,
    }

    fn refusal(args: &str) -> String {
        parse::<Person>(args.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_not_what_was_given() {
        let cases = [
            (
                r#"{"age":"s3cret"}"#,
                "invalid type: string, expected u8 at line 1 column 15",
            ),
            (
                r#"{"age":", expected x"}"#,
                "invalid type: string, expected u8 at line 1 column 21",
            ),
            (
                r#"{"age":33639980606}"#,
                "invalid value: integer, expected u8 at line 1 column 18",
            ),
            (
                r#"{"age":1.5}"#,
                "invalid type: floating point, expected u8 at line 1 column 10",
            ),
            (
                r#"{"age":null}"#,
                "invalid type: null, expected u8 at line 1 column 11",
            ),
            (
                r#""s3cret""#,
                "invalid type: string, expected struct Person at line 1 column 8",
            ),
            ("{}", "missing field `age` at line 1 column 2"),
        ];
        for (args, expected) in cases {
            assert_eq!(refusal(args), expected, "{args}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_no_refusal_repeats_a_value(
            before in "(?s)[\",`: a-z]{0,8}|, expected |.{0,4}",
            after in "(?s)[\",`: a-z]{0,8}|, expected |.{0,4}",
        ) {
            let value = serde_json::Value::from(format!("{before}S3CRET{after}"));
            for args in [format!("{{\"age\":{value}}}"), value.to_string()] {
                let refusal = refusal(&args);
                prop_assert!(!refusal.contains("S3CRET"), "{}", refusal);
            }
        }
    }
}
