//! A provider that takes its time: how near to the arithmetic limit of prefetch by latency.

use std::time::Duration;

use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::Cluster;
use postroad_tests::simulator::{Behaviour, Latency};

use crate::ground::Ground;

pub(crate) const LATENCY: Duration = Duration::from_millis(50);
pub(crate) const IN_FLIGHT: u16 = 100;

/// Calls a second that can be made at most.
pub(crate) fn limit() -> f64 {
    f64::from(IN_FLIGHT) / LATENCY.as_secs_f64()
}

/// Webhooks a second through one worker.
pub(crate) async fn rate(ground: &Ground, jobs: usize) -> anyhow::Result<f64> {
    let cluster = ground
        .cluster(|builder| builder.workers(1).prefetch(IN_FLIGHT))
        .await?;
    let behaviour = Behaviour {
        latency: Latency::Fixed(LATENCY),
        ..Behaviour::default()
    };
    cluster.provider.set(behaviour)?;
    let jobs: Vec<NewJob> = (0..jobs).map(|_| cluster.webhook()).collect();
    for some in jobs.chunks(1000) {
        cluster.enqueue(some).await?;
    }
    cluster
        .wait_for("completed", i64::try_from(jobs.len())?)
        .await?;
    let rate = started(&cluster).await?;
    cluster.take_down().await?;
    Ok(rate)
}

/// Starts a second, between the first and the last.
async fn started(cluster: &Cluster) -> anyhow::Result<f64> {
    let sql =
        "select (count(*) - 1) / extract(epoch from max(started_at) - min(started_at))::float8
        from postroad.archive";
    Ok(cluster.query(sql, &[]).await?[0].get(0))
}
