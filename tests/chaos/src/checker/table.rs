//! How a report is told: as text for people, and as a row of a table of many runs.

use std::fmt;

use super::figure::Figure;
use super::report::{Context, Report};

/// With none of `n` independent trials gone wrong, the share that goes wrong is with 95 %
/// confidence below this: the rule of three.
pub fn bound_95(n: u64) -> f64 {
    if n < 3 { 1.0 } else { 3.0 / n as f64 }
}

/// What the column of residue adds up.
const LEFT_OVER: [Figure; 3] = [Figure::MessagesLeft, Figure::Unfinished, Figure::Pending];

impl Report {
    /// The columns of [`Report::table_row`], as two lines of Markdown.
    pub fn table_head() -> String {
        let columns = Self::default().columns("").map(|(name, _)| name.to_owned());
        let rule = "|---".repeat(columns.len());
        format!("{}\n{rule}|", line(&columns))
    }

    /// One line of Markdown. What has no column of its own shows in the verdict.
    pub fn table_row(&self, name: &str) -> String {
        line(&self.columns(name).map(|(_, value)| value))
    }

    fn columns(&self, name: &str) -> [(&'static str, String); 20] {
        use Figure as F;
        let context = &self.context;
        let late = self.lateness.quantile(0.99);
        let repeats = context.explained_duplicates;
        let repeats_per_10_000 = context.explained_per_10_000();
        let one = |figure| self.count(figure).to_string();
        let sum = |figures: &[F]| {
            let counts = figures.iter().map(|figure| self.count(*figure));
            counts.sum::<u64>().to_string()
        };
        [
            ("run", name.to_owned()),
            ("accepted", context.acknowledged.to_string()),
            ("unknown", context.indeterminate.to_string()),
            ("faults", context.faults.to_string()),
            ("lost", one(F::Lost)),
            ("silent", one(F::Silent)),
            ("unexpected", one(F::Unexpected)),
            ("explained repeats", repeats.to_string()),
            ("per 10,000", format!("{repeats_per_10_000:.1}")),
            ("unexplained", one(F::UnexplainedDuplicates)),
            ("of `hold`", one(F::HoldRepeats)),
            ("early", one(F::Early)),
            ("late starts", one(F::LateStarts)),
            ("ticks", context.ticks.to_string()),
            ("missed, extra", sum(&[F::MissedTicks, F::ExtraTicks])),
            ("illegal moves", one(F::IllegalMoves)),
            ("cross-tenant", one(F::CrossTenant)),
            ("left over", sum(&LEFT_OVER)),
            ("p99 late", late.map_or("–".to_owned(), seconds)),
            ("verdict", self.verdict()),
        ]
    }

    fn verdict(&self) -> String {
        if self.is_green() {
            return "green".to_owned();
        }
        let tell = |(name, count)| format!("{name} {count}");
        let red: Vec<_> = self.red().into_iter().map(tell).collect();
        format!("**red**: {}", red.join(", "))
    }
}

impl Context {
    /// Explained repeats per ten thousand effects.
    pub fn explained_per_10_000(&self) -> f64 {
        self.explained_duplicates as f64 * 10_000.0 / self.effects.max(1) as f64
    }
}

/// Everything, one subject a line; of what is red, the samples too.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Context {
            attempts,
            acknowledged,
            over_http,
            indeterminate,
            refused,
            recovered,
            lost_records,
            held,
            ticks,
            calls,
            effects,
            explained_duplicates,
            delayed_starts,
            moves,
            faults,
        } = self.context;
        let runs = self.runs;
        writeln!(f, "runs {runs}, faults {faults}, moves {moves}")?;
        writeln!(
            f,
            "submits {attempts}: accepted {acknowledged} (over HTTP {over_http}), refused {refused}, \
             unknown {indeterminate} (of which ran {recovered})"
        )?;
        writeln!(
            f,
            "calls {calls}: effects {effects}, repeats explained {explained_duplicates} \
             ({:.1} per 10,000), starts delayed by a fault {delayed_starts}",
            self.context.explained_per_10_000()
        )?;
        writeln!(
            f,
            "ticks {ticks}, held {held}, lost but for their effect {lost_records}"
        )?;
        if let Some(line) = self.lateness_line() {
            writeln!(f, "{line}")?;
        }
        for (figure, finding) in &self.findings {
            writeln!(f, "RED {figure} {}", finding.count)?;
            for sample in &finding.samples {
                writeln!(f, "    {sample}")?;
            }
        }
        if self.is_green() {
            let bound = bound_95(acknowledged);
            writeln!(
                f,
                "green: fewer than {bound:.1e} of accepted jobs are lost (95 %)"
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn lateness_line(&self) -> Option<String> {
        let late = |part| self.lateness.quantile(part).map(seconds);
        let (p50, p95, p99) = (late(0.5)?, late(0.95)?, late(0.99)?);
        let max = seconds(self.lateness.max());
        Some(format!("late p50 {p50}, p95 {p95}, p99 {p99}, max {max}"))
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3} s")
}
