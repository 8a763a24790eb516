//! Tokens, as operators make, see and revoke them. What a token's holder may do with it is looked up
//! in `tokens.rs`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::tenants::noted;
use super::{Audited, Changed, Error, Store, millis};
use crate::token::{Permission, Token};

/// A token, without what is secret of it.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRow {
    /// What it is called by; part of the token.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whose it is; none: an operator's.
    pub tenant: Option<String>,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// `good`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When somebody ended it.
    pub revoked_at: Option<Timestamp>,
    /// When it was used last, to about a minute.
    pub last_used_at: Option<Timestamp>,
}

/// A token to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// The token.
    pub token: &'a Token,
    /// Whose it is; none: an operator's.
    pub tenant: Option<&'a str>,
    /// What people call it.
    pub name: &'a str,
    /// What it may be used for.
    pub scopes: &'a [Permission],
    /// How long it is good for; none: until it is revoked.
    pub expires_in: Option<Duration>,
}

/// The target of the audit log's row is the token's id.
const CREATE: &str = concat!(
    "with changed as (
        insert into postroad.token (id, secret_hash, tenant_id, name, scopes, expires_at)
        select $3::text, $6::bytea, t.id, $8::text, $9::text[], now() + $10::float8 * interval '1 ms'
        from (select 1) one left join postroad.tenant t on t.name = $7::text
        where $7::text is null or t.id is not null
        returning tenant_id),
    ",
    noted!(),
    " select from changed"
);

const TOKENS: &str = "
    select k.id, k.name, t.name, k.scopes,
           case when k.revoked_at is not null then 'revoked'
                when k.expires_at <= now() then 'expired' else 'good' end,
           k.created_at, k.expires_at, k.revoked_at, k.last_used_at
    from postroad.token k left join postroad.tenant t on t.id = k.tenant_id
    where ($1::text is null or t.name = $1) and (not $2 or k.tenant_id is null)
    order by k.created_at, k.id";

const REVOKE: &str = concat!(
    "with changed as (
        update postroad.token set revoked_at = now()
        where id = $3::text and revoked_at is null
        returning tenant_id),
    ",
    noted!(),
    " select exists (select from changed) from postroad.token where id = $3::text"
);

impl Store {
    /// Keeps a new token, whose id is the audited target. False: there is no such tenant.
    pub async fn create_token(
        &self,
        new: &NewToken<'_>,
        audited: &Audited<'_>,
    ) -> Result<bool, Error> {
        let hash = new.token.secret_hash().to_vec();
        let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
        let expires_in = new.expires_in.map(|time| millis(time) as f64);
        let params: [&(dyn ToSql + Sync); 5] =
            [&hash, &new.tenant, &new.name, &scopes, &expires_in];
        let rows = self.change("creating a token", CREATE, audited, &params);
        Ok(!rows.await?.is_empty())
    }

    /// All tokens, oldest first; of one tenant, or only the operators'.
    pub async fn tokens(
        &self,
        tenant: Option<&str>,
        only_operators: bool,
    ) -> Result<Vec<TokenRow>, Error> {
        let rows = self
            .query("reading tokens", TOKENS, &[&tenant, &only_operators])
            .await?;
        let token = |row: &tokio_postgres::Row| TokenRow {
            id: row.get(0),
            name: row.get(1),
            tenant: row.get(2),
            scopes: row.get(3),
            state: row.get(4),
            created_at: row.get(5),
            expires_at: row.get(6),
            revoked_at: row.get(7),
            last_used_at: row.get(8),
        };
        Ok(rows.iter().map(token).collect())
    }

    /// Ends the audited token, for good.
    pub async fn revoke_token(&self, audited: &Audited<'_>) -> Result<Changed, Error> {
        let rows = self
            .change("revoking a token", REVOKE, audited, &[])
            .await?;
        Ok(Changed::of(&rows))
    }
}
