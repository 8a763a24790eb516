//! What people did: one row for each change, written in the same breath and never changed.

use serde_json::Value;

use super::{Error, Store};

/// A change that somebody made.
#[derive(Clone, Debug)]
pub struct Audited<'a> {
    /// Who: `token:<id>` or `cli:<user>@<host>`.
    pub actor: &'a str,
    /// Whose: the id of the tenant; none where it concerns them all.
    pub tenant_id: Option<i32>,
    /// What was done, such as `queue.pause`.
    pub action: &'static str,
    /// To what: an id or a name.
    pub target: &'a str,
    /// The id of the request, if it came in one.
    pub request_id: Option<&'a str>,
    /// With what: numbers and names, never a secret.
    pub detail: Value,
}

const AUDIT: &str = "
    insert into postroad.audit_log (actor, tenant_id, action, target, request_id, detail)
    values ($1, $2, $3, $4, $5, $6::text::jsonb)";

impl Store {
    /// Writes down what somebody did.
    pub async fn audit(&self, audited: &Audited<'_>) -> Result<(), Error> {
        let Audited {
            actor,
            tenant_id,
            action,
            target,
            request_id,
            detail,
        } = audited;
        // jsonb knows no NUL.
        let detail = detail.to_string().replace("\\u0000", "\\ufffd");
        self.query(
            "writing the audit log",
            AUDIT,
            &[actor, tenant_id, action, target, request_id, &detail],
        )
        .await
        .map(drop)
    }
}
