//! Postgres restarts, crashes, loses backends, locks, and runs out of connections and disk.

use std::time::Duration;

use anyhow::Context as _;
use postroad_provision::Shutdown;
use postroad_tests::faults::postgres::{self, Exhausted, TableLock};

use super::{Acted, Acting, FaultRow, Field, Needs, Recovery, Tier, lasting};
use crate::stage::Stage;

pub(super) fn rows() -> Vec<FaultRow> {
    // What a worker had to write when Postgres went away it writes when it is back, so effects and
    // records stay together, unless the worker was called lost meanwhile.
    let row = |name, says, act| {
        FaultRow::new(name, says, act)
            .recovery(Recovery::Lease)
            .needs(Needs::Servers)
    };
    vec![
        row(
            "postgres-restart",
            "Postgres restarts cleanly, twice",
            |stage, servers| Box::pin(restart(stage, servers, Shutdown::Fast)),
        ),
        row(
            "postgres-crash",
            "Postgres shuts down immediately and recovers, twice",
            |stage, servers| Box::pin(restart(stage, servers, Shutdown::Immediate)),
        )
        .tier(Tier::Gate),
        row(
            "postgres-pause",
            "Postgres stands still (SIGSTOP) for longer than a lease",
            pause,
        ),
        row(
            "backend-crash",
            "kill -9 of one backend, which takes all others with it",
            backend_crash,
        ),
        row(
            "backend-storm",
            "every backend of the programs is terminated, ten times",
            storm,
        ),
        row(
            "locked-table",
            "somebody holds an exclusive lock on the jobs for 6 s",
            locked,
        ),
        row(
            "full-disk",
            "the disk of Postgres and RabbitMQ is full for 6 s",
            full_disk,
        )
        .tier(Tier::All)
        .recovery(Recovery::Missed)
        .needs(Needs::SmallDisk),
        row(
            "no-connections",
            "somebody else has all connections, and the programs' are closed",
            exhausted,
        ),
    ]
}

async fn restart(stage: &mut Stage, servers: &Field, how: Shutdown) -> anyhow::Result<Acted> {
    for _ in 0..2 {
        let fault = stage.begin("restart of Postgres", true);
        servers.lock().await.postgres().restart(how).await?;
        stage.end(fault);
        lasting(Duration::from_secs(2)).await;
    }
    Ok(Acted::Done)
}

fn pause<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("pause of Postgres", true);
        servers.lock().await.postgres().pause().await?;
        lasting(2 * stage.setup.lease).await;
        servers.lock().await.postgres().resume().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn backend_crash<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("crash of a backend", true);
        postgres::crash_backend(servers.lock().await.postgres()).await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn storm<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("terminated backends", true);
        for _ in 0..10 {
            postgres::terminate_backends(stage.cluster.database_url(), "postroad-").await?;
            lasting(Duration::from_millis(300)).await;
        }
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn locked<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("locked table", true);
        let lock = TableLock::hold(stage.cluster.database_url(), "postroad.job").await?;
        lasting(Duration::from_secs(6)).await;
        lock.release().await.context("releasing the lock")?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn exhausted<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("no connections", true);
        let url = stage.cluster.database_url().to_owned();
        let held = Exhausted::all_but(&url, 2).await?;
        postgres::terminate_backends(&url, "postroad-").await?;
        lasting(Duration::from_secs(5)).await;
        held.release().await.context("giving connections back")?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

/// Servers that cannot write their logs stop, or stand still, and do not get up by themselves. So
/// both are started again, as a supervisor would.
fn full_disk<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let disk = stage
            .disk
            .clone()
            .context("the servers live on a small disk")?;
        let fault = stage.begin("full disk", true);
        disk.fill()?;
        lasting(Duration::from_secs(6)).await;
        disk.free()?;
        servers.lock().await.postgres().kill().await?;
        servers.lock().await.postgres().start_again().await?;
        servers.lock().await.rabbitmq().kill().await?;
        servers.lock().await.rabbitmq().start_again().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}
