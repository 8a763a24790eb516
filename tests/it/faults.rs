//! The faults bite: each is put in force on the real thing, seen from outside, and healed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use postroad_common::broker::topology::work_queue;
use postroad_common::store::Fenced;
use postroad_provision::{Options, PgBouncer, PoolMode, Processes, Servers, Signal};
use postroad_tests::faults::clock::FakeClock;
use postroad_tests::faults::disk::{Possible, SmallDisk};
use postroad_tests::faults::footprint::Footprint;
use postroad_tests::faults::postgres::{
    Exhausted, TableLock, backends, crash_backend, terminate_backends,
};
use postroad_tests::faults::rabbitmq::{
    Alarm, churn, clear, close_connections, connections, depths, is_raised, raise,
    set_consumer_timeout,
};
use postroad_tests::harness::broker::{Forged, Vhost};
use postroad_tests::harness::cluster::{Cluster, Program, eventually, sms};
use postroad_tests::simulator::{Behaviour, Latency};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

/// For what must not happen while a fault is in force: there is no condition to wait for.
const WHILE_BROKEN: Duration = Duration::from_millis(700);

/// Runs a statement over a connection of its own.
async fn sql(url: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(async { drop(connection.await) });
    let done = client.batch_execute(statement).await;
    drop(client);
    connection.abort();
    done
}

/// Puts one message into a queue of jobs.
async fn publish(vhost: &Vhost, queue: &str) -> anyhow::Result<()> {
    let job = Fenced {
        id: sms().id,
        dispatch: 1,
    };
    let stranger = vhost.stranger().await?;
    stranger.publish(queue, &[Forged::of(job, "sms")]).await
}

async fn is_stuck<T>(call: impl Future<Output = anyhow::Result<T>>) -> bool {
    tokio::time::timeout(WHILE_BROKEN, call).await.is_err()
}

#[tokio::test]
async fn a_rabbitmq_can_be_broken_in_every_way_and_healed() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut servers = Servers::start(Options::new(dir.path())).await?;
    let mut cluster = Cluster::builder().on(&servers).workers(0).start().await?;
    let vhost = cluster.vhost().clone();
    let node = servers.rabbitmq().control();
    // A worker has been here, and leaves its queue to us.
    let worker = cluster.start_worker().await?;
    cluster.terminate(worker).await?;

    let queue = work_queue("default");
    let ready = async || -> anyhow::Result<u64> {
        let depths = depths(&node, vhost.name()).await?;
        Ok(depths.get(&queue).context("the queue is there")?.ready)
    };
    let before = ready().await?;
    publish(&vhost, "default").await?;
    ensure!(ready().await? == before + 1, "counts are exact");

    ensure!(close_connections(&node, vhost.name(), "postroad-scheduler").await? >= 2);
    churn(&vhost, 10, 3).await?;
    ensure!(
        connections(&node, vhost.name(), "stranger")
            .await?
            .is_empty()
    );

    servers.rabbitmq().pause().await?;
    ensure!(is_stuck(vhost.stranger()).await, "a paused node answers");
    servers.rabbitmq().resume().await?;
    publish(&vhost, "default").await?;

    servers.rabbitmq().kill().await?;
    ensure!(vhost.stranger().await.is_err(), "a dead node answers");
    servers.rabbitmq().start_again().await?;
    eventually("the queue is back with what was in it", async || {
        let (kept, had) = (ready().await?, before + 2);
        ensure!(kept == had, "{kept} of {had} are left");
        Ok(())
    })
    .await?;

    // Last: what is published meanwhile may arrive later.
    for alarm in [Alarm::Memory, Alarm::Disk] {
        raise(&node, alarm).await?;
        ensure!(is_stuck(publish(&vhost, "default")).await, "{alarm:?}");
        clear(&node, alarm).await?;
        ensure!(!is_raised(&node, alarm).await?, "{alarm:?}");
        publish(&vhost, "default").await?;
    }
    vhost.delete_queue("default").await?;
    cluster.finish().await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn a_consumer_that_takes_too_long_loses_its_channel() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut servers = Servers::start(Options::new(dir.path())).await?;
    let node = servers.rabbitmq().control();
    set_consumer_timeout(&node, Duration::from_secs(1)).await?;
    let cluster = Cluster::builder().on(&servers).start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(Duration::from_secs(6)),
        ..Behaviour::default()
    })?;
    cluster.enqueue(&[sms()]).await?;
    eventually("the message is in the worker's hands", async || {
        let depths = depths(&node, cluster.vhost().name()).await?;
        let depth = depths[&work_queue("default")];
        ensure!(depth.unacked == 1, "it is {depth:?}");
        Ok(())
    })
    .await?;
    cluster
        .wait_for_log(cluster.worker(0), "PRECONDITION", 1)
        .await?;
    cluster.wait_for("completed", 1).await?;
    ensure!(cluster.provider.report().requests == 1, "it was run twice");
    cluster.finish().await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn a_postgres_can_be_broken_in_every_way_and_healed() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options {
        postgres: vec![("max_connections".to_owned(), "40".to_owned())],
        ..Options::new(dir.path())
    };
    let mut servers = Servers::start(options).await?;
    let cluster = Cluster::builder().on(&servers).start().await?;
    let url = servers.database_url().to_owned();
    cluster.enqueue(&[sms()]).await?;
    cluster.wait_for("completed", 1).await?;

    let lock = TableLock::hold(&url, "postroad.job").await?;
    let look = async || Ok(sql(&url, "select from postroad.job").await?);
    ensure!(is_stuck(look()).await, "a locked table is read");
    lock.release().await?;
    look().await?;

    ensure!(!backends(&url, "postroad-worker").await?.is_empty());
    ensure!(terminate_backends(&url, "postroad-worker").await? >= 1);

    // More than both programs may take for themselves.
    let spared = Exhausted::all_but(&url, 15).await?;
    sql(&url, "select").await.context("connections are left")?;
    spared.release().await?;
    let exhausted = Exhausted::all_but(&url, 0).await?;
    let refused = sql(&url, "select")
        .await
        .expect_err("no connection is left");
    ensure!(refused.code() == Some(&SqlState::TOO_MANY_CONNECTIONS));
    ensure!(exhausted.held() > 10);
    exhausted.release().await?;
    sql(&url, "select").await?;

    servers.postgres().pause().await?;
    ensure!(is_stuck(look()).await, "a paused server answers");
    servers.postgres().resume().await?;
    look().await?;

    crash_backend(servers.postgres()).await?;
    servers.postgres().kill().await?;
    ensure!(look().await.is_err(), "a dead server answers");
    servers.postgres().start_again().await?;
    cluster.enqueue(&[sms()]).await?;
    cluster.wait_for("completed", 2).await?;
    cluster.finish().await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn servers_on_a_full_disk_refuse_and_go_on_when_there_is_room() -> anyhow::Result<()> {
    let disk = match SmallDisk::mount(256 << 20)? {
        Possible::Here(disk) => disk,
        Possible::NotHere(why) => {
            eprintln!("SKIPPED: no disk to fill here: {why}");
            return Ok(());
        }
    };
    let mut servers = Servers::start(Options::new(disk.path().join("servers"))).await?;
    let url = servers.database_url().to_owned();
    let node = servers.rabbitmq().control();
    sql(&url, "create table ballast (text text)").await?;
    disk.fill()?;
    eventually("RabbitMQ sees its disk full", async || {
        ensure!(is_raised(&node, Alarm::Disk).await?, "it does not");
        Ok(())
    })
    .await?;
    let write = "insert into ballast select repeat('x', 1000) from generate_series(1, 60000)";
    ensure!(sql(&url, write).await.is_err(), "a full disk takes 60 MB");

    disk.free()?;
    eventually("RabbitMQ sees room again", async || {
        ensure!(!is_raised(&node, Alarm::Disk).await?, "it does not");
        Ok(())
    })
    .await?;
    // Without room for its log Postgres may have given up.
    if sql(&url, "select").await.is_err() {
        servers.postgres().kill().await?;
        servers.postgres().start_again().await?;
    }
    sql(&url, "insert into ballast values ('x')").await?;
    Ok(servers.stop().await?)
}

#[tokio::test]
async fn a_program_lives_by_the_clock_that_it_is_given() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let clock = FakeClock::new().await?;
    clock.set(10 * 365 * 86_400)?;
    let worker = cluster.start(Program::worker().clock(&clock)).await?;
    let month_in = |years: i64| {
        let then = Timestamp::now() + SignedDuration::from_hours(years * 365 * 24);
        then.to_string()[..7].to_owned()
    };
    let (then, long_ago) = (month_in(10), month_in(-10));
    ensure!(
        cluster.log(worker).contains(&then),
        "no {then}-… in its log"
    );
    clock.set(-10 * 365 * 86_400)?;
    cluster.signal(worker, Signal::TERM)?;
    ensure!(cluster.wait(worker).await?.success());
    let log = cluster.log(worker);
    ensure!(log.contains(&long_ago), "no {long_ago}-… in {log}");
    cluster.finish().await
}

#[tokio::test]
async fn a_program_is_paused_measured_and_killed_with_its_like() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(2).start().await?;
    let [first, second] = [cluster.worker(0), cluster.worker(1)];
    let Footprint {
        rss_bytes,
        fds,
        threads,
    } = cluster.footprint(first)?;
    ensure!(rss_bytes > 1 << 20 && fds > 5 && threads > 1);

    cluster.pause(first).await?;
    let deaf = async || cluster.readyz(first).await;
    ensure!(is_stuck(deaf()).await, "a paused program answers");
    cluster.resume(first).await?;
    cluster.readyz(first).await?;

    let killed = cluster.kill_all("postroad-worker").await?;
    ensure!(killed == [first, second]);
    ensure!(
        cluster.footprint(first).is_err(),
        "a dead program has files"
    );
    cluster.finish().await
}

/// A pooler before a cluster's database, in a directory of its own.
struct Pooled {
    _dir: tempfile::TempDir,
    _processes: Processes,
    pooler: PgBouncer,
}

async fn pooled(cluster: &Cluster, mode: PoolMode, ignored: &[&str]) -> anyhow::Result<Pooled> {
    let dir = tempfile::tempdir()?;
    let processes = Processes::open(dir.path()).await?;
    let pooler = PgBouncer::start(&processes, cluster.database_url(), mode, ignored).await?;
    Ok(Pooled {
        _dir: dir,
        _processes: processes,
        pooler,
    })
}

#[tokio::test]
async fn a_pooler_that_keeps_the_settings_to_itself_is_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let poolers = [
        pooled(&cluster, PoolMode::Transaction, &[]).await?,
        pooled(&cluster, PoolMode::Transaction, &["options"]).await?,
        pooled(&cluster, PoolMode::Session, &["options"]).await?,
    ];
    // It is a pooler that works, for whoever wants nothing of the session.
    sql(poolers[1].pooler.url(), "select").await?;
    for Pooled { pooler, .. } in &poolers {
        for program in [Program::scheduler(), Program::worker()] {
            let id = cluster.spawn(program.env("DATABASE_URL", pooler.url()))?;
            let status = cluster.wait(id).await?;
            let log = cluster.log(id);
            ensure!(status.code() == Some(78), "{status} {log}");
            ensure!(
                log.contains("a pooler keeps the startup parameter"),
                "{log}"
            );
        }
    }
    for Pooled { pooler, .. } in poolers {
        pooler.stop().await?;
    }
    cluster.finish().await
}
