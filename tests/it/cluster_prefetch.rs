//! How many jobs a worker runs at once, changed while it runs them.

use anyhow::ensure;
use postroad_tests::harness::cluster::{Cluster, Program, many_sms};
use postroad_tests::proxy::Proxy;
use postroad_tests::simulator::{Behaviour, Latency, Report};

async fn set(cluster: &Cluster, prefetch: &str) -> anyhow::Result<()> {
    let args = ["queues", "set", "default", "--prefetch", prefetch];
    let output = cluster.cli(&args).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// So many requests have come to the provider, and so many of them wait for its answer. None may for
/// longer than a gateway takes.
async fn runs(cluster: &Cluster, requests: u64, held: u64) -> anyhow::Result<()> {
    let is_so = |report: &Report| (report.requests, report.held) == (requests, held);
    cluster.provider.wait_for(is_so).await.map(drop)
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_no_job_runs_twice() -> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(2).start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(40)).await?;
    runs(&cluster, 2, 2).await?;
    set(&cluster, "10").await?;
    runs(&cluster, 10, 10).await?;

    set(&cluster, "3").await?;
    cluster
        .wait_for_log(cluster.worker(0), "3 jobs of default at once", 1)
        .await?;
    // What runs goes on, and three more wait for a place. What had been delivered beyond it has gone
    // back.
    cluster.wait_for_unacked(10 + 3).await?;
    runs(&cluster, 10, 10).await?;
    cluster.provider.release();
    runs(&cluster, 13, 3).await?;
    cluster.wait_for_unacked(3).await?;

    set(&cluster, "none").await?;
    cluster
        .wait_for_log(cluster.worker(0), "2 jobs of default at once", 1)
        .await?;
    cluster.provider.release();
    runs(&cluster, 15, 2).await?;

    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.wait_for("completed", 40).await?;
    let report = cluster.provider.report();
    assert_eq!((report.requests, report.delivered), (40, 40), "{report:?}");
    cluster.wait_for_unacked(0).await?;
    cluster.finish().await
}

/// The hint was there before the worker was, and changes while RabbitMQ is out of its reach.
#[tokio::test]
async fn a_change_that_comes_while_rabbitmq_is_gone_is_in_force_when_it_is_back()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).prefetch(50).start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(20)).await?;
    set(&cluster, "4").await?;
    let proxy = Proxy::start(cluster.amqp_addr()?)?;
    let worker = cluster
        .start(Program::worker().amqp_through(&proxy))
        .await?;
    runs(&cluster, 4, 4).await?;
    proxy.cut().await;
    set(&cluster, "7").await?;
    proxy.heal().await;
    cluster
        .wait_for_log(worker, "rabbitmq_consume: ready", 2)
        .await?;
    runs(&cluster, 7, 7).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.wait_for("completed", 20).await?;
    assert_eq!(cluster.provider.report().requests, 20);
    cluster.finish().await
}
