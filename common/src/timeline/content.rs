//! What an announcement says, by language.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message::{Message, MessageInput};
use crate::audience::{self, Invalid, step};

/// All messages of one content as JSON without spaces, in bytes.
pub const CONTENT_BYTES_MAX: usize = 32 * 1024;
/// Languages of one content.
pub const LANGUAGES_MAX: usize = 64;

/// The same message in one language or several.
#[derive(Clone, Debug)]
pub struct Content {
    language: String,
    messages: Vec<(String, Message)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentInput {
    language: Option<String>,
    messages: Option<BTreeMap<String, MessageInput>>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    language: &'a str,
    #[serde(borrow)]
    messages: BTreeMap<&'a str, &'a RawValue>,
}

impl Content {
    /// Reads JSON. An error names its place.
    pub fn parse(json: &str) -> Result<Self, Invalid> {
        let input: ContentInput = audience::read(json.as_bytes())?;
        let given = input.messages.unwrap_or_default();
        if !(1..=LANGUAGES_MAX).contains(&given.len()) {
            let rule = format!("must have 1 to {LANGUAGES_MAX} languages");
            return Err(Invalid::at("/messages", rule));
        }
        let mut messages = BTreeMap::new();
        for (tag, message) in given {
            let at = step("/messages", &tag);
            let language = audience::language(&tag).map_err(|rule| Invalid::at(&at, rule))?;
            let message = message.into_message();
            let message = message.map_err(|invalid| invalid.within(&at))?;
            if messages.insert(language, message).is_some() {
                return Err(Invalid::at(at, "is there twice"));
            }
        }
        let language = match (input.language, messages.len()) {
            (Some(tag), _) => {
                audience::language(&tag).map_err(|rule| Invalid::at("/language", rule))?
            }
            (None, 1) => messages.keys().next().cloned().unwrap_or_default(),
            (None, _) => {
                let rule = "is required where there are several: which one is for whoever reads none of them?";
                return Err(Invalid::at("/language", rule));
            }
        };
        if !messages.contains_key(&language) {
            return Err(Invalid::at("/language", "must be one of the messages'"));
        }
        let content = Self {
            language,
            messages: messages.into_iter().collect(),
        };
        let bytes = content.json().len();
        if bytes > CONTENT_BYTES_MAX {
            let rule = format!(
                "all messages together may have {CONTENT_BYTES_MAX} bytes, and these have {bytes}"
            );
            return Err(Invalid::at("/messages", rule));
        }
        Ok(content)
    }

    /// Reads what [`Self::json`] has written. None: something else has.
    pub fn of_kept(json: &str) -> Option<Self> {
        let kept: Kept<'_> = serde_json::from_str(json).ok()?;
        let own = |(tag, message): (&str, &RawValue)| {
            (tag.to_owned(), Message::of_kept(message.to_owned()))
        };
        let content = Self {
            language: kept.language.to_owned(),
            messages: kept.messages.into_iter().map(own).collect(),
        };
        content.exactly(&content.language)?;
        Some(content)
    }

    /// The same as JSON on one line.
    pub fn json(&self) -> String {
        let messages = self.messages.iter();
        let kept = Kept {
            language: &self.language,
            messages: messages
                .map(|(tag, message)| (tag.as_str(), message.json()))
                .collect(),
        };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// The message in the language that is nearest to the one wanted: itself, or it without its last
    /// subtags (`fr` for `fr-CA`), or else the content's own.
    pub fn message_for(&self, wanted: Option<&str>) -> Option<(&str, &RawValue)> {
        let and_wider = |tag| {
            std::iter::successors(Some(tag), |tag: &&str| {
                tag.rsplit_once('-').map(|(wider, _)| wider)
            })
        };
        wanted
            .and_then(|tag| and_wider(tag).find_map(|tag| self.exactly(tag)))
            .or_else(|| self.exactly(&self.language))
    }

    fn exactly(&self, tag: &str) -> Option<(&str, &RawValue)> {
        let place = self
            .messages
            .binary_search_by(|(language, _)| language.as_str().cmp(tag));
        let (language, message) = self.messages.get(place.ok()?)?;
        Some((language, message.json()))
    }
}
