//! To whom: an upload of recipients, read as it streams in; or the members of an audience ([`Members`]).
//!
//! CSV or NDJSON, in any cut, in constant memory: [`Reader::feed`] keeps at most one record. What
//! is wrong with a line is told with its number, and the next line is read; only an upload of which
//! nothing can be read is [`Refused`].

mod csv;
mod member;
mod ndjson;
mod recipient;
#[cfg(test)]
mod tests;

pub use member::{Member, Members};
pub use recipient::Recipient;

use super::address::{AddressKind, Country};
use super::content::{Content, unfit};
use super::language::Language;
use crate::text::one_line;
use crate::zone;

/// The longest line or record, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// The most columns of a CSV.
pub const COLUMNS_MAX: usize = 256;
/// Names of ignored columns that are kept to be told.
pub const IGNORED_MAX: usize = 100;

/// How an upload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header line; also with `;` or a tab between fields.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// A line of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which line of the file it is, or begins at, from 1.
    pub number: u64,
    /// The recipient, or why it is none.
    pub recipient: Result<Recipient, LineError>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct LineError {
    /// The column or member; empty where it is the whole line.
    pub field: String,
    /// What it is, and what it must be.
    pub what: String,
}

impl LineError {
    fn new(field: &str, what: impl AsRef<str>) -> Self {
        Self {
            field: one_line(field),
            what: one_line(what.as_ref()),
        }
    }

    fn whole(what: impl AsRef<str>) -> Self {
        Self::new("", what)
    }

    fn is_too_long() -> Self {
        let limit = RECORD_BYTES_MAX / 1024;
        Self::whole(format!("is longer than {limit} KiB: skipped"))
    }
}

/// Why nothing of an upload can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refused {
    /// What is wrong with it.
    pub what: String,
}

impl Refused {
    fn new(what: impl AsRef<str>) -> Self {
        Self {
            what: one_line(what.as_ref()),
        }
    }

    fn is_utf16() -> Self {
        Self::new("is UTF-16: save it as UTF-8")
    }
}

/// Reads an upload that comes in pieces.
///
/// The lines of a piece are put behind those that are in `out` already: who feeds pieces of a
/// bounded size, and empties `out` between them, needs a bounded memory. After an error, the
/// upload is refused, and a reader says so again however it is fed.
#[derive(Debug)]
pub struct Reader {
    reading: Reading,
    rules: Rules,
    refused: Option<Refused>,
}

#[derive(Debug)]
enum Reading {
    Csv(csv::Csv),
    Ndjson(ndjson::Ndjson),
}

impl Reader {
    /// A reader of recipients for this content. Numbers without a country's code are read as they
    /// are dialled in `default_region`.
    pub fn new(format: Format, content: &Content, default_region: Option<Country>) -> Self {
        Self {
            reading: match format {
                Format::Csv => Reading::Csv(csv::Csv::default()),
                Format::Ndjson => Reading::Ndjson(ndjson::Ndjson::default()),
            },
            rules: Rules::new(content, default_region),
            refused: None,
        }
    }

    /// Reads the next bytes, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Line>) -> Result<(), Refused> {
        self.unless_refused(|reading, rules| match reading {
            Reading::Csv(csv) => csv.feed(bytes, rules, out),
            Reading::Ndjson(ndjson) => ndjson.feed(bytes, rules, out),
        })
    }

    /// Reads what is left when there are no more bytes. To be called once.
    pub fn finish(&mut self, out: &mut Vec<Line>) -> Result<(), Refused> {
        self.unless_refused(|reading, rules| match reading {
            Reading::Csv(csv) => csv.finish(rules, out),
            Reading::Ndjson(ndjson) => ndjson.finish(rules, out),
        })
    }

    fn unless_refused(
        &mut self,
        read: impl FnOnce(&mut Reading, &mut Rules) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let read = read(&mut self.reading, &mut self.rules);
        self.refused = read.clone().err();
        read
    }

    /// Columns that the content has no variable for, in the order in which they were seen. At most
    /// [`IGNORED_MAX`] are kept.
    pub fn ignored_columns(&self) -> &[String] {
        &self.rules.ignored
    }

    /// How much memory the reader holds for what it has not finished, in bytes.
    pub fn buffered(&self) -> usize {
        match &self.reading {
            Reading::Csv(csv) => csv.buffered(),
            Reading::Ndjson(ndjson) => ndjson.buffered(),
        }
    }
}

/// What a name of a column or a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    To,
    Language,
    Timezone,
    Channel,
    /// The variable at this place of the content.
    Variable(usize),
    Ignored,
}

/// What of a content recipients are checked against.
#[derive(Debug)]
struct Rules {
    /// Name, and whether each recipient must bring it.
    variables: Vec<(Box<str>, bool)>,
    channels: Vec<(Box<str>, AddressKind)>,
    default_channel: Box<str>,
    default_region: Option<Country>,
    ignored: Vec<String>,
    /// The zone that was found last, as it was given and as it is called: neighbours often share
    /// theirs.
    last_zone: Option<(Box<str>, Box<str>)>,
}

impl Rules {
    fn new(content: &Content, default_region: Option<Country>) -> Self {
        let variables = content.variables().iter();
        let channels = content.channels().iter();
        Self {
            variables: variables
                .map(|variable| (variable.name.clone(), variable.default.is_none()))
                .collect(),
            channels: channels
                .map(|channel| (channel.name.clone(), channel.address))
                .collect(),
            default_channel: content.default_channel().name.clone(),
            default_region,
            ignored: Vec::new(),
            last_zone: None,
        }
    }

    fn role(&self, name: &str) -> Role {
        match name {
            "to" => Role::To,
            "language" => Role::Language,
            "timezone" => Role::Timezone,
            "channel" => Role::Channel,
            _ => self
                .variables
                .binary_search_by(|(variable, _)| (**variable).cmp(name))
                .map_or(Role::Ignored, Role::Variable),
        }
    }

    /// Notes a column that nothing is made of.
    fn ignore(&mut self, name: &str) {
        if self.ignored.len() < IGNORED_MAX {
            let name = one_line(name);
            if !self.ignored.contains(&name) {
                self.ignored.push(name);
            }
        }
    }

    /// Checks what a line says. An empty field is one that is not there.
    fn recipient(&mut self, given: Given<'_>) -> Result<Recipient, LineError> {
        let channel = given.channel.trim();
        let name = match channel {
            "" => &*self.default_channel,
            name => name,
        };
        let Some((_, address)) = self.channels.iter().find(|(known, _)| **known == *name) else {
            let known: Vec<&str> = self.channels.iter().map(|(name, _)| &**name).collect();
            let what = format!("unknown channel `{name}`; known are {}", known.join(", "));
            return Err(LineError::new("channel", what));
        };
        let to = address
            .check(given.to, self.default_region)
            .map_err(|error| LineError::new("to", error.to_string()))?;
        let channel = (*name != *self.default_channel).then(|| name.to_owned());
        let language = match given.language.trim() {
            "" => None,
            tag => {
                let language = tag.parse::<Language>();
                let language =
                    language.map_err(|error| LineError::new("language", error.to_string()))?;
                Some(language.as_str().to_owned())
            }
        };
        let timezone = match given.timezone.trim() {
            "" => None,
            name => Some(self.zone(name)?),
        };
        Ok(Recipient {
            to,
            channel,
            language,
            timezone,
            variables: self.variables(given.variables)?,
        })
    }

    fn zone(&mut self, given: &str) -> Result<String, LineError> {
        if let Some((last, name)) = &self.last_zone
            && **last == *given
        {
            return Ok(name.to_string());
        }
        let zone = zone::find(given).ok_or_else(|| LineError::new("timezone", zone::RULE))?;
        let name = zone.iana_name().unwrap_or(given).to_owned();
        self.last_zone = Some((given.into(), name.as_str().into()));
        Ok(name)
    }

    fn variables(&self, mut given: Vec<Option<String>>) -> Result<Vec<Option<String>>, LineError> {
        for ((name, is_required), value) in self.variables.iter().zip(&mut given) {
            match value {
                Some(text) if text.trim().is_empty() => *value = None,
                Some(text) => {
                    if let Some(what) = unfit(text) {
                        return Err(LineError::new(name, what));
                    }
                }
                None => {}
            }
            if value.is_none() && *is_required {
                let what = "is empty: this variable has no default";
                return Err(LineError::new(name, what));
            }
        }
        Ok(given)
    }
}

/// What a line says, before it is checked.
#[derive(Debug, Default)]
struct Given<'l> {
    to: &'l str,
    language: &'l str,
    timezone: &'l str,
    channel: &'l str,
    /// In the order of the content's variables.
    variables: Vec<Option<String>>,
}

/// Counts lines as editors do: ended by LF, by CRLF, or by CR.
#[derive(Debug)]
struct Lines {
    /// The line that the next byte is on, from 1.
    number: u64,
    after_cr: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            number: 1,
            after_cr: false,
        }
    }
}

impl Lines {
    fn pass(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => self.number += 1,
                _ => {}
            }
            self.after_cr = byte == b'\r';
        }
    }
}
