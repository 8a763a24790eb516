//! Errors as RFC 9457 has them: what is wrong, where, and what to do.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use postroad_common::draft;
use postroad_common::job::InputError;
use postroad_common::{audience, store};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong with a request (`application/problem+json`).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem, as a URN that never changes: `urn:postroad:problem:invalid`.
    #[serde(rename = "type", serialize_with = "as_urn")]
    #[schema(value_type = String, example = "urn:postroad:problem:invalid")]
    kind: &'static str,
    /// The same for people.
    title: &'static str,
    /// The HTTP status.
    #[schema(value_type = u16, example = 422)]
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// What is wrong with this request, and what to do.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// Where in the request's body: a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "/kind")]
    pointer: Option<Box<str>>,
    /// Everything that is wrong, where more than one thing is known; the first is told above, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Wrong>>)]
    errors: Option<Box<Wrongs>>,
    /// Which query parameter or header it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'static str>,
    /// The id of the request, which is in the log, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    request_id: Option<Box<str>>,
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// Several things that are wrong. A problem is in the answer of every function: it must stay small.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
struct Wrongs(Vec<Wrong>);

/// One of several things that are wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Wrong {
    /// Where in the request's body: a JSON pointer (RFC 6901).
    pointer: String,
    /// What.
    detail: String,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

fn as_urn<S: serde::Serializer>(name: &str, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("urn:postroad:problem:{name}"))
}

impl Problem {
    fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: name,
            title,
            status,
            detail: detail.into().into_boxed_str(),
            pointer: None,
            errors: None,
            parameter: None,
            request_id: None,
            retry_after: None,
        }
    }

    /// The body is not what it says it is: not JSON, or cut off.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self::new(status, "malformed", "The request cannot be read", detail)
    }

    /// A value is not one that this field takes.
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let mut problem = Self::new(status, "invalid", "A value cannot be taken", detail);
        problem.pointer = Some(pointer.into().into_boxed_str());
        problem
    }

    /// Several values are not ones that their fields take. Of none, it is the whole.
    pub(crate) fn all_of(wrong: Vec<(String, String)>) -> Self {
        let errors: Vec<Wrong> = wrong
            .into_iter()
            .map(|(pointer, detail)| Wrong { pointer, detail })
            .collect();
        let mut problem = match errors.first() {
            Some(first) => Self::invalid(first.pointer.clone(), first.detail.clone()),
            None => Self::invalid("", "cannot be read"),
        };
        problem.errors = (errors.len() > 1).then(|| Box::new(Wrongs(errors)));
        problem
    }

    /// A query parameter is not one that this path takes.
    pub(crate) fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let mut problem = Self::new(status, "invalid", "A value cannot be taken", detail);
        problem.parameter = Some(name);
        problem
    }

    /// Nobody can tell who asks.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Who asks is not known",
            "send `Authorization: Bearer <token>` with a token that is neither expired nor revoked; \
             `postroad tokens create` makes one",
        )
    }

    /// The token may not be used for this.
    pub(crate) fn forbidden(scope: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "The token may not be used for this",
            format!("the scope `{scope}` is needed"),
        )
    }

    /// There is no such thing, or it is another tenant's: which of both is not said.
    pub(crate) fn not_found(what: &str) -> Self {
        let status = StatusCode::NOT_FOUND;
        Self::new(
            status,
            "not-found",
            "Not found",
            format!("there is no such {what}"),
        )
    }

    /// It is not in a state for this.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        let status = StatusCode::CONFLICT;
        Self::new(status, "conflict", "Not as things are now", detail)
    }

    /// More than is taken at once.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "too-large", "More than is taken", detail)
    }

    /// Not a type of content that is taken here.
    pub(crate) fn media_type(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "media-type", "Not a content that is taken", detail)
    }

    /// Too fast, or over a quota.
    pub(crate) fn too_many(detail: impl Into<String>, retry_after: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let mut problem = Self::new(status, "too-many", "More than is agreed", detail);
        problem.retry_after = Some(u32::try_from(retry_after).unwrap_or(u32::MAX).max(1));
        problem
    }

    /// The request took too long to arrive.
    pub(crate) fn timeout() -> Self {
        let status = StatusCode::REQUEST_TIMEOUT;
        let detail = "the rest of the request did not arrive in time";
        Self::new(status, "timeout", "The request did not arrive", detail)
    }

    /// Not the client's fault, and over soon.
    pub(crate) fn unavailable() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let detail = "the database does not answer; nothing was lost, try again";
        let mut problem = Self::new(status, "unavailable", "Not now", detail);
        problem.retry_after = Some(1);
        problem
    }

    /// A mistake of ours.
    fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let detail = "a mistake of the server's, which its log tells under this request's id";
        Self::new(status, "internal", "Not the client's fault", detail)
    }

    /// What the router said, or would say, without a body.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (name, title, detail) = match status {
            StatusCode::NOT_FOUND => ("not-found", "Not found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method",
                "Not a method of this path",
                "the header `allow` names those that there are",
            ),
            _ => (
                "malformed",
                "The request cannot be read",
                "it is refused as it is",
            ),
        };
        Self::new(status, name, title, detail)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into().into_boxed_str());
        self
    }

    /// The same about a field of the body, if it is about a value at all.
    pub(crate) fn about(mut self, pointer: &'static str) -> Self {
        if self.status != StatusCode::UNPROCESSABLE_ENTITY {
            return self;
        }
        self.parameter = None;
        self.at(pointer)
    }

    /// The whole answer, with the request's id in it.
    pub(crate) fn respond(mut self, request_id: &str) -> Response {
        self.request_id = Some(request_id.into());
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// Without a body: whoever knows the request's id writes it, see `frame`.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&store::Error> for Problem {
    fn from(error: &store::Error) -> Self {
        if let store::Error::InvalidJob { source, .. } = error {
            return Self::invalid(format!("/{}", source.field), source.to_string());
        }
        if let Some(limit) = error.limit() {
            return Self::invalid("", limit);
        }
        if let Some(refusal) = error.refused_value() {
            return Self::invalid("", refusal);
        }
        if error.is_transient() {
            tracing::warn!("{error}");
            return Self::unavailable();
        }
        // Nothing that a client can send leads here.
        tracing::error!("{error}");
        Self::internal()
    }
}

impl From<draft::Error> for Problem {
    fn from(error: draft::Error) -> Self {
        match error {
            draft::Error::Unreadable(_) => Self::invalid("", error.to_string()),
            draft::Error::TooMany => Self::too_large(error.to_string()),
            draft::Error::NoAudience | draft::Error::UnreadableRules(_) => {
                Self::invalid("/audience", error.to_string())
            }
            draft::Error::NoDraft(_) | draft::Error::HasAudience | draft::Error::NewerContent => {
                Self::conflict(error.to_string())
            }
            draft::Error::NotKept => Self::unavailable(),
            draft::Error::Store(error) => error.into(),
        }
    }
}

impl From<InputError> for Problem {
    fn from(error: InputError) -> Self {
        if error.is_syntax {
            return Self::malformed(error.to_string());
        }
        let pointer = pointer_of(&error.field);
        Self::invalid(pointer, error.to_string())
    }
}

impl From<audience::Invalid> for Problem {
    fn from(error: audience::Invalid) -> Self {
        match error.is_syntax {
            true => Self::malformed(error.message),
            false => Self::invalid(error.pointer, error.message),
        }
    }
}

/// `args.items[3]` as a JSON pointer.
pub(crate) fn pointer_of(path: &str) -> String {
    if path.is_empty() || path == "." {
        return String::new();
    }
    let mut pointer = String::new();
    for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_pointer() {
        assert_eq!(pointer_of("kind"), "/kind");
        assert_eq!(pointer_of("args.items[3]"), "/args/items/3");
        assert_eq!(pointer_of("."), "");
    }
}
