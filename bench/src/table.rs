//! Figures, each the median of its runs.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    figures: Vec<Figure>,
}

/// One figure of all runs.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    unit: &'static str,
    median: f64,
    least: f64,
    most: f64,
    runs: Vec<f64>,
}

impl Table {
    /// Adds a figure: what it was in each run.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, runs: Vec<f64>) {
        let name = name.into();
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let figure = Figure {
            median: at(sorted.len() / 2),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
            name,
            unit,
            runs,
        };
        eprintln!("{figure}");
        self.figures.push(figure);
    }

    /// Writes it down for programs.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | median | least | most | |\n|---|---:|---:|---:|---|")?;
        for Figure {
            name,
            unit,
            median,
            least,
            most,
            ..
        } in &self.figures
        {
            let [median, least, most] = [median, least, most].map(|value| short(*value));
            writeln!(f, "| {name} | {median} | {least} | {most} | {unit} |")?;
        }
        Ok(())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = [self.median, self.least, self.most].map(short);
        write!(
            f,
            "{}: {median} {} ({least} to {most})",
            self.name, self.unit
        )
    }
}

/// Three digits or more.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The share of sorted samples at or below which this quantile lies.
pub(crate) fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1) as f64;
    samples
        .get((last * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
