//! A failed attempt goes through the dead-letter queue and comes back when its kind, or the other
//! side, says so; a job that is not wanted any more does not run.

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::KindChange;
use postroad_tests::harness::cluster::{Cluster, eventually, job, many_sms, sms};
use postroad_tests::simulator::{Behaviour, Latency};
use serde_json::json;

#[tokio::test]
async fn a_failed_attempt_is_made_again_when_the_other_side_says_so() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.provider.set(Behaviour {
        rate_503: 1.0,
        retry_after: Duration::from_secs(2),
        ..Behaviour::default()
    })?;
    let ids = cluster.enqueue(&[sms(), cluster.webhook()]).await?;
    cluster
        .provider
        .wait_for(|report| report.refused_503 == 2)
        .await?;
    cluster.provider.set(Behaviour::default())?;

    for id in ids {
        let job = cluster.wait_for_job(id, "completed").await?;
        assert_eq!(job.attempt, 2);
        let calls = cluster.provider.calls(&id.to_string());
        let waited = calls[1].t - calls[0].t;
        assert!((2.0..10.0).contains(&waited), "{waited} seconds");
    }
    let letters = "postroad_dead_letters_total{reason=\"rejected\"} 2";
    let metrics = cluster.metrics(cluster.scheduler(0)).await?;
    assert!(metrics.contains(letters), "not by dead letter: {metrics}");
    cluster.finish().await
}

#[tokio::test]
async fn the_last_attempt_is_the_last() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.set_backoff("sms", "200 milliseconds").await?;
    cluster.provider.set(Behaviour {
        rate_500: 1.0,
        ..Behaviour::default()
    })?;
    let ids = cluster
        .enqueue(&[NewJob {
            max_attempts: Some(2),
            ..sms()
        }])
        .await?;

    let job = cluster.wait_for_job(ids[0], "dead").await?;
    assert_eq!(
        (job.attempt, job.reason.as_deref()),
        (2, Some("attempts exhausted"))
    );
    assert_eq!(cluster.provider.calls(&ids[0].to_string()).len(), 2);
    cluster.finish().await
}

#[tokio::test]
async fn an_operators_timeout_holds_from_the_next_attempt_on_until_it_is_reset()
-> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(Duration::from_secs(3)),
        ..Behaviour::default()
    })?;
    // How a job ends that is enqueued now.
    let ends = async || {
        let id = cluster.enqueue(&[cluster.webhook()]).await?[0];
        let job = eventually("the job has ended", async || {
            let job = cluster.job(id).await?;
            ensure!(job.finished_at.is_some(), "it is {job:?}");
            Ok(job)
        });
        anyhow::Ok((job.await?.state, id))
    };
    let ends_as = async |expected: &str| {
        eventually("workers have heard of it", async || {
            let (state, id) = ends().await?;
            ensure!(state == expected, "{id} is {state}");
            Ok(id)
        })
        .await
    };
    assert_eq!(ends().await?.0, "completed");

    let one_second = KindChange {
        timeout: Some(Duration::from_secs(1)),
        max_attempts: Some(1),
        ..KindChange::default()
    };
    ensure!(cluster.store.set_kind("webhook", &one_second).await?);
    let id = ends_as("dead").await?;
    let sql = "select code from postroad.attempt_error where job_id = $1";
    let codes = cluster.query(sql, &[id.as_uuid()]).await?;
    assert_eq!(codes[0].get::<_, &str>(0), "timeout");

    cluster.store.reset_kind("webhook").await?;
    ends_as("completed").await?;
    cluster.finish().await
}

#[tokio::test]
async fn args_that_do_not_fit_are_final_and_stop_nobody() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let bad = [
        job("sms", &json!({"to": "nobody", "text": "hi"})),
        job("sms", &json!([])),
        job(
            "webhook",
            &json!({"url": "http://127.0.0.1:1/", "body": 1, "nul\u{0}": "\u{0}"}),
        ),
        job("webhook", &json!({"url": "\u{0}", "body": "\u{0}"})),
        job(
            "webhook",
            &json!({"url": "http://169.254.169.254/", "body": 1}),
        ),
        job(
            "sms",
            &json!({"to": "+33639980606", "text": "x".repeat(200_000)}),
        ),
    ];
    let ids = cluster.enqueue(&bad).await?;
    cluster.enqueue(&many_sms(10)).await?;

    cluster.wait_for("completed", 10).await?;
    for id in ids {
        let job = cluster.wait_for_job(id, "dead").await?;
        assert_eq!((job.attempt, job.reason.as_deref()), (1, Some("fatal")));
    }
    assert_eq!(cluster.provider.report().requests, 10);
    cluster.finish().await
}

#[tokio::test]
async fn a_job_runs_only_if_its_transaction_commits() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    // Who is the first to name a tenant makes the others wait for the end of the transaction.
    cluster.enqueue(&[sms()]).await?;
    let mut session = cluster.session().await?;
    let enqueue = "select postroad.enqueue(kind => 'sms', args => '{\"to\":\"+33639980606\",\"text\":\"hi\"}')";

    let transaction = session.transaction().await?;
    let undone: uuid::Uuid = transaction.query_one(enqueue, &[]).await?.get(0);
    transaction.rollback().await?;
    let transaction = session.transaction().await?;
    let done: uuid::Uuid = transaction.query_one(enqueue, &[]).await?.get(0);
    // The scheduler is busy with others while this one waits for its commit.
    cluster.enqueue(&many_sms(5)).await?;
    cluster.wait_for("completed", 6).await?;
    transaction.commit().await?;

    cluster.wait_for_job(done.into(), "completed").await?;
    let states = cluster.states().await?;
    assert_eq!(states.values().sum::<i64>(), 7, "{states:?}");
    assert_eq!(cluster.provider.calls(&undone.to_string()), []);
    cluster.finish().await
}

#[tokio::test]
async fn a_slow_provider_never_gets_a_job_twice() -> anyhow::Result<()> {
    let builder = Cluster::builder().schedulers(2).workers(2).prefetch(10);
    let cluster = builder.start().await?;
    cluster.set_pipe_ttl("1 second").await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(Duration::from_secs(2)),
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(200)).await?;

    cluster.wait_for("completed", 200).await?;
    let report = cluster.provider.report();
    assert_eq!(
        (report.requests, report.delivered),
        (200, 200),
        "{report:?}"
    );
    let sql = "select max(dispatch), max(attempt) from postroad.jobs";
    let row = &cluster.query(sql, &[]).await?[0];
    assert!(row.get::<_, i64>(0) > 1, "nothing expired in the pipe");
    assert_eq!(row.get::<_, i32>(1), 1);
    cluster.finish().await
}

fn pointless_in(seconds: u64) -> NewJob {
    NewJob {
        expires_at: Some(Timestamp::now() + Duration::from_secs(seconds)),
        ..sms()
    }
}

/// A worker with one place, which is taken, and a job behind it that expires.
async fn expired_behind_another() -> anyhow::Result<(Cluster, JobId)> {
    let cluster = Cluster::builder().prefetch(1).start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&[sms()]).await?;
    cluster.provider.wait_for(|report| report.held == 1).await?;
    // Time to be claimed.
    let ids = cluster.enqueue(&[pointless_in(5)]).await?;
    Ok((cluster, ids[0]))
}

#[tokio::test]
async fn a_job_that_expires_in_the_pipe_is_not_started() -> anyhow::Result<()> {
    let (cluster, late) = expired_behind_another().await?;
    eventually("the job has expired in the pipe", async || {
        let sql = "select count(*) from postroad.job where expires_at < now() and stage = 1";
        let count: i64 = cluster.query(sql, &[]).await?[0].get(0);
        ensure!(count == 1, "{count}");
        Ok(())
    })
    .await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    let job = cluster.wait_for_job(late, "expired").await?;
    assert_eq!(
        (job.attempt, job.reason.as_deref()),
        (0, Some("expired in the pipe"))
    );
    cluster.wait_for("completed", 1).await?;
    assert_eq!(cluster.provider.report().requests, 1);
    cluster.finish().await
}

#[tokio::test]
async fn a_job_that_expires_while_nobody_is_free_is_not_started() -> anyhow::Result<()> {
    let cluster = Cluster::builder().workers(0).start().await?;
    cluster.store.register_queues(&["default"]).await?;
    cluster.set_pipe_ttl("1 second").await?;
    let ids = cluster.enqueue(&[pointless_in(1)]).await?;

    let job = cluster.wait_for_job(ids[0], "expired").await?;
    assert_eq!(job.attempt, 0);
    assert_eq!(cluster.provider.report().requests, 0);
    cluster.finish().await
}
