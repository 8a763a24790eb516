//! Recipients of an audience, as those of a campaign: checked as the lines of an upload are.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Given, LineError, Recipient, Rules};
use crate::campaign::address::Country;
use crate::campaign::content::Content;

/// What a campaign needs to know of somebody in its audience.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What the tenant calls it.
    pub key: &'a str,
    /// Where it is reached, by channel.
    pub addresses: &'a BTreeMap<String, String>,
    /// The tag of its language.
    pub language: Option<&'a str>,
    /// The name of its zone in the IANA database.
    pub timezone: Option<&'a str>,
    /// The variables of a content are taken from these, by name.
    pub attributes: &'a Map<String, Value>,
}

impl Member<'_> {
    /// What identifies it within the campaign: itself, whatever its address is by then. Not what
    /// identifies anybody who was uploaded, which begins with the name of a channel.
    pub fn identity(&self) -> Vec<u8> {
        [b"\0", self.key.as_bytes()].concat()
    }
}

/// Makes recipients of members. They are reached on the content's default channel.
#[derive(Debug)]
pub struct Members {
    rules: Rules,
}

impl Members {
    /// For this content. Numbers without a country's code are read as they are dialled in
    /// `default_region`.
    pub fn new(content: &Content, default_region: Option<Country>) -> Self {
        Self {
            rules: Rules::new(content, default_region),
        }
    }

    /// The recipient, or why it is none.
    pub fn recipient(&mut self, member: &Member<'_>) -> Result<Recipient, LineError> {
        let channel = &*self.rules.default_channel;
        let Some(to) = member.addresses.get(channel) else {
            return Err(LineError::new(
                "to",
                format!("has no address for `{channel}`"),
            ));
        };
        let variables = self.rules.variables.iter();
        let variables = variables.map(|(name, _)| match member.attributes.get(&**name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(Value::Array(_) | Value::Object(_)) => {
                Err(LineError::new(name, "must be a text, a number or a bool"))
            }
        });
        let given = Given {
            to,
            language: member.language.unwrap_or_default(),
            variables: variables.collect::<Result<_, _>>()?,
            ..Given::default()
        };
        // Its zone was checked when it was put.
        Ok(Recipient {
            timezone: member.timezone.map(str::to_owned),
            ..self.rules.recipient(given)?
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content() -> Content {
        let content = json!({
            "channels": {
                "sms": {"kind": "sms", "args": {"en": {"to": "{{ to }}", "text": "{{ name }} {{ orders }}"}}},
                "push": {"kind": "push", "args": {"en": {"to": "{{ to }}"}}},
            },
            "channel": "sms",
            "language": "en",
            "variables": {"name": {"default": "friend"}, "orders": {}},
        });
        Content::read(&content).unwrap()
    }

    fn read(addresses: Value, attributes: Value) -> Result<Recipient, String> {
        let addresses = serde_json::from_value(addresses).unwrap();
        let member = Member {
            key: "user-1",
            addresses: &addresses,
            language: Some("fr-CA"),
            timezone: Some("Europe/Paris"),
            attributes: attributes.as_object().unwrap(),
        };
        let mut members = Members::new(&content(), "FR".parse().ok());
        members
            .recipient(&member)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_member_is_reached_on_the_default_channel_with_its_attributes_as_variables() {
        let addresses = json!({"sms": "06 39 98 06 06", "push": "x"});
        let recipient = read(addresses, json!({"orders": 3, "vip": [1]})).unwrap();
        assert_eq!(recipient.to, "+33639980606");
        assert_eq!(recipient.channel, None);
        assert_eq!(recipient.language.as_deref(), Some("fr-CA"));
        assert_eq!(recipient.timezone.as_deref(), Some("Europe/Paris"));
        assert_eq!(recipient.variables, [None, Some("3".to_owned())]);
    }

    #[test]
    fn a_member_who_cannot_be_reached_says_why() {
        let sms = json!({"sms": "+33639980606"});
        for (addresses, attributes, why) in [
            (
                json!({}),
                json!({"orders": 3}),
                "to: has no address for `sms`",
            ),
            (
                json!({"push": "x"}),
                json!({"orders": 3}),
                "to: has no address for `sms`",
            ),
            (
                json!({"sms": "+336"}),
                json!({"orders": 3}),
                "to: is not a phone number",
            ),
            (sms.clone(), json!({}), "orders: is empty"),
            (sms.clone(), json!({"orders": null}), "orders: is empty"),
            (
                sms.clone(),
                json!({"orders": [3]}),
                "orders: must be a text",
            ),
            (
                sms,
                json!({"orders": 3, "name": {"first": "Ana"}}),
                "name: must be a text",
            ),
        ] {
            let error = read(addresses, attributes).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn nobody_who_was_uploaded_is_taken_for_a_member() {
        let member = Member {
            key: "sms",
            addresses: &BTreeMap::new(),
            language: None,
            timezone: None,
            attributes: &Map::new(),
        };
        // The first byte of an upload's is that of a channel's name.
        assert_eq!(member.identity(), b"\0sms");
    }
}
