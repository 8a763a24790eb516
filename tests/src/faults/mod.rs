//! What breaks servers, programs, disks and clocks.
//!
//! Every call returns when the fault is in force, or healed, and not before. What waits is bounded,
//! and its error says what it waited for.
//!
//! | of | here | elsewhere |
//! |---|---|---|
//! | RabbitMQ | [`rabbitmq`]: alarms, consumer timeout, connections closed, churn, exact depths | `postroad_provision::RabbitMq`: kill, restart, wipe, pause |
//! | Postgres | [`postgres`]: sessions ended, a backend killed, a lock held, no connection left | `postroad_provision::Postgres`: kill, restart, pause |
//! | a pooler | | `postroad_provision::PgBouncer` |
//! | the disk of both | [`disk`] | |
//! | programs | [`clock`], [`footprint`] | [`Cluster`](crate::harness::cluster::Cluster): kill, pause, signals |
//! | wires | | [`proxy`](crate::proxy) |

pub mod clock;
pub mod disk;
pub mod footprint;
pub mod postgres;
pub mod rabbitmq;
