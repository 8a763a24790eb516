//! Rules as conditions of SQL: fragments that are static text, and parameters. No text of a rule's
//! author ever becomes text of a statement.
//!
//! A fragment may be null where something is missing. `and` and `or` let a null be what false would
//! be to them, so it is enough that `not` and the end of a statement take it for false.
//! `store_audiences` holds this and `common::audience` to the same answers.

use jiff::civil::Date;
use serde_json::{Map, Value, json};
use tokio_postgres::types::{ToSql, Type};

use crate::audience::{Condition, Range, Rule, Scalar};

/// A list of up to so many values is asked for one by one, so that the index on attributes finds
/// each; a longer one is looked up for each recipient.
const IN_BY_INDEX_MAX: usize = 8;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Param {
    Text(String),
    OptionalText(Option<String>),
    Texts(Vec<String>),
    Day(Date),
    Tenant(i32),
    Number(i64),
    Ids(Vec<i64>),
}

impl Param {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Text(text) => (text, Type::TEXT),
            Self::OptionalText(text) => (text, Type::TEXT),
            Self::Texts(texts) => (texts, Type::TEXT_ARRAY),
            Self::Day(day) => (day, Type::DATE),
            Self::Tenant(id) => (id, Type::INT4),
            Self::Number(number) => (number, Type::INT8),
            Self::Ids(ids) => (ids, Type::INT8_ARRAY),
        }
    }
}

/// A statement in the making: static text, fragments, and what their numbers stand for.
pub(super) struct Statement {
    pub(super) text: String,
    params: Vec<Param>,
}

impl Statement {
    /// The beginning of a statement, which uses these parameters.
    pub(super) fn of(text: &'static str, params: Vec<Param>) -> Self {
        Self {
            text: text.to_owned(),
            params,
        }
    }

    /// Goes on with this text.
    pub(super) fn push(&mut self, text: &'static str) {
        self.text.push_str(text);
    }

    /// The parameters with their types: nothing has to be asked of Postgres first.
    pub(super) fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.params.iter().map(Param::typed).collect()
    }

    /// A place for a value, of the type that is written behind it.
    fn bind(&mut self, param: Param, type_of: &'static str) {
        self.params.push(param);
        let number = self.params.len().to_string();
        self.text.extend(["$", number.as_str(), type_of]);
    }

    /// Whether the recipient `r` is one of these.
    pub(super) fn one_of_ids(&mut self, ids: Vec<i64>) {
        self.push("r.id = any (");
        self.bind(Param::Ids(ids), ")");
    }

    /// Whether the recipient `r` is picked on this day: true, false or null.
    pub(super) fn condition(&mut self, rule: &Rule, today: Date) {
        self.node(rule.condition(), today);
    }

    /// Never deeper than rules may be.
    fn node(&mut self, condition: &Condition, today: Date) {
        match condition {
            Condition::All => self.push("true"),
            Condition::Equals { attribute, value } => self.contains(attribute, value),
            Condition::In { attribute, values } if values.len() <= IN_BY_INDEX_MAX => {
                self.joined(values, " or ", |statement, value| {
                    statement.contains(attribute, value);
                });
            }
            Condition::In { attribute, values } => {
                self.attribute("r.attributes", attribute);
                self.push(" = any (");
                let values = values.iter().map(|value| value.to_json().to_string());
                self.bind(Param::Texts(values.collect()), "::text[]::jsonb[])");
            }
            Condition::Range { attribute, range } => self.range(attribute, *range),
            Condition::Has { attribute } => {
                self.push("jsonb_typeof(");
                self.attribute("r.attributes", attribute);
                self.push(") <> 'null'");
            }
            Condition::Country(countries) => self.one_of("r.country", countries),
            Condition::Language(languages) => {
                self.push("(");
                self.one_of("r.language", languages);
                self.push(" or r.language like any (");
                // A tag has none of the characters that mean something to `like`.
                let varieties = languages.iter().map(|language| format!("{language}-%"));
                self.bind(Param::Texts(varieties.collect()), "))");
            }
            Condition::Age(ages) => {
                let (after, last) = ages.birth_dates(today);
                self.push("(r.birth_date <= ");
                self.bind(Param::Day(last), "");
                if let Some(after) = after {
                    self.push(" and r.birth_date > ");
                    self.bind(Param::Day(after), "");
                }
                self.push(")");
            }
            Condition::Plan(plans) => self.one_of("r.plan", plans),
            Condition::And(all) => {
                self.joined(all, " and ", |statement, one| statement.node(one, today));
            }
            Condition::Or(any) => {
                self.joined(any, " or ", |statement, one| statement.node(one, today));
            }
            Condition::Not(one) => {
                self.push("((");
                self.node(one, today);
                self.push(") is not true)");
            }
        }
    }

    fn joined<T>(&mut self, list: &[T], by: &'static str, write: impl Fn(&mut Self, &T)) {
        self.push("(");
        for (n, one) in list.iter().enumerate() {
            if n > 0 {
                self.push(by);
            }
            write(self, one);
        }
        self.push(")");
    }

    /// What an index finds. Numbers are equal as numbers, and no type is taken for another: of a
    /// list that holds the value this is false.
    fn contains(&mut self, attribute: &str, value: &Scalar) {
        self.push("r.attributes @> ");
        let object = Value::from_iter([(attribute, value.to_json())]);
        self.bind(Param::Text(object.to_string()), "::text::jsonb");
    }

    fn one_of(&mut self, column: &'static str, texts: &[String]) {
        self.push(column);
        self.push(" = any (");
        self.bind(Param::Texts(texts.to_vec()), ")");
    }

    fn attribute(&mut self, of: &'static str, name: &str) {
        self.push("(");
        self.push(of);
        self.push(" -> ");
        self.bind(Param::Text(name.to_owned()), ")");
    }

    /// Compares as jsonb, which puts numbers in the order of numbers and never fails.
    fn range(&mut self, attribute: &str, range: Range) {
        let (of, min, max) = match range {
            Range::Numbers { min, max } => {
                ("r.attributes", min.map(|n| json!(n)), max.map(|n| json!(n)))
            }
            Range::Instants { min, max } => {
                ("r.instants", min.map(|n| json!(n)), max.map(|n| json!(n)))
            }
        };
        self.push("(jsonb_typeof(");
        self.attribute(of, attribute);
        self.push(") = 'number'");
        for (bound, compared) in [(min, " >= "), (max, " <= ")] {
            let Some(bound) = bound else { continue };
            self.push(" and ");
            self.attribute(of, attribute);
            self.push(compared);
            self.bind(Param::Text(bound.to_string()), "::text::jsonb");
        }
        self.push(")");
    }
}

/// Attributes that every recipient whom a rule picks has, as a JSON object; none if it asks for no
/// such thing.
pub(super) fn required_attributes(rule: &Rule) -> Option<String> {
    fn collect(condition: &Condition, into: &mut Map<String, Value>) {
        match condition {
            Condition::Equals { attribute, value } => {
                into.insert(attribute.clone(), value.to_json());
            }
            Condition::And(all) => all.iter().for_each(|one| collect(one, into)),
            _ => {}
        }
    }
    let mut attributes = Map::new();
    collect(rule.condition(), &mut attributes);
    (!attributes.is_empty()).then(|| Value::from(attributes).to_string())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn no_text_of_a_rule_becomes_text_of_a_statement() {
        let hostile = "x') or true; drop table postroad.job; --";
        let rules = json!({"and": [
            {"equals": {"attribute": hostile, "value": hostile}},
            {"in": {"attribute": hostile, "values": [hostile]}},
            {"in": {"attribute": hostile, "values": vec![hostile; 20]}},
            {"range": {"attribute": hostile, "min": 1}},
            {"has": {"attribute": hostile}},
            {"not": {"plan": [hostile]}},
        ]});
        let rule = Rule::parse(&rules.to_string()).expect("attributes may have any name");
        let mut statement = Statement::of("", Vec::new());
        statement.condition(&rule, date(2024, 1, 1));
        assert!(!statement.text.contains("drop"), "{}", statement.text);
        assert!(!statement.text.contains("x'"), "{}", statement.text);
        assert_eq!(statement.text.matches('$').count(), statement.params.len());
    }
}
