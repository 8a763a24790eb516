//! One file per command: its arguments, its help, and what it does.

pub(crate) mod audiences;
pub(crate) mod audit;
pub(crate) mod campaigns;
pub(crate) mod completions;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod enqueue;
pub(crate) mod healthcheck;
pub(crate) mod jobs;
pub(crate) mod kinds;
pub(crate) mod ledger;
pub(crate) mod migrate;
pub(crate) mod operations;
pub(crate) mod providers;
pub(crate) mod queues;
pub(crate) mod recipients;
pub(crate) mod schedules;
pub(crate) mod stops;
pub(crate) mod suppressions;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod top;
pub(crate) mod topology;
mod values;
pub(crate) mod workers;
