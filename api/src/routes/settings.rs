//! What is set for a tenant: what it may set itself, and what operators grant it.

use std::time::Duration;

use postroad_common::config::parse_duration;
use postroad_common::store::{SettingsRow, TenantChange};
use postroad_common::token::Permission;
use postroad_common::zone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schedules::given;
use super::{Whose, tenant_of};
use crate::auth::Caller;
use crate::body::{Json, Query};
use crate::problem::Problem;

/// What is set for a tenant. Null: nothing is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Settings {
    tenant: String,
    /// The language of its campaigns that name none: a tag by BCP 47.
    #[schema(required = true, example = "fr")]
    language: Option<String>,
    /// The time zone of its campaigns and schedules that name none, instead of UTC.
    #[schema(required = true, example = "Europe/Paris")]
    timezone: Option<String>,
    /// Who its text messages are from.
    #[schema(required = true, example = "ACME")]
    sms_sender: Option<String>,
    /// The priority of its jobs that say none.
    #[schema(required = true)]
    default_priority: Option<i16>,
    /// The attempts of its jobs that say none.
    #[schema(required = true)]
    default_max_attempts: Option<i32>,
    /// How long after they are due its jobs that do not say are pointless.
    #[schema(required = true)]
    default_expires_after_seconds: Option<f64>,
    /// Its share of a queue while others have due jobs, too. Set by operators.
    weight: i32,
    /// How many of its jobs may be unfinished before more are refused. Set by operators.
    #[schema(required = true)]
    unfinished_max: Option<i64>,
    /// How many jobs a second each API process takes from it. Set by operators.
    #[schema(required = true)]
    submit_rate: Option<i32>,
    /// Jobs of it in each queue that may be between dispatch and end at once. Set by operators.
    #[schema(required = true)]
    in_pipe_max: Option<i32>,
    /// Jobs of it that may be dispatched in a second, of all queues. Set by operators.
    #[schema(required = true)]
    rate_per_second: Option<i32>,
}

impl From<SettingsRow> for Settings {
    fn from(row: SettingsRow) -> Self {
        Self {
            tenant: row.name,
            language: row.language,
            timezone: row.timezone,
            sms_sender: row.sms_sender,
            default_priority: row.default_priority,
            default_max_attempts: row.default_max_attempts,
            default_expires_after_seconds: row.default_expires_after_seconds,
            weight: row.weight,
            unfinished_max: row.unfinished_max,
            submit_rate: row.submit_rate,
            in_pipe_max: row.in_pipe_max,
            rate_per_second: row.rate_per_second,
        }
    }
}

/// What is to be set. What is left out stays as it is, and null takes a setting away.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    /// A tag by BCP 47.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "fr", max_length = 35)]
    language: Option<Option<String>>,
    /// `UTC`, or a name of the IANA database with its area.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "Europe/Paris", max_length = 100)]
    timezone: Option<Option<String>>,
    /// 1 to 11 letters and digits, at least one of them a letter, or a phone number in E.164.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "ACME", max_length = 16)]
    sms_sender: Option<Option<String>>,
    /// 0 first to 3 last.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i16>, minimum = 0, maximum = 3)]
    default_priority: Option<Option<i16>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1000)]
    default_max_attempts: Option<Option<i32>>,
    /// From `1s` to `366d`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, example = "1d", pattern = "^[0-9]+(ms|s|m|h|d)$")]
    default_expires_after: Option<Option<String>>,
    /// For operators: 1 to 1,000.
    #[schema(minimum = 1, maximum = 1000)]
    weight: Option<i32>,
    /// For operators: 0 to 1,000,000,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000_000)]
    unfinished_max: Option<Option<i64>>,
    /// For operators: 1 to 1,000,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1_000_000)]
    submit_rate: Option<Option<i32>>,
    /// For operators: 1 to 100,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 100_000)]
    in_pipe_max: Option<Option<i32>>,
    /// For operators: 1 to 1,000,000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 1_000_000)]
    rate_per_second: Option<Option<i32>>,
}

/// What is wrong with a patch, as it is found.
#[derive(Default)]
struct Wrong(Vec<(String, String)>);

impl Wrong {
    fn add(&mut self, field: &str, what: impl Into<String>) {
        self.0.push((format!("/{field}"), what.into()));
    }

    /// What is given, read: an inner none takes the setting away.
    fn read<T, E: ToString>(
        &mut self,
        field: &str,
        given: Option<Option<String>>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        let text = match given? {
            Some(text) => text,
            None => return Some(None),
        };
        let read = read(&text);
        read.map_err(|error| self.add(field, error.to_string()))
            .ok()
            .map(Some)
    }

    fn check<T: PartialOrd + std::fmt::Display>(
        &mut self,
        field: &str,
        given: Option<T>,
        (least, most): (T, T),
    ) {
        if given.is_some_and(|value| value < least || value > most) {
            self.add(field, format!("must be from {least} to {most}"));
        }
    }
}

const EXPIRES_AFTER: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 60 * 60);

impl SettingsPatch {
    /// Everything that is wrong is told at once.
    fn read(self, is_operators: bool) -> Result<TenantChange, Problem> {
        let mut wrong = Wrong::default();
        let limits = [
            ("weight", self.weight.is_some()),
            ("unfinished_max", self.unfinished_max.is_some()),
            ("submit_rate", self.submit_rate.is_some()),
            ("in_pipe_max", self.in_pipe_max.is_some()),
            ("rate_per_second", self.rate_per_second.is_some()),
        ];
        for (field, _) in limits
            .iter()
            .filter(|(_, is_given)| *is_given && !is_operators)
        {
            wrong.add(field, "is set by operators");
        }
        if is_operators {
            wrong.check("weight", self.weight, (1, 1000));
            wrong.check(
                "unfinished_max",
                self.unfinished_max.flatten(),
                (0, 1_000_000_000),
            );
            wrong.check("submit_rate", self.submit_rate.flatten(), (1, 1_000_000));
            wrong.check("in_pipe_max", self.in_pipe_max.flatten(), (1, 100_000));
            let rate = self.rate_per_second.flatten();
            wrong.check("rate_per_second", rate, (1, 1_000_000));
        }
        wrong.check("default_priority", self.default_priority.flatten(), (0, 3));
        wrong.check(
            "default_max_attempts",
            self.default_max_attempts.flatten(),
            (1, 1000),
        );
        let expires_after = |text: &str| {
            let after = parse_duration(text).filter(|after| EXPIRES_AFTER.contains(after));
            after.ok_or("must be a duration from 1s to 366d")
        };
        let zone = |name: &str| {
            let found = zone::find(name).map(|_| name.to_owned());
            found.ok_or(zone::RULE)
        };
        let change = TenantChange {
            weight: self.weight,
            unfinished_max: self.unfinished_max,
            submit_rate: self.submit_rate,
            in_pipe_max: self.in_pipe_max,
            rate_per_second: self.rate_per_second,
            default_priority: self.default_priority,
            default_max_attempts: self.default_max_attempts,
            default_expires_after: wrong.read(
                "default_expires_after",
                self.default_expires_after,
                expires_after,
            ),
            language: wrong.read("language", self.language, str::parse),
            timezone: wrong.read("timezone", self.timezone, zone),
            sms_sender: wrong.read("sms_sender", self.sms_sender, str::parse),
        };
        match wrong.0.is_empty() {
            true => Ok(change),
            false => Err(Problem::all_of(wrong.0)),
        }
    }
}

/// Shows what is set for a tenant.
#[utoipa::path(
    get, path = "/v1/settings", tag = "settings", operation_id = "get_settings",
    params(Whose),
    responses(
        (status = 200, description = "What is set", body = Settings),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `settings:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Query(whose): Query<Whose>,
) -> Result<axum::Json<Settings>, Problem> {
    caller.may(Permission::SettingsRead)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    Ok(axum::Json(find(&caller, tenant).await?.into()))
}

/// Sets what is given, and leaves the rest. In force everywhere within a second.
///
/// A tenant's token sets what is the tenant's own; `weight`, `unfinished_max`, `submit_rate`,
/// `in_pipe_max` and `rate_per_second` are for operators.
#[utoipa::path(
    patch, path = "/v1/settings", tag = "settings", operation_id = "set_settings",
    params(Whose),
    request_body = SettingsPatch,
    responses(
        (status = 200, description = "What is set now", body = Settings),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `settings:write` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A value cannot be taken, or is for operators; `errors` has all of them", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set(
    caller: Caller,
    Query(whose): Query<Whose>,
    Json(patch): Json<SettingsPatch>,
) -> Result<axum::Json<Settings>, Problem> {
    caller.may(Permission::SettingsWrite)?;
    let tenant = tenant_of(&caller, whose.tenant.as_deref()).await?;
    let is_operators = caller.scope().tenant_id().is_none();
    let change = patch.read(is_operators)?;
    let before = find(&caller, tenant).await?;
    if change == TenantChange::default() {
        return Ok(axum::Json(before.into()));
    }
    caller.store().set_tenant(&before.name, &change).await?;
    Ok(axum::Json(find(&caller, tenant).await?.into()))
}

/// The row itself, and not what is kept of it: whoever has changed it is shown the change.
async fn find(caller: &Caller, tenant: i32) -> Result<SettingsRow, Problem> {
    let found = caller.store().settings_row(tenant).await?;
    found.ok_or_else(|| Problem::not_found("tenant"))
}
