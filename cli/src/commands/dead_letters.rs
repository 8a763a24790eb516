//! `postroad dead-letters`: jobs that were given up, and how they are given another chance.

use clap::Subcommand;
use jiff::Timestamp;
use postroad_common::job::{JobId, JobState, KindName, QueueName, TenantName};
use postroad_common::store::{JobQuery, JobView, NewRedrive, RedriveFilter, Store};

use super::operations::{follow, show};
use super::tenants::tenant_id_of;
use super::values::since;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment_or, note};
use crate::setup::Setup;

/// Looks at dead jobs, and redrives them.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad dead-letters list --kind sms --since 2h
  postroad dead-letters redrive --kind sms --dry-run        how many would be tried again
  postroad dead-letters redrive --kind sms --limit 5        a few first: do they go through now?
  postroad dead-letters redrive --kind sms";

#[derive(clap::Args, Clone)]
struct Filter {
    /// Only of this kind.
    #[arg(long)]
    kind: Option<KindName>,
    /// Only in this queue.
    #[arg(long)]
    queue: Option<QueueName>,
    /// Only of this tenant.
    #[arg(long)]
    tenant: Option<TenantName>,
    /// Dead since this moment (RFC 3339), or for so long at most, such as 2h.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
}

#[derive(Subcommand)]
enum Command {
    /// Lists dead jobs, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad dead-letters list
  postroad dead-letters list --tenant acme --since 2026-11-25T06:00:00Z
  postroad dead-letters list --json --limit 1000 | jq -r .error")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only jobs with a smaller id than this one.
        #[arg(long, value_name = "ID")]
        before: Option<JobId>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Tries dead jobs again: schedulers put them back, the oldest first, in the background.
    #[command(after_long_help = "\
Prints the operation's id. On a terminal it shows how far it is; Ctrl-C ends the watching and not
the redrive. Jobs that die after the command was given are not part of it.

Examples:
  postroad dead-letters redrive --kind sms --dry-run
  postroad dead-letters redrive --kind sms --limit 5
  postroad dead-letters redrive --queue webhooks --tenant acme --since 2h --yes
  postroad dead-letters redrive --kind sms --yes --wait        in a script: until it has ended")]
    Redrive {
        #[command(flatten)]
        filter: Filter,
        /// Only so many, the oldest first.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        limit: Option<i64>,
        /// Change nothing; print how many it would be about.
        #[arg(long, conflicts_with_all = ["wait", "no_wait"])]
        dry_run: bool,
        /// Wait until it has ended, also where nobody watches.
        #[arg(long)]
        wait: bool,
        /// Do not wait.
        #[arg(long, conflicts_with = "wait")]
        no_wait: bool,
        #[command(flatten)]
        sure: Sure,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::List {
            filter,
            before,
            limit,
            json,
        } => list(&store, &filter, before, limit, json).await,
        Command::Redrive {
            filter,
            limit,
            dry_run,
            wait,
            no_wait,
            sure,
        } => {
            let (count, tenant) = count(&store, &filter, limit).await?;
            if dry_run {
                return line(count);
            }
            if count == 0 {
                return Err(exit::not_found("there are no such dead jobs"));
            }
            sure.of(&format!("try {count} dead jobs again"))?;
            let is_watched = wait || (!no_wait && output::is_attended());
            redrive(&store, &filter, tenant, limit, is_watched).await
        }
    }
}

async fn list(
    store: &Store,
    filter: &Filter,
    before: Option<JobId>,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let mut query = JobQuery {
        state: Some(JobState::Dead),
        kind: filter.kind.as_ref().map(ToString::to_string),
        queue: filter.queue.as_ref().map(ToString::to_string),
        tenant: tenant_id_of(store, filter.tenant.as_ref()).await?,
        before: before.map(|id| *id.as_uuid()),
        limit: limit.min(PAGE),
    };
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut jobs: Vec<JobView> = Vec::new();
    loop {
        let page = store.job_page(&query).await?;
        let is_meant = |job: &JobView| filter.since.is_none_or(|at| job.finished_at >= Some(at));
        jobs.extend(page.jobs.into_iter().filter(is_meant));
        match page.next {
            Some(next) if jobs.len() < most => query.before = Some(next),
            _ => break,
        }
    }
    jobs.truncate(most);
    if json {
        return output::json_lines(&jobs);
    }
    let mut table = Table::new([
        "ID",
        "KIND",
        "QUEUE",
        "TENANT",
        "ATTEMPT",
        "DEAD SINCE",
        "REASON",
        "LAST ERROR",
    ]);
    for job in &jobs {
        table.row([
            job.id.to_string(),
            job.kind.clone(),
            job.queue.clone(),
            job.tenant.clone(),
            format!("{}/{}", job.attempt, job.max_attempts),
            moment_or(job.finished_at, "-"),
            job.reason.clone().unwrap_or_default(),
            job.error.clone().unwrap_or_default(),
        ]);
    }
    output::table(&table)?;
    if jobs.len() == most {
        note(format_args!(
            "the newest {most} dead jobs; for more: --limit, or --before with the last id"
        ));
    }
    Ok(())
}

/// Jobs per statement.
const PAGE: i64 = 500;

/// How many dead jobs it would be about, and whose, as the store names them.
async fn count(
    store: &Store,
    filter: &Filter,
    limit: Option<i64>,
) -> anyhow::Result<(i64, Option<i32>)> {
    let tenant = tenant_id_of(store, filter.tenant.as_ref()).await?;
    let count = store
        .count_dead_letters(&redrive_filter(filter), tenant)
        .await?;
    Ok((limit.map_or(count, |limit| limit.min(count)), tenant))
}

fn redrive_filter(filter: &Filter) -> RedriveFilter {
    RedriveFilter {
        kind: filter.kind.as_ref().map(ToString::to_string),
        queue: filter.queue.as_ref().map(ToString::to_string),
        tenant: filter.tenant.as_ref().map(ToString::to_string),
        since: filter.since,
    }
}

async fn redrive(
    store: &Store,
    filter: &Filter,
    tenant: Option<i32>,
    limit: Option<i64>,
    is_watched: bool,
) -> anyhow::Result<()> {
    let filter = redrive_filter(filter);
    let new = NewRedrive {
        filter: &filter,
        limit,
    };
    let operation = store.begin_redrive(&new, tenant).await?;
    let id = operation.id.to_string();
    line(&id)?;
    if !is_watched {
        note(format_args!(
            "{} dead jobs are tried again in the background: postroad operations get {id} --watch",
            operation.planned
        ));
        return Ok(());
    }
    let Some(ended) = follow(store, operation).await? else {
        return Ok(());
    };
    note(format_args!(
        "{} of {} dead jobs are scheduled again",
        ended.done, ended.planned
    ));
    match ended.state.as_str() {
        "stopped" => {
            show(&ended, false)?;
            Err(exit::conflict("somebody has stopped it"))
        }
        _ => Ok(()),
    }
}
