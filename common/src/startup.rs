//! The first contact with the servers: wait for what is not there yet, refuse what is wrong.
//!
//! A server that does not answer is waited for, with one line in the log; one that answers "no"
//! (password, vhost, schema) will say the same tomorrow, so the program ends and says what to fix.

use crate::backoff::Backoff;
use crate::config::ConfigError;
use crate::health::Health;
use crate::shutdown::Shutdown;

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
    const NAME: &str = "postgres";
    health.expect(NAME);
    let mut backoff = Backoff::default();
    loop {
        match store.schema_state().await {
            Ok(state) => {
                state.require_current()?;
                health.good(NAME);
                return Ok(());
            }
            Err(error) => match error.as_config_error() {
                Some(wrong) => return Err(wrong.into()),
                None => health.bad(NAME, error),
            },
        }
        wait(&mut backoff, shutdown).await?;
    }
}

/// Waits until RabbitMQ takes a connection.
#[cfg(feature = "broker")]
pub async fn rabbitmq(
    broker: &crate::broker::Broker,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    const NAME: &str = "rabbitmq";
    health.expect(NAME);
    let mut backoff = Backoff::default();
    loop {
        match broker.connect("check").await {
            Ok(_connection) => {
                health.good(NAME);
                return Ok(());
            }
            Err(error) => match error.as_config_error() {
                Some(wrong) => return Err(wrong.into()),
                None => health.bad(NAME, error),
            },
        }
        wait(&mut backoff, shutdown).await?;
    }
}

/// Repeats one of the first calls to Postgres until it goes through.
#[cfg(feature = "store")]
pub async fn repeat<T>(
    health: &Health,
    shutdown: &Shutdown,
    call: impl AsyncFn() -> Result<T, crate::store::Error>,
) -> Result<T, Error> {
    const NAME: &str = "postgres";
    let mut backoff = Backoff::default();
    loop {
        match call().await {
            Ok(value) => {
                health.good(NAME);
                return Ok(value);
            }
            Err(error) => health.bad(NAME, error),
        }
        wait(&mut backoff, shutdown).await?;
    }
}

async fn wait(backoff: &mut Backoff, shutdown: &Shutdown) -> Result<(), Error> {
    tokio::select! {
        () = tokio::time::sleep(backoff.next_wait()) => Ok(()),
        () = shutdown.quiesce.cancelled() => Err(Error::Stopped),
    }
}
