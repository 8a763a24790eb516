//! Schedulers that forget what a queue does not keep, under the rights that they have.

use anyhow::ensure;
use postroad_tests::harness::cluster::{Cluster, eventually};
use serde_json::json;

use crate::api_fixture::{id_of, quiet};

#[tokio::test]
async fn schedulers_forget_what_a_queue_does_not_keep() -> anyhow::Result<()> {
    let (mut cluster, _, api) = quiet().await;
    let mut jobs = Vec::new();
    for queue in ["brief", "long"] {
        let job = json!({"kind": "echo", "queue": queue, "delay": "1h"});
        let job = api.post("/v1/jobs", &job).await?.json();
        let path = format!("/v1/jobs/{}", id_of(&job));
        api.post(&format!("{path}/cancel"), &json!({})).await?;
        jobs.push(path);
    }
    age(&cluster).await?;
    let set = ["queues", "set", "brief", "--retention-days", "2"];
    ensure!(cluster.cli(&set).await?.status.success());

    for _ in 0..2 {
        cluster.start_scheduler().await?;
    }

    eventually("the job of the one queue is forgotten", async || {
        let gone = api.get(&jobs[0]).await?;
        ensure!(gone.status == 404, "{gone:?}");
        Ok(())
    })
    .await?;
    let kept = api.get(&jobs[1]).await?;
    assert_eq!(kept.json()["state"], "cancelled", "{kept:?}");
    let retried = api.post(&format!("{}/retry", jobs[0]), &json!({})).await?;
    retried.problem(404)?;
    let ledger = api.get("/v1/ledger").await?.json();
    let account = &ledger["tenants"][0];
    assert_eq!(account["balanced"], json!(true), "{ledger}");
    assert_eq!(account["accepted"], json!(2), "{ledger}");
    assert_eq!(account["cancelled"], json!(2), "{ledger}");
    for n in 0..2 {
        assert!(cluster.readyz(cluster.scheduler(n)).await?.0);
    }
    cluster.finish().await
}

/// As if all that is finished had been finished three days before.
async fn age(cluster: &Cluster) -> anyhow::Result<()> {
    for sql in [
        "do $$ declare day date := (now() at time zone 'UTC')::date - 3; begin
            execute format(
                'create table postroad.%I partition of postroad.archive for values from (%L) to (%L)',
                'archive_' || to_char(day, 'YYYYMMDD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
        end $$",
        "update postroad.archive set finished_at = finished_at - interval '72 hours'",
    ] {
        cluster.query(sql, &[]).await?;
    }
    Ok(())
}
