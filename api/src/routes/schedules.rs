//! Recurring schedules: created, looked at, changed, run now, deleted.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postroad_common::backoff::Backoff;
use postroad_common::job::{ARGS_BYTES_MAX, JobId, JobInput};
use postroad_common::schedule::{CATCH_UP_MAX, Misfire, Recurrence};
use postroad_common::store::{NewSchedule, ScheduleChange, ScheduleRow};
use postroad_common::token::Permission;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::jobs::Submitter;
use super::limit_of;
use super::queues::{DAY, duration};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Path, Query};
use crate::collector::PATIENCE;
use crate::metrics;
use crate::problem::Problem;

/// Ticks that are shown.
const TICKS_SHOWN: usize = 3;
/// How often a change is begun anew because another one came between.
const ATTEMPTS_MAX: usize = 5;
/// The tenant of an operator's schedules, unless it names one.
const TENANT_DEFAULT: &str = "default";

/// A recurring schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Schedule {
    name: String,
    tenant: String,
    /// Five fields as cron has them, or six with seconds first.
    cron: String,
    /// A name of the IANA database.
    timezone: String,
    /// What becomes of ticks that are more than a minute late: `skip`, `run_once` or `catch_up`.
    misfire: String,
    /// How many of them `catch_up` makes up for: the newest.
    catch_up_max: i32,
    queue: String,
    kind: String,
    #[schema(value_type = serde_json::Value)]
    args: Box<RawValue>,
    priority: i16,
    #[schema(required = true)]
    max_attempts: Option<i32>,
    #[schema(required = true)]
    on_lost: Option<String>,
    /// How long after its tick a job is pointless.
    #[schema(required = true)]
    expires_after_seconds: Option<f64>,
    #[schema(required = true)]
    paused_at: Option<Timestamp>,
    /// The newest tick that has a job.
    #[schema(required = true)]
    last_at: Option<Timestamp>,
    /// The next ticks; none while it is paused.
    next_ticks: Vec<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Schedule {
    fn of(row: ScheduleRow) -> Self {
        let recurrence = Recurrence::parse(&row.cron, &row.timezone).ok();
        let next_ticks = match (row.paused_at, row.next_at, recurrence) {
            (None, Some(next), Some(recurrence)) => {
                let mut ticks = vec![next];
                ticks.extend(recurrence.next(next, TICKS_SHOWN - 1));
                ticks
            }
            _ => Vec::new(),
        };
        Self {
            name: row.name,
            tenant: row.tenant,
            cron: row.cron,
            timezone: row.timezone,
            misfire: row.misfire,
            catch_up_max: row.catch_up_max,
            queue: row.queue,
            kind: row.kind,
            args: row.args,
            priority: row.priority,
            max_attempts: row.max_attempts,
            on_lost: row.on_lost,
            expires_after_seconds: row.expires_after_seconds,
            paused_at: row.paused_at,
            last_at: row.last_at,
            next_ticks,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A page of schedules, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Schedules {
    items: Vec<Schedule>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// What a schedule is to be. In a `PATCH`, what is left out stays as it is, and null takes a limit
/// away.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleInput {
    /// Unique for the tenant. Required when it is created; cannot be changed.
    #[schema(max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    name: Option<String>,
    /// The token's own; operators may name any, and `default` is theirs.
    tenant: Option<String>,
    /// Required when it is created.
    #[schema(example = "30 9 * * MON-FRI", max_length = 200)]
    cron: Option<String>,
    /// Default `UTC`.
    #[schema(example = "Europe/Stockholm")]
    timezone: Option<String>,
    /// `skip`, `run_once` (default) or `catch_up`.
    #[schema(pattern = "^(skip|run_once|catch_up)$")]
    misfire: Option<String>,
    /// Default 100.
    #[schema(minimum = 1, maximum = 10_000)]
    catch_up_max: Option<i32>,
    /// Default `default`.
    queue: Option<String>,
    /// Required when it is created.
    kind: Option<String>,
    /// Default `{}`.
    #[schema(value_type = serde_json::Value)]
    args: Option<Box<RawValue>>,
    #[schema(minimum = 0, maximum = 3)]
    priority: Option<i16>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1000)]
    max_attempts: Option<Option<i32>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, pattern = "^(retry|hold)$")]
    on_lost: Option<Option<String>>,
    /// How long after its tick a job is pointless: from `1s` to `366d`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "1h", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    expires_after: Option<Option<String>>,
    /// True: it does not tick.
    paused: Option<bool>,
}

/// A field that is there, be it null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Deserialize::deserialize(from).map(Some)
}

impl ScheduleInput {
    /// What is left out is taken from what there was.
    fn over(self, before: Option<&ScheduleRow>) -> Result<NewSchedule, Problem> {
        let required = |pointer: &str| Problem::invalid(pointer, "is required");
        let was = |field: fn(&ScheduleRow) -> &String| before.map(|row| field(row).clone());
        let name = self.name.or_else(|| was(|row| &row.name));
        let name = name.ok_or_else(|| required("/name"))?;
        let cron = self.cron.or_else(|| was(|row| &row.cron));
        let cron = cron.ok_or_else(|| required("/cron"))?;
        let timezone = self.timezone.or_else(|| was(|row| &row.timezone));
        let kind = self.kind.or_else(|| was(|row| &row.kind));
        let kind = kind.ok_or_else(|| required("/kind"))?;
        let queue = self.queue.or_else(|| was(|row| &row.queue));
        let misfire = self.misfire.or_else(|| was(|row| &row.misfire));
        let catch_up_max = self.catch_up_max.or(before.map(|row| row.catch_up_max));
        let args = self.args.or_else(|| before.map(|row| row.args.clone()));
        let kept_expiry = before.and_then(|row| row.expires_after_seconds);
        let expires_after = match self.expires_after {
            Some(Some(text)) => {
                let (min, max) = (Duration::from_secs(1), 366 * DAY);
                Some(duration("/expires_after", &text, min, max)?)
            }
            Some(None) => None,
            None => kept_expiry.map(Duration::from_secs_f64),
        };
        let is_paused = before.is_some_and(|row| row.paused_at.is_some());
        Ok(NewSchedule {
            name,
            cron,
            timezone: timezone.unwrap_or_else(|| "UTC".to_owned()),
            misfire: misfire.unwrap_or_else(|| "run_once".to_owned()),
            catch_up_max: catch_up_max.unwrap_or(100),
            queue: queue.unwrap_or_else(|| "default".to_owned()),
            kind,
            args: args.unwrap_or_else(empty_object),
            priority: self
                .priority
                .or(before.map(|row| row.priority))
                .unwrap_or(1),
            max_attempts: self
                .max_attempts
                .unwrap_or_else(|| before.and_then(|row| row.max_attempts)),
            on_lost: self
                .on_lost
                .unwrap_or_else(|| before.and_then(|row| row.on_lost.clone())),
            expires_after,
            is_paused: self.paused.unwrap_or(is_paused),
            next_at: None,
        })
    }
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("an empty object is JSON")
}

/// Checks everything that can be checked without the database, as one of its jobs would be.
fn check(new: &NewSchedule, submitter: &Submitter<'_>) -> Result<Recurrence, Problem> {
    if new.name.parse::<postroad_common::job::KindName>().is_err() {
        let rule = "must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit";
        return Err(Problem::invalid("/name", rule));
    }
    let recurrence = Recurrence::parse(&new.cron, &new.timezone)
        .map_err(|invalid| Problem::invalid(format!("/{}", invalid.field), invalid.message))?;
    if Misfire::of_name(&new.misfire, new.catch_up_max).is_none() {
        return Err(Problem::invalid(
            "/misfire",
            "must be skip, run_once or catch_up",
        ));
    }
    if !(1..=CATCH_UP_MAX).contains(&new.catch_up_max) {
        let rule = format!("must be from 1 to {CATCH_UP_MAX}");
        return Err(Problem::invalid("/catch_up_max", rule));
    }
    if new.args.get().len() > ARGS_BYTES_MAX {
        return Err(Problem::invalid("/args", "must be at most 256 KiB"));
    }
    let job = JobInput {
        id: None,
        tenant: None,
        queue: Some(new.queue.clone()),
        kind: new.kind.clone(),
        args: Some(new.args.clone()),
        priority: Some(new.priority),
        run_at: None,
        delay: None,
        expires_at: None,
        dedup_key: None,
        max_attempts: new.max_attempts,
        on_lost: new.on_lost.clone(),
        traceparent: None,
        coalesce_key: None,
    };
    let job = job.into_job()?;
    submitter.vet(&job)?;
    Ok(recurrence)
}

/// Whose schedule it is: the id and the name of a tenant.
pub(super) async fn owner(caller: &Caller, named: Option<&str>) -> Result<i32, Problem> {
    let at_tenant = |problem: Problem| problem.about("/tenant");
    if let Some(id) = caller.scope().tenant_id() {
        caller.tenant(named).await.map_err(at_tenant)?;
        return Ok(id);
    }
    let named = named.unwrap_or(TENANT_DEFAULT);
    let found = caller.tenant(Some(named)).await.map_err(at_tenant)?;
    found.ok_or_else(|| Problem::invalid("/tenant", "there is no such tenant"))
}

/// Creates a schedule.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", operation_id = "create_schedule",
    request_body = ScheduleInput,
    responses(
        (status = 201, description = "The schedule", body = Schedule, headers(("location", description = "Where it is"))),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is one of this name", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(input): Json<ScheduleInput>,
) -> Result<Response, Problem> {
    caller.may(Permission::SchedulesWrite)?;
    let tenant = owner(&caller, input.tenant.as_deref()).await?;
    let mut new = input.over(None)?;
    let recurrence = check(&new, &Submitter::of(&app, &caller))?;
    new.next_at = next_of(&caller, &recurrence).await?;
    if !caller.store().create_schedule(tenant, &new).await? {
        return Err(Problem::conflict("there is a schedule of this name").at("/name"));
    }
    let location = [(header::LOCATION, format!("/v1/schedules/{}", new.name))];
    let schedule = find(&caller, tenant, &new.name).await?;
    Ok((
        StatusCode::CREATED,
        location,
        axum::Json(Schedule::of(schedule)),
    )
        .into_response())
}

/// By the database's clock, which is the one that ticks.
async fn next_of(caller: &Caller, recurrence: &Recurrence) -> Result<Option<Timestamp>, Problem> {
    let now = caller.store().now().await?;
    match recurrence.next_after(now) {
        Some(next) => Ok(Some(next)),
        None => Err(Problem::invalid("/cron", "never ticks")),
    }
}

async fn find(caller: &Caller, tenant: i32, name: &str) -> Result<ScheduleRow, Problem> {
    let missing = || Problem::not_found("schedule");
    name.parse::<postroad_common::job::KindName>()
        .map_err(|_| missing())?;
    let rows = caller
        .store()
        .schedules(Some(tenant), Some(name), None, 1)
        .await?;
    rows.into_iter().next().ok_or_else(missing)
}

/// Which schedules.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this tenant, for operators.
    tenant: Option<String>,
    /// Items on the page: 1 to 200, 50 unless said.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Whose schedule.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Whose {
    /// The tenant, for operators; `default` unless said.
    tenant: Option<String>,
}

/// Lists schedules by name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", operation_id = "list_schedules", params(Filter),
    responses(
        (status = 200, description = "A page", body = Schedules),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<Schedules>, Problem> {
    caller.may(Permission::SchedulesRead)?;
    let limit = limit_of(filter.limit)?;
    let after = match &filter.cursor {
        Some(cursor) => Some(after(cursor)?),
        None => None,
    };
    let tenant = caller.tenant(filter.tenant.as_deref()).await?;
    let rows = caller.store().schedules(tenant, None, after, limit).await?;
    let is_full = rows.len() as i64 == limit;
    let last = rows.last().filter(|_| is_full);
    let next_cursor = last.map(|row| format!("{}/{}", row.name, row.tenant));
    let items = rows.into_iter().map(Schedule::of).collect();
    Ok(axum::Json(Schedules { items, next_cursor }))
}

/// Where a page ended: many tenants may have a schedule of one name.
fn after(cursor: &str) -> Result<(&str, &str), Problem> {
    let is_name = |name: &str| name.parse::<postroad_common::job::KindName>().is_ok();
    cursor
        .split_once('/')
        .filter(|(name, tenant)| is_name(name) && is_name(tenant))
        .ok_or_else(|| Problem::parameter("cursor", "must be the `next_cursor` of a page"))
}

/// Looks at one schedule.
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "get_schedule",
    params(("name" = String, Path, description = "The schedule's name"), Whose),
    responses(
        (status = 200, description = "The schedule", body = Schedule),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Schedule>, Problem> {
    caller.may(Permission::SchedulesRead)?;
    let tenant = owner(&caller, whose.tenant.as_deref()).await?;
    let row = find(&caller, tenant, &name).await?;
    Ok(axum::Json(Schedule::of(row)))
}

/// Changes a schedule. Its next tick is computed anew, from now on.
#[utoipa::path(
    patch, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "change_schedule",
    params(("name" = String, Path, description = "The schedule's name")),
    request_body = ScheduleInput,
    responses(
        (status = 200, description = "The schedule", body = Schedule),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Others are changing it just now", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path,
    Json(input): Json<ScheduleInput>,
) -> Result<axum::Json<Schedule>, Problem> {
    caller.may(Permission::SchedulesWrite)?;
    let tenant = owner(&caller, input.tenant.as_deref()).await?;
    if input.name.as_deref().is_some_and(|new| new != name) {
        return Err(Problem::invalid("/name", "cannot be changed"));
    }
    // What is left out stays as it is: so nobody may have changed it since it was looked at.
    for _ in 0..ATTEMPTS_MAX {
        let before = find(&caller, tenant, &name).await?;
        let mut new = input.clone().over(Some(&before))?;
        let recurrence = check(&new, &Submitter::of(&app, &caller))?;
        new.next_at = next_of(&caller, &recurrence).await?;
        let store = caller.store();
        if store.replace_schedule(tenant, before.version, &new).await? == ScheduleChange::Applied {
            let row = find(&caller, tenant, &name).await?;
            return Ok(axum::Json(Schedule::of(row)));
        }
    }
    Err(Problem::conflict(
        "the schedule is being changed by others just now: try again",
    ))
}

/// Deletes a schedule. Jobs that it has made go on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "delete_schedule",
    params(("name" = String, Path, description = "The schedule's name"), Whose),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
) -> Result<StatusCode, Problem> {
    caller.may(Permission::SchedulesWrite)?;
    let tenant = owner(&caller, whose.tenant.as_deref()).await?;
    find(&caller, tenant, &name).await?;
    if !caller.store().delete_schedule(tenant, &name).await? {
        return Err(Problem::not_found("schedule"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Runs a schedule's job now, beside its ticks.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/run", tag = "schedules", operation_id = "run_schedule",
    params(
        ("name" = String, Path, description = "The schedule's name"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context of the job; what is not valid is ignored"),
        Whose,
    ),
    responses(
        (status = 201, description = "The job", body = super::Job),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `schedules:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such schedule", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Over the tenant's rate or quota", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path,
    Query(whose): Query<Whose>,
) -> Result<Response, Problem> {
    caller.may(Permission::SchedulesWrite)?;
    let tenant = owner(&caller, whose.tenant.as_deref()).await?;
    let row = find(&caller, tenant, &name).await?;
    let new = ScheduleInput::default().over(Some(&row))?;
    check(&new, &Submitter::of(&app, &caller))?;
    app.quotas.take(&caller, 1).await?;
    let (id, store) = (JobId::new(), caller.store());
    // Repeats what may have been committed although its answer was lost: the id makes it the same.
    let (until, mut backoff) = (Instant::now() + PATIENCE, Backoff::default());
    let is_made = loop {
        let run = store.run_schedule(tenant, &name, id, caller.traceparent());
        match run.await {
            Ok(is_made) => break is_made || !store.job_views(&[id]).await?.is_empty(),
            Err(error) if error.is_transient() && Instant::now() < until => {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    if !is_made {
        return Err(Problem::not_found("schedule"));
    }
    metrics::enqueued(1, 0);
    app.waker.wake();
    super::jobs::created(&caller, id).await
}
