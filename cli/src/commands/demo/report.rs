//! The report: what arrived is counted by the provider, never by Postroad's own tables.

use std::time::Duration;

use anyhow::bail;
use postroad_common::job::JobId;
use postroad_common::store::{JobFilter, Store};

use super::simulator::SimulatorClient;
use crate::output;

const PAGE: i64 = 10_000;

/// The figures of a campaign.
pub(super) struct Report {
    accepted: u64,
    delivered: u64,
    lost: u64,
    duplicates: u64,
    held: u64,
    accept_time: Duration,
    drain_time: Duration,
}

impl Report {
    pub(super) async fn count(
        store: &Store,
        simulator: &SimulatorClient,
        accepted: u64,
        accept_time: Duration,
        drain_time: Duration,
    ) -> anyhow::Result<Self> {
        let counts = simulator.report().await?;
        let held = ids_in_state(store, "held").await?;
        let mut accounted = held.clone();
        for state in ["dead", "cancelled", "expired"] {
            accounted.extend(ids_in_state(store, state).await?);
        }
        let seen = simulator.seen(&accounted).await?.len() as u64;
        let unseen = accounted.len() as u64 - seen;
        Ok(Self {
            accepted,
            delivered: counts.delivered,
            lost: accepted.saturating_sub(counts.delivered + unseen),
            duplicates: counts.duplicates,
            held: held.len() as u64,
            accept_time,
            drain_time,
        })
    }

    /// To standard output, one `key=value` a line.
    pub(super) fn print(&self) {
        let Self {
            accepted,
            delivered,
            lost,
            duplicates,
            held,
            ..
        } = self;
        let drain = self.drain_time.as_secs_f64();
        let text = format!(
            "accepted={accepted}\ndelivered={delivered}\nlost={lost}\nduplicates={duplicates}\n\
             accept_seconds={:.2}\nheld={held}\n\
             drain_seconds={drain:.2}\njobs_per_second={:.0}\n",
            self.accept_time.as_secs_f64(),
            *delivered as f64 / drain
        );
        // Everything has to be stopped, whether anybody reads this or not.
        drop(output::print(&text));
    }

    /// Fails when anything was lost or arrived twice.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        match (self.lost, self.duplicates) {
            (0, 0) => Ok(()),
            (lost, duplicates) => bail!("{lost} lost, {duplicates} arrived twice"),
        }
    }
}

pub(super) async fn ids_in_state(store: &Store, state: &str) -> anyhow::Result<Vec<JobId>> {
    let mut ids = Vec::new();
    let mut filter = JobFilter {
        state: Some(state.to_owned()),
        limit: PAGE,
        ..JobFilter::default()
    };
    loop {
        let page = store.jobs(&filter).await?;
        ids.extend(page.iter().map(|job| job.id));
        match page.last() {
            Some(last) if page.len() as i64 == PAGE => filter.after = Some(*last.id.as_uuid()),
            _ => return Ok(ids),
        }
    }
}
