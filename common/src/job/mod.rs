//! What a job is. Pure: no tokio, no SQL, no AMQP, no clock.

mod id;
mod input;
mod kind;
mod name;
mod new_job;
mod provider;
pub mod retry;
mod state;

pub use id::{InvalidJobId, JobId};
pub use input::{InputError, JobInput};
pub use kind::{InvalidOnLost, KindPolicy, OnLost};
pub use name::{InvalidName, KindName, NAME_BYTES_MAX, ProviderName, QueueName, TenantName};
pub use new_job::{
    ARGS_BYTES_MAX, ARGS_NESTING_MAX, DEDUP_FOR, InvalidJob, NewJob, RunAt, TRACEPARENT_BYTES_MAX,
};
pub use provider::ProviderFailure;
pub use state::{IllegalTransition, JobEvent, JobState};
