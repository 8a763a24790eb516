//! Whom attempts call.

use std::fmt;
use std::sync::Arc;

use url::Url;

/// What is kept of a name. Hosts are shorter; names that agree so far are one destination.
const BYTES_MAX: usize = 300;

/// Whom attempts call: all that have the same name share what it takes at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination(Arc<str>);

impl Destination {
    /// One that has this name. It is logged, and must not hold a secret.
    pub fn new(name: &str) -> Self {
        Self(name[..name.floor_char_boundary(BYTES_MAX)].into())
    }

    /// Scheme, host and port of a URL, whatever is asked for there.
    pub fn of_url(url: &Url) -> Self {
        Self::new(&url.origin().ascii_serialization())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_its_scheme_host_and_port() {
        let of = |url: &str| Destination::of_url(&url.parse().unwrap()).to_string();
        assert_eq!(
            of("https://Hooks.Example/a?key=s3cret"),
            "https://hooks.example"
        );
        assert_eq!(of("https://hooks.example:443/b"), "https://hooks.example");
        assert_eq!(of("http://hooks.example/"), "http://hooks.example");
        assert_eq!(of("http://[::1]:8080/"), "http://[::1]:8080");
    }

    #[test]
    fn a_name_is_not_kept_in_any_length() {
        let name = Destination::new(&"é".repeat(200)).to_string();
        assert_eq!(name, "é".repeat(BYTES_MAX / 2));
    }
}
