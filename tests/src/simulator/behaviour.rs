//! How the simulated provider behaves: how long it takes, and how often it refuses or breaks.
//!
//! Pure: what to answer is a function of one random number, so that a seed decides a whole run.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use jiff::SignedDuration;
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// What the simulator does to requests; may be changed while it runs.
///
/// The rates are shares of requests, from 0 to 1, and together at most 1.
/// Fields left out of the JSON form have the values of [`Behaviour::default`].
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Behaviour")]
pub struct Behaviour {
    /// Time from taking a request to answering it: 50ms (or fixed:50ms), uniform:10ms..90ms,
    /// exp:50ms (mean), lognormal:50ms..400ms (median and 99th percentile), or hold (until
    /// `PUT /release`). Timers tick in milliseconds
    #[arg(long, value_name = "DISTRIBUTION", default_value = "0ms")]
    pub latency: Latency,
    /// Share of requests refused with 429 and Retry-After; they have no effect
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_429: f64,
    /// Share of requests refused with 503 and Retry-After; they have no effect
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_503: f64,
    /// Share of requests failed with 500; they have no effect
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_500: f64,
    /// Share of requests that take effect and whose connection is then reset instead of answered
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_reset: f64,
    /// Share of requests whose connection is reset before they take effect
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_reset_before: f64,
    /// Share of requests that take effect and whose answer breaks off in mid-body
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub rate_half: f64,
    /// What 429 and 503 say in Retry-After, rounded up to whole seconds
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    #[serde(with = "duration_text")]
    pub retry_after: Duration,
    /// Requests in flight at once; each one above is refused with 429 and counted as a violation
    #[arg(long, value_name = "N")]
    pub max_in_flight: Option<u64>,
    /// Answer 200 to a key seen before, without a second effect
    #[arg(long)]
    pub honour_idempotency: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Latency::Fixed(Duration::ZERO),
            rate_429: 0.0,
            rate_503: 0.0,
            rate_500: 0.0,
            rate_reset: 0.0,
            rate_reset_before: 0.0,
            rate_half: 0.0,
            retry_after: Duration::from_secs(1),
            max_in_flight: None,
            honour_idempotency: false,
        }
    }
}

impl Behaviour {
    /// Checks that the rates are shares and leave room for each other.
    pub fn check(&self) -> anyhow::Result<()> {
        let rates = self.rates();
        for (name, rate, _) in rates {
            ensure!(
                (0.0..=1.0).contains(&rate),
                "{name} is {rate}: not within 0 and 1"
            );
        }
        let sum: f64 = rates.iter().map(|(_, rate, _)| rate).sum();
        // Ten rates of 0.1 add up to a little more than 1.
        ensure!(sum <= 1.0 + 1e-9, "the rates add up to {sum}: more than 1");
        Ok(())
    }

    /// The answer for a number drawn evenly from 0..1.
    pub(super) fn answer(&self, draw: f64) -> Answer {
        let mut below = 0.0;
        for (_, rate, answer) in self.rates() {
            below += rate;
            if draw < below {
                return answer;
            }
        }
        Answer::Accepted
    }

    fn rates(&self) -> [(&'static str, f64, Answer); 6] {
        [
            ("rate_429", self.rate_429, Answer::TooMany),
            ("rate_503", self.rate_503, Answer::Unavailable),
            ("rate_500", self.rate_500, Answer::Failed),
            ("rate_reset", self.rate_reset, Answer::ResetAfter),
            (
                "rate_reset_before",
                self.rate_reset_before,
                Answer::ResetBefore,
            ),
            ("rate_half", self.rate_half, Answer::Half),
        ]
    }
}

/// How one request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200.
    Accepted,
    /// 429 with `Retry-After`.
    TooMany,
    /// 503 with `Retry-After`.
    Unavailable,
    /// 500.
    Failed,
    /// 413: the body is above the limit.
    TooLarge,
    /// A TCP reset, nothing done.
    ResetBefore,
    /// A TCP reset after the effect.
    ResetAfter,
    /// 200 after the effect, cut off in mid-body.
    Half,
}

impl Answer {
    /// Whether the provider does what the request asks for, whatever the client gets to know of it.
    pub(super) fn takes_effect(self) -> bool {
        matches!(self, Self::Accepted | Self::ResetAfter | Self::Half)
    }
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Latency {
    /// Always the same.
    Fixed(Duration),
    /// Evenly between the two.
    Uniform(Duration, Duration),
    /// Exponential with this mean: many quick, a few slow.
    Exp(Duration),
    /// Log-normal with this median and 99th percentile: the long tail of a real provider.
    LogNormal(Duration, Duration),
    /// No answer until [`Simulator::release`](super::Simulator::release).
    Hold,
}

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_9;

impl Latency {
    /// Draws a pause; `None` is [`Latency::Hold`].
    pub(super) fn draw(self, rng: &mut impl Rng) -> Option<Duration> {
        match self {
            Self::Fixed(pause) => Some(pause),
            Self::Uniform(from, to) => Some(from + (to - from).mul_f64(rng.random::<f64>())),
            Self::Exp(mean) => Some(mean.mul_f64(-positive(rng).ln())),
            Self::LogNormal(median, p99) => {
                let sigma = (p99.as_secs_f64() / median.as_secs_f64()).ln() / NORMAL_P99;
                Some(median.mul_f64((sigma * normal(rng)).exp()))
            }
            Self::Hold => None,
        }
    }
}

/// Evenly from 0 exclusive to 1 inclusive, so that it has a logarithm.
fn positive(rng: &mut impl Rng) -> f64 {
    1.0 - rng.random::<f64>()
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * positive(rng).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

impl FromStr for Latency {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once(':') {
            None if text == "hold" => Ok(Self::Hold),
            None => Ok(Self::Fixed(parse_duration(text)?)),
            Some(("fixed", pause)) => Ok(Self::Fixed(parse_duration(pause)?)),
            Some(("exp", mean)) => Ok(Self::Exp(parse_duration(mean)?)),
            Some(("uniform", range)) => {
                let (from, to) = parse_range(range)?;
                Ok(Self::Uniform(from, to))
            }
            Some(("lognormal", range)) => {
                let (median, p99) = parse_range(range)?;
                ensure!(!median.is_zero(), "the median must be above zero");
                Ok(Self::LogNormal(median, p99))
            }
            Some((name, _)) => {
                bail!("unknown latency {name:?}: use fixed, uniform, exp, lognormal or hold")
            }
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(pause) => write!(f, "fixed:{pause:?}"),
            Self::Uniform(from, to) => write!(f, "uniform:{from:?}..{to:?}"),
            Self::Exp(mean) => write!(f, "exp:{mean:?}"),
            Self::LogNormal(median, p99) => write!(f, "lognormal:{median:?}..{p99:?}"),
            Self::Hold => write!(f, "hold"),
        }
    }
}

impl TryFrom<String> for Latency {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Latency> for String {
    fn from(latency: Latency) -> Self {
        latency.to_string()
    }
}

fn parse_range(text: &str) -> anyhow::Result<(Duration, Duration)> {
    let (from, to) = text
        .split_once("..")
        .context("expected two durations: FROM..TO")?;
    let (from, to) = (parse_duration(from)?, parse_duration(to)?);
    ensure!(from <= to, "{from:?} is above {to:?}");
    Ok((from, to))
}

/// Reads `50ms`, `1.5s`, `2m`.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let signed: SignedDuration = text
        .parse()
        .with_context(|| format!("reading {text:?} as a duration such as 50ms"))?;
    Duration::try_from(signed).with_context(|| format!("{text:?} is below zero"))
}

/// A duration as people write it, in JSON.
mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:?}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).map_err(|error| D::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn latencies_read_back_as_they_are_written() {
        for text in [
            "0ms",
            "fixed:50ms",
            "uniform:10ms..90ms",
            "exp:1.5s",
            "lognormal:50ms..2s",
        ] {
            let latency: Latency = text.parse().unwrap();
            assert_eq!(
                latency.to_string().parse::<Latency>().unwrap(),
                latency,
                "{text}"
            );
        }
        assert_eq!("hold".parse::<Latency>().unwrap(), Latency::Hold);
        for text in [
            "",
            "fast",
            "uniform:90ms..10ms",
            "lognormal:0s..1s",
            "zipf:1s",
            "-5ms",
        ] {
            assert!(text.parse::<Latency>().is_err(), "{text:?} was read");
        }
    }

    #[test]
    fn drawn_latencies_have_the_quantiles_their_name_promises() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut check = |latency: &str, quantile: usize, low: u64, high: u64| {
            let latency: Latency = latency.parse().unwrap();
            let mut drawn: Vec<_> = (0..10_000)
                .map(|_| latency.draw(&mut rng).unwrap())
                .collect();
            drawn.sort_unstable();
            let found = drawn[quantile * 100];
            assert!(
                (millis(low)..millis(high)).contains(&found),
                "{latency}: {found:?}"
            );
        };
        check("fixed:50ms", 50, 50, 51);
        check("uniform:10ms..90ms", 50, 47, 53);
        check("uniform:10ms..90ms", 0, 10, 11);
        check("exp:50ms", 50, 32, 38);
        check("lognormal:50ms..400ms", 50, 46, 54);
        check("lognormal:50ms..400ms", 99, 330, 480);
    }

    #[test]
    fn rates_share_out_the_draws() {
        let behaviour = Behaviour {
            rate_429: 0.25,
            rate_half: 0.5,
            ..Behaviour::default()
        };
        behaviour.check().unwrap();
        assert_eq!(behaviour.answer(0.0), Answer::TooMany);
        assert_eq!(behaviour.answer(0.25), Answer::Half);
        assert_eq!(behaviour.answer(0.75), Answer::Accepted);
        assert!(
            Behaviour {
                rate_503: 1.5,
                ..Behaviour::default()
            }
            .check()
            .is_err()
        );
        assert!(
            Behaviour {
                rate_503: 0.6,
                rate_500: 0.6,
                ..Behaviour::default()
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn json_names_every_field_and_refuses_others() {
        let text = serde_json::to_string(&Behaviour::default()).unwrap();
        assert_eq!(
            serde_json::from_str::<Behaviour>(&text).unwrap(),
            Behaviour::default()
        );
        let given = r#"{"latency":"exp:5ms","retry_after":"3s","max_in_flight":8}"#;
        let read: Behaviour = serde_json::from_str(given).unwrap();
        assert_eq!(
            (read.retry_after, read.max_in_flight),
            (Duration::from_secs(3), Some(8))
        );
        assert!(serde_json::from_str::<Behaviour>(r#"{"rate_420":1}"#).is_err());
    }
}
