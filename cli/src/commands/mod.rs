//! One file per command: its arguments, its help, and what it does.

pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod enqueue;
pub(crate) mod healthcheck;
pub(crate) mod jobs;
pub(crate) mod ledger;
pub(crate) mod migrate;
pub(crate) mod topology;
