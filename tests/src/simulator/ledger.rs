//! What the provider has done so far: counts, and the keys it took effect for.
//!
//! The whole ledger sits behind one lock, so that every report is one consistent moment.

use std::collections::HashSet;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::behaviour::{Answer, Behaviour};
use super::record::Record;

/// What reached the provider and what became of it.
///
/// `requests` = `accepted` + `refused_429` + `refused_503` + `refused_413` + `failed_500` +
/// `resets` + `half_answers` + `abandoned` + those decided and not answered yet.
/// `effects` = `delivered` + `duplicates`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests read to their end; the lines of the record file.
    pub requests: u64,
    /// Requests answered 2xx.
    pub accepted: u64,
    /// Times the provider did what it was asked, whatever the client got to know of it.
    pub effects: u64,
    /// Distinct keys among the effects; each effect without a key counts as one of its own.
    pub delivered: u64,
    /// Effects beyond the first of their key.
    pub duplicates: u64,
    /// Requests without an idempotency key.
    pub without_key: u64,
    /// Repeats that had no second effect, with `honour_idempotency`.
    pub repeats_absorbed: u64,
    /// Requests that came while `max_in_flight` others were in flight; refused with 429.
    pub violations: u64,
    /// The most requests in flight at once, violations included.
    pub peak_in_flight: u64,
    /// Requests in flight now: from their head to their answer.
    pub in_flight: u64,
    /// Requests that `Latency::Hold` holds now.
    pub held: u64,
    /// Requests refused with 429, violations included.
    pub refused_429: u64,
    /// Requests refused with 503.
    pub refused_503: u64,
    /// Requests refused with 413.
    pub refused_413: u64,
    /// Requests failed with 500.
    pub failed_500: u64,
    /// Connections reset, before or after the effect.
    pub resets: u64,
    /// Answers broken off in mid-body.
    pub half_answers: u64,
    /// Requests whose client went away before the answer; the effect stands.
    pub abandoned: u64,
    /// When the first request came, in Unix seconds.
    pub first_at: Option<f64>,
    /// When the last request came, in Unix seconds.
    pub last_at: Option<f64>,
}

/// How one request is to be answered.
pub(super) struct Decision {
    pub(super) answer: Answer,
    pub(super) effect: bool,
    /// How long to wait before the answer; `None` = until released.
    pub(super) pause: Option<Duration>,
    pub(super) retry_after: Duration,
}

/// Counts, keys and the behaviour that decides about the next request.
pub(super) struct Ledger {
    pub(super) behaviour: Behaviour,
    counts: Report,
    effects: Effects,
    effects_without_key: u64,
    rng: SmallRng,
    /// Kept for tests only; the program would run out of memory.
    pub(super) records: Vec<Record>,
}

impl Ledger {
    pub(super) fn new(behaviour: Behaviour, seed: u64) -> Self {
        Self {
            behaviour,
            counts: Report::default(),
            effects: Effects::default(),
            effects_without_key: 0,
            rng: SmallRng::seed_from_u64(seed),
            records: Vec::new(),
        }
    }

    /// A request has come; says whether it is within the limit of requests in flight.
    pub(super) fn enter(&mut self) -> bool {
        self.counts.in_flight += 1;
        self.counts.peak_in_flight = self.counts.peak_in_flight.max(self.counts.in_flight);
        let within = self
            .behaviour
            .max_in_flight
            .is_none_or(|max| self.counts.in_flight <= max);
        self.counts.violations += u64::from(!within);
        within
    }

    /// Decides about a request that was read to its end, and takes the effect.
    ///
    /// `refusal` is an answer that is due whatever the rates say.
    pub(super) fn decide(&mut self, key: Option<Key>, refusal: Option<Answer>, t: f64) -> Decision {
        // Always the same number of draws, so that a seed gives the same answers whatever
        // the limits did.
        let drawn = self.behaviour.answer(self.rng.random());
        let pause = self.behaviour.latency.draw(&mut self.rng);
        let answer = refusal.unwrap_or(drawn);
        let effect = answer.takes_effect() && self.take_effect(key);
        self.counts.requests += 1;
        self.counts.without_key += u64::from(key.is_none());
        self.counts.first_at.get_or_insert(t);
        self.counts.last_at = Some(self.counts.last_at.map_or(t, |last| last.max(t)));
        let pause = if refusal.is_some() {
            Some(Duration::ZERO)
        } else {
            pause
        };
        self.counts.held += u64::from(pause.is_none());
        Decision {
            answer,
            effect,
            pause,
            retry_after: self.behaviour.retry_after,
        }
    }

    /// Says whether there was an effect: a repeated key has none where repeats are absorbed.
    fn take_effect(&mut self, key: Option<Key>) -> bool {
        match key {
            Some(key) if self.behaviour.honour_idempotency && self.effects.contains(key) => {
                self.counts.repeats_absorbed += 1;
                return false;
            }
            Some(key) => self.effects.add(key),
            None => self.effects_without_key += 1,
        }
        self.counts.effects += 1;
        true
    }

    /// A held request is held no more.
    pub(super) fn unhold(&mut self) {
        self.counts.held -= 1;
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        self.counts.in_flight -= 1;
        *match answer {
            Answer::Accepted => &mut self.counts.accepted,
            Answer::TooMany => &mut self.counts.refused_429,
            Answer::Unavailable => &mut self.counts.refused_503,
            Answer::Failed => &mut self.counts.failed_500,
            Answer::TooLarge => &mut self.counts.refused_413,
            Answer::ResetBefore | Answer::ResetAfter => &mut self.counts.resets,
            Answer::Half => &mut self.counts.half_answers,
        } += 1;
    }

    /// A client went away: before it had sent all of its request, or before it had its answer.
    pub(super) fn gone(&mut self, decided: bool) {
        self.counts.in_flight -= 1;
        self.counts.abandoned += u64::from(decided);
    }

    pub(super) fn seen(&self, key: Key) -> bool {
        self.effects.contains(key)
    }

    pub(super) fn report(&self) -> Report {
        let delivered = self.effects.distinct() + self.effects_without_key;
        Report {
            delivered,
            duplicates: self.counts.effects - delivered,
            ..self.counts.clone()
        }
    }
}

/// 16 bytes that stand for an idempotency key: a UUID itself, the start of the hash of others.
///
/// Bytes and not `u128`, whose alignment would waste a third of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    pub(super) fn of(text: &str) -> Self {
        if let Ok(uuid) = Uuid::try_parse(text) {
            return Self(uuid.into_bytes());
        }
        let hash: [u8; 32] = Sha256::digest(text).into();
        Self(std::array::from_fn(|at| hash[at]))
    }
}

/// Parts of the table of keys. A hash table grows by doubling, and holds both copies while it does:
/// in parts, only a part is held twice. Five, because 2,000,000 keys then end just below a doubling
/// (45 MB instead of 71).
const PARTS: usize = 5;

/// The keys that had an effect.
///
/// How often is not kept: the number of effects less the number of keys says how many doubled.
#[derive(Default)]
struct Effects {
    parts: [HashSet<Key>; PARTS],
}

impl Effects {
    fn add(&mut self, key: Key) {
        self.parts[part(key)].insert(key);
    }

    fn contains(&self, key: Key) -> bool {
        self.parts[part(key)].contains(&key)
    }

    fn distinct(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// By the last byte, which is random in a UUIDv7 too.
fn part(key: Key) -> usize {
    usize::from(key.0[15]) % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0199b7a0-0000-7000-8000-000000000001";

    fn ledger(behaviour: Behaviour) -> Ledger {
        Ledger::new(behaviour, 1)
    }

    #[test]
    fn a_key_is_the_same_however_it_is_written() {
        assert_eq!(Key::of(KEY), Key::of(&KEY.to_uppercase()));
        assert_ne!(Key::of("order-1"), Key::of("order-2"));
    }

    #[test]
    fn only_effects_are_delivered_and_only_their_repeats_are_duplicates() {
        let mut ledger = ledger(Behaviour::default());
        let keys = [Some("a"), Some("a"), Some("b"), None, None];
        for key in keys {
            ledger.decide(key.map(Key::of), None, 1.0);
        }
        ledger.decide(Some(Key::of("c")), Some(Answer::TooMany), 2.0);
        let report = ledger.report();
        assert_eq!((report.requests, report.effects), (6, 5));
        assert_eq!(
            (report.delivered, report.duplicates, report.without_key),
            (4, 1, 2)
        );
        assert_eq!((report.first_at, report.last_at), (Some(1.0), Some(2.0)));
        assert!(ledger.seen(Key::of("a")) && !ledger.seen(Key::of("c")));
    }

    #[test]
    fn a_repeat_is_absorbed_where_idempotency_is_honoured() {
        let honouring = Behaviour {
            honour_idempotency: true,
            ..Behaviour::default()
        };
        let mut ledger = ledger(honouring);
        assert!(ledger.decide(Some(Key::of("a")), None, 1.0).effect);
        let repeat = ledger.decide(Some(Key::of("a")), None, 1.0);
        assert_eq!((repeat.answer, repeat.effect), (Answer::Accepted, false));
        let report = ledger.report();
        assert_eq!(
            (report.delivered, report.duplicates, report.repeats_absorbed),
            (1, 0, 1)
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_answers() {
        let behaviour = Behaviour {
            rate_429: 0.3,
            rate_half: 0.3,
            ..Behaviour::default()
        };
        let answers = |seed| -> Vec<Answer> {
            let mut ledger = Ledger::new(behaviour.clone(), seed);
            (0..100)
                .map(|_| ledger.decide(None, None, 1.0).answer)
                .collect()
        };
        assert_eq!(answers(7), answers(7));
        assert_ne!(answers(7), answers(8));
    }
}
