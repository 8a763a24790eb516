//! `postroad`: the command line.

mod cluster;
mod commands;
mod output;
mod setup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use postroad_common::program;

/// Scheduled jobs and bulk notifications: Postgres, RabbitMQ, and any number of workers.
#[derive(Parser)]
#[command(version, propagate_version = true, after_long_help = HELP)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Commands that use servers find them by DATABASE_URL and AMQP_URL.

Examples:
  postroad dev                                      private servers, a scheduler, two workers
  postroad enqueue --kind echo --args '{\"n\":1}'     one job
  postroad jobs list --state held                   what waits for a decision
  postroad ledger                                   where every accepted job is

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the ledger has an alarm,
78 the configuration cannot be used.";

#[derive(Subcommand)]
enum Command {
    Dev(commands::dev::Args),
    Demo(commands::demo::Args),
    Migrate(commands::migrate::Args),
    Enqueue(commands::enqueue::Args),
    Jobs(commands::jobs::Args),
    Ledger(commands::ledger::Args),
    Topology(commands::topology::Args),
    Healthcheck(commands::healthcheck::Args),
}

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    if matches!(command, Command::Dev(_) | Command::Demo(_)) {
        // On the main thread, which lives as long as the process.
        if let Err(error) = postroad_provision::stop_with_parent() {
            eprintln!("warning: {error}");
        }
    }
    program::run(async {
        let done: anyhow::Result<()> = match command {
            // The only command whose answer is an exit code.
            Command::Ledger(args) => return commands::ledger::run(args).await,
            Command::Dev(args) => commands::dev::run(args).await,
            Command::Demo(args) => commands::demo::run(args).await,
            Command::Migrate(args) => commands::migrate::run(args).await,
            Command::Enqueue(args) => commands::enqueue::run(args).await,
            Command::Jobs(args) => commands::jobs::run(args).await,
            Command::Topology(args) => commands::topology::run(args).await,
            Command::Healthcheck(args) => commands::healthcheck::run(args).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    })
}
