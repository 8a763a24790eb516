//! Logs: text on a terminal or where asked for, JSON otherwise where asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::Env;

/// `POSTROAD_LOG`: a filter as [`EnvFilter`] reads it. Default `info`.
pub const LOG: &str = "POSTROAD_LOG";
/// `POSTROAD_LOG_FORMAT`: `text` (default) or `json`.
pub const LOG_FORMAT: &str = "POSTROAD_LOG_FORMAT";

/// The target of the one line per attempt that a worker can log. Off unless asked for by this name:
/// `POSTROAD_LOG=info,postroad::attempt=info`.
pub const ATTEMPT_TARGET: &str = "postroad::attempt";

/// What to log and how.
#[derive(Debug)]
pub struct LogConfig {
    filter: EnvFilter,
    json: bool,
}

impl LogConfig {
    /// Reads both variables; `default` is the filter when none is set.
    pub fn read(env: &mut Env, default: &str) -> Self {
        let text = env.text(LOG).unwrap_or(default).to_owned();
        let filter = parse_filter(&text).unwrap_or_else(|error| {
            env.problem(LOG, format_args!("is not a log filter: {error}"));
            EnvFilter::default()
        });
        let json = match env.text(LOG_FORMAT) {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                let what = format!("must be `text` or `json`, not `{other}`");
                env.problem(LOG_FORMAT, what);
                false
            }
        };
        Self { filter, json }
    }

    /// Starts logging, to standard error. Does nothing when a logger is installed already.
    pub fn install(self) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(self.filter)
            .with_writer(std::io::stderr);
        let installed = match self.json {
            true => builder.json().flatten_event(true).try_init(),
            false => builder
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
                .try_init(),
        };
        // A second installation happens only in tests, where the first one serves.
        drop(installed);
    }
}

fn parse_filter(text: &str) -> Result<EnvFilter, InvalidFilter> {
    // The parser cuts at bytes, and panics inside a character of several.
    if !text.is_ascii() {
        return Err(InvalidFilter::NotAscii);
    }
    // lapin reports every lost connection as an error of its own; ours say more. What stands later
    // wins, so that a line per attempt can be had by naming it.
    Ok(EnvFilter::try_new(format!(
        "{ATTEMPT_TARGET}=warn,{text},lapin=off"
    ))?)
}

/// A text that is no log filter.
#[derive(Debug, thiserror::Error)]
enum InvalidFilter {
    #[error("it has characters other than ASCII")]
    NotAscii,
    #[error(transparent)]
    Syntax(#[from] ParseError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_a_problem_and_no_panic() {
        for text in ["\tA\u{a1}=", "info,é[", "info,a=loud", "[{"] {
            let mut env = Env::of_map([(LOG, text)]);
            LogConfig::read(&mut env, "info");
            let error = env.finish().unwrap_err().to_string();
            assert!(
                error.contains("\n  POSTROAD_LOG is not a log filter: "),
                "{error}"
            );
        }
    }
}
