//! How every long-running program begins and ends: one runtime, one exit code.

use std::process::{ExitCode, Termination};

use crate::config::{ConfigError, EXIT_CONFIG};
use crate::startup;

/// Runs `program` on a tokio runtime; says on standard error why it ended, if it did not end well.
/// A program that ends well may say with which exit code.
///
/// The error is borrowed and not boxed: an `anyhow::Error` turned into a box hides what it is, and
/// the exit code depends on that.
pub fn run<T, E>(program: impl Future<Output = Result<T, E>>) -> ExitCode
where
    T: Termination,
    E: AsRef<dyn std::error::Error + Send + Sync>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(program);
    // A lost connection's threads may still be waiting for their server; they hold nothing.
    runtime.shutdown_background();
    match result {
        Ok(end) => end.report(),
        Err(error) => report(error.as_ref()),
    }
}

/// Prints an error with its causes; a configuration error has an exit code of its own.
pub fn report(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    if let Some(startup::Error::Stopped) = error.downcast_ref() {
        return ExitCode::SUCCESS;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    eprintln!("error: {text}");
    if is_config_error(error) {
        ExitCode::from(EXIT_CONFIG)
    } else {
        ExitCode::FAILURE
    }
}

fn is_config_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(one) = error {
        if one.is::<ConfigError>()
            || matches!(one.downcast_ref(), Some(startup::Error::Configuration(_)))
        {
            return true;
        }
        error = one.source();
    }
    false
}
