//! How a report is told: as text for people, and as a row of a table of many runs.

use std::fmt;

use super::figure::Figure;
use super::report::{Context, Report};

/// With none of `n` independent trials gone wrong, the share that goes wrong is with 95 %
/// confidence below this: the rule of three.
pub fn bound_95(n: u64) -> f64 {
    if n < 3 { 1.0 } else { 3.0 / n as f64 }
}

impl Report {
    /// The columns of [`Report::table_row`], as two lines of Markdown.
    pub fn table_head() -> String {
        let names = [
            "run",
            "accepted",
            "unknown",
            "faults",
            "lost",
            "silent",
            "unexpected",
            "repeats, explained",
            "per 10,000",
            "unexplained",
            "of `hold`",
            "early",
            "late starts",
            "ticks",
            "missed / extra",
            "illegal moves",
            "cross-tenant",
            "left over",
            "p99 late",
            "verdict",
        ];
        let rule = "|---".repeat(names.len());
        format!("{}\n{rule}|", row(names))
    }

    /// One line of Markdown. What has no column of its own shows in the verdict.
    pub fn table_row(&self, name: &str) -> String {
        let context = &self.context;
        let sum = |figures: &[Figure]| figures.iter().map(|f| self.count(*f)).sum::<u64>();
        let one = |figure| self.count(figure).to_string();
        row([
            name.to_owned(),
            context.acknowledged.to_string(),
            context.indeterminate.to_string(),
            context.faults.to_string(),
            one(Figure::Lost),
            one(Figure::Silent),
            one(Figure::Unexpected),
            context.explained_duplicates.to_string(),
            format!("{:.1}", context.explained_per_10_000()),
            one(Figure::UnexplainedDuplicates),
            one(Figure::HoldRepeats),
            one(Figure::Early),
            one(Figure::LateStarts),
            context.ticks.to_string(),
            format!("{} / {}", one(Figure::MissedTicks), one(Figure::ExtraTicks)),
            one(Figure::IllegalMoves),
            one(Figure::CrossTenant),
            sum(&[Figure::MessagesLeft, Figure::Unfinished, Figure::Pending]).to_string(),
            self.lateness.quantile(0.99).map_or("–".to_owned(), seconds),
            self.verdict(),
        ])
    }

    fn verdict(&self) -> String {
        if self.is_green() {
            return "green".to_owned();
        }
        let red = self.red();
        let told: Vec<_> = red
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        format!("**red**: {}", told.join(", "))
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
            "submits {attempts}: accepted {acknowledged}, refused {refused}, \
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

fn row<const N: usize>(cells: [impl AsRef<str>; N]) -> String {
    let cells = cells.each_ref().map(|cell| cell.as_ref());
    format!("| {} |", cells.join(" | "))
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3} s")
}
