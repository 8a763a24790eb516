//! Entries of timelines, made by a campaign with the real programs.

use anyhow::ensure;
use postroad_common::token::Permission;
use postroad_tests::harness::cluster::{Cluster, Program, eventually};
use reqwest::Method;
use serde_json::json;

const RECIPIENTS: usize = 20;

/// The first worker dies with a row written and its outcome not: the job runs again elsewhere.
#[tokio::test]
async fn an_entry_is_there_once_though_its_job_ran_twice() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let program = cluster.start(Program::api()).await?;
    let api = cluster
        .client(program, Some("acme"), &Permission::ALL)
        .await?;
    let dies = Program::worker().env("POSTROAD_FAILPOINT", "executor.ended:abort@1");
    let dying = cluster.start(dies).await?;
    let args = json!({"recipient": "{{ to }}", "title": "Hi {{ name }}", "language": "{{ language }}", "url": "{{ link }}"});
    let campaign = json!({"name": "spring", "content": {
        "language": "en", "variables": {"name": {}, "link": {"default": ""}},
        "channels": {"inapp": {"kind": "timeline", "args": {"en": args}}},
    }});
    let made = api.post("/v1/campaigns", &campaign).await?.json();
    let path = format!("/v1/campaigns/{}", made["id"].as_str().unwrap_or_default());
    let csv: String = (0..RECIPIENTS)
        .map(|n| format!("user-{n},N{n}\n"))
        .collect();
    let path = format!("{path}/recipients?start=true");
    let taken = api
        .raw(Method::PUT, &path, "text/csv", format!("to,name\n{csv}"))
        .await?;
    ensure!(taken.status.is_success(), "{taken:?}");

    ensure!(!cluster.wait(dying).await?.success(), "it ended by itself");
    cluster.set_backoff("timeline", "100ms").await?;
    cluster.start(Program::worker()).await?;
    eventually("all jobs are completed", async || {
        let left = "select count(*) from postroad.job";
        let left: i64 = cluster.query(left, &[]).await?[0].get(0);
        ensure!(left == 0, "{left} are not");
        Ok(())
    })
    .await?;

    let twice = "select count(*) from postroad.archive where attempt > 1";
    let twice: i64 = cluster.query(twice, &[]).await?[0].get(0);
    ensure!(twice > 0, "no job ran twice");
    let rows = "select count(*), count(distinct recipient) from postroad.timeline_entry";
    let rows = cluster.query(rows, &[]).await?;
    let (rows, recipients): (i64, i64) = (rows[0].get(0), rows[0].get(1));
    ensure!(
        rows == RECIPIENTS as i64 && recipients == rows,
        "{rows} of {recipients}"
    );
    let seen = api.get("/v1/timeline/user-7").await?.json();
    ensure!(
        seen["items"][0]["message"] == json!({"title": "Hi N7", "body": ""})
            && seen["items"][0]["source"] == "personal"
            && seen["unread"] == 1,
        "{seen}"
    );
    cluster.take_down().await
}
