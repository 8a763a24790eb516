//! Lines of a file, or bodies of a request, as anybody may send them.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::job::{ARGS_BYTES_MAX, ARGS_NESTING_MAX};

const FIELDS: [&str; 14] = [
    "id",
    "tenant",
    "queue",
    "kind",
    "args",
    "priority",
    "run_at",
    "delay",
    "expires_at",
    "dedup_key",
    "max_attempts",
    "on_lost",
    "traceparent",
    "coalesce_key",
];

/// JSON that is wrong for most fields, right for some, and at or beyond the edge of others.
fn hostile() -> Vec<String> {
    let plain = [
        "null",
        "true",
        "{}",
        "[]",
        "-1",
        "-0",
        "0",
        "1.0",
        "4",
        "1001",
        "9007199254740993",
        "1e308",
        "-1e999",
        "2147483648",
        "18446744073709551616",
        r#""""#,
        r#"" ""#,
        r#""\t\n""#,
        r#""a\u0000b""#,
        "\"a\u{0}b\"",
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\u202eabc""#,
        "\"\u{200b}\u{202e}\u{feff}\"",
        "\"👩\u{200d}👩\u{200d}👧\"",
        r#""'; drop table postroad.job; --""#,
        r#""../../etc/passwd""#,
        r#""%s%n%x {} {0}""#,
        r#""a\r\nx-evil: 1""#,
        r#""<script>alert(1)</script>""#,
        r#""\u001b[2J""#,
        r#""retry""#,
        r#""default""#,
        // Times.
        r#""0000-01-01T00:00:00Z""#,
        r#""-009999-01-01T00:00:00Z""#,
        r#""9999-12-31T23:59:59Z""#,
        r#""10000-01-01T00:00:00Z""#,
        r#""2030-01-01T00:00:00""#,
        r#""2030-01-01""#,
        r#""2030-06-30T23:59:60Z""#,
        r#""2030-01-01T24:00:00Z""#,
        r#""2030-02-30T00:00:00Z""#,
        r#""2030-01-01T00:00:00-25:00""#,
        r#""2030-01-01T00:00:00+99:99""#,
        "1893456000",
        r#""1893456000""#,
        r#""now""#,
        r#""infinity""#,
        r#""2199-12-31T23:59:59.999999999Z""#,
        r#""2200-01-01T00:00:00Z""#,
        r#""1999-12-31T23:59:59.999999999Z""#,
        r#""2100-01-01T00:00:00.000000001Z""#,
        // Durations.
        r#""5m""#,
        r#""-5m""#,
        r#""5""#,
        r#""0s""#,
        r#""1e3s""#,
        r#""36601d""#,
        r#""36600d""#,
        r#""18446744073709551615s""#,
        r#""18446744073709551616ms""#,
        r#""５s""#,
        r#""PT5M""#,
    ];
    let long = |length: usize| format!(r#""{}""#, "x".repeat(length));
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let lengths = [63, 64, 255, 256, ARGS_BYTES_MAX - 2, ARGS_BYTES_MAX - 1].map(long);
    let depths = [ARGS_NESTING_MAX, ARGS_NESTING_MAX + 1, 100_000].map(nested);
    let wide = format!(r#""{}""#, "é".repeat(128));
    let plain = plain.iter().map(ToString::to_string);
    plain.chain(lengths).chain(depths).chain([wide]).collect()
}

/// A line with the given fields, and a kind if none of them is one.
fn line(fields: &[(&str, String)]) -> String {
    let mut fields: Vec<_> = fields
        .iter()
        .map(|(name, json)| format!("\"{name}\":{json}"))
        .collect();
    if !fields.iter().any(|field| field.starts_with("\"kind\"")) {
        fields.push(r#""kind":"echo""#.to_owned());
    }
    format!("{{{}}}", fields.join(","))
}

fn read(line: &[u8]) -> Result<NewJob, InputError> {
    JobInput::parse(line)?.into_job()
}

/// What must hold of anything that was read.
fn judge(line: &[u8]) -> Result<NewJob, String> {
    match read(line) {
        Ok(job) => {
            assert_eq!(job.check(), Ok(()));
            Ok(job)
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
            assert!((1..=500).contains(&error.chars().count()), "{error}");
            Err(error)
        }
    }
}

#[test]
fn a_hostile_value_is_accepted_or_refused_by_the_name_of_its_field() {
    for field in FIELDS {
        let mut accepted = 0;
        for value in hostile() {
            match judge(line(&[(field, value.clone())]).as_bytes()) {
                Ok(_) => accepted += 1,
                Err(error) => assert!(error.contains(field), "{field} = {value:.80}: {error}"),
            }
        }
        // Null at least, where the field may be left out.
        assert!(accepted > 0, "{field}");
    }
}

#[test]
fn args_are_kept_byte_for_byte() {
    for value in hostile().iter().filter(|value| *value != "null") {
        if let Ok(job) = judge(line(&[("args", value.clone())]).as_bytes()) {
            assert_eq!(job.args.get(), value);
        }
    }
}

#[test]
fn null_is_left_out_except_for_the_kind() {
    for field in FIELDS {
        let read = judge(line(&[(field, "null".to_owned())]).as_bytes());
        assert_eq!(read.is_ok(), field != "kind", "{field}: {read:?}");
    }
}

#[test]
fn a_line_that_was_cut_off_is_refused_wherever_it_was() {
    let whole = line(&[
        ("args", r#"{"a":[1,"\u00e9"]}"#.to_owned()),
        ("run_at", r#""2030-01-01T00:00:00Z""#.to_owned()),
    ]);
    assert!(judge(whole.as_bytes()).is_ok());
    for end in 0..whole.len() {
        assert!(judge(&whole.as_bytes()[..end]).is_err(), "{end}");
    }
}

fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        ".{0,12}",
        "[a-z0-9._-]{0,70}",
        "[0-9TZ:.+-]{0,30}",
        "[0-9]{1,20}[a-z]{1,2}"
    ];
    prop_oneof![
        prop::sample::select(hostile()),
        text.prop_map(|text| Value::from(text).to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        (0..5).prop_map(|number: i32| number.to_string()),
        any::<f64>().prop_map(|number| Value::from(number).to_string()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_a_job_or_an_error(bytes in vec(any::<u8>(), 0..100)) {
        let _ = judge(&bytes);
    }

    #[test]
    fn any_fields_are_a_job_or_an_error(
        fields in vec((prop::sample::select(&FIELDS[..]), value()), 0..6),
    ) {
        let _ = judge(line(&fields).as_bytes());
    }

    #[test]
    fn a_damaged_line_is_a_job_or_an_error(
        fields in vec((prop::sample::select(&FIELDS[..]), value()), 1..3),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut line = line(&fields).into_bytes();
        let at = at.index(line.len());
        line[at] = byte;
        let _ = judge(&line);
    }

    #[test]
    fn a_moment_that_is_accepted_is_one_that_the_schema_takes(second in any::<i64>(), nano in 0..1_000_000_000) {
        let Ok(at) = Timestamp::new(second % 400_000_000_000, nano) else { return Ok(()) };
        let accepted = judge(line(&[("run_at", format!("\"{at}\""))]).as_bytes()).is_ok();
        let year = at.to_zoned(jiff::tz::TimeZone::UTC).year();
        prop_assert_eq!(accepted, (2000..2200).contains(&year), "{}", at);
    }
}
