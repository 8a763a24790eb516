//! Runs jobs. A library for your own kinds, and a program with the built-in ones.
//!
//! A worker keeps nothing: kill it at any moment, and what it had in hand is delivered again,
//! retried, or held, as each kind says. A delivery goes through five stages, each a task of its own:
//!
//! ```text
//! consumer ─ deliveries ─► gate ─ started ─► executor ─ outcomes ─► finisher ─ committed ─► settler
//! ```
//!
//! See `examples/greet.rs` for a worker with a kind of its own.

mod args;
mod breaker;
mod canceller;
pub mod config;
mod consumer;
mod destinations;
mod executor;
mod finisher;
mod gate;
mod gather;
mod handler;
mod inflight;
mod intake;
pub mod kinds;
mod metrics;
mod prefetch;
mod registry;
mod releaser;
mod settings;
mod worker;

pub use config::Config;
pub use destinations::Destination;
pub use handler::{CompleteInError, Done, Handler, JobContext, JobError};
pub use postroad_common::config::Env;
pub use postroad_common::job::{JobId, KindPolicy, OnLost, ProviderFailure};
pub use postroad_common::program;
pub use registry::RegisterError;
pub use worker::{Builder, Worker};
