//! What is shown: a title, and what may go with it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use crate::audience::Invalid;

/// A title, in characters.
pub const TITLE_CHARS_MAX: usize = 200;
/// A body, in characters.
pub const BODY_CHARS_MAX: usize = 4000;
/// A link, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// What a client makes something of, as JSON without spaces, in bytes.
pub const DATA_BYTES_MAX: usize = 4096;

/// Schemes that make a browser run or show what is in the link itself.
const SCHEMES_REFUSED: [&str; 5] = ["javascript", "data", "vbscript", "blob", "file"];

/// A message as it comes in. A field that is null is one that is left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageInput {
    /// Required.
    pub title: Option<String>,
    /// Any text.
    pub body: Option<String>,
    /// Where it leads.
    pub url: Option<String>,
    /// Anything that the client knows what to do with.
    pub data: Option<Map<String, Value>>,
}

/// A message that has been checked, as the JSON that clients get: made once, however often it is
/// shown.
#[derive(Clone, Debug)]
pub struct Message(Box<RawValue>);

impl Message {
    /// The same as JSON on one line.
    pub fn json(&self) -> &RawValue {
        &self.0
    }

    /// One that was checked before it was kept.
    pub(crate) fn of_kept(json: Box<RawValue>) -> Self {
        Self(json)
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Map<String, Value>>,
}

impl MessageInput {
    /// Checks everything.
    pub fn into_message(self) -> Result<Message, Invalid> {
        let title = self
            .title
            .ok_or_else(|| Invalid::at("/title", "is required"))?;
        if !(1..=TITLE_CHARS_MAX).contains(&title.chars().count())
            || title.chars().any(char::is_control)
        {
            let rule = format!("must be 1 to {TITLE_CHARS_MAX} characters, none of control");
            return Err(Invalid::at("/title", rule));
        }
        let body = self.body.unwrap_or_default();
        let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
        if body.chars().count() > BODY_CHARS_MAX || !body.chars().all(is_text) {
            let rule = format!(
                "must be at most {BODY_CHARS_MAX} characters, of control only line feeds and tabs"
            );
            return Err(Invalid::at("/body", rule));
        }
        if self.url.as_deref().is_some_and(|url| !is_link(url)) {
            let rule = format!(
                "must be an absolute URL or a path that begins with one slash, of at most \
                 {URL_BYTES_MAX} bytes, and no {}",
                SCHEMES_REFUSED.join(", ")
            );
            return Err(Invalid::at("/url", rule));
        }
        if let Some(data) = &self.data {
            let bytes = serde_json::to_string(data).map_or(usize::MAX, |json| json.len());
            if bytes > DATA_BYTES_MAX {
                let rule = format!("may have {DATA_BYTES_MAX} bytes, and this has {bytes}");
                return Err(Invalid::at("/data", rule));
            }
        }
        let shown = Shown {
            title: &title,
            body: &body,
            url: self.url.as_deref(),
            data: self.data.as_ref(),
        };
        let json = serde_json::value::to_raw_value(&shown);
        Ok(Message(json.map_err(|error| Invalid::at("", error))?))
    }
}

/// Whether clients may follow this: within the product, on the web, or into an app.
fn is_link(text: &str) -> bool {
    if text.len() > URL_BYTES_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return false;
    }
    // Two slashes, or one of each kind, are another host.
    if let Some(path) = text.strip_prefix('/') {
        return !path.starts_with(['/', '\\']);
    }
    Url::parse(text).is_ok_and(|url| !SCHEMES_REFUSED.contains(&url.scheme()))
}
