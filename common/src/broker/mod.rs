//! The only room that knows AMQP.
//!
//! * [`Broker`] opens connections, each with a name that tells a reader of the broker's own pages
//!   whose it is. Publishing and consuming never share one: a connection that the broker blocks
//!   writes nothing, acks included.
//! * [`topology`] says what exists in the broker and why, [`users`] who may do what with it.
//! * [`Publisher`] owns the one confirm channel of a process.
//! * [`Subscription`] is one consumer on one channel; its [`Settler`] owns the acks of that channel,
//!   so an ack can never reach another channel than the one that delivered.
//! * [`DepthReader`] asks queues how many messages wait in them.
//! * [`Diagnosis`] is what the broker says of itself and of whoever asks.
//!
//! lapin's own recovery stays off: whoever uses a connection rebuilds it, with everything on it,
//! when anything on it ends.

mod codec;
mod connection;
mod consumer;
mod depth;
mod diagnosis;
mod error;
mod publisher;
pub mod topology;
pub mod users;

pub use codec::{DeathReason, RawMessage};
pub use connection::{Broker, Connection, Settings};
pub use consumer::{Delivery, Settle, Settler, Subscription};
pub use depth::{Depth, DepthReader};
pub use diagnosis::{Diagnosis, Refused};
pub use error::Error;
pub use publisher::{CONFIRM_WINDOW, Outgoing, Published, Publisher};

use std::time::Duration;

/// The longest wait for an answer of the broker. Nothing here waits without a bound.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds one call to the broker.
async fn within<T>(
    operation: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(|source| Error::Call { operation, source }),
        Err(_) => Err(Error::Timeout { operation }),
    }
}
