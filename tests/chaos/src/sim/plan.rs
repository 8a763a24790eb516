//! What a seed decides before anything begins.

use postroad_common::job::{QueueName, TenantName};

use super::Chance;
use super::model_store::Millis;

/// When every run begins.
pub(super) const EPOCH: Millis = 1_800_000_000_000;

/// Sizes, times and odds.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) jobs: usize,
    pub(super) workers: usize,
    pub(super) schedulers: usize,
    pub(super) tenants: Vec<TenantName>,
    pub(super) queues: Vec<QueueName>,
    pub(super) lease: Millis,
    pub(super) pipe_ttl: Millis,
    pub(super) prefetch: usize,
    pub(super) batch: i64,
    /// Until when jobs are submitted.
    pub(super) load_until: Millis,
    /// When things are broken.
    pub(super) faults_from: Millis,
    pub(super) faults_until: Millis,
    pub(super) faults: usize,
    /// Probability that a call to the database goes wrong, while things are broken.
    pub(super) trouble: f64,
    /// Probability that the broker doubles a message, or lets it overtake.
    pub(super) mischief: f64,
    /// Until when workers know one of the kinds only.
    pub(super) one_kind_until: Millis,
}

impl Plan {
    pub(super) fn of(chance: &mut Chance) -> Self {
        let name = |what: &str, n: usize| format!("{what}-{n}");
        let tenants = 1 + chance.below(4);
        let queues = 1 + chance.below(2);
        let faults_from = EPOCH + chance.between(3_000, 7_000);
        let faults_until = faults_from + chance.between(6_000, 20_000);
        let is_rare = chance.is(0.05);
        Self {
            jobs: 10 + chance.below(30),
            workers: 1 + chance.below(3),
            schedulers: 1 + chance.below(3),
            tenants: (0..tenants)
                .map(|n| name("tenant", n).parse().expect("is a name"))
                .collect(),
            queues: (0..queues)
                .map(|n| name("queue", n).parse().expect("is a name"))
                .collect(),
            lease: chance.between(3_000, 8_000),
            pipe_ttl: chance.between(1_500, 9_000),
            prefetch: 1 + chance.below(6),
            batch: chance.between(1, 12),
            load_until: EPOCH + chance.between(4_000, 15_000),
            faults_from,
            faults_until,
            faults: chance.below(8),
            trouble: *chance.one_of(&[0.0, 0.01, 0.04]),
            mischief: *chance.one_of(&[0.0, 0.0, 0.1]),
            one_kind_until: if is_rare { faults_from } else { 0 },
        }
    }
}
