//! Tokens, as operators make, see and revoke them. What a token's holder may do with it is looked up
//! in `tokens.rs`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::audit::{Change, if_so};
use super::{Changed, Error, Store, millis};
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

const CREATE: &str = "
    insert into postroad.token (id, secret_hash, tenant_id, name, scopes, expires_at)
    select $1, $2, t.id, $4, $5, now() + $6::float8 * interval '1 ms'
    from (select 1) one left join postroad.tenant t on t.name = $3::text
    where $3::text is null or t.id is not null
    returning true, tenant_id";

const TOKENS: &str = "
    select k.id, k.name, t.name, k.scopes,
           case when k.revoked_at is not null then 'revoked'
                when k.expires_at <= now() then 'expired' else 'good' end,
           k.created_at, k.expires_at, k.revoked_at, k.last_used_at
    from postroad.token k left join postroad.tenant t on t.id = k.tenant_id
    where ($1::text is null or t.name = $1) and (not $2 or k.tenant_id is null)
    order by k.created_at, k.id";

const REVOKE: &str = "
    with changed as (
        update postroad.token set revoked_at = now()
        where id = $1 and revoked_at is null
        returning id)
    select exists (select from changed), tenant_id from postroad.token where id = $1";

impl Store {
    /// Keeps a new token. False: there is no such tenant.
    pub async fn create_token(&self, new: &NewToken<'_>) -> Result<bool, Error> {
        let hash = new.token.secret_hash().to_vec();
        let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
        let expires_in = new.expires_in.map(|time| millis(time) as f64);
        let change = Change {
            operation: "creating a token",
            sql: CREATE,
            params: &[
                &new.token.id(),
                &hash,
                &new.tenant,
                &new.name,
                &scopes,
                &expires_in,
            ],
            action: "token.create",
            detail: json!({
                "name": new.name,
                "operator": new.tenant.is_none(),
                "scopes": scopes,
                "expires_in_seconds": new.expires_in.map(|time| time.as_secs()),
            }),
        };
        let rows = self.change(change, if_so(new.token.id())).await?;
        Ok(!rows.is_empty())
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

    /// Ends a token, for good.
    pub async fn revoke_token(&self, id: &str) -> Result<Changed, Error> {
        let change = Change {
            operation: "revoking a token",
            sql: REVOKE,
            params: &[&id],
            action: "token.revoke",
            detail: json!({}),
        };
        Ok(Changed::of(&self.change(change, if_so(id)).await?))
    }
}
