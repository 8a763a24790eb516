//! Who is not to get anything any more. The start gate asks right before a job begins, so what is in
//! RabbitMQ by then is no exception.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::audit::{Change, Target};
use super::{Error, Store};

/// Recipients that are suppressed at once, at most.
pub const SUPPRESSED_AT_ONCE: usize = 1000;
/// The longest reason, in bytes.
pub const SUPPRESSION_REASON_BYTES_MAX: usize = 500;

/// A recipient that is suppressed.
#[derive(Clone, Debug, Serialize)]
pub struct Suppression {
    /// Whose recipient it is.
    pub tenant: String,
    /// The address, as campaigns have it.
    pub recipient: String,
    /// The kind of jobs; none: whatever the kind.
    pub kind: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// A kind that is not there ($2) suppresses nothing, and answers nothing.
const ADD: &str = "
    with kind as (
        select case when $2::text is null then 0
                    else (select id from postroad.kind where name = $2) end as id),
    added as (
        insert into postroad.suppression (tenant_id, recipient, kind_id, reason)
        select $1, u.recipient, kind.id, $4
        from unnest($3::text[]) as u(recipient), kind
        where kind.id is not null
        on conflict (tenant_id, recipient, kind_id) do nothing
        returning recipient)
    select kind.id is not null, (select count(*) from added) from kind";

const REMOVE: &str = "
    delete from postroad.suppression s
    where s.tenant_id = $1 and s.recipient = $3
      and s.kind_id = case when $2::text is null then 0
                           else (select id from postroad.kind where name = $2) end
    returning s.tenant_id";

const PAGE: &str = "
    select t.name, s.recipient, k.name, s.reason, s.created_at
    from postroad.suppression s
    join postroad.tenant t on t.id = s.tenant_id
    left join postroad.kind k on k.id = s.kind_id
    where s.tenant_id = $1 and ($2::text is null or (s.recipient, coalesce(k.name, '')) > ($2, $3))
      and ($4::text is null or s.recipient = $4)
    order by s.recipient, coalesce(k.name, '') limit $5";

impl Store {
    /// Suppresses recipients of a tenant; answers how many were not before. None: there is no such kind.
    pub async fn suppress(
        &self,
        tenant: i32,
        kind: Option<&str>,
        recipients: &[&str],
        reason: &str,
    ) -> Result<Option<i64>, Error> {
        let change = Change {
            operation: "suppressing recipients",
            sql: ADD,
            params: &[&tenant, &kind, &recipients, &reason],
            action: "suppression.add",
            detail: json!({"kind": kind, "recipients": recipients.len()}),
        };
        let target = |rows: &[Row]| -> Vec<Target> {
            let is_new = rows.first().is_some_and(|row| row.get::<_, i64>(1) > 0);
            let one = (Some(tenant), "recipients".to_owned());
            if is_new { vec![one] } else { Vec::new() }
        };
        let rows = self.change(change, target).await?;
        let row = &rows[0];
        Ok(row.get::<_, bool>(0).then(|| row.get(1)))
    }

    /// Takes a recipient off the list. False: it was not on it.
    pub async fn unsuppress(
        &self,
        tenant: i32,
        kind: Option<&str>,
        recipient: &str,
    ) -> Result<bool, Error> {
        let change = Change {
            operation: "taking a recipient off the list",
            sql: REMOVE,
            params: &[&tenant, &kind, &recipient],
            action: "suppression.remove",
            detail: json!({"kind": kind}),
        };
        let target = |rows: &[Row]| -> Vec<Target> {
            rows.iter()
                .map(|row| (Some(row.get(0)), "recipients".to_owned()))
                .collect()
        };
        Ok(!self.change(change, target).await?.is_empty())
    }

    /// Suppressed recipients of a tenant behind `after` (a recipient and a kind, or an empty text), or
    /// those of one recipient.
    pub async fn suppressions(
        &self,
        tenant: i32,
        after: Option<(&str, &str)>,
        recipient: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Suppression>, Error> {
        let (after, kind) = (after.map(|one| one.0), after.map(|one| one.1));
        let params: [&(dyn ToSql + Sync); 5] = [&tenant, &after, &kind, &recipient, &limit];
        let rows = self.query("reading suppressions", PAGE, &params).await?;
        let suppression = |row: &Row| Suppression {
            tenant: row.get(0),
            recipient: row.get(1),
            kind: row.get(2),
            reason: row.get(3),
            created_at: row.get(4),
        };
        Ok(rows.iter().map(suppression).collect())
    }
}
