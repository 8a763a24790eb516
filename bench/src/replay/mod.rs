//! Incidents that other systems had, played against this one: real servers, the real programs, a
//! simulated provider that counts what reaches it. Other than the rest of the bench this fails: when
//! something is lost, comes twice, is shed that should not be, or comes too late.
//!
//! | room | for |
//! |---|---|
//! | `burst` | more than a million requests within a minute for a provider that takes few at once |
//! | `gateway` | a gateway that becomes a thousand times slower, and workers that are killed meanwhile |
//! | `watch` | what there was at each moment |
//! | `verdict` | figures, and what had to hold |

mod burst;
mod gateway;
mod verdict;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::json;

use self::verdict::Verdict;
use crate::ground::Ground;

#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A small run of each, in under a minute. Pictures and figures stay in the directory of the servers.
    #[arg(long)]
    quick: bool,
    /// Only these; may be given several times.
    #[arg(long, value_name = "STORY")]
    only: Vec<Story>,
    /// For machines that cannot play it at this size: one part in so many of the burst and of the buffer.
    #[arg(long, value_name = "PARTS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    scale: u64,
    /// Where the pictures go.
    #[arg(long, default_value = "docs/images", value_name = "DIR")]
    images: PathBuf,
}

const HELP: &str = "\
Examples:
  make replay                            both stories; about ten minutes
  make replay ARGS=--quick               a small run of each, in under a minute
  make replay ARGS='--only burst --scale 4'

The figures are in bench/out/replay.json. The exit code is 1 when something did not hold.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Story {
    /// A burst of 1,500,000 requests within a minute.
    Burst,
    /// A gateway that slows down from 5 ms to 5 s.
    Gateway,
}

pub(crate) async fn run(args: Args, dir: &Path, out: &Path) -> anyhow::Result<()> {
    let wants = |story| args.only.is_empty() || args.only.contains(&story);
    // What is published is of a whole run.
    let (out, images) = match args.quick {
        true => (dir, dir),
        false => (out, args.images.as_path()),
    };
    for dir in [out, images] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let load_before = load_average()?;
    let ground = Ground::start(dir).await?;
    let mut verdicts: Vec<Verdict> = Vec::new();
    if wants(Story::Burst) {
        let plan = match args.quick {
            true => burst::Plan::QUICK,
            false => burst::Plan::WHOLE,
        };
        let plan = plan.scaled(args.scale);
        let at_half = images.join("replay-burst-half");
        verdicts.push(plan.play(&ground, 1, &images.join("replay-burst")).await?);
        verdicts.push(plan.play(&ground, 2, &at_half).await?);
    }
    if wants(Story::Gateway) {
        let plan = match args.quick {
            true => gateway::Plan::QUICK,
            false => gateway::Plan::WHOLE,
        };
        verdicts.push(plan.play(&ground, &images.join("replay-gateway")).await?);
    }
    ground.stop().await?;
    let load_after = load_average()?;
    let report = json!({
        "at": jiff::Timestamp::now().to_string(),
        "processors": std::thread::available_parallelism()?.get(),
        "load_average_before": load_before,
        "load_average_after": load_after,
        "scale": args.scale,
        "quick": args.quick,
        "stories": verdicts,
    });
    let file = out.join("replay.json");
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    for verdict in &verdicts {
        println!("{verdict}");
    }
    println!("load average before {load_before}, after {load_after}");
    let broken: Vec<_> = verdicts.iter().flat_map(Verdict::broken).collect();
    if !broken.is_empty() {
        bail!("did not hold: {}", broken.join("; "));
    }
    Ok(())
}

/// Of the last minute: what else there was to do shows in it, too.
fn load_average() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let first = text.split_whitespace().next();
    let load = first.and_then(|load| load.parse().ok());
    load.context("parsing /proc/loadavg")
}

/// Seconds since 1970 by this machine's clock, which is also that of the simulator.
fn unix_now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// `1m` and the like are too coarse here.
fn seconds(of: Duration) -> String {
    format!("{} s", of.as_secs_f64())
}
