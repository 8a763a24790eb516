//! The first contact with the servers: wait for what is not there yet, refuse what is wrong.
//!
//! A server that does not answer is waited for, with one line in the log; one that answers "no"
//! (password, vhost, schema) will say the same tomorrow, so the program ends and says what to fix.

#[cfg(any(feature = "store", feature = "broker"))]
use crate::backoff::Backoff;
use crate::config::ConfigError;
#[cfg(any(feature = "store", feature = "broker"))]
use crate::{health::Health, shutdown::Shutdown};

/// Why a program does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Trying again cannot help.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// Somebody asked the program to stop before it had started.
    #[error("asked to stop before the servers answered")]
    Stopped,
}

/// Waits until Postgres answers and has the schema that this program was made for.
#[cfg(feature = "store")]
pub async fn postgres(
    store: &crate::store::Store,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let ask = async || store.schema_state().await;
    let state = until(POSTGRES, health, shutdown, ask, |error| {
        error.as_config_error()
    })
    .await?;
    Ok(state.require_current()?)
}

/// Waits until RabbitMQ takes a connection.
#[cfg(feature = "broker")]
pub async fn rabbitmq(
    broker: &crate::broker::Broker,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let ask = async || broker.connect_to_ask("check").await.map(drop);
    until("rabbitmq", health, shutdown, ask, |error| {
        error.as_config_error()
    })
    .await
}

/// Repeats one of the first calls to Postgres until it goes through.
#[cfg(feature = "store")]
pub async fn repeat<T>(
    health: &Health,
    shutdown: &Shutdown,
    call: impl AsyncFn() -> Result<T, crate::store::Error>,
) -> Result<T, Error> {
    until(POSTGRES, health, shutdown, call, |_| None).await
}

#[cfg(feature = "store")]
const POSTGRES: &str = "postgres";

/// Calls until there is an answer, as the condition `name`. An error that is a refusal ends it.
#[cfg(any(feature = "store", feature = "broker"))]
async fn until<T, E: std::fmt::Display>(
    name: &'static str,
    health: &Health,
    shutdown: &Shutdown,
    call: impl AsyncFn() -> Result<T, E>,
    refusal: impl Fn(&E) -> Option<ConfigError>,
) -> Result<T, Error> {
    health.expect(name);
    let mut backoff = Backoff::default();
    loop {
        match call().await {
            Ok(answer) => {
                health.good(name);
                return Ok(answer);
            }
            Err(error) => match refusal(&error) {
                Some(wrong) => return Err(wrong.into()),
                None => health.bad(name, error),
            },
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = shutdown.quiesce.cancelled() => return Err(Error::Stopped),
        }
    }
}
