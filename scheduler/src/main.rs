//! `postroad-scheduler`: reads its configuration, runs, and says how it ended.

use std::process::ExitCode;

use clap::Parser;
use postroad_common::config::Env;
use postroad_common::program;
use postroad_scheduler::config::Config;

/// Dispatches due jobs to RabbitMQ, retries failed ones, rescues lost ones, prunes old ones.
///
/// Run as many as you like: they share the work and have no leader.
#[derive(Parser)]
#[command(version, after_long_help = HELP)]
struct Args {}

const HELP: &str = "\
Configured by environment:
  DATABASE_URL           Postgres 15+ [postgres://postroad:postroad@127.0.0.1:5432/postroad]
  AMQP_URL               RabbitMQ 3.10+ [amqp://postroad:postroad@127.0.0.1:5672/postroad]
  POSTROAD_ADMIN_LISTEN  /healthz, /readyz, /metrics [a free port, logged]
  POSTROAD_LEASE         silence after which this process is called lost [30s]
  POSTROAD_GRACE         time to finish after SIGTERM [25s]
  POSTROAD_RETENTION     how long finished jobs are kept at most; a queue may have a shorter
                         retention (postroad queues set) [7d]
  POSTROAD_BUNDLE        jobs in one message at most, under backlog [50]
  POSTROAD_SHARED_PIPE   while a tenant waits for another one's backlog, a queue's pipe holds a job
                         for every place of its workers, and what leaves it in this time, such as
                         5ms [as much as its window allows]
  POSTROAD_LOG           log filter [info]
  POSTROAD_LOG_FORMAT    text or json [text]

Examples:
  postroad-scheduler
  DATABASE_URL=postgres://me@db/app POSTROAD_RETENTION=30d postroad-scheduler

Exit codes: 0 stopped as asked, 1 failed, 78 the configuration cannot be used.";

fn main() -> ExitCode {
    let Args {} = Args::parse();
    program::run(async { postroad_scheduler::run(Config::read(Env::of_process())?).await })
}
