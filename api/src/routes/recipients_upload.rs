//! Recipients of a campaign: any number in one request, in constant memory.
//!
//! The body is read as it arrives, and kept as [`Intake`] does it. What is no recipient is told at once,
//! by line. An upload that breaks off leaves the campaign as it was.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use postroad_common::campaign::{Format, Line};
use postroad_common::draft::{self, Intake, PIECE};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use utoipa::{IntoParams, ToSchema};

use super::campaigns::{id_or_none, texts};
use crate::auth::Caller;
use crate::body::{Path, Query, expect_type};
use crate::metrics;
use crate::problem::Problem;

const CSV: &str = "text/csv";
const TYPES: [&str; 5] = [
    CSV,
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
];
/// Refused lines that are told one by one; of more, only how many.
const TOLD_MAX: u64 = 10_000;
/// How long a client may send nothing, or read nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Lines of the answer that wait for the client to read them.
const ANSWERS: usize = 64;

/// One line of the answer: a line of the upload that is no recipient.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefusedLine {
    /// Its number, from 1; the header of a CSV is line 1.
    line: u64,
    /// The column or member; empty where it is the whole line.
    field: String,
    /// What is wrong.
    error: String,
}

impl From<draft::RefusedLine> for RefusedLine {
    fn from(of: draft::RefusedLine) -> Self {
        Self {
            line: of.line,
            field: of.field,
            error: of.error,
        }
    }
}

/// The last line of the answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UploadCounts {
    /// Lines that are recipients of the campaign now. Zero if `complete` is false.
    accepted: u64,
    /// Lines that were refused; the first ten thousand have a line of their own above.
    rejected: u64,
    /// Columns that the content does not know: they were passed over.
    ignored_columns: Vec<String>,
    /// Whether all was read and kept. False: nothing was, and `error` says why.
    complete: bool,
    /// The campaign's state now.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl From<draft::Counts> for UploadCounts {
    fn from(of: draft::Counts) -> Self {
        Self {
            accepted: of.accepted,
            rejected: of.rejected,
            ignored_columns: of.ignored_columns,
            complete: of.complete,
            state: of.state,
        }
    }
}

/// What becomes of the campaign afterwards.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// Start it when all has been taken.
    #[serde(default)]
    start: bool,
}

/// Sets the recipients of a draft: all of them in one request, in CSV or NDJSON, instead of those that
/// were uploaded before.
///
/// The answer has a line `{"line", "field", "error"}` for each line that was refused, as soon as that
/// is known, and ends with the counts. A line that is refused does not keep the others from being
/// accepted; an upload that breaks off leaves the campaign as it was.
#[utoipa::path(
    put, path = "/v1/campaigns/{id}/recipients", tag = "campaigns", operation_id = "upload_recipients",
    params(("id" = String, Path, description = "The campaign's id"), UploadQuery),
    request_body(content = String, content_type = "text/csv", description = "CSV with a header that has `to`; or NDJSON, as `application/x-ndjson`"),
    responses(
        (status = 200, description = "A line for each line that was refused, and the counts", body = UploadCounts, content_type = "application/x-ndjson"),
        (status = 400, description = "The body broke off before anything of it was taken", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The campaign is no draft any more", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "More recipients than a campaign may have", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Neither `text/csv` nor `application/x-ndjson`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Nothing of it can be read: no header, say, or UTF-16", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; nothing was taken", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn upload(
    caller: Caller,
    Path(id): Path,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<Response, Problem> {
    caller.may(Permission::CampaignsWrite)?;
    let id = id_or_none(&id)?;
    let texts = texts(&caller, id).await?;
    expect_type(request.headers(), &TYPES)?;
    let intake = Intake::new(caller.store(), id, &texts, format_of(&request))?;
    let (answers, lines) = mpsc::channel(ANSWERS);
    let (begin, begun) = oneshot::channel();
    let upload = Upload {
        intake,
        answers,
        begin: Some(begin),
        is_started: query.start,
        told: Some(0),
    };
    let body = request.into_body().into_data_stream();
    tokio::spawn(upload.run(body));
    // The task has ended without a word only if it has panicked.
    begun
        .await
        .unwrap_or_else(|_| Err(Problem::unavailable()))?;
    let body = stream::unfold(lines, async |mut lines| {
        let line: Bytes = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), lines))
    });
    Ok(([(CONTENT_TYPE, TYPES[1])], Body::from_stream(body)).into_response())
}

fn format_of(request: &Request) -> Format {
    let given = request.headers().get(CONTENT_TYPE);
    let given = given.and_then(|one| one.to_str().ok()).unwrap_or_default();
    let media = given.split(';').next().unwrap_or_default().trim();
    match media.eq_ignore_ascii_case(CSV) {
        true => Format::Csv,
        false => Format::Ndjson,
    }
}

/// An upload that is being read.
struct Upload {
    intake: Intake,
    answers: mpsc::Sender<Bytes>,
    begin: Option<oneshot::Sender<Result<(), Problem>>>,
    is_started: bool,
    /// Lines that were told. None: the client does not read what it is told.
    told: Option<u64>,
}

impl Upload {
    async fn run(mut self, body: BodyDataStream) {
        let broke = self.read(body).await.err();
        if broke.is_some() {
            self.intake.drop_all().await;
        }
        if let Some(begin) = self.begin.take() {
            let is_refused = broke.is_some();
            drop(begin.send(broke.clone().map_or(Ok(()), Err)));
            if is_refused {
                return;
            }
        }
        #[derive(Serialize)]
        struct End {
            #[serde(flatten)]
            counts: UploadCounts,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Problem>,
        }
        let end = End {
            counts: self.intake.into_counts().into(),
            error: broke,
        };
        say(&self.answers, &end).await;
    }

    async fn read(&mut self, mut body: BodyDataStream) -> Result<(), Problem> {
        let mut lines = Vec::new();
        loop {
            let piece = match tokio::time::timeout(IDLE_MAX, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(_))) => return Err(Problem::malformed("the body broke off")),
                Ok(None) => break,
                Err(_) => return Err(Problem::timeout()),
            };
            for slice in piece.chunks(PIECE) {
                self.intake.read(slice, &mut lines)?;
                self.take(&mut lines).await?;
            }
        }
        self.intake.read_rest(&mut lines)?;
        self.take(&mut lines).await?;
        self.intake.finish(self.is_started).await?;
        Ok(())
    }

    async fn take(&mut self, lines: &mut Vec<Line>) -> Result<(), Problem> {
        for line in lines.drain(..) {
            if let Some(refused) = self.intake.keep(line).await? {
                metrics::rejected("invalid", 1);
                self.begun();
                self.tell(refused.into()).await;
            }
        }
        Ok(())
    }

    /// A client that has sent everything before it reads must not wait for itself.
    async fn tell(&mut self, refused: RefusedLine) {
        let Some(told) = self.told.filter(|told| *told < TOLD_MAX) else {
            return;
        };
        let is_read = say(&self.answers, &refused).await;
        self.told = is_read.then_some(told + 1);
    }

    /// From now on there is an answer.
    fn begun(&mut self) {
        if let Some(begin) = self.begin.take() {
            drop(begin.send(Ok(())));
        }
    }
}

/// Whether the client reads.
async fn say(answers: &mpsc::Sender<Bytes>, line: &(impl Serialize + Sync)) -> bool {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    let sent = tokio::time::timeout(IDLE_MAX, answers.send(text.into())).await;
    matches!(sent, Ok(Ok(())))
}
