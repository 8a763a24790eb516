//! Stops: what is not to be started, from the moment that the answer is sent.

use axum::extract::State;
use axum::http::StatusCode;
use postroad_common::job::{KindName, ProviderName, QueueName};
use postroad_common::store::{self, Missing, NewStop, StopMode, StopScope};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{before, limit_of};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Path, Query, id_of};
use crate::problem::Problem;

/// No reason is longer.
const REASON_BYTES_MAX: usize = 500;

/// What is to be stopped: the jobs for which everything that is given fits.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StopSubmission {
    /// `pause`: they wait until the stop is lifted, and those that come later, too. `cancel`: those
    /// that were accepted before it are cancelled.
    #[schema(value_type = String, required = true, example = "pause")]
    mode: Option<String>,
    /// Of this tenant. A tenant's token stops its own tenant's jobs only.
    tenant: Option<String>,
    /// In this queue.
    queue: Option<String>,
    /// Of this kind.
    kind: Option<String>,
    /// In any queue of this provider.
    provider: Option<String>,
    /// Why, for whoever finds it: at most 500 bytes.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A stop, and what it has stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stop {
    id: uuid::Uuid,
    /// `pause` or `cancel`.
    mode: String,
    /// The tenant that it names.
    #[schema(required = true)]
    tenant: Option<String>,
    /// The queue that it names.
    #[schema(required = true)]
    queue: Option<String>,
    /// The kind that it names.
    #[schema(required = true)]
    kind: Option<String>,
    /// The provider that it names.
    #[schema(required = true)]
    provider: Option<String>,
    reason: String,
    /// Who made it.
    actor: String,
    created_at: jiff::Timestamp,
    /// Since when it is over: somebody has lifted it, or nothing is left to be cancelled.
    #[schema(required = true)]
    lifted_at: Option<jiff::Timestamp>,
    /// What it has met so far.
    stopped: Stopped,
    /// What it names and has not met yet, when this was asked. Null in lists and where counting took too
    /// long, and zeros once it is over.
    #[schema(required = true)]
    named: Option<Named>,
}

/// Jobs that were stopped, by where they were met.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stopped {
    /// In Postgres, waiting for their time or for another attempt.
    waiting: i64,
    /// On their way through RabbitMQ.
    in_pipe: i64,
    /// In the hands of a worker that had not begun with them.
    prefetched: i64,
}

/// Jobs that are named and not met yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Named {
    /// Waiting for their time or for another attempt.
    waiting: i64,
    /// On their way to a worker, who will not begin with them.
    in_pipe: i64,
    /// Running: for this attempt the stop came too late.
    too_late: i64,
}

impl From<store::Stop> for Stop {
    fn from(stop: store::Stop) -> Self {
        let named = stop.named.map(|named| Named {
            waiting: named.waiting,
            in_pipe: named.in_pipe,
            too_late: named.too_late,
        });
        Self {
            id: stop.id,
            mode: stop.mode,
            tenant: stop.tenant,
            queue: stop.queue,
            kind: stop.kind,
            provider: stop.provider,
            reason: stop.reason,
            actor: stop.actor,
            created_at: stop.created_at,
            lifted_at: stop.lifted_at,
            stopped: Stopped {
                waiting: stop.stopped.waiting,
                in_pipe: stop.stopped.in_pipe,
                prefetched: stop.stopped.prefetched,
            },
            named,
        }
    }
}

/// One page of stops, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StopPage {
    items: Vec<Stop>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Which stops to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StopsQuery {
    /// Those too that are over. Otherwise only those in force.
    #[serde(default)]
    all: bool,
    /// Items on the page, at most: 1 to 200, otherwise 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Stops jobs: no attempt of what is named begins once this has been answered.
///
/// A tenant, a queue, a kind or a provider must be named. Jobs that run are not interrupted; if they fail, they are
/// not tried again as long as the stop is in force. The answer says where the named jobs are.
#[utoipa::path(
    post, path = "/v1/stops", tag = "stops", operation_id = "create_stop",
    request_body = StopSubmission,
    responses(
        (status = 201, description = "It is in force; if the same was paused before, that stop", body = Stop),
        (status = 400, description = "The body cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `stops:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There are as many stops in force as there may be", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; whether it is in force is not known: list the stops", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(_): State<App>,
    caller: Caller,
    Json(asked): Json<StopSubmission>,
) -> Result<(StatusCode, axum::Json<Stop>), Problem> {
    caller.may(Permission::StopsWrite)?;
    let mode = StopMode::of_name(asked.mode.as_deref().unwrap_or_default())
        .ok_or_else(|| Problem::invalid("/mode", "must be `pause` or `cancel`"))?;
    let reason = asked.reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.contains('\0') {
        let what = format!("must be at most {REASON_BYTES_MAX} bytes, without NUL");
        return Err(Problem::invalid("/reason", what));
    }
    if let Some(Err(error)) = asked.queue.as_deref().map(str::parse::<QueueName>) {
        return Err(Problem::invalid("/queue", error.to_string()));
    }
    if let Some(Err(error)) = asked.kind.as_deref().map(str::parse::<KindName>) {
        return Err(Problem::invalid("/kind", error.to_string()));
    }
    if let Some(Err(error)) = asked.provider.as_deref().map(str::parse::<ProviderName>) {
        return Err(Problem::invalid("/provider", error.to_string()));
    }
    let tenant = caller.tenant(asked.tenant.as_deref()).await;
    let tenant = tenant.map_err(|problem| problem.about("/tenant"))?;
    let scope = StopScope {
        tenant: tenant.or(caller.scope().tenant_id()),
        queue: asked.queue,
        kind: asked.kind,
        provider: asked.provider,
    };
    if scope == StopScope::default() {
        let what = "name a tenant, a queue, a kind or a provider: there is no stop for everything";
        return Err(Problem::invalid("", what));
    }
    let new = NewStop {
        scope: &scope,
        mode,
        reason: &reason,
    };
    let made = caller.store().create_stop(&new).await?;
    let stop = match made {
        Ok(stop) => stop,
        Err(Missing::Room) => {
            return Err(Problem::conflict(
                "there are as many stops in force as there may be: lift one, or name more with one",
            ));
        }
        Err(field) => {
            return Err(Problem::invalid(
                format!("/{}", field.as_str()),
                format!("there is no such {}", field.as_str()),
            ));
        }
    };
    Ok((StatusCode::CREATED, axum::Json(Stop::from(stop))))
}

/// Lists stops, newest first.
#[utoipa::path(
    get, path = "/v1/stops", tag = "stops", operation_id = "list_stops",
    params(StopsQuery),
    responses(
        (status = 200, description = "Stops in force, newest first", body = StopPage),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `stops:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(query): Query<StopsQuery>,
) -> Result<axum::Json<StopPage>, Problem> {
    caller.may(Permission::StopsRead)?;
    let limit = limit_of(query.limit)?;
    let before = query.cursor.as_deref().map(before).transpose()?;
    let found = caller.store().stops(query.all, before, limit).await?;
    let is_full = found.len() as i64 == limit;
    let last = found.last().filter(|_| is_full);
    Ok(axum::Json(StopPage {
        next_cursor: last.map(|stop| stop.id.to_string()),
        items: found.into_iter().map(Stop::from).collect(),
    }))
}

/// Shows a stop, with the jobs that it names counted.
#[utoipa::path(
    get, path = "/v1/stops/{id}", tag = "stops", operation_id = "get_stop",
    params(("id" = String, Path, description = "The stop's id")),
    responses(
        (status = 200, description = "The stop", body = Stop),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `stops:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such stop", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(caller: Caller, Path(id): Path) -> Result<axum::Json<Stop>, Problem> {
    caller.may(Permission::StopsRead)?;
    find(&caller, &id).await
}

/// Lifts a stop: what it has set aside goes on. What it has cancelled stays cancelled.
#[utoipa::path(
    post, path = "/v1/stops/{id}/lift", tag = "stops", operation_id = "lift_stop",
    params(("id" = String, Path, description = "The stop's id")),
    responses(
        (status = 200, description = "It is over", body = Stop),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `stops:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such stop", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was over before, or is an operator's", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn lift(caller: Caller, Path(id): Path) -> Result<axum::Json<Stop>, Problem> {
    caller.may(Permission::StopsWrite)?;
    let uuid = id_of(&id).ok_or_else(|| Problem::not_found("stop"))?;
    let is_lifted = caller.store().lift_stop(uuid).await?;
    let stop = find(&caller, &id).await?;
    if !is_lifted && stop.lifted_at.is_none() {
        return Err(Problem::conflict(
            "an operator has made the stop: only an operator lifts it",
        ));
    }
    if !is_lifted {
        return Err(Problem::conflict("the stop was lifted before"));
    }
    Ok(stop)
}

async fn find(caller: &Caller, id: &str) -> Result<axum::Json<Stop>, Problem> {
    let id = id_of(id).ok_or_else(|| Problem::not_found("stop"))?;
    let found = caller.store().find_stop(id).await?;
    let stop = found.ok_or_else(|| Problem::not_found("stop"))?;
    Ok(axum::Json(Stop::from(stop)))
}
