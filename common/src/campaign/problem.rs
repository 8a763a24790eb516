//! What is wrong with a document of a client: everything at once, and where.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::text::one_line;

/// Problems that are told of one document; what is wrong beyond them is told by the next attempt.
pub const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: a JSON Pointer (RFC 6901) such as `/channels/sms/args/fr/text`; empty for the whole.
    pub pointer: String,
    /// What it is, and what it must be.
    pub what: String,
}

impl Problem {
    /// The same problem in a document of which this one is a part.
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.what),
            pointer => write!(f, "{pointer}: {}", self.what),
        }
    }
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, pointer: &str, what: impl AsRef<str>) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem {
                pointer: one_line(pointer),
                what: one_line(what.as_ref()),
            });
        }
    }

    /// The value, unless there were any.
    pub(super) fn or<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

/// The pointer to a member.
pub(super) fn member(pointer: &str, key: &str) -> String {
    match key.contains(['~', '/']) {
        true => format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
        false => format!("{pointer}/{key}"),
    }
}

/// Whole documents of at most this many bytes; one problem otherwise.
pub(super) fn document(json: &[u8], bytes_max: usize) -> Result<Value, Vec<Problem>> {
    let whole = |what: String| {
        vec![Problem {
            pointer: String::new(),
            what: one_line(&what),
        }]
    };
    if json.len() > bytes_max {
        return Err(whole(format!("must be at most {} KiB", bytes_max / 1024)));
    }
    serde_json::from_slice(json).map_err(|error| whole(format!("is not JSON: {error}")))
}

/// An object of which each member is known: a misspelt one is an error and not a default.
pub(super) struct Members<'v> {
    pub(super) pointer: String,
    map: Option<&'v Map<String, Value>>,
}

impl<'v> Members<'v> {
    pub(super) fn read(
        value: &'v Value,
        pointer: String,
        known: &[&str],
        problems: &mut Problems,
    ) -> Self {
        let map = value.as_object();
        if map.is_none() {
            problems.add(&pointer, "must be an object");
        }
        for key in map.into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                let what = format!("is not known; known are {}", known.join(", "));
                problems.add(&member(&pointer, key), what);
            }
        }
        Self { pointer, map }
    }

    /// A member; null is left out.
    pub(super) fn get(&self, key: &str) -> Option<&'v Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn at(&self, key: &str) -> String {
        member(&self.pointer, key)
    }

    /// A member that must be there. Says so, unless the whole is not even an object.
    pub(super) fn require(&self, key: &str, problems: &mut Problems) -> Option<&'v Value> {
        let value = self.get(key);
        if value.is_none() && self.map.is_some() {
            problems.add(&self.at(key), "is missing");
        }
        value
    }

    /// A member that is a text, if it is there.
    pub(super) fn text(&self, key: &str, problems: &mut Problems) -> Option<&'v str> {
        let text = self.get(key)?.as_str();
        if text.is_none() {
            problems.add(&self.at(key), "must be a text");
        }
        text
    }
}
