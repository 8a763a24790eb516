//! What a provider's answer means for the job.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Serialize;

use crate::{Done, JobError, ProviderFailure};

/// The longest wait a provider may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is kept of a body with a finished job.
const EXCERPT_BYTES_MAX: usize = 1024;

/// What is quoted of a body in the error of a failed attempt.
const QUOTE_CHARS_MAX: usize = 200;

/// A complete status line with its headers, and as much of the body as was read.
#[derive(Debug)]
pub(in crate::kinds) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// What a status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Gone,
    Failed { after: Option<Duration> },
}

/// The whole rule: 2xx is done, 410 is never again, 429 and 503 wait as told, and every other
/// answer is a failed attempt. That includes 3xx, because redirects are never followed.
fn judge(status: StatusCode, retry_after: Option<Duration>) -> Verdict {
    match status {
        _ if status.is_success() => Verdict::Done,
        StatusCode::GONE => Verdict::Gone,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Verdict::Failed { after: retry_after }
        }
        _ => Verdict::Failed { after: None },
    }
}

/// How long to wait: seconds, or a date in any of the three forms of RFC 9110, at most a day.
///
/// A wait of nothing and a date that has passed are no instruction, and neither is anything else:
/// the kind's own backoff spares a provider that asks to be called again at once.
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    const DATES: [&str; 3] = [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ];

    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit are a very long time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = DATES
            .iter()
            .find_map(|format| DateTime::strptime(format, text).ok())?;
        date.duration_since(TimeZone::UTC.to_datetime(now))
            .try_into()
            .ok()?
    };
    (wait > Duration::ZERO).then_some(wait.min(RETRY_AFTER_MAX))
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| parse_retry_after(text, Timestamp::now()));
        Self {
            status,
            retry_after,
            body: Vec::new(),
        }
    }

    /// What follows for the job. `secret`, should the provider repeat it, is not kept.
    pub(in crate::kinds) fn outcome(self, secret: Option<&str>) -> Result<Done, JobError> {
        #[derive(Serialize)]
        struct Answered {
            status: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            body: Option<String>,
        }

        let body = excerpt(&self.body, secret);
        match judge(self.status, self.retry_after) {
            Verdict::Done => Done::with(&Answered {
                status: self.status.as_u16(),
                body,
            }),
            Verdict::Gone => Err(JobError::fatal(self.refusal(body))),
            Verdict::Failed { after } => {
                let refusal = self.refusal(body);
                let error = match after {
                    None => JobError::retry(refusal),
                    Some(after) => JobError::retry_after(refusal, after),
                };
                Err(error.by_provider(ProviderFailure::of_status(self.status.as_u16())))
            }
        }
    }

    fn refusal(&self, body: Option<String>) -> Refusal {
        Refusal {
            status: self.status,
            quote: body.map(|body| quote(&body)).unwrap_or_default(),
        }
    }
}

/// A complete answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("the provider answered {status}{quote}")]
struct Refusal {
    status: StatusCode,
    quote: String,
}

/// The start of a body, if it is text. Without NUL, which Postgres cannot store.
fn excerpt(body: &[u8], secret: Option<&str>) -> Option<String> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        // The limit, or the end of the connection, cut a character in two.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&body[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "[redacted]"),
        _ => text.to_owned(),
    };
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(EXCERPT_BYTES_MAX));
    (!text.is_empty()).then_some(text)
}

/// A body on one line, without control characters: it ends in logs and on terminals.
fn quote(body: &str) -> String {
    let escaped: String = body
        .chars()
        .take(QUOTE_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    format!(": {escaped}")
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T09:00:00Z";

    fn retry_after(text: &str) -> Option<u64> {
        let now = NOW.parse().expect("a timestamp");
        parse_retry_after(text, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn every_status_has_its_verdict() {
        let told = Some(Duration::from_secs(7));
        for code in 100..=999 {
            let status = StatusCode::from_u16(code).expect("three digits");
            let expected = match code {
                200..=299 => Verdict::Done,
                410 => Verdict::Gone,
                429 | 503 => Verdict::Failed { after: told },
                _ => Verdict::Failed { after: None },
            };
            assert_eq!(judge(status, told), expected, "{code}");
        }
        let busy = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(judge(busy, None), Verdict::Failed { after: None });
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_up_to_a_day() {
        const DAY: u64 = 86_400;
        let cases = [
            ("1", Some(1)),
            (" 120 ", Some(120)),
            ("86401", Some(DAY)),
            ("1000000000000", Some(DAY)),
            ("99999999999999999999999999", Some(DAY)),
            ("Sat, 21 Nov 2026 09:02:00 GMT", Some(120)),
            ("Saturday, 21-Nov-26 09:02:00 GMT", Some(120)),
            ("Sat Nov 21 09:02:00 2026", Some(120)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(DAY)),
            ("0", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("Sat, 21 Nov 2026 08:59:59 GMT", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", None),
            ("Sat, 31 Feb 2027 00:00:00 GMT", None),
            ("Mon, 21 Nov 2026 09:02:00 GMT", None),
            ("2026-11-21T09:02:00Z", None),
        ];
        for (text, expected) in cases {
            assert_eq!(retry_after(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_excerpt_is_short_text_without_nul_or_secret() {
        let long = "é".repeat(1000);
        let kept = excerpt(long.as_bytes(), None).expect("text");
        assert_eq!(kept.len(), EXCERPT_BYTES_MAX);
        assert_eq!(excerpt(&"é".as_bytes()[..1], None), None);
        assert_eq!(excerpt(&"aé".as_bytes()[..2], None).as_deref(), Some("a"));
        assert_eq!(excerpt(b"a\xffb", None), None);
        assert_eq!(excerpt(b"", None), None);
        assert_eq!(excerpt(b"a\0b", None).as_deref(), Some("a\u{fffd}b"));
        let zeros = excerpt(&[0; 2000], None).expect("text");
        assert_eq!(zeros, "\u{fffd}".repeat(EXCERPT_BYTES_MAX / 3));
        assert_eq!(
            excerpt(b"key=s3cret.", Some("s3cret")).as_deref(),
            Some("key=[redacted].")
        );
    }

    #[test]
    fn a_quoted_body_stays_on_its_line() {
        let answer = Answer {
            status: StatusCode::BAD_REQUEST,
            retry_after: None,
            body: b"no\r\n\x1b[2J".into(),
        };
        let error = answer.outcome(None).expect_err("a failed attempt");
        let expected = r"retry: the provider answered 400 Bad Request: no\r\n\u{1b}[2J";
        assert_eq!(format!("{error:?}"), expected);
    }
}
