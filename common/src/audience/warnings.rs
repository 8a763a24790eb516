//! Rules that are allowed and still cannot be meant: those that pick nobody.

use serde::Serialize;

use super::Rule;
use super::condition::Condition;
use super::invalid::step;
use super::judge::is_variety;

/// Something about rules that their author should look at. Only what is plain to see is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A JSON pointer to the place in the rules.
    pub pointer: String,
    /// What is odd there.
    pub detail: String,
}

impl Warning {
    /// The same, seen from what the rules are a part of.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

/// More than anybody reads.
const WARNINGS_MAX: usize = 20;

impl Rule {
    /// Conditions that exclude each other, though all of them are asked for.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        look(&self.condition, "", &mut warnings);
        warnings.truncate(WARNINGS_MAX);
        warnings
    }
}

fn look(condition: &Condition, at: &str, warnings: &mut Vec<Warning>) {
    match condition {
        Condition::And(all) => {
            let at = step(at, "and");
            let (mut flat, mut inner) = (Vec::new(), Vec::new());
            for (n, one) in all.iter().enumerate() {
                let at = step(&at, &n.to_string());
                flatten(one, &at, &mut flat);
                look(one, &at, &mut inner);
            }
            for (n, (one, _)) in flat.iter().enumerate() {
                // What an `and` inside has found already is not found again.
                let against = flat[n + 1..].iter().find(|(other, _)| exclude(one, other));
                if let Some((_, other)) = against {
                    let detail = format!(
                        "{} and {other} exclude each other: nobody can match both",
                        flat[n].1
                    );
                    if !inner
                        .iter()
                        .any(|warning: &Warning| warning.detail == detail)
                    {
                        warnings.push(Warning {
                            pointer: at.clone(),
                            detail,
                        });
                    }
                }
            }
            warnings.append(&mut inner);
        }
        Condition::Or(any) => {
            let at = step(at, "or");
            for (n, one) in any.iter().enumerate() {
                look(one, &step(&at, &n.to_string()), warnings);
            }
        }
        Condition::Not(one) => look(one, &step(at, "not"), warnings),
        _ => {}
    }
}

/// What must hold for an `and` to hold, with its place.
fn flatten<'a>(condition: &'a Condition, at: &str, into: &mut Vec<(&'a Condition, String)>) {
    let Condition::And(all) = condition else {
        return into.push((condition, at.to_owned()));
    };
    let at = step(at, "and");
    for (n, one) in all.iter().enumerate() {
        flatten(one, &step(&at, &n.to_string()), into);
    }
}

/// Whether it is plain that nobody matches both.
fn exclude(one: &Condition, other: &Condition) -> bool {
    use Condition::{Age, Country, Equals, Has, In, Language, Not, Plan, Range};
    fn apart<T: PartialEq>(one: &[T], other: &[T]) -> bool {
        !one.iter().any(|value| other.contains(value))
    }
    match (one, other) {
        (Not(inner), other) | (other, Not(inner)) if **inner == *other => true,
        (Not(inner), other) | (other, Not(inner)) => match (&**inner, other) {
            // Each of these asks for the attribute to be there.
            (
                Has { attribute: a },
                Equals { attribute: b, .. } | In { attribute: b, .. } | Range { attribute: b, .. },
            ) => a == b,
            _ => false,
        },
        (
            Equals {
                attribute: a,
                value: x,
            },
            Equals {
                attribute: b,
                value: y,
            },
        ) => a == b && x != y,
        (
            Equals {
                attribute: a,
                value,
            },
            In {
                attribute: b,
                values,
            },
        )
        | (
            In {
                attribute: b,
                values,
            },
            Equals {
                attribute: a,
                value,
            },
        ) => a == b && !values.contains(value),
        (
            In {
                attribute: a,
                values: x,
            },
            In {
                attribute: b,
                values: y,
            },
        ) => a == b && apart(x, y),
        (
            Equals {
                attribute: a,
                value,
            },
            Range {
                attribute: b,
                range,
            },
        )
        | (
            Range {
                attribute: b,
                range,
            },
            Equals {
                attribute: a,
                value,
            },
        ) => a == b && !range.holds_scalar(value),
        (
            Range {
                attribute: a,
                range: x,
            },
            Range {
                attribute: b,
                range: y,
            },
        ) => a == b && x.is_apart_from(y),
        (Country(x), Country(y)) | (Plan(x), Plan(y)) => apart(x, y),
        (Language(x), Language(y)) => !x
            .iter()
            .any(|a| y.iter().any(|b| is_variety(a, b) || is_variety(b, a))),
        (Age(x), Age(y)) => {
            x.max.is_some_and(|max| max < y.min) || y.max.is_some_and(|max| max < x.min)
        }
        _ => false,
    }
}
