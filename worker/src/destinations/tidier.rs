//! Forgets destinations without jobs, and says how many there are.

use std::convert::Infallible;
use std::time::Duration;

use postroad_common::service::{Progress, Service};

use super::Destinations;
use crate::metrics;

/// The service.
pub(crate) struct Tidier(pub(crate) Destinations);

impl Service for Tidier {
    const NAME: &'static str = "destinations";
    type Error = Infallible;

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run_once(&mut self) -> Result<Progress, Infallible> {
        let census = self.0.tidy();
        metrics::destinations("known", census.known);
        metrics::destinations("put_off", census.put_off);
        metrics::destinations("paused", census.paused);
        Ok(Progress::Idle)
    }
}
