//! `postroad`: the command line.

mod actor;
mod ask;
mod cluster;
mod commands;
mod exit;
mod lines;
mod management;
mod output;
mod setup;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use postroad_common::program;

/// Scheduled jobs and bulk notifications: Postgres, RabbitMQ, and any number of workers.
#[derive(Parser)]
#[command(version, propagate_version = true, after_long_help = help())]
struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Commands that use servers find them by DATABASE_URL and AMQP_URL. Data goes to standard output,
everything else to standard error; --json prints one object a line, with the fields of the API.

Examples:
  postroad dev                                      private servers, a scheduler, two workers
  postroad enqueue --kind echo --args '{\"n\":1}'     one job
  postroad jobs list --state held                   what waits for a decision
  postroad ledger                                   where every accepted job is
  postroad doctor                                   what is wrong, and what to do about it
";

fn help() -> String {
    format!("{HELP}\n{}", exit::CODES)
}

#[derive(Subcommand)]
enum Command {
    Dev(commands::dev::Args),
    Demo(commands::demo::Args),
    Migrate(commands::migrate::Args),
    Doctor(commands::doctor::Args),
    Top(commands::top::Args),
    Enqueue(commands::enqueue::Args),
    Jobs(commands::jobs::Args),
    DeadLetters(commands::dead_letters::Args),
    Operations(commands::operations::Args),
    Queues(commands::queues::Args),
    Providers(commands::providers::Args),
    Stops(commands::stops::Args),
    Schedules(commands::schedules::Args),
    Audiences(commands::audiences::Args),
    Recipients(commands::recipients::Args),
    Campaigns(commands::campaigns::Args),
    Suppressions(commands::suppressions::Args),
    Announcements(commands::announcements::Args),
    Timeline(commands::timeline::Args),
    Kinds(commands::kinds::Args),
    Workers(commands::workers::Args),
    Tenants(commands::tenants::Args),
    Tokens(commands::tokens::Args),
    Audit(commands::audit::Args),
    Ledger(commands::ledger::Args),
    Topology(commands::topology::Args),
    Healthcheck(commands::healthcheck::Args),
    Completions(commands::completions::Args),
    Man(commands::completions::ManArgs),
}

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    if matches!(command, Command::Dev(_) | Command::Demo(_)) {
        // On the main thread, which lives as long as the process.
        if let Err(error) = postroad_provision::stop_with_parent() {
            output::note(format_args!("warning: {error}"));
        }
    }
    program::run(async {
        let ended = run(command)
            .await
            .unwrap_or_else(|error| exit::report(&error));
        anyhow::Ok(ended)
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // The commands whose answer is an exit code.
        Command::Ledger(args) => return commands::ledger::run(args).await,
        Command::Doctor(args) => return commands::doctor::run(args).await,
        Command::Dev(args) => commands::dev::run(args).await,
        Command::Demo(args) => commands::demo::run(args).await,
        Command::Migrate(args) => commands::migrate::run(args).await,
        Command::Top(args) => commands::top::run(args).await,
        Command::Enqueue(args) => commands::enqueue::run(args).await,
        Command::Jobs(args) => commands::jobs::run(args).await,
        Command::DeadLetters(args) => commands::dead_letters::run(args).await,
        Command::Operations(args) => commands::operations::run(args).await,
        Command::Queues(args) => commands::queues::run(args).await,
        Command::Providers(args) => commands::providers::run(args).await,
        Command::Stops(args) => commands::stops::run(args).await,
        Command::Schedules(args) => commands::schedules::run(args).await,
        Command::Audiences(args) => commands::audiences::run(args).await,
        Command::Recipients(args) => commands::recipients::run(args).await,
        Command::Campaigns(args) => commands::campaigns::run(args).await,
        Command::Suppressions(args) => commands::suppressions::run(args).await,
        Command::Announcements(args) => commands::announcements::run(args).await,
        Command::Timeline(args) => commands::timeline::run(args).await,
        Command::Kinds(args) => commands::kinds::run(args).await,
        Command::Workers(args) => commands::workers::run(args).await,
        Command::Tenants(args) => commands::tenants::run(args).await,
        Command::Tokens(args) => commands::tokens::run(args).await,
        Command::Audit(args) => commands::audit::run(args).await,
        Command::Topology(args) => commands::topology::run(args).await,
        Command::Healthcheck(args) => commands::healthcheck::run(args).await,
        Command::Completions(args) => commands::completions::run(args, Args::command()),
        Command::Man(args) => commands::completions::man(args, Args::command()),
    }?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod help_tests;
