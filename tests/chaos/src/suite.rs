//! The order of the runs, what they share, and what is said while they are made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use futures_util::stream;
use postroad_chaos::crash::{self, Death, Hit};
use postroad_chaos::faults::{self, Field, Tier};
use postroad_chaos::history::History;
use postroad_chaos::mutants::{self, Bug};
use postroad_chaos::run::{Outcome, Ran, Verdict};
use postroad_chaos::sim;
use postroad_chaos::stage::Ground;
use postroad_chaos::table::{self, Findings, Mutant, Simulated};
use postroad_tests::harness::endpoints::Endpoints;

use crate::args::Args;
use crate::breaking;
use crate::previous;
use crate::site::{commit, programs, start_servers};

/// The name of the simulation among the runs.
const SIMULATION: &str = "simulation";
/// Runs at once that share servers: each is mostly waiting.
pub(crate) const RUNS_AT_ONCE: usize = 3;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.list {
        list(&args);
        return Ok(());
    }
    if args.publish {
        return publish(&args.dir);
    }
    let seed = args
        .seed
        .unwrap_or_else(|| rand::random_range(1..1_000_000));
    let upgrades = args.soak.is_some()
        || fault_rows(&args)
            .iter()
            .any(|(row, _)| (row.setup)().upgrades);
    let previous = match upgrades {
        true => previous::programs().await?,
        false => Err("no run asked for them".to_owned()),
    };
    let started = Instant::now();
    // Before the runs: what is committed meanwhile has not been tested by them.
    let commit = commit().await;
    let simulation = simulate(&args, seed).await?;
    let servers = start_servers(&args.dir).await?;
    let endpoints = Endpoints::of(&servers);
    let field = Field::new(servers);
    let made = make_all(&args, seed, endpoints, previous, &field).await;
    field.into_inner().stop().await?;
    let made = made?;
    let findings = Findings {
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        commit,
        seed,
        tier: args.tier_name(),
        seconds: started.elapsed().as_secs_f64(),
        crashes: made.crashes,
        faults: made.faults,
        simulation,
        mutants: made.mutants,
    };
    // What is published is the table of the runs: an hour of soaking does not replace it.
    let dir = match args.soak {
        Some(_) => args.dir.join("soak"),
        None => args.dir.clone(),
    };
    table::write(&findings, &dir)?;
    println!("{}", findings.markdown());
    println!("in full: {}", dir.join("chaos.json").display());
    conclude(&findings)
}

/// Seeds on the machine's cores: nothing else runs meanwhile.
const THREADS: usize = 2;

async fn simulate(args: &Args, seed: u64) -> anyhow::Result<Simulated> {
    if !args.takes(SIMULATION) || args.soak.is_some() {
        return Ok(Simulated::default());
    }
    let seeds = match args.tier() {
        Tier::Gate | Tier::Standard => 10_000,
        Tier::All => 100_000,
    };
    let run = move || sim::run_seeds(seed..seed + seeds, THREADS);
    let summary = tokio::task::spawn_blocking(run)
        .await
        .context("the simulation panicked")?;
    let red: Vec<u64> = summary.red.iter().map(|(seed, _)| *seed).collect();
    let word = if red.is_empty() { "green " } else { "RED   " };
    println!(
        "{word}  {SIMULATION} ({seeds} seeds, {} jobs)",
        summary.figures.jobs
    );
    Ok(Simulated {
        seeds: summary.seeds,
        jobs: summary.figures.jobs,
        crashes: summary.figures.crashes,
        red,
    })
}

/// Zero red, or exit code 1 with every red run named, and why it is: of a log that is long, often
/// only the end is kept.
fn conclude(findings: &Findings) -> anyhow::Result<()> {
    for outcome in findings.skipped() {
        println!("skipped: {} {:?}", outcome.name, outcome.verdict);
    }
    if findings.is_green() {
        return Ok(());
    }
    for outcome in findings.red() {
        if let Verdict::Red(reasons) = &outcome.verdict {
            println!("red: {}\n  {}", outcome.name, reasons.join("\n  "));
        }
    }
    let seeds = findings
        .simulation
        .red
        .iter()
        .map(|seed| format!("{SIMULATION} of seed {seed}"));
    let bugs = findings.mutants.iter().filter(|mutant| !mutant.is_caught);
    let names: Vec<_> = findings
        .red()
        .map(|outcome| outcome.name.clone())
        .chain(bugs.map(|bug| format!("bug:{}", bug.name)))
        .chain(seeds)
        .collect();
    bail!(
        "red: {}; again with: make chaos ARGS=\"--seed {} --only NAME\" at commit {}",
        names.join(", "),
        findings.seed,
        findings.commit
    )
}

/// The deaths that are asked for, and the place of each in the table: so it has the same seed
/// whatever else is asked for.
fn deaths(args: &Args) -> Vec<(Death, u64)> {
    let is_taken = |(death, _): &(Death, u64)| {
        let is_in_tier =
            args.tier() > Tier::Gate || death.hit == Hit::Nth(1) || !args.only.is_empty();
        is_in_tier && args.takes(&death.name())
    };
    let numbered = crash::deaths().into_iter().zip(1..);
    numbered.filter(is_taken).collect()
}

/// The same of the runs with a fault.
pub(crate) fn fault_rows(args: &Args) -> Vec<(faults::FaultRow, u64)> {
    let is_taken = |(row, _): &(faults::FaultRow, u64)| {
        (row.tier <= args.tier() || !args.only.is_empty()) && args.takes(row.name)
    };
    let numbered = faults::table().into_iter().zip(1000..);
    numbered.filter(is_taken).collect()
}

fn list(args: &Args) {
    if args.takes(SIMULATION) {
        println!("{SIMULATION}");
    }
    for bug in bugs(args) {
        println!("{}", bug_name(bug));
    }
    for (death, _) in deaths(args) {
        println!("{:<36} {}", death.name(), death.point.says);
    }
    for (row, _) in fault_rows(args) {
        println!("{:<36} {}", row.name, row.says);
    }
}

async fn make_all(
    args: &Args,
    seed: u64,
    endpoints: Endpoints,
    previous: Result<PathBuf, String>,
    field: &Field,
) -> anyhow::Result<Made> {
    let red = args.dir.join("red");
    let programs = programs(args)?;
    let ground = Ground {
        endpoints,
        is_alone: false,
        programs: programs.debug,
        previous,
        disk: None,
        seed,
    };
    let of_servers = Ground {
        is_alone: true,
        programs: programs.release,
        ..ground.clone()
    };
    if let Some(minutes) = args.soak {
        let faults = breaking::soak(minutes, &of_servers, field, &red).await?;
        return Ok(Made {
            faults,
            ..Made::default()
        });
    }
    Ok(Made {
        mutants: put_bugs_in(args, &ground, &red).await?,
        crashes: die_everywhere(args, &ground, &red).await?,
        faults: breaking::everything(args, &of_servers, field, &red).await?,
    })
}

#[derive(Default)]
struct Made {
    mutants: Vec<Mutant>,
    crashes: Vec<Outcome>,
    faults: Vec<Outcome>,
}

fn bugs(args: &Args) -> Vec<Bug> {
    let mut bugs = Bug::ALL.to_vec();
    bugs.retain(|bug| args.takes(&bug_name(*bug)));
    bugs
}

fn bug_name(bug: Bug) -> String {
    format!("bug:{}", bug.name())
}

/// The checker first: what it says is worth nothing if it would say it of anything.
async fn put_bugs_in(args: &Args, ground: &Ground, red: &Path) -> anyhow::Result<Vec<Mutant>> {
    let bugs = bugs(args);
    if bugs.is_empty() {
        return Ok(Vec::new());
    }
    let (honest, _) = mutants::make(Bug::None, ground).await?;
    if !honest.red.is_empty() {
        bail!("an honest program turns the verdict red: {:?}", honest.red);
    }
    let made = stream::iter(bugs)
        .map(|bug| mutants::make(bug, ground))
        .buffered(RUNS_AT_ONCE);
    let (mut made, mut mutants) = (std::pin::pin!(made), Vec::new());
    while let Some(made) = made.next().await {
        let (mutant, history) = made?;
        let (name, figures) = (&mutant.name, mutant.red.join(", "));
        if mutant.is_caught {
            println!("caught  bug:{name} by {figures}");
        } else {
            let file = keep(&history, red, name)?;
            println!(
                "RED     bug:{name} was not caught, only {figures}; history: {}",
                file.display()
            );
        }
        mutants.push(mutant);
    }
    Ok(mutants)
}

/// Writes a history where people look for it.
fn keep(history: &History, red: &Path, name: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(red).with_context(|| format!("creating {}", red.display()))?;
    let file = red.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec(history)?)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

async fn die_everywhere(args: &Args, ground: &Ground, red: &Path) -> anyhow::Result<Vec<Outcome>> {
    let deaths = stream::iter(deaths(args))
        .map(|(death, n)| {
            let ground = Ground {
                seed: ground.seed + n,
                ..ground.clone()
            };
            async move { crash::make(death, &ground).await }
        })
        .buffer_unordered(RUNS_AT_ONCE);
    let (mut deaths, mut crashes) = (std::pin::pin!(deaths), Vec::new());
    while let Some(ran) = deaths.next().await {
        crashes.push(finished(ran, red)?);
    }
    crashes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(crashes)
}

/// Says how a run ended, and keeps the history of a red one.
pub(crate) fn finished(ran: Ran, red: &Path) -> anyhow::Result<Outcome> {
    let Ran { outcome, history } = ran;
    let Outcome {
        name,
        seed,
        seconds,
        report,
        ..
    } = &outcome;
    let recovered = outcome
        .recovered_after
        .map(|after| format!(", back after {after:.1} s"))
        .unwrap_or_default();
    let jobs = report.context.acknowledged;
    match &outcome.verdict {
        Verdict::Green => println!("green   {name} ({jobs} jobs, {seconds:.0} s{recovered})"),
        Verdict::Skipped(why) => println!("skipped {name}: {why}"),
        Verdict::Red(reasons) => {
            println!("RED     {name} (seed {seed}, {jobs} jobs, {seconds:.0} s{recovered})");
            for reason in reasons {
                println!("        {reason}");
            }
            if let Some(history) = history {
                let file = keep(&history, red, &format!("{name}-{seed}"))?;
                println!("        history: {}", file.display());
            }
        }
    }
    Ok(outcome)
}

/// The newest table, into the documents.
fn publish(dir: &Path) -> anyhow::Result<()> {
    let findings = table::read(&dir.join("chaos.json"))?;
    if !findings.is_green() {
        bail!("the newest table is red: what it found comes first");
    }
    table::write(&findings, Path::new("docs/chaos"))?;
    for name in ["README.md", "docs/GUARANTEES.md"] {
        let document = fs::read_to_string(name).with_context(|| format!("reading {name}"))?;
        let document =
            table::with_table(&document, &findings.markdown()).with_context(|| name.to_owned())?;
        fs::write(name, document).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}
