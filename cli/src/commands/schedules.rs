//! `postroad schedules`: recurring schedules, and when they tick.

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use postroad_common::job::{JobId, JobInput, KindName, QueueName, TenantName};
use postroad_common::schedule::{CATCH_UP_MAX, Recurrence};
use postroad_common::store::{NewSchedule, ScheduleChange, ScheduleRow, Store};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::tenants::tenant_id;
use super::values::expires_after;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, note, number_or};
use crate::setup::Setup;

/// Creates, shows, pauses and runs recurring schedules.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
A schedule makes one job for each tick of a cron expression in a time zone; docs/SCHEDULES.md says
what is understood, and what happens when clocks are changed or nobody was there.

Examples:
  postroad schedules create digest --cron '30 9 * * MON-FRI' --timezone Europe/Stockholm --kind digest
  postroad schedules next --cron '0 2 * * *' --timezone America/New_York
  postroad schedules pause digest";

/// Ticks that are shown with a schedule.
const SHOWN: usize = 3;

#[derive(Subcommand)]
enum Command {
    /// Adds a schedule, and prints its next three ticks.
    #[command(after_long_help = "\
Examples:
  postroad schedules create digest --cron '30 9 * * MON-FRI' --timezone Europe/Stockholm --kind digest
  postroad schedules create sweep --cron '*/5 * * * *' --kind sweep --expires-after 5m --misfire skip
  postroad schedules create bill --cron @monthly --kind bill --args '{\"dry\":false}' --misfire catch_up")]
    Create(Box<Create>),
    /// Lists schedules by name, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad schedules list
  postroad schedules list --tenant acme --json | jq -r 'select(.paused_at) | .name'")]
    List {
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<TenantName>,
        /// At most so many.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one schedule, with its last and its next ticks.
    #[command(after_long_help = "\
Examples:
  postroad schedules get digest
  postroad schedules get digest --tenant acme --json | jq '.next_ticks[0]'")]
    Get {
        #[command(flatten)]
        which: Which,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Lets it tick no more. Jobs that are made go on.
    #[command(after_long_help = "Examples:\n  postroad schedules pause digest")]
    Pause(Which),
    /// Lets it tick again, from now on: what it has missed meanwhile is not made up for.
    #[command(after_long_help = "Examples:\n  postroad schedules resume digest --tenant acme")]
    Resume(Which),
    /// Makes a job of it now, beside its ticks, and prints the job's id.
    #[command(after_long_help = "\
Examples:
  postroad schedules run digest
  postroad schedules run digest --tenant acme")]
    Run(Which),
    /// Takes a schedule away. Jobs that are made go on.
    #[command(after_long_help = "Examples:\n  postroad schedules delete digest --yes")]
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        sure: Sure,
    },
    /// Prints the next ticks, of a schedule or of an expression that is none yet.
    #[command(after_long_help = "\
An expression needs no servers.

Examples:
  postroad schedules next digest
  postroad schedules next --cron '30 2 * * *' --timezone Europe/Stockholm --count 10
  postroad schedules next --cron '0 0 L * *' --json | jq -r .tick_at")]
    Next {
        /// The schedule.
        #[arg(value_name = "SCHEDULE", required_unless_present = "cron")]
        name: Option<KindName>,
        /// Whose it is.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// An expression, instead of a schedule.
        #[arg(long, value_name = "EXPRESSION", conflicts_with = "name")]
        cron: Option<String>,
        /// Its time zone.
        #[arg(
            long,
            value_name = "ZONE",
            default_value = "UTC",
            conflicts_with = "name"
        )]
        timezone: String,
        /// How many.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Which {
    /// Its name.
    #[arg(value_name = "SCHEDULE")]
    name: KindName,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
}

#[derive(clap::Args)]
struct Create {
    #[command(flatten)]
    which: Which,
    /// Five fields as cron has them, six with seconds first, or @hourly and the like.
    #[arg(long, value_name = "EXPRESSION")]
    cron: String,
    /// A name of the IANA database.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    timezone: String,
    /// What becomes of ticks that are more than a minute late.
    #[arg(long, default_value = "run_once",
          value_parser = PossibleValuesParser::new(["skip", "run_once", "catch_up"]))]
    misfire: String,
    /// How many of them `catch_up` makes up for: the newest.
    #[arg(long, value_name = "TICKS", default_value_t = 100,
          value_parser = clap::value_parser!(i32).range(1..=i64::from(CATCH_UP_MAX)))]
    catch_up_max: i32,
    /// What its jobs are.
    #[arg(long)]
    kind: KindName,
    /// Where they wait.
    #[arg(long, default_value = "default")]
    queue: QueueName,
    /// Their input, as JSON.
    #[arg(long, default_value = "{}")]
    args: String,
    /// 0 first to 3 last.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i16).range(0..=3))]
    priority: i16,
    /// Instead of the tenant's default, or the kind's (1 to 1000).
    #[arg(long, value_name = "ATTEMPTS", value_parser = clap::value_parser!(i32).range(1..=1000))]
    max_attempts: Option<i32>,
    /// Instead of the kind's.
    #[arg(long, value_parser = PossibleValuesParser::new(["retry", "hold"]))]
    on_lost: Option<String>,
    /// How long after its tick a job is pointless (1s to 366d), instead of the tenant's default.
    #[arg(long, value_name = "DURATION", value_parser = expires_after)]
    expires_after: Option<Duration>,
    /// Does not tick until it is resumed.
    #[arg(long)]
    paused: bool,
    /// One JSON object, with the fields of the API.
    #[arg(long)]
    json: bool,
}

/// A schedule in the words of the API.
#[derive(Serialize)]
struct View<'a> {
    #[serde(flatten)]
    row: &'a ScheduleRow,
    next_ticks: Vec<Timestamp>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // What is wrong with what was typed is said before anybody is asked.
    match &args.command {
        Command::Create(new) => {
            recurrence(&new.cron, &new.timezone)?;
            new.args()?;
        }
        Command::Next {
            cron: Some(cron),
            timezone,
            count,
            json,
            ..
        } => {
            let recurrence = recurrence(cron, timezone)?;
            return print_next(&recurrence, Timestamp::now(), (*count).into(), *json);
        }
        _ => {}
    }
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::Create(new) => create(&store, *new).await,
        Command::List {
            tenant,
            limit,
            json,
        } => list(&store, tenant.as_ref(), limit, json).await,
        Command::Get { which, json } => get(&store, &which, json).await,
        Command::Pause(which) => pause(&store, &which).await,
        Command::Resume(which) => resume(&store, &which).await,
        Command::Run(which) => run_now(&store, &which).await,
        Command::Delete { which, sure } => delete(&store, &which, sure).await,
        Command::Next {
            name,
            tenant,
            count,
            json,
            ..
        } => {
            let name = name.context("clap asks for a name or an expression")?;
            next(&store, &Which { name, tenant }, count.into(), json).await
        }
    }
}

fn recurrence(cron: &str, timezone: &str) -> anyhow::Result<Recurrence> {
    Recurrence::parse(cron, timezone)
        .map_err(|invalid| exit::usage(format_args!("--{}: {}", invalid.field, invalid.message)))
}

impl Create {
    /// Its args, as those of a job are checked.
    fn args(&self) -> anyhow::Result<Box<RawValue>> {
        let args = RawValue::from_string(self.args.clone())
            .map_err(|_| exit::usage("--args: must be JSON"))?;
        let job = JobInput {
            id: None,
            tenant: None,
            queue: None,
            kind: self.kind.to_string(),
            args: Some(args),
            priority: None,
            run_at: None,
            delay: None,
            expires_at: None,
            dedup_key: None,
            max_attempts: None,
            on_lost: None,
            traceparent: None,
            coalesce_key: None,
        };
        Ok(job.into_job().map_err(exit::usage)?.args)
    }
}

/// A tenant that there is, and one of its schedules.
async fn find(store: &Store, which: &Which) -> anyhow::Result<(i32, ScheduleRow)> {
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    let name = which.name.as_str();
    let rows = store.schedules(Some(tenant), Some(name), None, 1).await?;
    let row = rows.into_iter().next().ok_or_else(|| missing(which))?;
    Ok((tenant, row))
}

fn missing(which: &Which) -> anyhow::Error {
    let Which { name, tenant } = which;
    exit::not_found(format_args!(
        "there is no schedule `{name}` of tenant `{tenant}`"
    ))
}

async fn create(store: &Store, new: Create) -> anyhow::Result<()> {
    let recurrence = recurrence(&new.cron, &new.timezone)?;
    let tenant = tenant_id(store, new.which.tenant.as_str()).await?;
    let schedule = NewSchedule {
        name: new.which.name.to_string(),
        cron: new.cron.clone(),
        timezone: new.timezone.clone(),
        misfire: new.misfire.clone(),
        catch_up_max: new.catch_up_max,
        queue: new.queue.to_string(),
        kind: new.kind.to_string(),
        args: new.args()?,
        priority: new.priority,
        max_attempts: new.max_attempts,
        on_lost: new.on_lost.clone(),
        expires_after: new.expires_after,
        is_paused: new.paused,
        next_at: recurrence.next_after(store.now().await?),
    };
    if !store.create_schedule(tenant, &schedule).await? {
        return Err(exit::conflict(format_args!(
            "there is a schedule `{}` of tenant `{}` already",
            new.which.name, new.which.tenant
        )));
    }
    if new.json {
        let (_, row) = find(store, &new.which).await?;
        return line(serde_json::to_string(&view(&row))?);
    }
    let is_paused = if new.paused { ", and paused" } else { "" };
    note(format_args!(
        "schedule `{}` is there{is_paused}",
        new.which.name
    ));
    let ticks = recurrence.next(store.now().await?, SHOWN);
    output::table(&tick_table(&recurrence, &ticks))
}

fn view(row: &ScheduleRow) -> View<'_> {
    let recurrence = Recurrence::parse(&row.cron, &row.timezone).ok();
    let next_ticks = match (row.paused_at, row.next_at, recurrence) {
        (None, Some(next), Some(recurrence)) => {
            let mut ticks = vec![next];
            ticks.extend(recurrence.next(next, SHOWN - 1));
            ticks
        }
        _ => Vec::new(),
    };
    View { row, next_ticks }
}

async fn list(
    store: &Store,
    tenant: Option<&TenantName>,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let tenant = super::tenants::tenant_id_of(store, tenant).await?;
    let rows = store.schedules(tenant, None, None, limit).await?;
    if json {
        let views: Vec<_> = rows.iter().map(view).collect();
        return output::json_lines(&views);
    }
    let mut table = Table::new([
        "SCHEDULE", "TENANT", "CRON", "ZONE", "KIND", "QUEUE", "MISFIRE", "PAUSED", "LAST AT",
        "NEXT AT",
    ])
    .of_names();
    for row in &rows {
        table.row([
            row.name.clone(),
            row.tenant.clone(),
            row.cron.clone(),
            row.timezone.clone(),
            row.kind.clone(),
            row.queue.clone(),
            misfire(row),
            output::moment_or(row.paused_at, "no"),
            output::moment_or(row.last_at, "-"),
            match row.paused_at {
                Some(_) => "-".to_owned(),
                None => output::moment_or(row.next_at, "never"),
            },
        ]);
    }
    output::table(&table)?;
    if rows.len() as i64 == limit {
        note(format_args!("the first {limit}; for more: --limit"));
    }
    Ok(())
}

fn misfire(row: &ScheduleRow) -> String {
    match row.misfire.as_str() {
        "catch_up" => format!("catch_up, {} at most", row.catch_up_max),
        other => other.to_owned(),
    }
}

async fn get(store: &Store, which: &Which, json: bool) -> anyhow::Result<()> {
    let (tenant, row) = find(store, which).await?;
    let view = view(&row);
    if json {
        return line(serde_json::to_string(&view)?);
    }
    let ticks = store
        .schedule_ticks(tenant, which.name.as_str(), None, 5)
        .await?;
    let expires = row.expires_after_seconds.map(output::stretch);
    let mut lines = vec![
        ("schedule", row.name.clone()),
        ("tenant", row.tenant.clone()),
        ("cron", row.cron.clone()),
        ("time zone", row.timezone.clone()),
        ("misfire", misfire(&row)),
        ("kind", row.kind.clone()),
        ("queue", row.queue.clone()),
        ("args", row.args.get().to_owned()),
        ("priority", row.priority.to_string()),
        (
            "max attempts",
            number_or(row.max_attempts, "the tenant's default, or the kind's"),
        ),
        ("on lost", number_or(row.on_lost.clone(), "the kind's")),
        (
            "expires after",
            number_or(expires, "the tenant's default, or never"),
        ),
        ("paused", output::moment_or(row.paused_at, "no")),
        ("created at", moment(row.created_at)),
        ("changed at", moment(row.updated_at)),
    ];
    for tick in ticks.iter().rev() {
        let job = tick.job_id.map(|id| format!("job {id}"));
        let job = job.unwrap_or_else(|| "passed over".to_owned());
        lines.push(("ticked", format!("{}  {job}", moment(tick.tick_at))));
    }
    for tick in &view.next_ticks {
        lines.push(("ticks next", moment(*tick)));
    }
    output::pairs(&lines)
}

async fn pause(store: &Store, which: &Which) -> anyhow::Result<()> {
    let name = &which.name;
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    match store.pause_schedule(tenant, name.as_str()).await? {
        ScheduleChange::Applied => {
            note(format_args!("schedule `{name}` is paused"));
        }
        ScheduleChange::AlreadyDone | ScheduleChange::Superseded => {
            note(format_args!("schedule `{name}` was paused before"));
        }
        ScheduleChange::NotFound => return Err(missing(which)),
    }
    Ok(())
}

async fn resume(store: &Store, which: &Which) -> anyhow::Result<()> {
    let name = &which.name;
    let (tenant, row) = find(store, which).await?;
    let recurrence = recurrence(&row.cron, &row.timezone)?;
    let next_at = recurrence.next_after(store.now().await?);
    match store.resume_schedule(tenant, &row, next_at).await? {
        ScheduleChange::Applied => {
            let next = output::moment_or(next_at, "never");
            note(format_args!(
                "schedule `{name}` is not paused; it ticks next at {next}"
            ));
        }
        ScheduleChange::AlreadyDone => {
            note(format_args!("schedule `{name}` was not paused before"));
        }
        ScheduleChange::Superseded => {
            return Err(exit::conflict(format_args!(
                "schedule `{name}` was changed by somebody else just now: look at it again"
            )));
        }
        ScheduleChange::NotFound => return Err(missing(which)),
    }
    Ok(())
}

async fn run_now(store: &Store, which: &Which) -> anyhow::Result<()> {
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    let id = JobId::new();
    if !store
        .run_schedule(tenant, which.name.as_str(), id, None)
        .await?
    {
        return Err(missing(which));
    }
    line(id)
}

async fn delete(store: &Store, which: &Which, sure: Sure) -> anyhow::Result<()> {
    let name = &which.name;
    let (tenant, _) = find(store, which).await?;
    sure.of(&format!(
        "delete schedule `{name}` of tenant `{}`",
        which.tenant
    ))?;
    if !store.delete_schedule(tenant, name.as_str()).await? {
        return Err(missing(which));
    }
    note(format_args!("schedule `{name}` is gone"));
    Ok(())
}

async fn next(store: &Store, which: &Which, count: usize, json: bool) -> anyhow::Result<()> {
    let (_, row) = find(store, which).await?;
    if row.paused_at.is_some() {
        note(format_args!(
            "schedule `{}` is paused: this is when it would tick",
            which.name
        ));
    }
    let recurrence = recurrence(&row.cron, &row.timezone)?;
    print_next(&recurrence, store.now().await?, count, json)
}

fn print_next(
    recurrence: &Recurrence,
    from: Timestamp,
    count: usize,
    json: bool,
) -> anyhow::Result<()> {
    let ticks = recurrence.next(from, count);
    if !json {
        return output::table(&tick_table(recurrence, &ticks));
    }
    let lines: Vec<_> = ticks
        .iter()
        .map(|tick| json!({"tick_at": tick, "local": local(*tick, recurrence.zone())}))
        .collect();
    output::json_lines(&lines)
}

/// When it ticks, on its own clock and on everybody's.
fn tick_table(recurrence: &Recurrence, ticks: &[Timestamp]) -> Table {
    let mut table = Table::new(["LOCAL", "UTC"]);
    for tick in ticks {
        table.row([local(*tick, recurrence.zone()), moment(*tick)]);
    }
    table
}

fn local(tick: Timestamp, zone: &TimeZone) -> String {
    let here = tick.to_zoned(zone.clone());
    here.strftime("%a %Y-%m-%dT%H:%M:%S%:z").to_string()
}
