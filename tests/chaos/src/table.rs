//! The one table that everything ends in: as JSON for programs, as Markdown for documents.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::checker::{Figure, Report, bound_95};
use crate::run::{Outcome, Verdict};

/// Everything that one `make chaos` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// The day, UTC.
    pub date: String,
    /// The source tree, as git names it.
    pub commit: String,
    /// Decides every run: `make chaos ARGS="--seed …"` makes them again.
    pub seed: u64,
    /// `gate`, `standard`, `all` or `soak MINUTES`.
    pub tier: String,
    /// How long it took.
    pub seconds: f64,
    /// Deaths at crash points.
    pub crashes: Vec<Outcome>,
    /// Runs with a fault.
    pub faults: Vec<Outcome>,
    /// Seeds of the simulation, and those that were red.
    pub simulation: Simulated,
    /// Bugs put in on purpose, and those that turned the verdict red.
    pub mutants: Vec<Mutant>,
}

/// What the simulation found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Simulated {
    /// How many seeds.
    pub seeds: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Crashes in them.
    pub crashes: u64,
    /// Seeds that were red.
    pub red: Vec<u64>,
}

/// A bug that was put in on purpose.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mutant {
    /// The bug.
    pub name: String,
    /// Whether the figure that it concerns was red.
    pub is_caught: bool,
    /// All figures that were.
    pub red: Vec<String>,
}

impl Findings {
    /// Whether nothing is red. What was skipped is not: it is said.
    pub fn is_green(&self) -> bool {
        self.red().next().is_none()
            && self.simulation.red.is_empty()
            && self.mutants.iter().all(|mutant| mutant.is_caught)
    }

    /// The runs that were not as they must be.
    pub fn red(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes()
            .filter(|outcome| matches!(outcome.verdict, Verdict::Red(_)))
    }

    /// The runs that could not be made here.
    pub fn skipped(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes()
            .filter(|outcome| matches!(outcome.verdict, Verdict::Skipped(_)))
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.crashes.iter().chain(&self.faults)
    }

    fn total(&self) -> Report {
        let mut total = Report::default();
        for outcome in self.outcomes() {
            total.merge(&outcome.report);
        }
        total
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let total = self.total();
        let kills: u64 = self.outcomes().map(|outcome| outcome.kills).sum();
        let partitions: u64 = self.outcomes().map(|outcome| outcome.partitions).sum();
        let jobs = total.context.acknowledged;
        let runs = self.outcomes().count();
        let skipped = self.skipped().count();
        let caught = self
            .mutants
            .iter()
            .filter(|mutant| mutant.is_caught)
            .count();
        let mut recoveries: Vec<f64> = self
            .faults
            .iter()
            .filter_map(|outcome| outcome.recovered_after)
            .collect();
        recoveries.sort_by(f64::total_cmp);
        let median = recoveries.get(recoveries.len() / 2).copied().unwrap_or(0.0);
        let slowest = recoveries.last().copied().unwrap_or(0.0);

        let mut rows: Vec<(&str, String)> = vec![
            (
                "runs",
                format!(
                    "{runs}: {} deaths at {} crash points, {} faults{}",
                    self.crashes.len(),
                    self.crash_points(),
                    self.faults.len(),
                    if skipped > 0 {
                        format!("; {skipped} not possible on the machine")
                    } else {
                        String::new()
                    }
                ),
            ),
            ("programs killed", kills.to_string()),
            ("wires cut or degraded", partitions.to_string()),
            (
                "jobs accepted",
                format!("{jobs}, of these {} over HTTP", total.context.over_http),
            ),
            (
                "without an answer to the client, and run all the same",
                total.context.recovered.to_string(),
            ),
        ];
        rows.extend(Figure::ALL.map(|figure| (figure.as_str(), total.count(figure).to_string())));
        let bound = |n: u64| {
            if n == 0 {
                "unknown".to_owned()
            } else {
                format!("{:.1e}", bound_95(n))
            }
        };
        rows.extend([
            (
                "lost, at most (95 %)",
                format!("{} per kill, {} per job", bound(kills), bound(jobs)),
            ),
            (
                "effects repeated with a reason",
                format!(
                    "{} ({:.1} per 10,000 jobs)",
                    total.context.explained_duplicates,
                    total.context.explained_per_10_000()
                ),
            ),
            (
                "ticks",
                format!(
                    "{} planned, {} missed, {} extra",
                    total.context.ticks,
                    total.count(Figure::MissedTicks),
                    total.count(Figure::ExtraTicks)
                ),
            ),
            (
                "measured again, alone, as slow beside other runs",
                self.faults
                    .iter()
                    .filter(|outcome| outcome.is_second)
                    .count()
                    .to_string(),
            ),
            (
                "time to recover",
                format!("median {median:.1} s, longest {slowest:.1} s"),
            ),
            (
                "simulation",
                format!(
                    "{} seeds, {} jobs, {} crashes, {} red",
                    self.simulation.seeds,
                    self.simulation.jobs,
                    self.simulation.crashes,
                    self.simulation.red.len()
                ),
            ),
            (
                "bugs put in on purpose, and caught",
                format!("{caught} of {}", self.mutants.len()),
            ),
        ]);
        let mut text = format!(
            "{}, commit {}, `make chaos ARGS=\"--{} --seed {}\"`, {:.0} minutes:\n\n| figure | |\n|---|---|\n",
            self.date,
            self.commit,
            self.tier,
            self.seed,
            (self.seconds / 60.0).ceil()
        );
        for (name, figure) in rows {
            let _ = writeln!(text, "| {name} | {figure} |");
        }
        text
    }

    fn crash_points(&self) -> usize {
        let mut points: Vec<_> = self
            .crashes
            .iter()
            .filter_map(|outcome| outcome.name.split('@').next())
            .collect();
        points.sort_unstable();
        points.dedup();
        points.len()
    }
}

/// Reads what [`write()`] wrote.
pub fn read(file: &Path) -> anyhow::Result<Findings> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
}

/// Writes JSON and Markdown into this directory.
pub fn write(findings: &Findings, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let json = serde_json::to_string_pretty(findings).context("writing findings as JSON")?;
    for (name, text) in [
        ("chaos.json", json + "\n"),
        ("chaos.md", findings.markdown()),
    ] {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

const BEGIN: &str = "<!-- the newest table of make chaos: begin -->\n";
const END: &str = "<!-- the newest table of make chaos: end -->";

/// A document with the table between its two marks replaced.
pub fn with_table(document: &str, table: &str) -> anyhow::Result<String> {
    let marks = document.find(BEGIN).zip(document.find(END));
    let (begin, end) = marks.context("the document has no marks for the table")?;
    ensure!(
        begin < end,
        "the marks for the table are in the wrong order"
    );
    let begin = begin + BEGIN.len();
    Ok(format!("{}{table}{}", &document[..begin], &document[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_show_the_newest_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let findings = read(&root.join("docs/chaos/chaos.json")).unwrap();
        assert!(findings.is_green(), "what is published is green");
        for name in ["README.md", "docs/GUARANTEES.md"] {
            let document = fs::read_to_string(root.join(name)).unwrap();
            let updated = with_table(&document, &findings.markdown()).unwrap();
            assert_eq!(document, updated, "{name}: run `make chaos-publish`");
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("before\n{BEGIN}old\n{END}\nafter");
        assert_eq!(
            with_table(&document, "new\n").unwrap(),
            format!("before\n{BEGIN}new\n{END}\nafter")
        );
        assert!(with_table("nothing", "new").is_err());
    }
}
