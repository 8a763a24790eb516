//! Rules as they come in from outside: JSON, with limits, and an error that names its place.

use serde_json::{Map, Value};

use super::condition::{Ages, Condition, Range};
use super::invalid::{Invalid, step};
use super::recipient::{NAME_CHARS_MAX, country, is_name_of_attribute, language};
use super::value::{self, Scalar, instant_of, last_instant_of};
use super::{Rule, invalid};

/// Conditions inside conditions, at most.
pub const DEPTH_MAX: usize = 32;
/// Conditions of one rule, all together.
pub const NODES_MAX: usize = 200;
/// Values of one rule, all together.
pub const VALUES_MAX: usize = 1000;
/// A rule as JSON, in bytes.
pub const RULES_BYTES_MAX: usize = 64 * 1024;
/// A text that a rule compares with, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// The highest age that a rule may speak of, in years.
pub const AGE_MAX: i16 = 150;

/// Deeper than any rule within [`DEPTH_MAX`] (two brackets a condition, three of the innermost), and
/// less deep than what serde_json reads on the stack.
const BRACKETS_MAX: usize = 2 * DEPTH_MAX + 16;

const CONDITIONS: &str = "all, equals, in, range, has, country, language, age, plan, and, or, not";

impl Rule {
    /// Reads rules, and refuses what is not one or is too much.
    pub fn parse(json: &str) -> Result<Self, Invalid> {
        if json.len() > RULES_BYTES_MAX {
            let rule = format!("rules may have at most {RULES_BYTES_MAX} bytes");
            return Err(Invalid::at("", rule));
        }
        // Before anything that calls itself: what follows has room for this depth on any stack.
        if brackets(json) > BRACKETS_MAX {
            return Err(too_deep(""));
        }
        let value: Value = invalid::read(json.as_bytes())?;
        let mut reader = Reader::default();
        let condition = reader.condition(&value, "", 1)?;
        Ok(Self {
            condition,
            json: value.to_string(),
        })
    }
}

fn too_deep(pointer: &str) -> Invalid {
    Invalid::at(
        pointer,
        format!("conditions may be at most {DEPTH_MAX} deep"),
    )
}

/// How deep the brackets of a JSON text are, outside of its strings.
fn brackets(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Counts while it reads.
#[derive(Default)]
struct Reader {
    nodes: usize,
    values: usize,
}

impl Reader {
    fn condition(&mut self, from: &Value, at: &str, depth: usize) -> Result<Condition, Invalid> {
        if depth > DEPTH_MAX {
            return Err(too_deep(at));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let rule = format!("rules may have at most {NODES_MAX} conditions");
            return Err(Invalid::at(at, rule));
        }
        let object = from.as_object().ok_or_else(|| {
            Invalid::at(
                at,
                "must be an object with one condition, such as {\"country\":[\"FR\"]}",
            )
        })?;
        let mut entries = object.iter();
        let (Some((name, value)), None) = (entries.next(), entries.next()) else {
            let rule = format!(
                "must have exactly one condition, not {}: join several by `and` or `or`",
                object.len()
            );
            return Err(Invalid::at(at, rule));
        };
        let at = step(at, name);
        match name.as_str() {
            "all" if *value == Value::Bool(true) => Ok(Condition::All),
            "all" => Err(Invalid::at(at, "must be true")),
            "equals" => self.equals(value, &at),
            "in" => self.one_of(value, &at),
            "range" => self.range(value, &at),
            "has" => {
                let object = fields(value, &at, &["attribute"])?;
                let attribute = attribute(object, &at)?;
                Ok(Condition::Has { attribute })
            }
            "country" => {
                let countries = self.texts(value, &at, country)?;
                Ok(Condition::Country(countries))
            }
            "language" => {
                let languages = self.texts(value, &at, language)?;
                Ok(Condition::Language(languages))
            }
            "age" => self.age(value, &at),
            "plan" => {
                let plans = self.texts(value, &at, plan)?;
                Ok(Condition::Plan(plans))
            }
            "and" => Ok(Condition::And(self.conditions(value, &at, depth)?)),
            "or" => Ok(Condition::Or(self.conditions(value, &at, depth)?)),
            "not" => {
                let inner = self.condition(value, &at, depth + 1)?;
                Ok(Condition::Not(Box::new(inner)))
            }
            _ => Err(Invalid::at(
                at,
                format!("there is no such condition; there are {CONDITIONS}"),
            )),
        }
    }

    fn conditions(
        &mut self,
        from: &Value,
        at: &str,
        depth: usize,
    ) -> Result<Vec<Condition>, Invalid> {
        let list = list(from, at)?;
        let mut conditions = Vec::with_capacity(list.len().min(NODES_MAX));
        for (n, one) in list.iter().enumerate() {
            conditions.push(self.condition(one, &step(at, &n.to_string()), depth + 1)?);
        }
        Ok(conditions)
    }

    fn equals(&mut self, from: &Value, at: &str) -> Result<Condition, Invalid> {
        let object = fields(from, at, &["attribute", "value"])?;
        let attribute = attribute(object, at)?;
        let value = self.scalar(required(object, at, "value")?, &step(at, "value"))?;
        Ok(Condition::Equals { attribute, value })
    }

    fn one_of(&mut self, from: &Value, at: &str) -> Result<Condition, Invalid> {
        let object = fields(from, at, &["attribute", "values"])?;
        let attribute = attribute(object, at)?;
        let at = step(at, "values");
        let mut values: Vec<Scalar> = Vec::new();
        let from = object
            .get("values")
            .ok_or_else(|| Invalid::at(&at, "is required"))?;
        for (n, one) in list(from, &at)?.iter().enumerate() {
            let at = step(&at, &n.to_string());
            let value = self.scalar(one, &at)?;
            if let Some(first) = values.first().filter(|first| first.kind() != value.kind()) {
                let (first, this) = (first.kind(), value.kind());
                let rule = format!("must be a {first} as the first value is, not a {this}");
                return Err(Invalid::at(at, rule));
            }
            values.push(value);
        }
        Ok(Condition::In { attribute, values })
    }

    fn range(&mut self, from: &Value, at: &str) -> Result<Condition, Invalid> {
        let object = fields(from, at, &["attribute", "min", "max"])?;
        let attribute = attribute(object, at)?;
        let mut bound = |name: &str| -> Result<Option<Scalar>, Invalid> {
            let given = object.get(name).filter(|value| !value.is_null());
            given
                .map(|value| self.scalar(value, &step(at, name)))
                .transpose()
        };
        let (min, max) = (bound("min")?, bound("max")?);
        let wrong = |name: &str, rule: &str| Invalid::at(step(at, name), rule);
        const BOUND: &str =
            "must be a number, an RFC 3339 date such as 2024-02-29, or a timestamp with its offset";
        const TYPES: &str = "must be of the type that `min` is of: two numbers, or two moments";
        let range = match (min, max) {
            (None, None) => return Err(Invalid::at(at, "must have a `min`, a `max`, or both")),
            (Some(Scalar::Bool(_)), _) => return Err(wrong("min", BOUND)),
            (_, Some(Scalar::Bool(_))) => return Err(wrong("max", BOUND)),
            (Some(Scalar::Number(min)), Some(Scalar::Number(max))) if min > max => {
                return Err(wrong("min", "must not be more than `max`"));
            }
            (Some(Scalar::Number(min)), Some(Scalar::Number(max))) => Range::Numbers {
                min: Some(min),
                max: Some(max),
            },
            (Some(Scalar::Number(min)), None) => Range::Numbers {
                min: Some(min),
                max: None,
            },
            (None, Some(Scalar::Number(max))) => Range::Numbers {
                min: None,
                max: Some(max),
            },
            (Some(Scalar::Number(_)), Some(Scalar::Text(_)))
            | (Some(Scalar::Text(_)), Some(Scalar::Number(_))) => return Err(wrong("max", TYPES)),
            (min, max) => {
                let instant = |name: &str, bound: Option<Scalar>, of: fn(&str) -> Option<i64>| {
                    let Some(Scalar::Text(text)) = bound else {
                        return Ok(None);
                    };
                    of(&text).map(Some).ok_or_else(|| wrong(name, BOUND))
                };
                let min = instant("min", min, instant_of)?;
                let max = instant("max", max, last_instant_of)?;
                if matches!((min, max), (Some(min), Some(max)) if min > max) {
                    return Err(wrong("min", "must not be later than `max`"));
                }
                Range::Instants { min, max }
            }
        };
        Ok(Condition::Range { attribute, range })
    }

    fn age(&mut self, from: &Value, at: &str) -> Result<Condition, Invalid> {
        let object = fields(from, at, &["min", "max"])?;
        let mut years = |name: &str| -> Result<Option<i16>, Invalid> {
            let Some(value) = object.get(name).filter(|value| !value.is_null()) else {
                return Ok(None);
            };
            self.count(&step(at, name))?;
            let years = value.as_i64().and_then(|years| i16::try_from(years).ok());
            match years.filter(|years| (0..=AGE_MAX).contains(years)) {
                Some(years) => Ok(Some(years)),
                None => {
                    let rule = format!("must be a whole number of years from 0 to {AGE_MAX}");
                    Err(Invalid::at(step(at, name), rule))
                }
            }
        };
        let (min, max) = (years("min")?, years("max")?);
        if min.is_none() && max.is_none() {
            return Err(Invalid::at(at, "must have a `min`, a `max`, or both"));
        }
        let min = min.unwrap_or(0);
        if max.is_some_and(|max| min > max) {
            return Err(Invalid::at(step(at, "min"), "must not be more than `max`"));
        }
        Ok(Condition::Age(Ages { min, max }))
    }

    /// A list of texts, each as `read` has it.
    fn texts(
        &mut self,
        from: &Value,
        at: &str,
        read: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Vec<String>, Invalid> {
        let list = list(from, at)?;
        let mut texts = Vec::with_capacity(list.len().min(VALUES_MAX));
        for (n, one) in list.iter().enumerate() {
            let at = step(at, &n.to_string());
            self.count(&at)?;
            let text = one
                .as_str()
                .ok_or_else(|| Invalid::at(&at, "must be a text"))?;
            texts.push(read(text).map_err(|rule| Invalid::at(&at, rule))?);
        }
        Ok(texts)
    }

    fn scalar(&mut self, from: &Value, at: &str) -> Result<Scalar, Invalid> {
        self.count(at)?;
        match from {
            Value::String(text) if text.len() > TEXT_BYTES_MAX => {
                let rule = format!("a text may have at most {TEXT_BYTES_MAX} bytes");
                Err(Invalid::at(at, rule))
            }
            Value::String(text) if text.contains('\0') => {
                Err(Invalid::at(at, "must not have the character U+0000"))
            }
            Value::String(text) => Ok(Scalar::Text(text.clone())),
            Value::Number(number) => match value::number(number) {
                Ok(number) => Ok(Scalar::Number(number)),
                Err(rule) => Err(Invalid::at(at, rule)),
            },
            Value::Bool(is_so) => Ok(Scalar::Bool(*is_so)),
            Value::Null => Err(Invalid::at(
                at,
                "must not be null: what is not there is found by {\"not\":{\"has\":…}}",
            )),
            _ => Err(Invalid::at(at, "must be a text, a number, true or false")),
        }
    }

    fn count(&mut self, at: &str) -> Result<(), Invalid> {
        self.values += 1;
        if self.values > VALUES_MAX {
            let rule = format!("rules may have at most {VALUES_MAX} values");
            return Err(Invalid::at(at, rule));
        }
        Ok(())
    }
}

fn list<'a>(from: &'a Value, at: &str) -> Result<&'a [Value], Invalid> {
    match from.as_array() {
        Some(list) if !list.is_empty() => Ok(list),
        Some(_) => Err(Invalid::at(at, "must not be empty")),
        None => Err(Invalid::at(at, "must be a list")),
    }
}

/// An object with no other fields than these.
fn fields<'a>(
    from: &'a Value,
    at: &str,
    known: &[&str],
) -> Result<&'a Map<String, Value>, Invalid> {
    let object = from
        .as_object()
        .ok_or_else(|| Invalid::at(at, format!("must be an object with {}", known.join(", "))))?;
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let rule = format!("there is no such field; there are {}", known.join(", "));
            Err(Invalid::at(step(at, name), rule))
        }
        None => Ok(object),
    }
}

fn required<'a>(
    object: &'a Map<String, Value>,
    at: &str,
    name: &str,
) -> Result<&'a Value, Invalid> {
    object
        .get(name)
        .ok_or_else(|| Invalid::at(step(at, name), "is required"))
}

fn attribute(object: &Map<String, Value>, at: &str) -> Result<String, Invalid> {
    let value = required(object, at, "attribute")?;
    match value.as_str() {
        Some(name) if is_name_of_attribute(name) => Ok(name.to_owned()),
        _ => {
            let rule = format!(
                "must be the name of an attribute: 1 to {NAME_CHARS_MAX} characters, none of control"
            );
            Err(Invalid::at(step(at, "attribute"), rule))
        }
    }
}

fn plan(text: &str) -> Result<String, String> {
    match is_name_of_attribute(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "must be 1 to {NAME_CHARS_MAX} characters, none of control"
        )),
    }
}
