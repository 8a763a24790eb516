//! What the scheduler reads from its environment.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `DATABASE_URL` | `postgres://postroad:postroad@127.0.0.1:5432/postroad` | Postgres 15 or newer |
//! | `AMQP_URL` | `amqp://postroad:postroad@127.0.0.1:5672/postroad` | RabbitMQ 3.10 or newer |
//! | `POSTROAD_ADMIN_LISTEN` | a free port, logged | `/healthz`, `/readyz`, `/metrics` |
//! | `POSTROAD_LEASE` | `30s` | silence after which this process is called lost (2s to 1h) |
//! | `POSTROAD_GRACE` | `25s` | time to finish after SIGTERM (0s to 1h) |
//! | `POSTROAD_RETENTION` | `7d` | how long finished jobs and errors are kept (1d to 3650d); a queue's `retention_days` may be shorter |
//! | `POSTROAD_BUNDLE` | `50` | under backlog, how many due jobs travel in one message at most (1 to 1000); 1: never more than one |
//! | `POSTROAD_SHARED_PIPE` | not set: as much as the window allows | while a tenant waits for another one's backlog, a queue's pipe holds a job for every place of its workers, and as much as leaves it in this time (0s to 500ms) |
//! | `POSTROAD_LOG`, `POSTROAD_LOG_FORMAT` | `info`, `text` | log filter; `text` or `json` |

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use postroad_common::config::{ConfigError, Env};
use postroad_common::membership::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN};
use postroad_common::message::BUNDLE_JOBS_MAX;
use postroad_common::shutdown::GRACE_DEFAULT;
use postroad_common::telemetry::LogConfig;
use postroad_common::{broker, store};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Connections to Postgres: one per service, with some to spare for overlapping calls.
const CONNECTIONS_MAX: usize = 11;

/// Jobs in one message, at most, unless it is set: with more of them, little of a message's cost is
/// left to share.
const BUNDLE_MAX: u32 = 50;

/// More than that leaves a pipe before anybody could tell that it is not started.
const SHARED_PIPE_MAX: Duration = Duration::from_millis(500);

/// Everything that can be set.
#[derive(Debug)]
pub struct Config {
    /// The database.
    pub database: store::Settings,
    /// The broker.
    pub broker: broker::Settings,
    /// Where the admin page listens.
    pub admin_listen: SocketAddr,
    /// Silence after which this process is called lost.
    pub lease: Duration,
    /// Time to finish after SIGTERM.
    pub grace: Duration,
    /// How long finished jobs are kept.
    pub retention: Duration,
    /// Jobs in one message, at most.
    pub bundle_max: usize,
    /// What a pipe that tenants share holds beside a job for every place: what leaves it in this time.
    /// None: as much as the window allows.
    pub shared_pipe: Option<Duration>,
    /// What to log.
    pub log: LogConfig,
}

impl Config {
    /// Reads the environment.
    pub fn read(mut env: Env) -> Result<Self, ConfigError> {
        let env = &mut env;
        let config = Self {
            database: store::Settings::read(env, "postroad-scheduler", CONNECTIONS_MAX),
            broker: broker::Settings::read(env),
            admin_listen: env.parse("POSTROAD_ADMIN_LISTEN", (Ipv4Addr::LOCALHOST, 0).into()),
            lease: env.duration("POSTROAD_LEASE", LEASE_DEFAULT, LEASE_MIN, LEASE_MAX),
            grace: env.duration("POSTROAD_GRACE", GRACE_DEFAULT, Duration::ZERO, HOUR),
            retention: env.duration("POSTROAD_RETENTION", 7 * DAY, DAY, 3650 * DAY),
            bundle_max: env.number("POSTROAD_BUNDLE", BUNDLE_MAX, 1, BUNDLE_JOBS_MAX as u32)
                as usize,
            shared_pipe: shared_pipe(env),
            log: LogConfig::read(env, "info"),
        };
        std::mem::replace(env, Env::of_map([])).finish()?;
        Ok(config)
    }
}

fn shared_pipe(env: &mut Env) -> Option<Duration> {
    const NAME: &str = "POSTROAD_SHARED_PIPE";
    let is_set = env.text(NAME).is_some();
    is_set.then(|| env.duration(NAME, Duration::ZERO, Duration::ZERO, SHARED_PIPE_MAX))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_a_valid_one() {
        let config = Config::read(Env::of_map([])).unwrap();
        assert_eq!(config.retention, 7 * DAY);
        assert_eq!(config.shared_pipe, None);
    }

    #[test]
    fn every_wrong_variable_is_named() {
        let env = Env::of_map([
            ("DATABASE_URL", "not a url"),
            ("AMQP_URL", "http://x"),
            ("POSTROAD_ADMIN_LISTEN", "here"),
            ("POSTROAD_LEASE", "1"),
            ("POSTROAD_RETENTION", "0d"),
            ("POSTROAD_BUNDLE", "0"),
            ("POSTROAD_SHARED_PIPE", "1s"),
            ("POSTROAD_LOG_FORMAT", "xml"),
        ]);
        let text = Config::read(env).unwrap_err().to_string();
        for name in [
            "DATABASE_URL",
            "AMQP_URL",
            "POSTROAD_ADMIN_LISTEN",
            "POSTROAD_LEASE",
            "POSTROAD_RETENTION",
            "POSTROAD_BUNDLE",
            "POSTROAD_SHARED_PIPE",
            "POSTROAD_LOG_FORMAT",
        ] {
            assert!(text.contains(&format!("\n  {name} ")), "{name} in {text}");
        }
    }
}
