//! Audiences: rules by a name, and a look at whom they pick.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use postroad_common::audience::{self, Rule};
use postroad_common::store::{AudienceRow, PutAudience};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;
use utoipa::ToSchema;

use super::{Whose, WhosePage, limit_of, tenant_of};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Path, Query};
use crate::problem::Problem;

/// Keys that a preview shows.
const SAMPLE: i64 = 10;
/// How long a preview waits for others.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rules that pick some of a tenant's recipients, by a name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audience {
    name: String,
    tenant: String,
    /// As they were put, with the names of fields in alphabetical order.
    #[schema(value_type = Object)]
    rules: Box<RawValue>,
    /// Raised by every change of the rules.
    version: i32,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<AudienceRow> for Audience {
    fn from(row: AudienceRow) -> Self {
        Self {
            name: row.name,
            tenant: row.tenant,
            rules: row.rules,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A page of audiences, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audiences {
    items: Vec<Audience>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// What an audience is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AudienceInput {
    /// One condition, which may hold others: `docs/AUDIENCES.md` has all of them.
    #[schema(value_type = Object, required = true, example = json!({"and": [{"country": ["FR", "DE"]}, {"not": {"equals": {"attribute": "churned", "value": true}}}]}))]
    rules: Option<Box<RawValue>>,
}

/// What to look at besides whom the rules pick.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookInput {
    /// The key of a recipient to judge.
    recipient: Option<String>,
    /// The day on which ages are meant; today in UTC unless said.
    #[schema(example = "2024-02-29", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    date: Option<String>,
}

/// Rules to try.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewInput {
    /// As an audience has them.
    #[schema(value_type = Object, required = true, example = json!({"plan": ["pro"]}))]
    rules: Option<Box<RawValue>>,
    /// The key of a recipient to judge.
    recipient: Option<String>,
    /// The day on which ages are meant; today in UTC unless said.
    #[schema(example = "2024-02-29", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    date: Option<String>,
}

/// Whom rules pick.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Preview {
    /// How many recipients. Null: counting took longer than five seconds.
    #[schema(required = true)]
    count: Option<i64>,
    /// The keys of up to ten of them. Null as `count` is.
    #[schema(required = true)]
    sample: Option<Vec<String>>,
    /// What is odd about the rules.
    warnings: Vec<Warning>,
    /// Whether the recipient that was named is one of them; null if none was.
    #[schema(required = true)]
    matches: Option<bool>,
    /// The day on which ages were meant.
    #[schema(value_type = String, format = Date)]
    date: Date,
}

/// Something about rules that their author should look at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Warning {
    /// A JSON pointer to the place in the body; for rules that are kept, in the audience.
    pointer: String,
    /// What is odd there.
    detail: String,
}

impl From<audience::Warning> for Warning {
    fn from(of: audience::Warning) -> Self {
        Self {
            pointer: of.pointer,
            detail: of.detail,
        }
    }
}

/// Read when it is known who asks: a missing field is no secret, but neither an answer to anybody.
fn rule_of(rules: Option<&RawValue>) -> Result<Rule, Problem> {
    let rules = rules.ok_or_else(|| Problem::invalid("/rules", "is required"))?;
    Ok(Rule::parse(rules.get()).map_err(|invalid| invalid.within("/rules"))?)
}

/// Creates an audience, or gives it other rules.
#[utoipa::path(
    put, path = "/v1/audiences/{name}", tag = "audiences", operation_id = "put_audience",
    params(("name" = String, Path, description = "The audience's name"), Whose),
    request_body = AudienceInput,
    responses(
        (status = 200, description = "The audience, which was there before", body = Audience),
        (status = 201, description = "The audience, which is new", body = Audience),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The path is no name", body = Problem, content_type = "application/problem+json"),
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
    Path(name): Path,
    Query(whose): Query<Whose>,
    Json(input): Json<AudienceInput>,
) -> Result<Response, Problem> {
    caller.may(Permission::AudiencesWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    if !audience::is_name(&name) {
        let rule = "the name in the path must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit";
        return Err(Problem::invalid("", rule));
    }
    let rule = rule_of(input.rules.as_deref())?;
    let store = caller.store();
    let status = match store.put_audience(tenant, &name, &rule).await? {
        PutAudience::Created => StatusCode::CREATED,
        PutAudience::Replaced | PutAudience::Same => StatusCode::OK,
    };
    let row = store.audience(tenant, &name).await?;
    let row = row.ok_or_else(|| Problem::conflict("the audience was deleted just now"))?;
    Ok((status, axum::Json(Audience::from(row))).into_response())
}

async fn find(caller: &Caller, tenant: i32, name: &str) -> Result<AudienceRow, Problem> {
    let missing = || Problem::not_found("audience");
    if !audience::is_name(name) {
        return Err(missing());
    }
    let found = caller.store().audience(tenant, name).await?;
    found.ok_or_else(missing)
}

/// Looks at an audience.
#[utoipa::path(
    get, path = "/v1/audiences/{name}", tag = "audiences", operation_id = "get_audience",
    params(("name" = String, Path, description = "The audience's name"), Whose),
    responses(
        (status = 200, description = "The audience", body = Audience),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such audience", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Audience>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let row = find(&caller, tenant, &name).await?;
    Ok(axum::Json(row.into()))
}

/// Deletes an audience. Its recipients stay.
#[utoipa::path(
    delete, path = "/v1/audiences/{name}", tag = "audiences", operation_id = "delete_audience",
    params(("name" = String, Path, description = "The audience's name"), Whose),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such audience", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
) -> Result<StatusCode, Problem> {
    caller.may(Permission::AudiencesWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    find(&caller, tenant, &name).await?;
    match caller.store().delete_audience(tenant, &name).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("audience")),
    }
}

/// Lists audiences by name.
#[utoipa::path(
    get, path = "/v1/audiences", tag = "audiences", operation_id = "list_audiences", params(WhosePage),
    responses(
        (status = 200, description = "A page", body = Audiences),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(page): Query<WhosePage>,
) -> Result<axum::Json<Audiences>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let limit = limit_of(page.limit)?;
    let after = page.cursor.as_deref();
    if after.is_some_and(|cursor| !audience::is_name(cursor)) {
        let rule = "must be the `next_cursor` of a page";
        return Err(Problem::parameter("cursor", rule));
    }
    let tenant = tenant_of(&caller, page.tenant.as_deref()).await?;
    let rows = caller.store().audiences(tenant, after, limit).await?;
    let is_full = rows.len() as i64 == limit;
    let last = rows.last().filter(|_| is_full);
    let next_cursor = last.map(|row| row.name.clone());
    let items = rows.into_iter().map(Audience::from).collect();
    Ok(axum::Json(Audiences { items, next_cursor }))
}

/// Looks at whom rules pick that are not kept.
#[utoipa::path(
    post, path = "/v1/audiences/preview", tag = "audiences", operation_id = "preview_rules",
    params(Whose), request_body = PreviewInput,
    responses(
        (status = 200, description = "Whom they pick", body = Preview),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Others are being counted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn preview(
    State(app): State<App>,
    caller: Caller,
    Query(whose): Query<Whose>,
    Json(input): Json<PreviewInput>,
) -> Result<axum::Json<Preview>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let rule = rule_of(input.rules.as_deref())?;
    let PreviewInput {
        recipient, date, ..
    } = input;
    let _turn = turn(&app).await?;
    look(&caller, tenant, &rule, LookInput { recipient, date }).await
}

/// Looks at whom an audience's rules pick.
#[utoipa::path(
    post, path = "/v1/audiences/{name}/preview", tag = "audiences", operation_id = "preview_audience",
    params(("name" = String, Path, description = "The audience's name"), Whose),
    request_body = LookInput,
    responses(
        (status = 200, description = "Whom they pick", body = Preview),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `audiences:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such audience", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Others are being counted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn preview_of(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
    Json(input): Json<LookInput>,
) -> Result<axum::Json<Preview>, Problem> {
    caller.may(Permission::AudiencesRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let row = find(&caller, tenant, &name).await?;
    // What a newer program has put may say more than this one understands.
    let rule = rule_of(Some(&row.rules))?;
    let _turn = turn(&app).await?;
    look(&caller, tenant, &rule, input).await
}

/// Waits for its turn to count.
pub(super) async fn turn(app: &App) -> Result<SemaphorePermit<'_>, Problem> {
    match tokio::time::timeout(PATIENCE, app.previews.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem::too_many("others are being counted: ask again", 1)),
    }
}

async fn look(
    caller: &Caller,
    tenant: i32,
    rule: &Rule,
    input: LookInput,
) -> Result<axum::Json<Preview>, Problem> {
    let store = caller.store();
    let date = match input.date {
        Some(text) => day_of(&text)?,
        // By the database's clock.
        None => store.now().await?.to_zoned(TimeZone::UTC).date(),
    };
    let matches = match &input.recipient {
        Some(key) => {
            let row = store.recipient_by_key(tenant, key).await?;
            let missing = || Problem::invalid("/recipient", "there is no such recipient");
            let row = row.ok_or_else(missing)?;
            Some(rule.matches(&row.recipient, date))
        }
        None => None,
    };
    let count = store.count_audience(tenant, rule, date).await?;
    let sample = match count {
        Some(1..) => store.sample_audience(tenant, rule, date, SAMPLE).await?,
        Some(_) => Some(Vec::new()),
        None => None,
    };
    let warnings = rule.warnings().into_iter();
    let warnings = warnings.map(|warning| warning.within("/rules").into());
    Ok(axum::Json(Preview {
        count,
        sample,
        warnings: warnings.collect(),
        matches,
        date,
    }))
}

fn day_of(text: &str) -> Result<Date, Problem> {
    audience::day_of(text).ok_or_else(|| {
        Problem::invalid(
            "/date",
            "must be a date such as 2024-02-29, from 1850 to 2199",
        )
    })
}
