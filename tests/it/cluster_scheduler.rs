//! Any number of schedulers share the work; none of them is missed.

use anyhow::ensure;
use postroad_provision::Signal;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use postroad_tests::proxy::{Direction, Proxy};
use postroad_tests::simulator::{Behaviour, Latency};

const DISPATCHES: &str = "select min(dispatch), max(dispatch), max(attempt) from postroad.jobs";

#[tokio::test]
async fn two_schedulers_never_publish_one_job_twice() -> anyhow::Result<()> {
    let builder = Cluster::builder().schedulers(3).workers(2);
    let cluster = builder.lease("10s").start().await?;
    for _ in 0..3 {
        cluster.enqueue(&many_sms(1000)).await?;
    }

    cluster.wait_for("completed", 3000).await?;
    let row = &cluster.query(DISPATCHES, &[]).await?[0];
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1i64, 1i64, 1i32));
    assert_eq!(cluster.provider.report().delivered, 3000);
    cluster.finish().await
}

#[tokio::test]
async fn a_scheduler_that_is_asked_to_stop_leaves_no_claim_behind() -> anyhow::Result<()> {
    let builder = Cluster::builder().schedulers(2).workers(1);
    let mut cluster = builder.start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(std::time::Duration::from_millis(20)),
        ..Behaviour::default()
    })?;
    let leaving = cluster.scheduler(0);
    cluster
        .query("update postroad.queue set window_size = 100", &[])
        .await?;
    cluster.enqueue(&many_sms(1000)).await?;
    cluster
        .provider
        .wait_for(|report| report.delivered >= 200)
        .await?;

    let status = cluster.terminate(leaving).await?;

    assert_eq!(status.code(), Some(0));
    cluster.wait_for("completed", 1000).await?;
    let row = &cluster.query(DISPATCHES, &[]).await?[0];
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1i64, 1i64, 1i32));
    cluster.finish().await
}

/// A scheduler has claimed 50 jobs, and none of its messages reaches the broker.
async fn claimed_and_unpublished() -> anyhow::Result<(Cluster, Proxy)> {
    let mut cluster = Cluster::builder().schedulers(0).start().await?;
    let proxy = Proxy::start(cluster.amqp_addr()?)?;
    let scheduler = Program::scheduler().amqp_through(&proxy);
    cluster.start(scheduler).await?;
    proxy.stall(Direction::ToServer);
    cluster.enqueue(&many_sms(50)).await?;
    cluster.wait_for("dispatched", 50).await?;
    Ok((cluster, proxy))
}

#[tokio::test]
async fn a_scheduler_killed_between_claim_and_publish_loses_no_job() -> anyhow::Result<()> {
    let (mut cluster, proxy) = claimed_and_unpublished().await?;
    let killed = cluster.scheduler(0);
    cluster.kill(killed).await?;
    cluster.start_scheduler().await?;

    cluster.wait_for("completed", 50).await?;
    assert_eq!(cluster.provider.report().delivered, 50);
    // What it had written arrives at last, under a fence that is over.
    proxy.heal().await;
    eventually("the network has delivered everything", async || {
        ensure!(
            proxy.connections() == 0,
            "{} connections",
            proxy.connections()
        );
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_scheduler_that_slept_through_its_lease_publishes_in_vain() -> anyhow::Result<()> {
    let (mut cluster, proxy) = claimed_and_unpublished().await?;
    let sleeper = cluster.scheduler(0);
    cluster.signal(sleeper, Signal::STOP)?;
    cluster.start_scheduler().await?;
    cluster.wait_for("completed", 50).await?;

    proxy.heal().await;
    cluster.signal(sleeper, Signal::CONT)?;
    cluster
        .wait_for_log(sleeper, "called lost as process", 1)
        .await?;
    cluster.enqueue(&many_sms(50)).await?;

    cluster.wait_for("completed", 100).await?;
    assert_eq!(cluster.provider.report().requests, 100);
    cluster.check_runs(sleeper)?;
    cluster.finish().await
}
