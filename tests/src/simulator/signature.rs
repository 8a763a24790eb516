//! Checks a recorded call against Standard Webhooks v1, as a receiver would.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::record::{Record, hex};

/// How far the signed time may be from the time the call came, as the specification advises.
const TOLERANCE_SECONDS: f64 = 300.0;

/// Whether the call carries a signature of this body, under this `whsec_…` secret, at its time.
///
/// The body is [`Record::body`] where bodies are kept; it must be the one that was recorded.
pub fn verify_signature(record: &Record, body: &[u8], secret: &str) -> anyhow::Result<()> {
    ensure!(
        hex(&Sha256::digest(body)) == record.body_sha256,
        "this is not the recorded body"
    );
    let id = record.id.as_deref().context("the call has no webhook-id")?;
    let timestamp = record.webhook_timestamp.as_deref();
    let timestamp = timestamp.context("the call has no webhook-timestamp")?;
    let signatures = record.webhook_signature.as_deref();
    let signatures = signatures.context("the call has no webhook-signature")?;

    let signed_at: i64 = timestamp
        .parse()
        .context("webhook-timestamp is not in Unix seconds")?;
    ensure!(
        (signed_at as f64 - record.t).abs() <= TOLERANCE_SECONDS,
        "signed at {signed_at}, received at {}",
        record.t
    );
    let secret = secret
        .strip_prefix("whsec_")
        .context("the secret does not start with whsec_")?;
    let secret = BASE64_STANDARD
        .decode(secret)
        .context("decoding the secret")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).context("the secret as a key")?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    // A space separates signatures under several secrets, of which one must fit.
    let fits = signatures
        .split(' ')
        .filter_map(|signature| BASE64_STANDARD.decode(signature.strip_prefix("v1,")?).ok())
        .any(|signature| mac.clone().verify_slice(&signature).is_ok());
    ensure!(fits, "no signature of {signatures:?} fits");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::Status;
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn call() -> Record {
        Record {
            t: 1_614_265_331.5,
            path: "/webhook".to_owned(),
            id: Some("msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
            key: None,
            attempt: None,
            body_sha256: hex(&Sha256::digest(BODY)),
            bytes: BODY.len(),
            status: Status::Code(200),
            effect: true,
            webhook_timestamp: Some("1614265330".to_owned()),
            webhook_signature: Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
            sms_sender: None,
            body: None,
        }
    }

    #[test]
    fn the_published_example_verifies() {
        verify_signature(&call(), BODY, SECRET).unwrap();
        let two = "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned();
        let rotating = Record {
            webhook_signature: Some(two),
            sms_sender: None,
            ..call()
        };
        verify_signature(&rotating, BODY, SECRET).unwrap();
    }

    #[test]
    fn anything_else_does_not() {
        let refused = |record: Record, body: &[u8], secret: &str| {
            assert!(verify_signature(&record, body, secret).is_err());
        };
        refused(call(), b"{}", SECRET);
        refused(call(), BODY, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        refused(call(), BODY, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        refused(
            Record {
                id: Some("msg_other".to_owned()),
                ..call()
            },
            BODY,
            SECRET,
        );
        refused(
            Record {
                webhook_signature: None,
                sms_sender: None,
                ..call()
            },
            BODY,
            SECRET,
        );
        refused(
            Record {
                t: 1_614_275_330.0,
                ..call()
            },
            BODY,
            SECRET,
        );
    }
}
