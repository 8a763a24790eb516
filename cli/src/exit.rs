//! How a command ends: what it says on standard error, and with which code.

use std::fmt;
use std::process::ExitCode;

use postroad_common::config::{ConfigError, EXIT_CONFIG};

use crate::output::{Closed, note};

/// What the help of every command says about codes.
pub(crate) const CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the ledger has an alarm, 4 not found, 5 in conflict
with how things are, 78 the configuration cannot be used.";

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 4;
const CONFLICT: u8 = 5;

/// An end that was to be expected: one line, and a code that scripts can test for.
#[derive(Debug)]
pub(crate) struct Refused {
    code: u8,
    text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

fn refused(code: u8, text: impl fmt::Display) -> anyhow::Error {
    let text = text.to_string();
    Refused { code, text }.into()
}

/// The command was given in a way that cannot be meant.
pub(crate) fn usage(text: impl fmt::Display) -> anyhow::Error {
    refused(USAGE, text)
}

/// What was asked for is not there.
pub(crate) fn not_found(text: impl fmt::Display) -> anyhow::Error {
    refused(NOT_FOUND, text)
}

/// It is there, and in a state that does not allow it.
pub(crate) fn conflict(text: impl fmt::Display) -> anyhow::Error {
    refused(CONFLICT, text)
}

/// Says why a command did not end well, and with which code it ends.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<Closed>() {
        return ExitCode::SUCCESS;
    }
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = match text.is_empty() {
                true => cause,
                false => format!("{text}: {cause}"),
            };
        }
    }
    note(format_args!("error: {text}"));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return refused.code;
        }
        if cause.is::<ConfigError>() {
            return EXIT_CONFIG;
        }
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_code_is_that_of_the_cause() {
        let inner = |error: anyhow::Error| Err::<(), _>(error).context("outer").unwrap_err();
        assert_eq!(code(&inner(not_found("no such job"))), 4);
        assert_eq!(code(&inner(conflict("it is held"))), 5);
        assert_eq!(code(&inner(ConfigError::of("A", "is wrong").into())), 78);
        assert_eq!(code(&anyhow::anyhow!("anything else")), 1);
    }
}
