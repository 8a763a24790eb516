//! Variables as a deployment may set them.

use proptest::prelude::*;

use super::*;

/// Texts that are numbers, durations, or neither.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,20}",
        "[+-]?[0-9]{1,25}",
        "[0-9]{1,25}(ms|s|m|h|d|w| s|S)?",
        "[ \t\n]{1,3}[0-9]{1,3}s[ \t\n]{0,3}",
        "(?s).{395,410}",
    ]
}

/// Every line after the first names the variable, and nothing forges another one.
fn check_problems(error: &ConfigError, name: &str, count: usize) {
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1 + count, "{text:?}");
    for line in text.lines().skip(1) {
        assert!(line.starts_with(&format!("  {name} ")), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

proptest! {
    #[test]
    fn a_number_is_between_its_limits_or_the_default(text in text(), min in 0..100u32, more in 0..1000u32) {
        let max = min + more;
        let mut env = Env::of_map([("N", text.as_str())]);
        let number = env.number("N", 7777, min, max);
        match env.finish() {
            Ok(()) if text.is_empty() => prop_assert_eq!(number, 7777),
            Ok(()) => prop_assert_eq!(text.parse().ok(), Some(number).filter(|n| (min..=max).contains(n))),
            Err(error) => {
                check_problems(&error, "N", 1);
                prop_assert_eq!(number, 7777);
            }
        }
    }

    #[test]
    fn a_duration_is_between_its_limits_or_the_default(text in text()) {
        let (default, min, max) = (Duration::from_millis(1), Duration::from_secs(2), Duration::from_secs(3600));
        let mut env = Env::of_map([("D", text.as_str())]);
        let duration = env.duration("D", default, min, max);
        match env.finish() {
            Ok(()) => prop_assert!(text.is_empty() || (min..=max).contains(&duration), "{duration:?}"),
            Err(error) => {
                check_problems(&error, "D", 1);
                prop_assert_eq!(duration, default);
            }
        }
    }

    #[test]
    fn a_duration_is_read_by_its_unit_or_not_at_all(number in any::<u64>(), unit in "ms|s|m|h|d|[a-z]{1,2}") {
        let seconds = match unit.as_str() {
            "ms" => Some(number / 1000),
            "s" => Some(number),
            "m" => number.checked_mul(60),
            "h" => number.checked_mul(3600),
            "d" => number.checked_mul(86_400),
            _ => None,
        };
        let read = parse_duration(&format!("{number}{unit}"));
        prop_assert_eq!(read.map(|wait| wait.as_secs()), seconds);
    }

    #[test]
    fn no_text_is_too_strange_for_a_duration(text in text()) {
        let _ = parse_duration(&text);
    }

    #[test]
    fn any_number_of_problems_is_as_many_lines(texts in proptest::collection::vec(text(), 0..5)) {
        let mut env = Env::of_map([]);
        for text in &texts {
            env.problem("X", text);
        }
        match env.finish() {
            Ok(()) => prop_assert!(texts.is_empty()),
            Err(error) => check_problems(&error, "X", texts.len()),
        }
    }
}
