//! Who does this, for the audit log.

use postroad_common::membership::host_name;
use postroad_common::store::Actor;

/// `cli:<user>@<host>`: the user of the operating system, not what the environment claims.
pub(crate) fn actor() -> Actor {
    let user = whoami::username().unwrap_or_else(|_| "unknown".to_owned());
    Actor {
        name: format!("cli:{user}@{}", host_name()),
        request_id: None,
    }
}
