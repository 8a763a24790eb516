//! What every connection is told when it opens, and how we know that it arrived.
//!
//! A pooler may take a client's startup parameters and not pass them on. Postgres would then answer
//! every statement as ever, and keep less than Postroad promises; so a connection on which the
//! settings did not arrive is never used.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError};
use tokio_postgres::SimpleQueryMessage;

/// As long as a connection may take to be opened; it adds to what a caller waits at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The hot statements know their rows by index. A table that was empty when a plan was cached, or
/// whose statistics are a minute old, must not turn them into scans of a million rows, so plans
/// are made anew with the values at hand and a scan is the last choice. A commit that guards an
/// effect must be on disk, and a claim must see what was committed before it got its lock, whatever
/// the defaults of the role or the database are. What takes long, as a count of five million jobs does,
/// takes one processor and no more.
///
/// The last one means nothing to Postgres: where it arrived, so did the others.
pub(super) const OPTIONS: &str = "-c synchronous_commit=on \
    -c default_transaction_isolation=read\\ committed -c plan_cache_mode=force_custom_plan -c enable_seqscan=off \
    -c jit=off -c max_parallel_workers_per_gather=0 -c statement_timeout=9s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s \
    -c postroad.options=arrived";

const ASK: &str = "select 1 where current_setting('postroad.options', true) = 'arrived'";

/// Why a database behind some poolers cannot be used.
pub(super) const NOT_TOLD: &str = "the settings of the session did not reach Postgres: a pooler \
    keeps the startup parameter `options` to itself. Connect to Postgres directly, or through a \
    pooler that passes `options` on and gives each client a session of its own";

const SILENT: &str = "Postgres did not say in time how the session is set";

/// Looks at a new connection before anybody gets it.
pub(super) fn check() -> Hook {
    Hook::async_fn(|client, _| {
        Box::pin(async move {
            // The pool bounds the making of a connection and not this.
            let asked = tokio::time::timeout(ANSWER_LIMIT, client.simple_query(ASK)).await;
            let messages = asked
                .map_err(|_| HookError::message(SILENT))?
                .map_err(HookError::Backend)?;
            let is_row = |message| matches!(message, SimpleQueryMessage::Row(_));
            if messages.into_iter().any(is_row) {
                return Ok(());
            }
            Err(HookError::message(NOT_TOLD))
        })
    })
}
