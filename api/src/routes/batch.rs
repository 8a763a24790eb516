//! Any number of jobs in one request, in constant memory.
//!
//! They are written in batches while the next lines are read (`ndjson`).
//!
//! What if the request breaks off? What was counted is in the database; the last line of the answer
//! says how far that goes. Lines with an `id` or a `dedup_key` can simply be sent again.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use postroad_common::job::NewJob;
use postroad_common::store::Store;
use postroad_common::token::Permission;
use serde::Serialize;
use utoipa::ToSchema;

use super::jobs::{JobSubmission, Submitter};
use crate::App;
use crate::auth::Caller;
use crate::collector::enqueue;
use crate::metrics;
use crate::ndjson::{Answers, Lines, answer, expect_lines};
use crate::problem::Problem;

/// Jobs per statement.
const BATCH: usize = 1000;
/// And their bytes, at most.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

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
    expect_lines(request.headers())?;
    let lines = Lines::of(request.into_body().into_data_stream());
    answer(|answers| {
        let reading = Reading {
            app,
            caller,
            lines,
            answers,
            counts: Counts::default(),
        };
        reading.run()
    })
    .await
}

struct Reading {
    app: App,
    caller: Caller,
    lines: Lines,
    answers: Answers,
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
    async fn run(mut self) {
        let broke = self.read().await.err();
        self.counts.complete = broke.is_none();
        self.answers.end(&self.counts, broke).await;
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
        self.answers.begun();
        for (line, error) in written.refused {
            self.answers.reject(line, error).await;
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
                    let is_full = problem.status() == StatusCode::TOO_MANY_REQUESTS;
                    metrics::rejected(if is_full { "full" } else { "invalid" }, 1);
                    batch.rejected += 1;
                    self.answers.reject(number, problem).await;
                }
            }
        }
        Ok((batch, false))
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
