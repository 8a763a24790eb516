//! Announcements: one thing for all whom rules pick, however many they are.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postroad_common::store::{self, AnnouncementRow, Corrected};
use postroad_common::timeline::{Correction, Submission};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Whose, before, limit_of, tenant_of};
use crate::auth::Caller;
use crate::body::{JsonBytes, Path, Query, id_of};
use crate::problem::Problem;

/// Something that is shown to all recipients whom its rules pick, from its start to its end.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Announcement {
    id: Uuid,
    tenant: String,
    /// `scheduled`, `active`, `ended` or `withdrawn`.
    #[schema(example = "active")]
    state: String,
    /// What it says, by language.
    #[schema(value_type = ContentBody)]
    content: Box<RawValue>,
    /// For whom it is. Those of an audience were copied when it was made.
    #[schema(value_type = Object)]
    rules: Box<RawValue>,
    /// The audience that the rules were copied from.
    #[schema(required = true)]
    audience: Option<String>,
    #[schema(required = true)]
    dedup_key: Option<String>,
    /// Not shown before then.
    starts_at: Timestamp,
    /// Nor from then on.
    ends_at: Timestamp,
    /// Since when nobody sees it any more.
    #[schema(required = true)]
    withdrawn_at: Option<Timestamp>,
    /// Who made it.
    created_by: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<AnnouncementRow> for Announcement {
    fn from(row: AnnouncementRow) -> Self {
        Self {
            id: row.id,
            tenant: row.tenant,
            state: row.state,
            content: row.content,
            rules: row.rules,
            audience: row.audience,
            dedup_key: row.dedup_key,
            starts_at: row.starts_at,
            ends_at: row.ends_at,
            withdrawn_at: row.withdrawn_at,
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A page of announcements, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Announcements {
    items: Vec<Announcement>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// One message in one language or several.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a description; Content reads it")]
pub(crate) struct ContentBody {
    /// The language for whoever reads none of them; required where there are several.
    #[schema(example = "en", max_length = 35)]
    language: Option<String>,
    /// By language (BCP 47): 1 to 64, and 32 KiB of JSON all together.
    #[schema(value_type = Object, required = true, example = json!({"en": {"title": "New prices", "body": "From 1 May.", "url": "/prices"}}))]
    messages: Box<RawValue>,
}

/// What is shown.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a description; MessageInput reads it")]
pub(crate) struct Message {
    /// Plain text.
    #[schema(min_length = 1, max_length = 200)]
    title: String,
    /// Plain text, with line feeds.
    #[schema(max_length = 4000)]
    body: String,
    /// An absolute URL, or a path that begins with one slash.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Anything that the client knows what to do with: 4 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
}

/// What is to be announced.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a description; Submission reads it")]
pub(crate) struct AnnouncementInput {
    content: ContentBody,
    /// For whom it is; this or `audience` is required. `{"all": true}` is everybody.
    #[schema(value_type = Option<Object>, example = json!({"plan": ["pro"]}))]
    rules: Option<Box<RawValue>>,
    /// The audience whose rules are copied, as they are now.
    audience: Option<String>,
    /// Not shown before then; at once unless said, or if it has passed.
    starts_at: Option<Timestamp>,
    /// Nor from then on: 366 days after the start at the latest, 90 unless said.
    ends_at: Option<Timestamp>,
    /// Made again under this key, it is the same: 1 to 255 bytes.
    dedup_key: Option<String>,
}

/// What is to be corrected.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a description; Correction reads it")]
pub(crate) struct AnnouncementChange {
    /// What it is to say, as a whole.
    content: Option<ContentBody>,
    /// When it is to end, later than now.
    ends_at: Option<Timestamp>,
}

/// Which announcements to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AnnouncementsQuery {
    /// The tenant, for operators; `default` unless said.
    tenant: Option<String>,
    /// Those too that have ended or were withdrawn.
    #[serde(default)]
    all: bool,
    /// Items on the page: 1 to 200, 50 unless said.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Makes an announcement. Whomever it is for, one row is written; every look at a timeline that
/// begins after the answer sees it.
///
/// How many it is for: `POST /v1/audiences/preview` with the same rules.
#[utoipa::path(
    post, path = "/v1/announcements", tag = "timeline", operation_id = "create_announcement",
    params(Whose), request_body = AnnouncementInput,
    responses(
        (status = 200, description = "It was made before under its `dedup_key`", body = Announcement),
        (status = 201, description = "It is made", body = Announcement),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `announcements:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Its `dedup_key` stands for another one, or the tenant has as many as it may have", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; with a `dedup_key` it can be sent again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    caller: Caller,
    Query(whose): Query<Whose>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, Problem> {
    caller.may(Permission::AnnouncementsWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let asked = Submission::parse(&body)?;
    let (status, row) = match caller.store().announce(tenant, &asked).await? {
        store::Announced::Made(row) => (StatusCode::CREATED, row),
        store::Announced::Before(row) => (StatusCode::OK, row),
        store::Announced::KeyTaken => {
            let why = "the dedup_key stands for another announcement";
            return Err(Problem::conflict(why).at("/dedup_key"));
        }
        store::Announced::Full(why) => return Err(Problem::conflict(why)),
        store::Announced::Invalid(invalid) => return Err(invalid.into()),
    };
    Ok((status, axum::Json(Announcement::from(row))).into_response())
}

/// Lists announcements, newest first.
#[utoipa::path(
    get, path = "/v1/announcements", tag = "timeline", operation_id = "list_announcements",
    params(AnnouncementsQuery),
    responses(
        (status = 200, description = "A page", body = Announcements),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `announcements:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(query): Query<AnnouncementsQuery>,
) -> Result<axum::Json<Announcements>, Problem> {
    caller.may(Permission::AnnouncementsRead)?;
    let limit = limit_of(query.limit)?;
    let before = query.cursor.as_deref().map(before).transpose()?;
    let tenant = tenant_of(&caller, query.tenant.as_deref()).await?;
    let store = caller.store();
    let rows = store
        .announcements(tenant, query.all, before, limit)
        .await?;
    let is_full = rows.len() as i64 == limit;
    let last = rows.last().filter(|_| is_full);
    Ok(axum::Json(Announcements {
        next_cursor: last.map(|row| row.id.to_string()),
        items: rows.into_iter().map(Announcement::from).collect(),
    }))
}

/// Looks at an announcement.
#[utoipa::path(
    get, path = "/v1/announcements/{id}", tag = "timeline", operation_id = "get_announcement",
    params(("id" = String, Path, description = "The announcement's id"), Whose),
    responses(
        (status = 200, description = "The announcement", body = Announcement),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `announcements:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such announcement", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Path(id): Path,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Announcement>, Problem> {
    caller.may(Permission::AnnouncementsRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    find(&caller, tenant, id_of(&id)).await
}

/// Corrects what an announcement says, or has it end at another time. Whoever has read it has read it.
#[utoipa::path(
    patch, path = "/v1/announcements/{id}", tag = "timeline", operation_id = "change_announcement",
    params(("id" = String, Path, description = "The announcement's id"), Whose),
    request_body = AnnouncementChange,
    responses(
        (status = 200, description = "As it is now", body = Announcement),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `announcements:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such announcement", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended or was withdrawn, or the tenant's announcements would be too large", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn change(
    caller: Caller,
    Path(id): Path,
    Query(whose): Query<Whose>,
    JsonBytes(body): JsonBytes,
) -> Result<axum::Json<Announcement>, Problem> {
    caller.may(Permission::AnnouncementsWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let id = id_of(&id).ok_or_else(missing)?;
    let to = Correction::parse(&body)?;
    match caller.store().correct_announcement(tenant, id, &to).await? {
        Corrected::Done(row) => Ok(axum::Json(row.into())),
        Corrected::Over => Err(over()),
        Corrected::NotThere => Err(missing()),
        Corrected::Full(why) => Err(Problem::conflict(why)),
        Corrected::Invalid(invalid) => Err(invalid.into()),
    }
}

/// Withdraws an announcement: no look that begins after the answer sees it.
#[utoipa::path(
    post, path = "/v1/announcements/{id}/withdraw", tag = "timeline", operation_id = "withdraw_announcement",
    params(("id" = String, Path, description = "The announcement's id"), Whose),
    responses(
        (status = 200, description = "It is withdrawn", body = Announcement),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `announcements:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such announcement", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn withdraw(
    caller: Caller,
    Path(id): Path,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Announcement>, Problem> {
    caller.may(Permission::AnnouncementsWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let id = id_of(&id).ok_or_else(missing)?;
    let is_done = caller.store().withdraw_announcement(tenant, id).await?;
    let announcement = find(&caller, tenant, Some(id)).await?;
    // Asked for twice, it is withdrawn all the same.
    match is_done || announcement.withdrawn_at.is_some() {
        true => Ok(announcement),
        false => Err(over()),
    }
}

async fn find(
    caller: &Caller,
    tenant: i32,
    id: Option<Uuid>,
) -> Result<axum::Json<Announcement>, Problem> {
    let id = id.ok_or_else(missing)?;
    let row = caller.store().announcement(tenant, id).await?;
    Ok(axum::Json(row.ok_or_else(missing)?.into()))
}

fn missing() -> Problem {
    Problem::not_found("announcement")
}

fn over() -> Problem {
    Problem::conflict("the announcement has ended or was withdrawn")
}
