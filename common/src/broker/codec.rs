//! How AMQP spells an [`Envelope`], in both directions.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::value::RawValue;

use super::connection::FRAME_OF_OURS_MAX;
use crate::message::{Envelope, Unreadable, VERSION};

const APP_ID: &str = "postroad";
const CONTENT_TYPE: &str = "application/json";
const PERSISTENT: u8 = 2;

const X_VERSION: &str = "x-version";
const X_TENANT: &str = "x-tenant";
const X_DISPATCH: &str = "x-dispatch";
const X_ATTEMPT: &str = "x-attempt";
const TRACEPARENT: &str = "traceparent";
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
    BasicProperties::default()
        .with_message_id(short(&envelope.id.to_string()))
        .with_type(short(&envelope.kind))
        .with_app_id(APP_ID.into())
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(timestamp)
        .with_expiration(short(&expiration.as_millis().to_string()))
        .with_headers(headers)
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
    /// Reads the envelope and checks that the body is JSON.
    pub fn into_envelope(self) -> Result<Envelope, Unreadable> {
        let head = read_head(&self.properties)?;
        check_body(&self.body)?;
        Ok(Envelope {
            body: self.body,
            ..head
        })
    }

    /// Reads everything but the body, which stays empty.
    pub fn head(&self) -> Result<Envelope, Unreadable> {
        read_head(&self.properties)
    }

    /// Whether the body is JSON.
    pub fn check_body(&self) -> Result<(), Unreadable> {
        check_body(&self.body)
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

fn read_head(properties: &BasicProperties) -> Result<Envelope, Unreadable> {
    let version = header(properties, X_VERSION).and_then(number);
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

    #[test]
    fn what_is_written_is_what_is_read() {
        let envelope = envelope();
        assert_eq!(raw(&envelope).into_envelope().unwrap(), envelope);
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
            message.into_envelope().unwrap_err()
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
        assert_eq!(message.into_envelope().unwrap_err(), Unreadable::Id);
        for body in ["", "nope", "{", "{}x", "\u{feff}{}"] {
            let message = RawMessage {
                body: body.into(),
                ..raw(&envelope())
            };
            assert_eq!(
                message.into_envelope().unwrap_err(),
                Unreadable::Body,
                "{body}"
            );
        }
        let stranger = RawMessage {
            properties: BasicProperties::default(),
            body: Vec::new(),
        };
        assert_eq!(
            stranger.into_envelope().unwrap_err(),
            Unreadable::Version(None)
        );
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
        assert!(message.into_envelope().is_ok());
    }
}
