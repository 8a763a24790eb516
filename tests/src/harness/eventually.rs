//! Waiting for what happens elsewhere: bounded, and looking at the state of things, never at
//! events that may be missed.

use std::fmt::Display;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// How often a condition is looked at, and for how long: longer than anything here takes on a
/// machine that is busy with something else.
const POLL: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` succeeds; the error is the last one that it gave.
pub async fn eventually<T>(
    what: impl Display,
    probe: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout(PATIENCE, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(last)) if Instant::now() >= deadline => {
                return Err(last.context(format!("waited {PATIENCE:?} until {what}")));
            }
            Ok(Err(_)) => tokio::time::sleep(POLL).await,
            Err(_) => bail!("waited {PATIENCE:?} until {what}: one look took all of it"),
        }
    }
}
