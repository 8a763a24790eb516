//! Tenants, as operators see and set them, and the secrets that sign their webhooks.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::json;
use tokio_postgres::types::ToSql;

use super::audit::{Change, if_so};
use super::{Changed, Error, Store, millis};
use crate::language::Language;
use crate::sender::SmsSender;
use crate::settings::TenantSettings;
use crate::zone;

/// A tenant and what is set for it.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct TenantRow {
    pub name: String,
    pub weight: i32,
    pub unfinished_max: Option<i64>,
    pub submit_rate: Option<i32>,
    pub default_priority: Option<i16>,
    pub default_max_attempts: Option<i32>,
    pub default_expires_after_seconds: Option<f64>,
    pub in_pipe_max: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub language: Option<String>,
    pub timezone: Option<String>,
    pub sms_sender: Option<String>,
    pub disabled_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Whether its webhooks are signed by a secret of its own.
    pub has_webhook_secret: bool,
    /// Until when the secret before signs beside the present one.
    pub previous_secret_until: Option<Timestamp>,
}

/// What is set for a tenant, without what only workers and operators may know.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct SettingsRow {
    pub name: String,
    pub language: Option<String>,
    pub timezone: Option<String>,
    pub sms_sender: Option<String>,
    pub default_priority: Option<i16>,
    pub default_max_attempts: Option<i32>,
    pub default_expires_after_seconds: Option<f64>,
    pub weight: i32,
    pub unfinished_max: Option<i64>,
    pub submit_rate: Option<i32>,
    pub in_pipe_max: Option<i32>,
    pub rate_per_second: Option<i32>,
}

/// What is set for a tenant. Empty fields stay as they are; an inner `None` takes the limit or the
/// default away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TenantChange {
    /// Its share against other tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Jobs of it that may be unfinished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_max: Option<Option<i64>>,
    /// Jobs a second that each API process takes from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submit_rate: Option<Option<i32>>,
    /// The priority of its jobs that say none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_priority: Option<Option<i16>>,
    /// The attempts of its jobs that say none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_attempts: Option<Option<i32>>,
    /// How long after they are due its jobs that do not say are pointless.
    #[serde(
        rename = "default_expires_after_seconds",
        serialize_with = "seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub default_expires_after: Option<Option<Duration>>,
    /// Jobs of it in each queue that may be between the claim and the finish line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_pipe_max: Option<Option<i32>>,
    /// Jobs of it that may enter the pipe in a second, of all queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<Option<i32>>,
    /// The language of its campaigns that name none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub language: Option<Option<Language>>,
    /// The time zone of its campaigns and schedules that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<Option<String>>,
    /// Who its text messages are from.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub sms_sender: Option<Option<SmsSender>>,
}

impl TenantChange {
    fn default_expires_after_millis(&self) -> Option<f64> {
        let after = self.default_expires_after.flatten();
        after.map(|after| millis(after) as f64)
    }
}

fn seconds<S: Serializer>(
    time: &Option<Option<Duration>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let seconds = time.flatten().map(|time| time.as_secs_f64());
    seconds.serialize(serializer)
}

fn text<T: ToString, S: Serializer>(
    value: &Option<Option<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = value.as_ref().and_then(Option::as_ref);
    text.map(ToString::to_string).serialize(serializer)
}

/// What is given as the database takes it; what is not and what is taken away are null.
fn given<T>(value: &Option<Option<T>>, as_str: impl Fn(&T) -> &str) -> Option<&str> {
    value.as_ref()?.as_ref().map(as_str)
}

const CREATE: &str = "
    insert into postroad.tenant
        (name, weight, unfinished_max, submit_rate, default_priority, default_max_attempts,
         default_expires_after, in_pipe_max, rate_per_second, language, timezone, sms_sender)
    values ($1, coalesce($2, 1), $3, $4, $5, $6, $7::float8 * interval '1 ms', $8, $9, $10, $11, $12)
    on conflict (name) do nothing
    returning true, id";

const TENANTS: &str = "
    select t.name, t.weight, t.unfinished_max, t.submit_rate, t.disabled_at, t.created_at,
           s.tenant_id is not null, case when s.previous_until > now() then s.previous_until end,
           t.default_priority, t.default_max_attempts,
           extract(epoch from t.default_expires_after)::double precision,
           t.in_pipe_max, t.rate_per_second, t.language, t.timezone, t.sms_sender
    from postroad.tenant t left join postroad.tenant_secret s on s.tenant_id = t.id
    where ($1::text is null or t.name = $1) order by t.name";

const SET: &str = "
    update postroad.tenant
    set weight = coalesce($2, weight),
        unfinished_max = case when $3 then $4 else unfinished_max end,
        submit_rate = case when $5 then $6 else submit_rate end,
        default_priority = case when $7 then $8 else default_priority end,
        default_max_attempts = case when $9 then $10 else default_max_attempts end,
        default_expires_after = case when $11 then $12::float8 * interval '1 ms'
                                     else default_expires_after end,
        in_pipe_max = case when $13 then $14 else in_pipe_max end,
        rate_per_second = case when $15 then $16 else rate_per_second end,
        language = case when $17 then $18 else language end,
        timezone = case when $19 then $20 else timezone end,
        sms_sender = case when $21 then $22 else sms_sender end
    where name = $1 and ($23::int is null or id = $23)
    returning true, id";

const SETTINGS_ROW: &str = "
    select name, language, timezone, sms_sender, default_priority, default_max_attempts,
           extract(epoch from default_expires_after)::double precision, weight, unfinished_max,
           submit_rate, in_pipe_max, rate_per_second
    from postroad.tenant where id = $1 and ($2::int is null or id = $2)";

const SETTINGS: &str = "
    select id, language, timezone, sms_sender, submit_rate, unfinished_max
    from postroad.tenant where name = $1";

const ENABLE: &str = "
    with changed as (
        update postroad.tenant set disabled_at = case when not $2 then now() end
        where name = $1 and (disabled_at is null) <> $2
        returning id)
    select exists (select from changed), id from postroad.tenant where name = $1";

/// Receivers that know only the secret before must take the new one at once.
const SET_SECRET: &str = "
    insert into postroad.tenant_secret as s (tenant_id, webhook_secret)
    select id, $2 from postroad.tenant where name = $1
    on conflict (tenant_id) do update
        set webhook_secret = excluded.webhook_secret, previous_secret = null,
            previous_until = null, updated_at = now()
    returning true, s.tenant_id";

const ROTATE_SECRET: &str = "
    with changed as (
        update postroad.tenant_secret s
        set webhook_secret = $2, previous_secret = s.webhook_secret,
            previous_until = now() + $3::float8 * interval '1 ms', updated_at = now()
        from postroad.tenant t
        where t.name = $1 and s.tenant_id = t.id and s.webhook_secret <> $2
        returning s.tenant_id)
    select exists (select from changed), t.id, s.tenant_id is not null
    from postroad.tenant t left join postroad.tenant_secret s on s.tenant_id = t.id
    where t.name = $1";

const CLEAR_SECRET: &str = "
    with changed as (
        delete from postroad.tenant_secret s using postroad.tenant t
        where t.name = $1 and s.tenant_id = t.id
        returning s.tenant_id)
    select exists (select from changed), id from postroad.tenant where name = $1";

/// How long the secret before goes on signing beside a new one.
pub const SECRET_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

/// What came of asking for another secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The new one signs, the one before beside it for [`SECRET_OVERLAP`].
    Done,
    /// It is the one that signs already.
    Same,
    /// The tenant has none that could be replaced.
    NoSecret,
    /// There is no such tenant.
    NotThere,
}

impl Store {
    /// Adds a tenant. False: it is there already, and stays as it is.
    pub async fn create_tenant(&self, name: &str, settings: &TenantChange) -> Result<bool, Error> {
        let change = Change {
            operation: "creating a tenant",
            sql: CREATE,
            params: &[
                &name,
                &settings.weight,
                &settings.unfinished_max.flatten(),
                &settings.submit_rate.flatten(),
                &settings.default_priority.flatten(),
                &settings.default_max_attempts.flatten(),
                &settings.default_expires_after_millis(),
                &settings.in_pipe_max.flatten(),
                &settings.rate_per_second.flatten(),
                &given(&settings.language, Language::as_str),
                &given(&settings.timezone, String::as_str),
                &given(&settings.sms_sender, SmsSender::as_str),
            ],
            action: "tenant.create",
            detail: json!(settings),
        };
        Ok(!self.change(change, if_so(name)).await?.is_empty())
    }

    /// All tenants, or the one of this name.
    pub async fn tenants(&self, name: Option<&str>) -> Result<Vec<TenantRow>, Error> {
        let rows = self.query("reading tenants", TENANTS, &[&name]).await?;
        let tenant = |row: &tokio_postgres::Row| TenantRow {
            name: row.get(0),
            weight: row.get(1),
            unfinished_max: row.get(2),
            submit_rate: row.get(3),
            disabled_at: row.get(4),
            created_at: row.get(5),
            has_webhook_secret: row.get(6),
            previous_secret_until: row.get(7),
            default_priority: row.get(8),
            default_max_attempts: row.get(9),
            default_expires_after_seconds: row.get(10),
            in_pipe_max: row.get(11),
            rate_per_second: row.get(12),
            language: row.get(13),
            timezone: row.get(14),
            sms_sender: row.get(15),
        };
        Ok(rows.iter().map(tenant).collect())
    }

    /// What is set for a tenant, for people. None: there is no such tenant, or it is another one than
    /// this store's.
    pub async fn settings_row(&self, tenant: i32) -> Result<Option<SettingsRow>, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&tenant, &self.tenant_id()];
        let rows = self
            .query("reading a tenant's settings", SETTINGS_ROW, &params)
            .await?;
        Ok(rows.first().map(|row| SettingsRow {
            name: row.get(0),
            language: row.get(1),
            timezone: row.get(2),
            sms_sender: row.get(3),
            default_priority: row.get(4),
            default_max_attempts: row.get(5),
            default_expires_after_seconds: row.get(6),
            weight: row.get(7),
            unfinished_max: row.get(8),
            submit_rate: row.get(9),
            in_pipe_max: row.get(10),
            rate_per_second: row.get(11),
        }))
    }

    /// What is set for a tenant, for [`crate::settings::Tenants`], which asks for everybody.
    pub(crate) async fn tenant_settings(
        &self,
        name: &str,
    ) -> Result<Option<TenantSettings>, Error> {
        let rows = self
            .query("reading a tenant's settings", SETTINGS, &[&name])
            .await?;
        Ok(rows.first().map(|row| {
            let text = |column| row.get::<_, Option<&str>>(column);
            TenantSettings {
                id: row.get(0),
                language: text(1).and_then(|tag| tag.parse().ok()),
                timezone: text(2)
                    .filter(|name| zone::find(name).is_some())
                    .map(str::to_owned),
                sms_sender: text(3).and_then(|sender| sender.parse().ok()),
                submit_rate: row
                    .get::<_, Option<i32>>(4)
                    .and_then(|rate| u32::try_from(rate).ok()),
                unfinished_max: row
                    .get::<_, Option<i64>>(5)
                    .and_then(|most| u64::try_from(most).ok()),
            }
        }))
    }

    /// Sets a tenant. False: there is none of this name, or it is another one than this store's.
    pub async fn set_tenant(&self, name: &str, settings: &TenantChange) -> Result<bool, Error> {
        let change = Change {
            operation: "setting a tenant",
            sql: SET,
            params: &[
                &name,
                &settings.weight,
                &settings.unfinished_max.is_some(),
                &settings.unfinished_max.flatten(),
                &settings.submit_rate.is_some(),
                &settings.submit_rate.flatten(),
                &settings.default_priority.is_some(),
                &settings.default_priority.flatten(),
                &settings.default_max_attempts.is_some(),
                &settings.default_max_attempts.flatten(),
                &settings.default_expires_after.is_some(),
                &settings.default_expires_after_millis(),
                &settings.in_pipe_max.is_some(),
                &settings.in_pipe_max.flatten(),
                &settings.rate_per_second.is_some(),
                &settings.rate_per_second.flatten(),
                &settings.language.is_some(),
                &given(&settings.language, Language::as_str),
                &settings.timezone.is_some(),
                &given(&settings.timezone, String::as_str),
                &settings.sms_sender.is_some(),
                &given(&settings.sms_sender, SmsSender::as_str),
                &self.tenant_id(),
            ],
            action: "tenant.set",
            detail: json!(settings),
        };
        Ok(!self.change(change, if_so(name)).await?.is_empty())
    }

    /// Lets the tokens of a tenant be good, or refuses them. Its jobs go on.
    pub async fn enable_tenant(&self, name: &str, is_enabled: bool) -> Result<Changed, Error> {
        let change = Change {
            operation: "enabling or disabling a tenant",
            sql: ENABLE,
            params: &[&name, &is_enabled],
            action: match is_enabled {
                true => "tenant.enable",
                false => "tenant.disable",
            },
            detail: json!({}),
        };
        Ok(Changed::of(&self.change(change, if_so(name)).await?))
    }

    /// Has this secret sign the webhooks of a tenant, and no other. False: there is no such tenant.
    pub async fn set_webhook_secret(&self, name: &str, secret: &str) -> Result<bool, Error> {
        let change = Change {
            operation: "setting a webhook secret",
            sql: SET_SECRET,
            params: &[&name, &secret],
            action: "tenant.secret.set",
            detail: json!({}),
        };
        Ok(!self.change(change, if_so(name)).await?.is_empty())
    }

    /// Has this secret sign the webhooks of a tenant, and the one before for a while too.
    pub async fn rotate_webhook_secret(&self, name: &str, secret: &str) -> Result<Rotated, Error> {
        let change = Change {
            operation: "rotating a webhook secret",
            sql: ROTATE_SECRET,
            params: &[&name, &secret, &(millis(SECRET_OVERLAP) as f64)],
            action: "tenant.secret.rotate",
            detail: json!({}),
        };
        let rows = self.change(change, if_so(name)).await?;
        let Some(row) = rows.first() else {
            return Ok(Rotated::NotThere);
        };
        Ok(match (row.get(0), row.get(2)) {
            (true, _) => Rotated::Done,
            (false, true) => Rotated::Same,
            (false, false) => Rotated::NoSecret,
        })
    }

    /// Takes the secrets of a tenant away: the workers' own signs its webhooks.
    pub async fn clear_webhook_secret(&self, name: &str) -> Result<Changed, Error> {
        let change = Change {
            operation: "clearing a webhook secret",
            sql: CLEAR_SECRET,
            params: &[&name],
            action: "tenant.secret.clear",
            detail: json!({}),
        };
        Ok(Changed::of(&self.change(change, if_so(name)).await?))
    }
}
