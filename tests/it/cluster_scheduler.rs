//! Any number of schedulers share the work; none of them is missed.

use anyhow::{Context as _, ensure};
use postroad_common::job::JobId;
use postroad_common::store::Fenced;
use postroad_common::token::Permission;
use postroad_provision::Signal;
use postroad_tests::harness::broker::Forged;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use postroad_tests::proxy::{Direction, Proxy};
use postroad_tests::simulator::{Behaviour, Latency};
use reqwest::Method;
use serde_json::json;

const DISPATCHES: &str = "select min(dispatch), max(dispatch), max(attempt) from postroad.jobs";

#[tokio::test]
async fn two_schedulers_never_publish_one_job_twice() -> anyhow::Result<()> {
    let builder = Cluster::builder().schedulers(3).workers(0);
    let mut cluster = builder.lease("10s").start().await?;
    for _ in 0..2 {
        // What a slow gateway does not take would be dispatched again.
        let worker = Program::worker().env("POSTROAD_DESTINATION_MAX", 0);
        cluster.start(worker).await?;
    }
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
    let builder = Cluster::builder().schedulers(2).workers(0);
    let mut cluster = builder.lease("10s").start().await?;
    // What a slow gateway does not take would be dispatched again.
    let worker = Program::worker().env("POSTROAD_DESTINATION_MAX", 0);
    cluster.start(worker).await?;
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

#[tokio::test]
async fn a_queue_that_refuses_messages_loses_none() -> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(5).start().await?;
    cluster.vhost().limit_queues(5).await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let scheduler = cluster.scheduler(0);
    cluster.enqueue(&many_sms(100)).await?;
    cluster.provider.wait_for(|report| report.held == 5).await?;
    cluster.enqueue(&many_sms(100)).await?;
    cluster
        .wait_for_log(scheduler, "were not taken by the broker", 1)
        .await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    cluster.wait_for("completed", 200).await?;
    let report = cluster.provider.report();
    assert_eq!((report.requests, report.delivered), (200, 200));
    let row = &cluster.query(DISPATCHES, &[]).await?[0];
    assert!(row.get::<_, i64>(1) > 1, "nothing was refused");
    assert_eq!(row.get::<_, i32>(2), 1);
    cluster.finish().await
}

/// Postgres is away for this scheduler while letters wait in its hand.
#[tokio::test]
async fn dead_letters_wait_in_hand_until_postgres_is_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let scheduler = Program::scheduler().postgres_through(&proxy);
    let scheduler = cluster.start(scheduler).await?;
    proxy.cut().await;
    let unknown = Fenced {
        id: JobId::new(),
        dispatch: 1,
    };
    let unreadable = Forged {
        body: b"this is not JSON".to_vec(),
        ..Forged::of(unknown, "sms")
    };
    let stranger = cluster.vhost().stranger().await?;
    stranger.publish("default", &[unreadable]).await?;
    eventually("the letters were in vain three times", async || {
        let metrics = cluster.metrics(scheduler).await?;
        let errors = "postroad_service_errors_total{service=\"dead_letters\"} ";
        let (_, rest) = metrics.split_once(errors).context("none yet")?;
        let count: u64 = rest.lines().next().unwrap_or_default().parse()?;
        ensure!(count >= 3, "{count} times");
        Ok(())
    })
    .await?;
    proxy.heal().await;

    eventually("the letter is parked", async || {
        let parked = stranger.parked().await?;
        ensure!(parked.ready == 1, "{parked:?}");
        Ok(())
    })
    .await?;
    // It is counted after it is parked; delivered again it would count twice.
    let once = "postroad_dead_letters_total{reason=\"rejected\"} 1\n";
    eventually("the letter was handled once", async || {
        let metrics = cluster.metrics(scheduler).await?;
        ensure!(metrics.contains(once), "{metrics}");
        Ok(())
    })
    .await?;
    cluster.expect_parked(1);
    cluster.finish().await
}

/// Calls take a scheduler to their queue without a look; nothing else would wake this one for an hour.
#[tokio::test]
async fn a_queue_that_is_called_keeps_no_other_waiting() -> anyhow::Result<()> {
    // A scheduler whose heartbeat is late claims nothing, and this one would not look again.
    let builder = Cluster::builder().schedulers(0).workers(0).lease("30s");
    let mut cluster = builder.queues("default,sms").start().await?;
    let resting = Program::scheduler().env("POSTROAD_TEST_IDLE_REST", "1h");
    cluster.start(resting).await?;
    cluster.start(Program::worker()).await?;
    let api = cluster.start(Program::api()).await?;
    let client = cluster.client(api, Some("acme"), &Permission::ALL).await?;
    let mut completed = 0;
    // The second time its queue is known, and a call for it is a claim.
    for _ in 0..3 {
        client.post("/v1/jobs", &json!({"kind": "echo"})).await?;
        completed += 1;
        cluster.wait_for("completed", completed).await?;
    }
    let nobody_calls = "select postroad.enqueue('echo', '{}', queue => 'sms')";
    cluster.query(nobody_calls, &[]).await?;
    client.post("/v1/jobs", &json!({"kind": "echo"})).await?;
    cluster.wait_for("completed", completed + 2).await?;
    cluster.finish().await
}

/// By itself this scheduler would look again in an hour. A call that was missed while it began to
/// listen accounts for one job, and for no second one.
#[tokio::test]
async fn a_job_that_comes_over_http_calls_a_scheduler_that_rests() -> anyhow::Result<()> {
    let builder = Cluster::builder().schedulers(0).lease("30s");
    let mut cluster = builder.start().await?;
    let resting = Program::scheduler().env("POSTROAD_TEST_IDLE_REST", "1h");
    cluster.start(resting).await?;
    let api = cluster.start(Program::api()).await?;
    let client = cluster.client(api, Some("acme"), &Permission::ALL).await?;
    let (job, none) = (json!({"kind": "echo"}), json!({}));
    let schedule = json!({"name": "yearly", "cron": "@yearly", "kind": "echo"});
    client.post("/v1/schedules", &schedule).await?;

    let mut completed = 0;
    for _ in 0..3 {
        client.post("/v1/jobs", &job).await?;
        completed += 1;
        cluster.wait_for("completed", completed).await?;
        let (batch, lines) = ("/v1/jobs/batch", format!("{job}\n{job}\n"));
        client
            .raw(Method::POST, batch, "application/x-ndjson", lines)
            .await?;
        completed += 2;
        cluster.wait_for("completed", completed).await?;
        client.post("/v1/schedules/yearly/run", &none).await?;
        completed += 1;
        cluster.wait_for("completed", completed).await?;
    }
    cluster.finish().await
}
