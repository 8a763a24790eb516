//! Names of tenants, queues and kinds, checked once and then carried as types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit, not `{given}`")]
pub struct InvalidName {
    what: &'static str,
    given: String,
}

// The same rule as `postroad.is_name` in the schema.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && plain(bytes[0])
        && bytes
            .iter()
            .all(|&b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    let given = text.chars().take(80).collect();
                    Err(InvalidName { what: $what, given })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Whose job it is.
    TenantName,
    "tenant"
);
name!(
    /// The lane of work a job waits in.
    QueueName,
    "queue"
);
name!(
    /// What is on the other side of some queues.
    ProviderName,
    "provider"
);
name!(
    /// The type of work.
    KindName,
    "kind"
);

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words() {
        for good in ["sms", "0", "a.b-c_d", &"x".repeat(63)] {
            assert!(good.parse::<QueueName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "Sms",
            ".a",
            "-a",
            "a b",
            "a/b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let error = "No!".parse::<KindName>().unwrap_err().to_string();
        assert!(error.starts_with("kind must be"), "{error}");
    }
}
