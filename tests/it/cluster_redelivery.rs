//! A message that comes again changes nothing.

use std::time::Duration;

use anyhow::ensure;
use postroad_common::broker::topology::work_queue;
use postroad_common::store::{Cursor, Ending, Fenced, Gate, GateVerdict, Outcome, Role, Wanted};
use postroad_tests::harness::broker::Forged;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually, many_sms, sms};
use postroad_tests::proxy::Proxy;
use postroad_tests::simulator::{Behaviour, Latency};

use crate::store_fixture::{AN_HOUR, register};

fn hold() -> Behaviour {
    Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    }
}

/// A worker behind a proxy to RabbitMQ, with twenty jobs under way.
async fn busy(prefetch: u16) -> anyhow::Result<(Cluster, Proxy, Id)> {
    let builder = Cluster::builder().workers(0).prefetch(prefetch);
    let mut cluster = builder.start().await?;
    let proxy = Proxy::start(cluster.amqp_addr()?)?;
    let worker = cluster
        .start(Program::worker().amqp_through(&proxy))
        .await?;
    cluster.provider.set(hold())?;
    cluster.enqueue(&many_sms(20)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 20)
        .await?;
    cluster.wait_for_unacked(20).await?;
    Ok((cluster, proxy, worker))
}

async fn check_each_ran_once(cluster: Cluster) -> anyhow::Result<()> {
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.wait_for("completed", 20).await?;
    let report = cluster.provider.report();
    assert_eq!((report.requests, report.delivered), (20, 20), "{report:?}");
    cluster.wait_for_unacked(0).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_redelivered_message_does_not_run_twice() -> anyhow::Result<()> {
    let (cluster, proxy, worker) = busy(50).await?;
    for times in 1..=3 {
        proxy.cut().await;
        proxy.heal().await;
        cluster
            .wait_for_log(worker, "rabbitmq_consume: ready", 1 + times)
            .await?;
    }
    let metrics = cluster.metrics(worker).await?;
    assert!(metrics.contains("postroad_redelivered_total"), "{metrics}");
    check_each_ran_once(cluster).await
}

/// The worker has room for no more, so it looks at the new deliveries only when one has ended.
#[tokio::test]
async fn a_redelivered_message_does_not_run_twice_where_every_place_is_taken() -> anyhow::Result<()>
{
    let (cluster, proxy, _) = busy(20).await?;
    proxy.cut().await;
    proxy.heal().await;
    check_each_ran_once(cluster).await
}

#[tokio::test]
async fn a_connection_closed_by_the_broker_is_opened_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().prefetch(30).start().await?;
    let worker = cluster.worker(0);
    cluster.provider.set(hold())?;
    cluster.enqueue(&many_sms(20)).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 20)
        .await?;

    let name = eventually("the management API knows the connection", async || {
        let names = cluster.vhost().connections("(consume)").await?;
        ensure!(names.len() == 1, "it knows {names:?}");
        Ok(names[0].clone())
    })
    .await?;
    cluster.vhost().close_connection(&name).await?;
    cluster
        .wait_for_log(worker, "rabbitmq_consume: ready", 2)
        .await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    cluster.wait_for("completed", 20).await?;
    cluster.check_runs(worker)?;
    assert_eq!(cluster.provider.report().requests, 20);
    cluster.finish().await
}

#[tokio::test]
async fn a_copy_of_a_message_changes_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::builder().workers(2).start().await?;
    cluster.provider.set(hold())?;
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;

    let job = Fenced {
        id: ids[0],
        dispatch: 1,
    };
    let copies = vec![Forged::of(job, "sms"); 500];
    let stranger = cluster.vhost().stranger().await?;
    stranger.publish("default", &copies).await?;
    eventually("the copies are taken", async || {
        let depth = stranger.depth(&work_queue("default")).await?;
        ensure!(depth.ready == 0, "{depth:?}");
        Ok(())
    })
    .await?;
    cluster.provider.set(Behaviour::default())?;
    stranger.publish("default", &copies).await?;
    cluster.provider.release();
    stranger.publish("default", &copies).await?;

    cluster.wait_for_job(ids[0], "completed").await?;
    stranger.publish("default", &copies).await?;
    assert_eq!(cluster.provider.report().requests, 1);
    cluster.finish().await
}

#[tokio::test]
async fn a_deleted_queue_is_made_again_and_its_jobs_run() -> anyhow::Result<()> {
    let builder = Cluster::builder().queues("default,other").prefetch(5);
    let cluster = builder.start().await?;
    cluster.set_pipe_ttl("1 second").await?;
    cluster.provider.set(hold())?;
    let mut jobs = many_sms(30);
    for job in &mut jobs[..15] {
        job.queue = "other".parse()?;
    }
    cluster.enqueue(&jobs).await?;
    cluster
        .provider
        .wait_for(|report| report.held == 10)
        .await?;

    cluster.vhost().delete_queue("other").await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    cluster.wait_for("completed", 30).await?;
    assert_eq!(cluster.provider.report().delivered, 30);
    cluster.finish().await
}

/// An old message lies beside the new one, so that a worker asks for both at once.
#[tokio::test]
async fn an_old_message_does_not_pass_the_gate_beside_the_new_one() -> anyhow::Result<()> {
    let cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let store = &cluster.store;
    let me = register(store, Role::Worker, AN_HOUR).await;
    let ids = cluster.enqueue(&[sms()]).await?;
    let [old, new] = [1, 2].map(|dispatch| Fenced {
        id: ids[0],
        dispatch,
    });
    let queue = store.due_queues(&[]).await?.remove(0);
    store
        .claim(&queue, Wanted::up_to(1), me, &Cursor::default())
        .await?;
    store.release(&[(old, Duration::ZERO)]).await?;
    store
        .claim(&queue, Wanted::up_to(1), me, &Cursor::default())
        .await?;

    let verdicts = store.gate(me, &[old, new, old]).await?;

    let start = GateVerdict::Start { attempt: 1 };
    let expected = vec![GateVerdict::Refused, start, GateVerdict::Refused];
    assert_eq!(verdicts, Gate::Judged(expected));
    let completed = Outcome {
        job: new,
        ending: Ending::Completed(None),
    };
    store.finish(&[completed]).await?;
    cluster.finish().await
}
