//! `postroad jobs`: look at jobs, call them off, run them again, and decide about held ones.

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, ValueEnum};
use postroad_common::job::{JobId, JobState};
use postroad_common::store::{Cancelled, JobFilter, JobRow, JobView, Resolution, Retried, Store};

use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note};
use crate::setup::Setup;

/// Looks at jobs, cancels and retries them, and decides about held ones.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad jobs list --state held --kind sms
  postroad jobs get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad jobs cancel 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad jobs resolve 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --verdict completed";

/// Ids of one command: more belong into a filter.
const IDS_MAX: usize = 1000;

#[derive(Subcommand)]
enum Command {
    /// Lists jobs, oldest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad jobs list --state held --kind sms
  postroad jobs list --json --limit 1000 | jq -r .id
  postroad jobs list --after 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --limit 100")]
    List {
        /// Only in this state.
        #[arg(long, value_parser = PossibleValuesParser::new(JobState::ALL.map(JobState::as_str)))]
        state: Option<String>,
        /// Only of this kind.
        #[arg(long)]
        kind: Option<String>,
        /// Only in this queue.
        #[arg(long)]
        queue: Option<String>,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only jobs after this one.
        #[arg(long, value_name = "ID")]
        after: Option<JobId>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows everything that is known of one job.
    #[command(after_long_help = "\
Examples:
  postroad jobs get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad jobs get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --json | jq .args")]
    Get {
        id: JobId,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Calls jobs off. One that runs is asked to stop: its worker learns it with its next heartbeat.
    #[command(after_long_help = "\
Prints each id with what came of it: `cancelled` or `asked`. A job that is held or finished is left
as it is, and the exit code is 5.

Examples:
  postroad jobs cancel 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad jobs cancel --yes 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4b")]
    Cancel {
        #[arg(required = true, num_args = 1..=IDS_MAX)]
        ids: Vec<JobId>,
        #[command(flatten)]
        sure: Sure,
    },
    /// Runs jobs again: dead, cancelled and expired ones; and at once those that wait.
    #[command(after_long_help = "\
Prints the ids of those that are due now. A job that is under way, held or completed is left as it
is, and the exit code is 5. For many dead jobs: postroad dead-letters redrive.

Examples:
  postroad jobs retry 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Retry {
        #[arg(required = true, num_args = 1..=IDS_MAX)]
        ids: Vec<JobId>,
    },
    /// Decides about held jobs: did they take effect?
    #[command(after_long_help = "\
Look at the provider's own record for the job's id first: it was the idempotency key.

Examples:
  postroad jobs resolve 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --verdict completed
  postroad jobs resolve 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --verdict retry")]
    Resolve {
        #[arg(required = true, num_args = 1..=IDS_MAX)]
        ids: Vec<JobId>,
        /// completed: it did. retry: it did not, run it again. dead: give up.
        #[arg(long)]
        verdict: Verdict,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Verdict {
    Completed,
    Retry,
    Dead,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::List {
            state,
            kind,
            queue,
            tenant,
            after,
            limit,
            json,
        } => {
            let after = after.map(|id| *id.as_uuid());
            let filter = JobFilter {
                state,
                kind,
                queue,
                tenant,
                ids: None,
                after,
                limit,
            };
            list(&store, &filter, json).await
        }
        Command::Get { id, json } => get(&store, id, json).await,
        Command::Cancel { ids, sure } => cancel(&store, &distinct(ids), sure).await,
        Command::Retry { ids } => retry(&store, &distinct(ids)).await,
        Command::Resolve { ids, verdict } => resolve(&store, &distinct(ids), verdict).await,
    }
}

/// Each id once, in the order of ids.
fn distinct(mut ids: Vec<JobId>) -> Vec<JobId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

async fn list(store: &Store, filter: &JobFilter, json: bool) -> anyhow::Result<()> {
    let jobs = store.jobs(filter).await?;
    if json {
        return output::json_lines(&jobs);
    }
    let mut table = Table::new([
        "ID",
        "STATE",
        "KIND",
        "QUEUE",
        "TENANT",
        "ATTEMPT",
        "RUN AT",
        "LAST ERROR",
    ]);
    for job in &jobs {
        table.row(row(job));
    }
    output::table(&table)?;
    if jobs.len() as i64 == filter.limit {
        note(format_args!(
            "the first {} jobs; for more: --limit, or --after with the last id",
            filter.limit
        ));
    }
    Ok(())
}

fn row(job: &JobRow) -> [String; 8] {
    [
        job.id.to_string(),
        job.state.clone(),
        job.kind.clone(),
        job.queue.clone(),
        job.tenant.clone(),
        format!("{}/{}", job.attempt, job.max_attempts),
        job.run_at.to_string(),
        job.reason
            .iter()
            .chain(&job.error)
            .next()
            .cloned()
            .unwrap_or_default(),
    ]
}

async fn get(store: &Store, id: JobId, json: bool) -> anyhow::Result<()> {
    let jobs = store.job_views(&[id]).await?;
    let Some(job) = jobs.first() else {
        return Err(no_job(id));
    };
    if json {
        return line(serde_json::to_string(job)?);
    }
    let mut lines = vec![
        ("id", job.id.to_string()),
        ("state", job.state.clone()),
        ("kind", job.kind.clone()),
        ("queue", job.queue.clone()),
        ("tenant", job.tenant.clone()),
        (
            "attempt",
            format!("{} of {}", job.attempt, job.max_attempts),
        ),
        ("priority", job.priority.to_string()),
        ("on lost", job.on_lost.clone()),
        ("created at", moment(job.created_at)),
        ("run at", moment(job.run_at)),
    ];
    let moments = [
        ("expires at", job.expires_at),
        ("started at", job.started_at),
        ("finished at", job.finished_at),
        ("to be cancelled since", job.cancel_requested_at),
    ];
    for (name, at) in moments {
        if at.is_some() {
            lines.push((name, moment_or(at, "")));
        }
    }
    let json = |value: &Option<Box<serde_json::value::RawValue>>| {
        value.as_ref().map(|value| value.get().to_owned())
    };
    let texts = [
        ("dedup key", job.dedup_key.clone()),
        ("reason", job.reason.clone()),
        ("last error", job.error.clone()),
        ("args", json(&job.args)),
        ("result", json(&job.result)),
    ];
    for (name, text) in texts {
        lines.extend(text.map(|text| (name, text)));
    }
    output::pairs(&lines)
}

fn no_job(id: JobId) -> anyhow::Error {
    exit::not_found(format_args!("there is no job {id}, or not any more"))
}

async fn cancel(store: &Store, ids: &[JobId], sure: Sure) -> anyhow::Result<()> {
    match ids {
        [id] => sure.of(&format!("cancel job {id}"))?,
        _ => sure.of(&format!("cancel {} jobs", ids.len()))?,
    }
    let came_of_it = store.cancel(ids).await?;
    let (mut done, mut left, mut text) = (Vec::new(), Vec::new(), String::new());
    for (id, cancelled) in ids.iter().zip(came_of_it) {
        match cancelled {
            Cancelled::Done => text += &format!("{id} cancelled\n"),
            Cancelled::Asked => text += &format!("{id} asked\n"),
            Cancelled::Not => {
                left.push(*id);
                continue;
            }
        }
        done.push(*id);
    }
    output::print(&text)?;
    refuse(store, &left, "cannot be cancelled").await
}

async fn retry(store: &Store, ids: &[JobId]) -> anyhow::Result<()> {
    let came_of_it = store.retry(ids).await?;
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for (id, retried) in ids.iter().zip(came_of_it) {
        match retried {
            Retried::Done => done.push(*id),
            Retried::Not => left.push(*id),
        }
    }
    print_ids(&done)?;
    refuse(store, &left, "cannot be retried").await
}

async fn resolve(store: &Store, ids: &[JobId], verdict: Verdict) -> anyhow::Result<()> {
    let to = match verdict {
        Verdict::Completed => Resolution::Completed,
        Verdict::Retry => Resolution::Retry,
        Verdict::Dead => Resolution::Dead,
    };
    let resolved = store.resolve(ids, to).await?;
    print_ids(&resolved)?;
    let is_left = |id: &&JobId| !resolved.contains(id);
    let left: Vec<_> = ids.iter().filter(is_left).copied().collect();
    refuse(store, &left, "not held, so nothing to decide").await
}

fn print_ids(ids: &[JobId]) -> anyhow::Result<()> {
    output::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())
}

/// Says of each job why it was left as it is: it is not there, or in the wrong state.
async fn refuse(store: &Store, left: &[JobId], what: &str) -> anyhow::Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let jobs = store.job_views(left).await?;
    let state = |id: &JobId| jobs.iter().find(|job: &&JobView| job.id == *id);
    let said = |id: &JobId| match state(id) {
        Some(job) => format!("{id} ({})", job.state),
        None => format!("{id} (not there)"),
    };
    let text = format!(
        "{what}: {}",
        left.iter().map(said).collect::<Vec<_>>().join(", ")
    );
    Err(match jobs.is_empty() {
        true => exit::not_found(text),
        false => exit::conflict(text),
    })
}
