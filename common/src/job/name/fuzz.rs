//! Names and ids as anybody may write them. `tests/it/store_fuzz.rs` holds names to the schema.

use proptest::prelude::*;

use super::*;
use crate::job::JobId;

proptest! {
    #[test]
    fn a_name_that_is_read_prints_as_it_was_given(text in "[a-zA-Z0-9._ \\-é\\n\\x00]{0,70}|.{0,70}") {
        let tenant = text.parse::<TenantName>();
        prop_assert_eq!(tenant.is_ok(), text.parse::<QueueName>().is_ok());
        prop_assert_eq!(tenant.is_ok(), text.parse::<KindName>().is_ok());
        match tenant {
            Ok(name) => prop_assert_eq!(name.to_string(), text),
            Err(error) => prop_assert!(error.to_string().starts_with("tenant must be")),
        }
    }

    #[test]
    fn whatever_is_plain_is_a_name(text in "[a-z0-9][a-z0-9._-]{0,62}") {
        prop_assert!(text.parse::<KindName>().is_ok());
    }

    #[test]
    fn an_id_that_is_read_is_the_same_when_it_is_read_again(
        text in "(urn:uuid:|\\{)?[0-9a-fA-F]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\\}?|.{0,60}",
    ) {
        if let Ok(id) = text.parse::<JobId>() {
            prop_assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        }
    }

    #[test]
    fn every_id_prints_as_it_is_read(bytes in any::<[u8; 16]>()) {
        let id = JobId::from(uuid::Uuid::from_bytes(bytes));
        prop_assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
    }
}
