//! `postroad operations`: what was asked for many jobs at once, and how far it is.

use std::time::Duration;

use clap::Subcommand;
use indicatif::ProgressBar;
use postroad_common::store::{self, Operation, Store};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note};
use crate::setup::Setup;

/// Looks at what was asked for many jobs at once, and stops it.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Schedulers do the work: it goes on whoever watches.

Examples:
  postroad operations list
  postroad operations get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --watch
  postroad operations stop 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a";

#[derive(Subcommand)]
enum Command {
    /// Lists operations, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad operations list
  postroad operations list --json | jq -r 'select(.state == \"running\") | .id'")]
    List {
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one operation.
    #[command(after_long_help = "\
Examples:
  postroad operations get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad operations get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --watch --json | jq .done")]
    Get {
        id: Uuid,
        /// Wait until it has ended.
        #[arg(long)]
        watch: bool,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Goes no further with it. What is done stays done.
    #[command(after_long_help = "\
Examples:
  postroad operations stop 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Stop { id: Uuid },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::List { limit, json } => list(&store, limit, json).await,
        Command::Get { id, watch, json } => {
            let mut operation = operation(&store, id).await?;
            if watch {
                let Some(ended) = follow(&store, operation).await? else {
                    return Ok(());
                };
                operation = ended;
            }
            show(&operation, json)
        }
        Command::Stop { id } => stop(&store, id).await,
    }
}

async fn operation(store: &Store, id: Uuid) -> anyhow::Result<Operation> {
    let mut found = store.operations(Some(id), 1).await?;
    found
        .pop()
        .ok_or_else(|| exit::not_found(format_args!("there is no operation {id}")))
}

async fn list(store: &Store, limit: i64, json: bool) -> anyhow::Result<()> {
    let operations = store.operations(None, limit).await?;
    if json {
        return output::json_lines(&operations);
    }
    let mut table = Table::new([
        "ID", "ACTION", "STATE", "DONE", "PLANNED", "BEGUN AT", "ENDED AT", "BY",
    ])
    .right([3, 4]);
    for operation in &operations {
        table.row([
            operation.id.to_string(),
            operation.action.clone(),
            operation.state.clone(),
            operation.done.to_string(),
            operation.planned.to_string(),
            moment(operation.created_at),
            moment_or(operation.finished_at, "-"),
            operation.actor.clone(),
        ]);
    }
    output::table(&table)
}

/// One operation, for people or programs.
pub(crate) fn show(operation: &Operation, json: bool) -> anyhow::Result<()> {
    if json {
        return line(serde_json::to_string(operation)?);
    }
    output::pairs(&[
        ("operation", operation.id.to_string()),
        ("action", operation.action.clone()),
        ("state", operation.state.clone()),
        ("done", operation.done.to_string()),
        ("planned", operation.planned.to_string()),
        ("begun at", moment(operation.created_at)),
        ("last step at", moment(operation.updated_at)),
        ("ended at", moment_or(operation.finished_at, "-")),
        ("by", operation.actor.clone()),
    ])
}

async fn stop(store: &Store, id: Uuid) -> anyhow::Result<()> {
    if !store.stop_operation(id).await? {
        let operation = operation(store, id).await?;
        return Err(exit::conflict(format_args!(
            "operation {id} is {} already",
            operation.state
        )));
    }
    note(format_args!("operation {id} goes no further"));
    Ok(())
}

/// How often is looked how far it is.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Watches until the operation has ended; none: Ctrl-C came first, and it goes on.
pub(crate) async fn follow(
    store: &Store,
    operation: Operation,
) -> anyhow::Result<Option<Operation>> {
    let id = operation.id;
    // Before anything is shown: whoever sees it may press Ctrl-C.
    let mut interrupted = signal(SignalKind::interrupt())?;
    warn_without_scheduler(store).await?;
    let bar = output::bar(Some(u64::try_from(operation.planned).unwrap_or(0)), "jobs");
    let watched = tokio::select! {
        ended = until_ended(store, operation, &bar) => Some(ended?),
        _ = interrupted.recv() => None,
    };
    bar.finish_and_clear();
    if watched.is_none() {
        note(format_args!(
            "operation {id} goes on.\nwatch it again:  postroad operations get {id} --watch\n\
             stop it:         postroad operations stop {id}"
        ));
    }
    Ok(watched)
}

/// Says so where nothing will happen.
pub(super) async fn warn_without_scheduler(store: &Store) -> anyhow::Result<()> {
    let schedulers = store.processes(false, Some("scheduler")).await?;
    if !schedulers.iter().any(|one| one.state == "running") {
        note("no scheduler runs: nothing happens until one does");
    }
    Ok(())
}

async fn until_ended(
    store: &Store,
    mut operation: Operation,
    bar: &ProgressBar,
) -> anyhow::Result<Operation> {
    loop {
        bar.set_position(u64::try_from(operation.done).unwrap_or(0));
        if operation.state != "running" {
            return Ok(operation);
        }
        tokio::time::sleep(LOOK).await;
        match self::operation(store, operation.id).await {
            Ok(now) => operation = now,
            Err(error) if is_transient(&error) => {
                bar.suspend(|| note(format_args!("{error}: trying again")));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the same may go well in a moment.
pub(super) fn is_transient(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(error) if store::Error::is_transient(error))
}
