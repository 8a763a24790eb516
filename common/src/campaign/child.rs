//! The id of a campaign's job for one recipient.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The id of the job that a campaign makes for the recipient with this key
/// ([`Recipient::key`](super::Recipient::key)): always the same one, so that making the job again
/// is not sending it again, and a recipient who was uploaded twice gets one.
///
/// A UUIDv7 whose time is that at which the campaign was created, and whose other 74 bits are from
/// SHA-256 of campaign and key: among a billion recipients, two get the same id with a chance of
/// one in 40,000.
pub fn child_id(campaign: Uuid, recipient_key: &[u8], created: Timestamp) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(campaign.as_bytes());
    // With its length, so that no other parting of the same bytes is the same input.
    hash.update((recipient_key.len() as u64).to_be_bytes());
    hash.update(recipient_key);
    let digest = hash.finalize();
    let mut random = [0; 10];
    random.copy_from_slice(&digest[..10]);
    // A time before 1970 has no place in a UUID.
    let millis = u64::try_from(created.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::{Variant, Version};

    use super::*;

    const CAMPAIGN: Uuid = Uuid::from_u128(0x0193_c2a5_7b1e_7c3a_9f00_3b1f_5d1c_2e4a);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_is_what_it_was_in_the_first_release() {
        // Changing this sends every running campaign a second time.
        let id = child_id(
            CAMPAIGN,
            b"sms\0+33639980606",
            at("2026-11-28T20:00:00.123Z"),
        );
        assert_eq!(id.to_string(), "01a223be-3e7b-7d99-a2b8-7609d91d8cc7");
    }

    #[test]
    fn each_part_makes_another_id() {
        let now = at("2026-11-28T20:00:00.123Z");
        let ids = HashSet::from([
            child_id(CAMPAIGN, b"sms\0+33639980606", now),
            child_id(CAMPAIGN, b"sms\0+33639980607", now),
            child_id(CAMPAIGN, b"call\0+33639980606", now),
            child_id(Uuid::nil(), b"sms\0+33639980606", now),
            child_id(CAMPAIGN, b"", now),
        ]);
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn two_hundred_thousand_recipients_have_as_many_ids() {
        assert_eq!(distinct(200_000), 200_000);
    }

    #[test]
    #[ignore = "half a minute in a debug build"]
    fn two_million_recipients_have_as_many_ids() {
        assert_eq!(distinct(2_000_000), 2_000_000);
    }

    fn distinct(recipients: u64) -> usize {
        let now = at("2026-11-28T20:00:00Z");
        let id = |n| child_id(CAMPAIGN, format!("sms\0+336{n:08}").as_bytes(), now);
        (0..recipients).map(id).collect::<HashSet<_>>().len()
    }

    proptest! {
        #[test]
        fn any_key_has_a_valid_id_with_the_time_of_the_campaign(
            key in vec(any::<u8>(), 0..300), millis in 0..7_258_118_400_000i64,
        ) {
            let created = Timestamp::from_millisecond(millis).unwrap();
            let id = child_id(CAMPAIGN, &key, created);
            prop_assert_eq!(id.get_version(), Some(Version::SortRand));
            prop_assert_eq!(id.get_variant(), Variant::RFC4122);
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            prop_assert_eq!(seconds as i64 * 1000 + i64::from(nanos) / 1_000_000, millis);
            prop_assert_eq!(id, child_id(CAMPAIGN, &key, created));
        }
    }
}
