//! Operations: what was asked for many jobs at once, and how far it is.

use postroad_common::store;
use postroad_common::token::Permission;
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::body::{Nothing, Path, Query, id_of};
use crate::problem::Problem;

/// How many are listed.
const NEWEST: i64 = 100;

/// An operation and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Operation {
    id: uuid::Uuid,
    /// `redrive`.
    action: String,
    /// `running`, `finished` or `stopped`.
    state: String,
    /// Jobs that it was about when it began.
    planned: i64,
    /// Jobs done so far.
    done: i64,
    created_at: jiff::Timestamp,
    updated_at: jiff::Timestamp,
    #[schema(required = true)]
    finished_at: Option<jiff::Timestamp>,
    /// Who asked for it.
    actor: String,
}

impl From<store::Operation> for Operation {
    fn from(operation: store::Operation) -> Self {
        Self {
            id: operation.id,
            action: operation.action,
            state: operation.state,
            planned: operation.planned,
            done: operation.done,
            created_at: operation.created_at,
            updated_at: operation.updated_at,
            finished_at: operation.finished_at,
            actor: operation.actor,
        }
    }
}

/// The newest operations.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Operations {
    items: Vec<Operation>,
}

/// Lists the newest hundred operations.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations", operation_id = "list_operations",
    responses(
        (status = 200, description = "Operations, newest first", body = Operations),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<Operations>, Problem> {
    caller.may(Permission::JobsRead)?;
    let found = caller.store().operations(None, NEWEST).await?;
    let items = found.into_iter().map(Operation::from).collect();
    Ok(axum::Json(Operations { items }))
}

/// Says how far an operation is.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "operations", operation_id = "get_operation",
    params(("id" = String, Path, description = "The operation's id")),
    responses(
        (status = 200, description = "The operation", body = Operation),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such operation", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(caller: Caller, Path(id): Path) -> Result<axum::Json<Operation>, Problem> {
    caller.may(Permission::JobsRead)?;
    find(&caller, &id).await
}

/// Stops an operation where it is. What it has done stays done.
#[utoipa::path(
    post, path = "/v1/operations/{id}/stop", tag = "operations", operation_id = "stop_operation",
    params(("id" = String, Path, description = "The operation's id")),
    responses(
        (status = 200, description = "It goes no further", body = Operation),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `dead-letters:redrive` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such operation", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is over", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stop(caller: Caller, Path(id): Path) -> Result<axum::Json<Operation>, Problem> {
    caller.may(Permission::DeadLettersRedrive)?;
    let uuid = id_of(&id).ok_or_else(|| Problem::not_found("operation"))?;
    if !caller.store().stop_operation(uuid).await? {
        let operation = find(&caller, &id).await?;
        return Err(Problem::conflict(format!(
            "the operation is {}",
            operation.0.state
        )));
    }
    find(&caller, &id).await
}

async fn find(caller: &Caller, id: &str) -> Result<axum::Json<Operation>, Problem> {
    let id = id_of(id).ok_or_else(|| Problem::not_found("operation"))?;
    let found = caller.store().operations(Some(id), 1).await?;
    let operation = found.into_iter().next();
    operation
        .map(|operation| axum::Json(Operation::from(operation)))
        .ok_or_else(|| Problem::not_found("operation"))
}
