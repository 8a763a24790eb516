//! How answers look on the wire, the broken ones included.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::behaviour::Answer;
use super::ledger::Decision;
use super::record::Status;

/// An answer, or a reset in place of one.
pub(super) type Answered = Result<Response<AnswerBody>, ResetConnection>;

/// Tells the connection to reset instead of answering.
#[derive(Debug)]
pub(super) struct ResetConnection;

impl fmt::Display for ResetConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection is to be reset")
    }
}

impl Error for ResetConnection {}

impl From<Answer> for Status {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Accepted => Self::Code(200),
            Answer::TooMany => Self::Code(429),
            Answer::Unavailable => Self::Code(503),
            Answer::Failed => Self::Code(500),
            Answer::TooLarge => Self::Code(413),
            Answer::ResetBefore | Answer::ResetAfter => Self::Reset,
            Answer::Half => Self::Half,
        }
    }
}

pub(super) fn answer(decision: &Decision) -> Answered {
    Ok(match decision.answer {
        Answer::Accepted => typed(
            StatusCode::OK,
            AnswerBody::whole(Bytes::from_static(ACCEPTED.as_bytes())),
        ),
        Answer::Half => typed(StatusCode::OK, AnswerBody::half(ACCEPTED)),
        Answer::TooMany => later(StatusCode::TOO_MANY_REQUESTS, decision.retry_after),
        Answer::Unavailable => later(StatusCode::SERVICE_UNAVAILABLE, decision.retry_after),
        Answer::Failed => error(StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        Answer::TooLarge => error(StatusCode::PAYLOAD_TOO_LARGE, "the body is above 1 MiB"),
        Answer::ResetBefore | Answer::ResetAfter => return Err(ResetConnection),
    })
}

const ACCEPTED: &str = r#"{"status":"accepted"}"#;

fn later(status: StatusCode, retry_after: Duration) -> Response<AnswerBody> {
    let mut response = error(status, "later");
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

pub(super) fn error(status: StatusCode, message: &str) -> Response<AnswerBody> {
    json(status, &serde_json::json!({ "error": message }))
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<AnswerBody> {
    let text = serde_json::to_vec(body).expect("maps have text keys and nothing else can fail");
    typed(status, AnswerBody::whole(text.into()))
}

fn typed(status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that may promise more than it gives.
pub(super) struct AnswerBody {
    rest: Option<Bytes>,
    promised: u64,
    end: End,
}

/// What comes after the bytes.
enum End {
    Whole,
    /// Let hyper send what it has.
    Flush,
    /// Fail, whereupon hyper closes the connection.
    Break,
}

impl AnswerBody {
    fn whole(bytes: Bytes) -> Self {
        Self {
            promised: bytes.len() as u64,
            rest: Some(bytes),
            end: End::Whole,
        }
    }

    fn half(text: &'static str) -> Self {
        let half = &text.as_bytes()[..text.len() / 2];
        let rest = Some(Bytes::from_static(half));
        Self {
            promised: text.len() as u64,
            rest,
            end: End::Flush,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(bytes) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.end {
            End::Whole => Poll::Ready(None),
            End::Flush => {
                self.end = End::Break;
                ctx.waker().wake_by_ref();
                Poll::Pending
            }
            End::Break => Poll::Ready(Some(Err(io::Error::other("broken off on purpose")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && matches!(self.end, End::Whole)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
