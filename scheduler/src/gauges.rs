//! How much is where, as gauges, for whoever watches from outside.
//!
//! Every scheduler looks for itself, and so shows the same numbers as the others: take the maximum
//! over them, never the sum. What it shows while the database does not answer is the last it saw;
//! `/readyz` and `postroad_service_errors_total` say so.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store};

use crate::metrics;

const PERIOD: Duration = Duration::from_secs(5);
/// With very many queues and tenants a look takes longer, and is taken less often: at most a
/// twentieth of one connection's time.
const REST_PER_LOOK: u32 = 20;
/// Whoever scales by these cannot wait longer, also where one look was slow by chance.
const REST_MAX: Duration = Duration::from_secs(15);
/// Shown although none of it is there: that is what an alert waits for.
const ROLES: [&str; 2] = ["scheduler", "worker"];

/// The service.
pub struct Gauges {
    store: Store,
    /// Every role that has been shown: what is gone is zero, and not what it was.
    roles: BTreeSet<String>,
    rest: Duration,
}

impl Gauges {
    /// Over `store`.
    pub fn new(store: Store) -> Self {
        let roles = ROLES.map(str::to_owned).into();
        Self {
            store,
            roles,
            rest: PERIOD,
        }
    }
}

impl Service for Gauges {
    const NAME: &'static str = "gauges";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let started = Instant::now();
        let queues = self.store.queue_gauges().await?;
        self.rest = (started.elapsed() * REST_PER_LOOK).clamp(PERIOD, REST_MAX);
        queues.iter().for_each(metrics::queue);
        let processes = self.store.process_gauges().await?;
        self.roles
            .extend(processes.iter().map(|(role, _)| role.clone()));
        for role in &self.roles {
            let found = processes.iter().find(|(name, _)| name == role);
            metrics::processes(role, found.map_or(0, |(_, count)| *count));
        }
        for (mode, count) in self.store.stop_gauges().await? {
            metrics::stops(mode.as_str(), count);
        }
        for (state, count) in self.store.breaker_gauges().await? {
            metrics::breakers(state.as_str(), count);
        }
        Ok(Progress::Idle)
    }
}
