//! What tests may say to a debug build, and nobody to a release build.

use std::time::Duration;

/// How long a service rests, instead of as long as it would by itself.
#[cfg(debug_assertions)]
pub(crate) fn rest(variable: &'static str) -> Option<Duration> {
    use postroad_common::config::{Env, parse_duration};

    let env = Env::of_process();
    let text = env.text(variable)?;
    Some(parse_duration(text).expect("a test says how long"))
}

#[cfg(not(debug_assertions))]
pub(crate) fn rest(_: &'static str) -> Option<Duration> {
    None
}
