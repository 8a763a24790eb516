//! Waiting for a server to answer.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::process::Child;

/// A broker's first start on a busy machine takes some ten seconds.
const START_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Returns when the probe says yes; a server that ends first, or takes too long, is an error.
pub(crate) async fn wait_until_ready(
    server: &mut Child,
    probe: impl AsyncFn() -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + START_LIMIT;
    while !probe().await {
        if let Some(status) = server.try_wait()? {
            return Err(server.exited(status));
        }
        if Instant::now() >= deadline {
            let error = server.not_ready(START_LIMIT);
            server.kill().await?;
            return Err(error);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
