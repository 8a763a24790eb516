//! The servers, as the environment names them.

use std::time::{Duration, Instant};

use anyhow::Context;
use postroad_common::backoff::Backoff;
use postroad_common::broker::{self, Broker, Connection};
use postroad_common::config::{ConfigError, Env};
use postroad_common::membership::host_name;
use postroad_common::store::{self, Store};
use postroad_common::telemetry::LogConfig;

use crate::actor::actor;

/// Connections that a command opens at most.
const CONNECTIONS_MAX: usize = 4;

/// What a command needs to reach the servers.
pub(crate) struct Setup {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
}

impl Setup {
    /// Reads the environment of this process.
    pub(crate) fn of_process() -> anyhow::Result<Self> {
        let mut env = Env::of_process();
        let database = store::Settings::read(&mut env, "postroad", CONNECTIONS_MAX);
        let broker = broker::Settings::read(&mut env);
        let log = LogConfig::read(&mut env, "warn");
        env.finish()?;
        log.install();
        Self::new(database, broker)
    }

    /// The servers at these URLs.
    pub(crate) fn of_urls(database_url: &str, amqp_url: &str) -> anyhow::Result<Self> {
        let database = store::Settings::of_url(database_url, "postroad", CONNECTIONS_MAX)?;
        let broker = broker::Settings::of_url(amqp_url)
            .map_err(|error| ConfigError::of("AMQP_URL", format_args!("is wrong: {error}")))?;
        Self::new(database, broker)
    }

    fn new(database: store::Settings, broker: broker::Settings) -> anyhow::Result<Self> {
        let version = env!("CARGO_PKG_VERSION");
        let name = format!("postroad/{version} {}:{}", host_name(), std::process::id());
        Ok(Self {
            store: Store::new(database)?.acting(actor()),
            broker: Broker::new(broker, name),
        })
    }

    /// The store, once it is known to have the schema that this program was made for.
    pub(crate) async fn current_store(self) -> anyhow::Result<Store> {
        let state = match self.store.schema_state().await {
            Ok(state) => state,
            Err(error) => return Err(refused_or(error.as_config_error(), error)),
        };
        state.require_current()?;
        Ok(self.store)
    }

    /// Waits for both servers to answer, at most so long. Refusals are not waited for.
    pub(crate) async fn wait(&self, most: Duration) -> anyhow::Result<Connection> {
        let until = Instant::now() + most;
        let mut backoff = Backoff::default();
        loop {
            let error = match self.store.ping().await {
                Err(error) => refused_or(error.as_config_error(), error),
                Ok(()) => match self.broker.connect_to_ask("admin").await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => refused_or(error.as_config_error(), error),
                },
            };
            if error.is::<ConfigError>() {
                return Err(error);
            }
            if Instant::now() >= until {
                return Err(error).context("the servers do not answer");
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

/// The error, or what in the configuration it comes from.
fn refused_or(
    refusal: Option<ConfigError>,
    error: impl std::error::Error + Send + Sync + 'static,
) -> anyhow::Error {
    match refusal {
        Some(refusal) => refusal.into(),
        None => error.into(),
    }
}
