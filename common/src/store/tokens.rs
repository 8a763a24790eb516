//! Who holds a token, asked by the API for each one that it does not know yet.

use std::time::Duration;

use super::{Error, Store};
use crate::token::{Permission, Token};

/// What a good token stands for.
#[derive(Clone, Debug)]
pub struct FoundToken {
    /// The tenant that it is for; none for an operator's.
    pub tenant: Option<(i32, String)>,
    /// What it may be used for. Names that this program does not know are left out.
    pub permissions: Vec<Permission>,
    /// For how long it is good, if nobody changes that. None: for ever.
    pub good_for: Option<Duration>,
}

const FIND: &str = "
    select secret_hash, tenant_id, tenant, scopes, good_for from postroad.good_token($1)";

const TOUCH: &str = "select postroad.touch_tokens($1)";

impl Store {
    /// What this token stands for; none if there is no such token, or it is revoked or expired, or
    /// its tenant is disabled.
    pub async fn find_token(&self, token: &Token) -> Result<Option<FoundToken>, Error> {
        let id = token.id();
        let rows = self.query("looking up a token", FIND, &[&id]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        if !token.matches(row.get(0)) {
            return Ok(None);
        }
        let scopes: Vec<String> = row.get(3);
        let tenant: Option<i32> = row.get(1);
        Ok(Some(FoundToken {
            tenant: tenant.map(|id| (id, row.get(2))),
            permissions: scopes
                .iter()
                .filter_map(|name| Permission::of_name(name))
                .collect(),
            good_for: row
                .get::<_, Option<f64>>(4)
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
        }))
    }

    /// Notes that these tokens are in use.
    pub async fn touch_tokens(&self, ids: &[String]) -> Result<(), Error> {
        self.query("noting tokens in use", TOUCH, &[&ids])
            .await
            .map(drop)
    }

    /// The id of a tenant, for whoever asks once. Programs ask [`crate::settings::Tenants`].
    pub async fn tenant_of_name(&self, name: &str) -> Result<Option<i32>, Error> {
        const SQL: &str = "select id from postroad.tenant where name = $1";
        let rows = self.query("finding a tenant", SQL, &[&name]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// How many jobs of this store's tenant are unfinished, by the ledger: accepted, less what is
    /// in a final state. Costs the tenant's entries that are not folded yet.
    pub async fn unfinished(&self) -> Result<u64, Error> {
        const SQL: &str = "
            select coalesce(sum(accepted - completed - dead - cancelled - expired), 0)::bigint
            from (select tenant_id, accepted, completed, dead, cancelled, expired
                  from postroad.ledger_total
                  union all
                  select tenant_id, accepted, completed, dead, cancelled, expired
                  from postroad.ledger_entry) both_kinds
            where $1::int is null or tenant_id = $1";
        let rows = self
            .query("counting unfinished jobs", SQL, &[&self.tenant_id()])
            .await?;
        Ok(u64::try_from(rows[0].get::<_, i64>(0)).unwrap_or(0))
    }
}
