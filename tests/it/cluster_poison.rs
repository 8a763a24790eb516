//! A message that nobody can read, or that nobody should have sent, has no effect and stops
//! nobody.

use anyhow::ensure;
use lapin::types::AMQPValue;
use postroad_common::job::JobId;
use postroad_common::store::Fenced;
use postroad_tests::harness::broker::{Forged, Stranger};
use postroad_tests::harness::cluster::{Cluster, eventually, job, many_sms, sms};
use postroad_tests::simulator::{Behaviour, Latency};
use serde_json::{Value, json};

fn unknown() -> Fenced {
    Fenced {
        id: JobId::new(),
        dispatch: 1,
    }
}

fn with_body(body: impl Into<Vec<u8>>) -> Forged {
    Forged {
        body: body.into(),
        ..Forged::of(unknown(), "sms")
    }
}

/// Messages that cannot be read.
fn unreadable(real: Fenced) -> Vec<Forged> {
    let good = || Forged::of(unknown(), "sms");
    let version = |n| AMQPValue::LongInt(n);
    vec![
        with_body(""),
        with_body("this is not JSON"),
        with_body(vec![0xff; 1024 * 1024]),
        Forged {
            message_id: None,
            ..good()
        },
        Forged {
            message_id: Some("17".to_owned()),
            ..good()
        },
        Forged {
            kind: String::new(),
            ..good()
        },
        Forged {
            headers: Vec::new(),
            ..good()
        },
        good().header("x-version", version(99)),
        good().header("x-dispatch", AMQPValue::LongString("one".into())),
        good().header("x-dispatch", AMQPValue::LongLongInt(-1)),
        with_many_headers(good()).header("x-version", version(99)),
        Forged::bundle_of(&json!([])),
        Forged::bundle_of(&json!({"id": real.id, "dispatch": real.dispatch})),
        Forged::bundle_of(&json!([bundled(real), "and something else"])),
        Forged::bundle_of(&vec![bundled(unknown()); 1001].into()),
        Forged {
            body: b"[".repeat(100_000),
            ..Forged::bundle_of(&json!([]))
        },
        // It names a job that runs at this moment.
        Forged {
            body: b"{".to_vec(),
            ..Forged::of(real, "sms")
        },
    ]
}

fn bundled(job: Fenced) -> Value {
    json!({"id": job.id, "dispatch": job.dispatch, "kind": "sms", "tenant": "default",
        "attempt": 1, "args": {}})
}

/// Messages that can be read and are about nothing.
fn pointless(real: Fenced) -> Vec<Forged> {
    let stale = |dispatch| Fenced { dispatch, ..real };
    vec![
        Forged::of(unknown(), "sms"),
        Forged::of(unknown(), "a-kind-of-nobody"),
        Forged::of(stale(i64::MAX), "sms"),
        Forged::of(stale(real.dispatch + 1), "sms"),
        with_many_headers(Forged::of(unknown(), "sms")),
        Forged::bundle_of(&vec![bundled(unknown()); 1000].into()),
        Forged::bundle_of(&json!([
            bundled(real),
            bundled(real),
            bundled(stale(i64::MAX))
        ])),
        with_body(json!("x".repeat(1024 * 1024)).to_string()),
    ]
}

fn with_many_headers(mut message: Forged) -> Forged {
    for n in 0..1000 {
        message = message.header(&format!("x-{n}"), AMQPValue::LongString("value".into()));
    }
    message
}

async fn wait_until_parked(stranger: &Stranger, count: u32) -> anyhow::Result<()> {
    eventually(format_args!("{count} messages are parked"), async || {
        let depth = stranger.parked().await?;
        ensure!(depth.ready == count, "{depth:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_poison_message_does_not_stop_its_neighbours() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().lease("10s").start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let ids = cluster.enqueue(&[sms()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;
    let real = Fenced {
        id: ids[0],
        dispatch: 1,
    };
    cluster.provider.set(Behaviour::default())?;

    let stranger = cluster.vhost().stranger().await?;
    let (unreadable, pointless) = (unreadable(real), pointless(real));
    stranger.publish("default", &unreadable).await?;
    stranger.publish("default", &pointless).await?;
    cluster.enqueue(&many_sms(20)).await?;

    cluster.wait_for("completed", 20).await?;
    wait_until_parked(&stranger, u32::try_from(unreadable.len())?).await?;
    for headers in stranger.take_parked().await? {
        let reason = headers.inner().get("x-postroad-reason");
        assert!(reason.is_some(), "{headers:?}");
    }
    cluster.provider.release();
    cluster.wait_for_job(ids[0], "completed").await?;
    assert_eq!(cluster.provider.report().requests, 21);
    for program in [cluster.worker(0), cluster.scheduler(0)] {
        cluster.check_runs(program)?;
        let log = cluster.log(program);
        for part in [
            "rabbitmq_consume: ready",
            "rabbitmq_publish: ready",
            "dead_letters: ready",
        ] {
            assert!(log.matches(part).count() <= 1, "it stumbled: {log}");
        }
    }
    cluster.finish().await
}

/// As large as a frame may be: as a dead letter it does not fit any more, so nobody can receive
/// it until the broker gives it up. Failed attempts are then found without their letters.
#[tokio::test]
async fn a_dead_letter_too_large_to_be_received_stops_nobody() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().lease("10s").start().await?;
    cluster.provider.set(Behaviour {
        rate_503: 1.0,
        ..Behaviour::default()
    })?;
    let stranger = cluster.vhost().stranger().await?;
    let huge = AMQPValue::LongString("x".repeat(130_700).into());
    let message = Forged::of(unknown(), "sms").header("x-huge", huge);
    let message = message.header("x-version", AMQPValue::LongInt(99));
    stranger.publish("default", &[message]).await?;
    let scheduler = cluster.scheduler(0);
    cluster
        .wait_for_log(scheduler, "frame too large", 1)
        .await?;
    cluster.enqueue(&many_sms(20)).await?;
    cluster
        .provider
        .wait_for(|report| report.refused_503 >= 20)
        .await?;
    cluster.provider.set(Behaviour::default())?;

    cluster.wait_for("completed", 20).await?;
    for program in [cluster.worker(0), scheduler] {
        cluster.check_runs(program)?;
    }
    stranger.delete_dead().await?;
    cluster.finish().await
}

/// It can be received, and would not fit into a frame any more with the reason beside the rest.
#[tokio::test]
async fn a_dead_letter_without_room_for_the_reason_is_parked_all_the_same() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let stranger = cluster.vhost().stranger().await?;
    let huge = AMQPValue::LongString("x".repeat(130_900).into());
    let message = Forged::of(unknown(), "sms").header("x-huge", huge);
    let message = message.header("x-version", AMQPValue::LongInt(99));
    stranger.publish_letters(&[message]).await?;
    cluster.enqueue(&many_sms(5)).await?;

    wait_until_parked(&stranger, 1).await?;
    let parked = stranger.take_parked().await?;
    assert!(parked[0].contains_key("x-postroad-reason"), "{parked:?}");
    cluster.wait_for("completed", 5).await?;
    cluster.check_runs(cluster.scheduler(0))?;
    cluster.finish().await
}

#[tokio::test]
async fn a_job_of_a_kind_that_no_worker_knows_goes_back_to_scheduled() -> anyhow::Result<()> {
    let cluster = Cluster::builder().workers(2).start().await?;
    let ids = cluster
        .enqueue(&[job("a-kind-of-nobody", &json!({}))])
        .await?;
    cluster.enqueue(&many_sms(5)).await?;

    cluster.wait_for("completed", 5).await?;
    let refused = eventually("the refusal is noted", async || {
        let job = cluster.job(ids[0]).await?;
        ensure!(job.error.is_some() && job.state == "scheduled", "{job:?}");
        Ok(job)
    })
    .await?;
    assert_eq!(refused.attempt, 0);
    assert!(
        refused
            .error
            .is_some_and(|error| error.starts_with("refused"))
    );
    let sql = "select run_at > now() + interval '30 seconds' from postroad.jobs where id = $1";
    let rows = cluster.query(sql, &[ids[0].as_uuid()]).await?;
    assert!(
        rows[0].get::<_, bool>(0),
        "it would be refused again at once"
    );
    cluster.finish().await
}
