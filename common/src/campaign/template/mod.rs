//! The args of one channel in one language, with a template in every text.

mod syntax;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Rest};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::problem::{Problems, member};
use crate::job::ARGS_BYTES_MAX;
use crate::text::one_line;

/// Expressions in the args of one language.
pub const EXPRESSIONS_MAX: usize = 500;
/// Expressions in a whole content: each is compiled and kept.
pub const ALL_EXPRESSIONS_MAX: usize = 10_000;
/// Levels of lists and objects in args.
pub const TEMPLATE_NESTING_MAX: usize = 100;

/// What the texts of one recipient may cost together: each instruction, and each 64 bytes that are
/// looked at or made, is one. A thousand times what a message needs, and some milliseconds.
const FUEL: u64 = 20_000;

/// What every recipient has, beside the variables.
pub(super) const BUILT_IN: [&str; 4] = ["to", "language", "timezone", "campaign"];

/// Whether a name can be a variable's: it could be written in an expression, and means nothing else.
pub(super) fn is_variable(name: &str) -> bool {
    let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    let reserved = [
        &BUILT_IN[..],
        &syntax::KEYWORDS[..],
        &["channel", "loop", "self"],
    ];
    (1..=63).contains(&name.len()) && is_word && !reserved.iter().any(|list| list.contains(&name))
}

/// An engine that knows expressions and the filters for texts, and has nothing to call.
pub(super) fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    let syntax = SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .build()
        .expect("the usual marks are no conflict");
    let functions: Vec<String> = engine.globals().map(|(name, _)| name.to_owned()).collect();
    functions.iter().for_each(|name| engine.remove_global(name));
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    engine.set_syntax(syntax);
    engine.set_fuel(Some(FUEL));
    engine.add_filter("default", default);
    engine.add_filter("d", default);
    engine
}

/// Unlike the engine's own, also for an empty text: a file of recipients knows no difference
/// between what is empty and what is not there.
fn default(value: Value, other: Option<Value>, _lax: Rest<Value>) -> Value {
    match value.is_undefined() || value.as_str() == Some("") {
        true => other.unwrap_or_else(|| Value::from("")),
        false => value,
    }
}

/// JSON with templates in it.
#[derive(Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// JSON as it is.
    Json(Box<str>),
    /// The text between two quotes: a template of the engine.
    Text { name: Box<str>, pointer: Box<str> },
}

/// Values by the names that expressions use.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) names: Arc<[Box<str>]>,
    pub(super) values: Vec<Value>,
}

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let place = self.names.iter().position(|name| &**name == key)?;
        self.values.get(place).cloned()
    }
}

/// Reads templates into an engine.
pub(super) struct Compiler<'p> {
    pub(super) engine: Environment<'static>,
    pub(super) problems: &'p mut Problems,
    /// All that an expression may name.
    known: Arc<[Box<str>]>,
    templates: usize,
    expressions: usize,
}

impl<'p> Compiler<'p> {
    pub(super) fn new(known: Arc<[Box<str>]>, problems: &'p mut Problems) -> Self {
        Self {
            engine: engine(),
            problems,
            known,
            templates: 0,
            expressions: 0,
        }
    }

    /// Reads the args of one language, found at `pointer`.
    pub(super) fn args(&mut self, args: &Json, pointer: &str) -> Template {
        let before = self.expressions;
        let mut writing = Writing {
            compiler: self,
            base: pointer,
            pieces: Vec::new(),
            json: String::new(),
        };
        writing.value(args, pointer, 0);
        writing.close();
        let pieces = writing.pieces;
        if self.expressions - before > EXPRESSIONS_MAX {
            let what = format!("must have at most {EXPRESSIONS_MAX} expressions");
            self.problems.add(pointer, what);
        } else if before <= ALL_EXPRESSIONS_MAX && self.expressions > ALL_EXPRESSIONS_MAX {
            let what = format!("the whole must have at most {ALL_EXPRESSIONS_MAX} expressions");
            self.problems.add(pointer, what);
        }
        Template { pieces }
    }

    /// The name of a template, or none where it is only a text.
    fn text(&mut self, source: &str, pointer: &str) -> Option<Box<str>> {
        if !["{{", "{%", "{#"].iter().any(|mark| source.contains(mark)) {
            return None;
        }
        match self.compile(source) {
            Ok(name) => Some(name),
            Err(wrong) => {
                let what = format!("{}: {}", place(source, wrong.offset), wrong.what);
                self.problems.add(pointer, what);
                None
            }
        }
    }

    fn compile(&mut self, source: &str) -> Result<Box<str>, syntax::Wrong> {
        let look = syntax::look(source)?;
        self.expressions += look.expressions;
        let name = self.templates.to_string();
        if self.expressions > ALL_EXPRESSIONS_MAX {
            return Ok(name.into());
        }
        self.engine
            .add_template_owned(name.clone(), source.to_owned())
            .map_err(|error| wrong(&error))?;
        self.templates += 1;
        self.check_names(&name, &look)?;
        self.try_it(&name)?;
        Ok(name.into())
    }

    fn check_names(&self, name: &str, look: &syntax::Look<'_>) -> Result<(), syntax::Wrong> {
        let template = self
            .engine
            .get_template(name)
            .map_err(|error| wrong(&error))?;
        let unknown: BTreeSet<String> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|name| !self.known.iter().any(|known| **known == **name))
            .collect();
        let Some(first) = unknown.first() else {
            return Ok(());
        };
        let found = look
            .variables
            .iter()
            .find(|(_, name)| unknown.contains(*name));
        let (offset, name) = found.copied().unwrap_or((0, first));
        let known: Vec<&str> = self.known.iter().map(|name| &**name).collect();
        Err(syntax::Wrong {
            offset,
            what: format!("unknown variable `{name}`; known are {}", known.join(", ")),
        })
    }

    /// Whether it can be rendered at all: what no text could make right is wrong already. `1` is a
    /// text and a number.
    fn try_it(&self, name: &str) -> Result<(), syntax::Wrong> {
        let scope = Scope {
            names: self.known.clone(),
            values: vec![Value::from("1"); self.known.len()],
        };
        let template = self
            .engine
            .get_template(name)
            .map_err(|error| wrong(&error))?;
        match template.render(Value::from_object(scope)) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidOperation
                        | ErrorKind::MissingArgument
                        | ErrorKind::TooManyArguments
                        | ErrorKind::UnknownFilter
                        | ErrorKind::UnknownFunction
                        | ErrorKind::UnknownMethod
                        | ErrorKind::UnknownTest
                        | ErrorKind::OutOfFuel
                ) =>
            {
                Err(wrong(&error))
            }
            _ => Ok(()),
        }
    }
}

/// What the engine says is wrong.
fn wrong(error: &Error) -> syntax::Wrong {
    syntax::Wrong {
        offset: error.range().map_or(0, |range| range.start),
        what: explain(error),
    }
}

fn explain(error: &Error) -> String {
    match error.detail() {
        _ if error.kind() == ErrorKind::OutOfFuel => "is too much work".to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Where a byte of a text is, as people count.
fn place(source: &str, offset: usize) -> String {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("line {line}, column {column}")
}

/// Writes args as pieces.
struct Writing<'c, 'p> {
    compiler: &'c mut Compiler<'p>,
    base: &'c str,
    pieces: Vec<Piece>,
    json: String,
}

impl Writing<'_, '_> {
    fn value(&mut self, value: &Json, pointer: &str, depth: usize) {
        match value {
            Json::Array(_) | Json::Object(_) if depth >= TEMPLATE_NESTING_MAX => {
                let what = format!("must be nested at most {TEMPLATE_NESTING_MAX} levels deep");
                self.compiler.problems.add(pointer, what);
            }
            Json::Array(items) => {
                self.json.push('[');
                for (place, item) in items.iter().enumerate() {
                    self.comma(place);
                    self.value(item, &format!("{pointer}/{place}"), depth + 1);
                }
                self.json.push(']');
            }
            Json::Object(members) => {
                self.json.push('{');
                for (place, (key, value)) in members.iter().enumerate() {
                    self.comma(place);
                    self.json.push_str(&Json::from(key.as_str()).to_string());
                    self.json.push(':');
                    self.value(value, &member(pointer, key), depth + 1);
                }
                self.json.push('}');
            }
            Json::String(source) => match self.compiler.text(source, pointer) {
                Some(name) => {
                    self.json.push('"');
                    self.close();
                    self.json.push('"');
                    let pointer = pointer[self.base.len()..].into();
                    self.pieces.push(Piece::Text { name, pointer });
                }
                None => self.json.push_str(&value.to_string()),
            },
            Json::Null | Json::Bool(_) | Json::Number(_) => self.json.push_str(&value.to_string()),
        }
    }

    fn comma(&mut self, place: usize) {
        if place > 0 {
            self.json.push(',');
        }
    }

    fn close(&mut self) {
        if !self.json.is_empty() {
            self.pieces.push(Piece::Json(self.json.as_str().into()));
            self.json.clear();
        }
    }
}

/// Why the args of a recipient cannot be made.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) pointer: String,
    pub(super) what: String,
}

impl Template {
    /// The args for one recipient, as JSON.
    pub(super) fn render(
        &self,
        engine: &Environment<'static>,
        scope: Scope,
    ) -> Result<String, Failed> {
        let scope = Value::from_object(scope);
        let mut out = JsonText::default();
        let mut fuel = FUEL;
        for piece in &self.pieces {
            match piece {
                Piece::Json(json) => out.extend(json.as_bytes()),
                Piece::Text { name, pointer } => {
                    let spent = text(engine, name, &scope, &mut out);
                    let failed = |what| Failed {
                        pointer: pointer.to_string(),
                        what,
                    };
                    match spent {
                        _ if out.is_full => break,
                        Err(error) => return Err(failed(one_line(&explain(&error)))),
                        Ok(spent) if spent > fuel => return Err(failed("is too much work".into())),
                        Ok(spent) => fuel -= spent,
                    }
                }
            }
        }
        let whole = |what: String| Failed {
            pointer: String::new(),
            what,
        };
        if out.is_full {
            return Err(whole(format!(
                "become more than {} KiB",
                ARGS_BYTES_MAX / 1024
            )));
        }
        // The pieces are parts of UTF-8 texts that were cut at quotes.
        String::from_utf8(out.bytes).map_err(|error| whole(error.to_string()))
    }
}

/// Renders one text; what it cost.
fn text(
    engine: &Environment<'static>,
    name: &str,
    scope: &Value,
    out: &mut JsonText,
) -> Result<u64, Error> {
    let template = engine.get_template(name)?;
    let done = template.render_captured_to(scope.clone(), out)?;
    Ok(done.state().fuel_levels().map_or(0, |(spent, _)| spent))
}

/// JSON under way, at most as long as args may be.
#[derive(Default)]
struct JsonText {
    bytes: Vec<u8>,
    is_full: bool,
}

impl JsonText {
    fn extend(&mut self, bytes: &[u8]) {
        match self.bytes.len() + bytes.len() <= ARGS_BYTES_MAX {
            true => self.bytes.extend_from_slice(bytes),
            false => self.is_full = true,
        }
    }
}

/// What is written is the inside of a text.
impl io::Write for &mut JsonText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_plain = |b: &u8| !matches!(b, b'"' | b'\\' | 0..=0x1f);
        for run in bytes.chunk_by(|a, b| is_plain(a) && is_plain(b)) {
            match run {
                [b'"'] => self.extend(b"\\\""),
                [b'\\'] => self.extend(b"\\\\"),
                [b'\n'] => self.extend(b"\\n"),
                [control @ 0..=0x1f] => self.extend(format!("\\u{control:04x}").as_bytes()),
                plain => self.extend(plain),
            }
        }
        match self.is_full {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pointer.as_str() {
            "" => f.write_str(&self.what),
            pointer => write!(f, "{pointer}: {}", self.what),
        }
    }
}
