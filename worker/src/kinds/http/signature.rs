//! Standard Webhooks signatures, scheme v1: <https://www.standardwebhooks.com>.

use std::str::FromStr;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// The lengths that the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// With or without the padding: people copy secrets by hand.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key that signs a tenant's webhooks, written `whsec_…`. Does not print.
#[derive(Debug)]
pub struct SigningSecret(SecretSlice<u8>);

/// A text that is no signing secret. Does not repeat the text, which is nearly one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigningSecret {
    /// It does not say that it is a signing secret.
    #[error("a signing secret starts with `whsec_`")]
    Prefix,
    /// What follows the prefix cannot be decoded.
    #[error("a signing secret is `whsec_` and base64; what follows `whsec_` is not base64")]
    Base64,
    /// The key is too short to be safe, or too long for the specification.
    #[error("a signing secret holds 24 to 64 bytes, not {0}")]
    Length(usize),
}

impl FromStr for SigningSecret {
    type Err = InvalidSigningSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(InvalidSigningSecret::Prefix)?;
        let key = BASE64
            .decode(encoded)
            .map_err(|_| InvalidSigningSecret::Base64)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(InvalidSigningSecret::Length(key.len()));
        }
        Ok(Self(key.into()))
    }
}

impl SigningSecret {
    /// The value of `webhook-signature` for a message.
    pub(in crate::kinds) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret())
            .expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn parse(text: &str) -> Result<(), InvalidSigningSecret> {
        text.parse::<SigningSecret>().map(|_| ())
    }

    #[test]
    fn the_official_test_vector_holds() {
        let secret: SigningSecret = SECRET.parse().expect("a secret");
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = secret.sign(id, 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_says_why() {
        let of_length = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7; length]));
        assert_eq!(parse(&of_length(24)), Ok(()));
        assert_eq!(parse(&of_length(64)), Ok(()));
        assert_eq!(parse(of_length(32).trim_end_matches('=')), Ok(()));
        assert_eq!(parse(&format!(" {SECRET}\n")), Ok(()));
        assert_eq!(parse(&of_length(23)), Err(InvalidSigningSecret::Length(23)));
        assert_eq!(parse(&of_length(65)), Err(InvalidSigningSecret::Length(65)));
        assert_eq!(parse("whsec_"), Err(InvalidSigningSecret::Length(0)));
        assert_eq!(
            parse("whsec_not base64!"),
            Err(InvalidSigningSecret::Base64)
        );
        assert_eq!(
            parse(&SECRET.replace("whsec_", "")),
            Err(InvalidSigningSecret::Prefix)
        );
        assert_eq!(
            parse(&SECRET.replace("whsec_", "whpk_")),
            Err(InvalidSigningSecret::Prefix)
        );
        assert_eq!(parse(""), Err(InvalidSigningSecret::Prefix));
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret: SigningSecret = SECRET.parse().expect("a secret");
        assert_eq!(
            format!("{secret:?}"),
            "SigningSecret(SecretBox<[u8]>([REDACTED]))"
        );
    }
}
