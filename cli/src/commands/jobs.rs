//! `postroad jobs`: look at jobs, and decide about held ones.

use std::io::Write;

use anyhow::bail;
use clap::builder::PossibleValuesParser;
use clap::{Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use postroad_common::job::{JobId, JobState};
use postroad_common::store::{JobFilter, JobRow, Resolution, Store};

use crate::setup::Setup;

/// Looks at jobs, and decides about held ones.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad jobs list --state held --kind sms
  postroad jobs list --json --limit 1000 | jq -r .id
  postroad jobs resolve 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --verdict completed";

#[derive(Subcommand)]
enum Command {
    /// Lists jobs, oldest first, as a table or one JSON object a line.
    List {
        #[arg(long, value_parser = PossibleValuesParser::new(JobState::ALL.map(JobState::as_str)))]
        state: Option<String>,
        #[arg(long)]
        kind: Option<String>,
        #[arg(long)]
        queue: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// Only jobs after this one.
        #[arg(long, value_name = "ID")]
        after: Option<JobId>,
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        #[arg(long)]
        json: bool,
    },
    /// Decides about held jobs: did they take effect?
    Resolve {
        #[arg(required = true)]
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
                after,
                limit,
                ids: None,
            };
            list(&store, &filter, json).await
        }
        Command::Resolve { ids, verdict } => resolve(&store, &ids, verdict).await,
    }
}

async fn list(store: &Store, filter: &JobFilter, json: bool) -> anyhow::Result<()> {
    let jobs = store.jobs(filter).await?;
    let mut out = std::io::stdout().lock();
    if json {
        for job in &jobs {
            writeln!(out, "{}", serde_json::to_string(job)?)?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
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
        table.add_row(row(job));
    }
    writeln!(out, "{table}")?;
    if jobs.len() as i64 == filter.limit {
        eprintln!(
            "the first {} jobs; for more: --limit, or --after with the last id",
            filter.limit
        );
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

async fn resolve(store: &Store, ids: &[JobId], verdict: Verdict) -> anyhow::Result<()> {
    let to = match verdict {
        Verdict::Completed => Resolution::Completed,
        Verdict::Retry => Resolution::Retry,
        Verdict::Dead => Resolution::Dead,
    };
    let resolved = store.resolve(ids, to).await?;
    for id in &resolved {
        println!("{id}");
    }
    let not_held: Vec<_> = ids
        .iter()
        .filter(|id| !resolved.contains(id))
        .map(ToString::to_string)
        .collect();
    if !not_held.is_empty() {
        bail!("not held, so nothing to decide: {}", not_held.join(", "));
    }
    Ok(())
}
