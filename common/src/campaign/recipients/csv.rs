//! Recipients as CSV: RFC 4180, and what spreadsheets make of it.
//!
//! The state machine is that of `csv-core`, which keeps nothing: the buffers are here, and one byte
//! larger than a record may be, so that it is the record that is too long wherever the input was
//! cut.

use csv_core::{ReadRecordResult, ReaderBuilder};

use super::{
    COLUMNS_MAX, Given, Line, LineError, Lines, RECORD_BYTES_MAX, Recipient, Refused, Role, Rules,
};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A CSV under way.
#[derive(Debug)]
pub(super) enum Csv {
    /// The header line, of which the end has not come: what stands between fields is not known.
    Header(Vec<u8>),
    Body(Box<Body>),
}

impl Default for Csv {
    fn default() -> Self {
        Self::Header(Vec::new())
    }
}

impl Csv {
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        rules: &mut Rules,
        out: &mut Vec<Line>,
    ) -> Result<(), Refused> {
        let header = match self {
            Self::Body(body) => {
                body.feed(bytes, rules, out);
                return Ok(());
            }
            Self::Header(header) => header,
        };
        for (place, &byte) in bytes.iter().enumerate() {
            header.push(byte);
            check_start(header)?;
            if matches!(byte, b'\n' | b'\r') && !is_blank(header) && !is_quoted(header) {
                let header = std::mem::take(header);
                let mut body = Body::new(&header, rules)?;
                body.feed(&bytes[place + 1..], rules, out);
                *self = Self::Body(Box::new(body));
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, rules: &mut Rules, out: &mut Vec<Line>) -> Result<(), Refused> {
        match self {
            Self::Body(body) => body.finish(rules, out),
            Self::Header(header) if is_blank(header) => return Err(Refused::new("is empty")),
            Self::Header(header) if is_quoted(header) => {
                return Err(Refused::new(
                    "the header line has a quote that is not closed",
                ));
            }
            Self::Header(header) => drop(Body::new(header, rules)?),
        }
        Ok(())
    }

    pub(super) fn buffered(&self) -> usize {
        match self {
            Self::Header(header) => header.capacity(),
            Self::Body(body) => body.output.capacity() + body.ends.capacity() * size_of::<usize>(),
        }
    }
}

/// What can be said of a header before its end.
fn check_start(header: &[u8]) -> Result<(), Refused> {
    let is_utf16 = matches!(header, b"\xff\xfe" | b"\xfe\xff") || header.last() == Some(&0);
    match header.len() {
        _ if is_utf16 => Err(Refused::is_utf16()),
        length if length > RECORD_BYTES_MAX => {
            let limit = RECORD_BYTES_MAX / 1024;
            Err(Refused::new(format!(
                "the header line is longer than {limit} KiB"
            )))
        }
        _ => Ok(()),
    }
}

fn is_blank(header: &[u8]) -> bool {
    let header = header.strip_prefix(BOM).unwrap_or(header);
    header.trim_ascii().is_empty()
}

fn is_quoted(header: &[u8]) -> bool {
    header.iter().filter(|b| **b == b'"').count() % 2 == 1
}

/// What stands between fields: whichever of the three is most often in the header, outside of
/// quotes.
fn delimiter(header: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    let mut is_quoted = false;
    for byte in header {
        is_quoted ^= *byte == b'"';
        if let Some((_, count)) = counts
            .iter_mut()
            .find(|(mark, _)| mark == byte && !is_quoted)
        {
            *count += 1;
        }
    }
    let most = counts.iter().rev().max_by_key(|(_, count)| *count);
    most.map_or(b',', |(mark, _)| *mark)
}

/// Where in a field a record is. The parser takes text behind a closing quote as if the quote had
/// been part of it, which is how a quote that is not closed swallows the lines up to the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: the end of the field, or the first of a doubled one.
    Quote,
    /// Behind text behind a closing quote, anywhere in the record.
    Broken,
}

impl Place {
    fn next(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Broken, _) => Self::Broken,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (Self::Quote, b'"') => Self::Quoted,
            (_, byte) if byte == delimiter => Self::Start,
            (Self::Start, b'"') => Self::Quoted,
            (_, b'\n' | b'\r') => self,
            (Self::Quote, _) => Self::Broken,
            _ => Self::Plain,
        }
    }
}

/// The records behind the header.
#[derive(Debug)]
pub(super) struct Body {
    parser: csv_core::Reader,
    delimiter: u8,
    place: Place,
    roles: Vec<Role>,
    /// Fields of the record under way, one behind the other, and where each ends.
    output: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    fields: usize,
    /// The line on which the record under way began; none between records.
    began: Option<u64>,
    lines: Lines,
    /// The record under way is too long, and passed over up to the end of this line.
    is_skipping: bool,
}

impl Body {
    fn new(header: &[u8], rules: &mut Rules) -> Result<Self, Refused> {
        let mut lines = Lines::default();
        lines.pass(header);
        let header = header.strip_prefix(BOM).unwrap_or(header);
        let header = std::str::from_utf8(header.trim_ascii_start())
            .map_err(|_| Refused::new("the header line is not UTF-8: save the file as UTF-8"))?;
        let delimiter = delimiter(header.as_bytes());
        let mut body = Self {
            parser: ReaderBuilder::new().delimiter(delimiter).build(),
            delimiter,
            place: Place::Start,
            roles: Vec::new(),
            output: vec![0; RECORD_BYTES_MAX + 1],
            ends: vec![0; COLUMNS_MAX + 1],
            written: 0,
            fields: 0,
            began: None,
            lines,
            is_skipping: false,
        };
        let text = header.trim_end_matches(['\r', '\n']);
        for part in [text.as_bytes(), b"\n"] {
            body.step(part);
        }
        if body.fields > COLUMNS_MAX {
            return Err(Refused::new(format!("has more than {COLUMNS_MAX} columns")));
        }
        let names: Vec<String> = (0..body.fields)
            .map(|place| String::from_utf8_lossy(body.field(place)).trim().to_owned())
            .collect();
        body.clear();
        body.roles = roles(&names, rules)?;
        Ok(body)
    }

    fn feed(&mut self, mut bytes: &[u8], rules: &mut Rules, out: &mut Vec<Line>) {
        while !bytes.is_empty() {
            if self.is_skipping {
                let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
                self.is_skipping = end.is_none();
                let (passed, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                self.lines.pass(passed);
                bytes = rest;
                continue;
            }
            if self.began.is_none() {
                // Blank lines are none.
                let start = bytes.iter().position(|b| !matches!(b, b'\n' | b'\r'));
                let (passed, rest) = bytes.split_at(start.unwrap_or(bytes.len()));
                self.lines.pass(passed);
                bytes = rest;
                if !bytes.is_empty() {
                    self.began = Some(self.lines.number);
                }
                continue;
            }
            let (is_record, read) = self.step(bytes);
            self.lines.pass(&bytes[..read]);
            bytes = &bytes[read..];
            if self.written > RECORD_BYTES_MAX || self.fields > COLUMNS_MAX {
                // A record that ended with the very byte that was too many needs no skipping.
                self.is_skipping = !is_record;
                let error = self.too_long();
                self.end(Err(error), out);
                self.restart();
            } else if is_record {
                let recipient = self.recipient(rules);
                self.end(recipient, out);
            }
        }
    }

    fn finish(&mut self, rules: &mut Rules, out: &mut Vec<Line>) {
        if self.began.is_none() {
            return;
        }
        // Within quotes, the end of a line does not end the record.
        let (is_record, _) = self.step(b"\n");
        let recipient = match is_record {
            true => self.recipient(rules),
            false => Err(LineError::whole("has a quote that is not closed")),
        };
        self.end(recipient, out);
    }

    /// Moves on; whether a record has ended, and how many bytes were read.
    fn step(&mut self, bytes: &[u8]) -> (bool, usize) {
        let (result, read, written, ends) = self.parser.read_record(
            bytes,
            &mut self.output[self.written..],
            &mut self.ends[self.fields..],
        );
        self.written += written;
        self.fields += ends;
        let passed = bytes.iter().take(read);
        self.place = passed.fold(self.place, |place, byte| place.next(*byte, self.delimiter));
        (matches!(result, ReadRecordResult::Record), read)
    }

    fn end(&mut self, recipient: Result<Recipient, LineError>, out: &mut Vec<Line>) {
        let number = self.began.take().unwrap_or(self.lines.number);
        out.push(Line { number, recipient });
        self.clear();
    }

    /// Back to between two records.
    fn restart(&mut self) {
        self.parser.reset();
        // At its very beginning the parser would drop a byte order mark, if it came in one piece.
        self.step(b"\n");
        self.clear();
    }

    fn clear(&mut self) {
        (self.written, self.fields, self.began) = (0, 0, None);
        self.place = Place::Start;
    }

    fn field(&self, place: usize) -> &[u8] {
        let start = match place {
            0 => 0,
            _ => self.ends[place - 1],
        };
        &self.output[start..self.ends[place]]
    }

    fn too_long(&self) -> LineError {
        if self.fields > COLUMNS_MAX {
            return LineError::whole(self.with_span(format!(
                "has more than {COLUMNS_MAX} fields: skipped to the end of the line"
            )));
        }
        LineError::whole(self.with_span(format!(
            "is longer than {} KiB: skipped to the end of line {}",
            RECORD_BYTES_MAX / 1024,
            self.lines.number
        )))
    }

    /// A record over several lines is more often a quote too many than a text with a line break.
    fn with_span(&self, what: String) -> String {
        let last = self.lines.number;
        match self.began {
            Some(first) if last > first + 1 => {
                format!("{what} (it began at line {first}: is a quote not closed?)")
            }
            _ => what,
        }
    }

    fn recipient(&self, rules: &mut Rules) -> Result<Recipient, LineError> {
        if self.fields != self.roles.len() {
            let what = format!(
                "has {} fields, and the header {}",
                self.fields,
                self.roles.len()
            );
            return Err(LineError::whole(self.with_span(what)));
        }
        if self.place == Place::Broken {
            let what = "has text behind a closing quote: a quote in a text must be doubled";
            return Err(LineError::whole(self.with_span(what.to_owned())));
        }
        let text = std::str::from_utf8(&self.output[..self.written])
            .map_err(|_| LineError::whole("is not UTF-8"))?;
        if text.contains('\0') {
            return Err(LineError::whole("contains a NUL byte"));
        }
        let mut given = Given {
            variables: vec![None; rules.variables.len()],
            ..Given::default()
        };
        let mut start = 0;
        for (role, end) in self.roles.iter().zip(&self.ends) {
            // Fields that are UTF-8 together need not be so one by one.
            let field = text
                .get(start..*end)
                .ok_or_else(|| LineError::whole("is not UTF-8"))?;
            start = *end;
            match role {
                Role::To => given.to = field,
                Role::Language => given.language = field,
                Role::Timezone => given.timezone = field,
                Role::Channel => given.channel = field,
                Role::Variable(place) => given.variables[*place] = Some(field.to_owned()),
                Role::Ignored => {}
            }
        }
        rules.recipient(given)
    }
}

/// What the columns are for.
fn roles(names: &[String], rules: &mut Rules) -> Result<Vec<Role>, Refused> {
    let twice = names
        .iter()
        .enumerate()
        .find(|(place, name)| !name.is_empty() && names[..*place].contains(name));
    if let Some((_, name)) = twice {
        return Err(Refused::new(format!("has the column `{name}` twice")));
    }
    let roles: Vec<Role> = names.iter().map(|name| rules.role(name)).collect();
    if !roles.contains(&Role::To) {
        let names = names.join(", ");
        return Err(Refused::new(format!(
            "the first line must name the columns, and one of them must be `to`; it is: {names}"
        )));
    }
    let missing: Vec<&str> = rules
        .variables
        .iter()
        .enumerate()
        .filter(|(place, (_, is_required))| {
            *is_required && !roles.contains(&Role::Variable(*place))
        })
        .map(|(_, (name, _))| &**name)
        .collect();
    if !missing.is_empty() {
        let what = "lacks columns for variables that have no default";
        return Err(Refused::new(format!("{what}: {}", missing.join(", "))));
    }
    for (name, role) in names.iter().zip(&roles) {
        if *role == Role::Ignored && !name.is_empty() {
            rules.ignore(name);
        }
    }
    Ok(roles)
}
