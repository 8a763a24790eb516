//! Bodies and query strings, read with limits and refused with a pointer.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use postroad_common::job::ARGS_BYTES_MAX;
use postroad_common::text::one_line;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, pointer_of};

/// The largest body: the largest args, with room for the other fields.
pub(crate) const BODY_BYTES_MAX: usize = ARGS_BYTES_MAX + 16 * 1024;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read, and for how long, so that its sender gets to read
/// the answer.
const THROWN_AWAY_MAX: usize = 8 * 1024 * 1024;
const THROWING_AWAY_MAX: Duration = Duration::from_secs(2);

/// A JSON body as its bytes, for whoever reads it as a job.
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        expect_type(request.headers(), &["application/json"])?;
        Ok(Self(read(request).await?))
    }
}

/// A JSON body as what it says. An empty one is an empty object.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_typed = request.headers().contains_key(CONTENT_TYPE);
        if is_typed {
            expect_type(request.headers(), &["application/json"])?;
        }
        let body = read(request).await?;
        if body.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_typed {
            return Err(Problem::media_type("send `Content-Type: application/json`"));
        }
        parse(&body).map(Self)
    }
}

/// A query string as what it says.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => Err(Problem::parameter(
                "query",
                one_line(&axum::Error::new(error).to_string()),
            )),
        }
    }
}

/// A query string that says nothing: what is asked for has no parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The parameter of a path. One that is not UTF-8 names nothing that there is.
pub(crate) struct Path(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(text)) => Ok(Self(text)),
            Err(_) => Err(Problem::of_status(StatusCode::NOT_FOUND)),
        }
    }
}

/// A path parameter that is a UUID or a name; what is neither is not found.
pub(crate) fn id_of(text: &str) -> Option<uuid::Uuid> {
    uuid::Uuid::try_parse(text)
        .ok()
        .filter(|_| text.len() == 36)
}

/// Refuses a content that is not one of these.
pub(crate) fn expect_type(headers: &HeaderMap, types: &[&str]) -> Result<(), Problem> {
    let encoding = headers.get(CONTENT_ENCODING).map(|one| one.as_bytes());
    if !matches!(encoding, None | Some(b"identity")) {
        return Err(Problem::media_type("a compressed body is not taken"));
    }
    let given = headers.get(CONTENT_TYPE).and_then(|one| one.to_str().ok());
    let mut parts = given.unwrap_or_default().split(';').map(str::trim);
    let is_known = parts
        .next()
        .is_some_and(|given| types.iter().any(|known| known.eq_ignore_ascii_case(given)));
    // UTF-8 is the only one that JSON knows (RFC 8259).
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if is_known && is_utf8 && headers.get_all(CONTENT_TYPE).iter().count() == 1 {
        return Ok(());
    }
    let known = types[0];
    Err(Problem::media_type(format!(
        "send `Content-Type: {known}`, in UTF-8"
    )))
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    let mut body = request.into_body();
    let whole = Limited::new(&mut body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_PATIENCE, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            throw_away(&mut body).await;
            Err(Problem::too_large(format!(
                "a body may have {BODY_BYTES_MAX} bytes; for many jobs there is POST /v1/jobs/batch"
            )))
        }
        Ok(Err(_)) => Err(Problem::malformed("the body broke off")),
        Err(_) => Err(Problem::timeout()),
    }
}

/// What is left of a body that is refused, unless it is very long or slow: whoever is still sending
/// when the connection is closed may never see why.
async fn throw_away(body: &mut Body) {
    let reading = async {
        let mut left = THROWN_AWAY_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    drop(tokio::time::timeout(THROWING_AWAY_MAX, reading).await);
}

pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Problem> {
    // serde would take a list of all fields in their order as well.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::invalid("", "expected an object, not a list"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read: Result<T, _> = serde_path_to_error::deserialize(&mut deserializer);
    let value = read.map_err(|error| {
        let pointer = pointer_of(&error.path().to_string());
        let cause = error.into_inner();
        match cause.is_data() {
            true => Problem::invalid(pointer, one_line(&cause.to_string())),
            false => Problem::malformed(one_line(&cause.to_string())),
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::malformed(one_line(&error.to_string())))?;
    Ok(value)
}
