//! `postroad providers`: what is on the other side of some queues, its limits and its breakers.

use clap::Subcommand;
use postroad_common::job::{ProviderName, TenantName};
use postroad_common::store::{BreakerRow, Deleted, ProviderRow, ProviderSettings, Store};

use super::values::{Limit, prefetch, rate, share};
use crate::exit;
use crate::output::{self, Table, line, moment, note, number_or};
use crate::setup::Setup;

/// Looks at providers, sets them, and closes their breakers.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
A provider is what is on the other side of some queues, such as an SMS gateway. Its limits are those of
all its queues together. `postroad queues set --provider` gives a queue to it, and `postroad stops create
--provider` stops all that goes to it.

Examples:
  postroad providers set gateway --unanswered 100 --rate 500
  postroad providers list                     and which breakers are not closed
  postroad providers get gateway              with what was seen by whoever opened one";

#[derive(Subcommand)]
enum Command {
    /// Lists providers, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad providers list
  postroad providers list --json | jq -r 'select(.breakers != []) | .name'")]
    List {
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one provider, with its breakers that are not closed.
    #[command(after_long_help = "\
Examples:
  postroad providers get gateway
  postroad providers get gateway --json | jq .breakers")]
    Get {
        #[arg(value_name = "PROVIDER")]
        name: ProviderName,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Makes a provider, or sets what is given and leaves the rest.
    #[command(after_long_help = "\
Examples:
  postroad providers set gateway
  postroad providers set gateway --unanswered 100 --rate 500
  postroad providers set gateway --rate none --failure-max 0.8")]
    Set {
        #[arg(value_name = "PROVIDER")]
        name: ProviderName,
        /// How many jobs of its queues one worker may have under way at once (1 to 2000), or `none`.
        #[arg(long, value_name = "JOBS", value_parser = prefetch)]
        unanswered: Option<Limit<i32>>,
        /// How many jobs of its queues may enter the pipe in a second, over all schedulers, or `none`.
        #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
        rate: Option<Limit<i32>>,
        /// How many further attempts its budget gives in a second, or `none`: a tenth of the rate.
        #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
        retries: Option<Limit<i32>>,
        /// The share of failed answers from which on a breaker opens (over 0, up to 1), or `none`.
        #[arg(long, value_name = "SHARE", value_parser = share)]
        failure_max: Option<Limit<f64>>,
    },
    /// Deletes a provider to which no queue goes.
    #[command(after_long_help = "Examples:\n  postroad providers delete gateway")]
    Delete {
        #[arg(value_name = "PROVIDER")]
        name: ProviderName,
    },
    /// Closes its breakers at once, because you know that it works again.
    #[command(after_long_help = "\
Examples:
  postroad providers close gateway
  postroad providers close gateway --tenant acme")]
    Close {
        #[arg(value_name = "PROVIDER")]
        name: ProviderName,
        /// That of this tenant only.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::List { json } => list(&store, json).await,
        Command::Get { name, json } => get(&store, &name, json).await,
        Command::Set {
            name,
            unanswered,
            rate,
            retries,
            failure_max,
        } => {
            let before = store.providers(Some(name.as_str())).await?.pop();
            let before = before.map_or(
                ProviderSettings {
                    failure_max: Some(ProviderSettings::FAILURE_MAX_DEFAULT),
                    ..ProviderSettings::default()
                },
                |row| settings(&row),
            );
            let settings = ProviderSettings {
                unanswered_max: unanswered.map_or(before.unanswered_max, |limit| limit.0),
                rate_per_second: rate.map_or(before.rate_per_second, |limit| limit.0),
                retries_per_second: retries.map_or(before.retries_per_second, |limit| limit.0),
                failure_max: failure_max.map_or(before.failure_max, |limit| limit.0),
            };
            let is_new = store.put_provider(name.as_str(), &settings).await?;
            note(format_args!(
                "provider `{name}` is {}",
                if is_new { "made" } else { "set" }
            ));
            Ok(())
        }
        Command::Delete { name } => delete(&store, &name).await,
        Command::Close { name, tenant } => {
            provider(&store, &name).await?;
            let tenant = tenant.as_ref().map(TenantName::as_str);
            let closed = store.close_breakers(name.as_str(), tenant).await?;
            note(format_args!("breakers closed: {closed}"));
            Ok(())
        }
    }
}

fn settings(row: &ProviderRow) -> ProviderSettings {
    ProviderSettings {
        unanswered_max: row.unanswered_max,
        rate_per_second: row.rate_per_second,
        retries_per_second: row.retries_per_second,
        failure_max: row.failure_max,
    }
}

async fn provider(store: &Store, name: &ProviderName) -> anyhow::Result<ProviderRow> {
    let mut providers = store.providers(Some(name.as_str())).await?;
    providers.pop().ok_or_else(|| no_provider(name))
}

fn no_provider(name: &ProviderName) -> anyhow::Error {
    exit::not_found(format_args!(
        "there is no provider `{name}`: `postroad providers set {name}` makes it"
    ))
}

async fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let providers = store.providers(None).await?;
    if json {
        return output::json_lines(&providers);
    }
    let mut table = Table::new([
        "PROVIDER",
        "UNANSWERED",
        "RATE",
        "RETRIES",
        "FAILURE MAX",
        "BREAKERS",
        "QUEUES",
    ])
    .of_names()
    .right(1..=4);
    for provider in &providers {
        table.row([
            provider.name.clone(),
            number_or(provider.unanswered_max, "-"),
            number_or(provider.rate_per_second, "-"),
            number_or(provider.retries_per_second, "-"),
            number_or(provider.failure_max, "-"),
            match provider.breakers.len() {
                0 => "closed".to_owned(),
                not_closed => format!("{not_closed} not closed"),
            },
            provider.queues.join(" "),
        ]);
    }
    output::table(&table)
}

async fn get(store: &Store, name: &ProviderName, json: bool) -> anyhow::Result<()> {
    let provider = provider(store, name).await?;
    if json {
        return line(serde_json::to_string(&provider)?);
    }
    output::pairs(&[
        ("provider", provider.name.clone()),
        (
            "unanswered by worker",
            number_or(provider.unanswered_max, "as the worker says"),
        ),
        (
            "rate per second",
            number_or(provider.rate_per_second, "none"),
        ),
        (
            "retries per second",
            number_or(provider.retries_per_second, "a tenth of the rate"),
        ),
        (
            "failure max",
            number_or(provider.failure_max, "none: no breaker"),
        ),
        ("queues", provider.queues.join(" ")),
        ("breakers", breakers(&provider.breakers)),
    ])
}

fn breakers(breakers: &[BreakerRow]) -> String {
    if breakers.is_empty() {
        return "closed".to_owned();
    }
    let one = |breaker: &BreakerRow| {
        let whose = breaker.tenant.as_deref().unwrap_or("(all tenants)");
        let state = breaker.state.as_str();
        let (since, probe) = (moment(breaker.opened_at), moment(breaker.probe_at));
        format!(
            "{whose}: {state} since {since}, tries from {probe}: {}",
            breaker.reason
        )
    };
    breakers.iter().map(one).collect::<Vec<_>>().join("; ")
}

async fn delete(store: &Store, name: &ProviderName) -> anyhow::Result<()> {
    match store.delete_provider(name.as_str()).await? {
        Deleted::Done => note(format_args!("provider `{name}` is gone")),
        Deleted::InUse => {
            return Err(exit::conflict(format_args!(
                "queues go to `{name}`, or a stop names it: `postroad queues set QUEUE --provider none`"
            )));
        }
        Deleted::NotThere => return Err(no_provider(name)),
    }
    Ok(())
}
