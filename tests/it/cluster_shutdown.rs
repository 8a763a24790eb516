//! A worker that is asked to stop finishes what runs, gives the rest back, and says no more than
//! it knows; an api finishes the requests that have begun.

use anyhow::ensure;
use futures_util::stream;
use postroad_common::store::Resolution;
use postroad_common::token::Permission;
use postroad_provision::Signal;
use postroad_tests::harness::api::Answer;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms, sms};
use postroad_tests::proxy::{Direction, Proxy};
use postroad_tests::simulator::{Behaviour, Latency};
use reqwest::{Body, Method};
use tokio::sync::mpsc;

fn hold() -> Behaviour {
    Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    }
}

#[tokio::test]
async fn a_worker_asked_to_stop_finishes_what_runs_and_gives_back_the_rest() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().prefetch(10).start().await?;
    let leaving = cluster.worker(0);
    cluster.provider.set(hold())?;
    cluster.enqueue(&many_sms(40)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 10)
        .await?;

    cluster.signal(leaving, Signal::TERM)?;
    cluster
        .wait_for_log(leaving, "finishing what is held", 1)
        .await?;
    cluster.start_worker().await?;
    cluster
        .provider
        .wait_for(|report| report.held == 20)
        .await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    assert_eq!(cluster.wait(leaving).await?.code(), Some(0));
    cluster.wait_for("completed", 40).await?;
    let rows = cluster
        .query("select max(attempt) from postroad.jobs", &[])
        .await?;
    assert_eq!(rows[0].get::<_, i32>(0), 1);
    assert_eq!(cluster.provider.report().requests, 40);
    cluster.finish().await
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_held_or_scheduled_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder()
        .env("POSTROAD_GRACE", "1s")
        .start()
        .await?;
    let leaving = cluster.worker(0);
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&[sms(), cluster.webhook()]).await?;
    cluster.provider.wait_for(|report| report.held == 2).await?;

    assert_eq!(cluster.terminate(leaving).await?.code(), Some(0));

    assert_eq!(cluster.job(ids[0]).await?.state, "held");
    let webhook = cluster.job(ids[1]).await?;
    let waits = ["scheduled", "dispatched"].contains(&webhook.state.as_str());
    assert!(waits && webhook.attempt == 0, "{webhook:?}");

    cluster.provider.set(Behaviour::default())?;
    cluster.start_worker().await?;
    assert_eq!(cluster.wait_for_job(ids[1], "completed").await?.attempt, 1);
    cluster
        .store
        .resolve(&ids[..1], Resolution::Completed)
        .await?;
    assert_eq!(cluster.provider.calls(&ids[0].to_string()).len(), 1);
    cluster.expect_duplicates(1);
    cluster.finish().await
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_grace() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder()
        .env("POSTROAD_GRACE", "1h")
        .start()
        .await?;
    let leaving = cluster.worker(0);
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;

    cluster.signal(leaving, Signal::TERM)?;
    cluster
        .wait_for_log(leaving, "finishing what is held", 1)
        .await?;
    assert_eq!(cluster.terminate(leaving).await?.code(), Some(0));

    assert_eq!(cluster.job(ids[0]).await?.state, "held");
    cluster.store.resolve(&ids, Resolution::Completed).await?;
    cluster.finish().await
}

/// Postgres is away while the worker's last outcomes would be written, and back a moment later.
#[tokio::test]
async fn a_job_whose_outcome_could_not_be_written_is_not_given_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    // A long lease, so that nobody else judges the job before the worker has ended.
    let worker = Program::worker()
        .postgres_through(&proxy)
        .env("POSTROAD_LEASE", "1h")
        .env("POSTROAD_GRACE", "1s");
    let worker = cluster.start(worker).await?;
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;

    proxy.stall(Direction::Both);
    cluster.provider.set(Behaviour::default())?;
    cluster.signal(worker, Signal::TERM)?;
    cluster.provider.release();
    cluster
        .wait_for_log(worker, "could not be written", 1)
        .await?;
    proxy.heal().await;
    cluster.wait(worker).await?;

    cluster.start_worker().await?;
    let neighbour = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for_job(neighbour[0], "completed").await?;
    cluster.wait_for_job(ids[0], "held").await?;
    assert_eq!(cluster.provider.report().requests, 2);
    cluster.store.resolve(&ids, Resolution::Completed).await?;
    cluster.finish().await
}

/// The gate has let the job start, its answer is lost, and the worker is asked to stop.
#[tokio::test]
async fn a_job_that_was_started_and_never_ran_is_given_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).lease("1h").start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let leaving = cluster
        .start(Program::worker().postgres_through(&proxy))
        .await?;
    // Every connection of the worker has prepared its statements.
    for round in 1..=40 {
        cluster.enqueue(&many_sms(5)).await?;
        cluster.wait_for("completed", 5 * round).await?;
    }
    proxy.stall(Direction::ToClient);
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for_job(ids[0], "running").await?;

    cluster.signal(leaving, Signal::TERM)?;
    cluster
        .wait_for_log(leaving, "finishing what is held", 1)
        .await?;
    proxy.cut().await;
    proxy.heal().await;
    assert_eq!(cluster.wait(leaving).await?.code(), Some(0));

    cluster.start_worker().await?;
    assert_eq!(cluster.wait_for_job(ids[0], "completed").await?.attempt, 1);
    assert_eq!(cluster.provider.calls(&ids[0].to_string()).len(), 1);
    cluster.finish().await
}

/// A batch is under way: its first line is answered, and its last one not sent.
#[tokio::test]
async fn an_api_asked_to_stop_finishes_the_request_under_way() -> anyhow::Result<()> {
    let builder = Cluster::builder().env("POSTROAD_GRACE", "10m");
    let mut cluster = builder.start().await?;
    let leaving = cluster.start(Program::api()).await?;
    let client = cluster
        .client(leaving, Some("acme"), &Permission::ALL)
        .await?;
    let (lines, sent) = mpsc::channel::<std::io::Result<&str>>(1);
    let body = stream::unfold(sent, async |mut sent| Some((sent.recv().await?, sent)));
    lines.send(Ok("this is no job\n")).await?;
    let batch = client.request(Method::POST, "/v1/jobs/batch");
    let batch = batch.header("content-type", "application/x-ndjson");
    let begun = batch.body(Body::wrap_stream(body)).send().await?;

    cluster.signal(leaving, Signal::TERM)?;
    eventually("nobody else is let in", async || {
        ensure!(client.get("/openapi.json").await.is_err(), "it answers");
        Ok(())
    })
    .await?;
    for _ in 0..2 {
        lines.send(Ok("{\"kind\":\"echo\"}\n")).await?;
    }
    drop(lines);

    let answer = Answer::of(begun).await?;
    let counts = answer.lines().pop().unwrap_or_default();
    assert_eq!(
        (
            &counts["accepted"],
            &counts["rejected"],
            &counts["complete"]
        ),
        (&2.into(), &1.into(), &true.into()),
        "{answer:?}"
    );
    assert_eq!(cluster.wait(leaving).await?.code(), Some(0));
    cluster.wait_for("completed", 2).await?;
    cluster.finish().await
}
