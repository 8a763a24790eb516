//! `postroad-bench`: how fast it is, on one machine, with everything on it.
//!
//! | room | for |
//! |---|---|
//! | `ground` | private servers, a database and the release programs |
//! | `api` | jobs over HTTP, beside the same jobs in SQL |
//! | `client` | one connection of the load generator, as cheap as it can be |
//! | `pages` | lists, with millions of finished jobs in the table |
//! | `settings` | what settings cost at load, and how soon a change is in force |
//! | `table` | figures, each the median of its runs, as text and as JSON |

mod api;
mod client;
mod ground;
mod pages;
mod settings;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::ground::Ground;
use self::table::Table;

/// Measures Postroad on this machine, with its servers, its programs and the load generator all on
/// it.
///
/// Figures are medians, with the least and the most beside them: machines are noisy, and only what
/// is of one run can be compared. What a figure ought to be is for the reader to say; nothing here
/// fails because a machine is slow.
#[derive(Clone, Debug, Parser)]
#[command(name = "postroad-bench", version, after_help = HELP)]
struct Args {
    /// A tenth of the jobs: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Only these: api, pages, settings; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = ["api", "pages", "settings"])]
    only: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// Where servers, logs and the figures go.
    #[arg(long, default_value = ".postroad/bench", value_name = "DIR")]
    dir: PathBuf,
}

const HELP: &str = "\
Examples:
  make bench                                    everything there is; about ten minutes
  make bench ARGS=--quick                       a look, in about two
  make bench ARGS='--only pages --runs 5'

The figures are in DIR/bench.json.";

fn main() -> ExitCode {
    let args = Args::parse();
    // On the main thread, which lives as long as the process.
    if let Err(error) = postroad_provision::stop_with_parent() {
        eprintln!("warning: {error}");
    }
    postroad_common::program::run(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let wants = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut table = Table::default();
    let ground = Ground::start(&args.dir).await?;
    let scale = if args.quick { 10 } else { 1 };
    let runs = usize::from(args.runs);
    if wants("api") {
        api::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("settings") {
        settings::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("pages") {
        pages::measure(&ground, scale, runs, &mut table).await?;
    }
    ground.stop().await?;
    table.write(&args.dir.join("bench.json"))?;
    println!("{table}");
    Ok(())
}
