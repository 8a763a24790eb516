//! Who a text message is from, as networks take it.

use std::fmt;
use std::str::FromStr;

/// The longest name that networks show.
const NAME_CHARS_MAX: usize = 11;
/// Digits of a phone number in E.164.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// A name of 1 to 11 letters and digits, one of them a letter; or a phone number in E.164. Whether
/// the gateway lets this tenant use it is the gateway's to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmsSender(Box<str>);

/// A text that is no sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 11 letters and digits, at least one of them a letter, or a phone number such as +33639980606"
)]
pub struct InvalidSmsSender;

impl SmsSender {
    /// The sender as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SmsSender {
    type Err = InvalidSmsSender;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = (1..=NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric())
            && text.bytes().any(|b| b.is_ascii_alphabetic());
        match is_name || is_phone_number(text) {
            true => Ok(Self(text.into())),
            false => Err(InvalidSmsSender),
        }
    }
}

impl fmt::Display for SmsSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shape of E.164, whatever country. Whether the number exists is for the gateway to know.
pub fn is_phone_number(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_a_short_name_or_a_phone_number() {
        for good in [
            "A",
            "ACME",
            "Acme2Go",
            "12345678901a"[1..].as_ref(),
            "+33639980606",
        ] {
            assert_eq!(good.parse::<SmsSender>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "12345",
            "ACME Corp",
            "ACME-1",
            "Zürich",
            "abcdefghijkl",
            "+336",
            "+33 639980606",
            "33639980606",
            "ACME\r\nx: y",
        ] {
            assert_eq!(bad.parse::<SmsSender>(), Err(InvalidSmsSender), "{bad}");
        }
    }
}
