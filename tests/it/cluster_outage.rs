//! A server goes away in mid-run and comes back, with its data or without: nothing is lost,
//! nothing is done twice, and the programs go on by themselves.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use postroad_common::token::Permission;
use postroad_provision::{Options, Servers, Shutdown};
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Builder, Cluster, Id, Program, eventually, many_sms};
use postroad_tests::proxy::{Direction, Proxy};
use postroad_tests::simulator::{Behaviour, Latency};
use serde_json::{Value, json};

const JOBS: usize = 300;

/// Servers that this test may break, and a cluster on them in which 300 jobs are being worked off.
async fn busy(builder: Builder) -> anyhow::Result<(tempfile::TempDir, Servers, Cluster)> {
    let dir = tempfile::tempdir()?;
    let servers = Servers::start(Options::new(dir.path())).await?;
    let builder = builder.on(&servers).schedulers(2).workers(2);
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
    let (_dir, mut servers, cluster) = busy(Cluster::builder().as_broker_owner()).await?;
    servers.rabbitmq().wipe().await?;
    check_everything_was_done(cluster, JOBS).await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn servers_that_are_restarted_lose_nothing() -> anyhow::Result<()> {
    let (_dir, mut servers, cluster) = busy(Cluster::builder()).await?;
    servers.rabbitmq().restart().await?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    servers.postgres().restart(Shutdown::Fast).await?;
    cluster.enqueue(&many_sms(JOBS)).await?;
    servers.postgres().restart(Shutdown::Immediate).await?;
    check_everything_was_done(cluster, 3 * JOBS).await?;
    Ok(servers.stop().await?)
}

/// An api is patient for five seconds, and a call for ten; the rest is for a machine that is busy.
const ANSWER_MAX: Duration = Duration::from_secs(30);

async fn submit(api: &Api, jobs: &[Value]) -> anyhow::Result<Vec<Answer>> {
    let submitted = try_join_all(jobs.iter().map(|job| api.post("/v1/jobs", job)));
    tokio::time::timeout(ANSWER_MAX, submitted).await?
}

/// That no answer comes but that it is not possible now, and when to come again.
async fn check_unavailable(api: &Api, jobs: &[Value]) -> anyhow::Result<()> {
    for answer in submit(api, jobs).await? {
        answer.problem(503)?;
        ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    Ok(())
}

/// What is sent into a wire that carries nothing may arrive when nobody waits for it any more.
#[tokio::test]
async fn a_job_that_an_api_without_postgres_refused_is_taken_once_when_it_is_sent_again()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let proxy = Proxy::start(cluster.postgres_addr()?)?;
    let api = Program::api().postgres_through(&proxy);
    let api = cluster.start(api).await?;
    let client = cluster.client(api, Some("acme"), &Permission::ALL).await?;
    let mut completed = 0;
    for fault in ["cut", "stalled"] {
        let id = uuid::Uuid::now_v7();
        let jobs = [
            json!({"kind": "echo", "id": id}),
            json!({"kind": "echo", "dedup_key": fault}),
        ];
        match fault {
            "cut" => proxy.cut().await,
            _ => proxy.stall(Direction::Both),
        }
        check_unavailable(&client, &jobs).await?;
        proxy.heal().await;
        for status in [&[200, 201][..], &[200]] {
            eventually("the jobs are taken", async || {
                for answer in submit(&client, &jobs).await? {
                    ensure!(status.contains(&answer.status.as_u16()), "{answer:?}");
                }
                Ok(())
            })
            .await?;
        }
        completed += 2;
        cluster.wait_for("completed", completed).await?;
    }
    cluster.check_runs(api)?;
    cluster.finish().await
}
