//! Queues: looked at by everybody, set by operators.

use std::time::Duration;

use axum::extract::State;
use postroad_common::config::parse_duration;
use postroad_common::job::QueueName;
use postroad_common::store::{Changed, OnFull, QueueChange, QueueRow};
use postroad_common::token::Permission;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::in_range;
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Nothing, Path, Query};
use crate::problem::Problem;

/// A queue: its settings, and what is in it of the token's tenant (of all tenants, for operators).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    name: String,
    /// Since when nothing is dispatched of it.
    #[schema(required = true)]
    paused_at: Option<jiff::Timestamp>,
    /// Jobs between dispatch and end at once.
    window_size: i32,
    /// How long a message may wait in RabbitMQ.
    pipe_ttl_seconds: f64,
    /// Jobs of it that a worker runs at once, instead of the worker's own setting.
    #[schema(required = true)]
    prefetch: Option<i32>,
    /// Jobs of it that may be dispatched in a second, by all schedulers together.
    #[schema(required = true)]
    rate_per_second: Option<i32>,
    /// Whole days after which its finished jobs are forgotten, if the schedulers keep them that long.
    #[schema(required = true)]
    retention_days: Option<i32>,
    /// Whose limits its jobs keep to, beside its own.
    #[schema(required = true)]
    provider: Option<String>,
    /// How many of its jobs may be due and wait.
    #[schema(required = true)]
    waiting_max: Option<i32>,
    /// What becomes of more: `reject`, `drop`, `defer` or `coalesce`.
    on_full: String,
    /// Since when it accepts nothing, because it is full.
    #[schema(required = true)]
    full_at: Option<jiff::Timestamp>,
    /// Due and not dispatched; counted up to 10,000.
    due: i64,
    dispatched: i64,
    running: i64,
    failed: i64,
    held: i64,
    /// Set aside by stops, to be scheduled again when they are lifted.
    stopped: i64,
    /// How long the oldest of them has been due.
    #[schema(required = true)]
    oldest_due_seconds: Option<f64>,
}

impl From<QueueRow> for Queue {
    fn from(row: QueueRow) -> Self {
        Self {
            name: row.name,
            paused_at: row.paused_at,
            window_size: row.window_size,
            pipe_ttl_seconds: row.pipe_ttl_seconds,
            prefetch: row.prefetch,
            rate_per_second: row.rate_per_second,
            retention_days: row.retention_days,
            provider: row.provider,
            waiting_max: row.waiting_max,
            on_full: row.on_full,
            full_at: row.full_at,
            due: row.due,
            dispatched: row.dispatched,
            running: row.running,
            failed: row.failed,
            held: row.held,
            stopped: row.stopped,
            oldest_due_seconds: row.oldest_due_seconds,
        }
    }
}

/// All queues.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queues {
    items: Vec<Queue>,
}

/// A change. What is left out stays as it is; null takes a limit away.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueuePatch {
    /// Jobs between dispatch and end at once: 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    window_size: Option<i32>,
    /// How long a message may wait in RabbitMQ: from `1s` to `1d`.
    #[schema(example = "60s", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    pipe_ttl: Option<String>,
    /// Jobs of it that a worker runs at once: 1 to 2,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 2000)]
    prefetch: Option<Option<i32>>,
    /// Jobs of it that may be dispatched in a second: 1 to 1,000,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1_000_000)]
    rate_per_second: Option<Option<i32>>,
    /// Whole days after which its finished jobs are forgotten: 1 to 3,650.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 3650)]
    retention_days: Option<Option<i32>>,
    /// Whose limits its jobs keep to, beside its own.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    provider: Option<Option<String>>,
    /// How many of its jobs may be due and wait: 1 to 2,000,000,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 2_000_000_000)]
    waiting_max: Option<Option<i32>>,
    /// What becomes of more. `reject`: they are not accepted. `drop`: jobs of the lowest class (3 is the
    /// lowest priority) are shed, from the tenants that have most of it, the oldest first. `defer`: the
    /// same are due a minute or two later. `coalesce`: of jobs with the same `coalesce_key` all but the
    /// newest are shed, and if that is not enough, as with `drop`.
    #[schema(pattern = "^(reject|drop|defer|coalesce)$", example = "drop")]
    on_full: Option<String>,
}

/// A field that is there, be it null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Deserialize::deserialize(from).map(Some)
}

impl QueuePatch {
    fn checked(&self) -> Result<QueueChange, Problem> {
        in_range("/window_size", self.window_size, 100_000)?;
        in_range("/prefetch", self.prefetch.flatten(), 2000)?;
        in_range(
            "/rate_per_second",
            self.rate_per_second.flatten(),
            1_000_000,
        )?;
        in_range("/retention_days", self.retention_days.flatten(), 3650)?;
        in_range("/waiting_max", self.waiting_max.flatten(), 2_000_000_000)?;
        let on_full = self.on_full.as_deref().map(|name| {
            OnFull::of_name(name).ok_or_else(|| {
                let what = "must be `reject`, `drop`, `defer` or `coalesce`";
                Problem::invalid("/on_full", what)
            })
        });
        let ttl = self.pipe_ttl.as_deref();
        let pipe_ttl = ttl.map(|text| duration("/pipe_ttl", text, Duration::from_secs(1), DAY));
        Ok(QueueChange {
            window_size: self.window_size,
            pipe_ttl: pipe_ttl.transpose()?,
            prefetch: self.prefetch,
            rate_per_second: self.rate_per_second,
            retention_days: self.retention_days,
            provider: self.provider.clone(),
            waiting_max: self.waiting_max,
            on_full: on_full.transpose()?,
        })
    }
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration with its unit, between two limits.
pub(super) fn duration(
    pointer: &str,
    text: &str,
    min: Duration,
    max: Duration,
) -> Result<Duration, Problem> {
    match parse_duration(text) {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(_) => Err(Problem::invalid(
            pointer,
            format!("must be from {min:?} to {max:?}"),
        )),
        None => Err(Problem::invalid(
            pointer,
            "must be a duration with its unit, such as `30s`",
        )),
    }
}

/// Lists the queues.
#[utoipa::path(
    get, path = "/v1/queues", tag = "queues", operation_id = "list_queues",
    responses(
        (status = 200, description = "All queues, by name", body = Queues),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
) -> Result<axum::Json<Queues>, Problem> {
    caller.may(Permission::QueuesRead)?;
    let rows = caller.store().queues(None).await?;
    let items = rows.into_iter().map(Queue::from).collect();
    Ok(axum::Json(Queues { items }))
}

/// Sets a queue. In force with the next dispatch; the prefetch at once.
#[utoipa::path(
    patch, path = "/v1/queues/{name}", tag = "queues", operation_id = "set_queue",
    params(("name" = String, Path, description = "The queue's name")),
    request_body = QueuePatch,
    responses(
        (status = 200, description = "The queue", body = Queue),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
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
    Json(patch): Json<QueuePatch>,
) -> Result<axum::Json<Queue>, Problem> {
    caller.may(Permission::QueuesWrite)?;
    let change = patch.checked()?;
    let name = known(&name)?;
    if change != QueueChange::default() && !caller.store().set_queue(name, &change).await? {
        // A queue or its provider is missing: the queue is what the path names.
        drop(find(&caller, name).await?);
        return Err(Problem::invalid("/provider", "there is no such provider"));
    }
    find(&caller, name).await
}

/// Pauses a queue: what is due stays where it is; what is dispatched goes on.
#[utoipa::path(
    post, path = "/v1/queues/{name}/pause", tag = "queues", operation_id = "pause_queue",
    params(("name" = String, Path, description = "The queue's name")),
    responses(
        (status = 200, description = "The queue", body = Queue),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(caller: Caller, Path(name): Path) -> Result<axum::Json<Queue>, Problem> {
    pause_or_resume(&caller, &name, true).await
}

/// Resumes a queue.
#[utoipa::path(
    post, path = "/v1/queues/{name}/resume", tag = "queues", operation_id = "resume_queue",
    params(("name" = String, Path, description = "The queue's name")),
    responses(
        (status = 200, description = "The queue", body = Queue),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `queues:write` is needed, which operators have", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such queue", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path,
) -> Result<axum::Json<Queue>, Problem> {
    let queue = pause_or_resume(&caller, &name, false).await?;
    app.waker.wake();
    Ok(queue)
}

async fn pause_or_resume(
    caller: &Caller,
    name: &str,
    pause: bool,
) -> Result<axum::Json<Queue>, Problem> {
    caller.may(Permission::QueuesWrite)?;
    let changed = caller.store().pause_queue(known(name)?, pause).await?;
    if changed == Changed::NotThere {
        return Err(Problem::not_found("queue"));
    }
    find(caller, name).await
}

async fn find(caller: &Caller, name: &str) -> Result<axum::Json<Queue>, Problem> {
    let rows = caller.store().queues(Some(name)).await?;
    let row = rows.into_iter().next();
    row.map(|row| axum::Json(Queue::from(row)))
        .ok_or_else(|| Problem::not_found("queue"))
}

fn known(name: &str) -> Result<&str, Problem> {
    super::known::<QueueName>("queue", name)
}
