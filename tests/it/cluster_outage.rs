//! A server goes away in mid-run and comes back, with its data or without: nothing is lost,
//! nothing is done twice, and the programs go on by themselves.

use std::time::Duration;

use postroad_provision::{Options, Servers, Shutdown};
use postroad_tests::harness::cluster::{Cluster, Id, many_sms};
use postroad_tests::simulator::{Behaviour, Latency};

const JOBS: usize = 300;

/// Servers that this test may break, and a cluster on them in which 300 jobs are being worked off.
async fn busy() -> anyhow::Result<(tempfile::TempDir, Servers, Cluster)> {
    let dir = tempfile::tempdir()?;
    let servers = Servers::start(Options::new(dir.path())).await?;
    let builder = Cluster::builder().on(&servers).schedulers(2).workers(2);
    let cluster = builder.prefetch(10).lease("10s").start().await?;
    cluster.set_pipe_ttl("2 seconds").await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(Duration::from_millis(200)),
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    cluster
        .provider
        .wait_for(|report| report.delivered >= 50)
        .await?;
    Ok((dir, servers, cluster))
}

async fn check_everything_was_done(mut cluster: Cluster, jobs: usize) -> anyhow::Result<()> {
    cluster.wait_for("completed", i64::try_from(jobs)?).await?;
    let programs: [Id; 4] = [
        cluster.scheduler(0),
        cluster.scheduler(1),
        cluster.worker(0),
        cluster.worker(1),
    ];
    for program in programs {
        cluster.check_runs(program)?;
        cluster.wait_until_ready(program).await?;
    }
    assert_eq!(cluster.provider.report().requests, u64::try_from(jobs)?);
    cluster.finish().await
}

#[tokio::test]
async fn a_wiped_rabbitmq_loses_nothing() -> anyhow::Result<()> {
    let (_dir, mut servers, cluster) = busy().await?;
    servers.rabbitmq().wipe().await?;
    check_everything_was_done(cluster, JOBS).await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn servers_that_are_restarted_lose_nothing() -> anyhow::Result<()> {
    let (_dir, mut servers, cluster) = busy().await?;
    servers.rabbitmq().restart().await?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    servers.postgres().restart(Shutdown::Fast).await?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    servers.postgres().restart(Shutdown::Immediate).await?;
    check_everything_was_done(cluster, 3 * JOBS).await?;
    Ok(servers.stop().await?)
}
