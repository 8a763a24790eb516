//! What becomes of a job whose worker is lost while it runs is its kind's policy, never an
//! accident, and what a worker says late still counts as evidence.

use anyhow::ensure;
use postroad_common::job::JobId;
use postroad_common::store::Resolution;
use postroad_provision::Signal;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms, sms};
use postroad_tests::proxy::{Direction, Proxy};
use postroad_tests::simulator::{Behaviour, Latency};

fn hold() -> Behaviour {
    Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    }
}

fn calls(cluster: &Cluster, id: JobId) -> usize {
    cluster.provider.calls(&id.to_string()).len()
}

#[tokio::test]
async fn a_text_message_of_a_killed_worker_is_held_and_not_sent_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&many_sms(2)).await?;
    cluster.provider.wait_for(|report| report.held == 2).await?;

    let killed = cluster.worker(0);
    cluster.kill(killed).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.start_worker().await?;

    cluster.wait_for("held", 2).await?;
    let neighbour = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for_job(neighbour[0], "completed").await?;
    assert_eq!((calls(&cluster, ids[0]), calls(&cluster, ids[1])), (1, 1));

    // A person decides: the one was sent, the other may be sent again.
    cluster
        .store
        .resolve(&ids[..1], Resolution::Completed)
        .await?;
    cluster.store.resolve(&ids[1..], Resolution::Retry).await?;
    cluster.wait_for("completed", 3).await?;
    assert_eq!((calls(&cluster, ids[0]), calls(&cluster, ids[1])), (1, 2));
    cluster.expect_duplicates(1);
    cluster.finish().await
}

#[tokio::test]
async fn a_webhook_of_a_killed_worker_is_sent_again_under_the_same_key() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&[cluster.webhook()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;

    let killed = cluster.worker(0);
    cluster.kill(killed).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.start_worker().await?;
    cluster.set_backoff("webhook", "200 milliseconds").await?;

    let job = cluster.wait_for_job(ids[0], "completed").await?;
    assert_eq!(job.attempt, 2);
    assert_eq!(calls(&cluster, ids[0]), 2);
    assert!(
        job.error
            .is_some_and(|error| error.starts_with("worker_lost"))
    );
    cluster.expect_duplicates(1);
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_that_slept_through_its_lease_still_says_what_it_did() -> anyhow::Result<()> {
    let cluster = Cluster::builder().workers(2).start().await?;
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&many_sms(10)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 10)
        .await?;

    for worker in [cluster.worker(0), cluster.worker(1)] {
        cluster.signal(worker, Signal::STOP)?;
    }
    cluster.wait_for("held", 10).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    for worker in [cluster.worker(0), cluster.worker(1)] {
        cluster.signal(worker, Signal::CONT)?;
    }

    cluster.wait_for("completed", 10).await?;
    assert_eq!(cluster.provider.report().requests, 10);
    // Back under a new name, they go on.
    cluster.enqueue(&many_sms(10)).await?;
    cluster.wait_for("completed", 20).await?;
    assert_eq!(calls(&cluster, ids[0]), 1);
    cluster.finish().await
}

/// Between the gate's yes and the call a worker sleeps; meanwhile a person decides by what the
/// provider has, which is nothing, that the message may be sent again.
#[tokio::test]
async fn a_worker_that_slept_before_the_call_does_not_make_it_any_more() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let sleeps = Program::worker().env("POSTROAD_FAILPOINT", "gate.granted:stop@1");
    let worker = cluster.start(sleeps).await?;
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for("held", 1).await?;
    cluster.store.resolve(&ids, Resolution::Retry).await?;
    cluster.signal(worker, Signal::CONT)?;

    cluster.wait_for_job(ids[0], "completed").await?;
    assert_eq!(calls(&cluster, ids[0]), 1);
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_cut_off_from_postgres_writes_its_outcomes_when_it_is_back() -> anyhow::Result<()>
{
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let worker = cluster
        .start(Program::worker().postgres_through(&proxy))
        .await?;
    cluster.provider.set(hold())?;
    cluster.enqueue(&many_sms(10)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 10)
        .await?;

    proxy.cut().await;
    cluster.wait_for("held", 10).await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.wait_for_log(worker, "outcomes: ", 2).await?;
    proxy.heal().await;

    cluster.wait_for("completed", 10).await?;
    assert_eq!(cluster.provider.report().requests, 10);
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_without_postgres_starts_nothing_and_gives_nothing_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let worker = cluster
        .start(Program::worker().postgres_through(&proxy))
        .await?;
    proxy.cut().await;
    cluster.wait_for_log(worker, "heartbeat: ", 2).await?;
    cluster.enqueue(&many_sms(10)).await?;
    cluster.wait_for_log(worker, "gate: ", 2).await?;
    let (is_ready, page) = cluster.readyz(worker).await?;
    assert!(!is_ready && page["reasons"]["gate"].is_string(), "{page}");
    assert_eq!(cluster.provider.report().requests, 0);

    proxy.heal().await;
    cluster.wait_for("completed", 10).await?;
    assert_eq!(cluster.provider.report().requests, 10);
    cluster.finish().await
}

/// The gate has let the job start, but its answer comes after the worker was called lost.
#[tokio::test]
async fn a_verdict_that_comes_after_the_lease_starts_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let worker = cluster
        .start(Program::worker().postgres_through(&proxy))
        .await?;
    // Every connection of the worker has prepared its statements.
    for round in 1..=40 {
        cluster.enqueue(&many_sms(5)).await?;
        cluster.wait_for("completed", 5 * round).await?;
    }

    proxy.stall(Direction::ToClient);
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for_job(ids[0], "held").await?;
    proxy.heal().await;
    cluster
        .wait_for_log(worker, "called lost as process", 1)
        .await?;
    // The worker has seen the old verdict when it has started something newer.
    let newer = cluster.enqueue(&[sms()]).await?;
    cluster.wait_for_job(newer[0], "completed").await?;
    assert_eq!(calls(&cluster, ids[0]), 0);

    cluster.store.resolve(&ids, Resolution::Retry).await?;
    cluster.wait_for_job(ids[0], "completed").await?;
    eventually("the provider was called once", async || {
        ensure!(calls(&cluster, ids[0]) == 1);
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_killed_between_outcome_and_ack_repeats_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.amqp_addr()?)?;
    let program = Program::worker().amqp_through(&proxy);
    let worker = cluster.start(program).await?;
    cluster.provider.set(hold())?;
    cluster.enqueue(&many_sms(20)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 20)
        .await?;
    proxy.stall(Direction::ToServer);
    cluster.provider.release();
    cluster.wait_for("completed", 20).await?;
    cluster.kill(worker).await?;

    cluster.provider.set(Behaviour::default())?;
    let other = cluster.start_worker().await?;
    cluster
        .wait_for_log(other, "refused by the gate", 20)
        .await?;
    assert_eq!(cluster.provider.report().requests, 20);
    cluster.finish().await
}

#[tokio::test]
async fn a_failure_whose_dead_letter_is_lost_is_retried_all_the_same() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let proxy = Proxy::start(cluster.amqp_addr()?)?;
    let program = Program::worker().amqp_through(&proxy);
    let worker = cluster.start(program).await?;
    cluster.provider.set(Behaviour {
        rate_503: 1.0,
        ..hold()
    })?;
    cluster.enqueue(&many_sms(20)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 20)
        .await?;
    proxy.stall(Direction::ToServer);
    cluster.provider.release();
    cluster
        .provider
        .wait_for(|report| report.refused_503 == 20)
        .await?;
    cluster.provider.set(Behaviour::default())?;
    let noted = "select count(*) from postroad.attempt_error";
    eventually("the failures are written", async || {
        let count: i64 = cluster.query(noted, &[]).await?[0].get(0);
        ensure!(count == 20, "{count} are");
        Ok(())
    })
    .await?;
    cluster.kill(worker).await?;

    cluster.start_worker().await?;
    cluster.wait_for("completed", 20).await?;
    let rows = cluster
        .query("select min(attempt), max(attempt) from postroad.jobs", &[])
        .await?;
    assert_eq!((rows[0].get(0), rows[0].get(1)), (2i32, 2i32));
    cluster.finish().await
}
