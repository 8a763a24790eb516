//! Waiting for what happens elsewhere: bounded, and looking at the state of things, never at
//! events that may be missed.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longer than anything here takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks. Short beside what is waited for, long beside what a look costs.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` answers `Ok`, and answers with that.
///
/// # Panics
///
/// After half a minute, with `what` was waited for and what was seen last.
pub async fn eventually<T, E: Display>(what: &str, look: impl AsyncFn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what}: not within {PATIENCE:?}; seen last: {seen}")
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
