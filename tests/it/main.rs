//! The tests against real servers and real programs, one file for each property.

mod cluster_lost_worker;
mod cluster_outage;
mod cluster_poison;
mod cluster_redelivery;
mod cluster_retry;
mod cluster_scheduler;
mod cluster_shutdown;
mod cluster_startup;
