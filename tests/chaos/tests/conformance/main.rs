//! The models of the simulation answer as the real servers do: the same operations on both, and
//! after each one the same answer and the same rows.
//!
//! What a model gets wrong here, ten thousand seeds would prove about the wrong thing.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests; clippy only knows functions that are marked"
)]

mod broker;
mod doors;
mod model;
mod real;
mod script;
mod store;
