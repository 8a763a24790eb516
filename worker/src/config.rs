//! What a worker reads from its environment.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `DATABASE_URL` | `postgres://postroad:postroad@127.0.0.1:5432/postroad` | Postgres 15 or newer |
//! | `AMQP_URL` | `amqp://postroad:postroad@127.0.0.1:5672/postroad` | RabbitMQ 3.10 or newer |
//! | `POSTROAD_QUEUES` | `default` | queues to consume, comma separated |
//! | `POSTROAD_PREFETCH` | `100` | unacknowledged deliveries per queue = jobs that run at once (1 to 2000) |
//! | `POSTROAD_DESTINATION_MAX` | `1000` | calls at once to one destination (a webhook's host, the SMS gateway), at most; fewer as it answers. 0: no limit but the prefetch |
//! | `POSTROAD_ADMIN_LISTEN` | a free port, logged | `/healthz`, `/readyz`, `/metrics` |
//! | `POSTROAD_LEASE` | `30s` | silence after which this process is called lost (2s to 1h) |
//! | `POSTROAD_GRACE` | `25s` | time to finish after SIGTERM (0s to 1h) |
//! | `POSTROAD_WEBHOOK_SECRET` | none | `whsec_…`, signs webhooks |
//! | `POSTROAD_WEBHOOK_ALLOW` | none | private networks that webhooks may reach, as CIDR, comma separated |
//! | `POSTROAD_SMS_GATEWAY_URL` | none | where `sms` jobs go; without it the kind is not run here |
//! | `POSTROAD_SMS_GATEWAY_TOKEN` | none | sent to the gateway as a bearer token |
//! | `POSTROAD_LOG`, `POSTROAD_LOG_FORMAT` | `info`, `text` | log filter; `text` or `json` |

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use postroad_common::config::{ConfigError, Env};
use postroad_common::job::QueueName;
use postroad_common::membership::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN};
use postroad_common::shutdown::GRACE_DEFAULT;
use postroad_common::telemetry::LogConfig;
use postroad_common::{broker, store};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Connections to Postgres: gate, outcomes, jobs sent back, heartbeat, and one to spare.
const CONNECTIONS_MAX: usize = 5;
/// Calls at once to one destination: a bound for what adapts, and not a guess of what is right.
const DESTINATION_DEFAULT: u32 = 1000;
/// RabbitMQ's limit for quorum queues.
pub(crate) const PREFETCH_MAX: u32 = 2000;

/// Everything that can be set for any worker.
#[derive(Debug)]
pub struct Config {
    /// The database.
    pub database: store::Settings,
    /// The broker.
    pub broker: broker::Settings,
    /// The queues to consume.
    pub queues: Vec<QueueName>,
    /// Unacknowledged deliveries per queue.
    pub prefetch: u16,
    /// Calls at once to one destination, at most. None: they are not limited.
    pub destination_max: Option<NonZeroUsize>,
    /// Where the admin page listens.
    pub admin_listen: SocketAddr,
    /// Silence after which this process is called lost.
    pub lease: Duration,
    /// Time to finish after SIGTERM.
    pub grace: Duration,
    /// What to log.
    pub log: LogConfig,
}

impl Config {
    /// Reads the environment. Problems are left in `env`, whose owner ends the reading.
    pub fn read_from(env: &mut Env) -> Self {
        Self {
            database: store::Settings::read(env, "postroad-worker", CONNECTIONS_MAX),
            broker: broker::Settings::read(env),
            queues: queues(env),
            prefetch: u16::try_from(env.number("POSTROAD_PREFETCH", 100, 1, PREFETCH_MAX))
                .expect("the upper limit fits"),
            destination_max: destination_max(env),
            admin_listen: env.parse("POSTROAD_ADMIN_LISTEN", (Ipv4Addr::LOCALHOST, 0).into()),
            lease: env.duration("POSTROAD_LEASE", LEASE_DEFAULT, LEASE_MIN, LEASE_MAX),
            grace: env.duration("POSTROAD_GRACE", GRACE_DEFAULT, Duration::ZERO, HOUR),
            log: LogConfig::read(env, "info"),
        }
    }

    /// Reads the environment of a worker that needs nothing beyond this.
    pub fn read(mut env: Env) -> Result<Self, ConfigError> {
        let config = Self::read_from(&mut env);
        env.finish()?;
        Ok(config)
    }
}

/// 0 turns the limit off.
fn destination_max(env: &mut Env) -> Option<NonZeroUsize> {
    let (most, default) = (PREFETCH_MAX, DESTINATION_DEFAULT);
    let set = env.number("POSTROAD_DESTINATION_MAX", default, 0, most);
    NonZeroUsize::new(usize::try_from(set).unwrap_or(usize::MAX))
}

fn queues(env: &mut Env) -> Vec<QueueName> {
    let text = env.text("POSTROAD_QUEUES").unwrap_or("default").to_owned();
    let mut queues: Vec<QueueName> = Vec::new();
    for name in text.split(',').map(str::trim) {
        match name.parse() {
            Ok(queue) if queues.contains(&queue) => {
                env.problem(
                    "POSTROAD_QUEUES",
                    format_args!("names the queue `{name}` twice"),
                );
            }
            Ok(queue) => queues.push(queue),
            Err(error) => env.problem("POSTROAD_QUEUES", format_args!("is wrong: {error}")),
        }
    }
    queues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_a_list_of_different_names() {
        let read = |text| Config::read(Env::of_map([("POSTROAD_QUEUES", text)]));
        let names: Vec<_> = read("sms, webhooks")
            .unwrap()
            .queues
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names, ["sms", "webhooks"]);
        for bad in ["sms,sms", "sms,", "SMS", ","] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_limit_of_destinations_has_a_bound_and_can_be_turned_off() {
        let read = |text| Config::read(Env::of_map([("POSTROAD_DESTINATION_MAX", text)]));
        assert_eq!(read("0").unwrap().destination_max, None);
        assert_eq!(read("7").unwrap().destination_max, NonZeroUsize::new(7));
        for bad in ["2001", "-1", "off"] {
            let text = read(bad).err().map(|error| error.to_string());
            assert!(
                text.is_some_and(|text| text.contains("from 0 to 2000")),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_prefetch_stays_within_what_rabbitmq_takes() {
        for bad in ["0", "2001", "-1", "many"] {
            let text = Config::read(Env::of_map([("POSTROAD_PREFETCH", bad)])).unwrap_err();
            assert!(text.to_string().contains("from 1 to 2000"), "{text}");
        }
    }
}
