//! Who does this, for the audit log.

use postroad_common::membership::host_name;
use postroad_common::store::Audited;
use serde_json::Value;

/// `cli:<user>@<host>`: the user of the operating system, not what the environment claims.
pub(crate) fn name() -> String {
    let user = whoami::username().unwrap_or_else(|_| "unknown".to_owned());
    format!("cli:{user}@{}", host_name())
}

/// Something done from the command line.
pub(crate) fn audited<'a>(
    actor: &'a str,
    action: &'static str,
    target: &'a str,
    detail: Value,
) -> Audited<'a> {
    Audited {
        actor,
        tenant_id: None,
        action,
        target,
        request_id: None,
        detail,
    }
}
