//! Secrets as people paste them, and whatever is signed with one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_text_is_a_secret_or_an_error_that_does_not_repeat_it(
        text in prop_oneof!["(?s).{0,60}", "(whsec_)?[A-Za-z0-9+/_-]{8,100}={0,3}", "whsec_(?s).{8,60}"],
    ) {
        if let Err(error) = text.parse::<SigningSecret>() {
            let key = text.trim().trim_start_matches(PREFIX).trim_end_matches('=');
            let error = error.to_string();
            prop_assert!(key.len() < 8 || !error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_key_of_the_right_length_signs_the_same_however_it_was_copied(
        key in vec(any::<u8>(), 24..=64), body in "(?s).{0,60}", timestamp in any::<i64>(),
    ) {
        let padded = format!("{PREFIX}{}", STANDARD.encode(&key));
        let secret: SigningSecret = padded.parse().expect("a secret");
        let copied: SigningSecret = format!("\n {} \r\n", padded.trim_end_matches('=')).parse().expect("a secret");
        let signature = secret.sign("id", timestamp, &body);
        prop_assert_eq!(&signature, &copied.sign("id", timestamp, &body));
        prop_assert_eq!(signature.len(), "v1,".len() + 44);
        prop_assert_ne!(&signature, &secret.sign("id", timestamp, &format!("{body} ")));
        prop_assert_ne!(&signature, &secret.sign("id", timestamp.wrapping_add(1), &body));
        let debug = format!("{secret:?}");
        prop_assert!(!debug.contains(&padded[PREFIX.len()..]), "{debug}");
    }

    #[test]
    fn a_key_of_another_length_is_none(key in prop_oneof![vec(any::<u8>(), 0..24), vec(any::<u8>(), 65..200)]) {
        let text = format!("{PREFIX}{}", STANDARD.encode(&key));
        let error = text.parse::<SigningSecret>().expect_err("no secret");
        prop_assert_eq!(error, InvalidSigningSecret::Length(key.len()));
    }
}
