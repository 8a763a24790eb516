//! Values that conditions compare: texts, numbers, truth values, and moments.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Number, Value};

/// Whole numbers are exact up to here: as in JavaScript, and in every JSON that computers exchange
/// (RFC 7493). What is larger and must keep its digits is a text.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;
/// The largest number that is not written as a whole one.
pub const NUMBER_MAX: f64 = 1e100;
/// The smallest that is not zero.
pub const NUMBER_MIN: f64 = 1e-100;

/// One value that an attribute may be equal to.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Equal byte by byte.
    Text(String),
    /// Equal as a number: 1 is 1.0.
    Number(f64),
    /// True or false.
    Bool(bool),
}

impl Scalar {
    /// What it is, in an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "number",
            Self::Bool(_) => "truth value",
        }
    }

    /// Whether a value from a recipient's attributes is this one. No type is taken for another.
    pub(super) fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(text), Value::String(value)) => text == value,
            (Self::Number(number), Value::Number(value)) => value.as_f64() == Some(*number),
            (Self::Bool(is_so), Value::Bool(value)) => is_so == value,
            _ => false,
        }
    }

    /// The value as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(number) => Value::from(*number),
            Self::Bool(is_so) => Value::from(*is_so),
        }
    }
}

/// The number as it is compared, or why it is none that is taken.
pub(super) fn number(number: &Number) -> Result<f64, String> {
    if number.is_f64() {
        let value = number.as_f64().unwrap_or(f64::INFINITY);
        let size = value.abs();
        return match size == 0.0 || (NUMBER_MIN..=NUMBER_MAX).contains(&size) {
            // Without the sign of a zero, which Postgres does not keep.
            true => Ok(value + 0.0),
            false => Err(format!(
                "must be 0, or from {NUMBER_MIN:e} to {NUMBER_MAX:e} in size"
            )),
        };
    }
    match number.as_i64() {
        Some(whole) if whole.unsigned_abs() <= INTEGER_MAX.unsigned_abs() => Ok(whole as f64),
        _ => Err(format!(
            "a whole number must be from -{INTEGER_MAX} to {INTEGER_MAX}: make a longer one a text"
        )),
    }
}

/// Why Postgres's jsonb and a line of a log have no use for a text.
pub(super) fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// A moment in microseconds since 1970, of an RFC 3339 timestamp, or of a date: its midnight in UTC.
/// None: the text is neither.
pub fn instant_of(text: &str) -> Option<i64> {
    match date_of(text) {
        Some(date) => begin_of(date),
        None => timestamp_of(text),
    }
}

/// The last moment that a text stands for: of a date, the end of that day.
pub(super) fn last_instant_of(text: &str) -> Option<i64> {
    match date_of(text) {
        Some(date) => {
            let next = date.tomorrow().ok()?;
            begin_of(next).map(|begin| begin - 1)
        }
        None => timestamp_of(text),
    }
}

fn begin_of(date: Date) -> Option<i64> {
    let midnight = date.to_zoned(TimeZone::UTC).ok()?;
    Some(midnight.timestamp().as_microsecond())
}

/// `2024-02-29`, and nothing else that might be a date.
pub(super) fn date_of(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    let is_date = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date.then(|| text.parse().ok()).flatten()
}

/// RFC 3339, section 5.6: jiff reads more than that.
fn timestamp_of(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let date = text.get(..10)?;
    date_of(date)?;
    let time = bytes.get(11..19)?;
    let is_time = matches!(bytes[10], b'T' | b't')
        && time.iter().enumerate().all(|(at, byte)| match at {
            2 | 5 => *byte == b':',
            _ => byte.is_ascii_digit(),
        });
    let rest = &bytes[19..];
    let rest = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
            let digits = digits.count();
            (1..=9).contains(&digits).then(|| &fraction[digits..])?
        }
        None => rest,
    };
    let is_offset = match rest {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    };
    if !is_time || !is_offset {
        return None;
    }
    let at: Timestamp = text.parse().ok()?;
    Some(at.as_microsecond())
}
