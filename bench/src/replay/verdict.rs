//! What a story came to: figures, and what had to hold.

use std::fmt;

use serde::Serialize;

use crate::picture::thousands;

/// One run of a story.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    story: String,
    figures: Vec<Figure>,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
}

/// Something that had to hold.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    found: String,
    holds: bool,
}

impl Verdict {
    pub(crate) fn of(story: impl Into<String>) -> Self {
        Self {
            story: story.into(),
            figures: Vec::new(),
            checks: Vec::new(),
        }
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        let name = name.into();
        self.figures.push(Figure { name, unit, value });
    }

    pub(crate) fn check(&mut self, what: impl Into<String>, holds: bool, found: impl Into<String>) {
        self.checks.push(Check {
            what: what.into(),
            found: found.into(),
            holds,
        });
    }

    /// What did not hold.
    pub(crate) fn broken(&self) -> impl Iterator<Item = &str> {
        let broken = self.checks.iter().filter(|check| !check.holds);
        broken.map(|check| check.what.as_str())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n| | |\n|---|---:|", self.story)?;
        for Figure { name, unit, value } in &self.figures {
            let value = match value.abs() {
                large if large >= 100.0 => thousands(*value),
                _ if value.fract() == 0.0 => thousands(*value),
                _ => format!("{value:.2}"),
            };
            writeln!(f, "| {name} | {value} {unit} |")?;
        }
        writeln!(f, "\n| what has to hold | found | |\n|---|---|---|")?;
        for Check { what, found, holds } in &self.checks {
            let holds = if *holds { "holds" } else { "**does not hold**" };
            writeln!(f, "| {what} | {found} | {holds} |")?;
        }
        Ok(())
    }
}
