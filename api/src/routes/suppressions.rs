//! Who is not to get anything any more.

use axum::http::StatusCode;
use jiff::Timestamp;
use postroad_common::campaign::suppressible;
use postroad_common::job::KindName;
use postroad_common::store::{self, SUPPRESSED_AT_ONCE, SUPPRESSION_REASON_BYTES_MAX};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::limit_of;
use super::schedules::owner;
use crate::auth::Caller;
use crate::body::{Json, Query};
use crate::problem::Problem;

/// Who is to be suppressed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suppressing {
    /// Addresses, as campaigns have them: 1 to 1,000. Phone numbers with their country's code.
    #[serde(default)]
    #[schema(required = true, max_items = 1000)]
    recipients: Vec<String>,
    /// Jobs of this kind only; otherwise of every kind.
    kind: Option<String>,
    /// Why: at most 500 bytes.
    #[schema(max_length = 500)]
    reason: Option<String>,
    /// For operators; others have their own only.
    tenant: Option<String>,
}

/// How many were not suppressed before.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuppressedCount {
    added: i64,
}

/// A recipient that gets nothing any more.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Suppression {
    tenant: String,
    recipient: String,
    /// Null: of every kind.
    #[schema(required = true)]
    kind: Option<String>,
    reason: String,
    created_at: Timestamp,
}

/// One page, by recipient.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuppressionPage {
    items: Vec<Suppression>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Which to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SuppressionsQuery {
    /// Of this recipient.
    recipient: Option<String>,
    /// Items on the page, at most: 1 to 200, otherwise 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// For operators; others have their own only.
    tenant: Option<String>,
}

/// Which to take off the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Unsuppressing {
    /// The address.
    recipient: String,
    /// The kind that it was suppressed for; otherwise every kind.
    kind: Option<String>,
    /// For operators; others have their own only.
    tenant: Option<String>,
}

/// The one form in which addresses are compared.
fn normal(address: &str) -> Result<String, String> {
    suppressible(address).map_err(|error| error.to_string())
}

fn kind_of(kind: Option<&str>) -> Result<Option<&str>, Problem> {
    match kind.map(str::parse::<KindName>) {
        Some(Err(error)) => Err(Problem::invalid("/kind", error.to_string())),
        _ => Ok(kind),
    }
}

/// Suppresses recipients: no job of a campaign for them begins from now on, wherever it is.
#[utoipa::path(
    post, path = "/v1/suppressions", tag = "campaigns", operation_id = "suppress_recipients",
    request_body = Suppressing,
    responses(
        (status = 200, description = "They are", body = SuppressedCount),
        (status = 400, description = "The body cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; send it again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn add(
    caller: Caller,
    Json(asked): Json<Suppressing>,
) -> Result<(StatusCode, axum::Json<SuppressedCount>), Problem> {
    caller.may(Permission::CampaignsWrite)?;
    if !(1..=SUPPRESSED_AT_ONCE).contains(&asked.recipients.len()) {
        let what = format!("must have 1 to {SUPPRESSED_AT_ONCE} addresses");
        return Err(Problem::invalid("/recipients", what));
    }
    let reason = asked.reason.as_deref().unwrap_or_default();
    if reason.len() > SUPPRESSION_REASON_BYTES_MAX || reason.contains('\0') {
        let what = format!("must be at most {SUPPRESSION_REASON_BYTES_MAX} bytes, without NUL");
        return Err(Problem::invalid("/reason", what));
    }
    let kind = kind_of(asked.kind.as_deref())?;
    let mut recipients = Vec::with_capacity(asked.recipients.len());
    for (place, address) in asked.recipients.iter().enumerate() {
        let at = |what| Problem::invalid(format!("/recipients/{place}"), what);
        recipients.push(normal(address).map_err(at)?);
    }
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let tenant = owner(&caller, asked.tenant.as_deref()).await?;
    let added = caller
        .store()
        .suppress(tenant, kind, &recipients, reason)
        .await?;
    let added = added.ok_or_else(|| Problem::invalid("/kind", "there is no such kind"))?;
    Ok((StatusCode::OK, axum::Json(SuppressedCount { added })))
}

/// Lists suppressed recipients.
#[utoipa::path(
    get, path = "/v1/suppressions", tag = "campaigns", operation_id = "list_suppressions",
    params(SuppressionsQuery),
    responses(
        (status = 200, description = "Recipients that get nothing, by address", body = SuppressionPage),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(query): Query<SuppressionsQuery>,
) -> Result<axum::Json<SuppressionPage>, Problem> {
    caller.may(Permission::CampaignsRead)?;
    let limit = limit_of(query.limit)?;
    let recipient = match query.recipient.as_deref().map(normal) {
        None => None,
        Some(Ok(recipient)) => Some(recipient),
        Some(Err(what)) => return Err(Problem::parameter("recipient", what)),
    };
    // An address has no line break, and a name of a kind none either.
    let after = query.cursor.as_deref().map(|cursor| {
        cursor.split_once('\n').ok_or_else(|| {
            Problem::parameter("cursor", "must be the `next_cursor` of a page before")
        })
    });
    let after = after.transpose()?;
    if after.is_some_and(|(recipient, kind)| recipient.contains('\0') || kind.contains('\0')) {
        return Err(Problem::parameter("cursor", "has no NUL"));
    }
    let tenant = match caller.scope().tenant_id() {
        Some(own) => {
            caller.tenant(query.tenant.as_deref()).await?;
            own
        }
        None => {
            let named = query.tenant.as_deref().unwrap_or("default");
            let found = caller.tenant(Some(named)).await?;
            found.ok_or_else(|| Problem::parameter("tenant", "there is no such tenant"))?
        }
    };
    let found = caller
        .store()
        .suppressions(tenant, after, recipient.as_deref(), limit)
        .await?;
    let is_full = found.len() as i64 == limit;
    let last = found.last().filter(|_| is_full);
    let cursor = |one: &store::Suppression| {
        format!(
            "{}\n{}",
            one.recipient,
            one.kind.as_deref().unwrap_or_default()
        )
    };
    Ok(axum::Json(SuppressionPage {
        next_cursor: last.map(cursor),
        items: found
            .into_iter()
            .map(|one| Suppression {
                tenant: one.tenant,
                recipient: one.recipient,
                kind: one.kind,
                reason: one.reason,
                created_at: one.created_at,
            })
            .collect(),
    }))
}

/// Takes a recipient off the list.
#[utoipa::path(
    delete, path = "/v1/suppressions", tag = "campaigns", operation_id = "unsuppress_recipient",
    params(Unsuppressing),
    responses(
        (status = 204, description = "It is not on the list any more"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "It was not on the list", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; send it again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove(
    caller: Caller,
    Query(query): Query<Unsuppressing>,
) -> Result<StatusCode, Problem> {
    caller.may(Permission::CampaignsWrite)?;
    let recipient = normal(&query.recipient);
    let recipient = recipient.map_err(|what| Problem::parameter("recipient", what))?;
    if let Some(Err(error)) = query.kind.as_deref().map(str::parse::<KindName>) {
        return Err(Problem::parameter("kind", error.to_string()));
    }
    let tenant = owner(&caller, query.tenant.as_deref()).await?;
    let is_removed = caller
        .store()
        .unsuppress(tenant, query.kind.as_deref(), &recipient)
        .await?;
    match is_removed {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("suppressed recipient")),
    }
}
