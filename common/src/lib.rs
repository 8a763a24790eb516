//! What more than one Postroad program needs, in rooms that know as little as they can.
//!
//! | room | for | must not know |
//! |---|---|---|
//! | [`job`], [`message`] | what a job and its message are | tokio, SQL, AMQP, clocks |
//! | [`config`] | reading the environment | what any variable means |
//! | [`mod@failpoint`] | where tests make a process die; nothing in a release build | everything else |
//! | `egress` (feature) | where webhooks may go | DNS, HTTP |
//! | `campaign` (feature) | what a campaign says, to whom, and when they are reached | tokio, SQL, AMQP, clocks |
//! | `draft` (`campaign` and `store`) | drafts of campaigns: made, given recipients, previewed | SQL, HTTP |
//! | [`zone`] | what the name of a time zone is | clocks |
//! | `broker` (feature) | the only room that knows AMQP | SQL |
//! | `store` (feature) | the only room that knows SQL | AMQP |
//! | `schedule` (feature `store`) | when a cron expression ticks | clocks, SQL |
//! | `audience` (feature `store`) | whom a message is for: recipients and rules | clocks, SQL |
//! | `timeline` (feature `store`) | what recipients are shown in the product itself, and what of it they have read | clocks, SQL |
//! | `token` (feature `store`) | what an API token looks like | SQL |
//! | `audit` (both features) | what a look at the ledger and the queues means | SQL, AMQP |
//! | `service`, `shutdown`, `health`, `telemetry`, `startup`, `membership` | the skeleton of a long-running process | jobs |
//!
//! The features are walls: a program that asks for `store` alone cannot reach the broker.

#[cfg(feature = "store")]
pub mod audience;
pub mod config;
#[cfg(feature = "egress")]
pub mod egress;
pub mod failpoint;
pub mod job;
pub mod message;
pub mod text;
pub mod zone;

#[cfg(feature = "campaign")]
pub mod campaign;

#[cfg(feature = "runtime")]
pub mod backoff;
#[cfg(feature = "runtime")]
pub mod health;
#[cfg(feature = "store")]
pub mod membership;
#[cfg(feature = "runtime")]
pub mod program;
#[cfg(feature = "store")]
pub mod schedule;
#[cfg(feature = "runtime")]
pub mod service;
#[cfg(feature = "store")]
pub mod settings;
#[cfg(feature = "runtime")]
pub mod shutdown;
#[cfg(feature = "runtime")]
pub mod startup;
#[cfg(feature = "runtime")]
pub mod telemetry;

#[cfg(all(feature = "broker", feature = "store"))]
pub mod audit;
#[cfg(feature = "broker")]
pub mod broker;
#[cfg(all(feature = "campaign", feature = "store"))]
pub mod draft;
#[cfg(feature = "store")]
pub mod store;
#[cfg(feature = "store")]
pub mod timeline;
#[cfg(feature = "store")]
pub mod token;
