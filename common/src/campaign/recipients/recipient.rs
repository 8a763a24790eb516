//! A recipient, and how a thousand of them are kept in one row.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::campaign::Content;
use crate::campaign::content::VARIABLES_MAX;

/// Somebody to be reached.
///
/// Written as a JSON list of texts, `["+33639980606",null,"fr","Europe/Paris","Ana"]`: address,
/// channel, language, zone, and the variables in the order of the content's. What is none is
/// `null`, or left out at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The address, in its one form.
    pub to: String,
    /// The channel; none: the content's default, also if it was named.
    pub channel: Option<String>,
    /// The tag of the language, in its one form.
    pub language: Option<String>,
    /// The name of the zone in the IANA database.
    pub timezone: Option<String>,
    /// Values of the content's variables, in their order; none: the default.
    pub variables: Vec<Option<String>>,
}

impl Recipient {
    /// What identifies the recipient within the campaign: channel and address. Neither contains a
    /// NUL.
    pub fn key(&self, content: &Content) -> Vec<u8> {
        let default = || &*content.default_channel().name;
        let channel = self.channel.as_deref().unwrap_or_else(default);
        [channel.as_bytes(), b"\0", self.to.as_bytes()].concat()
    }

    /// The variables by name, without those that are left to their default.
    pub fn named<'r>(&'r self, content: &'r Content) -> impl Iterator<Item = (&'r str, &'r str)> {
        let names = content.variables().iter().map(|variable| &*variable.name);
        names
            .zip(&self.variables)
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fixed = [&self.channel, &self.language, &self.timezone];
        let all = || fixed.into_iter().chain(&self.variables);
        let length = 1 + all().count() - all().rev().take_while(|text| text.is_none()).count();
        let mut list = serializer.serialize_seq(Some(length))?;
        list.serialize_element(&self.to)?;
        for text in all().take(length - 1) {
            list.serialize_element(text)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Texts)
    }
}

struct Texts;

impl<'de> Visitor<'de> for Texts {
    type Value = Recipient;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recipient: a list of texts, of which the first is an address")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Recipient, A::Error> {
        let to: Option<String> = list.next_element()?;
        let mut next = || Ok(list.next_element::<Option<String>>()?.flatten());
        let mut recipient = Recipient {
            to: to.ok_or_else(|| A::Error::invalid_length(0, &self))?,
            channel: next()?,
            language: next()?,
            timezone: next()?,
            variables: Vec::new(),
        };
        while let Some(text) = list.next_element()? {
            if recipient.variables.len() == VARIABLES_MAX {
                return Err(A::Error::custom("more variables than a content has"));
            }
            recipient.variables.push(text);
        }
        Ok(recipient)
    }
}
