//! The kill switch against running programs: what it names does not reach the provider any more,
//! wherever it is, and is all there when the stop is lifted.

use anyhow::ensure;
use postroad_common::store::{NewStop, Stop, StopMode, StopScope};
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use postroad_tests::simulator::{Behaviour, Latency, Report};

async fn stop(cluster: &Cluster, mode: StopMode) -> anyhow::Result<Stop> {
    let scope = StopScope {
        kind: Some("sms".to_owned()),
        ..StopScope::default()
    };
    let new = NewStop {
        scope: &scope,
        mode,
        reason: "everybody gets two",
    };
    let made = cluster.store.create_stop(&new).await?;
    made.map_err(|missing| anyhow::anyhow!("there is no {}", missing.as_str()))
}

fn slow(latency: Latency) -> Behaviour {
    Behaviour {
        latency,
        ..Behaviour::default()
    }
}

/// One worker that runs five at once, held in mid-call: the rest is in RabbitMQ and in Postgres.
async fn in_the_middle() -> anyhow::Result<Cluster> {
    const JOBS: usize = 3000;
    let mut cluster = Cluster::builder().workers(0).start().await?;
    cluster.provider.set(slow(Latency::Hold))?;
    let worker = Program::worker().env("POSTROAD_PREFETCH", 5);
    cluster.start(worker).await?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    let held = |report: &Report| report.held == 5;
    cluster.provider.wait_for(held).await?;
    eventually("the pipe is full", async || {
        let census = cluster.store.census().await?;
        ensure!(census.dispatched + census.running == 2000, "{census:?}");
        Ok(())
    })
    .await?;
    Ok(cluster)
}

#[tokio::test]
async fn nothing_more_reaches_the_provider_and_all_of_it_does_when_the_stop_is_lifted()
-> anyhow::Result<()> {
    let cluster = in_the_middle().await?;
    let made = stop(&cluster, StopMode::Pause).await?;
    let named = made.named.unwrap_or_default();
    assert_eq!(
        (named.waiting, named.in_pipe, named.too_late),
        (1000, 1995, 5)
    );

    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    eventually("the pipe is empty", async || {
        let now = cluster.store.find_stop(made.id).await?;
        let stopped = now.map(|one| one.stopped).unwrap_or_default();
        ensure!(stopped.all() == 2995, "{stopped:?}");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.provider.report().requests, 5, "those that ran");

    cluster.store.lift_stop(made.id).await?;
    cluster.wait_for("completed", 3000).await?;
    assert_eq!(cluster.provider.report().requests, 3000);
    cluster.finish().await
}

#[tokio::test]
async fn what_is_cancelled_in_the_middle_never_reaches_the_provider() -> anyhow::Result<()> {
    let cluster = in_the_middle().await?;
    let made = stop(&cluster, StopMode::Cancel).await?;

    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    eventually("nothing is left to be cancelled", async || {
        let now = cluster.store.find_stop(made.id).await?;
        ensure!(
            now.as_ref().is_some_and(|one| one.lifted_at.is_some()),
            "{now:?}"
        );
        Ok(())
    })
    .await?;

    cluster.wait_for("cancelled", 2995).await?;
    cluster.wait_for("completed", 5).await?;
    assert_eq!(cluster.provider.report().requests, 5);
    // What comes afterwards is not stopped.
    cluster.enqueue(&many_sms(10)).await?;
    cluster.wait_for("completed", 15).await?;
    cluster.finish().await
}

/// Every step of the schedulers' part is one transaction: whoever is left takes it up.
#[tokio::test]
async fn schedulers_that_die_in_the_middle_lose_and_double_nothing() -> anyhow::Result<()> {
    let mut cluster = in_the_middle().await?;
    let made = stop(&cluster, StopMode::Pause).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    let mut victim = cluster.scheduler(0);
    for part in [500, 1500] {
        eventually("some are set aside", async || {
            let now = cluster.store.find_stop(made.id).await?;
            let stopped = now.map(|one| one.stopped.all()).unwrap_or_default();
            ensure!(stopped >= part, "{stopped}");
            Ok(())
        })
        .await?;
        cluster.kill(victim).await?;
        victim = cluster.start_scheduler().await?;
    }
    cluster.store.lift_stop(made.id).await?;
    cluster.kill(victim).await?;
    cluster.start_scheduler().await?;

    cluster.wait_for("completed", 3000).await?;
    assert_eq!(cluster.provider.report().requests, 3000);
    cluster.finish().await
}
