//! `postroad-bench`: how fast it is, on one machine, with everything on it.
//!
//! | room | for |
//! |---|---|
//! | `ground` | private servers, a database and the release programs |
//! | `raw` | the servers as bare as they can be: what bounds everything else |
//! | `whole` | the figures of the whole path, each beside its bound |
//! | `drain` | a backlog through everything |
//! | `harder` | the same among millions of others, with old statistics, of many tenants, with large args |
//! | `latency` | how soon a job starts while nothing else is to be done |
//! | `pace` | one tenant beside another's flood, rates that are held, ten thousand tenants |
//! | `provider` | one that takes its time |
//! | `steady` | half load, for long |
//! | `api` | jobs over HTTP, beside the same jobs in SQL |
//! | `client` | one connection of the load generator, as cheap as it can be |
//! | `pages` | lists, with millions of finished jobs in the table |
//! | `audiences` | a million recipients: in, counted, gone through |
//! | `timeline` | an announcement to a million, and looks at timelines |
//! | `expansion` | jobs made of a campaign's recipients: of an uploaded list, of an audience |
//! | `settings` | what settings cost at load, and how soon a change is in force |
//! | `replay` | incidents that other systems had, played against this one |
//! | `peers` | side by side with other systems, which are installed for it |
//! | `usage` | processor time and memory, as the operating system counts them |
//! | `table`, `chart` | figures, each the median of its runs, as text, JSON and pictures |
//! | `picture` | what happened over time, as pictures |

mod api;
mod audiences;
mod chart;
mod client;
mod drain;
mod expansion;
mod ground;
mod harder;
mod latency;
mod pace;
mod pages;
mod peers;
mod picture;
mod provider;
mod raw;
mod replay;
mod settings;
mod steady;
mod table;
mod timeline;
mod usage;
mod whole;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use postroad_common::config::parse_duration;

use self::ground::Ground;
use self::table::Table;

/// Measures Postroad on this machine, with its servers, its programs and the load generator all on
/// it.
///
/// Figures are medians, with the least and the most beside them: machines are noisy, and only what
/// is of one run can be compared. What a figure ought to be is for the reader to say; nothing here
/// fails because a machine is slow, `replay` aside.
#[derive(Clone, Debug, Parser)]
#[command(name = "postroad-bench", version, after_help = HELP)]
struct Args {
    /// A tenth of the jobs, once, and not everything: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Only these; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = parts())]
    only: Vec<String>,
    /// How often each is measured [default: 3, with --quick 1]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: Option<u16>,
    /// How long the machine is under half load.
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = duration)]
    steady: Duration,
    /// Print what Postgres spent its time on during the last drain of each kind.
    #[arg(long)]
    statements: bool,
    /// Where servers and logs go.
    #[arg(
        long,
        global = true,
        default_value = ".postroad/bench",
        value_name = "DIR"
    )]
    dir: PathBuf,
    /// Where the figures go, as JSON and as pictures.
    #[arg(long, global = true, default_value = "bench/out", value_name = "DIR")]
    out: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Part {
    /// Measures other systems, and Postroad with them, on the same jobs: with what each guarantees.
    Peers(peers::Args),
    /// Plays incidents that other systems had, and fails when what has to hold does not.
    Replay(replay::Args),
    /// A process of the bare path, started by this program.
    #[command(hide = true, subcommand)]
    Raw(raw::Part),
}

const PARTS: [&str; 8] = [
    "limits", "enqueue", "drain", "at-once", "idle", "provider", "api", "pace",
];
/// What a look leaves out, as it leaves out [`harder::PARTS`]: it takes long whatever the number of
/// jobs, or is the same again.
const NOT_QUICK: [&str; 6] = [
    "settings",
    "steady",
    "pages",
    "audiences",
    "expansion",
    "timeline",
];

fn parts() -> PossibleValuesParser {
    let all = PARTS.into_iter().chain(NOT_QUICK);
    all.chain(harder::PARTS).into()
}

const HELP: &str = "\
Examples:
  make bench                                    everything there is; about half an hour
  make bench ARGS=--quick                       a look, in under two minutes
  make bench ARGS='--only drain --runs 5'
  make bench ARGS='--only drain --only steady --steady 30m'
  make bench-peers                              Celery, Graphile Worker and others beside it
  make replay                                   incidents of others, played again

The figures are in bench/out/latest.json.";

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a time such as 90s, 2m or 1h".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    // On the main thread, which lives as long as the process.
    if let Err(error) = postroad_provision::stop_with_parent() {
        eprintln!("warning: {error}");
    }
    postroad_common::program::run(async {
        chart::register_font()?;
        match args.part.clone() {
            Some(Part::Raw(part)) => part.run().await,
            Some(Part::Peers(peers)) => peers::run(peers, &args.dir, &args.out).await,
            Some(Part::Replay(replay)) => replay::run(replay, &args.dir, &args.out).await,
            None => run(args).await,
        }
    })
}

async fn run(args: Args) -> anyhow::Result<()> {
    let wants = |name: &str| match args.only.is_empty() {
        true => !args.quick || PARTS.contains(&name),
        false => args.only.iter().any(|only| only == name),
    };
    let (scale, runs) = if args.quick { (10, 1) } else { (1, 3) };
    let runs = args.runs.map_or(runs, usize::from);
    let (mut table, charts) = (
        Table::default(),
        whole::Charts {
            dir: &args.out,
            with_statements: args.statements,
        },
    );
    std::fs::create_dir_all(&args.out)?;
    let ground = Ground::start(&args.dir).await?;
    whole::warm_up(&ground).await?;
    if wants("limits") {
        whole::limits(&ground, scale, runs, &mut table).await?;
    }
    if wants("enqueue") {
        whole::enqueue(&ground, scale, runs, &mut table).await?;
    }
    let mut drained = None;
    if wants("drain") {
        drained = Some(whole::drain(&ground, &charts, scale, runs, &mut table).await?);
    }
    if wants("at-once") {
        whole::at_once(&ground, scale, runs, &mut table).await?;
    }
    if wants("idle") {
        whole::idle(&ground, scale, runs, &mut table).await?;
    }
    if wants("provider") {
        whole::slow_provider(&ground, scale, runs, &mut table).await?;
    }
    if wants("api") {
        api::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("pace") {
        pace::measure(&ground, args.quick, &mut table).await?;
    }
    if wants("settings") {
        settings::measure(&ground, scale, runs, &mut table).await?;
    }
    for part in harder::PARTS.into_iter().filter(|part| wants(part)) {
        harder::measure(part, &ground, &charts, scale, runs, &mut table).await?;
    }
    if wants("steady") {
        let drained = match drained {
            Some(drained) => drained,
            None => whole::drain(&ground, &charts, scale, 1, &mut table).await?,
        };
        whole::half_load(&ground, &charts, drained, args.steady, &mut table).await?;
    }
    if wants("pages") {
        pages::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("audiences") {
        audiences::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("timeline") {
        timeline::measure(&ground, scale, runs, &mut table).await?;
    }
    if wants("expansion") {
        expansion::measure(&ground, runs, &mut table).await?;
    }
    ground.stop().await?;
    table.write(&args.out.join("latest.json"))?;
    println!("{table}");
    Ok(())
}
