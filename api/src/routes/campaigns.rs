//! Campaigns: made, looked at, started, approved of, paused, resumed and cancelled. How they get their
//! recipients is in [`super::recipients_upload`].

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use postroad_common::campaign::Submission;
use postroad_common::draft::{self, SAMPLES, SAMPLES_MAX};
use postroad_common::store::{
    self, Acted, CAMPAIGN_STATES, CampaignAction, CampaignTexts, Planned,
};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::audiences::{Warning, turn};
use super::schedules::{owner, owners_settings};
use super::{before, limit_of};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Path, Query, id_of};
use crate::problem::Problem;

/// A campaign to be made. It begins as a draft; recipients are uploaded, unless it is for an audience, and
/// then it is started.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CampaignSubmission {
    /// What people call it: 1 to 200 bytes.
    #[schema(value_type = String, required = true, max_length = 200)]
    name: Option<String>,
    /// For operators; others have their own only.
    tenant: Option<String>,
    /// What it says, by channel and language, with templates: see docs/CAMPAIGNS.md. Its `language` may
    /// be left out where the tenant has one.
    #[schema(value_type = serde_json::Value, required = true)]
    content: Option<Value>,
    /// Whom it is for: the name of an audience, whose rules it takes over as they are now, or rules such as
    /// `{"country": ["FR"]}`. Left out: recipients are uploaded.
    #[schema(value_type = Option<AudienceOrName>)]
    audience: Option<Value>,
    /// When recipients may be reached, in their own time: `{"from": "09:00", "until": "20:00", "days": ["mon"]}`.
    #[schema(value_type = Option<serde_json::Value>)]
    send_window: Option<Value>,
    /// When they may not: `{"from": "21:00", "until": "08:00"}`.
    #[schema(value_type = Option<serde_json::Value>)]
    quiet_hours: Option<Value>,
    /// The time zone of recipients that have none: a name of the IANA database. Default: the tenant's,
    /// or UTC where it has none.
    #[schema(value_type = Option<String>)]
    timezone: Option<Value>,
    /// The region of phone numbers without a country's code: two letters (ISO 3166).
    #[schema(example = "FR")]
    region: Option<String>,
    /// Not before then.
    start_at: Option<Timestamp>,
    /// From then on it is pointless: what has no job by then gets none, and what has not begun expires.
    expires_at: Option<Timestamp>,
    /// Recipients a second, at most: 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    rate_per_second: Option<i32>,
    /// The share of recipients that is made first, between 0 and 1. The rest waits until all of these
    /// have ended, and no more than `failure_max` of them without success, but some with it.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1)]
    canary_share: Option<f64>,
    /// It is paused by itself when more than this share of at least a hundred that have ended is dead:
    /// 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    failure_max: Option<f64>,
    /// Whether somebody else must approve of it before it runs: another token than the one it was made by.
    #[serde(default)]
    needs_approval: bool,
}

/// The name of an audience, or rules as an audience has them.
#[derive(ToSchema)]
#[schema(as = CampaignAudience)]
#[expect(dead_code, reason = "says in the documentation what is read elsewhere")]
#[serde(untagged)]
pub(crate) enum AudienceOrName {
    Name(String),
    Rules(serde_json::Map<String, Value>),
}

/// What becomes of the campaign at once.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CreateQuery {
    /// Start it, which has to be for an audience. It stays a draft if it cannot be started.
    #[serde(default)]
    start: bool,
}

/// A campaign and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Campaign {
    id: Uuid,
    tenant: String,
    name: String,
    /// `draft`, `awaiting_approval`, `running`, `paused`, `cancelled`, `expired` or `finished`.
    #[schema(example = "running")]
    state: String,
    /// Why it is paused, or that nobody was in its audience.
    note: String,
    #[schema(required = true)]
    start_at: Option<Timestamp>,
    #[schema(required = true)]
    expires_at: Option<Timestamp>,
    #[schema(required = true)]
    rate_per_second: Option<i32>,
    /// Recipients that are made first.
    #[schema(required = true)]
    canary: Option<i64>,
    /// When those had ended well enough for the rest to follow.
    #[schema(required = true)]
    canary_passed_at: Option<Timestamp>,
    #[schema(required = true)]
    failure_max: Option<f64>,
    needs_approval: bool,
    /// Who has.
    #[schema(required = true)]
    approved_by: Option<String>,
    /// Where its recipients come from: `upload` or `audience`.
    #[schema(example = "audience")]
    source: &'static str,
    /// The audience whose rules it has taken over; null if they were given with it, or recipients are
    /// uploaded.
    #[schema(required = true)]
    audience: Option<String>,
    created_by: String,
    created_at: Timestamp,
    #[schema(required = true)]
    started_at: Option<Timestamp>,
    #[schema(required = true)]
    ended_at: Option<Timestamp>,
    progress: Progress,
    /// Why no job could be made of those that were rejected: at most 21 reasons, the last of which may
    /// stand for all others.
    rejections: Vec<Rejection>,
}

/// Why no job could be made of some recipients.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rejection {
    #[schema(example = "to: has no address for `sms`")]
    reason: String,
    /// How many there were.
    recipients: i64,
    /// The key of one of them; null if they were uploaded.
    #[schema(required = true)]
    example: Option<String>,
}

/// Where its recipients are. `planned` is the sum of the others, unless it is null: then nobody knows yet,
/// and the others are those whose turn has been.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    /// Recipients that were handed in and could be read, or that its audience picks. Null: not known yet.
    #[schema(required = true)]
    planned: Option<i64>,
    /// `exact`: they are counted; `estimate`: so many its audience picked when it began, or more if it has
    /// met more since; `unknown`: counting would have taken too long, or it has not begun.
    #[schema(value_type = String, example = "exact")]
    planned_is: Planned,
    /// No job has been made of them. None ever will, if the campaign has ended. Null as `planned` is.
    #[schema(required = true)]
    not_made: Option<i64>,
    /// Were there before in the same campaign: nobody gets it twice.
    duplicates: i64,
    /// No job could be made of them.
    rejected: i64,
    /// Wait for room in the pipe, for their time, or for another attempt.
    scheduled: i64,
    /// On their way to a worker.
    in_pipe: i64,
    /// Under way.
    running: i64,
    /// Have failed, and go on soon.
    failed: i64,
    /// Wait for a decision.
    held: i64,
    /// Have got it.
    delivered: i64,
    /// Given up.
    dead: i64,
    /// Called off.
    cancelled: i64,
    /// Not begun in time.
    expired: i64,
    /// Were not to get anything any more.
    suppressed: i64,
}

impl From<store::Rejection> for Rejection {
    fn from(of: store::Rejection) -> Self {
        Self {
            reason: of.reason,
            recipients: of.recipients,
            example: of.example,
        }
    }
}

impl From<store::Campaign> for Campaign {
    fn from(of: store::Campaign) -> Self {
        let progress = of.progress;
        Self {
            id: of.id,
            tenant: of.tenant,
            name: of.name,
            state: of.state,
            note: of.note,
            start_at: of.start_at,
            expires_at: of.expires_at,
            rate_per_second: of.rate_per_second,
            canary: of.canary,
            canary_passed_at: of.canary_passed_at,
            failure_max: of.failure_max,
            needs_approval: of.needs_approval,
            approved_by: of.approved_by,
            source: of.source,
            audience: of.audience,
            created_by: of.created_by,
            created_at: of.created_at,
            started_at: of.started_at,
            ended_at: of.ended_at,
            progress: Progress {
                planned: progress.planned,
                planned_is: progress.planned_is,
                not_made: progress.not_made,
                duplicates: progress.duplicates,
                rejected: progress.rejected,
                scheduled: progress.scheduled,
                in_pipe: progress.in_pipe,
                running: progress.running,
                failed: progress.failed,
                held: progress.held,
                delivered: progress.delivered,
                dead: progress.dead,
                cancelled: progress.cancelled,
                expired: progress.expired,
                suppressed: progress.suppressed,
            },
            rejections: of.rejections.into_iter().map(Rejection::from).collect(),
        }
    }
}

/// One page of campaigns, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CampaignPage {
    items: Vec<Campaign>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Which campaigns to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CampaignsQuery {
    /// In this state.
    state: Option<String>,
    /// Items on the page, at most: 1 to 200, otherwise 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What a campaign would do, and has not done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CampaignPreview)]
pub(crate) struct Preview {
    /// Recipients that were handed in and could be read, or that its audience picks now. Null: counting
    /// them took longer than five seconds.
    #[schema(required = true)]
    recipients: Option<i64>,
    /// Those of its audience without an address on the channel, who get nothing. Null as `recipients` is.
    #[schema(required = true)]
    without_address: Option<i64>,
    /// The others by channel and language.
    parts: Vec<Part>,
    /// What they cost by the `cost` of their channels; null where one of them has none.
    #[schema(required = true, example = "90000.00")]
    cost: Option<String>,
    #[schema(required = true, example = "EUR")]
    currency: Option<String>,
    /// The first of them as they would go; of an audience, some.
    samples: Vec<Sample>,
    /// The rules of its audience; null if recipients are uploaded.
    #[schema(value_type = Option<Object>, required = true)]
    rules: Option<Box<RawValue>>,
    /// What is odd about them.
    warnings: Vec<Warning>,
}

/// Recipients of one channel and language.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Part {
    channel: String,
    language: String,
    recipients: u64,
}

/// One message as it would go.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sample {
    /// The key of a recipient of an audience; null of one that was uploaded.
    #[schema(required = true)]
    recipient: Option<String>,
    /// Empty where there is no address.
    to: String,
    channel: String,
    language: String,
    kind: String,
    queue: String,
    #[schema(value_type = serde_json::Value, required = true)]
    args: Option<Box<RawValue>>,
    /// When the recipient may be reached next, if not now.
    #[schema(required = true)]
    not_before: Option<Timestamp>,
    /// Why there is no message.
    #[schema(required = true)]
    error: Option<String>,
}

/// What to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreviewQuery {
    /// Messages to show, at most: 1 to 10, otherwise 3.
    #[param(minimum = 1, maximum = 10)]
    samples: Option<usize>,
}

impl From<CampaignSubmission> for Submission {
    fn from(of: CampaignSubmission) -> Self {
        let CampaignSubmission {
            name,
            tenant,
            content,
            audience,
            send_window,
            quiet_hours,
            timezone,
            region,
            start_at,
            expires_at,
            rate_per_second,
            canary_share,
            failure_max,
            needs_approval,
        } = of;
        Self {
            name,
            tenant,
            content,
            audience,
            send_window,
            quiet_hours,
            timezone,
            region,
            start_at,
            expires_at,
            rate_per_second,
            canary_share,
            failure_max,
            needs_approval,
        }
    }
}

impl From<draft::Preview> for Preview {
    fn from(of: draft::Preview) -> Self {
        let part = |of: draft::Part| Part {
            channel: of.channel,
            language: of.language,
            recipients: of.recipients,
        };
        let sample = |of: draft::Sample| Sample {
            recipient: of.recipient,
            to: of.to,
            channel: of.channel,
            language: of.language,
            kind: of.kind,
            queue: of.queue,
            args: of.args,
            not_before: of.not_before,
            error: of.error,
        };
        Self {
            recipients: of.recipients,
            without_address: of.without_address,
            parts: of.parts.into_iter().map(part).collect(),
            cost: of.cost,
            currency: of.currency,
            samples: of.samples.into_iter().map(sample).collect(),
            rules: of.rules,
            warnings: of.warnings.into_iter().map(Warning::from).collect(),
        }
    }
}

/// Makes a draft. Nothing is sent before it has recipients, or is for an audience, and is started.
#[utoipa::path(
    post, path = "/v1/campaigns", tag = "campaigns", operation_id = "create_campaign",
    params(CreateQuery), request_body = CampaignSubmission,
    responses(
        (status = 201, description = "The draft, or the campaign that runs", body = Campaign),
        (status = 400, description = "The body cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:write` is needed, and for an audience `audiences:read`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken; `errors` has all of them that are known", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer; at most a draft was made", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(_): State<App>,
    caller: Caller,
    Query(query): Query<CreateQuery>,
    Json(asked): Json<CampaignSubmission>,
) -> Result<(StatusCode, axum::Json<Campaign>), Problem> {
    caller.may(Permission::CampaignsWrite)?;
    if asked.audience.is_some() {
        // Rules can be asked of what is known of recipients, as a preview can.
        caller.may(Permission::AudiencesRead)?;
    } else if query.start {
        let what =
            "only a campaign for an audience can be started at once: the others have no recipients";
        return Err(Problem::parameter("start", what));
    }
    let mut asked = Submission::from(asked);
    // Fixed by now, like everything else that the campaign says.
    if let Some(settings) = owners_settings(&caller, asked.tenant.as_deref()).await? {
        asked.fall_back_on(settings.language.as_ref(), settings.timezone.as_deref());
    }
    let checked = asked.check(Timestamp::now()).map_err(|invalid| {
        // Of the first part in which anything is wrong: its name, its content, its hours, the rest.
        let problems = invalid.first_part().into_iter();
        Problem::all_of(problems.map(|one| (one.pointer, one.what)).collect())
    })?;
    let tenant = owner(&caller, asked.tenant.as_deref()).await?;
    let store = caller.store();
    let id = draft::create(&store, tenant, &asked, &checked).await?;
    if query.start {
        store.act_on_campaign(id, CampaignAction::Start).await?;
    }
    Ok((StatusCode::CREATED, find(&caller, id).await?))
}

/// Lists campaigns, newest first.
#[utoipa::path(
    get, path = "/v1/campaigns", tag = "campaigns", operation_id = "list_campaigns",
    params(CampaignsQuery),
    responses(
        (status = 200, description = "Campaigns and how far they are, newest first", body = CampaignPage),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    caller: Caller,
    Query(query): Query<CampaignsQuery>,
) -> Result<axum::Json<CampaignPage>, Problem> {
    caller.may(Permission::CampaignsRead)?;
    let limit = limit_of(query.limit)?;
    let state = query.state.as_deref();
    if state.is_some_and(|state| !CAMPAIGN_STATES.contains(&state)) {
        let what = format!("must be one of {}", CAMPAIGN_STATES.join(", "));
        return Err(Problem::parameter("state", what));
    }
    let before = query.cursor.as_deref().map(before).transpose()?;
    let found = caller.store().campaigns(state, before, limit).await?;
    let is_full = found.len() as i64 == limit;
    let last = found.last().filter(|_| is_full);
    Ok(axum::Json(CampaignPage {
        next_cursor: last.map(|one| one.id.to_string()),
        items: found.into_iter().map(Campaign::from).collect(),
    }))
}

/// Shows a campaign and how far it is.
#[utoipa::path(
    get, path = "/v1/campaigns/{id}", tag = "campaigns", operation_id = "get_campaign",
    params(("id" = String, Path, description = "The campaign's id")),
    responses(
        (status = 200, description = "The campaign", body = Campaign),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(caller: Caller, Path(id): Path) -> Result<axum::Json<Campaign>, Problem> {
    caller.may(Permission::CampaignsRead)?;
    find(&caller, id_or_none(&id)?).await
}

/// Says what a campaign would do: how many, at what cost, and the first messages. Nothing is sent.
#[utoipa::path(
    get, path = "/v1/campaigns/{id}/preview", tag = "campaigns", operation_id = "preview_campaign",
    params(("id" = String, Path, description = "The campaign's id"), PreviewQuery),
    responses(
        (status = 200, description = "What it would do", body = Preview),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `campaigns:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was made by a newer version, which this one cannot read", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Others are being counted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn preview(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path,
    Query(query): Query<PreviewQuery>,
) -> Result<axum::Json<Preview>, Problem> {
    caller.may(Permission::CampaignsRead)?;
    let samples = query.samples.unwrap_or(SAMPLES);
    if !(1..=SAMPLES_MAX).contains(&samples) {
        let what = format!("must be from 1 to {SAMPLES_MAX}");
        return Err(Problem::parameter("samples", what));
    }
    let id = id_or_none(&id)?;
    let texts = texts(&caller, id).await?;
    let _turn = match texts.audience {
        Some(_) => Some(turn(&app).await?),
        None => None,
    };
    let preview = draft::preview(&caller.store(), id, &texts, samples, Timestamp::now()).await?;
    Ok(axum::Json(preview.into()))
}

macro_rules! action {
    ($(#[$doc:meta])* $name:ident, $path:literal, $operation:literal, $action:ident, $conflict:literal) => {
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "campaigns", operation_id = $operation,
            params(("id" = String, Path, description = "The campaign's id")),
            responses(
                (status = 200, description = "It is so", body = Campaign),
                (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
                (status = 403, description = "The scope `campaigns:write` is needed", body = Problem, content_type = "application/problem+json"),
                (status = 404, description = "There is no such campaign", body = Problem, content_type = "application/problem+json"),
                (status = 409, description = $conflict, body = Problem, content_type = "application/problem+json"),
                (status = 503, description = "The database does not answer; look at the campaign", body = Problem, content_type = "application/problem+json"),
            )
        )]
        pub(crate) async fn $name(
            caller: Caller,
            Path(id): Path,
        ) -> Result<axum::Json<Campaign>, Problem> {
            act(&caller, &id, CampaignAction::$action).await
        }
    };
}

action!(
    /// Starts a draft that has recipients or an audience; or has it wait for approval, where it needs one.
    start, "/v1/campaigns/{id}/start", "start_campaign", Start,
    "It is no draft, has no recipients, or as many of the tenant are running as may"
);
action!(
    /// Approves of a campaign that somebody else has made: it runs.
    approve, "/v1/campaigns/{id}/approve", "approve_campaign", Approve,
    "It does not wait for approval, or was made by this very token"
);
action!(
    /// Starts nothing more of it from now on, also of what is in RabbitMQ. What runs ends.
    pause, "/v1/campaigns/{id}/pause", "pause_campaign", Pause, "It does not run"
);
action!(
    /// Goes on: after a pause, or after it was cancelled, and then what was cancelled comes back first.
    resume, "/v1/campaigns/{id}/resume", "resume_campaign", Resume,
    "It is neither paused nor cancelled, was never approved of, was paused or cancelled by an operator, or its recipients or the jobs that were cancelled are not kept any more"
);
action!(
    /// Starts nothing more of it from now on, and cancels what has not begun.
    cancel, "/v1/campaigns/{id}/cancel", "cancel_campaign", Cancel, "It has ended"
);

async fn act(
    caller: &Caller,
    id: &str,
    action: CampaignAction,
) -> Result<axum::Json<Campaign>, Problem> {
    caller.may(Permission::CampaignsWrite)?;
    let id = id_or_none(id)?;
    let acted = caller.store().act_on_campaign(id, action).await?;
    if acted == Acted::NotThere {
        return Err(Problem::not_found("campaign"));
    }
    let campaign = find(caller, id).await?;
    match acted {
        Acted::OwnCampaign => Err(Problem::conflict(
            "somebody else has to approve of it: another token than the one it was made by",
        )),
        Acted::NotNow
            if campaign.source == "upload"
                && campaign.progress.planned == Some(0)
                && action == CampaignAction::Start =>
        {
            Err(Problem::conflict(
                "the campaign has no recipients: PUT them to /v1/campaigns/{id}/recipients",
            ))
        }
        Acted::NotNow => Err(Problem::conflict(why_not(action, &campaign.state))),
        Acted::Done | Acted::NotThere => Ok(campaign),
    }
}

fn why_not(action: CampaignAction, state: &str) -> String {
    let why = match (action, state) {
        (CampaignAction::Start, "draft") => {
            ", and as many campaigns of the tenant are running as may"
        }
        (CampaignAction::Resume, "paused" | "cancelled") => {
            ", and cannot be gone on with: it was never approved of, only an operator may, or its \
             recipients are not kept any more"
        }
        _ => "",
    };
    format!("the campaign is {state}{why}")
}

pub(super) fn id_or_none(id: &str) -> Result<Uuid, Problem> {
    id_of(id).ok_or_else(|| Problem::not_found("campaign"))
}

async fn find(caller: &Caller, id: Uuid) -> Result<axum::Json<Campaign>, Problem> {
    let found = caller.store().find_campaign(id).await?;
    let campaign = found.ok_or_else(|| Problem::not_found("campaign"))?;
    Ok(axum::Json(Campaign::from(campaign)))
}

pub(super) async fn texts(caller: &Caller, id: Uuid) -> Result<CampaignTexts, Problem> {
    let found = caller.store().campaign_texts(id).await?;
    found.ok_or_else(|| Problem::not_found("campaign"))
}
