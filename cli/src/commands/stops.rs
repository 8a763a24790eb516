//! `postroad stops`: the kill switch. What is stopped does not begin; what it did is shown.

use clap::{Subcommand, ValueEnum};
use postroad_common::job::{KindName, ProviderName, QueueName, TenantName};
use postroad_common::store::{NewStop, Stop, StopMode, StopScope, Store};
use uuid::Uuid;

use super::values::reason;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note};
use crate::setup::Setup;

/// Stops jobs from being started, and lifts such stops.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
A stop is in force when the command returns: no attempt of what it names begins after that, be its
message in RabbitMQ, in a worker's hands or on its way to another attempt.

Examples:
  postroad stops create --tenant acme --reason 'texts are wrong'    nothing of acme goes out
  postroad stops list                                               what is stopped, and by whom
  postroad stops lift 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a          and it goes on";

#[derive(Subcommand)]
enum Command {
    /// Stops the jobs of a tenant, in a queue, of a kind, of a provider: those for which all that is given fits.
    #[command(after_long_help = "\
Shows where the named jobs are. `too late` are those that run: they end as they would, and are not
tried again while the stop is in force.

Examples:
  postroad stops create --tenant acme
  postroad stops create --kind sms --queue bulk --reason 'gateway sends everything twice'
  postroad stops create --tenant acme --kind sms --mode cancel --yes")]
    Create(New),
    /// Lists stops that are in force, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad stops list
  postroad stops list --all --json | jq -r .actor")]
    List {
        /// Those too that are over.
        #[arg(long)]
        all: bool,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one stop: what it has stopped, and where the jobs are that it names.
    #[command(after_long_help = "\
Examples:
  postroad stops get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad stops get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --json | jq .stopped")]
    Get {
        id: Uuid,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Lifts a stop: what it has set aside goes on. What it has cancelled stays cancelled.
    #[command(after_long_help = "\
Examples:
  postroad stops lift 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Lift { id: Uuid },
}

#[derive(clap::Args)]
#[group(id = "what", required = true, multiple = true, args = ["tenant", "queue", "kind", "provider"])]
struct New {
    /// Of this tenant.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantName>,
    /// In this queue.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<KindName>,
    /// In any queue of this provider.
    #[arg(long, value_name = "PROVIDER")]
    provider: Option<ProviderName>,
    /// pause: they wait until it is lifted, those that come later, too. cancel: those that were
    /// accepted before are cancelled.
    #[arg(long, default_value = "pause")]
    mode: Mode,
    /// Why, for whoever finds it (at most 500 bytes).
    #[arg(long, default_value = "", hide_default_value = true, value_parser = reason)]
    reason: String,
    /// One JSON object a line, with the fields of the API.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sure: Sure,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Pause,
    Cancel,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::Create(new) => create(&store, new).await,
        Command::List { all, limit, json } => list(&store, all, limit, json).await,
        Command::Get { id, json } => show(&find(&store, id).await?, json),
        Command::Lift { id } => lift(&store, id).await,
    }
}

async fn create(store: &Store, new: New) -> anyhow::Result<()> {
    let tenant = match &new.tenant {
        None => None,
        Some(name) => {
            let found = store.tenant_of_name(name.as_str()).await?;
            let none = || exit::not_found(format_args!("there is no tenant `{name}`"));
            Some(found.ok_or_else(none)?)
        }
    };
    let mode = match new.mode {
        Mode::Pause => StopMode::Pause,
        Mode::Cancel => StopMode::Cancel,
    };
    if mode == StopMode::Cancel {
        new.sure
            .of(&format!("cancel all that waits {}", named(&new)))?;
    }
    let scope = StopScope {
        tenant,
        queue: new.queue.as_ref().map(ToString::to_string),
        kind: new.kind.as_ref().map(ToString::to_string),
        provider: new.provider.as_ref().map(ToString::to_string),
    };
    let asked = NewStop {
        scope: &scope,
        mode,
        reason: &new.reason,
    };
    match store.create_stop(&asked).await? {
        Ok(stop) => show(&stop, new.json),
        Err(missing) => Err(exit::not_found(format_args!(
            "there is no such {}",
            missing.as_str()
        ))),
    }
}

/// What is asked for, in words.
fn named(new: &New) -> String {
    let of = |what: &str, name: Option<String>| name.map(|name| format!("{what} `{name}`"));
    [
        of("of tenant", new.tenant.as_ref().map(ToString::to_string)),
        of("in queue", new.queue.as_ref().map(ToString::to_string)),
        of("of kind", new.kind.as_ref().map(ToString::to_string)),
        of(
            "of provider",
            new.provider.as_ref().map(ToString::to_string),
        ),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}

async fn find(store: &Store, id: Uuid) -> anyhow::Result<Stop> {
    let found = store.find_stop(id).await?;
    found.ok_or_else(|| exit::not_found(format_args!("there is no stop {id}")))
}

async fn list(store: &Store, all: bool, limit: i64, json: bool) -> anyhow::Result<()> {
    let stops = store.stops(all, None, limit).await?;
    if json {
        return output::json_lines(&stops);
    }
    let mut table = Table::new([
        "ID", "MODE", "TENANT", "QUEUE", "KIND", "PROVIDER", "STOPPED", "SINCE", "LIFTED", "BY",
        "REASON",
    ])
    .right([6]);
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "(any)".to_owned());
    for stop in &stops {
        table.row([
            stop.id.to_string(),
            stop.mode.clone(),
            any(&stop.tenant),
            any(&stop.queue),
            any(&stop.kind),
            any(&stop.provider),
            stop.stopped.all().to_string(),
            moment(stop.created_at),
            moment_or(stop.lifted_at, "no"),
            stop.actor.clone(),
            stop.reason.clone(),
        ]);
    }
    output::table(&table)
}

fn show(stop: &Stop, json: bool) -> anyhow::Result<()> {
    if json {
        return line(serde_json::to_string(stop)?);
    }
    let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "(any)".to_owned());
    let mut pairs = vec![
        ("stop", stop.id.to_string()),
        ("mode", stop.mode.clone()),
        ("tenant", any(&stop.tenant)),
        ("queue", any(&stop.queue)),
        ("kind", any(&stop.kind)),
        ("provider", any(&stop.provider)),
        ("reason", stop.reason.clone()),
        ("by", stop.actor.clone()),
        ("since", moment(stop.created_at)),
        ("lifted", moment_or(stop.lifted_at, "no")),
        ("stopped waiting", stop.stopped.waiting.to_string()),
        ("stopped in pipe", stop.stopped.in_pipe.to_string()),
        ("stopped prefetched", stop.stopped.prefetched.to_string()),
    ];
    if let Some(named) = &stop.named {
        pairs.extend([
            ("waiting", named.waiting.to_string()),
            ("in pipe", named.in_pipe.to_string()),
            ("too late", named.too_late.to_string()),
        ]);
    }
    output::pairs(&pairs)
}

async fn lift(store: &Store, id: Uuid) -> anyhow::Result<()> {
    if !store.lift_stop(id).await? {
        find(store, id).await?;
        return Err(exit::conflict(format_args!("stop {id} was lifted before")));
    }
    note(format_args!("stop {id} is lifted"));
    Ok(())
}
