//! Runs jobs: a library for your own kinds, and a program with the built-in ones.

mod handler;
pub mod kinds;

pub use handler::{Done, Handler, JobContext, JobError};
pub use postroad_common::job::{JobId, KindPolicy, OnLost};
