//! What may stand in a cron expression; what may not is refused with the field and the place.
//!
//! The library behind this room takes more than it should: it reads `JAN` as 1 in any field, `1MON`
//! as 11, an empty value between two commas as none, and a seventh field as years. So every
//! expression is read here first, and what is handed on to it is known to be good.

use std::fmt;
use std::ops::RangeInclusive;

/// An expression that is well formed.
#[derive(Debug)]
pub(super) struct Read {
    /// All six fields, seconds first.
    pub(super) text: String,
    /// Whether seconds, minutes and hours are all named: none of them begins with `*`.
    pub(super) is_fixed: bool,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The field and the character, from 1; none where it is the whole expression.
    at: Option<(&'static str, usize, usize)>,
    rule: String,
}

impl Wrong {
    fn whole(rule: impl Into<String>) -> Self {
        Self {
            at: None,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, field, character)) = self.at {
            write!(f, "{name} (field {field}, character {character}): ")?;
        }
        f.write_str(&self.rule)
    }
}

/// One of the fields.
struct Field {
    name: &'static str,
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    DayOfMonth,
    Weekday,
}

const MONTHS: &[&str] = &[
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const fn plain(name: &'static str, range: RangeInclusive<u8>) -> Field {
    Field {
        name,
        range,
        names: &[],
        kind: Kind::Plain,
    }
}

const FIELDS: [Field; 6] = [
    plain("second", 0..=59),
    plain("minute", 0..=59),
    plain("hour", 0..=23),
    Field {
        name: "day of month",
        range: 1..=31,
        names: &[],
        kind: Kind::DayOfMonth,
    },
    Field {
        name: "month",
        range: 1..=12,
        names: MONTHS,
        kind: Kind::Plain,
    },
    Field {
        name: "weekday",
        range: 0..=7,
        names: WEEKDAYS,
        kind: Kind::Weekday,
    },
];

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The most of an input that is said back.
const SHOWN_MAX: usize = 20;

/// Reads an expression.
pub(super) fn read(text: &str) -> Result<Read, Wrong> {
    if let Some(place) = text.bytes().position(|b| !matches!(b, b' '..=b'~' | b'\t')) {
        let place = place + 1;
        return Err(Wrong::whole(format!(
            "must be printable ASCII, which character {place} is not"
        )));
    }
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Wrong::whole("must not be empty"));
    }
    if trimmed.starts_with('@') {
        let known = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(trimmed));
        let (_, meaning) = known.ok_or_else(|| {
            let names: Vec<_> = NICKNAMES.iter().map(|(name, _)| *name).collect();
            Wrong::whole(format!("must be one of {}", names.join(", ")))
        })?;
        return read(meaning);
    }
    let fields = words(text);
    let known = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => {
            return Err(Wrong::whole(format!(
                "must have five fields (minute, hour, day of month, month, weekday), or six with \
                 seconds first, not {count}"
            )));
        }
    };
    for (number, (field, (start, word))) in known.iter().zip(&fields).enumerate() {
        check_field(field, word).map_err(|(offset, rule)| Wrong {
            at: Some((field.name, number + 1, start + offset + 1)),
            rule,
        })?;
    }
    let mut all: Vec<&str> = fields.iter().map(|(_, word)| *word).collect();
    if all.len() == 5 {
        all.insert(0, "0");
    }
    let is_named = |word: &&str| !word.split(',').any(|item| item.starts_with('*'));
    Ok(Read {
        text: all.join(" ").to_ascii_uppercase(),
        is_fixed: all.iter().take(3).all(is_named),
    })
}

/// The words of a text and where each begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let start = |word: &str| word.as_ptr().addr() - text.as_ptr().addr();
    text.split_ascii_whitespace()
        .map(|word| (start(word), word))
        .collect()
}

/// What is wrong with a field, and how far into it.
type Place = (usize, String);

fn check_field(field: &Field, word: &str) -> Result<(), Place> {
    if word == "*" || word == "?" && field.kind != Kind::Plain {
        return Ok(());
    }
    let mut offset = 0;
    for item in word.split(',') {
        check_item(field, item).map_err(|rule| (offset, rule))?;
        offset += item.len() + 1;
    }
    let has = |text: &str| word.split(',').any(|item| item.eq_ignore_ascii_case(text));
    if field.kind == Kind::DayOfMonth && has("L") && has("LW") {
        return Err((0, "cannot have both L and LW".to_owned()));
    }
    Ok(())
}

fn check_item(field: &Field, item: &str) -> Result<(), String> {
    if item.is_empty() {
        return Err("a value is missing beside a comma".to_owned());
    }
    if item == "*" || item == "?" {
        return Err(format!("`{item}` must stand alone"));
    }
    if let Some((base, step)) = item.split_once('/') {
        let max = *field.range.end();
        if !number(step).is_some_and(|step| (1..=max).contains(&step)) {
            return Err(format!("a step must be a number from 1 to {max}"));
        }
        return match base {
            "*" => Ok(()),
            _ if base.contains('-') => check_range(field, base),
            _ => Err(format!(
                "a step needs `*` or a range before it, such as `*/{step}` or `{}-{max}/{step}`",
                field.range.start()
            )),
        };
    }
    let upper = item.to_ascii_uppercase();
    match field.kind {
        Kind::DayOfMonth if upper == "L" || upper == "LW" => return Ok(()),
        Kind::DayOfMonth if upper.ends_with('W') => {
            return value(field, &upper[..upper.len() - 1]).map(drop);
        }
        Kind::Weekday if upper.contains('#') => return check_nth(field, &upper),
        Kind::Weekday if upper == "L" => {
            return Err("L needs a weekday before it: `5L` is the last Friday".to_owned());
        }
        Kind::Weekday if upper.ends_with('L') => {
            return value(field, &upper[..upper.len() - 1]).map(drop);
        }
        _ => {}
    }
    if upper.contains('-') {
        return check_range(field, &upper);
    }
    value(field, &upper).map(drop)
}

/// `5#2`: the second Friday.
fn check_nth(field: &Field, item: &str) -> Result<(), String> {
    let (day, nth) = item.split_once('#').unwrap_or((item, ""));
    value(field, day)?;
    match number(nth) {
        Some(1..=5) => Ok(()),
        _ => Err("behind # must be a number from 1 to 5".to_owned()),
    }
}

fn check_range(field: &Field, item: &str) -> Result<(), String> {
    let Some((first, last)) = item
        .split_once('-')
        .filter(|(a, b)| !(a.is_empty() || b.is_empty()))
    else {
        return Err(format!("`{}` lacks an end of its range", shown(item)));
    };
    let (from, mut to) = (value(field, first)?, value(field, last)?);
    if field.kind == Kind::Weekday && last.eq_ignore_ascii_case("SUN") {
        to = 7;
    }
    if from > to {
        return Err(format!(
            "`{}` goes backwards: give two ranges instead",
            shown(item)
        ));
    }
    Ok(())
}

/// A number or a name.
fn value(field: &Field, text: &str) -> Result<u8, String> {
    let (min, max) = (*field.range.start(), *field.range.end());
    let named = field
        .names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    if let Some(place) = named.and_then(|place| u8::try_from(place).ok()) {
        return Ok(place + min);
    }
    number(text)
        .filter(|number| field.range.contains(number))
        .ok_or_else(|| {
            let names = match field.names {
                [] => String::new(),
                [first, .., last] => format!(" or one of {first} to {last}"),
                [_] => String::new(),
            };
            format!(
                "`{}` must be a number from {min} to {max}{names}",
                shown(text)
            )
        })
}

/// A number of one or two digits and nothing else: `+5` and `0x5` are none.
fn number(text: &str) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn shown(text: &str) -> &str {
    text.get(..SHOWN_MAX).unwrap_or(text)
}
