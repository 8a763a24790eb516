//! Dead letters: jobs that were given up, and how they come back.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use postroad_common::job::JobState;
use postroad_common::store::{NewRedrive, RedriveFilter};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::JobPage;
use super::jobs::{self, name};
use super::operations::Operation;
use crate::auth::Caller;
use crate::body::{Json, Query};
use crate::problem::Problem;

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this kind.
    kind: Option<String>,
    /// Only in this queue.
    queue: Option<String>,
    /// Only of this tenant, for operators.
    tenant: Option<String>,
    /// Items on the page: 1 to 200, 50 unless said.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which dead letters to redrive. What is left out does not restrict: an empty object is all.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redrive {
    /// Only of this kind.
    kind: Option<String>,
    /// Only in this queue.
    queue: Option<String>,
    /// Only of this tenant, for operators.
    tenant: Option<String>,
    /// Only those that died at this moment or later.
    since: Option<jiff::Timestamp>,
    /// Only so many, the oldest first: to see whether they go through now.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    limit: Option<i64>,
    /// True: only counts.
    #[serde(default)]
    dry_run: bool,
}

/// What a dry run says.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Count {
    /// How many dead letters there are by this filter.
    planned: i64,
}

/// Lists dead letters, newest first.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters", operation_id = "list_dead_letters", params(Filter),
    responses(
        (status = 200, description = "A page", body = JobPage),
        (status = 400, description = "Not a query", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<JobPage>, Problem> {
    caller.may(Permission::JobsRead)?;
    let filter = jobs::Filter::of(
        filter.kind,
        filter.queue,
        filter.tenant,
        filter.limit,
        filter.cursor,
    );
    jobs::page(&caller, Some(JobState::Dead), filter).await
}

/// Redrives dead letters: they are run again as if they were new, in batches, as an operation that
/// can be watched and stopped.
#[utoipa::path(
    post, path = "/v1/dead-letters/redrive", tag = "dead letters", operation_id = "redrive_dead_letters",
    request_body = Redrive,
    responses(
        (status = 202, description = "It has begun", body = Operation, headers(("location", description = "Where its progress is"))),
        (status = 200, description = "A dry run: how many there are", body = Count),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `dead-letters:redrive` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn redrive(
    caller: Caller,
    Json(asked): Json<Redrive>,
) -> Result<Response, Problem> {
    caller.may(Permission::DeadLettersRedrive)?;
    let at = |pointer: &'static str| move |_| Problem::invalid(pointer, "must be a name");
    let tenant = caller.tenant(asked.tenant.as_deref()).await;
    let tenant = tenant.map_err(|problem| problem.about("/tenant"))?;
    if asked
        .limit
        .is_some_and(|limit| !(1..=1_000_000_000).contains(&limit))
    {
        return Err(Problem::invalid("/limit", "must be from 1 to 1000000000"));
    }
    let filter = RedriveFilter {
        kind: asked
            .kind
            .map(|kind| name("kind", kind).map_err(at("/kind")))
            .transpose()?,
        queue: asked
            .queue
            .map(|queue| name("queue", queue).map_err(at("/queue")))
            .transpose()?,
        tenant: None,
        since: asked.since.map(in_range).transpose()?,
    };
    if asked.dry_run {
        let count = caller.store().count_dead_letters(&filter, tenant).await?;
        let planned = asked.limit.map_or(count, |limit| count.min(limit));
        return Ok(axum::Json(Count { planned }).into_response());
    }
    let redrive = NewRedrive {
        filter: &filter,
        limit: asked.limit,
    };
    let begun = caller.store().begin_redrive(&redrive, tenant).await?;
    let id = begun.id.to_string();
    let location = [(header::LOCATION, format!("/v1/operations/{id}"))];
    let operation = axum::Json(Operation::from(begun));
    Ok((StatusCode::ACCEPTED, location, operation).into_response())
}

/// What Postgres takes for a time.
fn in_range(since: jiff::Timestamp) -> Result<jiff::Timestamp, Problem> {
    const FIRST_SECOND: i64 = 946_684_800;
    const LAST_SECOND: i64 = 7_258_118_400;
    match (FIRST_SECOND..LAST_SECOND).contains(&since.as_second()) {
        true => Ok(since),
        false => Err(Problem::invalid(
            "/since",
            "must lie between the years 2000 and 2200",
        )),
    }
}
