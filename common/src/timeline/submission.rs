//! An announcement as it is submitted, and a change to one: a document of which everything is checked
//! that can be without servers.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::content::Content;
use crate::audience::{self, Invalid, Rule};

/// A key, in bytes.
pub const DEDUP_KEY_BYTES_MAX: usize = 255;

/// For whom an announcement is.
#[derive(Clone, Debug, PartialEq)]
pub enum Whom {
    /// Whom these pick.
    Rules(Rule),
    /// Whom the rules of this audience pick, as they are now.
    Audience(String),
}

/// What somebody wants to announce, with the members of `POST /v1/announcements`.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Made again under this key, it is the same.
    pub dedup_key: Option<String>,
    /// What it says.
    pub content: Content,
    /// For whom it is.
    pub whom: Whom,
    /// Not shown before then.
    pub starts_at: Option<Timestamp>,
    /// Nor from then on.
    pub ends_at: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmissionInput {
    dedup_key: Option<String>,
    content: Option<Box<RawValue>>,
    rules: Option<Box<RawValue>>,
    audience: Option<String>,
    starts_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
}

impl Submission {
    /// Reads one JSON object. An error names its place.
    pub fn parse(json: &[u8]) -> Result<Self, Invalid> {
        let input: SubmissionInput = audience::read(json)?;
        let is_key = |key: &str| {
            (1..=DEDUP_KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control)
        };
        if input.dedup_key.as_deref().is_some_and(|key| !is_key(key)) {
            let rule =
                format!("must be 1 to {DEDUP_KEY_BYTES_MAX} bytes, and no characters of control");
            return Err(Invalid::at("/dedup_key", rule));
        }
        let content = input
            .content
            .ok_or_else(|| Invalid::at("/content", "is required"))?;
        let content = Content::parse(content.get());
        let content = content.map_err(|invalid| invalid.within("/content"))?;
        let whom = match (input.rules, input.audience) {
            (Some(rules), None) => {
                let rule = Rule::parse(rules.get());
                Whom::Rules(rule.map_err(|invalid| invalid.within("/rules"))?)
            }
            (None, Some(name)) if audience::is_name(&name) => Whom::Audience(name),
            (None, Some(_)) => return Err(no_audience()),
            (Some(_), Some(_)) => {
                return Err(Invalid::at(
                    "/audience",
                    "must be left out where rules are given",
                ));
            }
            (None, None) => {
                let rule = "is required, or audience: {\"all\":true} is everybody";
                return Err(Invalid::at("/rules", rule));
            }
        };
        Ok(Self {
            dedup_key: input.dedup_key,
            content,
            whom,
            starts_at: input.starts_at,
            ends_at: input.ends_at,
        })
    }

    /// What stands for all of it: the same for the same, however it is written.
    pub fn fingerprint(&self) -> [u8; 32] {
        let whom = match &self.whom {
            Whom::Rules(rule) => json!({"rules": rule.json()}),
            Whom::Audience(name) => json!({"audience": name}),
        };
        let all = json!([self.content.json(), whom, self.starts_at, self.ends_at]);
        Sha256::digest(all.to_string()).into()
    }
}

/// There is none of this name, or there cannot be.
pub(crate) fn no_audience() -> Invalid {
    Invalid::at("/audience", "there is no such audience")
}

/// What is to be changed of an announcement, with the members of `PATCH /v1/announcements/{id}`.
#[derive(Clone, Debug)]
pub struct Correction {
    /// What it is to say.
    pub content: Option<Content>,
    /// When it is to end.
    pub ends_at: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CorrectionInput {
    content: Option<Box<RawValue>>,
    ends_at: Option<Timestamp>,
}

impl Correction {
    /// Reads one JSON object. An error names its place.
    pub fn parse(json: &[u8]) -> Result<Self, Invalid> {
        let input: CorrectionInput = audience::read(json)?;
        let content = input.content.map(|content| Content::parse(content.get()));
        let content = content.transpose();
        let correction = Self {
            content: content.map_err(|invalid| invalid.within("/content"))?,
            ends_at: input.ends_at,
        };
        match (&correction.content, correction.ends_at) {
            (None, None) => Err(Invalid::at("", "content or ends_at is required")),
            _ => Ok(correction),
        }
    }
}
