//! Recipients as one JSON object a line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserializer, de};
use serde_json::value::RawValue;

use super::{Given, Line, LineError, RECORD_BYTES_MAX, Recipient, Refused, Role, Rules};

/// Lines under way.
#[derive(Debug, Default)]
pub(super) struct Ndjson {
    /// The start of a line of which the end has not come.
    line: Vec<u8>,
    /// The line under way is too long, and passed over up to its end.
    is_skipping: bool,
    /// Lines that have ended.
    ended: u64,
    has_begun: bool,
}

impl Ndjson {
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        rules: &mut Rules,
        out: &mut Vec<Line>,
    ) -> Result<(), Refused> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.take(&bytes[..end], out)?;
            self.end(rules, out);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, out)
    }

    pub(super) fn finish(&mut self, rules: &mut Rules, out: &mut Vec<Line>) -> Result<(), Refused> {
        self.end(rules, out);
        match self.has_begun {
            true => Ok(()),
            false => Err(Refused::new("is empty")),
        }
    }

    pub(super) fn buffered(&self) -> usize {
        self.line.capacity()
    }

    /// The next bytes of the line under way.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<Line>) -> Result<(), Refused> {
        if self.is_skipping {
            return Ok(());
        }
        // One more than a line may have: whether a CR belongs to it shows only at its end.
        let room = RECORD_BYTES_MAX + 1 - self.line.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(kept);
        let starts_with = |mark: &[u8]| self.line.starts_with(mark);
        if self.ended == 0
            && (kept.contains(&0) || starts_with(b"\xff\xfe") || starts_with(b"\xfe\xff"))
        {
            return Err(Refused::is_utf16());
        }
        if kept.len() < bytes.len() {
            out.push(Line {
                number: self.ended + 1,
                recipient: Err(LineError::is_too_long()),
            });
            self.line.clear();
            self.has_begun = true;
            self.is_skipping = true;
        }
        Ok(())
    }

    /// The line under way has ended.
    fn end(&mut self, rules: &mut Rules, out: &mut Vec<Line>) {
        let line = std::mem::take(&mut self.line);
        let mut text = line.strip_suffix(b"\r").unwrap_or(&line);
        if self.ended == 0 {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        self.ended += 1;
        if !text.trim_ascii().is_empty() && !self.is_skipping {
            self.has_begun = true;
            out.push(Line {
                number: self.ended,
                recipient: match text.len() <= RECORD_BYTES_MAX {
                    true => recipient(text, rules),
                    false => Err(LineError::is_too_long()),
                },
            });
        }
        self.is_skipping = false;
        // Its memory is used again.
        self.line = line;
        self.line.clear();
    }
}

fn recipient(line: &[u8], rules: &mut Rules) -> Result<Recipient, LineError> {
    let line = std::str::from_utf8(line).map_err(|_| LineError::whole("is not UTF-8"))?;
    if line.contains('\0') {
        return Err(LineError::whole("contains a NUL byte"));
    }
    let mut json = serde_json::Deserializer::from_str(line);
    let read = json.deserialize_map(Members(rules));
    let members = read.and_then(|members| json.end().map(|()| members));
    let members = members.map_err(|error| {
        LineError::whole(match error.is_data() {
            true => error.to_string(),
            false => format!("is not JSON: {error}"),
        })
    })?;
    let mut given = Given {
        variables: vec![None; rules.variables.len()],
        ..Given::default()
    };
    let texts: Vec<(Role, Cow<'_, str>)> = members
        .iter()
        .map(|(role, json)| {
            Ok((
                *role,
                text(json).map_err(|what| wrong(rules, *role, &what))?,
            ))
        })
        .collect::<Result<_, LineError>>()?;
    for (role, text) in &texts {
        match role {
            Role::To => given.to = text,
            Role::Language => given.language = text,
            Role::Timezone => given.timezone = text,
            Role::Channel => given.channel = text,
            Role::Variable(place) => given.variables[*place] = Some(text.to_string()),
            Role::Ignored => {}
        }
    }
    rules.recipient(given)
}

fn wrong(rules: &Rules, role: Role, what: &str) -> LineError {
    let field = match role {
        Role::To => "to",
        Role::Language => "language",
        Role::Timezone => "timezone",
        Role::Channel => "channel",
        Role::Variable(place) => &rules.variables[place].0,
        Role::Ignored => "",
    };
    LineError::new(field, what)
}

/// A text as it is, and a number or a bool as it is written; null is what is not there.
fn text(json: &RawValue) -> Result<Cow<'_, str>, String> {
    match json.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(json.get())
            .map(Cow::Owned)
            .map_err(|error| error.to_string()),
        Some(b'{' | b'[') => Err("must be a text, a number or a bool".to_owned()),
        Some(b'n') | None => Ok(Cow::Borrowed("")),
        Some(_) => Ok(Cow::Borrowed(json.get())),
    }
}

/// Reads the members of an object that mean something, and notes those that do not.
struct Members<'r>(&'r mut Rules);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(Role, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::with_capacity(4 + self.0.variables.len());
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let role = self.0.role(&name);
            if role == Role::Ignored {
                self.0.ignore(&name);
                map.next_value::<de::IgnoredAny>()?;
                continue;
            }
            if members.iter().any(|(other, _)| *other == role) {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
            members.push((role, map.next_value()?));
        }
        Ok(members)
    }
}
