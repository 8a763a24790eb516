//! Recipients: put one by one or by the thousand, looked at, forgotten.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::civil::Date;
use postroad_common::audience::{Recipient as Read, RecipientInput};
use postroad_common::store::{RecipientRow, Store, Upserted};
use postroad_common::token::Permission;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use super::{Whose, WhosePage, limit_of, tenant_of};
use crate::auth::Caller;
use crate::body::{JsonBytes, Path, Query};
use crate::ndjson::{Answers, Lines, answer, expect_lines};
use crate::problem::Problem;

/// Recipients per statement.
const BATCH: usize = 1000;
/// And the bytes of their lines, at most.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Somebody a tenant may write to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recipient {
    /// What the tenant calls it.
    key: String,
    tenant: String,
    /// Where it is reached, by channel.
    #[schema(example = json!({"sms": "+33639980606"}))]
    addresses: BTreeMap<String, String>,
    /// BCP 47, in its canonical case.
    #[schema(required = true, example = "en-GB")]
    language: Option<String>,
    /// ISO 3166-1.
    #[schema(required = true, example = "FR")]
    country: Option<String>,
    /// A name of the IANA database.
    #[schema(required = true, example = "Europe/Paris")]
    timezone: Option<String>,
    #[schema(required = true, value_type = Option<String>, format = Date)]
    birth_date: Option<Date>,
    #[schema(required = true)]
    plan: Option<String>,
    /// Anything else. None is null.
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<RecipientRow> for Recipient {
    fn from(row: RecipientRow) -> Self {
        let one = row.recipient;
        Self {
            key: one.key,
            tenant: row.tenant,
            addresses: one.addresses,
            language: one.language,
            country: one.country,
            timezone: one.timezone,
            birth_date: one.birth_date,
            plan: one.plan,
            attributes: one.attributes,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// What is known of a recipient. What is left out or null is not known: a recipient is put as a whole.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a description; RecipientInput reads it")]
pub(crate) struct RecipientBody {
    /// 1 to 255 bytes. On a line of a batch it is required; where it is in the path it may be left out.
    key: Option<String>,
    /// Up to 16, by the name of a channel.
    #[schema(value_type = Option<Object>, example = json!({"sms": "+33639980606"}))]
    addresses: Option<BTreeMap<String, String>>,
    /// BCP 47.
    #[schema(example = "en-GB", max_length = 35)]
    language: Option<String>,
    /// Two capital letters (ISO 3166-1).
    #[schema(example = "FR", pattern = "^[A-Z]{2}$")]
    country: Option<String>,
    /// A name of the IANA database.
    #[schema(example = "Europe/Paris")]
    timezone: Option<String>,
    /// From 1850 to 2199.
    #[schema(example = "1990-02-28", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    birth_date: Option<String>,
    #[schema(max_length = 63)]
    plan: Option<String>,
    /// Up to 64, and 8 KiB of JSON.
    #[schema(value_type = Option<Object>, example = json!({"orders": 3, "churned": false}))]
    attributes: Option<Map<String, Value>>,
}

/// A page of recipients, by key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Recipients {
    items: Vec<Recipient>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// The last line of the answer to a batch.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Imported {
    /// Lines that were taken: recipients that are there now as their line says.
    accepted: u64,
    /// Of these: recipients that were not there before.
    created: u64,
    /// And those that were others before.
    updated: u64,
    /// Lines that were refused, each with a line of its own above.
    rejected: u64,
    /// Whether the whole request was read. False: it broke off after the lines that are counted
    /// here, and `error` says why.
    complete: bool,
}

/// Creates or replaces a recipient.
#[utoipa::path(
    put, path = "/v1/recipients/{key}", tag = "audiences", operation_id = "put_recipient",
    params(("key" = String, Path, description = "What the tenant calls it"), Whose),
    request_body = RecipientBody,
    responses(
        (status = 200, description = "The recipient, which was there before", body = Recipient),
        (status = 201, description = "The recipient, which is new", body = Recipient),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The path is not text", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was deleted by others just now", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    caller: Caller,
    Path(key): Path,
    Query(whose): Query<Whose>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, Problem> {
    caller.may(Permission::AudiencesWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let recipient = RecipientInput::parse(&body)?.into_recipient(Some(&key))?;
    let store = caller.store();
    let put = store.put_recipients(tenant, &[recipient]).await?;
    let row = store.recipient_by_key(tenant, &key).await?;
    let row = row.ok_or_else(|| Problem::conflict("the recipient was deleted just now"))?;
    let status = match put.created {
        0 => StatusCode::OK,
        _ => StatusCode::CREATED,
    };
    Ok((status, axum::Json(Recipient::from(row))).into_response())
}

/// Looks at a recipient.
#[utoipa::path(
    get, path = "/v1/recipients/{key}", tag = "audiences", operation_id = "get_recipient",
    params(("key" = String, Path, description = "What the tenant calls it"), Whose),
    responses(
        (status = 200, description = "The recipient", body = Recipient),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such recipient", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Path(key): Path,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Recipient>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let row = caller.store().recipient_by_key(tenant, &key).await?;
    let row = row.ok_or_else(|| Problem::not_found("recipient"))?;
    Ok(axum::Json(row.into()))
}

/// Forgets a recipient.
#[utoipa::path(
    delete, path = "/v1/recipients/{key}", tag = "audiences", operation_id = "delete_recipient",
    params(("key" = String, Path, description = "What the tenant calls it"), Whose),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such recipient", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    caller: Caller,
    Path(key): Path,
    Query(whose): Query<Whose>,
) -> Result<StatusCode, Problem> {
    caller.may(Permission::AudiencesWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    match caller.store().delete_recipient(tenant, &key).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("recipient")),
    }
}

/// Lists recipients by key.
#[utoipa::path(
    get, path = "/v1/recipients", tag = "audiences", operation_id = "list_recipients", params(WhosePage),
    responses(
        (status = 200, description = "A page", body = Recipients),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(page): Query<WhosePage>,
) -> Result<axum::Json<Recipients>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let limit = limit_of(page.limit)?;
    let after = page.cursor.as_deref();
    if after.is_some_and(|cursor| !Read::is_key(cursor)) {
        let rule = "must be the `next_cursor` of a page";
        return Err(Problem::parameter("cursor", rule));
    }
    let tenant = tenant_of(&caller, page.tenant.as_deref()).await?;
    let rows = caller.store().recipients(tenant, after, limit).await?;
    let is_full = rows.len() as i64 == limit;
    let last = rows.last().filter(|_| is_full);
    let next_cursor = last.map(|row| row.recipient.key.clone());
    let items = rows.into_iter().map(Recipient::from).collect();
    Ok(axum::Json(Recipients { items, next_cursor }))
}

/// Creates or replaces a recipient for each line of the body.
///
/// The answer has a line `{"line", "error"}` for each line that was refused, in the order in which
/// that was known, and ends with the counts. A line that is refused does not keep the others from
/// being taken. Of several lines with one key the last counts. A request that broke off can be sent
/// again as it is.
#[utoipa::path(
    post, path = "/v1/recipients/batch", tag = "audiences", operation_id = "import_recipients",
    params(Whose),
    request_body(content = RecipientBody, content_type = "application/x-ndjson", description = "One recipient a line, any number of lines"),
    responses(
        (status = 200, description = "A line for each line that was refused, and the counts", body = Imported, content_type = "application/x-ndjson"),
        (status = 400, description = "The body broke off before anything of it was taken", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/x-ndjson`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; nothing was lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn import(
    caller: Caller,
    Query(whose): Query<Whose>,
    request: Request,
) -> Result<Response, Problem> {
    caller.may(Permission::AudiencesWrite)?;
    expect_lines(request.headers())?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let (store, body) = (caller.store(), request.into_body());
    let lines = Lines::of(body.into_data_stream());
    answer(|answers| {
        let reading = Reading {
            store,
            tenant,
            lines,
            answers,
            counts: Imported::default(),
        };
        reading.run()
    })
    .await
}

struct Reading {
    store: Store,
    tenant: i32,
    lines: Lines,
    answers: Answers,
    counts: Imported,
}

#[derive(Default)]
struct Batch {
    recipients: Vec<Read>,
    bytes: usize,
    /// Lines between them that are none.
    rejected: u64,
}

/// A batch that is being written: lines that it has, lines that are none, and what came of it.
struct UnderWay {
    lines: u64,
    rejected: u64,
    written: JoinHandle<Result<Upserted, Problem>>,
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
            if batch.recipients.is_empty() {
                self.counts.rejected += batch.rejected;
            } else {
                under_way = Some(self.begin(batch));
            }
            if is_end {
                if let Some(last) = under_way.take() {
                    self.finish(last).await?;
                }
                return Ok(());
            }
        }
    }

    fn begin(&self, batch: Batch) -> UnderWay {
        let (store, tenant) = (self.store.clone(), self.tenant);
        UnderWay {
            lines: batch.recipients.len() as u64,
            rejected: batch.rejected,
            written: tokio::spawn(async move {
                let put = store.put_recipients(tenant, &batch.recipients).await;
                put.map_err(Problem::from)
            }),
        }
    }

    async fn finish(&mut self, batch: UnderWay) -> Result<(), Problem> {
        let written = batch.written.await;
        let written = written.unwrap_or_else(|_| Err(Problem::unavailable()))?;
        self.counts.accepted += batch.lines;
        self.counts.created += written.created;
        self.counts.updated += written.updated;
        self.counts.rejected += batch.rejected;
        self.answers.begun();
        Ok(())
    }

    /// The next lines that are recipients, and whether they were the last.
    async fn next_batch(&mut self) -> Result<(Batch, bool), Problem> {
        let mut batch = Batch::default();
        while batch.recipients.len() < BATCH && batch.bytes < BATCH_BYTES {
            let Some((number, line)) = self.lines.next().await? else {
                return Ok((batch, true));
            };
            match line.and_then(|line| Ok((line.len(), read(&line)?))) {
                Ok((bytes, recipient)) => {
                    batch.bytes += bytes;
                    batch.recipients.push(recipient);
                }
                Err(problem) => {
                    batch.rejected += 1;
                    self.answers.reject(number, problem).await;
                }
            }
        }
        Ok((batch, false))
    }
}

fn read(line: &[u8]) -> Result<Read, Problem> {
    Ok(RecipientInput::parse(line)?.into_recipient(None)?)
}
