//! What a rule may say. One variant here, and the compiler names every place that has to know it.

use jiff::civil::Date;

use super::value::Scalar;

/// One condition. Lists are not empty, and all values are good: [`super::Rule::parse`] sees to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Everybody.
    All,
    /// The attribute is this value.
    Equals {
        /// Its name.
        attribute: String,
        /// The value.
        value: Scalar,
    },
    /// The attribute is one of these values, which are of one type.
    In {
        /// Its name.
        attribute: String,
        /// The values.
        values: Vec<Scalar>,
    },
    /// The attribute lies between two bounds, both of which belong to it.
    Range {
        /// Its name.
        attribute: String,
        /// The bounds.
        range: Range,
    },
    /// The attribute is there, and is not null.
    Has {
        /// Its name.
        attribute: String,
    },
    /// Lives in one of these countries.
    Country(Vec<String>),
    /// Reads one of these languages, or a variety of it.
    Language(Vec<String>),
    /// Is so many years old.
    Age(Ages),
    /// Has one of these plans.
    Plan(Vec<String>),
    /// All of these.
    And(Vec<Self>),
    /// At least one of these.
    Or(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
}

/// Bounds of one kind; at least one is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Of numbers.
    Numbers {
        /// Not less.
        min: Option<f64>,
        /// Not more.
        max: Option<f64>,
    },
    /// Of moments, in microseconds since 1970.
    Instants {
        /// Not earlier.
        min: Option<i64>,
        /// Not later.
        max: Option<i64>,
    },
}

impl Range {
    /// Whether no value lies in both.
    pub(super) fn is_apart_from(&self, other: &Self) -> bool {
        fn apart<T: PartialOrd>(a: (Option<T>, Option<T>), b: (Option<T>, Option<T>)) -> bool {
            let above = |min: &Option<T>, max: &Option<T>| matches!((min, max), (Some(min), Some(max)) if min > max);
            above(&a.0, &b.1) || above(&b.0, &a.1)
        }
        match (*self, *other) {
            (Self::Numbers { min, max }, Self::Numbers { min: a, max: b }) => {
                apart((min, max), (a, b))
            }
            (Self::Instants { min, max }, Self::Instants { min: a, max: b }) => {
                apart((min, max), (a, b))
            }
            // A number is no moment.
            _ => true,
        }
    }
}

/// Ages in whole years, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// At least.
    pub min: i16,
    /// At most; none: any.
    pub max: Option<i16>,
}

impl Ages {
    /// Who has these ages on a day was born on the second of these dates or before, and after the
    /// first. Whoever was born on a 29 February gets older on 1 March where there is none.
    pub fn birth_dates(self, today: Date) -> (Option<Date>, Date) {
        let after = self.max.map(|max| years_before(today, max + 1));
        (after, years_before(today, self.min))
    }
}

/// The last day of birth of those who are at least so old. On a 29 February that is 28 February in
/// other years, after which nobody was born before March.
fn years_before(today: Date, years: i16) -> Date {
    let year = today.year().saturating_sub(years);
    let day = Date::new(year, today.month(), today.day());
    day.or_else(|_| Date::new(year, today.month(), 28))
        .unwrap_or(Date::MIN)
}
