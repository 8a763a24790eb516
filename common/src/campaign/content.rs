//! What a campaign says: on which channels, in which languages, with which variables.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use minijinja::Environment;
use serde_json::Value;
use serde_json::value::RawValue;

use super::address::AddressKind;
use super::problem::{Members, Problem, Problems, document, member};
use super::recipients::Recipient;
use super::template::{BUILT_IN, Compiler, Scope, Template, is_variable};
use crate::job::{KindName, QueueName};
use crate::language::Language;

/// The largest content, in bytes of JSON.
pub const CONTENT_BYTES_MAX: usize = 256 * 1024;
/// Channels of a content.
pub const CHANNELS_MAX: usize = 16;
/// Languages of a channel.
pub const LANGUAGES_MAX: usize = 64;
/// Variables of a content.
pub const VARIABLES_MAX: usize = 64;
/// The largest value of a variable, in bytes.
pub const VARIABLE_BYTES_MAX: usize = 4 * 1024;
/// The largest cost of one message, in millionths: a thousand of the currency.
pub const COST_MICROS_MAX: u64 = 1_000_000_000;

/// What a campaign says, read and compiled once for all of its recipients.
pub struct Content {
    channels: Vec<Channel>,
    default_channel: usize,
    language: Language,
    variables: Vec<Variable>,
    currency: Option<Box<str>>,
    /// Names of the variables, then of what is built in.
    names: Arc<[Box<str>]>,
    engine: Environment<'static>,
}

/// A way to reach somebody: jobs of one kind in one queue.
#[derive(Debug)]
pub struct Channel {
    /// What recipients and reports call it.
    pub name: Box<str>,
    /// The kind of its jobs.
    pub kind: KindName,
    /// Where they wait.
    pub queue: QueueName,
    /// What an address on it is.
    pub address: AddressKind,
    /// 0 first to 3 last; none: as for any job.
    pub priority: Option<i16>,
    /// 1 to 1,000; none: as for any job.
    pub max_attempts: Option<i32>,
    /// What one message costs, in millionths of the content's currency.
    pub cost_micros: Option<u64>,
    args: Vec<(Language, Template)>,
}

impl Channel {
    /// The languages it speaks, sorted.
    pub fn languages(&self) -> impl Iterator<Item = &Language> {
        self.args.iter().map(|(language, _)| language)
    }

    /// The language in which somebody gets it who wants this one.
    pub fn language_of<'a>(&'a self, wanted: Option<&str>, fallback: &'a Language) -> &'a Language {
        let args = self.args_in(wanted, fallback);
        args.map_or(fallback, |(language, _)| language)
    }

    /// The args in the language that is nearest to the one wanted: itself, or it without its last
    /// subtags (`fr` for `fr-CA`), or else the fallback.
    fn args_in(&self, wanted: Option<&str>, fallback: &Language) -> Option<&(Language, Template)> {
        let exactly = |tag: &str| {
            self.args
                .iter()
                .find(|(language, _)| language.as_str() == tag)
        };
        wanted
            .and_then(|tag| Language::and_wider(tag).find_map(exactly))
            .or_else(|| exactly(fallback.as_str()))
    }
}

/// What recipients bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// What templates and columns call it.
    pub name: Box<str>,
    /// For recipients that do not bring it; without one, they must.
    pub default: Option<Box<str>>,
}

/// What all recipients of a campaign have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// The built-in variable `campaign`.
    pub campaign: &'a str,
    /// The built-in variable `timezone` of recipients that have none.
    pub timezone: &'a str,
}

/// The message for one recipient.
#[derive(Debug)]
pub struct Message<'c> {
    /// How it goes.
    pub channel: &'c Channel,
    /// In which language it is.
    pub language: &'c Language,
    /// The args of its job, at most 256 KiB.
    pub args: Box<RawValue>,
}

/// Why there is no message for a recipient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{to}: channel {channel}, language {language}: {what}")]
pub struct RenderError {
    /// The recipient's address.
    pub to: String,
    /// The channel.
    pub channel: String,
    /// The language.
    pub language: String,
    /// What failed, and at which text of the args.
    pub what: String,
}

impl Content {
    /// Reads JSON. All that is wrong is told at once.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Problem>> {
        Self::read(&document(json, CONTENT_BYTES_MAX)?)
    }

    /// Reads JSON that was parsed already. All that is wrong is told at once.
    pub fn read(content: &Value) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        if !is_within(content, CONTENT_BYTES_MAX) {
            problems.add(
                "",
                format!("must be at most {} KiB", CONTENT_BYTES_MAX / 1024),
            );
            return problems.or(None);
        }
        let content = read(content, &mut problems);
        problems.or(content)
    }

    /// The channels, sorted by name.
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// The channel of this name.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| &*channel.name == name)
    }

    /// The channel of recipients that name none.
    pub fn default_channel(&self) -> &Channel {
        &self.channels[self.default_channel]
    }

    /// The language of recipients that have none, or one that is not spoken.
    pub fn language(&self) -> &Language {
        &self.language
    }

    /// The variables, sorted by name.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Of what the costs are: three letters.
    pub fn currency(&self) -> Option<&str> {
        self.currency.as_deref()
    }

    /// The channel of a recipient. None: it was read for another content.
    pub fn channel_of(&self, recipient: &Recipient) -> Option<&Channel> {
        match &recipient.channel {
            Some(name) => self.channel(name),
            None => Some(self.default_channel()),
        }
    }

    /// The message for a recipient. Some microseconds.
    pub fn render(
        &self,
        recipient: &Recipient,
        common: Common<'_>,
    ) -> Result<Message<'_>, RenderError> {
        let error = |channel: &str, language: &str, what: String| RenderError {
            to: recipient.to.clone(),
            channel: channel.to_owned(),
            language: language.to_owned(),
            what,
        };
        let Some(channel) = self.channel_of(recipient) else {
            let name = recipient.channel.as_deref().unwrap_or("");
            return Err(error(
                name,
                "",
                "the campaign has no such channel".to_owned(),
            ));
        };
        let args = channel.args_in(recipient.language.as_deref(), &self.language);
        let Some((language, template)) = args else {
            // Checked when it was read: each channel has the fallback.
            return Err(error(&channel.name, "", "there are no args".to_owned()));
        };
        let failed = |what: String| error(&channel.name, language.as_str(), what);
        let scope = self.scope(recipient, language, common).map_err(failed)?;
        let args = template
            .render(&self.engine, scope)
            .map_err(|error| failed(error.to_string()))?;
        let args = RawValue::from_string(args).map_err(|error| failed(error.to_string()))?;
        Ok(Message {
            channel,
            language,
            args,
        })
    }

    fn scope(
        &self,
        recipient: &Recipient,
        language: &Language,
        common: Common<'_>,
    ) -> Result<Scope, String> {
        let mut values = Vec::with_capacity(self.names.len());
        for (place, variable) in self.variables.iter().enumerate() {
            let given = recipient.variables.get(place).and_then(Option::as_deref);
            let value = given
                .or(variable.default.as_deref())
                .ok_or_else(|| format!("the variable `{}` is missing", variable.name))?;
            values.push(minijinja::Value::from(value));
        }
        let timezone = recipient.timezone.as_deref().unwrap_or(common.timezone);
        let built_in = [&recipient.to, language.as_str(), timezone, common.campaign];
        values.extend(built_in.map(minijinja::Value::from));
        let names = self.names.clone();
        Ok(Scope { names, values })
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("channels", &self.channels)
            .field("language", &self.language)
            .field("variables", &self.variables)
            .finish_non_exhaustive()
    }
}

/// Whether it is no longer than this as a text. It is not written anywhere.
fn is_within(value: &Value, bytes_max: usize) -> bool {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Count(bytes_max), value).is_ok()
}

// === Reading ===

const CONTENT: [&str; 5] = ["channels", "channel", "language", "variables", "currency"];
const CHANNEL: [&str; 7] = [
    "kind",
    "queue",
    "address",
    "priority",
    "max_attempts",
    "cost",
    "args",
];

fn read(content: &Value, problems: &mut Problems) -> Option<Content> {
    let content = Members::read(content, String::new(), &CONTENT, problems);
    let variables = variables(&content, problems);
    let language = content
        .require("language", problems)
        .and_then(|value| named(&content.at("language"), value, problems));
    let currency = currency(&content, problems);
    let names = variables.iter().map(|variable| &*variable.name);
    let names: Arc<[Box<str>]> = names.chain(BUILT_IN).map(Box::from).collect();
    let mut reading = Reading {
        compiler: Compiler::new(names.clone(), problems),
        fallback: language.as_ref(),
        has_currency: currency.is_some(),
    };
    let channels = reading.channels(&content);
    let engine = reading.compiler.engine;
    let default_channel = default_channel(&content, &channels, problems);
    Some(Content {
        default_channel: default_channel?,
        language: language?,
        channels,
        variables,
        currency,
        names,
        engine,
    })
}

/// A text that is a name of some kind.
fn named<T: FromStr<Err: fmt::Display>>(
    pointer: &str,
    value: &Value,
    problems: &mut Problems,
) -> Option<T> {
    let Some(text) = value.as_str() else {
        problems.add(pointer, "must be a text");
        return None;
    };
    text.parse()
        .map_err(|error: T::Err| problems.add(pointer, error.to_string()))
        .ok()
}

fn variables(content: &Members<'_>, problems: &mut Problems) -> Vec<Variable> {
    let Some(value) = content.get("variables") else {
        return Vec::new();
    };
    let pointer = content.at("variables");
    let Some(map) = value.as_object() else {
        problems.add(&pointer, "must be an object");
        return Vec::new();
    };
    if map.len() > VARIABLES_MAX {
        problems.add(
            &pointer,
            format!("must have at most {VARIABLES_MAX} variables"),
        );
        return Vec::new();
    }
    let mut variables = Vec::with_capacity(map.len());
    for (name, value) in map {
        let pointer = member(&pointer, name);
        if !is_variable(name) {
            let what = "must be named by 1 to 63 of a-z A-Z 0-9 _, not begin with a digit, and be \
                        no word that means something else";
            problems.add(&pointer, what);
        }
        let variable = Members::read(value, pointer, &["default"], problems);
        let default = variable.get("default").map(|value| match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => {
                problems.add(&variable.at("default"), "must be a text");
                String::new()
            }
        });
        if let Some(what) = default.as_deref().and_then(unfit) {
            problems.add(&variable.at("default"), what);
        }
        variables.push(Variable {
            name: name.as_str().into(),
            default: default.map(Box::from),
        });
    }
    variables.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    variables
}

/// Why a text cannot be the value of a variable.
pub(super) fn unfit(value: &str) -> Option<&'static str> {
    match value {
        _ if value.len() > VARIABLE_BYTES_MAX => Some("must be at most 4 KiB"),
        _ if value.contains('\0') => Some("must not contain a NUL character"),
        _ => None,
    }
}

fn currency(content: &Members<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let text = content.text("currency", problems)?;
    if text.len() != 3 || !text.bytes().all(|b| b.is_ascii_uppercase()) {
        let what = "must be the three letters of a currency, such as EUR";
        problems.add(&content.at("currency"), what);
    }
    Some(text.into())
}

fn default_channel(
    content: &Members<'_>,
    channels: &[Channel],
    problems: &mut Problems,
) -> Option<usize> {
    let name = content.text("channel", problems);
    match (name, channels) {
        (Some(name), _) => {
            let place = channels.iter().position(|channel| &*channel.name == name);
            // One that is there, and wrong, has been told already.
            let is_given = content
                .get("channels")
                .is_some_and(|given| given.get(name).is_some());
            if place.is_none() && !is_given {
                problems.add(&content.at("channel"), "is none of the channels");
            }
            place
        }
        (None, [_]) => Some(0),
        (None, []) => None,
        (None, _) => {
            if content.get("channel").is_none() {
                let what = "is missing: which of the channels is for recipients that name none?";
                problems.add(&content.at("channel"), what);
            }
            None
        }
    }
}

/// What is known while channels are read.
struct Reading<'l, 'p> {
    compiler: Compiler<'p>,
    fallback: Option<&'l Language>,
    has_currency: bool,
}

impl Reading<'_, '_> {
    fn channels(&mut self, content: &Members<'_>) -> Vec<Channel> {
        let pointer = content.at("channels");
        let Some(value) = content.require("channels", self.compiler.problems) else {
            return Vec::new();
        };
        let Some(map) = value.as_object() else {
            self.compiler.problems.add(&pointer, "must be an object");
            return Vec::new();
        };
        if !(1..=CHANNELS_MAX).contains(&map.len()) {
            let what = format!("must have 1 to {CHANNELS_MAX} channels");
            self.compiler.problems.add(&pointer, what);
            return Vec::new();
        }
        let mut channels: Vec<Channel> = map
            .iter()
            .filter_map(|(name, value)| self.channel(name, value, member(&pointer, name)))
            .collect();
        channels.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        channels
    }

    fn channel(&mut self, name: &str, value: &Value, pointer: String) -> Option<Channel> {
        // The same shape as a queue's name, for the same uses: labels, paths, columns.
        if name.parse::<QueueName>().is_err() {
            let what = "must be named by 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit";
            self.compiler.problems.add(&pointer, what);
        }
        let channel = Members::read(value, pointer, &CHANNEL, self.compiler.problems);
        let args = self.languages(&channel);
        let cost_micros = self.cost(&channel);
        let problems = &mut *self.compiler.problems;
        let kind: Option<KindName> = channel
            .require("kind", problems)
            .and_then(|value| named(&channel.at("kind"), value, problems));
        let queue = match channel.get("queue") {
            Some(value) => named(&channel.at("queue"), value, problems),
            None => "default".parse().ok(),
        };
        let address = address(&channel, kind.as_ref(), problems);
        let priority = number(&channel, "priority", (0, 3), problems);
        let max_attempts = number(&channel, "max_attempts", (1, 1000), problems);
        Some(Channel {
            name: name.into(),
            kind: kind?,
            queue: queue?,
            address,
            priority: priority.and_then(|number| number.try_into().ok()),
            max_attempts: max_attempts.and_then(|number| number.try_into().ok()),
            cost_micros,
            args,
        })
    }

    fn languages(&mut self, channel: &Members<'_>) -> Vec<(Language, Template)> {
        let pointer = channel.at("args");
        let Some(value) = channel.require("args", self.compiler.problems) else {
            return Vec::new();
        };
        let Some(map) = value.as_object() else {
            let what = "must be an object: args by the tag of their language";
            self.compiler.problems.add(&pointer, what);
            return Vec::new();
        };
        if map.len() > LANGUAGES_MAX {
            let what = format!("must have at most {LANGUAGES_MAX} languages");
            self.compiler.problems.add(&pointer, what);
            return Vec::new();
        }
        let mut args: Vec<(Language, Template)> = Vec::with_capacity(map.len());
        for (tag, value) in map {
            let pointer = member(&pointer, tag);
            let template = self.compiler.args(value, &pointer);
            match tag.parse::<Language>() {
                Ok(language) if args.iter().any(|(other, _)| *other == language) => {
                    let what = format!("is the language {language} a second time");
                    self.compiler.problems.add(&pointer, what);
                }
                Ok(language) => args.push((language, template)),
                Err(error) => self.compiler.problems.add(&pointer, error.to_string()),
            }
        }
        args.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(fallback) = self.fallback
            && !args.iter().any(|(language, _)| language == fallback)
        {
            let what = format!("lack the language {fallback}, which is for everybody else");
            self.compiler.problems.add(&pointer, what);
        }
        args
    }

    fn cost(&mut self, channel: &Members<'_>) -> Option<u64> {
        let value = channel.get("cost")?;
        let pointer = channel.at("cost");
        let micros = value.as_number().and_then(|cost| micros(&cost.to_string()));
        if micros.is_none() {
            let what = "must be a number from 0 to 1000 with at most six decimals";
            self.compiler.problems.add(&pointer, what);
        } else if !self.has_currency {
            let what = "needs the content's `currency`, such as EUR";
            self.compiler.problems.add(&pointer, what);
        }
        micros
    }
}

fn address(channel: &Members<'_>, kind: Option<&KindName>, problems: &mut Problems) -> AddressKind {
    let otherwise = match kind.map(KindName::as_str) {
        Some("sms") => AddressKind::Phone,
        _ => AddressKind::Text,
    };
    let Some(name) = channel.text("address", problems) else {
        return otherwise;
    };
    AddressKind::named(name).unwrap_or_else(|| {
        problems.add(&channel.at("address"), "must be phone, email or text");
        otherwise
    })
}

fn number(
    channel: &Members<'_>,
    key: &str,
    (min, max): (i64, i64),
    problems: &mut Problems,
) -> Option<i64> {
    let value = channel.get(key)?;
    let number = value.as_i64().filter(|number| (min..=max).contains(number));
    if number.is_none() {
        let what = format!("must be a whole number from {min} to {max}");
        problems.add(&channel.at(key), what);
    }
    number
}

/// A cost in millionths, exactly: through its digits, and not through a float.
fn micros(text: &str) -> Option<u64> {
    const DECIMALS: usize = 6;
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        // How `1e-6` is written by whoever writes it shortest.
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // The number is digits × 10^power micros.
    let power = exponent - i32::try_from(fraction.len()).ok()? + DECIMALS as i32;
    let digits: u64 = digits.parse().ok()?;
    let micros = match u32::try_from(power) {
        Ok(power) => digits.checked_mul(10_u64.checked_pow(power)?)?,
        Err(_) => {
            let divisor = 10_u64.checked_pow(power.unsigned_abs())?;
            digits.is_multiple_of(divisor).then_some(digits / divisor)?
        }
    };
    (micros <= COST_MICROS_MAX).then_some(micros)
}

#[cfg(test)]
mod tests;
