//! What `postroad-chaos` can be told.

use std::path::PathBuf;

use clap::Parser;
use postroad_chaos::faults::Tier;

/// Breaks everything while jobs are on their way, and accounts for every one of them.
///
/// Starts private servers, kills programs at every point between two systems, cuts wires, restarts
/// and wipes servers, and compares what clients, the provider, Postgres and the broker saw. Ends
/// with one table, and with exit code 1 if anything in it is red.
#[derive(Clone, Debug, Parser)]
#[command(name = "postroad-chaos", version, after_long_help = HELP)]
pub(crate) struct Args {
    /// The runs that every change has to pass: about five minutes.
    #[arg(long, conflicts_with_all = ["all", "standard"])]
    pub(crate) gate: bool,
    /// The runs of `make chaos`: less than twenty minutes. This is the default.
    #[arg(long, conflicts_with = "all")]
    pub(crate) standard: bool,
    /// Every run, the long ones too.
    #[arg(long)]
    pub(crate) all: bool,
    /// Decides everything that is left to chance; the same one makes the same runs.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Only the runs whose name contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Vec<String>,
    /// Names every run, and makes none.
    #[arg(long)]
    pub(crate) list: bool,
    /// Where servers, logs, histories of red runs, and the table go.
    #[arg(long, value_name = "DIRECTORY", default_value = ".postroad/chaos")]
    pub(crate) dir: PathBuf,
    /// Makes runs with faults on debug programs as well, to save a build; they are slower.
    #[arg(long)]
    pub(crate) debug_programs: bool,
    /// Instead of runs: faults in random order for so many minutes, then the run that looks for leaks.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) soak: Option<u64>,
    /// Instead of runs: puts the newest table into docs/chaos, README.md and docs/GUARANTEES.md.
    #[arg(long)]
    pub(crate) publish: bool,
}

const HELP: &str = "\
Examples:
  make chaos                                        every usual run, a new seed
  make chaos ARGS=\"--all --seed 7\"                  every run there is, as they were with seed 7
  make chaos ARGS=\"--only kill --only finisher\"     some of them
  make chaos ARGS=--list                            their names
  make soak                                         an hour of faults

A red run is made again by its seed and commit, which the table names; its history is in
DIRECTORY/red.";

impl Args {
    pub(crate) fn tier(&self) -> Tier {
        match (self.gate, self.all) {
            (true, _) => Tier::Gate,
            (_, true) => Tier::All,
            _ => Tier::Standard,
        }
    }

    /// As this program is told it.
    pub(crate) fn tier_name(&self) -> String {
        match (self.soak, self.tier()) {
            (Some(minutes), _) => format!("soak {minutes}"),
            (None, tier) => format!("{tier:?}").to_lowercase(),
        }
    }

    pub(crate) fn takes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text))
    }
}
