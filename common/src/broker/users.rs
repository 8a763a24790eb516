//! Who logs in to the broker, and what each of them may do there: the one place where that stands.
//!
//! `postroad migrate --broker-users` makes these users, the tests run programs as them, and a test
//! holds `deploy/rabbitmq/definitions.json` and the table of `docs/OPERATIONS.md` to it.
//! <https://www.rabbitmq.com/docs/access-control#authorisation>

use serde_json::{Value, json};

/// Matches no name that there can be.
const NOTHING: &str = "^$";

/// A user of the broker. Each permission is a pattern of the names that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The program that logs in, or `monitoring` for whoever only looks.
    pub role: &'static str,
    /// What it may do on the management pages: nothing without a tag.
    pub tags: &'static [&'static str],
    /// What it may declare and delete.
    pub configure: &'static str,
    /// What it may publish to, and bind on the receiving side.
    pub write: &'static str,
    /// What it may consume, and bind on the giving side.
    pub read: &'static str,
}

/// It publishes, drains `postroad.dead`, and declares the queue of a name that it has not seen
/// before. That takes `configure` and `read` on the queue and `write` on the exchange its dead
/// letters go to; binding it takes `write` on the queue and `read` on the exchange.
pub const SCHEDULER: User = User {
    role: "scheduler",
    tags: &[],
    configure: r"^postroad\.jobs\.",
    write: r"^postroad\.(jobs|dead|parked)$|^postroad\.jobs\.",
    read: r"^postroad\.(jobs|dead)$|^postroad\.jobs\.",
};

/// It consumes, and a settle needs no permission of its own.
pub const WORKER: User = User {
    role: "worker",
    tags: &[],
    configure: NOTHING,
    write: NOTHING,
    read: r"^postroad\.jobs\.",
};

/// People and programs that only look: the tag lets them see the pages. Without an entry for the
/// virtual host they would not see what is in it.
pub const MONITORING: User = User {
    role: "monitoring",
    tags: &["monitoring"],
    configure: NOTHING,
    write: NOTHING,
    read: NOTHING,
};

/// All of them.
pub const USERS: [User; 3] = [SCHEDULER, WORKER, MONITORING];

impl User {
    /// What it is called where it belongs to this virtual host. Users belong to the whole broker: with
    /// the virtual host in their names, two Postroads on one broker have users of their own.
    pub fn name_in(&self, vhost: &str) -> String {
        let vhost = match vhost {
            "/" => "postroad",
            vhost => vhost,
        };
        format!("{vhost}-{}", self.role)
    }

    /// Its permissions, as the management API wants them.
    pub fn permissions(&self) -> Value {
        json!({"configure": self.configure, "write": self.write, "read": self.read})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_deployment_are_these() {
        let text = include_str!("../../../deploy/rabbitmq/definitions.json");
        let definitions: Value = serde_json::from_str(text).unwrap();
        let owner = json!("postroad");
        let others = |list: &str, name: &str| {
            let entries = definitions[list].as_array().unwrap().iter();
            let entries = entries.filter(|entry| entry[name] != owner);
            entries.cloned().collect::<Vec<_>>()
        };
        let (users, permissions) = (others("users", "name"), others("permissions", "user"));
        assert_eq!((users.len(), permissions.len()), (3, 3), "{definitions}");
        for (n, user) in USERS.iter().enumerate() {
            assert_eq!(users[n]["name"], json!(user.role));
            assert_eq!(users[n]["tags"], json!(user.tags), "{}", user.role);
            let mut expected = user.permissions();
            expected["user"] = json!(user.role);
            expected["vhost"] = owner.clone();
            assert_eq!(permissions[n], expected);
        }
    }

    #[test]
    fn the_table_of_the_document_has_these() {
        let document = include_str!("../../../docs/OPERATIONS.md");
        for user in USERS {
            let cell = |pattern: &str| pattern.replace('|', "\\|");
            let row = format!(
                "| {} | `{}` | `{}` | `{}` |",
                user.role,
                cell(user.configure),
                cell(user.write),
                cell(user.read)
            );
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn two_virtual_hosts_do_not_share_users() {
        assert_eq!(WORKER.name_in("postroad"), "postroad-worker");
        assert_eq!(WORKER.name_in("/"), "postroad-worker");
        assert_eq!(MONITORING.name_in("staging"), "staging-monitoring");
    }
}
