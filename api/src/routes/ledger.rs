//! What was accepted, and where it is.

use postroad_common::store::Account;
use postroad_common::token::Permission;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Caller;
use crate::body::Query;
use crate::problem::Problem;

/// The ledger at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ledger {
    /// The moment, by the database's clock.
    at: jiff::Timestamp,
    /// Whether every account is balanced.
    balanced: bool,
    /// One account per tenant.
    tenants: Vec<TenantAccount>,
}

/// One tenant's: `accepted` is the sum of the nine states, or the account is not balanced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantAccount {
    tenant: String,
    accepted: i64,
    scheduled: i64,
    dispatched: i64,
    running: i64,
    failed: i64,
    held: i64,
    completed: i64,
    dead: i64,
    cancelled: i64,
    expired: i64,
    /// False: a job of this tenant is lost or doubled.
    balanced: bool,
    /// Those of the cancelled ones that a full queue has shed.
    shed: i64,
}

impl From<Account> for TenantAccount {
    fn from(account: Account) -> Self {
        Self {
            tenant: account.tenant,
            accepted: account.accepted,
            scheduled: account.scheduled,
            dispatched: account.dispatched,
            running: account.running,
            failed: account.failed,
            held: account.held,
            completed: account.completed,
            dead: account.dead,
            cancelled: account.cancelled,
            expired: account.expired,
            balanced: account.balanced,
            shed: account.shed,
        }
    }
}

/// Whose ledger.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this tenant, for operators.
    tenant: Option<String>,
}

/// Says where every accepted job is.
#[utoipa::path(
    get, path = "/v1/ledger", tag = "ledger", operation_id = "get_ledger", params(Filter),
    responses(
        (status = 200, description = "The ledger", body = Ledger),
        (status = 401, description = "No good token", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The scope `ledger:read` is needed", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<Ledger>, Problem> {
    caller.may(Permission::LedgerRead)?;
    caller.tenant(filter.tenant.as_deref()).await?;
    let name = caller.tenant_name().or(filter.tenant.as_deref());
    let ledger = caller.store().ledger(name).await?;
    Ok(axum::Json(Ledger {
        at: ledger.at,
        balanced: ledger.accounts.iter().all(|account| account.balanced),
        tenants: ledger
            .accounts
            .into_iter()
            .map(TenantAccount::from)
            .collect(),
    }))
}
