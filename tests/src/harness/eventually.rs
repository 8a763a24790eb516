//! Waiting for what happens elsewhere: bounded, and looking at the state of things, never at
//! events that may be missed.

use std::fmt::Display;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// How often a condition is looked at, and for how long it may show no progress: longer than anything
/// here takes on a machine that is busy with something else.
const POLL: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long at all.
const PATIENCE_MAX: Duration = Duration::from_secs(180);

/// Waits until `probe` succeeds; the error is the last one that it gave. As long as the errors differ,
/// such as by a count of what is done, it is on its way.
pub async fn eventually<T>(
    what: impl Display,
    probe: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let (mut seen, mut changed_at) = (String::new(), began);
    loop {
        match tokio::time::timeout(PATIENCE, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(last)) => {
                let now = format!("{last:#}");
                if now != seen {
                    (seen, changed_at) = (now, Instant::now());
                }
                if changed_at.elapsed() >= PATIENCE || began.elapsed() >= PATIENCE_MAX {
                    let waited = began.elapsed();
                    return Err(last.context(format!("waited {waited:.0?} until {what}")));
                }
                tokio::time::sleep(POLL).await;
            }
            Err(_) => bail!("waited {PATIENCE:?} until {what}: one look took all of it"),
        }
    }
}

/// Waits until `look` says that what has just been changed is in force, which no look may deny that
/// begins later than `within` from now. How long a look takes does not matter.
pub async fn in_force_within<T>(
    within: Duration,
    what: impl Display,
    look: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let changed_at = Instant::now();
    loop {
        let began_after = changed_at.elapsed();
        match tokio::time::timeout(PATIENCE, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(denied)) if began_after >= within => {
                return Err(denied.context(format!("{what}: not yet after {began_after:?}")));
            }
            Ok(Err(_)) => tokio::time::sleep(POLL).await,
            Err(_) => bail!("{what}: one look took {PATIENCE:?}"),
        }
    }
}
