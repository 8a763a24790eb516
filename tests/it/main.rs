//! The tests against real servers and real programs, one file for each property: `make test`.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests; clippy only knows functions that are marked"
)]

mod api_audiences;
mod api_bad_input;
mod api_batch;
mod api_campaigns;
mod api_dead_letters;
mod api_fixture;
mod api_jobs;
mod api_providers;
mod api_queues;
mod api_stops;
mod api_tenants;
mod api_trace;
mod cli_audiences;
mod cli_broker_users;
mod cli_campaigns;
mod cli_conventions;
mod cli_doctor;
mod cli_enqueue;
mod cli_fixture;
mod cli_jobs;
mod cli_queues;
mod cli_schedules;
mod cli_tenants;
mod cluster_bundles;
mod cluster_campaigns;
mod cluster_ledger;
mod cluster_library;
mod cluster_log;
mod cluster_lost_worker;
mod cluster_outage;
mod cluster_overload;
mod cluster_pace;
mod cluster_poison;
mod cluster_prefetch;
mod cluster_redelivery;
mod cluster_retention;
mod cluster_retry;
mod cluster_scheduler;
mod cluster_schedules;
mod cluster_shutdown;
mod cluster_signatures;
mod cluster_startup;
mod cluster_stops;
mod faults;
mod ledger;
mod metrics;
mod row_security;
mod schedules;
mod store_audiences;
mod store_audit;
mod store_claims;
mod store_enqueue;
mod store_enqueue_batch;
mod store_fixture;
mod store_fuzz;
mod store_gate;
mod store_housekeeping;
mod store_listener;
mod store_migrations;
mod store_outcomes;
mod store_overload;
mod store_pace;
mod store_retention;
mod store_schedules;
mod store_stops;
mod store_transitions;
mod tenant_defaults;
