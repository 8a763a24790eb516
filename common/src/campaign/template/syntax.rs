//! What may stand in a template; what may not is refused with its place.
//!
//! The engine would take blocks, functions and maps, and finds out that a filter does not exist
//! only when it is used, with no place. So every template is read here first; what an expression
//! means is left to the engine.

/// What was found in a template.
#[derive(Debug, Default)]
pub(super) struct Look<'s> {
    /// How many expressions it has.
    pub(super) expressions: usize,
    /// Where names stand that must be variables.
    pub(super) variables: Vec<(usize, &'s str)>,
}

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) offset: usize,
    pub(super) what: String,
}

/// Filters that expressions may use: those for texts and numbers.
pub(super) const FILTERS: [&str; 21] = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "split",
    "title",
    "trim",
    "upper",
    "urlencode",
];

/// Tests that expressions may use, after `is`.
pub(super) const TESTS: [&str; 14] = [
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "ge",
    "gt",
    "in",
    "le",
    "lt",
    "ne",
    "odd",
    "startingwith",
    "undefined",
];

/// Words of the language; none of them is a variable.
pub(super) const KEYWORDS: [&str; 13] = [
    "and", "else", "false", "if", "in", "is", "none", "not", "or", "true", "False", "None", "True",
];

/// Names, texts, numbers and signs in one expression. The engine reads, compiles and drops what is
/// chained or nested by calling itself: some thousand levels would be the end of its thread.
pub(super) const TOKENS_MAX: usize = 200;

/// Reads a template.
pub(super) fn look(source: &str) -> Result<Look<'_>, Wrong> {
    let mut look = Look::default();
    let mut at = 0;
    while let Some(start) = source[at..].find('{').map(|place| at + place) {
        match source.as_bytes().get(start + 1) {
            Some(b'{') => {
                look.expressions += 1;
                at = expression(source, start + 2, &mut look)?;
            }
            Some(b'%') => {
                let what = "a block is not allowed: only expressions, such as `{{ name }}`";
                return Err(wrong(start, what));
            }
            Some(b'#') => match source[start + 2..].find("#}") {
                Some(length) => at = start + 2 + length + 2,
                None => return Err(wrong(start, "a comment is not closed: `#}` is missing")),
            },
            _ => at = start + 1,
        }
    }
    Ok(look)
}

fn wrong(offset: usize, what: impl Into<String>) -> Wrong {
    Wrong {
        offset,
        what: what.into(),
    }
}

/// What the last word or sign says about a name that follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Pipe,
    Is,
    Other,
}

/// Reads from behind `{{` to behind `}}`.
fn expression<'s>(source: &'s str, start: usize, look: &mut Look<'s>) -> Result<usize, Wrong> {
    let mut at = start;
    let mut before = Before::Other;
    let mut tokens = 0;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if rest.starts_with("}}") {
            return Ok(at + 2);
        }
        tokens += usize::from(!c.is_whitespace());
        if tokens > TOKENS_MAX {
            let what =
                format!("an expression must have at most {TOKENS_MAX} names, texts and signs");
            return Err(wrong(start - 2, what));
        }
        match c {
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => {
                let length =
                    text(&rest[1..], c).ok_or_else(|| wrong(at, "a text is not closed"))?;
                at += 1 + length;
                before = Before::Other;
            }
            '0'..='9' => {
                at += length(rest, |c| {
                    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
                });
                before = Before::Other;
            }
            '_' | 'a'..='z' | 'A'..='Z' => {
                let name = &rest[..length(rest, |c| c.is_ascii_alphanumeric() || c == '_')];
                before = word(name, at, &rest[name.len()..], before, look)?;
                at += name.len();
            }
            '{' | '}' => {
                let what = format!("`{c}` is not allowed in an expression, which ends with `}}}}`");
                return Err(wrong(at, what));
            }
            '.' => {
                let what = "`.` is not allowed: a variable is a text and has no parts";
                return Err(wrong(at, what));
            }
            _ => {
                before = match c {
                    '|' => Before::Pipe,
                    _ => Before::Other,
                };
                at += c.len_utf8();
            }
        }
    }
    Err(wrong(
        start - 2,
        "an expression is not closed: `}}` is missing",
    ))
}

/// A name: of a filter, of a test, of an argument, of the language, or of a variable.
fn word<'s>(
    name: &'s str,
    at: usize,
    after: &str,
    before: Before,
    look: &mut Look<'s>,
) -> Result<Before, Wrong> {
    let after = after.trim_start();
    match (before, name) {
        (Before::Pipe, _) => known(name, at, "filter", &FILTERS)?,
        (Before::Is, "not") => return Ok(Before::Is),
        (Before::Is, "none" | "true" | "false") => {}
        (Before::Is, _) => known(name, at, "test", &TESTS)?,
        (_, "is") => return Ok(Before::Is),
        _ if KEYWORDS.contains(&name) => {}
        _ if after.starts_with('(') => {
            return Err(wrong(
                at,
                format!("`{name}` is not allowed: there are no functions"),
            ));
        }
        _ if after.starts_with('=') && !after.starts_with("==") => {}
        _ => look.variables.push((at, name)),
    }
    Ok(Before::Other)
}

fn known(name: &str, at: usize, what: &str, all: &[&str]) -> Result<(), Wrong> {
    match all.contains(&name) {
        true => Ok(()),
        false => Err(wrong(
            at,
            format!("unknown {what} `{name}`; known are {}", all.join(", ")),
        )),
    }
}

/// How many bytes of a text fulfil this from its beginning.
fn length(text: &str, is_part: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// How many bytes a text has from behind its first quote to behind its last.
fn text(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (place, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(place + 1),
            _ => {}
        }
    }
    None
}
