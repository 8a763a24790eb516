//! A destination that is slow or gone keeps only its own jobs waiting: they go back to the schedule,
//! unstarted and uncharged, and run when it is back.

use anyhow::ensure;
use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, job, many_sms};
use postroad_tests::simulator::{Behaviour, Config, Latency, Simulator};
use serde_json::json;

/// A second provider, of which nothing is heard.
async fn hanging() -> anyhow::Result<Simulator> {
    let behaviour = Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    };
    Simulator::start(Config {
        behaviour,
        ..Config::default()
    })
    .await
}

fn webhooks_to(provider: &Simulator, count: usize) -> Vec<NewJob> {
    let args = json!({"url": format!("{}/webhook", provider.url()), "body": "hi"});
    let one = || job("webhook", &args);
    std::iter::repeat_with(one).take(count).collect()
}

/// The attempts that jobs were charged for.
async fn attempts(cluster: &Cluster) -> anyhow::Result<u64> {
    let sql = "select sum(attempt)::bigint from postroad.jobs";
    let rows = cluster.query(sql, &[]).await?;
    Ok(u64::try_from(rows[0].get::<_, i64>(0))?)
}

#[tokio::test]
async fn a_destination_that_hangs_keeps_nobody_elses_jobs_waiting() -> anyhow::Result<()> {
    let slow = hanging().await?;
    let cluster = Cluster::builder().prefetch(40).start().await?;
    cluster.enqueue(&webhooks_to(&slow, 500)).await?;
    slow.wait_for(|report| report.held >= 10).await?;

    cluster
        .enqueue(&webhooks_to(&cluster.provider, 200))
        .await?;
    cluster.wait_for("completed", 200).await?;

    // All others were met, sent back, and are charged nothing.
    eventually("the others wait in Postgres", async || {
        let rows = cluster
            .query(
                "select count(*) from postroad.job where stage = 0 and dispatch > 0",
                &[],
            )
            .await?;
        let back = rows[0].get::<_, i64>(0);
        ensure!(back >= 450, "{back} do");
        Ok(())
    })
    .await?;
    let held = slow.report().held;
    assert!(held <= 20, "{held} calls take places");
    assert_eq!(attempts(&cluster).await?, 200 + held);
    eventually("it is counted", async || {
        let page = cluster.metrics(cluster.worker(0)).await?;
        let is_counted = page.contains("postroad_destinations{state=\"put_off\"} 1");
        ensure!(is_counted, "{page}");
        Ok(())
    })
    .await?;
    let log = cluster.log(cluster.worker(0));
    let lines = log.matches("there are more jobs than").count();
    assert_eq!(lines, 1, "one line, however many jobs");

    // They need not wait for their turn here: what is tried is what the destination takes.
    slow.set(Behaviour::default())?;
    slow.release();
    let now = "update postroad.job set run_at = now() where stage = 0";
    cluster.query(now, &[]).await?;
    cluster.wait_for("completed", 700).await?;
    let report = slow.report();
    assert_eq!((report.requests, report.duplicates), (500, 0), "{report:?}");
    assert_eq!(attempts(&cluster).await?, 700);
    cluster.finish().await
}

#[tokio::test]
async fn what_waited_runs_when_its_destination_is_back() -> anyhow::Result<()> {
    let slow = hanging().await?;
    let cluster = Cluster::builder().prefetch(40).start().await?;
    cluster.enqueue(&webhooks_to(&slow, 200)).await?;
    let sent_back = "select from postroad.job where stage = 0 and dispatch > 0 limit 1";
    eventually("jobs have been sent back", async || {
        let rows = cluster.query(sent_back, &[]).await?;
        ensure!(!rows.is_empty(), "none");
        Ok(())
    })
    .await?;

    slow.set(Behaviour::default())?;
    slow.release();

    cluster.wait_for("completed", 200).await?;
    assert_eq!(slow.report().requests, 200);
    assert_eq!(attempts(&cluster).await?, 200);
    cluster.finish().await
}

/// Only those are charged that it has answered.
#[tokio::test]
async fn a_gateway_that_says_when_to_come_again_is_left_alone_until_then() -> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(100).workers(1).start().await?;
    cluster.provider.set(Behaviour {
        rate_429: 1.0,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(200)).await?;
    let is_paused = "postroad_jobs_put_off_total{reason=\"paused\"}";
    eventually("jobs have been put off", async || {
        let page = cluster.metrics(cluster.worker(0)).await?;
        ensure!(page.contains(is_paused), "{page}");
        Ok(())
    })
    .await?;
    cluster.provider.set(Behaviour::default())?;

    cluster.wait_for("completed", 200).await?;
    let report = cluster.provider.report();
    assert_eq!(report.delivered, 200);
    assert!(report.refused_429 <= 20, "{report:?}");
    assert_eq!(attempts(&cluster).await?, report.requests);
    cluster.finish().await
}

/// Before it has written that they go back, and after it. The call that it had under way is held.
#[tokio::test]
async fn a_worker_killed_while_it_sends_jobs_back_loses_and_doubles_none() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&many_sms(12)).await?;
    let worker = || Program::worker().env("POSTROAD_DESTINATION_MAX", 1);
    for point in ["releaser.before_release", "releaser.committed"] {
        let dies = worker().env("POSTROAD_FAILPOINT", format!("{point}:abort@1"));
        let id = cluster.spawn(dies)?;
        let ended = cluster.wait(id).await?;
        assert!(!ended.success(), "{point}: {ended}");
    }
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.start(worker()).await?;

    eventually("all are done or held", async || {
        let states = cluster.states().await?;
        let count = |state: &str| states.get(state).copied().unwrap_or(0);
        let (completed, held) = (count("completed"), count("held"));
        ensure!(completed + held == 12 && held <= 2, "{states:?}");
        Ok(())
    })
    .await?;
    let attempts = "select from postroad.archive where attempt <> 1";
    assert!(cluster.query(attempts, &[]).await?.is_empty());
    let report = cluster.provider.report();
    assert_eq!(report.duplicates, 0, "{report:?}");
    cluster.finish().await
}
