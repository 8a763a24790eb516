//! Dead letters over HTTP: listed, and redriven by operations that can be watched and stopped.

use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::eventually;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::busy;

#[tokio::test]
async fn dead_letters_are_redriven_by_filter_with_progress_and_each_once() {
    let (cluster, _, api) = busy().await;
    let kinds = ["webhook", "echo"];
    let dead = |n: usize| json!({"kind": kinds[n % 2], "delay": "1h", "args": {"url": "http://127.0.0.1:1/", "body": "x"}});
    let body: String = (0..1300).map(|n| format!("{}\n", dead(n))).collect();
    let taken = api
        .raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();
    assert_eq!(taken.lines().pop().unwrap()["accepted"], 1300, "{taken:?}");
    cluster.bury(None).await.unwrap();

    let filter = json!({"kind": "echo", "dry_run": true});
    let counted = api.post("/v1/dead-letters/redrive", &filter).await.unwrap();
    assert_eq!(counted.json(), json!({"planned": 650}), "{counted:?}");
    // First three of them, to see.
    let canary = json!({"kind": "echo", "limit": 3});
    let begun = api.post("/v1/dead-letters/redrive", &canary).await.unwrap();
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{begun:?}");
    let operation = finished(&api, &begun.json()).await;
    assert_eq!(
        (&operation["planned"], &operation["done"]),
        (&json!(3), &json!(3))
    );
    let begun = api
        .post("/v1/dead-letters/redrive", &json!({"kind": "echo"}))
        .await
        .unwrap();
    let operation = finished(&api, &begun.json()).await;
    assert_eq!(
        (&operation["planned"], &operation["done"]),
        (&json!(647), &json!(647))
    );

    eventually("all of them have run", async || {
        let ledger = api.get("/v1/ledger").await?.json();
        let account = &ledger["tenants"][0];
        anyhow::ensure!(account["completed"] == 650, "{account}");
        anyhow::ensure!(
            account["dead"] == 650 && account["accepted"] == 1300,
            "{account}"
        );
        anyhow::ensure!(account["balanced"] == true, "{account}");
        Ok(())
    })
    .await
    .unwrap();
    let left = api.get("/v1/dead-letters?limit=200").await.unwrap().json();
    assert_eq!(left["items"].as_array().unwrap().len(), 200);
    assert!(
        left["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|job| job["kind"] == "webhook")
    );
    cluster.finish().await.unwrap();
}

async fn finished(api: &Api, operation: &Value) -> Value {
    let path = format!("/v1/operations/{}", operation["id"].as_str().unwrap());
    eventually("the operation is finished", async || {
        let now = api.get(&path).await?.json();
        anyhow::ensure!(now["state"] == "finished", "{now}");
        Ok(())
    })
    .await
    .unwrap();
    api.get(&path).await.unwrap().json()
}

#[tokio::test]
async fn a_scheduler_killed_in_the_middle_of_a_redrive_loses_and_doubles_none() {
    const LETTERS: usize = 4000;
    let (mut cluster, _, api) = busy().await;
    let body = "{\"kind\":\"echo\",\"delay\":\"1h\"}\n".repeat(LETTERS);
    api.raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();
    cluster.bury(None).await.unwrap();
    let begun = api
        .post("/v1/dead-letters/redrive", &json!({}))
        .await
        .unwrap()
        .json();
    let path = format!("/v1/operations/{}", begun["id"].as_str().unwrap());
    let mut victim = cluster.scheduler(0);
    for part in 1..4 {
        eventually("it gets on", async || {
            let now = api.get(&path).await?.json();
            anyhow::ensure!(now["done"].as_u64() >= Some(part * 500), "{now}");
            Ok(())
        })
        .await
        .unwrap();
        cluster.kill(victim).await.unwrap();
        victim = cluster.start_scheduler().await.unwrap();
    }
    let operation = finished(&api, &begun).await;

    assert_eq!(
        (&operation["planned"], &operation["done"]),
        (&json!(LETTERS), &json!(LETTERS))
    );
    eventually("all of them have run", async || {
        let account = api.get("/v1/ledger").await?.json()["tenants"][0].clone();
        anyhow::ensure!(
            account["completed"] == LETTERS && account["balanced"] == true,
            "{account}"
        );
        Ok(())
    })
    .await
    .unwrap();
    cluster.finish().await.unwrap();
}
