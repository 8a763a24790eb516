//! The built-in kinds, one file each; file name = kind.
//!
//! Beside them, in `http`, what the kinds that call a provider share: the client, where it may
//! connect to, the signature, and how an answer is judged.
//! Nothing in here reads the environment: a kind is given its config.

pub mod echo;
mod http;
pub mod sms;
pub mod timeline;
pub mod webhook;

use serde::de::{Deserialize, Error};
use serde_json::value::RawValue;

pub use postroad_common::egress::{EgressPolicy, InvalidNetwork, RefusedUrl, parse_allow};

pub use http::signature::{InvalidSigningSecret, SigningSecret};

/// Reads args that are an object. serde alone would take a list of its values as well, and so
/// would hand on args that no receiver expects.
fn read_object<'a, T: Deserialize<'a>>(
    json: &'a RawValue,
    expected: &'static str,
) -> serde_json::Result<T> {
    if !json.get().starts_with('{') {
        return Err(Error::custom(format_args!("expected {expected}")));
    }
    serde_json::from_str(json.get())
}

#[cfg(test)]
mod tests;
