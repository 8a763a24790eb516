//! `postroad doctor`: what is wrong, or will be, and what to do about it.
//!
//! `facts` asks the servers; `checks` judges what they said, without I/O: each check is a function
//! in a table.

mod checks;
mod facts;
mod needs;

use std::fmt;
use std::process::ExitCode;

use postroad_common::text::one_line;
use serde_json::json;

use self::checks::CHECKS;
use self::facts::Facts;
use crate::output;

/// Looks at the configuration, Postgres, RabbitMQ and what is in them, and says what is wrong.
///
/// Changes nothing.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// One JSON object a line for each finding.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Run it with a program's own environment to see whether that program could work. Alarms and policies
of RabbitMQ are known only if POSTROAD_MANAGEMENT_URL names its pages, such as
http://user:password@127.0.0.1:15672.

Examples:
  postroad doctor
  postroad doctor --json | jq 'select(.level != \"OK\")'
  DATABASE_URL=postgres://my_worker:secret@db/app postroad doctor

Exit codes: 0 nothing worse than a warning, 1 something fails.";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, and somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Fail => "\x1b[31m",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    level: Level,
    /// What is the case.
    text: String,
    /// What to do about it; empty where nothing needs to be done.
    remedy: String,
}

impl Finding {
    fn ok(text: impl fmt::Display) -> Self {
        Self::new(Level::Ok, text, "")
    }

    fn warn(text: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Level::Warn, text, remedy)
    }

    fn fail(text: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::new(Level::Fail, text, remedy)
    }

    fn new(level: Level, text: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self {
            level,
            text: text.to_string(),
            remedy: remedy.to_string(),
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let facts = Facts::gather().await;
    let (mut text, mut worst) = (String::new(), Level::Ok);
    let is_coloured = !args.json && output::is_coloured();
    for check in CHECKS {
        for finding in (check.look)(&facts) {
            worst = worst.max(finding.level);
            text += &match args.json {
                true => format!("{}\n", json(check.what, &finding)),
                false => format!("{}\n", line(check.what, &finding, is_coloured)),
            };
        }
    }
    output::print(&text)?;
    Ok(match worst {
        Level::Fail => ExitCode::FAILURE,
        Level::Ok | Level::Warn => ExitCode::SUCCESS,
    })
}

fn line(what: &str, finding: &Finding, is_coloured: bool) -> String {
    let Finding {
        level,
        text,
        remedy,
    } = finding;
    let mark = format!("{:4}", level.as_str());
    let mark = match is_coloured {
        true => format!("{}{mark}\x1b[0m", level.colour()),
        false => mark,
    };
    let text = one_line(text);
    match remedy.is_empty() {
        true => format!("{mark}  {what}: {text}"),
        false => format!("{mark}  {what}: {text} — {remedy}"),
    }
}

fn json(what: &str, finding: &Finding) -> serde_json::Value {
    json!({
        "level": finding.level.as_str(),
        "check": what,
        "finding": finding.text,
        "remedy": finding.remedy,
    })
}
