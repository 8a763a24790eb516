//! A recipient as a tenant describes it.

use std::collections::BTreeMap;

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::invalid::{self, Invalid, step};
use super::value::{self, date_of, has_control, instant_of};
use crate::schedule::ZONE_BYTES_MAX;

/// A key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Addresses of one recipient.
pub const ADDRESSES_MAX: usize = 16;
/// One address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 2048;
/// Names of attributes and plans, in characters.
pub const NAME_CHARS_MAX: usize = 63;
/// Attributes of one recipient.
pub const ATTRIBUTES_MAX: usize = 64;
/// All attributes of one recipient as JSON without spaces, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 8 * 1024;

/// Births and days on which somebody has an age are from the first of these days to the last.
const DAYS: (Date, Date) = (date(1850, 1, 1), date(2199, 12, 31));

/// Somebody who may get a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recipient {
    /// What the tenant calls it.
    pub key: String,
    /// Where it is reached, by the name of the channel.
    pub addresses: BTreeMap<String, String>,
    /// A BCP 47 tag in its canonical case, such as `en-GB`.
    pub language: Option<String>,
    /// Two letters of ISO 3166-1, such as `FR`.
    pub country: Option<String>,
    /// A name of the IANA database.
    pub timezone: Option<String>,
    /// When it was born.
    pub birth_date: Option<Date>,
    /// What it pays for.
    pub plan: Option<String>,
    /// Anything else. None is null: that is the same as not there.
    pub attributes: Map<String, Value>,
}

impl Recipient {
    /// Whether a recipient can have this key at all: others need not be looked for.
    pub fn is_key(key: &str) -> bool {
        (1..=KEY_BYTES_MAX).contains(&key.len()) && !has_control(key)
    }

    /// The value of an attribute, unless it is not there or null.
    pub(super) fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name).filter(|value| !value.is_null())
    }

    /// The moments among the attributes, in microseconds since 1970: what Postgres compares, which
    /// must never have to read a text as a date.
    pub fn instants(&self) -> Map<String, Value> {
        let instant = |(name, value): (&String, &Value)| {
            let at = instant_of(value.as_str()?)?;
            Some((name.clone(), Value::from(at)))
        };
        self.attributes.iter().filter_map(instant).collect()
    }
}

/// The fields of a recipient, by their public names. A field that is null is one that is left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientInput {
    /// 1 to 255 bytes; required, unless it is said elsewhere.
    pub key: Option<String>,
    /// By channel.
    pub addresses: Option<BTreeMap<String, Option<String>>>,
    /// A BCP 47 tag.
    pub language: Option<String>,
    /// Two capital letters.
    pub country: Option<String>,
    /// A name of the IANA database.
    pub timezone: Option<String>,
    /// `2024-02-29`.
    pub birth_date: Option<String>,
    /// Any name.
    pub plan: Option<String>,
    /// Any JSON, by name.
    pub attributes: Option<Map<String, Value>>,
}

impl RecipientInput {
    /// Reads one JSON object. An error names its place.
    pub fn parse(json: &[u8]) -> Result<Self, Invalid> {
        invalid::read(json)
    }

    /// Checks everything. The key may be said elsewhere, as in a path; then it is not said twice.
    pub fn into_recipient(self, key: Option<&str>) -> Result<Recipient, Invalid> {
        let key = match (self.key, key) {
            (Some(own), Some(given)) if own != given => {
                return Err(Invalid::at(
                    "/key",
                    "must be the one in the path, or left out",
                ));
            }
            (_, Some(given)) => given.to_owned(),
            (Some(own), None) => own,
            (None, None) => return Err(Invalid::at("/key", "is required")),
        };
        if !Recipient::is_key(&key) {
            let rule = format!("must be 1 to {KEY_BYTES_MAX} bytes, and no characters of control");
            return Err(Invalid::at("/key", rule));
        }
        fn checked<T>(
            pointer: &str,
            text: Option<String>,
            read: impl Fn(&str) -> Result<T, String>,
        ) -> Result<Option<T>, Invalid> {
            let read = text.map(|text| read(&text)).transpose();
            read.map_err(|rule| Invalid::at(pointer, rule))
        }
        Ok(Recipient {
            key,
            addresses: addresses(self.addresses.unwrap_or_default())?,
            language: checked("/language", self.language, language)?,
            country: checked("/country", self.country, country)?,
            timezone: checked("/timezone", self.timezone, timezone)?,
            birth_date: checked("/birth_date", self.birth_date, birth_date)?,
            plan: checked("/plan", self.plan, |text| {
                match is_name_of_attribute(text) {
                    true => Ok(text.to_owned()),
                    false => Err(format!(
                        "must be 1 to {NAME_CHARS_MAX} characters, none of control"
                    )),
                }
            })?,
            attributes: attributes(self.attributes.unwrap_or_default())?,
        })
    }
}

/// Names of attributes, and of plans.
pub(super) fn is_name_of_attribute(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && !has_control(name)
}

/// Two letters as ISO 3166-1 has them; whether there is such a country is not looked up.
pub(super) fn country(text: &str) -> Result<String, String> {
    match text.as_bytes() {
        [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(text.to_owned()),
        _ => Err("must be two capital letters, such as FR (ISO 3166-1)".to_owned()),
    }
}

/// A tag as BCP 47 shapes them, in its canonical case: `zh-Hant-TW`.
pub fn language(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let mut parts = text.split('-');
    let primary = parts.next().unwrap_or_default();
    let is_primary =
        (2..=3).contains(&primary.len()) && primary.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !is_primary || text.len() > 35 || !parts.clone().all(is_part) {
        return Err("must be a language tag, such as en or zh-Hant-TW (BCP 47)".to_owned());
    }
    let mut tag = primary.to_ascii_lowercase();
    // What follows a single letter is not a script or a region (RFC 5646, section 2.1.1).
    let mut is_after_singleton = false;
    for part in parts {
        let mut part = part.to_ascii_lowercase();
        if !is_after_singleton && part.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            match part.len() {
                2 => part.make_ascii_uppercase(),
                4 => part[..1].make_ascii_uppercase(),
                _ => {}
            }
        }
        is_after_singleton |= part.len() == 1;
        tag.push('-');
        tag += &part;
    }
    Ok(tag)
}

fn timezone(text: &str) -> Result<String, String> {
    let wrong = || "must be a name of the IANA database, such as Europe/Paris".to_owned();
    if text.is_empty() || text.len() > ZONE_BYTES_MAX {
        return Err(wrong());
    }
    let zone = TimeZone::get(text).map_err(|_| wrong())?;
    zone.iana_name().map(str::to_owned).ok_or_else(wrong)
}

/// A day such as `2024-02-29`, within the years in which people are born and written to.
pub fn day_of(text: &str) -> Option<Date> {
    let (first, last) = DAYS;
    date_of(text).filter(|date| (first..=last).contains(date))
}

fn birth_date(text: &str) -> Result<Date, String> {
    let (first, last) = DAYS;
    day_of(text).ok_or_else(|| format!("must be a date such as 1990-02-28, from {first} to {last}"))
}

fn addresses(given: BTreeMap<String, Option<String>>) -> Result<BTreeMap<String, String>, Invalid> {
    let mut addresses = BTreeMap::new();
    for (channel, address) in given {
        let at = step("/addresses", &channel);
        if channel.parse::<crate::job::KindName>().is_err() {
            let rule = "the name of a channel must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit";
            return Err(Invalid::at(at, rule));
        }
        let Some(address) = address else { continue };
        if !(1..=ADDRESS_BYTES_MAX).contains(&address.len()) || has_control(&address) {
            let rule =
                format!("must be 1 to {ADDRESS_BYTES_MAX} bytes, and no characters of control");
            return Err(Invalid::at(at, rule));
        }
        addresses.insert(channel, address);
    }
    if addresses.len() > ADDRESSES_MAX {
        let rule = format!("there may be at most {ADDRESSES_MAX}");
        return Err(Invalid::at("/addresses", rule));
    }
    Ok(addresses)
}

fn attributes(given: Map<String, Value>) -> Result<Map<String, Value>, Invalid> {
    let mut attributes = Map::new();
    for (name, value) in given {
        let at = step("/attributes", &name);
        if !is_name_of_attribute(&name) {
            let rule = format!(
                "the name of an attribute must be 1 to {NAME_CHARS_MAX} characters, none of control"
            );
            return Err(Invalid::at(at, rule));
        }
        let value = match value {
            Value::Null => continue,
            Value::Number(number) => Value::Number(number_of(&number, &at)?),
            inner => {
                check(&inner, &at)?;
                inner
            }
        };
        attributes.insert(name, value);
    }
    if attributes.len() > ATTRIBUTES_MAX {
        let rule = format!("there may be at most {ATTRIBUTES_MAX}");
        return Err(Invalid::at("/attributes", rule));
    }
    // No deeper than what was just read.
    let bytes = serde_json::to_string(&attributes).map_or(usize::MAX, |json| json.len());
    if bytes > ATTRIBUTES_BYTES_MAX {
        let rule = format!(
            "all attributes together may have {ATTRIBUTES_BYTES_MAX} bytes, and these have {bytes}"
        );
        return Err(Invalid::at("/attributes", rule));
    }
    Ok(attributes)
}

/// The number that is kept: whole ones stay whole.
fn number_of(given: &Number, at: &str) -> Result<Number, Invalid> {
    let number = value::number(given).map_err(|rule| Invalid::at(at, rule))?;
    Ok(match given.is_f64() {
        true => Number::from_f64(number).unwrap_or_else(|| given.clone()),
        false => given.clone(),
    })
}

/// What lies inside lists and objects: conditions do not look there, but Postgres keeps it.
fn check(value: &Value, at: &str) -> Result<(), Invalid> {
    const NUL: &str = "must not have the character U+0000";
    match value {
        Value::String(text) if text.contains('\0') => Err(Invalid::at(at, NUL)),
        Value::Number(number) => number_of(number, at).map(drop),
        Value::Array(list) => {
            let mut list = list.iter().enumerate();
            list.try_for_each(|(n, inner)| check(inner, &step(at, &n.to_string())))
        }
        Value::Object(object) => {
            object
                .iter()
                .try_for_each(|(name, inner)| match name.contains('\0') {
                    true => Err(Invalid::at(step(at, name), NUL)),
                    false => check(inner, &step(at, name)),
                })
        }
        _ => Ok(()),
    }
}
