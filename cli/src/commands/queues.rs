//! `postroad queues`: look at queues, pause and set them. What is set is read with the next claim.

use std::time::Duration;

use clap::Subcommand;
use postroad_common::job::{ProviderName, QueueName};
use postroad_common::store::{Changed, OnFull, QueueChange, QueueRow, Store};

use super::values::{Limit, days, duration, prefetch, provider, rate, waiting};
use crate::exit;
use crate::output::{self, Table, line, note, number_or, stretch};
use crate::setup::Setup;

/// Looks at queues, pauses and sets them.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad queues list
  postroad queues pause sms              nothing more is dispatched; what runs goes on
  postroad queues set sms --rate 50      fifty jobs a second, over all schedulers";

#[derive(Subcommand)]
enum Command {
    /// Lists queues with what is in them, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad queues list
  postroad queues list --json | jq -r 'select(.paused_at) | .name'")]
    List {
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one queue.
    #[command(after_long_help = "\
Examples:
  postroad queues get sms
  postroad queues get sms --json | jq .oldest_due_seconds")]
    Get {
        #[arg(value_name = "QUEUE")]
        name: QueueName,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Dispatches nothing more of it. Jobs that are in the pipe or run go on.
    #[command(after_long_help = "Examples:\n  postroad queues pause sms")]
    Pause {
        #[arg(value_name = "QUEUE")]
        name: QueueName,
    },
    /// Dispatches its jobs again.
    #[command(after_long_help = "Examples:\n  postroad queues resume sms")]
    Resume {
        #[arg(value_name = "QUEUE")]
        name: QueueName,
    },
    /// Sets what is given, and leaves the rest.
    #[command(after_long_help = "\
Examples:
  postroad queues set sms --rate 50
  postroad queues set sms --rate none --prefetch 20
  postroad queues set webhooks --window 5000 --pipe-ttl 2m
  postroad queues set sms --retention-days 2
  postroad queues set sms --provider gateway
  postroad queues set push --waiting-max 300000 --on-full drop")]
    Set {
        #[arg(value_name = "QUEUE")]
        name: QueueName,
        /// How many of its jobs may be between the claim and the finish line (1 to 100000).
        #[arg(long, value_name = "JOBS", value_parser = clap::value_parser!(i32).range(1..=100_000))]
        window: Option<i32>,
        /// How long a message may wait in RabbitMQ before its job goes back to scheduled (1s to 1d).
        #[arg(long, value_name = "DURATION", value_parser = pipe_ttl)]
        pipe_ttl: Option<Duration>,
        /// How many of its jobs a worker runs at once (1 to 2000), or `none`: as POSTROAD_PREFETCH says.
        #[arg(long, value_name = "JOBS", value_parser = prefetch)]
        prefetch: Option<Limit<i32>>,
        /// How many of its jobs may enter the pipe in a second, over all schedulers, or `none`.
        #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
        rate: Option<Limit<i32>>,
        /// After how many whole days its finished jobs are forgotten (1 to 3650), or `none`: as
        /// POSTROAD_RETENTION says, which is the longest in any case.
        #[arg(long, value_name = "DAYS", value_parser = days)]
        retention_days: Option<Limit<i32>>,
        /// Whose limits its jobs keep to, beside its own (see `postroad providers`), or `none`.
        #[arg(long, value_name = "PROVIDER", value_parser = provider)]
        provider: Option<Limit<ProviderName>>,
        /// How many of its jobs may be due and wait (1 to 2000000000), or `none`.
        #[arg(long, value_name = "JOBS", value_parser = waiting)]
        waiting_max: Option<Limit<i32>>,
        /// What becomes of more: reject (not accepted), drop (the lowest class is shed), defer (the same,
        /// a minute or two later), coalesce (all but the newest of each key, then as with drop).
        #[arg(long, value_name = "POLICY", value_parser = on_full)]
        on_full: Option<OnFull>,
    },
}

fn pipe_ttl(text: &str) -> Result<Duration, &'static str> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    duration(text)
        .ok()
        .filter(|time| allowed.contains(time))
        .ok_or("a duration from 1s to 1d is expected")
}

fn on_full(text: &str) -> Result<OnFull, &'static str> {
    OnFull::of_name(text).ok_or("reject, drop, defer or coalesce is expected")
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let change = match &args.command {
        Command::Set {
            window,
            pipe_ttl,
            prefetch,
            rate,
            retention_days,
            provider,
            waiting_max,
            on_full,
            ..
        } => Some(QueueChange {
            window_size: *window,
            pipe_ttl: *pipe_ttl,
            prefetch: prefetch.map(|limit| limit.0),
            rate_per_second: rate.map(|limit| limit.0),
            retention_days: retention_days.map(|limit| limit.0),
            provider: provider
                .as_ref()
                .map(|name| name.0.as_ref().map(ToString::to_string)),
            waiting_max: waiting_max.map(|limit| limit.0),
            on_full: *on_full,
        }),
        _ => None,
    };
    if change
        .as_ref()
        .is_some_and(|change| *change == QueueChange::default())
    {
        return Err(exit::usage(
            "nothing to set: give --window, --pipe-ttl, --prefetch, --rate, --retention-days, --provider, --waiting-max or --on-full",
        ));
    }
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::List { json } => list(&store, json).await,
        Command::Get { name, json } => get(&store, &name, json).await,
        Command::Pause { name } => pause(&store, &name, true).await,
        Command::Resume { name } => pause(&store, &name, false).await,
        Command::Set { name, .. } => set(&store, &name, &change.unwrap_or_default()).await,
    }
}

async fn queue(store: &Store, name: &QueueName) -> anyhow::Result<QueueRow> {
    let mut queues = store.queues(Some(name.as_str())).await?;
    queues.pop().ok_or_else(|| no_queue(name))
}

fn no_queue(name: &QueueName) -> anyhow::Error {
    exit::not_found(format_args!(
        "there is no queue `{name}`: the first job or worker that names one makes it"
    ))
}

async fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let queues = store.queues(None).await?;
    if json {
        return output::json_lines(&queues);
    }
    let mut table = Table::new([
        "QUEUE",
        "DUE",
        "OLDEST",
        "PIPE",
        "RUNNING",
        "FAILED",
        "HELD",
        "STOPPED",
        "PAUSED",
        "WINDOW",
        "TTL",
        "PREFETCH",
        "RATE",
        "RETENTION",
        "PROVIDER",
    ])
    .of_names()
    .right(1..=7)
    .right(9..=13);
    for queue in &queues {
        table.row([
            queue.name.clone(),
            queue.due.to_string(),
            queue
                .oldest_due_seconds
                .map_or_else(|| "-".to_owned(), stretch),
            queue.dispatched.to_string(),
            queue.running.to_string(),
            queue.failed.to_string(),
            queue.held.to_string(),
            queue.stopped.to_string(),
            output::moment_or(queue.paused_at, "no"),
            queue.window_size.to_string(),
            stretch(queue.pipe_ttl_seconds),
            number_or(queue.prefetch, "-"),
            number_or(queue.rate_per_second, "-"),
            retention_or(queue, "-"),
            queue.provider.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output::table(&table)
}

fn retention_or(queue: &QueueRow, none: &str) -> String {
    number_or(queue.retention_days.map(|days| format!("{days}d")), none)
}

async fn get(store: &Store, name: &QueueName, json: bool) -> anyhow::Result<()> {
    let queue = queue(store, name).await?;
    if json {
        return line(serde_json::to_string(&queue)?);
    }
    output::pairs(&[
        ("queue", queue.name.clone()),
        ("paused", output::moment_or(queue.paused_at, "no")),
        ("window", queue.window_size.to_string()),
        ("pipe ttl", stretch(queue.pipe_ttl_seconds)),
        ("prefetch", number_or(queue.prefetch, "as the worker says")),
        ("rate per second", number_or(queue.rate_per_second, "none")),
        ("retention", retention_or(&queue, "as the scheduler says")),
        (
            "provider",
            queue.provider.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        ("waiting max", number_or(queue.waiting_max, "none")),
        ("when full", queue.on_full.clone()),
        ("full", output::moment_or(queue.full_at, "no")),
        ("due", queue.due.to_string()),
        (
            "oldest due",
            queue
                .oldest_due_seconds
                .map_or_else(|| "-".to_owned(), stretch),
        ),
        ("dispatched", queue.dispatched.to_string()),
        ("running", queue.running.to_string()),
        ("failed", queue.failed.to_string()),
        ("held", queue.held.to_string()),
        ("stopped", queue.stopped.to_string()),
    ])
}

async fn pause(store: &Store, name: &QueueName, pause: bool) -> anyhow::Result<()> {
    let now = if pause { "paused" } else { "not paused" };
    match store.pause_queue(name.as_str(), pause).await? {
        Changed::Done => note(format_args!("queue `{name}` is {now}")),
        Changed::Already => note(format_args!("queue `{name}` was {now} before")),
        Changed::NotThere => return Err(no_queue(name)),
    }
    Ok(())
}

async fn set(store: &Store, name: &QueueName, change: &QueueChange) -> anyhow::Result<()> {
    if !store.set_queue(name.as_str(), change).await? {
        queue(store, name).await?;
        return Err(exit::not_found(
            "there is no such provider: `postroad providers set` makes one",
        ));
    }
    note(format_args!("queue `{name}` is set"));
    Ok(())
}
