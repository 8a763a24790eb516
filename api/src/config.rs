//! What the api reads from its environment.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `DATABASE_URL` | `postgres://postroad:postroad@127.0.0.1:5432/postroad` | Postgres 15 or newer |
//! | `POSTROAD_LISTEN` | `127.0.0.1:8080` | where to serve |
//! | `POSTROAD_WEBHOOK_ALLOW` | none | private networks that webhooks may reach, as CIDR, comma separated |
//! | `POSTROAD_ADMIN_LISTEN` | a free port, logged | `/healthz`, `/readyz`, `/metrics` |
//! | `POSTROAD_GRACE` | `25s` | time to finish after SIGTERM (0s to 1h) |
//! | `POSTROAD_LOG`, `POSTROAD_LOG_FORMAT` | `info`, `text` | log filter; `text` or `json` |

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use postroad_common::config::{ConfigError, Env};
use postroad_common::egress::{EgressPolicy, parse_allow};
use postroad_common::shutdown::GRACE_DEFAULT;
use postroad_common::store;
use postroad_common::telemetry::LogConfig;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Connections to Postgres: eight that enqueue, and the rest for whoever looks.
const CONNECTIONS_MAX: usize = 14;

/// Everything that can be set.
#[derive(Debug)]
pub struct Config {
    /// The database.
    pub database: store::Settings,
    /// Where to serve.
    pub listen: SocketAddr,
    /// Where webhooks may go.
    pub egress: EgressPolicy,
    /// Where the admin page listens.
    pub admin_listen: SocketAddr,
    /// Time to finish after SIGTERM.
    pub grace: Duration,
    /// What to log.
    pub log: LogConfig,
}

impl Config {
    /// Reads the environment.
    pub fn read(mut env: Env) -> Result<Self, ConfigError> {
        let env = &mut env;
        let allow = env
            .text("POSTROAD_WEBHOOK_ALLOW")
            .unwrap_or_default()
            .to_owned();
        let allow = parse_allow(&allow).unwrap_or_else(|error| {
            env.problem("POSTROAD_WEBHOOK_ALLOW", format_args!("is wrong: {error}"));
            Vec::new()
        });
        let config = Self {
            database: store::Settings::read(env, "postroad-api", CONNECTIONS_MAX),
            listen: env.parse("POSTROAD_LISTEN", (Ipv4Addr::LOCALHOST, 8080).into()),
            egress: EgressPolicy::new(allow),
            admin_listen: env.parse("POSTROAD_ADMIN_LISTEN", (Ipv4Addr::LOCALHOST, 0).into()),
            grace: env.duration("POSTROAD_GRACE", GRACE_DEFAULT, Duration::ZERO, HOUR),
            log: LogConfig::read(env, "info"),
        };
        std::mem::replace(env, Env::of_map([])).finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_a_valid_one() {
        let config = Config::read(Env::of_map([])).expect("nothing is wrong");
        assert_eq!(config.listen.port(), 8080);
    }

    #[test]
    fn every_wrong_variable_is_named() {
        let wrong = [
            ("DATABASE_URL", "not a url"),
            ("POSTROAD_LISTEN", "8080"),
            ("POSTROAD_WEBHOOK_ALLOW", "10.0.0.0/99"),
            ("POSTROAD_ADMIN_LISTEN", "here"),
            ("POSTROAD_GRACE", "1"),
            ("POSTROAD_LOG_FORMAT", "xml"),
        ];
        let text = Config::read(Env::of_map(wrong))
            .expect_err("all are wrong")
            .to_string();
        for (name, _) in wrong {
            assert!(text.contains(&format!("\n  {name} ")), "{name} in {text}");
        }
    }
}
