//! Several jobs in one message: each keeps its own fate, whatever happens to the message.

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use postroad_common::broker::topology::work_queue;
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{Claim, Cursor, Role, Wanted};
use postroad_provision::Signal;
use postroad_tests::harness::broker::{Forged, Stranger};
use postroad_tests::harness::cluster::{
    Builder, Cluster, Id, Program, eventually, job, many_sms, sms,
};
use postroad_tests::proxy::Proxy;
use postroad_tests::simulator::{self, Behaviour, Latency, Report, Simulator};
use serde_json::json;

use crate::store_fixture::{AN_HOUR, register};

/// A cluster without programs, whose jobs have been claimed and are not in RabbitMQ yet.
struct Claimed {
    cluster: Cluster,
    ids: Vec<JobId>,
    claims: Vec<Claim>,
}

impl Claimed {
    async fn start(builder: Builder, jobs: &[NewJob]) -> anyhow::Result<Self> {
        let cluster = builder.schedulers(0).workers(0).start().await?;
        let claimer = register(&cluster.store, Role::Scheduler, AN_HOUR).await;
        let ids = cluster.enqueue(jobs).await?;
        let queue = cluster.store.due_queues(&[]).await?.remove(0);
        let claimed = cluster
            .store
            .claim(&queue, Wanted::up_to(1000), claimer, &Cursor::default())
            .await?;
        let claims = claimed.context("nothing was claimed")?.jobs;
        ensure!(claims.len() == jobs.len(), "{} were claimed", claims.len());
        Ok(Self {
            cluster,
            ids,
            claims,
        })
    }

    /// Puts them all into one message.
    async fn publish(&self, expiration: Option<u64>) -> anyhow::Result<Stranger> {
        let stranger = self.cluster.vhost().stranger().await?;
        let bundle = Forged {
            expiration,
            ..Forged::bundle(&self.claims)
        };
        stranger.publish("default", &[bundle]).await?;
        Ok(stranger)
    }

    async fn start_worker(&mut self, prefetch: u16) -> anyhow::Result<Id> {
        let worker = Program::worker().env("POSTROAD_PREFETCH", prefetch);
        self.cluster.start(worker).await
    }

    async fn hold(&self) -> anyhow::Result<()> {
        self.cluster.provider.set(Behaviour {
            latency: Latency::Hold,
            ..Behaviour::default()
        })
    }

    /// Waits until so many calls are under way, of which none ends.
    async fn wait_until_held(&self, calls: usize) -> anyhow::Result<()> {
        let held = |report: &Report| report.held == calls as u64;
        self.cluster.provider.wait_for(held).await.map(drop)
    }

    fn let_go(&self) -> anyhow::Result<()> {
        self.cluster.provider.set(Behaviour::default())?;
        self.cluster.provider.release();
        Ok(())
    }
}

#[tokio::test]
async fn each_job_of_a_bundle_has_a_fate_of_its_own() -> anyhow::Result<()> {
    let jobs = [
        sms(),
        job("sms", &json!({"no": "number"})),
        job("a-kind-of-nobody", &json!({})),
        sms(),
    ];
    let mut room = Claimed::start(Cluster::builder(), &jobs).await?;
    room.publish(None).await?;

    room.start_worker(10).await?;
    room.cluster.start_scheduler().await?;

    let Claimed { cluster, ids, .. } = room;
    for id in [ids[0], ids[3]] {
        assert_eq!(cluster.wait_for_job(id, "completed").await?.attempt, 1);
    }
    cluster.wait_for_job(ids[1], "dead").await?;
    let refused = eventually("the refusal is noted", async || {
        let job = cluster.job(ids[2]).await?;
        ensure!(job.state == "scheduled" && job.error.is_some(), "{job:?}");
        Ok(job)
    })
    .await?;
    assert_eq!(refused.attempt, 0, "what no worker took is charged nothing");
    assert_eq!(cluster.provider.report().requests, 2);
    cluster.finish().await
}

/// The prefetch bounds the jobs at work, whatever the number of messages.
#[tokio::test]
async fn a_redelivered_bundle_runs_only_what_has_not_run() -> anyhow::Result<()> {
    let builder = Cluster::builder().lease("2s");
    let mut room = Claimed::start(builder, &many_sms(20)).await?;
    room.hold().await?;
    let first = room.start_worker(5).await?;
    let stranger = room.publish(None).await?;
    room.wait_until_held(5).await?;
    assert_eq!(stranger.depth(&work_queue("default")).await?.ready, 0);

    room.cluster.kill(first).await?;
    room.let_go()?;
    room.cluster.start_scheduler().await?;
    room.start_worker(5).await?;

    // Nobody knows what became of the five: an SMS is not sent again without being asked for.
    let Claimed { cluster, .. } = room;
    cluster.wait_for("completed", 15).await?;
    cluster.wait_for("held", 5).await?;
    let report = cluster.provider.report();
    assert_eq!((report.requests, report.duplicates), (20, 0), "{report:?}");
    assert!(report.peak_in_flight <= 5, "{report:?}");
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_that_stops_leaves_the_rest_of_a_bundle_to_others_at_once() -> anyhow::Result<()> {
    let mut room = Claimed::start(Cluster::builder(), &many_sms(20)).await?;
    room.hold().await?;
    let first = room.start_worker(5).await?;
    room.publish(None).await?;
    room.wait_until_held(5).await?;
    room.start_worker(20).await?;

    room.cluster.signal(first, Signal::TERM)?;

    room.wait_until_held(20).await?;
    room.let_go()?;
    room.cluster.start_scheduler().await?;
    room.cluster.wait_for("completed", 20).await?;
    assert_eq!(room.cluster.provider.report().requests, 20);
    let ended = room.cluster.wait(first).await?;
    assert!(ended.success(), "{ended}");
    room.cluster.finish().await
}

/// What is sent back is settled with the others, and not met again when the bundle comes again.
#[tokio::test]
async fn a_bundle_runs_what_its_destinations_take_and_sends_the_rest_back() -> anyhow::Result<()> {
    let slow = Simulator::start(simulator::Config {
        behaviour: Behaviour {
            latency: Latency::Hold,
            ..Behaviour::default()
        },
        ..simulator::Config::default()
    })
    .await?;
    let webhook = json!({"url": format!("{}/webhook", slow.url()), "body": "hi"});
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.extend([job("webhook", &webhook), sms()]);
    }
    let builder = Cluster::builder().lease("2s");
    let builder = builder.env("POSTROAD_DESTINATION_MAX", 1);
    let mut room = Claimed::start(builder, &jobs).await?;
    let first = room.start_worker(20).await?;
    room.publish(None).await?;
    slow.wait_for(|report| report.held == 1).await?;
    eventually("all others have run or are sent back", async || {
        let states = room.cluster.states().await?;
        let of = |state| states.get(state).copied().unwrap_or(0);
        // The gateway, too, is called once at a time: on a slow machine some of its jobs go back as well.
        let (back, done) = (of("scheduled"), of("completed"));
        ensure!(back >= 5 && back + done == 11, "{states:?}");
        Ok(())
    })
    .await?;
    room.cluster.kill(first).await?;

    slow.set(Behaviour::default())?;
    slow.release();
    room.start_worker(20).await?;
    room.cluster.start_scheduler().await?;

    // Whose worker was killed while it was called is called again.
    room.cluster.set_backoff("webhook", "1 second").await?;
    room.cluster.wait_for("completed", 12).await?;
    assert_eq!(room.cluster.provider.report().requests, 6);
    let report = slow.report();
    assert_eq!((report.requests, report.duplicates), (7, 1), "{report:?}");
    room.cluster.finish().await
}

/// Its jobs are delivered again to the same worker, over another channel.
#[tokio::test]
async fn a_bundle_survives_another_prefetch() -> anyhow::Result<()> {
    let mut room = Claimed::start(Cluster::builder(), &many_sms(20)).await?;
    room.hold().await?;
    room.start_worker(5).await?;
    room.publish(None).await?;
    room.wait_until_held(5).await?;

    let sql = "update postroad.queue set prefetch = 12 where name = 'default'";
    room.cluster.query(sql, &[]).await?;

    room.wait_until_held(12).await?;
    room.let_go()?;
    room.cluster.start_scheduler().await?;
    room.cluster.wait_for("completed", 20).await?;
    let report = room.cluster.provider.report();
    assert_eq!((report.requests, report.peak_in_flight), (20, 12));
    room.cluster.finish().await
}

#[tokio::test]
async fn the_jobs_of_a_bundle_that_expires_in_the_pipe_are_sent_again() -> anyhow::Result<()> {
    let mut room = Claimed::start(Cluster::builder(), &many_sms(20)).await?;
    room.publish(Some(50)).await?;
    room.cluster.start_scheduler().await?;
    room.cluster.start_worker().await?;

    room.cluster.wait_for("completed", 20).await?;
    let attempts = "select distinct attempt, dispatch from postroad.archive";
    let rows = room.cluster.query(attempts, &[]).await?;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].get::<_, i32>(0), rows[0].get::<_, i64>(1)), (1, 2));
    room.cluster.finish().await
}

#[tokio::test]
async fn a_connection_cut_with_a_bundle_in_hand_runs_nothing_twice() -> anyhow::Result<()> {
    let mut room = Claimed::start(Cluster::builder(), &many_sms(20)).await?;
    let proxy = Proxy::start(room.cluster.amqp_addr()?)?;
    room.hold().await?;
    let worker = Program::worker()
        .env("POSTROAD_PREFETCH", 5)
        .amqp_through(&proxy);
    room.cluster.start(worker).await?;
    room.publish(None).await?;
    room.wait_until_held(5).await?;

    proxy.cut().await;
    proxy.heal().await;
    room.let_go()?;

    room.cluster.start_scheduler().await?;
    room.cluster.wait_for("completed", 20).await?;
    assert_eq!(room.cluster.provider.report().requests, 20);
    room.cluster.finish().await
}

/// Jobs and messages that the scheduler has sent.
async fn sent(cluster: &Cluster) -> anyhow::Result<(u64, u64)> {
    let count = async |name: &str| {
        let counted = cluster.counted(cluster.scheduler(0), name).await?;
        counted.with_context(|| format!("no {name}"))
    };
    Ok((
        count("postroad_jobs_claimed_total").await?,
        count("postroad_messages_published_total").await?,
    ))
}

fn echoes(jobs: usize) -> Vec<NewJob> {
    let echo = || job("echo", &json!({}));
    std::iter::repeat_with(echo).take(jobs).collect()
}

/// Jobs of a backlog.
const JOBS: i64 = 8000;

/// A backlog of jobs that take no time, there before the first scheduler is, and with `before` so many
/// more; how many messages there were fewer than jobs.
async fn backlog(
    builder: Builder,
    before: impl AsyncFnOnce(&Cluster) -> anyhow::Result<i64>,
) -> anyhow::Result<(Cluster, u64)> {
    let builder = builder.schedulers(0).prefetch(20);
    let mut cluster = builder.start().await?;
    let more = before(&cluster).await?;
    for _ in 0..JOBS / 1000 {
        cluster.enqueue(&echoes(1000)).await?;
    }
    cluster.start_scheduler().await?;
    cluster.wait_for("completed", JOBS + more).await?;
    let (jobs, messages) = sent(&cluster).await?;
    Ok((cluster, jobs - messages))
}

async fn nothing(_: &Cluster) -> anyhow::Result<i64> {
    Ok(0)
}

#[tokio::test]
async fn a_backlog_travels_in_bundles() -> anyhow::Result<()> {
    let (cluster, fewer) = backlog(Cluster::builder(), nothing).await?;
    assert!(fewer > 1000, "{fewer}");
    cluster.finish().await
}

#[tokio::test]
async fn what_is_no_backlog_travels_one_by_one() -> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(20).start().await?;
    for round in 1..=20 {
        cluster.enqueue(&echoes(20)).await?;
        cluster.wait_for("completed", 20 * round).await?;
    }
    assert_eq!(sent(&cluster).await?, (400, 400));
    cluster.finish().await
}

#[tokio::test]
async fn one_setting_turns_bundles_off() -> anyhow::Result<()> {
    let builder = Cluster::builder().env("POSTROAD_BUNDLE", 1);
    let (cluster, fewer) = backlog(builder, nothing).await?;
    assert_eq!(fewer, 0);
    cluster.finish().await
}

/// Programs of the version before do not say that they read bundles: a worker would get them as
/// deliveries, a scheduler as dead letters. One that was called lost may still listen.
#[tokio::test]
async fn nobody_who_cannot_read_a_bundle_gets_one() -> anyhow::Result<()> {
    for (role, lost_at) in [
        ("worker", None),
        ("scheduler", None),
        ("worker", Some(Timestamp::now())),
    ] {
        let old = "insert into postroad.process (role, host, pid, version, queues, lease, lost_at)
            values ($1, 'old', 1, '0', '{default}', '1 hour', $2)";
        let beside = async |cluster: &Cluster| {
            cluster.query(old, &[&role, &lost_at]).await?;
            Ok(0)
        };
        let (cluster, fewer) = backlog(Cluster::builder(), beside).await?;
        assert_eq!(fewer, 0, "{role} {lost_at:?}");
        // Nobody can be reached under that name.
        let gone = "update postroad.process set stopped_at = now() where host = 'old'";
        cluster.query(gone, &[]).await?;
        cluster.finish().await?;
    }
    Ok(())
}

/// One tenant's backlog is one, whatever little the others have.
#[tokio::test]
async fn a_backlog_beside_tenants_with_few_jobs_travels_in_bundles() -> anyhow::Result<()> {
    let others = async |cluster: &Cluster| {
        let mut jobs = echoes(60);
        for (n, job) in jobs.iter_mut().enumerate() {
            job.tenant = format!("t{n}").parse()?;
        }
        cluster.enqueue(&jobs).await?;
        Ok(60)
    };
    let (cluster, fewer) = backlog(Cluster::builder(), others).await?;
    assert!(fewer > 1000, "{fewer}");
    cluster.finish().await
}
