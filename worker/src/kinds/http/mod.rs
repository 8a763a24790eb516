//! One POST to a provider, made so that what is known about it afterwards is exact.
//!
//! The three ways a call can end are kept apart, because a kind that holds what is in doubt must
//! hold neither more nor less: it was answered ([`Answer`]), nothing was sent
//! ([`Failure::NotSent`], [`Failure::NotMade`], [`Failure::Blocked`]), or the request may have arrived and no answer
//! came ([`Failure::Unanswered`]).
//!
//! Whoever answers is taken to be hostile: every wait and every buffer has a limit.

mod answer;
pub(super) mod compact;
pub(super) mod signature;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use postroad_common::egress::{BlockedAddress, EgressPolicy};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

pub(super) use self::answer::Answer;
use crate::{JobContext, JobError, ProviderFailure};

/// How long one attempt of a kind that calls a provider may take.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// The job's id, the same at every attempt.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// 1 for the first attempt.
pub(super) const POSTROAD_ATTEMPT: HeaderName = HeaderName::from_static("postroad-attempt");
/// W3C trace context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const USER_AGENT: &str = concat!("postroad/", env!("CARGO_PKG_VERSION"));

/// What is read of an answer's body. The rest is never fetched.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Idle connections kept per host: as many as jobs run at once with the largest usual prefetch,
/// so that a worker under load never connects twice.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// Shorter than the five seconds after which common servers close an idle connection. A request
/// written to a connection that the server is just closing has an unknown outcome, so the client
/// has to be the side that closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long each phase of a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Name look-up, TCP and TLS together.
    pub(super) connect: Duration,
    /// Everything. Below [`ATTEMPT_TIMEOUT`], so that the handler itself says what is known and
    /// not the engine, which could only say that it ran out of time.
    pub(super) total: Duration,
    /// The body after the status line. The status has decided by then, so this only bounds how
    /// long a slow body occupies one of the worker's slots.
    pub(super) body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(28),
            body: Duration::from_secs(5),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The address may not be reached. Nothing was sent.
    Blocked(BlockedAddress),
    /// The request could not be made of what was given. Nothing was sent.
    NotMade(anyhow::Error),
    /// No connection came about. Nothing was sent.
    NotSent(anyhow::Error),
    /// The request may have arrived; what came back, if anything, was no HTTP answer.
    Unanswered(anyhow::Error),
}

impl Failure {
    /// Sorts an error of sending. What is not known to have failed before the first byte was
    /// written is in doubt.
    fn of(error: reqwest::Error) -> Self {
        // The URL of a webhook may contain a credential, and errors are kept and logged.
        let error = error.without_url();
        if let Some(blocked) = find_cause::<BlockedAddress>(&error) {
            return Self::Blocked(blocked.clone());
        }
        let (not_made, not_sent) = (error.is_builder(), error.is_connect());
        let error = anyhow::Error::new(error);
        match (not_made, not_sent) {
            (true, _) => Self::NotMade(error),
            (_, true) => Self::NotSent(error),
            _ => Self::Unanswered(error),
        }
    }
}

impl From<Failure> for JobError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Blocked(error) => Self::fatal(error),
            Failure::NotMade(error) => Self::retry(error.context("nothing was sent")),
            Failure::NotSent(error) => Self::retry(error.context("nothing was sent"))
                .by_provider(ProviderFailure::Unreachable),
            Failure::Unanswered(error) => {
                Self::unknown(error.context("the request may have arrived, but no answer came"))
                    .by_provider(ProviderFailure::Silent)
            }
        }
    }
}

/// The connections of one kind.
#[derive(Debug)]
pub(super) struct HttpClient {
    client: reqwest::Client,
    limits: Limits,
}

/// Looks names up itself, and hands on the addresses that may be connected to.
pub(super) struct VettedDns(pub(super) EgressPolicy);

impl Resolve for VettedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(policy.permit(found)?.into_iter()) as Addrs)
        })
    }
}

impl HttpClient {
    /// A client that looks names up with `resolver`, or as the system does.
    pub(super) fn new(limits: Limits, resolver: Option<Arc<dyn Resolve>>) -> anyhow::Result<Self> {
        // One provider for the whole process; whoever was first installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(limits.connect)
            .timeout(limits.total)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // HTTP/2 would put every request on one connection, and the end of that connection
            // would put all of them in doubt at once.
            .http1_only()
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT);
        if let Some(resolver) = resolver {
            builder = builder.dns_resolver(resolver);
        }
        let client = builder.build().context("cannot set up the HTTP client")?;
        Ok(Self { client, limits })
    }

    /// Posts `body` and waits for the answer.
    pub(super) async fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, Failure> {
        let request = self.client.post(url).headers(headers).body(body);
        let mut response = request.send().await.map_err(Failure::of)?;
        let mut answer = Answer::new(response.status(), response.headers());
        // A body that breaks off, dawdles or never ends does not matter: the provider has said
        // what became of the request. What is not read to its end is not used again.
        let _ = tokio::time::timeout(self.limits.body, async {
            while let Ok(Some(chunk)) = response.chunk().await {
                let room = BODY_BYTES_MAX - answer.body.len();
                answer
                    .body
                    .extend_from_slice(&chunk[..chunk.len().min(room)]);
                if answer.body.len() == BODY_BYTES_MAX {
                    break;
                }
            }
        })
        .await;
        Ok(answer)
    }
}

/// The headers that say which job, and which attempt, a request belongs to.
pub(super) fn job_headers(job: &JobContext) -> Result<HeaderMap, JobError> {
    let mut headers = HeaderMap::new();
    headers.insert(IDEMPOTENCY_KEY, HeaderValue::try_from(job.id.to_string())?);
    headers.insert(POSTROAD_ATTEMPT, HeaderValue::from(job.attempt));
    // Whoever enqueued the job wrote it. One that does not fit a header helps nobody.
    if let Some(value) = job.traceparent.as_deref().and_then(header_value) {
        headers.insert(TRACEPARENT, value);
    }
    Ok(headers)
}

/// A text as a header's value. Other than ASCII, receivers disagree about what the bytes mean.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    text.parse().ok().filter(|_| text.is_ascii())
}

fn find_cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref())
}
