//! How AMQP spells an [`Envelope`] or a bundle of them, in both directions.

use std::borrow::Cow;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::connection::FRAME_OF_OURS_MAX;
use crate::message::{BUNDLE_JOBS_MAX, BUNDLE_VERSION, Envelope, Unreadable, VERSION};

const APP_ID: &str = "postroad";
const CONTENT_TYPE: &str = "application/json";
const PERSISTENT: u8 = 2;

const X_VERSION: &str = "x-version";
const X_TENANT: &str = "x-tenant";
const X_DISPATCH: &str = "x-dispatch";
const X_ATTEMPT: &str = "x-attempt";
const TRACEPARENT: &str = "traceparent";
/// How many jobs a bundle has. For people who read the queue; the body tells.
const X_JOBS: &str = "x-jobs";
/// What stands in a bundle's `type`: its jobs may be of different kinds.
const BUNDLE_TYPE: &str = "bundle";
/// Why a parked message was parked.
const X_PARKED_REASON: &str = "x-postroad-reason";
/// Written by the broker, newest death first.
const X_DEATH: &str = "x-death";

/// The properties of an envelope that may wait in the pipe for `expiration`.
pub(super) fn properties(
    envelope: &Envelope,
    expiration: Duration,
    timestamp: u64,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(X_VERSION.into(), AMQPValue::LongInt(VERSION));
    headers.insert(
        X_TENANT.into(),
        AMQPValue::LongString(envelope.tenant.as_str().into()),
    );
    headers.insert(X_DISPATCH.into(), AMQPValue::LongLongInt(envelope.dispatch));
    headers.insert(X_ATTEMPT.into(), AMQPValue::LongInt(envelope.attempt));
    if let Some(traceparent) = &envelope.traceparent {
        headers.insert(
            TRACEPARENT.into(),
            AMQPValue::LongString(traceparent.as_str().into()),
        );
    }
    common_properties(expiration, timestamp)
        .with_message_id(short(&envelope.id.to_string()))
        .with_type(short(&envelope.kind))
        .with_headers(headers)
}

/// The properties of a bundle, under an id of its own.
pub(super) fn bundle_properties(
    jobs: usize,
    expiration: Duration,
    timestamp: u64,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(X_VERSION.into(), AMQPValue::LongInt(BUNDLE_VERSION));
    let jobs = i32::try_from(jobs).unwrap_or(i32::MAX);
    headers.insert(X_JOBS.into(), AMQPValue::LongInt(jobs));
    common_properties(expiration, timestamp)
        .with_message_id(short(&Uuid::now_v7().to_string()))
        .with_type(BUNDLE_TYPE.into())
        .with_headers(headers)
}

fn common_properties(expiration: Duration, timestamp: u64) -> BasicProperties {
    BasicProperties::default()
        .with_app_id(APP_ID.into())
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(timestamp)
        .with_expiration(short(&expiration.as_millis().to_string()))
}

/// A job in a bundle. Its args are written behind it, as they are.
#[derive(Serialize)]
struct BundledHead<'a> {
    id: &'a Uuid,
    dispatch: i64,
    kind: &'a str,
    tenant: &'a str,
    attempt: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

/// A job in a bundle, as it is read.
#[derive(Deserialize)]
struct Bundled<'a> {
    id: Uuid,
    dispatch: i64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    attempt: i32,
    traceparent: Option<String>,
    #[serde(borrow)]
    args: &'a RawValue,
}

/// The body of a bundle. The jobs' own bodies are taken to be JSON.
pub(super) fn bundle_body(jobs: &[Envelope]) -> Vec<u8> {
    /// What a job takes beside its args, kind and tenant, about.
    const HEAD_BYTES: usize = 128;
    let bytes = |job: &Envelope| HEAD_BYTES + job.kind.len() + job.tenant.len() + job.body.len();
    let mut body = Vec::with_capacity(jobs.iter().map(bytes).sum());
    for job in jobs {
        body.push(if body.is_empty() { b'[' } else { b',' });
        let head = BundledHead {
            id: job.id.as_uuid(),
            dispatch: job.dispatch,
            kind: &job.kind,
            tenant: &job.tenant,
            attempt: job.attempt,
            traceparent: job.traceparent.as_deref(),
        };
        serde_json::to_writer(&mut body, &head).expect("strings and numbers, into memory");
        // Instead of the brace that ends the head.
        body.pop();
        body.extend_from_slice(b",\"args\":");
        body.extend_from_slice(&job.body);
        body.push(b'}');
    }
    if body.is_empty() {
        body.push(b'[');
    }
    body.push(b']');
    body
}

/// AMQP's short strings end at 255 bytes; nothing that is valid here is that long.
fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_else(|_| ShortString::default())
}

/// What is kept of the headers of a parked message. All properties have to fit into one frame of the
/// publisher, and the others have at most 3 KiB.
const PARKED_HEADERS_BYTES_MAX: usize = FRAME_OF_OURS_MAX as usize - 8 * 1024;

/// A message as it came, before anybody tried to read it.
#[derive(Clone, Debug)]
pub struct RawMessage {
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// Why the broker gave a message up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// It waited longer than its `expiration`.
    Expired,
    /// It was delivered too often.
    DeliveryLimit,
    /// None that we know.
    Other,
}

impl DeathReason {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::Other => "other",
        }
    }
}

impl RawMessage {
    /// The jobs in it, one or several, whose bodies are JSON.
    pub fn into_jobs(self) -> Result<Vec<Envelope>, Unreadable> {
        if self.is_bundle() {
            return read_bundle(&self.body);
        }
        let head = read_head(&self.properties)?;
        check_body(&self.body)?;
        Ok(vec![Envelope {
            body: self.body,
            ..head
        }])
    }

    /// The job that a message of version 1 names, without its body, which nobody may be able to read.
    pub fn named_job(&self) -> Option<Envelope> {
        read_head(&self.properties).ok()
    }

    fn is_bundle(&self) -> bool {
        version(&self.properties) == Some(i64::from(BUNDLE_VERSION))
    }

    /// Why the broker dead-lettered it, the last time it did.
    pub fn death_reason(&self) -> DeathReason {
        let newest = header(&self.properties, X_DEATH)
            .and_then(|value| value.as_array())
            .and_then(|deaths| deaths.as_slice().first());
        let reason = match newest {
            Some(AMQPValue::FieldTable(death)) => death.inner().get("reason").and_then(text),
            _ => None,
        };
        match reason.as_deref() {
            Some("rejected") => DeathReason::Rejected,
            Some("expired") => DeathReason::Expired,
            Some("delivery_limit") => DeathReason::DeliveryLimit,
            _ => DeathReason::Other,
        }
    }

    /// The same message with the reason for which it is parked. Headers that leave no room for the
    /// reason are left out: a message that cannot be parked would be tried again for ever.
    pub(super) fn parked(self, reason: &str) -> (BasicProperties, Vec<u8>) {
        let headers = self.properties.headers().clone();
        let mut headers = headers
            .filter(|headers| table_bytes(headers) <= PARKED_HEADERS_BYTES_MAX)
            .unwrap_or_default();
        headers.insert(X_PARKED_REASON.into(), AMQPValue::LongString(reason.into()));
        let properties = self
            .properties
            .with_headers(headers)
            .with_delivery_mode(PERSISTENT);
        (properties, self.body)
    }
}

fn version(properties: &BasicProperties) -> Option<i64> {
    header(properties, X_VERSION).and_then(number)
}

fn read_bundle(body: &[u8]) -> Result<Vec<Envelope>, Unreadable> {
    let read = serde_json::from_slice::<Vec<Bundled>>(body);
    let jobs = read.map_err(|_| check_body(body).err().unwrap_or(Unreadable::Jobs))?;
    if jobs.is_empty() || jobs.len() > BUNDLE_JOBS_MAX {
        return Err(Unreadable::Jobs);
    }
    let envelope = |job: Bundled| {
        if job.dispatch <= 0 {
            return Err(Unreadable::Dispatch);
        }
        if job.kind.is_empty() {
            return Err(Unreadable::Kind);
        }
        Ok(Envelope {
            id: job.id.into(),
            dispatch: job.dispatch,
            kind: job.kind.into_owned(),
            tenant: job.tenant.into_owned(),
            attempt: job.attempt,
            traceparent: job.traceparent,
            body: job.args.get().as_bytes().to_vec(),
        })
    };
    jobs.into_iter().map(envelope).collect()
}

fn read_head(properties: &BasicProperties) -> Result<Envelope, Unreadable> {
    let version = version(properties);
    if version != Some(i64::from(VERSION)) {
        return Err(Unreadable::Version(version));
    }
    let id = properties
        .message_id()
        .as_ref()
        .and_then(|id| id.as_str().parse().ok());
    let kind = properties
        .kind()
        .as_ref()
        .map(ShortString::as_str)
        .filter(|k| !k.is_empty());
    let dispatch = header(properties, X_DISPATCH)
        .and_then(number)
        .filter(|fence| *fence > 0);
    let attempt = header(properties, X_ATTEMPT).and_then(number);
    Ok(Envelope {
        id: id.ok_or(Unreadable::Id)?,
        dispatch: dispatch.ok_or(Unreadable::Dispatch)?,
        kind: kind.ok_or(Unreadable::Kind)?.to_owned(),
        tenant: header(properties, X_TENANT)
            .and_then(text)
            .unwrap_or_default(),
        attempt: attempt.and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        traceparent: header(properties, TRACEPARENT).and_then(text),
        body: Vec::new(),
    })
}

/// Checks syntax only, without recursion and without building anything.
fn check_body(body: &[u8]) -> Result<(), Unreadable> {
    serde_json::from_slice::<&RawValue>(body)
        .map(drop)
        .map_err(|_| Unreadable::Body)
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// The most that a table takes in a frame.
fn table_bytes(table: &FieldTable) -> usize {
    let fields = table.inner().iter();
    fields
        .map(|(name, value)| 2 + name.as_str().len() + value_bytes(value))
        .sum()
}

fn value_bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldTable(table) => 4 + table_bytes(table),
        AMQPValue::FieldArray(values) => {
            let values = values.as_slice().iter();
            4 + values.map(|value| 1 + value_bytes(value)).sum::<usize>()
        }
        // Numbers.
        _ => 8,
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    fn envelope() -> Envelope {
        Envelope {
            id: JobId::new(),
            dispatch: 7,
            kind: "sms".to_owned(),
            tenant: "acme".to_owned(),
            attempt: 2,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            body: br#"{"to":"+33639980606"}"#.to_vec(),
        }
    }

    fn raw(envelope: &Envelope) -> RawMessage {
        let properties = properties(envelope, Duration::from_secs(60), 1_700_000_000);
        RawMessage {
            properties,
            body: envelope.body.clone(),
        }
    }

    fn bundle(jobs: &[Envelope]) -> RawMessage {
        RawMessage {
            properties: bundle_properties(jobs.len(), Duration::from_secs(60), 1_700_000_000),
            body: bundle_body(jobs),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let envelope = envelope();
        assert_eq!(raw(&envelope).into_jobs().unwrap(), [envelope]);
    }

    #[test]
    fn a_bundle_is_read_job_by_job() {
        let untraced = Envelope {
            traceparent: None,
            body: b"null".to_vec(),
            ..envelope()
        };
        let jobs = [envelope(), untraced, envelope()];
        assert_eq!(bundle(&jobs).into_jobs().unwrap(), jobs);
        assert_eq!(bundle(&jobs).named_job(), None);
        let RawMessage { properties, body } = bundle(&jobs);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "bundle");
        assert_eq!(header(&properties, X_JOBS).and_then(number), Some(3));
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "60000");
        let shown: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(shown[0]["args"]["to"], "+33639980606");
        assert!(shown[1].get("traceparent").is_none());
    }

    #[test]
    fn a_bundle_that_cannot_be_read_says_why() {
        let job = String::from_utf8(bundle_body(&[envelope()])).unwrap();
        let job = &job[1..job.len() - 1];
        let read = |body: String| {
            let message = RawMessage {
                body: body.into_bytes(),
                ..bundle(&[])
            };
            message.into_jobs()
        };
        assert_eq!(read(format!("[{job}]")).unwrap().len(), 1);
        let many = |n| format!("[{}]", vec![job; n].join(","));
        assert!(read(many(BUNDLE_JOBS_MAX)).is_ok());
        let renamed = |from, to| format!("[{job},{}]", job.replace(from, to));
        for (body, why) in [
            (String::new(), Unreadable::Body),
            (format!("[{job}"), Unreadable::Body),
            (many(0), Unreadable::Jobs),
            (many(BUNDLE_JOBS_MAX + 1), Unreadable::Jobs),
            (job.to_owned(), Unreadable::Jobs),
            (format!("[{job},7]"), Unreadable::Jobs),
            (renamed("\"id\":\"", "\"id\":\"x"), Unreadable::Jobs),
            (renamed("\"args\"", "\"arg\""), Unreadable::Jobs),
            (
                renamed("\"dispatch\":7", "\"dispatch\":0"),
                Unreadable::Dispatch,
            ),
            (renamed("\"sms\"", "\"\""), Unreadable::Kind),
        ] {
            assert_eq!(read(body.clone()), Err(why), "{body:.200}");
        }
    }

    #[test]
    fn the_properties_are_those_of_the_public_contract() {
        let RawMessage { properties, .. } = raw(&envelope());
        assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "postroad");
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "sms");
        assert_eq!(
            properties.content_type().as_ref().unwrap().as_str(),
            "application/json"
        );
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "60000");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(*properties.timestamp(), Some(1_700_000_000));
        let mut names: Vec<_> = properties
            .headers()
            .as_ref()
            .unwrap()
            .inner()
            .keys()
            .map(|k| k.to_string())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "traceparent",
                "x-attempt",
                "x-dispatch",
                "x-tenant",
                "x-version"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let headers = |message: &RawMessage| message.properties.headers().clone().unwrap();
        let with = |name: &str, value: Option<AMQPValue>| {
            let mut message = raw(&envelope());
            let mut table = FieldTable::default();
            for (key, kept) in headers(&message).inner() {
                if key.as_str() != name {
                    table.insert(key.clone(), kept.clone());
                }
            }
            if let Some(value) = value {
                table.insert(name.into(), value);
            }
            message.properties = message.properties.with_headers(table);
            message.into_jobs().unwrap_err()
        };
        assert_eq!(with(X_VERSION, None), Unreadable::Version(None));
        assert_eq!(
            with(X_VERSION, Some(AMQPValue::LongInt(9))),
            Unreadable::Version(Some(9))
        );
        assert_eq!(with(X_DISPATCH, None), Unreadable::Dispatch);
        assert_eq!(
            with(X_DISPATCH, Some(AMQPValue::LongInt(0))),
            Unreadable::Dispatch
        );
        assert_eq!(
            with(X_DISPATCH, Some(AMQPValue::Boolean(true))),
            Unreadable::Dispatch
        );

        let mut message = raw(&envelope());
        message.properties = message.properties.with_message_id("17".into());
        assert_eq!(message.into_jobs().unwrap_err(), Unreadable::Id);
        for body in ["", "nope", "{", "{}x", "\u{feff}{}"] {
            let message = RawMessage {
                body: body.into(),
                ..raw(&envelope())
            };
            assert_eq!(message.into_jobs().unwrap_err(), Unreadable::Body, "{body}");
        }
        let stranger = RawMessage {
            properties: BasicProperties::default(),
            body: Vec::new(),
        };
        assert_eq!(stranger.into_jobs().unwrap_err(), Unreadable::Version(None));
    }

    #[test]
    fn headers_that_leave_no_room_for_the_reason_are_not_parked() {
        let parked = |bytes: usize| {
            let mut message = raw(&envelope());
            let mut headers = message.properties.headers().clone().unwrap();
            let huge = vec![AMQPValue::LongString("x".repeat(bytes).into())];
            headers.insert("x-huge".into(), AMQPValue::FieldArray(huge.into()));
            message.properties = message.properties.with_headers(headers);
            let (properties, _) = message.parked("why");
            properties.headers().clone().unwrap()
        };
        let small = parked(PARKED_HEADERS_BYTES_MAX - 500);
        assert!(small.contains_key("x-huge") && small.contains_key(X_PARKED_REASON));
        let large = parked(PARKED_HEADERS_BYTES_MAX);
        assert_eq!(large.inner().len(), 1, "{:?}", large.inner().keys());
        assert!(large.contains_key(X_PARKED_REASON));
    }

    #[test]
    fn a_deeply_nested_body_is_read_without_a_deep_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let message = RawMessage {
            body: deep.into_bytes(),
            ..raw(&envelope())
        };
        assert!(message.into_jobs().is_ok());
    }
}
