//! A job as it comes in from outside: one JSON object, on a line of a file or in a request.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::new_job::DELAY_MAX;
use super::{InvalidJob, JobId, NewJob, RunAt};
use crate::config::parse_duration;
use crate::text::one_line;

/// The fields of a job, by their public names. What is not known is refused, so that a misspelt
/// `dedup_key` is an error and not a second message. A field that is null is one that is left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobInput {
    /// A UUID made by the sender, so that sending again is not enqueueing again.
    pub id: Option<Uuid>,
    /// Default `default`.
    pub tenant: Option<String>,
    /// Default `default`.
    pub queue: Option<String>,
    /// Required.
    pub kind: String,
    /// Default `{}`.
    pub args: Option<Box<RawValue>>,
    /// 0 to 3; default as its tenant says, else 1.
    pub priority: Option<i16>,
    /// RFC 3339. Not together with `delay`.
    pub run_at: Option<Timestamp>,
    /// Such as `5m`. Not together with `run_at`.
    pub delay: Option<String>,
    /// RFC 3339; default as its tenant says, else never.
    pub expires_at: Option<Timestamp>,
    /// 1 to 255 bytes.
    pub dedup_key: Option<String>,
    /// 1 to 1000; default as its tenant says, else as its kind does.
    pub max_attempts: Option<i32>,
    /// `retry` or `hold`.
    pub on_lost: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// 1 to 255 bytes.
    pub coalesce_key: Option<String>,
}

/// Why an input is no job, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError {
    /// The path to what is wrong, such as `kind`; empty where it is the whole.
    pub field: String,
    /// What it must be.
    pub message: String,
    /// Whether the input is not even JSON.
    pub is_syntax: bool,
}

impl InputError {
    fn at(field: &str, message: &str) -> Self {
        Self {
            field: one_line(field),
            message: one_line(message),
            is_syntax: false,
        }
    }

    /// Something is wrong with the input as a whole.
    pub fn whole(message: &str) -> Self {
        Self::at("", message)
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.field.as_str() {
            "" => self.message.clone(),
            // Some rules name their field, and some are only the end of its sentence.
            field if self.message.starts_with(field) => self.message.clone(),
            field if self.message.starts_with("must ") => format!("{field} {}", self.message),
            field => format!("{field}: {}", self.message),
        };
        f.write_str(&one_line(&text))
    }
}

impl std::error::Error for InputError {}

impl From<InvalidJob> for InputError {
    fn from(invalid: InvalidJob) -> Self {
        Self::at(invalid.field, invalid.rule)
    }
}

impl JobInput {
    /// Reads one JSON object. An error names the field.
    pub fn parse(json: &[u8]) -> Result<Self, InputError> {
        // serde would take a list of all fields in their order as well.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(InputError::whole("a list is not a job: expected an object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let read = serde_path_to_error::deserialize(&mut deserializer);
        let input = read.map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => String::new(),
                path => path,
            };
            let cause = error.into_inner();
            InputError {
                is_syntax: !cause.is_data(),
                ..InputError::at(&field, &cause.to_string())
            }
        })?;
        deserializer.end().map_err(|error| InputError {
            is_syntax: true,
            ..InputError::whole(&error.to_string())
        })?;
        Ok(input)
    }

    /// Checks everything that can be checked without the database.
    pub fn into_job(self) -> Result<NewJob, InputError> {
        fn named<T: FromStr<Err: fmt::Display>>(field: &str, text: &str) -> Result<T, InputError> {
            text.parse()
                .map_err(|error: T::Err| InputError::at(field, &error.to_string()))
        }
        let args = match self.args {
            Some(args) => args,
            None => RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"),
        };
        let mut job = NewJob::new(named("kind", &self.kind)?, args);
        if let Some(id) = self.id {
            job.id = JobId::from(id);
        }
        if let Some(tenant) = self.tenant {
            job.tenant = named("tenant", &tenant)?;
        }
        if let Some(queue) = self.queue {
            job.queue = named("queue", &queue)?;
        }
        job.priority = self.priority;
        job.run_at = run_at(self.run_at, self.delay.as_deref())?;
        job.expires_at = self.expires_at;
        job.max_attempts = self.max_attempts;
        job.on_lost = match self.on_lost {
            Some(on_lost) => Some(named("on_lost", &on_lost)?),
            None => None,
        };
        job.dedup_key = self.dedup_key;
        job.traceparent = self.traceparent;
        job.coalesce_key = self.coalesce_key;
        job.check()?;
        Ok(job)
    }
}

fn run_at(at: Option<Timestamp>, delay: Option<&str>) -> Result<RunAt, InputError> {
    match (at, delay) {
        (Some(_), Some(_)) => Err(InputError::at(
            "delay",
            "run_at and delay exclude each other",
        )),
        (Some(at), None) => Ok(RunAt::At(at)),
        (None, Some(delay)) => {
            let wait = parse_duration(delay).ok_or_else(|| {
                InputError::at("delay", "must be a duration with its unit, such as `5m`")
            })?;
            if wait > DELAY_MAX {
                return Err(InputError::at("delay", "must be at most 100 years"));
            }
            Ok(RunAt::After(wait))
        }
        (None, None) => Ok(RunAt::Now),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(line: &str) -> Result<NewJob, InputError> {
        JobInput::parse(line.as_bytes())?.into_job()
    }

    #[test]
    fn a_full_line_is_read() {
        let job = read(
            r#"{"kind":"sms","queue":"sms","tenant":"acme","args":{ "to" : "+33" },"priority":0,
                "delay":"5m","dedup_key":"order-17","max_attempts":3,"on_lost":"retry"}"#,
        )
        .unwrap();
        assert_eq!(job.args.get(), r#"{ "to" : "+33" }"#);
        assert_eq!(job.run_at, RunAt::After(Duration::from_secs(300)));
    }

    #[test]
    fn a_wrong_line_names_its_field() {
        let cases = [
            (r#"{"args":{}}"#, "kind"),
            (r#"{"kind":"Sms"}"#, "kind"),
            (r#"{"kind":"sms","dedupkey":"x"}"#, "dedupkey"),
            (r#"{"kind":"sms","priority":"high"}"#, "priority"),
            (r#"{"kind":"sms","priority":9}"#, "priority"),
            (r#"{"kind":"sms","delay":"5"}"#, "delay"),
            (r#"{"kind":"sms","delay":"99999d"}"#, "delay"),
            (
                r#"{"kind":"sms","delay":"5m","run_at":"2030-01-01T00:00:00Z"}"#,
                "delay",
            ),
            (r#"{"kind":"sms","run_at":"tomorrow"}"#, "run_at"),
            (r#"{"kind":"sms"} {}"#, "trailing"),
            (r#"{"kind":"sms","on_lost":"shrug"}"#, "on_lost"),
            ("nope", "expected"),
            (
                r#"[null,null,null,"sms",null,null,null,null,null,null,null,null,null]"#,
                "a list is not a job",
            ),
        ];
        for (line, field) in cases {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(field), "{line}: {error}");
        }
    }

    #[test]
    fn an_error_stays_on_its_line_and_is_no_longer_than_one_can_read() {
        let long = "x".repeat(200_000);
        for line in [
            r#"{"kind":"sms","on_lost":"\n\u001b[2Jline 7: fine"}"#.to_owned(),
            r#"{"kind":"\u202e\r\n"}"#.to_owned(),
            r#"{"kind":"sms","\n\u001b[2J":1}"#.to_owned(),
            format!(r#"{{"kind":"sms","on_lost":"{long}"}}"#),
            format!(r#"{{"kind":"sms","{long}":1}}"#),
        ] {
            let error = read(&line).unwrap_err().to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
            assert!(error.chars().count() <= 401, "{error}");
        }
    }
}
