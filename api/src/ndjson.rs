//! Any number of lines in one request, in constant memory: how they are read, and how they are
//! answered while they are.
//!
//! Lines are read as they arrive and answered as soon as they are known to be wrong. The answer
//! begins with the first thing that is done: a database that is away is a 503 and not half an answer.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use crate::body::{BODY_BYTES_MAX, expect_type};
use crate::problem::Problem;

const TYPES: [&str; 4] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
];
/// How long a client may send nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Lines of the answer that wait for the client to read them.
const ANSWERS: usize = 64;

/// Refuses a body that does not say that it is lines of JSON.
pub(crate) fn expect_lines(headers: &HeaderMap) -> Result<(), Problem> {
    expect_type(headers, &TYPES)
}

/// One line of the answer: a line of the request that was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rejected {
    /// Its number, from 1.
    line: u64,
    /// Why.
    error: Problem,
}

/// The answer to a body that is being read.
pub(crate) struct Answers {
    lines: mpsc::Sender<Bytes>,
    begin: Option<oneshot::Sender<Result<(), Problem>>>,
}

/// Reads a body in a task of its own, which writes the answer; done when that has begun.
pub(crate) async fn answer<F>(read: impl FnOnce(Answers) -> F) -> Result<Response, Problem>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (answers, lines) = mpsc::channel(ANSWERS);
    let (begin, begun) = oneshot::channel();
    tokio::spawn(read(Answers {
        lines: answers,
        begin: Some(begin),
    }));
    // The task has ended without a word only if it has panicked.
    begun
        .await
        .unwrap_or_else(|_| Err(Problem::unavailable()))?;
    let body = stream::unfold(lines, async |mut lines| {
        let line: Bytes = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    Ok(([(CONTENT_TYPE, TYPES[0])], Body::from_stream(body)).into_response())
}

impl Answers {
    /// From now on there is an answer.
    pub(crate) fn begun(&mut self) {
        if let Some(begin) = self.begin.take() {
            drop(begin.send(Ok(())));
        }
    }

    /// A line of the request is refused.
    pub(crate) async fn reject(&mut self, line: u64, error: Problem) {
        self.begun();
        self.say(&Rejected { line, error }).await;
    }

    /// The last line: what was counted, and why the request broke off if it did. If that was before
    /// there was an answer, it is the answer.
    pub(crate) async fn end(&mut self, counts: &(impl Serialize + Sync), broke: Option<Problem>) {
        if let Some(begin) = self.begin.take() {
            let answer = broke.clone().map_or(Ok(()), Err);
            let is_refused = answer.is_err();
            drop(begin.send(answer));
            if is_refused {
                return;
            }
        }
        #[derive(Serialize)]
        struct End<'a, C> {
            #[serde(flatten)]
            counts: &'a C,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Problem>,
        }
        let error = broke;
        self.say(&End { counts, error }).await;
    }

    async fn say(&mut self, line: &(impl Serialize + Sync)) {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        // A client that has gone away reads nothing; what it sent is still taken.
        drop(tokio::time::timeout(IDLE_MAX, self.lines.send(text.into())).await);
    }
}

/// The lines of a body, one after the other, none longer than a body of its own may be.
pub(crate) struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
    searched: usize,
    number: u64,
    is_over: bool,
}

/// A line and its number, or why it is none.
pub(crate) type Line = (u64, Result<Bytes, Problem>);

impl Lines {
    pub(crate) fn of(body: BodyDataStream) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            is_over: false,
        }
    }

    /// The next line that is not blank; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>, Problem> {
        let mut is_too_long = false;
        loop {
            let found = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let line = match found {
                Some(at) => {
                    let line = self.buffer.split_to(self.searched + at);
                    drop(self.buffer.split_to(1));
                    self.searched = 0;
                    line
                }
                None if self.is_over && self.buffer.is_empty() && !is_too_long => return Ok(None),
                None if self.is_over => {
                    self.searched = 0;
                    std::mem::take(&mut self.buffer)
                }
                None => {
                    self.searched = self.buffer.len();
                    if self.buffer.len() > BODY_BYTES_MAX {
                        // The rest of it is read and forgotten.
                        is_too_long = true;
                        self.buffer.clear();
                        self.searched = 0;
                    }
                    self.fill().await?;
                    continue;
                }
            };
            self.number += 1;
            if is_too_long || line.len() > BODY_BYTES_MAX {
                let problem = Problem::too_large(format!("a line may have {BODY_BYTES_MAX} bytes"));
                return Ok(Some((self.number, Err(problem))));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some((self.number, Ok(line.freeze()))));
        }
    }

    async fn fill(&mut self) -> Result<(), Problem> {
        match tokio::time::timeout(IDLE_MAX, self.body.next()).await {
            Ok(Some(Ok(chunk))) => self.buffer.extend_from_slice(&chunk),
            Ok(Some(Err(_))) => return Err(Problem::malformed("the body broke off")),
            Ok(None) => self.is_over = true,
            Err(_) => return Err(Problem::timeout()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(chunks: &[&str]) -> Vec<(u64, Option<String>)> {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk.as_bytes())))
            .collect();
        let mut lines = Lines::of(Body::from_stream(stream::iter(chunks)).into_data_stream());
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().await.expect("the body is whole") {
            let text = line
                .ok()
                .map(|line| String::from_utf8_lossy(&line).into_owned());
            all.push((number, text));
        }
        all
    }

    #[tokio::test]
    async fn lines_are_found_wherever_the_body_is_cut() {
        let text = "one\n\n  \ntwo\r\nthree";
        let whole = lines_of(&[text]).await;
        assert_eq!(
            whole,
            [
                (1, Some("one".to_owned())),
                (4, Some("two\r".to_owned())),
                (5, Some("three".to_owned()))
            ]
        );
        for at in 0..text.len() {
            let (one, other) = text.split_at(at);
            assert_eq!(lines_of(&[one, other]).await, whole, "cut at {at}");
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_one_refusal_and_the_next_is_read() {
        let long = "x".repeat(BODY_BYTES_MAX * 3);
        let lines = lines_of(&[&long[..BODY_BYTES_MAX + 7], &long, "\nnext\n"]).await;
        assert_eq!(lines, [(1, None), (2, Some("next".to_owned()))]);
        let at_the_end = lines_of(&[&long]).await;
        assert_eq!(at_the_end, [(1, None)]);
    }
}
