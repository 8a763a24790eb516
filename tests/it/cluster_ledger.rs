//! The ledger over real programs: `postroad ledger`, and the auditor of the scheduler.

use std::process::Output;

use anyhow::{Context as _, ensure};
use postroad_common::broker::topology::{self, work_queue};
use postroad_common::broker::{self, Broker, Depth, DepthReader};
use postroad_tests::harness::cluster::{Cluster, eventually, many_sms};
use postroad_tests::simulator::{Behaviour, Latency};
use serde_json::{Value, json};

/// By itself an auditor rests longer after a look that took long, and its first one may.
const AUDIT_REST: (&str, &str) = ("POSTROAD_TEST_AUDIT_REST", "1s");

/// One look, as a script gets it.
fn look(output: &Output) -> anyhow::Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("reading {output:?}"))
}

#[tokio::test]
async fn it_is_balanced_while_jobs_run_and_after() -> anyhow::Result<()> {
    let builder = Cluster::builder().prefetch(50).lease("30s");
    let cluster = builder.env(AUDIT_REST.0, AUDIT_REST.1).start().await?;
    let slow = |latency| Behaviour {
        latency,
        ..Behaviour::default()
    };
    // Nothing ends before the first look.
    cluster.provider.set(slow(Latency::Hold))?;
    cluster.enqueue(&many_sms(500)).await?;

    let mut looks = 0;
    loop {
        let output = cluster.cli(&["ledger", "--json"]).await?;
        let look = look(&output)?;
        ensure!(output.status.code() == Some(0), "{output:?}");
        ensure!(look["balanced"] == json!(true), "{look}");
        looks += 1;
        if looks == 1 {
            let quick = std::time::Duration::from_millis(10);
            cluster.provider.set(slow(Latency::Fixed(quick)))?;
            cluster.provider.release();
        }
        let account = &look["tenants"][0];
        ensure!(account["accepted"] == json!(500), "{look}");
        // What is held waits for a person, and would wait for ever here.
        let on_their_way = ["scheduled", "dispatched", "running", "failed"];
        if on_their_way.iter().all(|state| account[state] == json!(0)) {
            ensure!(account["completed"] == json!(500), "{look}");
            break;
        }
    }

    assert!(looks > 1, "it was over before the first look");
    eventually("everything is folded", async || {
        let rows = cluster
            .query("select count(*) from postroad.ledger_entry", &[])
            .await?;
        let left: i64 = rows[0].get(0);
        ensure!(left == 0, "{left} entries are left");
        Ok(())
    })
    .await?;
    let look = look(&cluster.cli(&["ledger", "--json"]).await?)?;
    assert_eq!(look["tenants"][0]["completed"], json!(500));
    assert_eq!(look["findings"], json!([]));
    assert_eq!(look["queues"][0]["ready"], json!(0));
    assert_eq!(look["queues"][0]["consumers"], json!(1));
    cluster.finish().await
}

#[tokio::test]
async fn a_lost_job_is_an_alarm_of_the_auditor_and_an_exit_code() -> anyhow::Result<()> {
    let builder = Cluster::builder().workers(0);
    let cluster = builder.env(AUDIT_REST.0, AUDIT_REST.1).start().await?;
    let scheduler = cluster.scheduler(0);
    let sql = "select postroad.enqueue('echo', dedup_key => 'a', run_at => now() + '1 day')::text";
    let lost: String = cluster.query(sql, &[]).await?[0].get(0);
    let sql = "delete from postroad.job where id = $1::text::uuid";
    cluster.query(sql, &[&lost]).await?;

    let output = cluster.cli(&["ledger", "--json"]).await?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let look = look(&output)?;
    assert_eq!(look["balanced"], json!(false));
    assert_eq!(look["findings"][0]["check"], json!("conservation"));
    assert_eq!(look["findings"][0]["ids"], json!([lost]));

    let text = format!("tenant default: 1 accepted jobs are nowhere: {lost}");
    cluster.wait_for_log(scheduler, &text, 1).await?;
    let metrics = cluster.metrics(scheduler).await?;
    for metric in [
        "postroad_ledger_imbalance 1\n",
        "postroad_ledger_alarms_total{check=\"conservation\"} 1\n",
    ] {
        assert!(metrics.contains(metric), "{metrics}");
    }
    assert!(cluster.readyz(scheduler).await?.0, "an alarm is for people");

    // Whoever finds the job puts it back, and the alarm ends.
    let sql = "insert into postroad.job (id, dispatch, queue_id, kind_id, tenant_id, args, run_at)
        values ($1::text::uuid, 1, 1, 1, 1, '{}', now() + interval '1 day')";
    cluster.query(sql, &[&lost]).await?;
    let text = "no longer so: tenant default";
    cluster.wait_for_log(scheduler, text, 1).await?;
    assert_eq!(
        cluster
            .log(scheduler)
            .matches("accepted jobs are nowhere")
            .count(),
        2
    );
    let output = cluster.cli(&["ledger"]).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cluster.finish().await
}

#[tokio::test]
async fn the_pipe_is_compared_with_the_brokers_queues() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    cluster.enqueue(&many_sms(7)).await?;
    eventually("seven messages are ready", async || {
        let look = look(&cluster.cli(&["ledger", "--json"]).await?)?;
        let queue = &look["queues"][0];
        ensure!(queue["dispatched"] == json!(7), "{look}");
        ensure!(queue["ready"] == json!(7), "{look}");
        ensure!(queue["consumers"] == json!(0), "{look}");
        Ok(())
    })
    .await?;
    let output = cluster.cli(&["ledger", "--tenant", "nobody"]).await?;
    assert_eq!(output.status.code(), Some(4), "{output:?}");

    cluster.start_worker().await?;
    cluster.wait_for("completed", 7).await?;
    cluster.finish().await
}

#[tokio::test]
async fn depths_are_read_by_a_user_without_permissions_and_of_queues_that_are_missing()
-> anyhow::Result<()> {
    let cluster = Cluster::builder().workers(0).schedulers(0).start().await?;
    let broker = |url: &str| {
        let settings = broker::Settings::of_url(url).expect("the harness makes URLs");
        Broker::new(settings, "test".to_owned())
    };
    let admin = broker(cluster.vhost().amqp_url()).connect("admin").await?;
    topology::declare(&admin, &["sms".to_owned()]).await?;
    let name = format!("reader-{}", std::process::id());
    let url = cluster.vhost().create_user(&name, "^$").await?;

    let mut depths = DepthReader::new(broker(&url));
    let queues = ["no-such", "sms", "nor-such", "sms"].map(work_queue);
    for _ in 0..2 {
        let read = depths.read(&queues).await?;
        let there = Some(Depth::default());
        assert_eq!(read, [None, there, None, there]);
    }

    cluster.vhost().delete_user(&name).await?;
    cluster.finish().await
}
