//! The built-in kinds, one file each; file name = kind.
//!
//! Beside them, in `http`, what the kinds that call a provider share: the client, where it may
//! connect to, the signature, and how an answer is judged.
//! Nothing in here reads the environment: a kind is given its config.

pub mod echo;
mod http;
pub mod sms;
pub mod webhook;

pub use http::egress::{EgressPolicy, InvalidNetwork, RefusedUrl, parse_allow};
pub use http::signature::{InvalidSigningSecret, SigningSecret};

#[cfg(test)]
mod tests;
