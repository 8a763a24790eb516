//! Configuration from the environment, read once, with every problem reported at once.
//!
//! Each program has one `Config`, built in `main` from an [`Env`] and passed down in pieces.
//! Nothing else reads the environment, so a test can configure a program with a map.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::text::one_line;

/// The exit code of a program that refuses its configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// Postgres, unless `DATABASE_URL` says otherwise.
pub const DATABASE_URL_DEFAULT: &str = "postgres://postroad:postroad@127.0.0.1:5432/postroad";

/// RabbitMQ, unless `AMQP_URL` says otherwise.
pub const AMQP_URL_DEFAULT: &str = "amqp://postroad:postroad@127.0.0.1:5672/postroad";

/// Reads variables and collects what is wrong with them.
pub struct Env {
    variables: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Env {
    /// The variables of this process. An empty one counts as not set.
    pub fn of_process() -> Self {
        let mut env = Self::of_map([]);
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            match value.to_str() {
                Some(value) => {
                    env.variables.insert(name.to_owned(), value.to_owned());
                }
                None if is_ours(name) => env.problem(name, "is not UTF-8"),
                None => {}
            }
        }
        env
    }

    /// The given variables and no others.
    pub fn of_map<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            variables: variables.into_iter().map(own).collect(),
            problems: Vec::new(),
        }
    }

    /// The text of a variable, when it is set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The names of all variables that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// A parsed variable, or `default`. What does not parse is remembered as a problem.
    pub fn parse<T>(&mut self, name: &str, default: T) -> T
    where
        T: FromStr,
        T::Err: Display,
    {
        self.parse_optional(name).unwrap_or(default)
    }

    /// A parsed variable, when it is set and parses.
    pub fn parse_optional<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.text(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(name, error);
                None
            }
        }
    }

    /// A number between two limits, or `default`.
    pub fn number(&mut self, name: &str, default: u32, min: u32, max: u32) -> u32 {
        let Some(text) = self.text(name) else {
            return default;
        };
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                let wrong = format!("must be a whole number from {min} to {max}, not `{text}`");
                self.problem(name, wrong);
                default
            }
        }
    }

    /// A duration with a unit (`500ms`, `30s`, `5m`, `2h`, `7d`) between two limits, or `default`.
    pub fn duration(
        &mut self,
        name: &str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let Some(text) = self.text(name) else {
            return default;
        };
        match parse_duration(text) {
            Some(value) if (min..=max).contains(&value) => value,
            Some(_) => {
                self.problem(
                    name,
                    format!("must be from {min:?} to {max:?}, not `{text}`"),
                );
                default
            }
            None => {
                let text = format!("must be a duration with its unit, such as `30s`, not `{text}`");
                self.problem(name, text);
                default
            }
        }
    }

    /// A secret, when it is set.
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.text(name).map(SecretString::from)
    }

    /// Remembers that `name` is wrong. `what` completes the sentence "NAME …".
    pub fn problem(&mut self, name: &str, what: impl Display) {
        self.problems.push(Problem {
            name: name.to_owned(),
            what: what.to_string(),
        });
    }

    /// The end of reading: all problems, if there are any.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(self.problems))
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("POSTROAD_") || name == "DATABASE_URL" || name == "AMQP_URL"
}

/// A whole number and its unit: `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        "d" => seconds(24 * 60 * 60),
        _ => None,
    }
}

#[derive(Debug)]
struct Problem {
    name: String,
    what: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(Vec<Problem>);

impl ConfigError {
    /// One variable that turned out wrong later than at reading, such as a refused password.
    pub fn of(name: &str, what: impl Display) -> Self {
        Self(vec![Problem {
            name: name.to_owned(),
            what: what.to_string(),
        }])
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for Problem { name, what } in &self.0 {
            write!(f, "\n  {name} {}", one_line(what))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut env = Env::of_map([("A", "x"), ("B", "30"), ("C", "7"), ("D", "")]);
        let day = Duration::from_secs(86_400);
        assert_eq!(env.number("A", 5, 1, 9), 5);
        assert_eq!(env.duration("B", day, Duration::ZERO, day), day);
        assert_eq!(env.number("C", 5, 1, 9), 7);
        assert_eq!(env.number("D", 5, 1, 9), 5);
        let text = env.finish().unwrap_err().to_string();
        assert!(
            text.contains("\n  A must be a whole number from 1 to 9, not `x`"),
            "{text}"
        );
        assert!(
            text.contains("\n  B must be a duration with its unit"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn a_value_cannot_pass_for_another_problem() {
        let mut env = Env::of_map([("A", "x`\n  B is fine\u{1b}[1A")]);
        env.number("A", 5, 1, 9);
        let text = env.finish().unwrap_err().to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(parse_duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "5w",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(parse_duration("18446744073709551615d"), None);
    }
}
