//! `postroad workers`: the processes that run, and what each has in hand.

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use postroad_common::store::{ProcessRow, Store};

use crate::output::{self, Table, moment, stretch};
use crate::setup::Setup;

/// Looks at workers, schedulers and API processes.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad workers list
  postroad workers list --role worker --json | jq -s 'map(.jobs) | add'";

#[derive(Subcommand)]
enum Command {
    /// Lists the processes that run, as a table or one JSON object a line.
    #[command(after_long_help = "\
A process that has not been heard of for its lease is silent, until a scheduler calls it lost.

Examples:
  postroad workers list
  postroad workers list --role worker
  postroad workers list --all --json | jq 'select(.state == \"lost\")'")]
    List {
        /// Those too that have ended in the last day.
        #[arg(long)]
        all: bool,
        /// Only of this role.
        #[arg(long, value_parser = PossibleValuesParser::new(["scheduler", "worker", "api"]))]
        role: Option<String>,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Command::List { all, role, json } = args.command;
    let store = Setup::of_process()?.current_store().await?;
    list(&store, all, role.as_deref(), json).await
}

async fn list(store: &Store, all: bool, role: Option<&str>, json: bool) -> anyhow::Result<()> {
    let processes = store.processes(all, role).await?;
    match json {
        true => output::json_lines(&processes),
        false => output::table(&table(&processes)),
    }
}

/// Processes for people, here and in `postroad top`.
pub(crate) fn table(processes: &[ProcessRow]) -> Table {
    let mut table = Table::new([
        "ID", "ROLE", "STATE", "HEARD", "JOBS", "HOST", "PID", "VERSION", "QUEUES", "SINCE",
    ])
    .right([0, 3, 4, 6]);
    for process in processes {
        table.row([
            process.id.to_string(),
            process.role.clone(),
            process.state.clone(),
            stretch(process.seen_seconds),
            process.jobs.to_string(),
            process.host.clone(),
            process.pid.to_string(),
            process.version.clone(),
            process.queues.join(","),
            moment(process.started_at),
        ]);
    }
    table
}
