//! What every request and every answer have around them: an id, a log line, a measurement, headers
//! that keep browsers from guessing, and a body for errors that have none.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::metrics;
use crate::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ones are replaced.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// The id of a request: the client's own, or a new one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Nothing here is a page, so nothing may be one.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
];

/// The outermost layer.
pub(crate) async fn frame(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));

    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem.status().is_server_error() {
            tracing::warn!(request_id = id, "{method} {route}: {}", problem.status());
        }
        let own = std::mem::take(response.headers_mut());
        response = problem.respond(&id);
        keep(&own, &mut response);
    } else if response.status().is_client_error() && !is_problem(&response) {
        let own = std::mem::take(response.headers_mut());
        response = Problem::of_status(response.status()).respond(&id);
        keep(&own, &mut response);
    }
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let (status, elapsed) = (response.status(), started.elapsed());
    metrics::request(&method, &route, status, elapsed);
    tracing::debug!(
        request_id = id,
        duration_ms = elapsed.as_millis() as u64,
        "{method} {route} {}",
        status.as_u16()
    );
    response
}

/// What the router said of a path is still true of it.
fn keep(own: &axum::http::HeaderMap, response: &mut Response) {
    if let Some(allow) = own.get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
}

fn is_problem(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json")
}

fn request_id(request: &Request) -> String {
    let own = request.headers().get(REQUEST_ID);
    let own = own.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=REQUEST_ID_CHARS_MAX).contains(&own.len()) && own.bytes().all(plain) {
        return own.to_owned();
    }
    Uuid::now_v7().to_string()
}
