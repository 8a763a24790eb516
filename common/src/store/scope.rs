//! Whose rows a store sees.
//!
//! A query's own condition says which tenant it is about. Behind it stands row-level security: each
//! transaction of a scoped store first names its tenant, and under a database user that is a member
//! of `postroad_api` Postgres shows it no other rows, whatever the query forgot to ask.

use deadpool_postgres::{GenericClient as _, Object, Transaction};
use futures_util::future::join4;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::Store;

/// On whose behalf a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One tenant, by its id.
    Tenant(i32),
    /// An operator, who sees all tenants.
    Operator,
}

/// For this transaction alone: a pooler gives the session to somebody else afterwards.
const ENTER: &str = "select set_config('postroad.tenant', $1, true)";

/// The same, and for this transaction the plan that was made first.
const ENTER_PLANNED: &str = "
    select set_config('postroad.tenant', $1, true),
           set_config('plan_cache_mode', 'force_generic_plan', true)";

/// How a statement is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Anew, with the values at hand.
    Anew,
    /// Once for each connection: for statements of which every part is found by the start of an
    /// index whatever the values are, and that are asked so often that planning would cost more than
    /// all the rest.
    Once,
}

impl Scope {
    /// The one tenant; none for an operator.
    pub fn tenant_id(self) -> Option<i32> {
        match self {
            Self::Tenant(id) => Some(id),
            Self::Operator => None,
        }
    }

    fn setting(self) -> String {
        match self {
            Self::Tenant(id) => id.to_string(),
            Self::Operator => "*".to_owned(),
        }
    }

    pub(super) async fn enter(self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let enter = transaction.prepare_cached(ENTER).await?;
        transaction.query(&enter, &[&self.setting()]).await?;
        Ok(())
    }

    /// One statement in a transaction of its own, in one round trip: all four messages are written
    /// before the first answer is read. If the statement fails, Postgres takes the commit for the
    /// rollback that it then has to be.
    pub(super) async fn query(
        self,
        connection: &Object,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
        plan: Plan,
    ) -> Result<Vec<Row>, Error> {
        let enter = match plan {
            Plan::Anew => ENTER,
            Plan::Once => ENTER_PLANNED,
        };
        let enter = connection.prepare_cached(enter).await?;
        let setting = self.setting();
        let scope: [&(dyn ToSql + Sync); 1] = [&setting];
        let (begun, entered, rows, committed) = join4(
            connection.batch_execute("begin"),
            connection.query(&enter, &scope),
            connection.query(statement, params),
            connection.batch_execute("commit"),
        )
        .await;
        begun?;
        entered?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }
}

impl Store {
    /// The same connections, on behalf of somebody.
    #[must_use]
    pub fn scoped(&self, scope: Scope) -> Self {
        Self {
            scope: Some(scope),
            ..self.clone()
        }
    }

    /// Whether this store is somebody's, and Postgres holds it to that.
    pub(super) fn is_scoped(&self) -> bool {
        self.scope.is_some()
    }

    /// The tenant that this store is for; none: all of them.
    pub(super) fn tenant_id(&self) -> Option<i32> {
        self.own_tenant().filter(|_| !is_forgetful())
    }

    /// The same, to be written into a row.
    pub(super) fn own_tenant(&self) -> Option<i32> {
        self.scope.and_then(Scope::tenant_id)
    }
}

/// Whether queries leave out their own condition, so that a test can see what row-level security
/// does alone. Never in a release build.
#[cfg(debug_assertions)]
fn is_forgetful() -> bool {
    use std::sync::LazyLock;
    static FORGETFUL: LazyLock<bool> = LazyLock::new(|| {
        crate::config::Env::of_process()
            .text("POSTROAD_TEST_FORGET_TENANT")
            .is_some()
    });
    *FORGETFUL
}

#[cfg(not(debug_assertions))]
fn is_forgetful() -> bool {
    false
}
