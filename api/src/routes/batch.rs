//! Any number of jobs in one request, in constant memory.
//!
//! Lines are read as they arrive, written in batches while the next ones are read, and answered as
//! soon as they are known to be wrong. The answer begins with the first batch: a database that is
//! away is a 503 and not half an answer.
//!
//! What if the request breaks off? What was counted is in the database; the last line of the answer
//! says how far that goes. Lines with an `id` or a `dedup_key` can simply be sent again.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use postroad_common::job::NewJob;
use postroad_common::store::Store;
use postroad_common::token::Permission;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::jobs::{JobSubmission, Submitter};
use crate::App;
use crate::auth::Caller;
use crate::body::{BODY_BYTES_MAX, expect_type};
use crate::collector::enqueue;
use crate::metrics;
use crate::problem::Problem;

const TYPES: [&str; 4] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
];
/// Jobs per statement.
const BATCH: usize = 1000;
/// And their bytes, at most.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a client may send nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Lines of the answer that wait for the client to read them.
const ANSWERS: usize = 64;

/// One line of the answer: a line of the request that was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rejected {
    /// Its number, from 1.
    line: u64,
    /// Why.
    error: Problem,
}

/// The last line of the answer.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Lines that are jobs now.
    accepted: u64,
    /// Lines whose job was there before, by the same words.
    duplicates: u64,
    /// Lines that were refused, each with a line of its own above.
    rejected: u64,
    /// Whether the whole request was read. False: it broke off after the lines that are counted
    /// here, and `error` says why.
    complete: bool,
}

/// Enqueues a job for each line of the body.
///
/// The answer has a line `{"line", "error"}` for each line that was refused, in the order in which
/// that was known, and ends with the counts. A line that is refused does not keep the others from
/// being accepted.
#[utoipa::path(
    post, path = "/v1/jobs/batch", tag = "jobs", operation_id = "enqueue_jobs",
    params(("traceparent" = Option<String>, Header, description = "W3C trace context of lines that have none; what is not valid is ignored")),
    request_body(content = JobSubmission, content_type = "application/x-ndjson", description = "One job a line, any number of lines"),
    responses(
        (status = 200, description = "A line for each line that was refused, and the counts", body = Counts, content_type = "application/x-ndjson"),
        (status = 400, description = "The body broke off before anything of it was taken", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/x-ndjson`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Over the tenant's rate or quota", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; nothing was lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    caller.may(Permission::JobsWrite)?;
    expect_type(request.headers(), &TYPES)?;
    let (answers, lines) = mpsc::channel(ANSWERS);
    let (begin, begun) = oneshot::channel();
    let mut reading = Reading {
        app,
        caller,
        lines: Lines::of(request.into_body().into_data_stream()),
        answers,
        begin: Some(begin),
        counts: Counts::default(),
    };
    tokio::spawn(async move { reading.run().await });
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

struct Reading {
    app: App,
    caller: Caller,
    lines: Lines,
    answers: mpsc::Sender<Bytes>,
    begin: Option<oneshot::Sender<Result<(), Problem>>>,
    counts: Counts,
}

#[derive(Default)]
struct Batch {
    jobs: Vec<(u64, NewJob)>,
    bytes: usize,
    is_resend: bool,
    /// Lines between them that are none.
    rejected: u64,
}

impl Reading {
    async fn run(&mut self) {
        let broke = self.read().await.err();
        self.counts.complete = broke.is_none();
        if let Some(begin) = self.begin.take() {
            let answer = broke.clone().map_or(Ok(()), Err);
            let is_refused = answer.is_err();
            drop(begin.send(answer));
            if is_refused {
                return;
            }
        }
        #[derive(Serialize)]
        struct End {
            #[serde(flatten)]
            counts: Counts,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Problem>,
        }
        let end = End {
            counts: self.counts,
            error: broke,
        };
        self.say(&end).await;
    }

    /// Reads and writes at once: while one batch is under way the next is read.
    async fn read(&mut self) -> Result<(), Problem> {
        let mut under_way = None;
        loop {
            let next = self.next_batch().await;
            // In order, and before the request ends in whatever way: what is counted is a beginning
            // of it, and all that is written is counted.
            if let Some(before) = under_way.take() {
                self.finish(before).await?;
            }
            let (batch, is_end) = next?;
            if batch.jobs.is_empty() {
                self.counts.rejected += batch.rejected;
            } else {
                let wanted = batch.jobs.len() as u64;
                self.app.quotas.take(&self.caller, wanted).await?;
                let (store, app) = (self.caller.store(), self.app.clone());
                under_way = Some(tokio::spawn(write(store, app, batch)));
            }
            if is_end {
                if let Some(last) = under_way.take() {
                    self.finish(last).await?;
                }
                return Ok(());
            }
        }
    }

    async fn finish(
        &mut self,
        written: tokio::task::JoinHandle<Result<Written, Problem>>,
    ) -> Result<(), Problem> {
        let written = written
            .await
            .unwrap_or_else(|_| Err(Problem::unavailable()))?;
        self.counts.accepted += written.accepted;
        self.counts.duplicates += written.duplicates;
        self.counts.rejected += written.rejected;
        metrics::enqueued(written.accepted, written.duplicates);
        self.begun();
        for (line, error) in written.refused {
            self.reject(line, error).await;
        }
        Ok(())
    }

    /// The next lines that are jobs, and whether they were the last.
    async fn next_batch(&mut self) -> Result<(Batch, bool), Problem> {
        let mut batch = Batch::default();
        while batch.jobs.len() < BATCH && batch.bytes < BATCH_BYTES {
            let (number, line) = match self.lines.next().await? {
                Some(next) => next,
                None => return Ok((batch, true)),
            };
            let read = match line {
                Ok(line) => Submitter::of(&self.app, &self.caller).read(&line).await,
                Err(problem) => Err(problem),
            };
            match read {
                Ok((job, is_resend)) => {
                    batch.bytes += job.args.get().len();
                    batch.is_resend |= is_resend;
                    batch.jobs.push((number, job));
                }
                Err(problem) if problem.status().is_server_error() => return Err(problem),
                Err(problem) => {
                    metrics::rejected("invalid", 1);
                    batch.rejected += 1;
                    self.reject(number, problem).await;
                }
            }
        }
        Ok((batch, false))
    }

    async fn reject(&mut self, line: u64, error: Problem) {
        self.begun();
        self.say(&Rejected { line, error }).await;
    }

    /// From now on there is an answer.
    fn begun(&mut self) {
        if let Some(begin) = self.begin.take() {
            drop(begin.send(Ok(())));
        }
    }

    async fn say(&mut self, line: &(impl Serialize + Sync)) {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        // A client that has gone away reads nothing; what it sent is still taken.
        drop(tokio::time::timeout(IDLE_MAX, self.answers.send(text.into())).await);
    }
}

#[derive(Default)]
struct Written {
    accepted: u64,
    duplicates: u64,
    rejected: u64,
    refused: Vec<(u64, Problem)>,
}

async fn write(store: Store, app: App, batch: Batch) -> Result<Written, Problem> {
    let is_resend = batch.is_resend;
    let (numbers, jobs): (Vec<_>, Vec<_>) = batch.jobs.into_iter().unzip();
    metrics::batch(jobs.len());
    let enqueued = match enqueue(&store, &jobs, is_resend).await {
        Ok(enqueued) => enqueued.into_iter().map(Ok).collect(),
        Err(error) if error.is_transient() => return Err(error.into()),
        // One line that cannot be taken must not be the end of the others.
        Err(_) => one_by_one(&store, &jobs, is_resend).await?,
    };
    app.waker.wake_for(&jobs);
    let mut written = Written {
        rejected: batch.rejected,
        ..Written::default()
    };
    for (number, enqueued) in numbers.into_iter().zip(enqueued) {
        match enqueued {
            Ok(enqueued) if enqueued.is_new => written.accepted += 1,
            Ok(enqueued) if enqueued.is_same => written.duplicates += 1,
            Ok(enqueued) => {
                metrics::rejected("conflict", 1);
                let detail = format!(
                    "job {} was enqueued under this dedup_key with another body",
                    enqueued.id
                );
                written
                    .refused
                    .push((number, Problem::conflict(detail).at("/dedup_key")));
            }
            Err(problem) => written.refused.push((number, problem)),
        }
    }
    written.rejected += written.refused.len() as u64;
    Ok(written)
}

async fn one_by_one(
    store: &Store,
    jobs: &[NewJob],
    is_resend: bool,
) -> Result<Vec<Result<postroad_common::store::Enqueued, Problem>>, Problem> {
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        answers.push(
            match enqueue(store, std::slice::from_ref(job), is_resend).await {
                Ok(enqueued) => Ok(enqueued[0]),
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => Err(error.into()),
            },
        );
    }
    Ok(answers)
}

/// The lines of a body, one after the other, none longer than a job may be.
struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
    searched: usize,
    number: u64,
    is_over: bool,
}

/// A line and its number, or why it is none.
type Line = (u64, Result<Bytes, Problem>);

impl Lines {
    fn of(body: BodyDataStream) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            is_over: false,
        }
    }

    /// The next line that is not blank; none at the end.
    async fn next(&mut self) -> Result<Option<Line>, Problem> {
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
