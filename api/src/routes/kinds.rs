//! Kinds: how their jobs are tried. Workers bring their policy; an operator's stands instead.

use std::time::Duration;

use postroad_common::job::{KindName, OnLost};
use postroad_common::store::{Changed, KindChange, KindRow, Store};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::queues::{DAY, duration};
use crate::auth::Caller;
use crate::body::{Json, Nothing, Path, Query};
use crate::problem::Problem;

/// A kind and its policy.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Kind {
    name: String,
    /// What becomes of a job whose worker is lost: `retry` or `hold`.
    on_lost: String,
    max_attempts: i32,
    /// Wait before the second attempt; doubles with each further one.
    backoff_base_seconds: f64,
    /// The longest wait between two attempts.
    backoff_cap_seconds: f64,
    /// How long an attempt may take; null: no worker has said yet.
    #[schema(required = true)]
    timeout_seconds: Option<f64>,
    /// When a worker first said that it runs them; null: none has yet.
    #[schema(required = true)]
    registered_at: Option<jiff::Timestamp>,
    /// Since when an operator's policy stands instead of the workers'.
    #[schema(required = true)]
    overridden_at: Option<jiff::Timestamp>,
}

impl From<KindRow> for Kind {
    fn from(row: KindRow) -> Self {
        Self {
            name: row.name,
            on_lost: row.on_lost,
            max_attempts: row.max_attempts,
            backoff_base_seconds: row.backoff_base_seconds,
            backoff_cap_seconds: row.backoff_cap_seconds,
            timeout_seconds: row.timeout_seconds,
            registered_at: row.registered_at,
            overridden_at: row.overridden_at,
        }
    }
}

/// All kinds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Kinds {
    items: Vec<Kind>,
}

/// A change of a policy. What is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KindPatch {
    /// `retry` or `hold`.
    #[schema(pattern = "^(retry|hold)$")]
    on_lost: Option<String>,
    /// Attempts before a job is dead: 1 to 1,000.
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<i32>,
    /// Wait before the second attempt: from `1ms` to `1d`.
    #[schema(example = "5s", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    backoff_base: Option<String>,
    /// The longest wait between two attempts: from `1ms` to `30d`.
    #[schema(example = "6h", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    backoff_cap: Option<String>,
    /// How long an attempt may take: from `1s` to `1d`. In force with the next attempt that begins.
    #[schema(example = "30s", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    timeout: Option<String>,
    /// True: gives the kind back to its workers: their timeout holds at once, and their next start writes the rest.
    #[serde(default)]
    reset: bool,
}

/// Lists the kinds.
#[utoipa::path(
    get, path = "/v1/kinds", tag = "queues", operation_id = "list_kinds",
    responses(
        (status = 200, description = "All kinds, by name", body = Kinds),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<Kinds>, Problem> {
    caller.may(Permission::QueuesRead)?;
    let rows = caller.store().kinds(None).await?;
    let items = rows.into_iter().map(Kind::from).collect();
    Ok(axum::Json(Kinds { items }))
}

/// Sets how a kind's jobs are tried; in force with the next attempt that begins or fails.
#[utoipa::path(
    patch, path = "/v1/kinds/{name}", tag = "queues", operation_id = "set_kind",
    params(("name" = String, Path, description = "The kind's name")),
    request_body = KindPatch,
    responses(
        (status = 200, description = "The kind", body = Kind),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such kind", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set(
    caller: Caller,
    Path(name): Path,
    Json(patch): Json<KindPatch>,
) -> Result<axum::Json<Kind>, Problem> {
    caller.may(Permission::QueuesWrite)?;
    let change = checked(&patch)?;
    let store = caller.store();
    let before = find(&store, &name).await?;
    if let Some(why) = change.too_long_a_first_wait(&before) {
        let pointer = match change.backoff_base {
            Some(_) => "/backoff_base",
            None => "/backoff_cap",
        };
        return Err(Problem::invalid(pointer, why));
    }
    let is_known = match patch.reset {
        true => store.reset_kind(&name).await? != Changed::NotThere,
        false if change == KindChange::default() => true,
        false => store.set_kind(&name, &change).await?,
    };
    if !is_known {
        return Err(Problem::not_found("kind"));
    }
    Ok(axum::Json(Kind::from(find(&store, &name).await?)))
}

/// What cannot be a name is not one of a kind.
async fn find(store: &Store, name: &str) -> Result<KindRow, Problem> {
    let missing = || Problem::not_found("kind");
    name.parse::<KindName>().map_err(|_| missing())?;
    let rows = store.kinds(Some(name)).await?;
    rows.into_iter().next().ok_or_else(missing)
}

fn checked(patch: &KindPatch) -> Result<KindChange, Problem> {
    if let Some(on_lost) = &patch.on_lost {
        let known = on_lost.parse::<OnLost>();
        known.map_err(|_| Problem::invalid("/on_lost", "must be `retry` or `hold`"))?;
    }
    if patch.max_attempts.is_some_and(|n| !(1..=1000).contains(&n)) {
        return Err(Problem::invalid("/max_attempts", "must be from 1 to 1000"));
    }
    let is_a_change = patch.on_lost.is_some()
        || patch.max_attempts.is_some()
        || patch.backoff_base.is_some()
        || patch.backoff_cap.is_some()
        || patch.timeout.is_some();
    if patch.reset && is_a_change {
        return Err(Problem::invalid("/reset", "stands alone"));
    }
    let least = Duration::from_millis(1);
    let base = patch.backoff_base.as_deref();
    let cap = patch.backoff_cap.as_deref();
    let timeout = patch.timeout.as_deref();
    Ok(KindChange {
        on_lost: patch.on_lost.clone(),
        max_attempts: patch.max_attempts,
        backoff_base: base
            .map(|text| duration("/backoff_base", text, least, DAY))
            .transpose()?,
        backoff_cap: cap
            .map(|text| duration("/backoff_cap", text, least, 30 * DAY))
            .transpose()?,
        timeout: timeout
            .map(|text| duration("/timeout", text, Duration::from_secs(1), DAY))
            .transpose()?,
    })
}
