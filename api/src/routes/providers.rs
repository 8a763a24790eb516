//! Providers: what their queues keep to together, and their breakers. Looked at by everybody, set by
//! operators.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postroad_common::job::{ProviderName, TenantName};
use postroad_common::store::{BreakerRow, Deleted, ProviderRow, ProviderSettings};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::in_range;
use crate::auth::Caller;
use crate::body::{Json, Nothing, Path, Query};
use crate::problem::Problem;

/// What is on the other side of some queues, and what its queues keep to together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Provider {
    name: String,
    /// Jobs of its queues that one worker may have under way at once.
    #[schema(required = true)]
    unanswered_max: Option<i32>,
    /// Jobs of its queues that may enter the pipe in a second, by all schedulers together.
    #[schema(required = true)]
    rate_per_second: Option<i32>,
    /// Further attempts that its budget gives in a second; without one a tenth of its rate.
    #[schema(required = true)]
    retries_per_second: Option<i32>,
    /// The share of failed answers from which on a breaker opens; null: never.
    #[schema(required = true)]
    failure_max: Option<f64>,
    /// The queues whose jobs go to it.
    queues: Vec<String>,
    /// Its breakers that are not closed: of the token's tenant, and of all tenants; all of them, a
    /// thousand at most, for operators.
    breakers: Vec<Breaker>,
    created_at: Timestamp,
}

/// A breaker that is not closed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Breaker {
    /// Whose jobs it keeps back; null: everybody's.
    #[schema(required = true)]
    tenant: Option<String>,
    /// `open`: they wait in Postgres. `half_open`: a few of them try.
    #[schema(example = "open")]
    state: &'static str,
    opened_at: Timestamp,
    /// When a few may try, or could since.
    probe_at: Timestamp,
    /// How often it was opened without having been closed.
    trips: i32,
    /// What was seen.
    reason: String,
}

impl From<BreakerRow> for Breaker {
    fn from(row: BreakerRow) -> Self {
        Self {
            tenant: row.tenant,
            state: row.state.as_str(),
            opened_at: row.opened_at,
            probe_at: row.probe_at,
            trips: row.trips,
            reason: row.reason,
        }
    }
}

impl From<ProviderRow> for Provider {
    fn from(row: ProviderRow) -> Self {
        Self {
            name: row.name,
            unanswered_max: row.unanswered_max,
            rate_per_second: row.rate_per_second,
            retries_per_second: row.retries_per_second,
            failure_max: row.failure_max,
            queues: row.queues,
            breakers: row.breakers.into_iter().map(Breaker::from).collect(),
            created_at: row.created_at,
        }
    }
}

/// All providers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Providers {
    items: Vec<Provider>,
}

/// All that is set for a provider. What is left out is not limited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderInput {
    /// Jobs of its queues that one worker may have under way at once: 1 to 2,000.
    #[schema(minimum = 1, maximum = 2000)]
    unanswered_max: Option<i32>,
    /// Jobs of its queues that may enter the pipe in a second: 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    rate_per_second: Option<i32>,
    /// Further attempts that its budget gives in a second: 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    retries_per_second: Option<i32>,
    /// The share of failed answers from which on a breaker opens: over 0, up to 1. Null: never; 0.5
    /// unless said.
    #[serde(default = "failure_max_default")]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0, default = 0.5)]
    failure_max: Option<f64>,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the default of a field that may be null"
)]
fn failure_max_default() -> Option<f64> {
    Some(ProviderSettings::FAILURE_MAX_DEFAULT)
}

impl ProviderInput {
    fn checked(&self) -> Result<ProviderSettings, Problem> {
        let limit = |pointer: &str, value: Option<i32>, most: i32| match value {
            Some(0) => Err(Problem::invalid(
                pointer,
                format!("must be from 1 to {most}: to start nothing, make a stop for the provider"),
            )),
            value => in_range(pointer, value, most),
        };
        limit("/unanswered_max", self.unanswered_max, 2000)?;
        limit("/rate_per_second", self.rate_per_second, 1_000_000)?;
        limit("/retries_per_second", self.retries_per_second, 1_000_000)?;
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        if self.failure_max.is_some_and(|share| !is_share(share)) {
            let what = "must be over 0 and at most 1, or null for no breaker";
            return Err(Problem::invalid("/failure_max", what));
        }
        Ok(ProviderSettings {
            unanswered_max: self.unanswered_max,
            rate_per_second: self.rate_per_second,
            retries_per_second: self.retries_per_second,
            failure_max: self.failure_max,
        })
    }
}

/// Which breakers to close.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Closing {
    /// That of this tenant; all of them unless said.
    tenant: Option<String>,
}

/// What was closed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Closed {
    /// Breakers that were not closed before.
    closed: usize,
}

/// Lists providers, with their breakers that are not closed.
#[utoipa::path(
    get, path = "/v1/providers", tag = "queues", operation_id = "list_providers",
    responses(
        (status = 200, description = "All providers, by name", body = Providers),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<Providers>, Problem> {
    caller.may(Permission::QueuesRead)?;
    let rows = caller.store().providers(None).await?;
    let items = rows.into_iter().map(Provider::from).collect();
    Ok(axum::Json(Providers { items }))
}

/// Shows a provider, with its breakers that are not closed.
#[utoipa::path(
    get, path = "/v1/providers/{name}", tag = "queues", operation_id = "get_provider",
    params(("name" = String, Path, description = "The provider's name")),
    responses(
        (status = 200, description = "The provider", body = Provider),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(caller: Caller, Path(name): Path) -> Result<axum::Json<Provider>, Problem> {
    caller.may(Permission::QueuesRead)?;
    Ok(axum::Json(find(&caller, &name).await?))
}

/// Makes a provider, or sets one: all of it. In force with the next claim.
#[utoipa::path(
    put, path = "/v1/providers/{name}", tag = "queues", operation_id = "put_provider",
    params(("name" = String, Path, description = "The provider's name")),
    request_body = ProviderInput,
    responses(
        (status = 200, description = "It is set", body = Provider),
        (status = 201, description = "It is made", body = Provider),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was deleted just now", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    caller: Caller,
    Path(name): Path,
    Json(input): Json<ProviderInput>,
) -> Result<Response, Problem> {
    caller.may(Permission::QueuesWrite)?;
    if let Err(error) = name.parse::<ProviderName>() {
        return Err(Problem::invalid("", error.to_string()));
    }
    let settings = input.checked()?;
    let status = match caller.store().put_provider(&name, &settings).await? {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let provider = caller.store().providers(Some(&name)).await?.pop();
    let provider =
        provider.ok_or_else(|| Problem::conflict("the provider was deleted just now"))?;
    Ok((status, axum::Json(Provider::from(provider))).into_response())
}

/// Deletes a provider. No queue may go to it any more.
#[utoipa::path(
    delete, path = "/v1/providers/{name}", tag = "queues", operation_id = "delete_provider",
    params(("name" = String, Path, description = "The provider's name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Queues go to it, or a stop names it", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(caller: Caller, Path(name): Path) -> Result<StatusCode, Problem> {
    caller.may(Permission::QueuesWrite)?;
    match caller.store().delete_provider(known(&name)?).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::InUse => Err(Problem::conflict(
            "queues go to the provider, or a stop names it: set the queues' `provider` to another or to \
             null; a stop that is over is forgotten after a while",
        )),
        Deleted::NotThere => Err(Problem::not_found("provider")),
    }
}

/// Closes the breakers of a provider at once, because somebody knows that it works again.
#[utoipa::path(
    post, path = "/v1/providers/{name}/close", tag = "queues", operation_id = "close_breakers",
    params(("name" = String, Path, description = "The provider's name")),
    request_body = Closing,
    responses(
        (status = 200, description = "They are closed", body = Closed),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn close(
    caller: Caller,
    Path(name): Path,
    Json(closing): Json<Closing>,
) -> Result<axum::Json<Closed>, Problem> {
    caller.may(Permission::QueuesWrite)?;
    let tenant = closing.tenant.as_deref();
    if let Some(Err(error)) = tenant.map(str::parse::<TenantName>) {
        return Err(Problem::invalid("/tenant", error.to_string()));
    }
    find(&caller, &name).await?;
    let closed = caller.store().close_breakers(&name, tenant).await?;
    Ok(axum::Json(Closed { closed }))
}

async fn find(caller: &Caller, name: &str) -> Result<Provider, Problem> {
    let mut rows = caller.store().providers(Some(known(name)?)).await?;
    let row = rows.pop();
    row.map(Provider::from)
        .ok_or_else(|| Problem::not_found("provider"))
}

fn known(name: &str) -> Result<&str, Problem> {
    super::known::<ProviderName>("provider", name)
}
