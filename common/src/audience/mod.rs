//! Whom a message is for: recipients, rules that pick some of them, and what one rule says of one
//! recipient. Pure: no clock, no database.
//!
//! A rule is a tree of conditions. It is read once, with limits, and then judged in two ways: in
//! memory for one recipient ([`Rule::matches`]), and as a condition of SQL for all of them (`store`).
//! `store_audiences` (a test) holds the two to the same answer.
//!
//! The logic has two values. What is missing, or is of another type than a condition asks for, does
//! not match, and `not` of that matches.
//!
//! To add a condition: a variant of [`Condition`], and what the compiler then asks for: how it is
//! read (`parse`), judged (`judge`), and written in SQL (`store::audience_sql`).

mod condition;
mod invalid;
mod judge;
mod parse;
mod recipient;
mod value;
mod warnings;

pub use condition::{Ages, Condition, Range};
pub use invalid::Invalid;
pub(crate) use invalid::{read, step};
pub use parse::{AGE_MAX, DEPTH_MAX, NODES_MAX, RULES_BYTES_MAX, TEXT_BYTES_MAX, VALUES_MAX};
pub use recipient::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, ATTRIBUTES_BYTES_MAX, ATTRIBUTES_MAX, KEY_BYTES_MAX,
    NAME_CHARS_MAX, Recipient, RecipientInput, day_of, language,
};
pub use value::{INTEGER_MAX, NUMBER_MAX, NUMBER_MIN, Scalar, instant_of};
pub use warnings::Warning;

/// The path of the API that tries rules which are not kept: no audience can be called so.
const RESERVED: &str = "preview";

/// Rules that were read and found good.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    condition: Condition,
    json: String,
}

impl Rule {
    /// The tree.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The same as JSON on one line.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// Whether an audience may have this name: one as queues have, and not the API's own.
pub fn is_name(name: &str) -> bool {
    name.parse::<crate::job::KindName>().is_ok() && name != RESERVED
}

#[cfg(test)]
mod tests;
