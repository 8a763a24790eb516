//! A hundred small faults, and what the programs have grown by since.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_tests::faults::footprint::Footprint;
use postroad_tests::faults::{postgres, rabbitmq};
use postroad_tests::proxy::Direction;
use rand::RngExt as _;

use super::{Acted, Acting, FaultRow, Field, Needs, Recovery, lasting};
use crate::stage::{Role, Stage};

/// The run that looks for leaks.
pub const LEAKS: &str = "hundred-faults";

const CYCLES: usize = 100;
/// Buffers, caches and stacks have their full size after these.
const WARM_UP: usize = 20;
/// More than this share is a leak. Memory is never given back to the page: the allocator's slack
/// is granted beside it.
const GROWTH_MAX: f64 = 0.10;
const ALLOCATOR_SLACK_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// Everything that was broken has been rebuilt, and what was replaced has been closed.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            LEAKS,
            "a hundred resets and partitions; then memory, descriptors and connections as before",
            hundred,
        )
        .recovery(Recovery::Lease)
        .needs(Needs::Machine),
    ]
}

fn hundred<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        for _ in 0..WARM_UP {
            one(stage).await;
        }
        lasting(SETTLED_AFTER).await;
        let before = Size::of(stage, servers).await?;
        let after = after_a_hundred(stage, servers).await?;
        let Err(grown) = after.check(&before) else {
            return Ok(Acted::Done);
        };
        // An allocator that has not found its size yet stops growing; a leak does not.
        tracing::warn!("{grown:#}: looking whether it goes on");
        let later = after_a_hundred(stage, servers).await?;
        later
            .check(&after)
            .with_context(|| format!("a hundred faults earlier: {grown:#}"))?;
        Ok(Acted::Done)
    })
}

async fn after_a_hundred(stage: &mut Stage, servers: &Field) -> anyhow::Result<Size> {
    for _ in 0..CYCLES {
        one(stage).await;
    }
    lasting(SETTLED_AFTER).await;
    let size = Size::of(stage, servers).await?;
    tracing::info!("after {CYCLES} more faults: {size:?}");
    Ok(size)
}

/// Every second one of them cuts Postgres off from somebody for a moment.
async fn one(stage: &mut Stage) {
    let role = Role::ALL[stage.rng.random_range(0..3)];
    // An api has nothing to do with RabbitMQ.
    let is_postgres = role == Role::Api || stage.rng.random_range(0..2) == 0;
    let is_reset = stage.rng.random_range(0..2) == 0;
    let fault = stage.begin("small fault", is_postgres && role == Role::Worker);
    stage.partitions += 1;
    let wires = stage.wires(role);
    let proxy = if is_postgres {
        &wires.postgres
    } else {
        &wires.rabbitmq
    };
    if is_reset {
        proxy.reset_all();
    } else {
        proxy.stall(Direction::Both);
    }
    lasting(Duration::from_millis(150)).await;
    proxy.heal().await;
    stage.end(fault);
}

/// What all programs together take.
#[derive(Debug)]
struct Size {
    rss_bytes: f64,
    fds: f64,
    threads: f64,
    backends: f64,
    connections: f64,
}

impl Size {
    async fn of(stage: &Stage, servers: &Field) -> anyhow::Result<Self> {
        let mut size = Self {
            rss_bytes: 0.0,
            fds: 0.0,
            threads: 0.0,
            backends: 0.0,
            connections: 0.0,
        };
        for actor in &stage.actors {
            let Footprint {
                rss_bytes,
                fds,
                threads,
            } = stage.cluster.footprint(actor.id)?;
            size.rss_bytes += rss_bytes as f64;
            size.fds += fds as f64;
            size.threads += threads as f64;
        }
        let backends = postgres::backends(stage.cluster.database_url(), "postroad-").await?;
        let node = servers.lock().await.rabbitmq().control();
        let vhost = stage.cluster.vhost().name();
        size.backends = backends.len() as f64;
        size.connections = rabbitmq::connections(&node, vhost, "postroad-")
            .await?
            .len() as f64;
        Ok(size)
    }

    fn check(&self, before: &Self) -> anyhow::Result<()> {
        let memory_max = before.rss_bytes * (1.0 + GROWTH_MAX) + ALLOCATOR_SLACK_BYTES;
        ensure!(
            self.rss_bytes <= memory_max,
            "memory grew: {self:?}, before {before:?}"
        );
        // Pools open what they need: at most one more each is no leak.
        for (what, after, before) in [
            ("descriptors", self.fds, before.fds),
            ("threads", self.threads, before.threads),
            ("backends", self.backends, before.backends),
            ("connections", self.connections, before.connections),
        ] {
            let most = (before * (1.0 + GROWTH_MAX)).max(before + 4.0);
            ensure!(
                after <= most,
                "{what}: {after} after {CYCLES} faults, {before} before"
            );
        }
        Ok(())
    }
}
