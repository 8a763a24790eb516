//! `webhook`: posts a body to a URL that a tenant chose, signed as Standard Webhooks describes.
//!
//! The receiver knows the job's id (`webhook-id`, `idempotency-key`), which stays the same at
//! every attempt, so an attempt that may or may not have arrived is made again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use postroad_common::egress::EgressPolicy;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::http::compact::compact;
use super::http::signature::SigningSecret;
use super::http::{ATTEMPT_TIMEOUT, HttpClient, Limits, VettedDns, header_value, job_headers};
use super::read_object;
use crate::{Destination, Done, Handler, JobContext, JobError, KindPolicy, OnLost};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const HEADERS_MAX: usize = 64;

/// What args may not set: what says who sends and which job it is, and what frames the message.
const RESERVED_HEADERS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 3] = ["webhook-", "postroad-", "proxy-"];

/// What the operator decides about webhooks.
#[derive(Debug, Default)]
pub struct WebhookConfig {
    /// Signs the webhooks of tenants that have no secret of their own. Without one those are sent
    /// unsigned.
    pub secret: Option<SigningSecret>,
    /// Private networks that may be reached all the same.
    pub allow: Vec<IpNet>,
}

/// What a `webhook` job is given.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct WebhookArgs {
    url: String,
    body: String,
    headers: HeaderMap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    url: String,
    body: Box<RawValue>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
}

/// All that has to be read to know whom a webhook calls.
#[derive(Deserialize)]
struct Target<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

/// Args that are no webhook.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWebhook {
    /// Not the fields that a webhook has.
    #[error(transparent)]
    Shape(#[from] serde_json::Error),
    /// The string has half of a surrogate pair.
    #[error("body: the string is not Unicode text")]
    Body(#[source] serde_json::Error),
    /// More headers than a request should have.
    #[error("headers: more than {HEADERS_MAX}")]
    TooManyHeaders,
    /// The name is none.
    #[error("headers: {0:?} is not a header name")]
    HeaderName(String),
    /// The value cannot stand in a header.
    #[error("headers: the value of `{0}` is not visible ASCII text")]
    HeaderValue(HeaderName),
    /// The name belongs to the protocol.
    #[error("headers: `{0}` is set by Postroad")]
    ReservedHeader(HeaderName),
    /// Two names that differ in case only.
    #[error("headers: `{0}` is given twice")]
    RepeatedHeader(HeaderName),
}

impl TryFrom<Box<RawValue>> for WebhookArgs {
    type Error = InvalidWebhook;

    fn try_from(json: Box<RawValue>) -> Result<Self, InvalidWebhook> {
        let fields: Fields =
            read_object(&json, "an object with `url`, `body` and perhaps `headers`")?;
        let mut headers = parse_headers(fields.headers.unwrap_or_default())?;
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
        Ok(Self {
            url: fields.url,
            body: body_text(&fields.body)?,
            headers,
        })
    }
}

/// A string is sent as its content, so that a producer can send any text; the rest as JSON.
fn body_text(json: &RawValue) -> Result<String, InvalidWebhook> {
    if json.get().starts_with('"') {
        serde_json::from_str(json.get()).map_err(InvalidWebhook::Body)
    } else {
        Ok(compact(json))
    }
}

fn parse_headers(texts: BTreeMap<String, String>) -> Result<HeaderMap, InvalidWebhook> {
    if texts.len() > HEADERS_MAX {
        return Err(InvalidWebhook::TooManyHeaders);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in texts {
        let Ok(name) = name.parse::<HeaderName>() else {
            return Err(InvalidWebhook::HeaderName(name));
        };
        if RESERVED_HEADERS.contains(&name.as_str())
            || RESERVED_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix))
        {
            return Err(InvalidWebhook::ReservedHeader(name));
        }
        let Some(mut value) = header_value(&value) else {
            return Err(InvalidWebhook::HeaderValue(name));
        };
        value.set_sensitive(true);
        if headers.insert(&name, value).is_some() {
            return Err(InvalidWebhook::RepeatedHeader(name));
        }
    }
    Ok(headers)
}

/// The handler of `webhook`.
#[derive(Debug)]
pub struct Webhook {
    secret: Option<SigningSecret>,
    egress: EgressPolicy,
    http: HttpClient,
}

impl Webhook {
    /// A handler with connections of its own. Fails where the system has no root certificates.
    pub fn new(config: WebhookConfig) -> anyhow::Result<Self> {
        Self::with_limits(config, Limits::default())
    }

    pub(super) fn with_limits(config: WebhookConfig, limits: Limits) -> anyhow::Result<Self> {
        let egress = EgressPolicy::new(config.allow);
        let http = HttpClient::new(limits, Some(Arc::new(VettedDns(egress.clone()))))?;
        Ok(Self {
            secret: config.secret,
            egress,
            http,
        })
    }

    /// What signs for a job's tenant: its own secrets, or the operator's for those without.
    async fn sign(
        &self,
        job: &JobContext,
        timestamp: i64,
        body: &str,
    ) -> Result<Option<String>, JobError> {
        let id = job.id.to_string();
        let Some(own) = job.settings.webhook_secrets(&job.tenant).await? else {
            let operators = self.secret.as_ref();
            return Ok(operators.map(|secret| secret.sign(&id, timestamp, body)));
        };
        let mut signatures = Vec::with_capacity(2);
        for secret in std::iter::once(&own.current).chain(&own.previous) {
            let secret: SigningSecret = secret.parse()?;
            signatures.push(secret.sign(&id, timestamp, body));
        }
        // As the specification has it: receivers take a message that any of them fits.
        Ok(Some(signatures.join(" ")))
    }

    /// What is sent beside the args' own headers, which can name none of these.
    async fn protocol_headers(&self, job: &JobContext, body: &str) -> Result<HeaderMap, JobError> {
        let timestamp = Timestamp::now().as_second();
        let mut headers = job_headers(job)?;
        if let Some(signature) = self.sign(job, timestamp, body).await? {
            headers.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(signature)?);
        }
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
        headers.insert(WEBHOOK_ID, HeaderValue::try_from(job.id.to_string())?);
        Ok(headers)
    }
}

impl Handler for Webhook {
    const KIND: &'static str = "webhook";
    type Args = WebhookArgs;

    fn policy(&self) -> KindPolicy {
        KindPolicy {
            on_lost: OnLost::Retry,
            timeout: ATTEMPT_TIMEOUT,
            ..KindPolicy::default()
        }
    }

    fn destination(&self, args: &[u8]) -> Option<Destination> {
        let target: Target<'_> = serde_json::from_slice(args).ok()?;
        let url = self.egress.check(&target.url).ok()?;
        Some(Destination::of_url(&url))
    }

    async fn run(&self, job: JobContext, args: WebhookArgs) -> Result<Done, JobError> {
        let url = self.egress.check(&args.url).map_err(JobError::fatal)?;
        let mut headers = args.headers;
        headers.extend(self.protocol_headers(&job, &args.body).await?);
        self.http.post(url, headers, args.body).await?.outcome(None)
    }
}
