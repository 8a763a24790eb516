//! `postroad ledger`: where every accepted job is, and whether that is all of them.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use postroad_common::audit::{Audit, CONFIRM, Look, QueueLook};
use postroad_common::broker::DepthReader;
use postroad_common::config::parse_duration;
use postroad_common::shutdown::{GRACE_DEFAULT, Shutdown};
use postroad_common::store::{self, Account};
use serde_json::{Value, json};

use crate::exit;
use crate::output::{self, Table, note};
use crate::setup::Setup;

/// Shows where every accepted job is, per tenant, and whether that is all of them.
///
/// Accepted is counted when a job is enqueued, the states where the jobs are: what is lost or
/// doubled shows. The pipe is compared with RabbitMQ's queues.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// Only this tenant's jobs. Queues belong to all tenants and are shown all the same.
    #[arg(long)]
    tenant: Option<String>,
    /// One JSON object a line for each look.
    #[arg(long)]
    json: bool,
    /// Look again and again, until Ctrl-C.
    #[arg(
        long, value_name = "INTERVAL", value_parser = interval,
        num_args = 0..=1, require_equals = true, default_missing_value = "2s"
    )]
    watch: Option<Duration>,
}

const HELP: &str = "\
A job that is lost, doubled or stuck in the pipe is an alarm; its ids are shown as far as they are
known. A finding that may be passing is looked at a second time. Stale copies, dead letters that
wait and parked messages are notices.

Examples:
  postroad ledger
  postroad ledger --watch                         the same picture, kept up to date
  postroad ledger --tenant acme --watch=10s
  postroad ledger --json | jq '.tenants[] | select(.balanced | not)'
  postroad ledger --json --watch >> ledger.ndjson

Exit codes: 0 every account is balanced, or --watch was ended, 1 failed, 3 an alarm stands,
4 there is no such tenant, 78 the configuration cannot be used.";

/// What a script tests for: the ledger could be read, and it is not well.
const EXIT_ALARM: u8 = 3;

/// Sets the cursor to the top left and clears what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

fn interval(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text)
        .filter(|interval| !interval.is_zero())
        .ok_or("a duration with its unit, such as `2s`, is expected")
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let setup = Setup::of_process()?;
    let depths = DepthReader::new(setup.broker.clone());
    let audit = Audit::new(setup.current_store().await?, depths);
    match args.watch {
        Some(interval) => watch(audit, &args, interval).await,
        None => once(audit, &args).await,
    }
}

async fn once(mut audit: Audit, args: &Args) -> anyhow::Result<ExitCode> {
    let mut look = look(&mut audit, args).await?;
    if look.queues.iter().any(|queue| queue.pipe.stuck > 0) {
        tokio::time::sleep(CONFIRM).await;
        look = audit.look(args.tenant.as_deref()).await?;
    }
    let text = if args.json {
        format!("{}\n", json(&look))
    } else {
        picture(&look)
    };
    output::print(&text)?;
    Ok(match look.has_alarm() {
        true => ExitCode::from(EXIT_ALARM),
        false => ExitCode::SUCCESS,
    })
}

async fn watch(mut audit: Audit, args: &Args, interval: Duration) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::on_signals(GRACE_DEFAULT).context("listening for signals")?;
    let is_drawn = std::io::stdout().is_terminal() && !args.json;
    let looking = async {
        loop {
            let look = match look(&mut audit, args).await {
                Ok(look) => look,
                Err(error) if is_transient(&error) => {
                    note(format_args!("{error}: trying again"));
                    tokio::time::sleep(interval).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let text = match (args.json, is_drawn) {
                (true, _) => format!("{}\n", json(&look)),
                (_, true) => format!("{REDRAW}{}\n{}", look.ledger.at, picture(&look)),
                (_, false) => lines(&look),
            };
            output::print(&text)?;
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        failed = looking => failed,
        () = shutdown.quiesce.cancelled() => Ok(ExitCode::SUCCESS),
    }
}

/// Whether the next look may succeed: the database was away, or was busy.
fn is_transient(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(error) if store::Error::is_transient(error))
}

async fn look(audit: &mut Audit, args: &Args) -> anyhow::Result<Look> {
    let look = audit.look(args.tenant.as_deref()).await?;
    if let (Some(tenant), []) = (&args.tenant, look.ledger.accounts.as_slice()) {
        return Err(exit::not_found(format_args!(
            "there is no tenant `{tenant}`"
        )));
    }
    Ok(look)
}

/// For people: a table of tenants, one of queues, and what is wrong.
fn picture(look: &Look) -> String {
    let width = output::width();
    let table = |table: Table| table.render(width).text;
    let mut text = table(tenants(&look.ledger.accounts));
    text += &format!("\n{}", table(queues(&look.queues)));
    if let Some(error) = &look.broker_error {
        text += &format!("\nRabbitMQ was not asked: {error}\n");
    }
    for finding in &look.findings {
        let mark = if finding.is_alarm { "ALARM" } else { "note" };
        text += &format!("\n{mark}: {finding}\n");
    }
    text
}

fn tenants(accounts: &[Account]) -> Table {
    let mut table = Table::new(TENANT_COLUMNS)
        .of_names()
        .right(1..TENANT_COLUMNS.len());
    for account in accounts {
        table.row(tenant_row(account));
    }
    table
}

fn queues(queues: &[QueueLook]) -> Table {
    let mut table = Table::new(QUEUE_COLUMNS)
        .of_names()
        .right(1..QUEUE_COLUMNS.len());
    for queue in queues {
        table.row(queue_row(queue));
    }
    table
}

const TENANT_COLUMNS: [&str; 12] = [
    "TENANT",
    "ACCEPTED",
    "SCHEDULED",
    "DISPATCHED",
    "RUNNING",
    "FAILED",
    "HELD",
    "COMPLETED",
    "DEAD",
    "CANCELLED",
    "EXPIRED",
    "BALANCED",
];

fn tenant_row(account: &Account) -> [String; 12] {
    let balanced = match account.difference() {
        0 => "yes".to_owned(),
        difference => format!("{difference:+}"),
    };
    [
        account.tenant.clone(),
        account.accepted.to_string(),
        account.scheduled.to_string(),
        account.dispatched.to_string(),
        account.running.to_string(),
        account.failed.to_string(),
        account.held.to_string(),
        account.completed.to_string(),
        account.dead.to_string(),
        account.cancelled.to_string(),
        account.expired.to_string(),
        balanced,
    ]
}

const QUEUE_COLUMNS: [&str; 5] = ["QUEUE", "DISPATCHED", "RUNNING", "READY", "CONSUMERS"];

fn queue_row(QueueLook { pipe, depth }: &QueueLook) -> [String; 5] {
    let known = |number: Option<u32>| number.map_or("?".to_owned(), |n| n.to_string());
    [
        pipe.queue.clone(),
        pipe.dispatched.to_string(),
        pipe.running.to_string(),
        known(depth.map(|depth| depth.ready)),
        known(depth.map(|depth| depth.consumers)),
    ]
}

/// For a log: a line per tenant, and one per finding.
fn lines(look: &Look) -> String {
    let at = look.ledger.at;
    let mut text = String::new();
    for account in &look.ledger.accounts {
        let (tenant, accepted, known) = (&account.tenant, account.accepted, account.known());
        let balanced = account.balanced;
        text += &format!(
            "{at} tenant={tenant} accepted={accepted} known={known} balanced={balanced}\n"
        );
    }
    for finding in &look.findings {
        let mark = if finding.is_alarm { "alarm" } else { "note" };
        text += &format!("{at} {mark}: {finding}\n");
    }
    text
}

/// For programs. Numbers that only RabbitMQ knows are null where it did not answer.
fn json(look: &Look) -> Value {
    let findings = look.findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "alarm": finding.is_alarm,
            "subject": finding.subject,
            "count": finding.count,
            "ids": finding.ids,
            "text": finding.to_string(),
        })
    });
    let queues = look.queues.iter().map(|QueueLook { pipe, depth }| {
        json!({
            "queue": pipe.queue,
            "dispatched": pipe.dispatched,
            "running": pipe.running,
            "stuck": pipe.stuck,
            "ready": depth.map(|depth| depth.ready),
            "consumers": depth.map(|depth| depth.consumers),
        })
    });
    json!({
        "at": look.ledger.at,
        "balanced": look.ledger.accounts.iter().all(|account| account.balanced),
        "tenants": look.ledger.accounts,
        "queues": queues.collect::<Vec<_>>(),
        "dead_letters": look.dead_letters,
        "parked": look.parked,
        "broker_error": look.broker_error.as_ref().map(ToString::to_string),
        "findings": findings.collect::<Vec<_>>(),
    })
}
