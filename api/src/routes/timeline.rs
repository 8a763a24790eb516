//! Timelines: what one recipient is shown, newest first, and what of it has been read.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use postroad_common::audience::Recipient;
use postroad_common::timeline::{Asked, Item, Position, Source, page};
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::announcements::Message;
use super::{LIMIT_MAX, Whose, limit_of, tenant_of};
use crate::App;
use crate::auth::Caller;
use crate::body::{Json, Path, Query};
use crate::problem::Problem;

/// Something that a recipient is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TimelineItem<'a> {
    /// Of an announcement, or of the job that made it.
    id: Uuid,
    /// `announcement`: for all whom its rules pick. `personal`: for this recipient alone.
    #[schema(example = "announcement")]
    source: &'static str,
    /// Since when it is shown.
    at: Timestamp,
    /// Until when.
    ends_at: Timestamp,
    read: bool,
    /// The language that it is in; null where a personal one does not say.
    #[schema(required = true)]
    language: Option<&'a str>,
    #[schema(value_type = Message)]
    message: &'a RawValue,
}

impl<'a> From<Item<'a>> for TimelineItem<'a> {
    fn from(item: Item<'a>) -> Self {
        Self {
            id: item.id,
            source: match item.source {
                Source::Announcement => "announcement",
                Source::Personal => "personal",
            },
            at: item.at,
            ends_at: item.ends_at,
            read: item.read,
            language: item.language,
            message: item.message,
        }
    }
}

/// A page of a timeline, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timeline<'a> {
    items: Vec<TimelineItem<'a>>,
    /// Items on all pages that are not read; 100 is a hundred or more.
    #[schema(maximum = 100)]
    unread: usize,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// Which page of a timeline.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TimelineQuery {
    /// The tenant, for operators; `default` unless said.
    tenant: Option<String>,
    /// Only what is not read.
    #[serde(default)]
    unread: bool,
    /// Items on the page: 1 to 200, 50 unless said.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What has been read: `ids`, or everything `up_to` an item.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadInput {
    /// Up to 200 ids of items. What is none is passed over.
    #[schema(max_items = 200)]
    ids: Option<Vec<Uuid>>,
    /// The id of an item: it is read, and all that is older.
    up_to: Option<Uuid>,
}

/// What is left.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Unread {
    /// Items that are not read; 100 is a hundred or more.
    #[schema(maximum = 100)]
    unread: usize,
}

/// What a recipient is shown now, newest first: announcements for it and what was made for it alone.
///
/// Newer items that come while somebody turns pages move nothing on the next ones. Of a recipient
/// that was never put nothing is known: it is shown what is for everybody.
#[utoipa::path(
    get, path = "/v1/timeline/{recipient}", tag = "timeline", operation_id = "get_timeline",
    params(("recipient" = String, Path, description = "What the tenant calls it"), TimelineQuery),
    responses(
        (status = 200, description = "A page", body = Timeline),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `timeline:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody can be called so", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(recipient): Path,
    Query(query): Query<TimelineQuery>,
) -> Result<Response, Problem> {
    caller.may(Permission::TimelineRead)?;
    let limit = limit_of(query.limit)?;
    let before = query.cursor.as_deref().map(|cursor| {
        let rule = "must be the next_cursor of a page";
        Position::of_cursor(cursor).ok_or_else(|| Problem::parameter("cursor", rule))
    });
    let asked = Asked {
        limit: limit as usize,
        before: before.transpose()?,
        is_unread: query.unread,
    };
    let tenant = tenant_of(&caller, query.tenant.as_deref()).await?;
    let recipient = named(&recipient)?;
    look(&app, &caller, tenant, recipient, asked, |page| {
        axum::Json(page).into_response()
    })
    .await
}

/// Marks as read: some items, or everything up to one. What is marked stays so; asked for again, it
/// is the same.
#[utoipa::path(
    post, path = "/v1/timeline/{recipient}/read", tag = "timeline", operation_id = "mark_read",
    params(("recipient" = String, Path, description = "What the tenant calls it"), Whose),
    request_body = ReadInput,
    responses(
        (status = 200, description = "What is left", body = Unread),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `timeline:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody can be called so", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken, or there is no item to mark up to", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(recipient): Path,
    Query(whose): Query<Whose>,
    Json(input): Json<ReadInput>,
) -> Result<axum::Json<Unread>, Problem> {
    caller.may(Permission::TimelineWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let recipient = named(&recipient)?;
    let store = caller.store();
    match (input.ids, input.up_to) {
        (Some(ids), None) if (1..=LIMIT_MAX as usize).contains(&ids.len()) => {
            store.mark_read(tenant, recipient, &ids).await?;
        }
        (Some(_), None) => {
            let rule = format!("must be 1 to {LIMIT_MAX} ids");
            return Err(Problem::invalid("/ids", rule));
        }
        (None, Some(id)) => {
            if !store.mark_read_to(tenant, recipient, id).await? {
                let rule = "there is no such item";
                return Err(Problem::invalid("/up_to", rule));
            }
        }
        (None, None) => return Err(Problem::invalid("", "ids or up_to is required")),
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "/up_to",
                "must be left out where there are ids",
            ));
        }
    }
    let nothing = Asked {
        limit: 0,
        before: None,
        is_unread: false,
    };
    look(&app, &caller, tenant, recipient, nothing, |page| {
        axum::Json(Unread {
            unread: page.unread,
        })
    })
    .await
}

/// Looks at a timeline, and makes an answer of what is seen.
async fn look<T>(
    app: &App,
    caller: &Caller,
    tenant: i32,
    recipient: &str,
    asked: Asked,
    answer: impl FnOnce(Timeline<'_>) -> T,
) -> Result<T, Problem> {
    let store = caller.store();
    let glance = store.glance(tenant, recipient, asked).await?;
    let announcements = app.shown.of(&store, tenant, glance.version).await?;
    let page = page(&glance, &announcements, asked);
    Ok(answer(Timeline {
        items: page.items.into_iter().map(TimelineItem::from).collect(),
        unread: page.unread,
        next_cursor: page.next.map(|position| position.to_string()),
    }))
}

/// A key that a recipient may have, be it put or not.
fn named(recipient: &str) -> Result<&str, Problem> {
    match Recipient::is_key(recipient) {
        true => Ok(recipient),
        false => Err(Problem::not_found("recipient")),
    }
}
