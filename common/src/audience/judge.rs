//! What a rule says of one recipient. `store::audience_sql` says the same of all of them.

use jiff::civil::Date;
use serde_json::Value;

use super::condition::{Condition, Range};
use super::recipient::Recipient;
use super::value::instant_of;
use super::{Rule, Scalar};

impl Rule {
    /// Whether the recipient is one of those that this picks on this day.
    pub fn matches(&self, recipient: &Recipient, today: Date) -> bool {
        self.condition.matches(recipient, today)
    }
}

impl Condition {
    /// Never deeper than [`super::DEPTH_MAX`].
    fn matches(&self, recipient: &Recipient, today: Date) -> bool {
        let one_of = |list: &[String], own: &Option<String>| {
            own.as_ref().is_some_and(|own| list.contains(own))
        };
        match self {
            Self::All => true,
            Self::Equals { attribute, value } => recipient
                .attribute(attribute)
                .is_some_and(|own| value.is(own)),
            Self::In { attribute, values } => recipient
                .attribute(attribute)
                .is_some_and(|own| values.iter().any(|value| value.is(own))),
            Self::Range { attribute, range } => recipient
                .attribute(attribute)
                .is_some_and(|own| range.holds(own)),
            Self::Has { attribute } => recipient.attribute(attribute).is_some(),
            Self::Country(countries) => one_of(countries, &recipient.country),
            Self::Language(languages) => recipient
                .language
                .as_ref()
                .is_some_and(|own| languages.iter().any(|language| is_variety(own, language))),
            Self::Age(ages) => recipient.birth_date.is_some_and(|born| {
                let (after, last) = ages.birth_dates(today);
                born <= last && after.is_none_or(|after| born > after)
            }),
            Self::Plan(plans) => one_of(plans, &recipient.plan),
            Self::And(all) => all.iter().all(|one| one.matches(recipient, today)),
            Self::Or(any) => any.iter().any(|one| one.matches(recipient, today)),
            Self::Not(one) => !one.matches(recipient, today),
        }
    }
}

impl Range {
    fn holds(&self, value: &Value) -> bool {
        fn between<T: PartialOrd>(value: T, min: Option<T>, max: Option<T>) -> bool {
            min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
        }
        match (*self, value) {
            (Self::Numbers { min, max }, Value::Number(number)) => number
                .as_f64()
                .is_some_and(|number| between(number, min, max)),
            (Self::Instants { min, max }, Value::String(text)) => {
                instant_of(text).is_some_and(|at| between(at, min, max))
            }
            _ => false,
        }
    }

    /// The same for a value of a rule.
    pub(super) fn holds_scalar(&self, value: &Scalar) -> bool {
        self.holds(&value.to_json())
    }
}

/// Whether `own` is `language` or, as `en-GB` is of `en`, a variety of it. Both are in their
/// canonical case.
pub(super) fn is_variety(own: &str, language: &str) -> bool {
    own.strip_prefix(language)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}
