//! Recipients of a campaign: any number in one request, in constant memory.
//!
//! The body is read as it arrives; what can be read of it is kept in chunks of a thousand recipients
//! of one time zone, written while the next ones are read. What cannot is told at once, by line.
//!
//! What if the request breaks off, or the process dies? Nothing of it is the campaign's before the last
//! line has been read and kept: the upload is thrown away, at once or by a scheduler's pruner, and is
//! sent again from the beginning.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use postroad_common::campaign::{Content, Format, Line, Reader, Recipient};
use postroad_common::store::{self, CampaignAction, CampaignTexts, NewChunk, Store};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::campaigns::{Part, content_of, id_or_none, texts};
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
/// Recipients in a chunk, at most.
const CHUNK: usize = 1000;
/// Recipients that wait for their chunk to be full, over all zones; then the largest go as they are.
const WAITING_MAX: usize = 20_000;
/// And the bytes of those: there may be six hundred zones.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a chunk from which on it is full.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks in a statement.
const CHUNKS: usize = 8;
/// Recipients of one campaign.
const RECIPIENTS_MAX: u64 = 10_000_000;
/// Bytes that are read as lines at once.
const SLICE: usize = 64 * 1024;
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

/// The last line of the answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct UploadCounts {
    /// Lines that are recipients of the campaign now. Zero if `complete` is false.
    accepted: u64,
    /// Lines that were refused, each with a line of its own above.
    rejected: u64,
    /// Columns that the content does not know: they were passed over.
    ignored_columns: Vec<String>,
    /// Whether all was read and kept. False: nothing was, and `error` says why.
    complete: bool,
    /// The campaign's state now.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
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
    if texts.state != "draft" {
        return Err(no_draft(&texts.state));
    }
    let content = content_of(&texts)?;
    let (answers, lines) = mpsc::channel(ANSWERS);
    let (begin, begun) = oneshot::channel();
    let upload = Upload {
        reader: Reader::new(format_of(&request), &content, region_of(&texts)),
        kept: Kept::new(caller.store(), id, texts.reach != "{}"),
        content,
        answers,
        begin: Some(begin),
        counts: UploadCounts::default(),
        is_started: query.start,
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

fn no_draft(state: &str) -> Problem {
    Problem::conflict(format!(
        "the campaign is {state}: recipients are those of a draft"
    ))
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

fn region_of(texts: &CampaignTexts) -> Option<postroad_common::campaign::Country> {
    texts
        .region
        .as_deref()
        .and_then(|region| region.parse().ok())
}

/// An upload that is being read.
struct Upload {
    reader: Reader,
    content: Content,
    kept: Kept,
    answers: mpsc::Sender<Bytes>,
    begin: Option<oneshot::Sender<Result<(), Problem>>>,
    counts: UploadCounts,
    is_started: bool,
}

impl Upload {
    async fn run(mut self, body: BodyDataStream) {
        let broke = self.read(body).await.err();
        if broke.is_some() {
            self.kept.drop_all().await;
            self.counts.accepted = 0;
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
        let mut counts = std::mem::take(&mut self.counts);
        counts.complete = broke.is_none();
        counts.ignored_columns = self.reader.ignored_columns().to_vec();
        let end = End {
            counts,
            error: broke,
        };
        self.say(&end).await;
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
            for slice in piece.chunks(SLICE) {
                self.reader.feed(slice, &mut lines).map_err(refused)?;
                self.take(&mut lines).await?;
            }
        }
        self.reader.finish(&mut lines).map_err(refused)?;
        self.take(&mut lines).await?;
        let state = self
            .kept
            .finish(self.counts.accepted, self.is_started)
            .await?;
        self.counts.state = Some(state);
        Ok(())
    }

    async fn take(&mut self, lines: &mut Vec<Line>) -> Result<(), Problem> {
        for Line { number, recipient } in lines.drain(..) {
            match recipient {
                Ok(recipient) => {
                    self.counts.accepted += 1;
                    if self.counts.accepted > RECIPIENTS_MAX {
                        return Err(Problem::too_large(format!(
                            "a campaign may have {RECIPIENTS_MAX} recipients"
                        )));
                    }
                    self.kept.keep(&self.content, &recipient).await?;
                }
                Err(error) => {
                    metrics::rejected("invalid", 1);
                    self.counts.rejected += 1;
                    let line = RefusedLine {
                        line: number,
                        field: error.field,
                        error: error.what,
                    };
                    self.begun();
                    self.say(&line).await;
                }
            }
        }
        Ok(())
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
        // A client that has gone away reads nothing.
        drop(tokio::time::timeout(IDLE_MAX, self.answers.send(text.into())).await);
    }
}

fn refused(refused: postroad_common::campaign::Refused) -> Problem {
    Problem::invalid("", format!("the upload {}", refused.what))
}

/// Recipients on their way into the database.
struct Kept {
    store: Store,
    campaign: Uuid,
    upload: Uuid,
    has_zones: bool,
    zones: HashMap<String, Zone>,
    waiting: usize,
    waiting_bytes: usize,
    full: Vec<NewChunk>,
    under_way: Option<JoinHandle<Result<bool, store::Error>>>,
    counts: BTreeMap<(String, String), u64>,
}

/// Recipients of one zone that have no chunk yet.
#[derive(Default)]
struct Zone {
    body: String,
    recipients: usize,
    chunks: i32,
}

impl Kept {
    fn new(store: Store, campaign: Uuid, has_zones: bool) -> Self {
        Self {
            store,
            campaign,
            upload: Uuid::now_v7(),
            has_zones,
            zones: HashMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            full: Vec::new(),
            under_way: None,
            counts: BTreeMap::new(),
        }
    }

    async fn keep(&mut self, content: &Content, recipient: &Recipient) -> Result<(), Problem> {
        self.count(content, recipient);
        let zone = match self.has_zones {
            true => recipient.timezone.as_deref().unwrap_or_default(),
            false => "",
        };
        if !self.zones.contains_key(zone) {
            self.zones.insert(zone.to_owned(), Zone::default());
        }
        let Some(waiting) = self.zones.get_mut(zone) else {
            return Ok(());
        };
        let before = waiting.body.len();
        waiting.body += &serde_json::to_string(recipient).unwrap_or_default();
        waiting.body.push('\n');
        waiting.recipients += 1;
        self.waiting += 1;
        self.waiting_bytes += waiting.body.len() - before;
        if waiting.recipients == CHUNK || waiting.body.len() >= CHUNK_BYTES {
            let zone = zone.to_owned();
            self.fill(&zone).await?;
        } else if self.waiting >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
            let largest = self.zones.iter().max_by_key(|(_, zone)| zone.body.len());
            if let Some(zone) = largest.map(|(name, _)| name.clone()) {
                self.fill(&zone).await?;
            }
        }
        Ok(())
    }

    fn count(&mut self, content: &Content, recipient: &Recipient) {
        let Some(channel) = content.channel_of(recipient) else {
            return;
        };
        let language = channel.language_of(recipient.language.as_deref(), content.language());
        let part = (channel.name.to_string(), language.to_string());
        *self.counts.entry(part).or_default() += 1;
    }

    /// Makes a chunk of what waits for one.
    async fn fill(&mut self, name: &str) -> Result<(), Problem> {
        let Some(zone) = self.zones.get_mut(name) else {
            return Ok(());
        };
        if zone.recipients == 0 {
            return Ok(());
        }
        self.waiting -= zone.recipients;
        self.waiting_bytes -= zone.body.len();
        let recipients = std::mem::take(&mut zone.recipients);
        self.full.push(NewChunk {
            zone: name.to_owned(),
            n: zone.chunks,
            recipients: i32::try_from(recipients).unwrap_or(i32::MAX),
            body: std::mem::take(&mut zone.body),
        });
        zone.chunks += 1;
        if self.full.len() >= CHUNKS {
            self.write().await?;
        }
        Ok(())
    }

    /// Writes what is full, while more is read.
    async fn write(&mut self) -> Result<(), Problem> {
        self.written().await?;
        let chunks = std::mem::take(&mut self.full);
        let (store, campaign, upload) = (self.store.clone(), self.campaign, self.upload);
        self.under_way = Some(tokio::spawn(async move {
            store.add_chunks(campaign, upload, &chunks).await
        }));
        Ok(())
    }

    /// Waits for what is being written.
    async fn written(&mut self) -> Result<(), Problem> {
        let Some(writing) = self.under_way.take() else {
            return Ok(());
        };
        let written = writing.await.map_err(|_| Problem::unavailable())??;
        match written {
            true => Ok(()),
            false => Err(no_draft("no draft any more")),
        }
    }

    /// Makes all of it the campaign's; answers with its state.
    async fn finish(&mut self, recipients: u64, is_started: bool) -> Result<String, Problem> {
        let zones: Vec<String> = self.zones.keys().cloned().collect();
        for zone in zones {
            self.fill(&zone).await?;
        }
        self.write().await?;
        self.written().await?;
        let parts = self.counts.iter();
        let parts: Vec<Part> = parts
            .map(|((channel, language), recipients)| Part {
                channel: channel.clone(),
                language: language.clone(),
                recipients: *recipients,
            })
            .collect();
        let counts = serde_json::to_string(&parts).unwrap_or_default();
        let recipients = i64::try_from(recipients).unwrap_or(i64::MAX);
        let finished = self
            .store
            .finish_upload(self.campaign, self.upload, recipients, &counts)
            .await?;
        if !finished {
            return Err(no_draft("no draft any more"));
        }
        if is_started {
            self.store
                .act_on_campaign(self.campaign, CampaignAction::Start)
                .await?;
        }
        let texts = self.store.campaign_texts(self.campaign).await?;
        Ok(texts.map(|texts| texts.state).unwrap_or_default())
    }

    /// What is there of it will never be used. If this fails, a pruner does it.
    async fn drop_all(&mut self) {
        drop(self.written().await);
        if let Err(error) = self.store.drop_upload(self.campaign, self.upload).await {
            tracing::warn!("{error}: left to the pruner");
        }
    }
}
