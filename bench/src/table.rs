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
    #[serde(flatten)]
    spread: Spread,
    /// What bounds it, or what it is compared with, measured in the same runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<Beside>,
}

/// What runs came to.
#[derive(Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    runs: Vec<f64>,
}

impl Spread {
    pub(crate) fn of(runs: Vec<f64>) -> Self {
        Self {
            median: median(&runs),
            least: runs.iter().copied().fold(f64::INFINITY, f64::min),
            most: runs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs,
        }
    }

    /// Median, least, most.
    fn short(&self) -> [String; 3] {
        [self.median, self.least, self.most].map(short)
    }
}

/// What a figure is seen beside.
#[derive(Debug, Serialize)]
struct Beside {
    name: String,
    median: f64,
    /// The figure's share of it: the median of the shares run by run.
    ratio: f64,
}

impl Table {
    /// Adds a figure: what it was in each run.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, runs: Vec<f64>) {
        self.enter(name.into(), unit, runs, None);
    }

    /// Adds a figure beside what bounds it, which was measured run by run with it.
    pub(crate) fn add_beside(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        runs: Vec<f64>,
        beside: &str,
        limits: &[f64],
    ) {
        let ratios: Vec<_> = runs
            .iter()
            .zip(limits)
            .map(|(one, limit)| one / limit)
            .collect();
        let beside = Beside {
            name: beside.to_owned(),
            median: median(limits),
            ratio: median(&ratios),
        };
        self.enter(name.into(), unit, runs, Some(beside));
    }

    fn enter(&mut self, name: String, unit: &'static str, runs: Vec<f64>, beside: Option<Beside>) {
        let figure = Figure {
            name,
            unit,
            spread: Spread::of(runs),
            beside,
        };
        eprintln!("{figure}");
        self.figures.push(figure);
    }

    /// Writes it down for programs.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | median | least | most | | of |\n|---|---:|---:|---:|---|---|"
        )?;
        for Figure {
            name,
            unit,
            spread,
            beside,
        } in &self.figures
        {
            let [median, least, most] = spread.short();
            let beside = beside.as_ref().map_or(String::new(), Beside::to_string);
            writeln!(
                f,
                "| {name} | {median} | {least} | {most} | {unit} | {beside} |"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = self.spread.short();
        write!(
            f,
            "{}: {median} {} ({least} to {most})",
            self.name, self.unit
        )?;
        match &self.beside {
            Some(beside) => write!(f, ": {beside}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} % of {} ({})",
            self.ratio * 100.0,
            self.name,
            short(self.median)
        )
    }
}

/// Three digits or more.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        odd => sorted[odd / 2],
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
