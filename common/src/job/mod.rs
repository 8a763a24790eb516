//! What a job is. Pure: no tokio, no SQL, no AMQP, no clock.

mod id;
mod kind;

pub use id::{InvalidJobId, JobId};
pub use kind::{InvalidOnLost, KindPolicy, OnLost};
