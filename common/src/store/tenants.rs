//! Tenants, as operators see and set them, and the secrets that sign their webhooks.
//!
//! A change and the row that says who made it are one statement: neither is there without the other.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::{Audited, Error, Store};

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
    pub disabled_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Whether its webhooks are signed by a secret of its own.
    pub has_webhook_secret: bool,
    /// Until when the secret before signs beside the present one.
    pub previous_secret_until: Option<Timestamp>,
}

/// What is set for a tenant. Empty fields stay as they are; an inner `None` takes the limit away.
#[derive(Clone, Copy, Debug, Default)]
pub struct TenantChange {
    /// Its share against other tenants.
    pub weight: Option<i32>,
    /// Jobs of it that may be unfinished.
    pub unfinished_max: Option<Option<i64>>,
    /// Jobs a second that each API process takes from it.
    pub submit_rate: Option<Option<i32>>,
}

/// What came of a change that may have been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is so now.
    Done,
    /// It was so before; nothing was written.
    Already,
    /// There is nothing of this name.
    NotThere,
}

/// Says in the audit log what was done to the rows of `changed`. $1 to $5 are the actor, the
/// action, the target, the request and the detail.
macro_rules! noted {
    () => {
        "noted as (
            insert into postroad.audit_log (actor, tenant_id, action, target, request_id, detail)
            select $1::text, changed.tenant_id, $2::text, $3::text, $4::text, $5::text::jsonb
            from changed)"
    };
}
pub(super) use noted;

const CREATE: &str = concat!(
    "with changed as (
        insert into postroad.tenant (name, weight, unfinished_max, submit_rate)
        values ($3::text, coalesce($6, 1), $7, $8)
        on conflict (name) do nothing
        returning id as tenant_id),
    ",
    noted!(),
    " select tenant_id from changed"
);

const TENANTS: &str = "
    select t.name, t.weight, t.unfinished_max, t.submit_rate, t.disabled_at, t.created_at,
           s.tenant_id is not null, case when s.previous_until > now() then s.previous_until end
    from postroad.tenant t left join postroad.tenant_secret s on s.tenant_id = t.id
    where ($1::text is null or t.name = $1) order by t.name";

const SET: &str = concat!(
    "with changed as (
        update postroad.tenant
        set weight = coalesce($6, weight),
            unfinished_max = case when $7 then $8 else unfinished_max end,
            submit_rate = case when $9 then $10 else submit_rate end
        where name = $3::text
        returning id as tenant_id),
    ",
    noted!(),
    " select tenant_id from changed"
);

const ENABLE: &str = concat!(
    "with changed as (
        update postroad.tenant set disabled_at = case when not $6 then now() end
        where name = $3::text and (disabled_at is null) <> $6
        returning id as tenant_id),
    ",
    noted!(),
    " select exists (select from changed) from postroad.tenant where name = $3::text"
);

/// Receivers that know only the secret before must take the new one at once.
const SET_SECRET: &str = concat!(
    "with changed as (
        insert into postroad.tenant_secret as s (tenant_id, webhook_secret)
        select id, $6::text from postroad.tenant where name = $3::text
        on conflict (tenant_id) do update
            set webhook_secret = excluded.webhook_secret, previous_secret = null,
                previous_until = null, updated_at = now()
        returning s.tenant_id),
    ",
    noted!(),
    " select tenant_id from changed"
);

const ROTATE_SECRET: &str = concat!(
    "with changed as (
        update postroad.tenant_secret s
        set webhook_secret = $6::text, previous_secret = s.webhook_secret,
            previous_until = now() + $7::float8 * interval '1 ms', updated_at = now()
        from postroad.tenant t
        where t.name = $3::text and s.tenant_id = t.id and s.webhook_secret <> $6::text
        returning s.tenant_id),
    ",
    noted!(),
    " select exists (select from changed), s.tenant_id is not null
      from postroad.tenant t left join postroad.tenant_secret s on s.tenant_id = t.id
      where t.name = $3::text"
);

const CLEAR_SECRET: &str = concat!(
    "with changed as (
        delete from postroad.tenant_secret s using postroad.tenant t
        where t.name = $3::text and s.tenant_id = t.id
        returning s.tenant_id),
    ",
    noted!(),
    " select exists (select from changed) from postroad.tenant where name = $3::text"
);

/// How long the secret before goes on signing beside a new one.
pub const SECRET_OVERLAP: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

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
    /// Adds a tenant, the audited target. False: it is there already, and stays as it is.
    pub async fn create_tenant(
        &self,
        settings: &TenantChange,
        audited: &Audited<'_>,
    ) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 3] = [
            &settings.weight,
            &settings.unfinished_max.flatten(),
            &settings.submit_rate.flatten(),
        ];
        let rows = self.change("creating a tenant", CREATE, audited, &params);
        Ok(!rows.await?.is_empty())
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
        };
        Ok(rows.iter().map(tenant).collect())
    }

    /// Sets the audited tenant. False: there is none of this name.
    pub async fn set_tenant(
        &self,
        change: &TenantChange,
        audited: &Audited<'_>,
    ) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 5] = [
            &change.weight,
            &change.unfinished_max.is_some(),
            &change.unfinished_max.flatten(),
            &change.submit_rate.is_some(),
            &change.submit_rate.flatten(),
        ];
        let rows = self.change("setting a tenant", SET, audited, &params);
        Ok(!rows.await?.is_empty())
    }

    /// Lets the tokens of the audited tenant be good, or refuses them. Its jobs go on.
    pub async fn enable_tenant(
        &self,
        is_enabled: bool,
        audited: &Audited<'_>,
    ) -> Result<Changed, Error> {
        let params: [&(dyn ToSql + Sync); 1] = [&is_enabled];
        let operation = "enabling or disabling a tenant";
        let rows = self.change(operation, ENABLE, audited, &params).await?;
        Ok(Changed::of(&rows))
    }

    /// Has this secret sign the webhooks of the audited tenant, and no other. False: there is no
    /// such tenant.
    pub async fn set_webhook_secret(
        &self,
        secret: &str,
        audited: &Audited<'_>,
    ) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 1] = [&secret];
        let operation = "setting a webhook secret";
        let rows = self.change(operation, SET_SECRET, audited, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Has this secret sign the webhooks of the audited tenant, and the one before for a while too.
    pub async fn rotate_webhook_secret(
        &self,
        secret: &str,
        audited: &Audited<'_>,
    ) -> Result<Rotated, Error> {
        let overlap = super::millis(SECRET_OVERLAP) as f64;
        let params: [&(dyn ToSql + Sync); 2] = [&secret, &overlap];
        let operation = "rotating a webhook secret";
        let rows = self
            .change(operation, ROTATE_SECRET, audited, &params)
            .await?;
        let Some(row) = rows.first() else {
            return Ok(Rotated::NotThere);
        };
        Ok(match (row.get(0), row.get(1)) {
            (true, _) => Rotated::Done,
            (false, true) => Rotated::Same,
            (false, false) => Rotated::NoSecret,
        })
    }

    /// Takes the secrets of the audited tenant away: the workers' own signs its webhooks.
    pub async fn clear_webhook_secret(&self, audited: &Audited<'_>) -> Result<Changed, Error> {
        let operation = "clearing a webhook secret";
        let rows = self.change(operation, CLEAR_SECRET, audited, &[]).await?;
        Ok(Changed::of(&rows))
    }

    /// A statement that makes a change and says in the audit log who did.
    pub(super) async fn change(
        &self,
        operation: &'static str,
        sql: &'static str,
        audited: &Audited<'_>,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        let detail = audited.detail.to_string().replace("\\u0000", "\\ufffd");
        let mut all: Vec<&(dyn ToSql + Sync)> = vec![
            &audited.actor,
            &audited.action,
            &audited.target,
            &audited.request_id,
            &detail,
        ];
        all.extend(params);
        self.query(operation, sql, &all).await
    }
}

impl Changed {
    /// Of one row that says whether something was changed, or none where there is nothing.
    pub(super) fn of(rows: &[tokio_postgres::Row]) -> Self {
        match rows.first().map(|row| row.get(0)) {
            Some(true) => Self::Done,
            Some(false) => Self::Already,
            None => Self::NotThere,
        }
    }
}
