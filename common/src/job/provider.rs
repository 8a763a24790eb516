//! Whose failure a failed attempt is.

/// How a provider failed, where the failure is the provider's own: the next job would meet it as well.
///
/// An answer that is about the job (400, 404, 410) is none of these, nor is an error on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderFailure {
    /// No connection came about: refused, unreachable, no such name. Nothing was sent.
    Unreachable,
    /// It was sent something, and no whole answer came: in time, or before the connection ended.
    Silent,
    /// It answered that it cannot take this now: 429, 502, 503, 504.
    Overloaded,
    /// It answered that it is broken: any other 5xx.
    Broken,
}

impl ProviderFailure {
    /// What a status says of whoever answered with it. None: nothing bad.
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            429 | 502..=504 => Some(Self::Overloaded),
            500..=599 => Some(Self::Broken),
            _ => None,
        }
    }

    /// Whether fewer requests at once may help. Who is broken answers, however many there are.
    pub fn calls_for_less(self) -> bool {
        match self {
            Self::Unreachable | Self::Silent | Self::Overloaded => true,
            Self::Broken => false,
        }
    }

    /// As logs and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Overloaded => "overloaded",
            Self::Broken => "broken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_the_providers_failure_or_not() {
        for status in 100..=999 {
            let expected = match status {
                429 | 502 | 503 | 504 => Some(ProviderFailure::Overloaded),
                500 | 501 | 505..=599 => Some(ProviderFailure::Broken),
                _ => None,
            };
            assert_eq!(ProviderFailure::of_status(status), expected, "{status}");
        }
    }
}
