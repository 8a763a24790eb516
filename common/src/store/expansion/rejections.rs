//! Why no jobs could be made of recipients: each reason once, with how many it was, so that a campaign
//! of millions says it in a few lines.

use serde::{Deserialize, Serialize};

use super::Rejected;

/// Reasons of one campaign. What is rejected for others still is counted together.
const REASONS_MAX: usize = 20;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 200;
const OTHER: &str = "for other reasons";

/// A reason, and whom it kept from getting anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rejection {
    /// What was wrong.
    pub reason: String,
    /// How many there were.
    pub recipients: i64,
    /// The key of the first of them; none: they were uploaded.
    pub example: Option<String>,
}

/// All of a campaign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Rejections(pub(in crate::store) Vec<Rejection>);

impl Rejections {
    /// As they are kept.
    pub(in crate::store) fn parse(json: &str) -> Self {
        Self(serde_json::from_str(json).unwrap_or_default())
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_else(|_| "[]".to_owned())
    }

    pub(super) fn add(&mut self, rejected: &[Rejected]) {
        for one in rejected {
            let reason: String = one.reason.chars().take(REASON_CHARS_MAX).collect();
            let of = |reason: &str| self.0.iter().position(|known| known.reason == reason);
            let place = of(&reason).or_else(|| of(OTHER).filter(|_| self.0.len() > REASONS_MAX));
            match place {
                Some(place) => self.0[place].recipients += 1,
                None => self.0.push(Rejection {
                    reason: match self.0.len() < REASONS_MAX {
                        true => reason,
                        false => OTHER.to_owned(),
                    },
                    recipients: 1,
                    example: one.key.clone(),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(n: usize, reason: &str) -> Rejected {
        Rejected {
            key: Some(format!("user-{n}")),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn each_reason_is_there_once_with_all_that_it_kept_out() {
        let mut all = Rejections::default();
        all.add(&[rejected(1, "a"), rejected(2, "b"), rejected(3, "a")]);
        all.add(&[rejected(4, "a")]);
        let told: Vec<_> = all
            .0
            .iter()
            .map(|one| (&*one.reason, one.recipients))
            .collect();
        assert_eq!(told, [("a", 3), ("b", 1)]);
        assert_eq!(all.0[0].example.as_deref(), Some("user-1"));
        assert_eq!(Rejections::parse(&all.to_json()), all);
    }

    #[test]
    fn however_many_reasons_there_are_they_stay_few_and_count_everybody() {
        let mut all = Rejections::default();
        let long = "é".repeat(REASON_CHARS_MAX);
        for n in 0..1000 {
            all.add(&[rejected(n, &format!("{n} {long}"))]);
        }
        assert_eq!(all.0.len(), REASONS_MAX + 1);
        let count: i64 = all.0.iter().map(|one| one.recipients).sum();
        assert_eq!(count, 1000);
        assert_eq!(all.0[REASONS_MAX].reason, OTHER);
        assert!(
            all.0
                .iter()
                .all(|one| one.reason.chars().count() <= REASON_CHARS_MAX)
        );
    }
}
