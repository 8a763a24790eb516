//! Jobs: in, looked at, called off, run again, decided about.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use postroad_common::egress::EgressPolicy;
use postroad_common::job::{JobId, JobInput, JobState, NewJob, OnLost};
use postroad_common::store::{
    Cancelled, Enqueued, Inserted, JobQuery, JobView, Resolution, Retried,
};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Job, JobPage, before, limit_of};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, JsonBytes, Path, Query, id_of};
use crate::doors::Doors;
use crate::metrics;
use crate::problem::Problem;

/// The tenant of jobs whose submitter, an operator, names none.
const TENANT_DEFAULT: &str = "default";

/// A job to be enqueued. What is left out or null has its default; what is not known is refused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"kind": "webhook", "args": {"url": "https://example.com/hook", "body": {"hello": "world"}}, "delay": "5m", "dedup_key": "order-17"}))]
pub(crate) struct JobSubmission {
    /// A UUID made by the sender, so that sending again is not enqueueing again.
    id: Option<uuid::Uuid>,
    /// The token's own; operators may name any, and `default` is theirs.
    #[schema(max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    tenant: Option<String>,
    /// Default `default`.
    #[schema(max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    queue: Option<String>,
    /// What it is: `echo`, `webhook`, `sms`, or a kind of your own.
    #[schema(max_length = 63, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
    kind: String,
    /// Its input: any JSON, at most 256 KiB, kept byte for byte. Default `{}`.
    #[schema(value_type = serde_json::Value)]
    args: Option<Box<serde_json::value::RawValue>>,
    /// 0 first to 3 last; default as its tenant says, else 1.
    #[schema(minimum = 0, maximum = 3)]
    priority: Option<i16>,
    /// When it is due; default now. Not together with `delay`.
    run_at: Option<jiff::Timestamp>,
    /// How long from now it is due: a number and `ms`, `s`, `m`, `h` or `d`. Not together with `run_at`.
    #[schema(example = "5m", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    delay: Option<String>,
    /// When it is pointless: later than `run_at`; default as its tenant says, else never.
    expires_at: Option<jiff::Timestamp>,
    /// A second job of the same tenant and kind with this key is the first one.
    #[schema(min_length = 1, max_length = 255)]
    dedup_key: Option<String>,
    /// Attempts before it is dead; default as its tenant says, else as its kind does.
    #[schema(minimum = 1, maximum = 1000)]
    max_attempts: Option<i32>,
    /// What becomes of it when its worker is lost; default as its kind says.
    #[schema(pattern = "^(retry|hold)$")]
    on_lost: Option<String>,
    /// W3C trace context of the submitter. Default: the request's header of this name.
    #[schema(max_length = 255)]
    traceparent: Option<String>,
    /// Of waiting jobs of the tenant and kind with this key only the newest is worth its place, in a
    /// queue that coalesces when it is full.
    #[schema(min_length = 1, max_length = 255)]
    coalesce_key: Option<String>,
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only in this state.
    state: Option<String>,
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

impl Filter {
    pub(super) fn of(
        kind: Option<String>,
        queue: Option<String>,
        tenant: Option<String>,
        limit: Option<i64>,
        cursor: Option<String>,
    ) -> Self {
        Self {
            state: None,
            kind,
            queue,
            tenant,
            limit,
            cursor,
        }
    }
}

/// Enqueues one job.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", operation_id = "enqueue_job",
    params(("traceparent" = Option<String>, Header, description = "W3C trace context, unless the body has one; what is not valid is ignored")),
    request_body(content = JobSubmission, content_type = "application/json"),
    responses(
        (status = 201, description = "The job; it starts when it is due", body = Job, headers(("location", description = "Where it can be looked at"))),
        (status = 200, description = "The job that was enqueued before, by the same words under the same `dedup_key` or `id`", body = Job),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Other words were enqueued under this `dedup_key`, or the `id` is another job's", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be taken; `pointer` says which", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Over the tenant's rate or quota", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; nothing was lost", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit(
    State(app): State<App>,
    caller: Caller,
    JsonBytes(body): JsonBytes,
) -> Result<Response, Problem> {
    caller.may(Permission::JobsWrite)?;
    let submitter = Submitter::of(&app, &caller);
    let read = submitter.read(&body).await;
    let (job, is_resend) =
        read.inspect_err(|problem| metrics::rejected(problem.why_rejected(), 1))?;
    app.quotas.take(&caller, 1).await?;
    let enqueued = app
        .collector
        .enqueue(caller.scope(), job.clone(), is_resend)
        .await?;
    answer(&caller, &job, enqueued).await
}

async fn answer(caller: &Caller, job: &NewJob, enqueued: Enqueued) -> Result<Response, Problem> {
    if !enqueued.is_same {
        metrics::rejected("conflict", 1);
        return Err(Problem::conflict(format!(
            "job {} was enqueued under this dedup_key with another body",
            enqueued.id
        ))
        .at("/dedup_key"));
    }
    metrics::enqueued(u64::from(enqueued.is_new), u64::from(!enqueued.is_new));
    if let Some(inserted) = enqueued.inserted {
        let location = format!("/v1/jobs/{}", job.id);
        let new = Job::from(view(job, inserted));
        return Ok((
            StatusCode::CREATED,
            [(header::LOCATION, location)],
            axum::Json(new),
        )
            .into_response());
    }
    let views = caller.store().job_views(&[enqueued.id]).await?;
    match views.into_iter().next() {
        Some(view) => Ok(axum::Json(Job::from(view)).into_response()),
        // Its row is gone after its retention, or it is somebody else's.
        None => Err(Problem::conflict("this id or dedup_key was used before")),
    }
}

/// The answer where a job was made of something else than its own words.
pub(super) async fn created(caller: &Caller, id: JobId) -> Result<Response, Problem> {
    let id = id.to_string();
    let job = find(caller, &id).await?;
    let location = [(header::LOCATION, format!("/v1/jobs/{id}"))];
    Ok((StatusCode::CREATED, location, axum::Json(job)).into_response())
}

/// A job that was just inserted.
fn view(job: &NewJob, inserted: Inserted) -> JobView {
    let of_kind = if inserted.kind_holds {
        OnLost::Hold
    } else {
        OnLost::Retry
    };
    JobView {
        id: job.id,
        tenant: job.tenant.to_string(),
        queue: job.queue.to_string(),
        kind: job.kind.to_string(),
        state: JobState::Scheduled.to_string(),
        priority: inserted.priority,
        attempt: 0,
        max_attempts: inserted.max_attempts,
        on_lost: job.on_lost.unwrap_or(of_kind).to_string(),
        run_at: inserted.run_at,
        expires_at: inserted.expires_at,
        created_at: inserted.created_at,
        started_at: None,
        finished_at: None,
        cancel_requested_at: None,
        reason: None,
        error: None,
        args: Some(job.args.clone()),
        result: None,
        dedup_key: job.dedup_key.clone(),
    }
}

/// Reads jobs on behalf of a caller.
pub(super) struct Submitter<'a> {
    caller: &'a Caller,
    egress: &'a EgressPolicy,
    doors: &'a Doors,
}

impl<'a> Submitter<'a> {
    pub(super) fn of(app: &'a App, caller: &'a Caller) -> Self {
        Self {
            caller,
            egress: &app.egress,
            doors: &app.doors,
        }
    }

    /// A job, and whether it may have been sent before.
    pub(super) async fn read(&self, json: &[u8]) -> Result<(NewJob, bool), Problem> {
        let mut input = JobInput::parse(json)?;
        match (self.caller.tenant_name(), input.tenant.as_deref()) {
            (Some(own), None) => input.tenant = Some(own.to_owned()),
            (Some(own), Some(named)) if own == named => {}
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(
                    "/tenant",
                    "must be the token's own, or left out",
                ));
            }
            (None, named) => {
                let named = named.unwrap_or(TENANT_DEFAULT);
                let known = self.caller.tenant(Some(named)).await;
                known.map_err(|problem| match problem.status() {
                    StatusCode::UNPROCESSABLE_ENTITY => Problem::invalid(
                        "/tenant",
                        "there is no such tenant: `postroad tenants create`",
                    ),
                    _ => problem,
                })?;
            }
        }
        let of_request = || self.caller.traceparent().map(str::to_owned);
        input.traceparent = input.traceparent.or_else(of_request);
        let is_resend = input.id.is_some();
        let job = input.into_job()?;
        self.vet(&job)?;
        self.doors.check(job.queue.as_str()).await?;
        Ok((job, is_resend))
    }

    /// Refuses now what a worker would refuse later.
    pub(super) fn vet(&self, job: &NewJob) -> Result<(), Problem> {
        #[derive(Deserialize)]
        struct Target {
            url: String,
        }
        if job.kind.as_str() != "webhook" {
            return Ok(());
        }
        // serde would take a list of the values as well.
        let object = Some(job.args.get()).filter(|args| args.trim_start().starts_with('{'));
        let target = object.and_then(|args| serde_json::from_str::<Target>(args).ok());
        let target = target.ok_or_else(|| {
            let rule = "a webhook's args are an object with a `url` that is a text";
            Problem::invalid("/args/url", rule)
        })?;
        match self.egress.check(&target.url) {
            Ok(_) => Ok(()),
            Err(refused) => Err(Problem::invalid("/args/url", refused.to_string())),
        }
    }
}

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs", params(Filter),
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
    let state = filter.state.as_deref().map(state_of).transpose()?;
    page(&caller, state, filter).await
}

/// One page of what a filter asks for, in `state` if there is one.
pub(super) async fn page(
    caller: &Caller,
    state: Option<JobState>,
    filter: Filter,
) -> Result<axum::Json<JobPage>, Problem> {
    let query = JobQuery {
        state,
        kind: filter.kind.map(|kind| name("kind", kind)).transpose()?,
        queue: filter.queue.map(|queue| name("queue", queue)).transpose()?,
        tenant: caller.tenant(filter.tenant.as_deref()).await?,
        before: filter.cursor.as_deref().map(before).transpose()?,
        limit: limit_of(filter.limit)?,
    };
    let page = caller.store().job_page(&query).await?;
    Ok(axum::Json(JobPage {
        items: page.jobs.into_iter().map(Job::from).collect(),
        next_cursor: page.next.map(|id| id.to_string()),
    }))
}

fn state_of(text: &str) -> Result<JobState, Problem> {
    let found = JobState::ALL
        .into_iter()
        .find(|state| state.as_str() == text);
    found.ok_or_else(|| {
        let all = JobState::ALL.map(JobState::as_str).join(", ");
        Problem::parameter("state", format!("must be one of {all}"))
    })
}

/// A name that cannot be one names nothing; Postgres would not even take all of them.
pub(super) fn name(parameter: &'static str, text: String) -> Result<String, Problem> {
    match text.parse::<postroad_common::job::KindName>() {
        Ok(_) => Ok(text),
        Err(_) => Err(Problem::parameter(
            parameter,
            "must be a name: 1 to 63 of a-z 0-9 . _ -",
        )),
    }
}

/// Looks at one job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "get_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "The job", body = Job),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job, or none any more", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(caller: Caller, Path(id): Path) -> Result<axum::Json<Job>, Problem> {
    caller.may(Permission::JobsRead)?;
    find(&caller, &id).await.map(axum::Json)
}

async fn find(caller: &Caller, id: &str) -> Result<Job, Problem> {
    let id = id_of(id).ok_or_else(|| Problem::not_found("job"))?;
    let views = caller.store().job_views(&[id.into()]).await?;
    let view = views.into_iter().next();
    view.map(Job::from).ok_or_else(|| Problem::not_found("job"))
}

/// Calls a job off. One that runs is only asked: its worker learns it with its next heartbeat.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "It is cancelled", body = Job),
        (status = 202, description = "It runs, and its worker will be told", body = Job),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is finished, or held", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(caller: Caller, Path(id): Path) -> Result<Response, Problem> {
    caller.may(Permission::JobsWrite)?;
    let uuid = id_of(&id).ok_or_else(|| Problem::not_found("job"))?;
    // A job that moves between the two looks of one statement is looked at again.
    for _ in 0..3 {
        let cancelled = caller.store().cancel(&[uuid.into()]).await?;
        let status = match cancelled.first() {
            Some(Cancelled::Done) => StatusCode::OK,
            Some(Cancelled::Asked) => StatusCode::ACCEPTED,
            _ => {
                let job = find(&caller, &id).await?;
                match job.state.as_str() {
                    "scheduled" | "dispatched" | "running" | "failed" => continue,
                    "held" => {
                        return Err(Problem::conflict(
                            "the job is held: POST …/resolve decides about it",
                        ));
                    }
                    "cancelled" => return Ok(axum::Json(job).into_response()),
                    state => return Err(Problem::conflict(format!("the job is {state} already"))),
                }
            }
        };
        let job = find(&caller, &id).await?;
        return Ok((status, axum::Json(job)).into_response());
    }
    Err(Problem::conflict("the job is moving just now: try again"))
}

/// Runs a job again that is dead, cancelled or expired; or at once, if it waits for its time or for
/// its next attempt.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "It is due now", body = Job),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is under way, held, or completed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path,
) -> Result<axum::Json<Job>, Problem> {
    caller.may(Permission::JobsWrite)?;
    let uuid = id_of(&id).ok_or_else(|| Problem::not_found("job"))?;
    let retried = caller.store().retry(&[uuid.into()]).await?;
    if retried.first() != Some(&Retried::Done) {
        let job = find(&caller, &id).await?;
        return Err(match job.state.as_str() {
            "held" => Problem::conflict("the job is held: POST …/resolve decides about it"),
            "completed" => Problem::conflict("the job is completed; enqueue a new one"),
            state => Problem::conflict(format!("the job is {state}")),
        });
    }
    app.waker.wake();
    find(&caller, &id).await.map(axum::Json)
}

/// What is decided about a held job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decision {
    /// `completed`: it did take effect. `retry`: it did not, run it again. `dead`: give up.
    verdict: Verdict,
}

// Read as a text: serde_json takes a value that can be no enum at all for one that is not JSON.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
enum Verdict {
    Completed,
    Retry,
    Dead,
}

impl TryFrom<String> for Verdict {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "completed" => Ok(Self::Completed),
            "retry" => Ok(Self::Retry),
            "dead" => Ok(Self::Dead),
            _ => Err("must be completed, retry or dead"),
        }
    }
}

/// Decides about a held job: one whose worker was lost in mid-effect.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/resolve", tag = "jobs", operation_id = "resolve_job",
    params(("id" = String, Path, description = "The job's id")),
    request_body = Decision,
    responses(
        (status = 200, description = "It is decided", body = Job),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `jobs:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is not held", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a verdict", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resolve(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path,
    Json(decision): Json<Decision>,
) -> Result<axum::Json<Job>, Problem> {
    caller.may(Permission::JobsWrite)?;
    let uuid = id_of(&id).ok_or_else(|| Problem::not_found("job"))?;
    let to = match decision.verdict {
        Verdict::Completed => Resolution::Completed,
        Verdict::Retry => Resolution::Retry,
        Verdict::Dead => Resolution::Dead,
    };
    let resolved = caller.store().resolve(&[uuid.into()], to).await?;
    if resolved.is_empty() {
        let job = find(&caller, &id).await?;
        return Err(Problem::conflict(format!(
            "the job is {}, not held",
            job.state
        )));
    }
    app.waker.wake();
    find(&caller, &id).await.map(axum::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_a_job_has_the_fields_that_are_read() {
        let document = serde_json::to_value(crate::openapi()).expect("it is JSON");
        let fields = &document["components"]["schemas"]["JobSubmission"]["properties"];
        for name in fields.as_object().expect("an object").keys() {
            // An unknown field is refused as such; a known one only for its value.
            let line = format!(r#"{{"kind":"echo","{name}":null}}"#);
            let read = JobInput::parse(line.as_bytes());
            let refusal = read
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(!refusal.contains("unknown field"), "{name}: {refusal}");
        }
        assert_eq!(fields.as_object().expect("an object").len(), 14);
    }
}
