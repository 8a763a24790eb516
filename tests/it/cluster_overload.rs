//! Full queues against running programs.

use std::collections::BTreeMap;

use anyhow::ensure;
use postroad_common::job::NewJob;
use postroad_common::token::Permission;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use postroad_tests::simulator::{Behaviour, Latency};
use reqwest::Method;
use serde_json::json;

fn class(tenant: &str, priority: i16, count: usize) -> Vec<NewJob> {
    let of = |job| NewJob {
        tenant: tenant.parse().expect("a name"),
        priority: Some(priority),
        ..job
    };
    many_sms(count).into_iter().map(of).collect()
}

/// Two schedulers and a provider that stands still; one tenant floods.
#[tokio::test]
async fn a_flood_sheds_its_own_lowest_class_and_nothing_else() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(2).workers(0).start().await?;
    let id = cluster.start(Program::api()).await?;
    let operator = cluster.client(id, None, &Permission::ALL).await?;
    let settings = json!({"window_size": 100, "waiting_max": 500, "on_full": "drop"});
    let set = operator
        .call(Method::PATCH, "/v1/queues/default", &settings)
        .await?;
    ensure!(set.json()["waiting_max"] == 500, "{set:?}");
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let worker = Program::worker().env("POSTROAD_PREFETCH", 20);
    cluster.start(worker).await?;

    cluster.enqueue(&class("small", 2, 50)).await?;
    cluster.enqueue(&class("flood", 1, 100)).await?;
    cluster.enqueue(&class("flood", 0, 60)).await?;
    cluster.enqueue(&class("flood", 2, 3000)).await?;
    eventually("as many wait as may", async || {
        let states = cluster.states().await?;
        ensure!(states["scheduled"] <= 500, "{states:?}");
        Ok(())
    })
    .await?;

    let sql = "select tenant, priority::int, count(*) from postroad.jobs
               where state = 'cancelled' and reason = 'shed' group by 1, 2";
    let rows = cluster.query(sql, &[]).await?;
    let shed: BTreeMap<(String, i32), i64> = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    assert_eq!(shed.len(), 1, "{shed:?}");
    let shed = shed[&("flood".to_owned(), 2)];
    // All together, but for the hundred in the pipe; and what a claim took while it was being shed.
    assert!((2510..=2610).contains(&shed), "{shed}");
    let ledger = operator.get("/v1/ledger?tenant=flood").await?.json();
    let account = &ledger["tenants"][0];
    assert_eq!(
        (&account["shed"], &account["balanced"]),
        (&json!(shed), &json!(true))
    );

    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    cluster.wait_for("completed", 3210 - shed).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_full_queue_rejects_at_the_door_and_opens_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let id = cluster.start(Program::api()).await?;
    let operator = cluster.client(id, None, &Permission::ALL).await?;
    let api = cluster.client(id, Some("acme"), &Permission::ALL).await?;
    let settings = json!({"window_size": 10, "waiting_max": 50});
    operator
        .call(Method::PATCH, "/v1/queues/default", &settings)
        .await?;
    let body = "{\"kind\":\"echo\"}\n".repeat(100);
    let lines = async |body| {
        api.raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
            .await
    };
    lines(body).await?;
    let one = json!({"kind": "echo"});
    eventually("it is full", async || {
        let refused = api.post("/v1/jobs", &one).await?;
        refused.problem(429)?;
        ensure!(refused.headers.contains_key("retry-after"), "{refused:?}");
        Ok(())
    })
    .await?;
    let refused = lines("{\"kind\":\"echo\"}\n".to_owned()).await?;
    ensure!(refused.text.contains("is full"), "{refused:?}");
    let other = json!({"kind": "echo", "queue": "other"});
    ensure!(api.post("/v1/jobs", &other).await?.status == 201);

    cluster
        .start(Program::worker().env("POSTROAD_QUEUES", "default,other"))
        .await?;
    eventually("it takes jobs again", async || {
        let taken = api.post("/v1/jobs", &one).await?;
        ensure!(taken.status == 201, "{taken:?}");
        Ok(())
    })
    .await?;
    cluster.take_down().await
}
