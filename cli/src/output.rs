//! What people see: progress on a terminal, plain lines elsewhere. Data goes to standard output,
//! everything else to standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
            None => eprintln!("{text}"),
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
