//! `postroad kinds`: how the jobs of each kind are tried, and what a lost worker means for them.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use postroad_common::job::KindName;
use postroad_common::store::{Changed, KindChange, KindRow, Store};

use super::values::duration;
use crate::exit;
use crate::output::{self, Table, moment_or, note, stretch};
use crate::setup::Setup;

/// Looks at how the jobs of kinds are tried, and sets it.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Workers write the policies of their kinds when they start. What is set here stands instead, until
it is reset.

Examples:
  postroad kinds list
  postroad kinds set sms --max-attempts 5 --backoff-base 30s
  postroad kinds reset sms";

#[derive(Subcommand)]
enum Command {
    /// Lists kinds with their policies, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad kinds list
  postroad kinds list --json | jq -r 'select(.overridden_at) | .name'")]
    List {
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Sets what is given, and leaves the rest; workers leave this kind alone from then on.
    #[command(after_long_help = "\
Examples:
  postroad kinds set sms --on-lost hold
  postroad kinds set webhook --max-attempts 30 --backoff-base 10s --backoff-cap 12h
  postroad kinds set resize-video --timeout 20m")]
    Set {
        #[arg(value_name = "KIND")]
        name: KindName,
        /// What becomes of a job whose worker was lost while it ran.
        #[arg(long, value_parser = PossibleValuesParser::new(["retry", "hold"]))]
        on_lost: Option<String>,
        /// Attempts before a job is dead, unless the job says otherwise (1 to 1000).
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000))]
        max_attempts: Option<i32>,
        /// Wait before the second attempt; it doubles with each further one.
        #[arg(long, value_name = "DURATION", value_parser = backoff)]
        backoff_base: Option<Duration>,
        /// The longest wait between two attempts.
        #[arg(long, value_name = "DURATION", value_parser = backoff)]
        backoff_cap: Option<Duration>,
        /// How long an attempt may take (1s to 1d), from the next one that begins.
        #[arg(long, value_name = "DURATION", value_parser = timeout)]
        timeout: Option<Duration>,
    },
    /// Gives a kind back to its workers: their timeout holds at once, the next start writes the rest.
    #[command(after_long_help = "Examples:\n  postroad kinds reset sms")]
    Reset {
        #[arg(value_name = "KIND")]
        name: KindName,
    },
}

const BACKOFF_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn backoff(text: &str) -> Result<Duration, &'static str> {
    duration(text)
        .ok()
        .filter(|time| *time <= BACKOFF_MAX)
        .ok_or("a duration of at most 366d, such as `30s`, is expected")
}

fn timeout(text: &str) -> Result<Duration, &'static str> {
    const RANGE: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    duration(text)
        .ok()
        .filter(|time| RANGE.contains(time))
        .ok_or("a duration from 1s to 1d, such as `30s`, is expected")
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { json } => list(&store().await?, json).await,
        Command::Set {
            name,
            on_lost,
            max_attempts,
            backoff_base,
            backoff_cap,
            timeout,
        } => {
            let change = KindChange {
                on_lost,
                max_attempts,
                backoff_base,
                backoff_cap,
                timeout,
            };
            if change == KindChange::default() {
                return Err(exit::usage(
                    "nothing to set: give --on-lost, --max-attempts, --backoff-base, --backoff-cap or --timeout",
                ));
            }
            set(&store().await?, &name, &change).await
        }
        Command::Reset { name } => reset(&store().await?, &name).await,
    }
}

async fn store() -> anyhow::Result<Store> {
    Setup::of_process()?.current_store().await
}

fn no_kind(name: &KindName) -> anyhow::Error {
    exit::not_found(format_args!(
        "there is no kind `{name}`: the first job or worker that names one makes it"
    ))
}

async fn kind(store: &Store, name: &KindName) -> anyhow::Result<KindRow> {
    let mut kinds = store.kinds(Some(name.as_str())).await?;
    kinds.pop().ok_or_else(|| no_kind(name))
}

async fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let kinds = store.kinds(None).await?;
    if json {
        return output::json_lines(&kinds);
    }
    let mut table = Table::new([
        "KIND",
        "ON LOST",
        "ATTEMPTS",
        "BACKOFF",
        "UP TO",
        "TIMEOUT",
        "SET BY",
        "REGISTERED AT",
    ])
    .of_names()
    .right(2..=5);
    for kind in &kinds {
        let set_by = match (kind.overridden_at, kind.registered_at) {
            (Some(_), _) => "operator",
            (None, Some(_)) => "worker",
            (None, None) => "default",
        };
        table.row([
            kind.name.clone(),
            kind.on_lost.clone(),
            kind.max_attempts.to_string(),
            stretch(kind.backoff_base_seconds),
            stretch(kind.backoff_cap_seconds),
            kind.timeout_seconds.map_or_else(|| "-".to_owned(), stretch),
            set_by.to_owned(),
            moment_or(kind.registered_at, "never"),
        ]);
    }
    output::table(&table)
}

async fn set(store: &Store, name: &KindName, change: &KindChange) -> anyhow::Result<()> {
    let before = kind(store, name).await?;
    if let Some(why) = change.too_long_a_first_wait(&before) {
        return Err(exit::usage(why));
    }
    if !store.set_kind(name.as_str(), change).await? {
        return Err(no_kind(name));
    }
    note(format_args!(
        "kind `{name}` is set, and workers leave it alone"
    ));
    Ok(())
}

async fn reset(store: &Store, name: &KindName) -> anyhow::Result<()> {
    match store.reset_kind(name.as_str()).await? {
        Changed::Done => {}
        Changed::Already => {
            note(format_args!("kind `{name}` was its workers' before"));
            return Ok(());
        }
        Changed::NotThere => return Err(no_kind(name)),
    }
    note(format_args!(
        "kind `{name}` is its workers' again: their timeout at once, the rest when one starts"
    ));
    Ok(())
}
