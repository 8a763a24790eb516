//! Args, as handlers get them.

use serde::de::DeserializeOwned;

/// Reads args; what is wrong with them is said without repeating them. Errors are kept and logged,
/// and args hold phone numbers, messages and credentials.
pub(crate) fn parse<A: DeserializeOwned>(args: &[u8]) -> Result<A, String> {
    serde_json::from_slice(args).map_err(|error| without_value(&error.to_string()))
}

/// serde's texts that quote a value, such as: invalid type: string "…", expected u8.
fn without_value(error: &str) -> String {
    let quoting = ["invalid type: ", "invalid value: ", "unknown variant "];
    if !quoting.iter().any(|start| error.starts_with(start)) {
        return error.to_owned();
    }
    let unquoted = error.split(['`', '"']).next().unwrap_or_default();
    let unquoted = unquoted.trim_end();
    // The value itself may have the words in it, what is expected has not.
    match error.rsplit_once(", expected ") {
        Some((found, _)) if found.len() <= unquoted.len() => error.to_owned(),
        Some((_, expected)) => format!("{unquoted}, expected {expected}"),
        None => unquoted.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Person {
        age: u8,
        sex: Option<Sex>,
    }

    #[derive(Debug, serde::Deserialize)]
    enum Sex {
        F,
        M,
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
            (
                r#"{"age":1,"sex":"s3cret"}"#,
                "unknown variant, expected `F` or `M` at line 1 column 23",
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
            let [age, sex] = ["age", "sex"].map(|field| format!("{{\"{field}\":{value}}}"));
            for args in [age, sex, value.to_string()] {
                let refusal = refusal(&args);
                prop_assert!(!refusal.contains("S3CRET"), "{}", refusal);
            }
        }
    }
}
