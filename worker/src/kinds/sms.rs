//! `sms`: hands a text message to the operator's gateway.
//!
//! A message that arrives twice annoys a person and is paid for twice, and not every gateway
//! honours an idempotency key. So what may have been sent is held for a decision and never
//! repeated by itself; what was definitely not sent is tried again.

use anyhow::ensure;
use postroad_common::sender::is_phone_number;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::http::compact::compact;
use super::http::{ATTEMPT_TIMEOUT, HttpClient, Limits, header_value, job_headers};
use super::read_object;
use crate::{Destination, Done, Handler, JobContext, JobError, KindPolicy, OnLost};

const TEXT_CHARS_MAX: usize = 1600;

/// Who the message is from, where the tenant has said so. Beside the args, which are its submitter's
/// and go as they are; a gateway that does not know the header passes it over.
pub const SENDER: HeaderName = HeaderName::from_static("postroad-sms-sender");

/// Where messages go. Without a gateway there is nothing to register.
#[derive(Clone, Debug)]
pub struct SmsConfig {
    /// The gateway's URL. The operator chose it, so it may be in a private network.
    pub gateway: Url,
    /// Sent as `authorization: Bearer …`.
    pub token: Option<SecretString>,
}

/// What an `sms` job is given: checked, and kept as the JSON that goes to the gateway.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct SmsArgs {
    json: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    to: String,
    text: String,
}

/// Args that are no text message. What is wrong with number or text is said without repeating
/// them: errors are logged.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSms {
    /// Not the fields that a message has.
    #[error(transparent)]
    Shape(#[from] serde_json::Error),
    /// Not the shape of E.164.
    #[error("to: not a phone number such as +33639980606, `+` and 7 to 15 digits")]
    To,
    /// Empty, or longer than ten parts.
    #[error("text: {0} characters, not 1 to {TEXT_CHARS_MAX}")]
    Text(usize),
}

impl TryFrom<Box<RawValue>> for SmsArgs {
    type Error = InvalidSms;

    fn try_from(json: Box<RawValue>) -> Result<Self, InvalidSms> {
        let fields: Fields = read_object(&json, "an object with `to` and `text`")?;
        if !is_phone_number(&fields.to) {
            return Err(InvalidSms::To);
        }
        let chars = fields.text.chars().count();
        if !(1..=TEXT_CHARS_MAX).contains(&chars) {
            return Err(InvalidSms::Text(chars));
        }
        Ok(Self {
            json: compact(&json),
        })
    }
}

/// A token that cannot be sent. Does not repeat it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// There is nothing to send.
    #[error("the SMS gateway's token is empty")]
    Empty,
    /// It cannot stand in a header.
    #[error("the SMS gateway's token is not visible ASCII text")]
    Text,
}

/// The handler of `sms`.
#[derive(Debug)]
pub struct Sms {
    config: SmsConfig,
    destination: Destination,
    authorization: Option<HeaderValue>,
    http: HttpClient,
}

impl Sms {
    /// A handler with connections of its own. Fails where the gateway or the token cannot be
    /// used at all, so that a worker that cannot send does not start.
    pub fn new(config: SmsConfig) -> anyhow::Result<Self> {
        Self::with_limits(config, Limits::default())
    }

    pub(super) fn with_limits(config: SmsConfig, limits: Limits) -> anyhow::Result<Self> {
        let gateway = &config.gateway;
        ensure!(
            matches!(gateway.scheme(), "https" | "http"),
            "the SMS gateway's URL must be https or http, not `{}`",
            gateway.scheme()
        );
        ensure!(
            gateway.username().is_empty() && gateway.password().is_none(),
            "the SMS gateway's URL must not hold a user or a password"
        );
        let authorization = config.token.as_ref().map(authorization).transpose()?;
        let http = HttpClient::new(limits, None)?;
        Ok(Self {
            destination: Destination::of_url(gateway),
            config,
            authorization,
            http,
        })
    }
}

fn authorization(token: &SecretString) -> anyhow::Result<HeaderValue> {
    let token = token.expose_secret();
    ensure!(!token.is_empty(), InvalidToken::Empty);
    let mut value = header_value(&format!("Bearer {token}")).ok_or(InvalidToken::Text)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Handler for Sms {
    const KIND: &'static str = "sms";
    type Args = SmsArgs;

    fn policy(&self) -> KindPolicy {
        KindPolicy {
            on_lost: OnLost::Hold,
            timeout: ATTEMPT_TIMEOUT,
            ..KindPolicy::default()
        }
    }

    fn destination(&self, _args: &[u8]) -> Option<Destination> {
        Some(self.destination.clone())
    }

    async fn run(&self, job: JobContext, args: SmsArgs) -> Result<Done, JobError> {
        let mut headers = job_headers(&job)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // Before anything is sent: without an answer there is no attempt.
        let tenant = job.settings.of(&job.tenant).await?;
        if let Some(sender) = tenant
            .as_ref()
            .and_then(|tenant| tenant.sms_sender.as_ref())
        {
            headers.insert(SENDER, HeaderValue::from_str(sender.as_str())?);
        }
        let answer = self
            .http
            .post(self.config.gateway.clone(), headers, args.json)
            .await?;
        answer.outcome(self.config.token.as_ref().map(ExposeSecret::expose_secret))
    }
}
