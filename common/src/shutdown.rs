//! How a process comes to its end: quiesce, drain, cancel.
//!
//! Created once in `main` and cloned down. The first SIGTERM or SIGINT asks everything to take on
//! nothing new and to finish what it holds; a second one, or the end of the grace period, asks it
//! to let go at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a process may take to finish what it holds.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(25);

/// The two stages of stopping.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take on nothing new; finish what is held.
    pub quiesce: CancellationToken,
    /// Let go of what is still held.
    pub cancel: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nothing has asked for yet. Dropping it asks for nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows the signals of this process from now on.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        let shutdown = Self::new();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(shutdown.clone().follow(terminate, interrupt, grace));
        Ok(shutdown)
    }

    async fn follow(self, mut terminate: Signal, mut interrupt: Signal, grace: Duration) {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = next().await;
        tracing::info!(
            grace_ms = grace.as_millis() as u64,
            "{first}: finishing what is held"
        );
        self.quiesce.cancel();
        match tokio::time::timeout(grace, next()).await {
            Ok(second) => tracing::warn!("{second} again: stopping at once"),
            Err(_) => tracing::warn!("the grace period is over: stopping at once"),
        }
        self.cancel.cancel();
    }

    /// Whether stopping has begun.
    pub fn is_requested(&self) -> bool {
        self.quiesce.is_cancelled()
    }
}
