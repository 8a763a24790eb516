//! What came of it: a table of figures, a table of guarantees, and what they are from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::measure::Run;
use super::peer::{Claim, Guarantees, Peer, Server};
use super::postroad;
use crate::chart::{self, Bar};
use crate::table::{Spread, median, short};

/// With fewer, a rate is that of one batch: some peers fetch as many as 5,000 at once.
const JOBS_ENOUGH: usize = 20_000;
/// Processors that others may keep busy without a word in the report.
const OTHERS_MAX: f64 = 0.1;

/// One system: what it is, and what its runs came to.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: &'static str,
    pub(super) version: String,
    settings: &'static str,
    servers: &'static [Server],
    guarantees: Guarantees,
    #[serde(skip)]
    runs: Vec<Run>,
    /// Of the runs; for programs.
    figures: BTreeMap<&'static str, Spread>,
    failures: Vec<String>,
}

/// What each run has, under the names that programs read.
type Figure = fn(&Run) -> f64;
const FIGURES: [(&str, Figure); 8] = [
    ("enqueued_per_second", |run| run.enqueued),
    ("drained_per_second", |run| run.drained),
    ("servers_cpu_seconds_per_1000_jobs", |run| run.servers_cpu),
    ("workers_cpu_seconds_per_1000_jobs", |run| run.workers_cpu),
    ("workers_memory_mb", |run| run.memory),
    ("wait_median_ms", |run| run.wait_median),
    ("wait_p99_ms", |run| run.wait_p99),
    ("processors_busy_with_others", |run| run.others),
];

impl Row {
    pub(super) fn of_postroad() -> Self {
        Self {
            name: postroad::NAME,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: postroad::SETTINGS,
            servers: &[Server::Postgres, Server::RabbitMq],
            guarantees: postroad::GUARANTEES,
            runs: Vec::new(),
            figures: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    pub(super) fn of(peer: &Peer) -> Self {
        Self {
            name: peer.name,
            version: String::new(),
            settings: peer.settings,
            servers: peer.servers,
            guarantees: peer.guarantees,
            runs: Vec::new(),
            figures: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    pub(super) fn measured(&mut self, nth: u16, run: Run) {
        eprintln!(
            "{}, run {nth}: {}/s enqueued, {}/s drained",
            self.name,
            short(run.enqueued),
            short(run.drained)
        );
        self.runs.push(run);
        let spreads = FIGURES.map(|(name, of)| (name, self.spread(of)));
        self.figures = spreads.into();
    }

    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        eprintln!("{} failed: {error:#}", self.name);
        self.failures.push(format!("{error:#}"));
    }

    fn title(&self) -> String {
        format!("{} {}", self.name, self.version).trim().to_owned()
    }

    fn spread(&self, of: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(of).collect())
    }

    fn claims(&self) -> [Claim; 5] {
        let Guarantees {
            durable,
            started_once,
            fencing,
            order,
            killed,
        } = self.guarantees;
        [durable, started_once, fencing, order, killed]
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    jobs: usize,
    /// Of the machine.
    processors: usize,
    systems: Vec<Row>,
}

impl Report {
    pub(super) fn new(jobs: usize, systems: Vec<Row>) -> Self {
        Self {
            jobs,
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            systems,
        }
    }

    /// For programs, and as a picture.
    pub(super) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let file = out.join("peers.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let mut bars: Vec<_> = self.measured().map(bar).collect();
        if bars.is_empty() {
            return Ok(());
        }
        bars.sort_by(|a, b| b.values[0].total_cmp(&a.values[0]));
        chart::bars(
            &out.join("peers.svg"),
            &format!(
                "A backlog of {} jobs that take no time, on {} processors",
                self.jobs, self.processors
            ),
            "jobs per second; what each guarantees meanwhile is in the table",
            &["drained"],
            &bars,
        )
    }

    fn measured(&self) -> impl Iterator<Item = &Row> {
        self.systems.iter().filter(|row| !row.runs.is_empty())
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} jobs of about 100 bytes, {} processors; medians of the runs, rates with least and \
             most. CPU is processor seconds per 1,000 jobs of the drain, memory the most that all \
             worker processes had, waits are from enqueue to start on the idle system.\n",
            self.jobs, self.processors
        )?;
        writeln!(
            f,
            "| | on | enqueued/s | drained/s | CPU of servers | of workers | memory, MB | wait, \
             median ms | 99 % ms |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for row in &self.systems {
            let servers: Vec<_> = row.servers.iter().map(|server| server.name()).collect();
            let servers = servers.join(", ");
            write!(f, "| {} | {servers} |", row.title())?;
            if row.runs.is_empty() {
                let reason = row
                    .failures
                    .first()
                    .map_or("not run", |text| first_line(text));
                writeln!(f, " {} | | | | | | |", in_cell(reason))?;
                continue;
            }
            for rate in [
                row.spread(|run| run.enqueued),
                row.spread(|run| run.drained),
            ] {
                let Spread {
                    median,
                    least,
                    most,
                    ..
                } = rate;
                write!(f, " {} ({}–{}) |", short(median), short(least), short(most))?;
            }
            let others: [Figure; 5] = [
                |run| run.servers_cpu,
                |run| run.workers_cpu,
                |run| run.memory,
                |run| run.wait_median,
                |run| run.wait_p99,
            ];
            for of in others {
                write!(f, " {} |", short(row.spread(of).median))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn guarantees(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sources = Vec::new();
        writeln!(
            f,
            "\n| | durable before acknowledged | started once | fencing | order | taken along by a \
             killed worker |\n|---|---|---|---|---|---|"
        )?;
        for row in &self.systems {
            write!(f, "| {} |", row.title())?;
            for Claim { says, source } in row.claims() {
                let known = sources.iter().position(|known| *known == source);
                let nth = known.unwrap_or_else(|| {
                    sources.push(source);
                    sources.len() - 1
                });
                write!(f, " {says} [{}] |", nth + 1)?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (nth, source) in sources.iter().enumerate() {
            writeln!(f, "[{}] {source}", nth + 1)?;
        }
        Ok(())
    }

    /// How each was set up, and what there is to know before figures are compared.
    fn notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for row in &self.systems {
            writeln!(f, "* {}: {}.", row.name, row.settings)?;
        }
        if self.jobs < JOBS_ENOUGH {
            writeln!(
                f,
                "* A look, not a measurement: with fewer than {JOBS_ENOUGH} jobs a rate is that of \
                 one batch where batches are large, and processor time is a few ticks of a clock."
            )?;
        }
        for row in self.measured() {
            let others = row.spread(|run| run.others).most;
            if others > OTHERS_MAX {
                writeln!(
                    f,
                    "* {}: others kept {others:.1} processors busy meanwhile; its figures are too \
                     low.",
                    row.name
                )?;
            }
        }
        for row in &self.systems {
            for failure in &row.failures {
                writeln!(f, "* {} failed: {failure}", row.name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures(f)?;
        self.guarantees(f)?;
        self.notes(f)
    }
}

fn bar(row: &Row) -> Bar {
    let rates: Vec<f64> = row.runs.iter().map(|run| run.drained).collect();
    Bar {
        name: row.title(),
        values: vec![median(&rates)],
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn in_cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::super::PEERS;
    use super::*;

    fn run(drained: f64) -> Run {
        Run {
            enqueued: 1000.0,
            drained,
            servers_cpu: 0.1,
            workers_cpu: 0.2,
            memory: 100.0,
            wait_median: 1.5,
            wait_p99: 3.0,
            others: 0.0,
        }
    }

    #[test]
    fn a_peer_that_failed_has_a_row_with_the_reason_and_the_others_have_theirs() {
        let (mut failed, mut measured) = (Row::of(PEERS[0]), Row::of(PEERS[1]));
        failed.failed(&anyhow::anyhow!("no such package\nmore of it"));
        for rate in [200.0, 100.0, 400.0] {
            measured.measured(1, run(rate));
        }
        let text = Report::new(100, vec![failed, measured]).to_string();
        assert!(text.contains("| no such package | | |"), "{text}");
        assert!(text.contains("| 200 (100–400) | 0.100 | 0.200 |"), "{text}");
    }

    #[test]
    fn every_claim_of_a_peer_says_where_it_is_from() {
        let rows = PEERS.map(Row::of);
        for row in rows.iter().chain([&Row::of_postroad()]) {
            for claim in row.claims() {
                let is_said = !claim.says.is_empty() && !claim.source.is_empty();
                assert!(is_said, "{}: {claim:?}", row.name);
            }
        }
    }
}
