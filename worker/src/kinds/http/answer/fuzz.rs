//! Answers as a provider may write them to hurt whoever reads them later.

use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-11-21T09:00:00Z".parse().expect("a timestamp")
}

proptest! {
    #[test]
    fn a_wait_is_between_nothing_and_a_day(
        text in "(?s).{0,30}|[+-]?[0-9]{1,40}|[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} -?[0-9]{1,12} [0-9:]{1,12} GMT",
    ) {
        if let Some(wait) = parse_retry_after(&text, now()) {
            prop_assert!(wait > Duration::ZERO && wait <= RETRY_AFTER_MAX, "{wait:?}");
        }
    }

    #[test]
    fn seconds_are_taken_as_they_are_up_to_a_day(seconds in prop_oneof![0..200_000u64, any::<u64>()]) {
        let expected = (seconds > 0).then_some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        prop_assert_eq!(parse_retry_after(&seconds.to_string(), now()), expected);
    }

    #[test]
    fn a_date_is_a_wait_if_it_is_to_come(ahead in -1_000_000..1_000_000_000i64) {
        let at = Timestamp::from_second(now().as_second() + ahead).expect("in range");
        let expected = u64::try_from(ahead).ok().filter(|wait| *wait > 0);
        let expected = expected.map(|wait| Duration::from_secs(wait).min(RETRY_AFTER_MAX));
        let zoned = at.to_zoned(TimeZone::UTC);
        for format in ["%a, %d %b %Y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
            let text = zoned.strftime(format).to_string();
            prop_assert_eq!(parse_retry_after(&text, now()), expected, "{}", text);
        }
    }

    #[test]
    fn what_is_kept_is_short_text_without_nul_or_secret(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(?s).{0,60}".prop_map(String::into_bytes),
            "[\\x00aé😀]{500,1500}".prop_map(String::into_bytes),
        ],
        at in any::<prop::sample::Index>(),
    ) {
        const SECRET: &str = "gw_5f2c9b";
        let mut body = body;
        let at = at.index(body.len() + 1);
        body.splice(at..at, SECRET.bytes());
        if let Some(kept) = excerpt(&body, Some(SECRET)) {
            prop_assert!((1..=EXCERPT_BYTES_MAX).contains(&kept.len()), "{} bytes", kept.len());
            prop_assert!(!kept.contains('\0') && !kept.contains(SECRET), "{kept:?}");
        }
    }

    #[test]
    fn every_answer_is_an_outcome_on_one_line(
        code in 100..=999u16,
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(?s).{0,60}".prop_map(String::into_bytes),
        ],
        retry_after in prop::option::of(1..=86_400u64),
    ) {
        let answer = Answer {
            status: StatusCode::from_u16(code).expect("three digits"),
            retry_after: retry_after.map(Duration::from_secs),
            body,
        };
        match answer.outcome(None) {
            Ok(done) => {
                let result = done.result().expect("a status at least");
                prop_assert!(serde_json::from_str::<serde_json::Value>(result).is_ok(), "{result}");
            }
            Err(error) => {
                let text = format!("{error:?}");
                prop_assert!(!text.contains(char::is_control), "{text:?}");
                prop_assert!(text.len() < 4096, "{} bytes", text.len());
            }
        }
    }
}
