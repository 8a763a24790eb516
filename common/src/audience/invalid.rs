//! Why something cannot be taken, and where it stands.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use crate::text::one_line;

/// What is wrong with rules or with a recipient, in a sentence, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// A JSON pointer (RFC 6901) to it; empty where it is the whole.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
    /// Whether the input is not even JSON.
    pub is_syntax: bool,
}

impl Invalid {
    pub(crate) fn at(pointer: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            pointer: pointer.into(),
            message: one_line(&message.to_string()),
            is_syntax: false,
        }
    }

    /// The same, seen from what this is a part of.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.message),
            pointer => write!(f, "{}: {}", one_line(pointer), self.message),
        }
    }
}

impl std::error::Error for Invalid {}

/// What is kept of a name that a pointer repeats: longer than any that is taken.
const STEP_CHARS_MAX: usize = 300;

/// A step of a JSON pointer.
pub(crate) fn step(pointer: &str, name: &str) -> String {
    let (name, more) = match name.char_indices().nth(STEP_CHARS_MAX) {
        Some((end, _)) => (&name[..end], "…"),
        None => (name, ""),
    };
    let name = name.replace('~', "~0").replace('/', "~1");
    format!("{pointer}/{name}{more}")
}

/// Reads JSON; an error names its place.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Invalid> {
    // serde would take a list of all fields in their order as well.
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(Invalid::at("", "expected an object, not a list"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = serde_path_to_error::deserialize(&mut deserializer);
    let of = |pointer: String, error: &serde_json::Error| Invalid {
        is_syntax: !error.is_data(),
        ..Invalid::at(pointer, error)
    };
    let value = read.map_err(|error| of(pointer_of(error.path()), error.inner()))?;
    deserializer
        .end()
        .map_err(|error| of(String::new(), &error))?;
    Ok(value)
}

fn pointer_of(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        pointer = match segment {
            Segment::Seq { index } => step(&pointer, &index.to_string()),
            Segment::Map { key } => step(&pointer, key),
            Segment::Enum { .. } | Segment::Unknown => pointer,
        };
    }
    pointer
}
