//! What is served, one file for each kind of thing. A route is written once, with its description:
//! the OpenAPI document is made of the same lines that answer.

mod announcements;
mod audiences;
mod batch;
mod campaigns;
mod dead_letters;
mod jobs;
mod kinds;
mod ledger;
mod operations;
mod providers;
mod queues;
mod recipients;
mod recipients_upload;
mod schedules;
mod settings;
mod stops;
mod suppressions;
mod timeline;

use postroad_common::store::JobView;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContactBuilder, InfoBuilder, License, OpenApi, Server};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::auth::Caller;
use crate::body::id_of;
use crate::problem::Problem;

/// Items on a page, unless the client says otherwise.
const LIMIT_DEFAULT: i64 = 50;
/// And at most.
const LIMIT_MAX: i64 = 200;

/// Every route.
pub(crate) fn all() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(batch::submit))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::resolve))
        .routes(routes!(queues::list))
        .routes(routes!(queues::set))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(providers::list))
        .routes(routes!(providers::get, providers::put, providers::delete))
        .routes(routes!(providers::close))
        .routes(routes!(kinds::list))
        .routes(routes!(kinds::set))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(operations::stop))
        .routes(routes!(schedules::list, schedules::create))
        .routes(routes!(
            schedules::get,
            schedules::change,
            schedules::delete
        ))
        .routes(routes!(schedules::run))
        .routes(routes!(campaigns::list, campaigns::create))
        .routes(routes!(campaigns::get))
        .routes(routes!(campaigns::preview))
        .routes(routes!(recipients_upload::upload))
        .routes(routes!(campaigns::start))
        .routes(routes!(campaigns::approve))
        .routes(routes!(campaigns::pause))
        .routes(routes!(campaigns::resume))
        .routes(routes!(campaigns::cancel))
        .routes(routes!(
            suppressions::list,
            suppressions::add,
            suppressions::remove
        ))
        .routes(routes!(settings::get, settings::set))
        .routes(routes!(stops::list, stops::create))
        .routes(routes!(stops::get))
        .routes(routes!(stops::lift))
        .routes(routes!(ledger::get))
        .routes(routes!(recipients::list))
        .routes(routes!(
            recipients::get,
            recipients::put,
            recipients::delete
        ))
        .routes(routes!(recipients::import))
        .routes(routes!(audiences::list))
        .routes(routes!(audiences::get, audiences::put, audiences::delete))
        .routes(routes!(audiences::preview))
        .routes(routes!(audiences::preview_of))
        .routes(routes!(announcements::list, announcements::create))
        .routes(routes!(announcements::get, announcements::change))
        .routes(routes!(announcements::withdraw))
        .routes(routes!(timeline::get))
        .routes(routes!(timeline::read))
}

/// The description with what concerns it as a whole.
pub(crate) fn completed(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Postroad")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Jobs in, and everything about them out. Errors are problems (RFC 9457) with a pointer \
             to the field and the id of the request. Tokens are made by `postroad tokens create`.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .contact(Some(
            ContactBuilder::new()
                .url(Some(env!("CARGO_PKG_REPOSITORY")))
                .build(),
        ))
        .build();
    document.servers = Some(vec![Server::new("http://127.0.0.1:8080")]);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token, as `postroad tokens create` prints it: `prk_…`",
        ))
        .build();
    document
        .components
        .get_or_insert_with(Components::new)
        .add_security_scheme("token", SecurityScheme::Http(bearer));
    document.security = Some(vec![SecurityRequirement::new(
        "token",
        Vec::<String>::new(),
    )]);
    document
}

/// The description as it is served and committed.
pub(crate) fn text_of(document: &OpenApi) -> String {
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// A job and where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// UUID: the message's id in RabbitMQ, and the idempotency key that providers see.
    #[schema(value_type = uuid::Uuid)]
    id: postroad_common::job::JobId,
    /// Whose it is.
    tenant: String,
    /// Where it waits.
    queue: String,
    /// What it is.
    kind: String,
    /// `scheduled`, `dispatched`, `running`, `failed`, `held`, `completed`, `dead`, `cancelled` or
    /// `expired`.
    #[schema(example = "scheduled")]
    state: String,
    /// 0 first to 3 last.
    priority: i16,
    /// Attempts so far.
    attempt: i32,
    /// Attempts before it is dead.
    max_attempts: i32,
    /// What becomes of it when its worker is lost: `retry` or `hold`.
    on_lost: String,
    /// When it is due.
    run_at: jiff::Timestamp,
    /// When it is pointless.
    expires_at: Option<jiff::Timestamp>,
    /// When it was accepted.
    created_at: jiff::Timestamp,
    /// When its last attempt began.
    started_at: Option<jiff::Timestamp>,
    /// When it came to its end.
    finished_at: Option<jiff::Timestamp>,
    /// When somebody asked for it to be cancelled while it ran.
    cancel_requested_at: Option<jiff::Timestamp>,
    /// Why it came to its end.
    reason: Option<String>,
    /// What its last attempt that did not work said.
    error: Option<String>,
    /// Its input; a completed job's is not kept.
    #[schema(value_type = serde_json::Value, required = true)]
    args: Option<Box<RawValue>>,
    /// What its handler left.
    #[schema(value_type = serde_json::Value, required = true)]
    result: Option<Box<RawValue>>,
    /// The key that it was handed in under, as long as it stands for the job.
    dedup_key: Option<String>,
}

impl From<JobView> for Job {
    fn from(view: JobView) -> Self {
        Self {
            id: view.id,
            tenant: view.tenant,
            queue: view.queue,
            kind: view.kind,
            state: view.state,
            priority: view.priority,
            attempt: view.attempt,
            max_attempts: view.max_attempts,
            on_lost: view.on_lost,
            run_at: view.run_at,
            expires_at: view.expires_at,
            created_at: view.created_at,
            started_at: view.started_at,
            finished_at: view.finished_at,
            cancel_requested_at: view.cancel_requested_at,
            reason: view.reason,
            error: view.error,
            args: view.args,
            result: view.result,
            dedup_key: view.dedup_key,
        }
    }
}

/// One page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobPage {
    /// The jobs. May be fewer than asked for though there are more: what is rare takes several pages.
    items: Vec<Job>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Whose recipient, audience or announcement.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Whose {
    /// The tenant, for operators; `default` unless said.
    tenant: Option<String>,
}

/// Which page of whose.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhosePage {
    /// The tenant, for operators; `default` unless said.
    tenant: Option<String>,
    /// Items on the page: 1 to 200, 50 unless said.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Refuses a limit that is given and is not from 1 to `most`.
fn in_range(pointer: &str, value: Option<i32>, most: i32) -> Result<(), Problem> {
    match value {
        Some(value) if !(1..=most).contains(&value) => Err(Problem::invalid(
            pointer,
            format!("must be from 1 to {most}"),
        )),
        _ => Ok(()),
    }
}

/// What cannot be a name is not one of anything that is there.
fn known<'a, N: std::str::FromStr>(what: &str, name: &'a str) -> Result<&'a str, Problem> {
    match name.parse::<N>() {
        Ok(_) => Ok(name),
        Err(_) => Err(Problem::not_found(what)),
    }
}

/// The tenant that a request is about: the token's own; operators may name any.
async fn tenant_of(caller: &Caller, named: Option<&str>) -> Result<i32, Problem> {
    const DEFAULT: &str = "default";
    if let Some(id) = caller.scope().tenant_id() {
        caller.tenant(named).await?;
        return Ok(id);
    }
    let found = caller.tenant(Some(named.unwrap_or(DEFAULT))).await?;
    found.ok_or_else(|| Problem::parameter("tenant", "there is no such tenant"))
}

/// What a page's `next_cursor` names: what the next one begins before.
fn before(cursor: &str) -> Result<uuid::Uuid, Problem> {
    id_of(cursor).ok_or_else(|| Problem::parameter("cursor", "must be the next_cursor of a page"))
}

/// How many items a page is to have.
fn limit_of(asked: Option<i64>) -> Result<i64, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Problem::parameter(
            "limit",
            format!("must be from 1 to {LIMIT_MAX}"),
        )),
    }
}
