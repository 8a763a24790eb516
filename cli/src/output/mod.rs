//! What people see: progress on a terminal, plain lines elsewhere. Data goes to standard output,
//! everything else to standard error.

pub(crate) mod table;

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use postroad_common::config::Env;
use postroad_common::text::one_line;
use serde::Serialize;

pub(crate) use self::table::Table;

/// Whoever read standard output has gone: no error, and nothing more to say.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for Closed {}

/// Writes to standard output, where data goes.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("writing to standard output"),
    }
}

/// A line of standard output.
pub(crate) fn line(text: impl fmt::Display) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// One JSON object a line, in the words of the API.
pub(crate) fn json_lines<T: Serialize>(rows: &[T]) -> anyhow::Result<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    print(&text)
}

/// A line of standard error, where everything goes that is not data. That nobody reads it is no
/// reason to end.
pub(crate) fn note(text: impl fmt::Display) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// A table, as wide as the terminal if standard output is one.
pub(crate) fn table(table: &Table) -> anyhow::Result<()> {
    let rendered = table.render(width());
    print(&rendered.text)?;
    match rendered.hidden {
        0 => {}
        n => note(format_args!(
            "{n} columns have no room here; --json shows everything"
        )),
    }
    Ok(())
}

/// Names and values, a line each.
pub(crate) fn pairs(lines: &[(&str, String)]) -> anyhow::Result<()> {
    let room = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let line = format!("{name:room$}  {}", one_line(value));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    print(&text)
}

/// The columns of the terminal that standard output is; none if it is none.
pub(crate) fn width() -> Option<usize> {
    size().map(|(_, columns)| columns)
}

/// Rows and columns of the terminal that standard output is.
pub(crate) fn size() -> Option<(usize, usize)> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    Some(match console::Term::stdout().size_checked() {
        // A terminal that was never told its size.
        None | Some((0, _) | (_, 0)) => (24, 80),
        Some((rows, columns)) => (rows.into(), columns.into()),
    })
}

/// Whether standard output shows colours, and nobody has asked for none.
pub(crate) fn is_coloured() -> bool {
    let env = Env::of_process();
    std::io::stdout().is_terminal() && env.text("NO_COLOR").is_none() && !is_dumb()
}

/// Whether the terminal cannot move its cursor.
pub(crate) fn is_dumb() -> bool {
    Env::of_process().text("TERM") == Some("dumb")
}

/// Whether somebody is there who can be asked, or who watches.
pub(crate) fn is_attended() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A moment, to the second.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A moment, if there is one.
pub(crate) fn moment_or(at: Option<Timestamp>, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), moment)
}

/// A number, if there is one.
pub(crate) fn number_or(number: Option<impl fmt::Display>, none: &str) -> String {
    number.map_or_else(|| none.to_owned(), |number| number.to_string())
}

/// A stretch of time in its two largest units; never negative.
pub(crate) fn stretch(seconds: f64) -> String {
    if seconds.is_nan() || seconds < 10.0 {
        return format!("{:.1}s", seconds.max(0.0));
    }
    let whole = seconds.min(1e12) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A bar over `length` steps, or a spinner when nobody knows how many there will be. Silent when
/// standard error is not a terminal.
pub(crate) fn bar(length: Option<u64>, unit: &str) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(10);
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::with_draw_target(Some(length), target),
            format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} {{eta}}"),
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            format!("{{spinner}} {{human_pos}} {unit} {{per_sec}} {{elapsed}}"),
        ),
    };
    bar.with_style(ProgressStyle::with_template(&template).expect("the template is constant"))
}

/// One line that is rewritten: on a terminal with a spinner, elsewhere only when `say` is called.
pub(crate) struct Line {
    bar: Option<ProgressBar>,
}

impl Line {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.expect("the template is constant"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar }
    }

    /// Something passing: rewrites the line, if there is one.
    pub(crate) fn show(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// Something to be kept: a line of its own.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_time_is_short_and_never_negative() {
        for (seconds, text) in [
            (-5.0, "0.0s"),
            (f64::NAN, "0.0s"),
            (0.25, "0.2s"),
            (59.9, "59s"),
            (61.0, "1m01s"),
            (10_860.0, "3h01m"),
            (90_000.0, "1d01h"),
            (f64::INFINITY, "11574074d01h"),
        ] {
            assert_eq!(stretch(seconds), text);
        }
    }
}
