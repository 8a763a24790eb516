//! Dead letters over HTTP: listed, and redriven by operations that can be watched and stopped.

use jiff::Timestamp;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::eventually;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::{busy, id_of, quiet, wait_for_state};

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

#[tokio::test]
async fn a_redrive_that_means_nothing_is_refused_with_its_pointer_and_not_begun() {
    let (cluster, _, api) = quiet().await;
    for (field, values) in [
        (
            "kind",
            vec![json!("Echo"), json!(""), json!("a b"), json!(1)],
        ),
        (
            "queue",
            vec![json!("No"), json!(""), json!("x".repeat(64)), json!(["x"])],
        ),
        (
            "limit",
            vec![
                json!(0),
                json!(-1),
                json!(1_000_000_001),
                json!(1.5),
                json!("3"),
            ],
        ),
        (
            "since",
            vec![
                json!(""),
                json!("yesterday"),
                json!("2030-01-01"),
                json!("1999-12-31T23:59:59Z"),
                json!("2200-01-01T00:00:00Z"),
                json!(1_893_456_000),
            ],
        ),
        (
            "tenant",
            vec![json!("umbrella"), json!("nobody"), json!(""), json!(1)],
        ),
        ("dry_run", vec![json!("yes"), json!(1), json!(null)]),
        ("colour", vec![json!("red"), json!(null)]),
    ] {
        for value in values {
            let refused = api
                .post("/v1/dead-letters/redrive", &json!({field: value}))
                .await
                .unwrap();
            let pointer = refused.problem(422).unwrap();
            assert_eq!(pointer, Some(format!("/{field}")), "{value}: {refused:?}");
        }
    }
    let operations = api.get("/v1/operations").await.unwrap().json();
    assert_eq!(operations, json!({"items": []}));
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn only_what_has_died_since_is_redriven() {
    let (cluster, _, api) = busy().await;
    let mut ids = Vec::new();
    let mut since = Timestamp::UNIX_EPOCH;
    for _ in 0..2 {
        let job = json!({"kind": "echo", "delay": "1h"});
        let id = id_of(&api.post("/v1/jobs", &job).await.unwrap().json());
        let now = cluster
            .query("select clock_timestamp()", &[])
            .await
            .unwrap();
        since = now[0].get(0);
        cluster.bury(Some(&id)).await.unwrap();
        ids.push(id);
    }
    let redrive = async |filter: Value| {
        let answer = api.post("/v1/dead-letters/redrive", &filter).await;
        answer.unwrap().json()
    };

    let counted = redrive(json!({"since": since.to_string(), "dry_run": true})).await;
    assert_eq!(counted, json!({"planned": 1}));
    let begun = redrive(json!({"since": since.to_string()})).await;
    let operation = finished(&api, &begun).await;

    assert_eq!(
        (&operation["planned"], &operation["done"]),
        (&json!(1), &json!(1))
    );
    wait_for_state(&api, &ids[1], "completed").await;
    wait_for_state(&api, &ids[0], "dead").await;
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn an_operation_that_is_stopped_goes_no_further_and_is_its_tenants() {
    let (mut cluster, id, api) = quiet().await;
    let other = cluster.client(id, Some("umbrella"), &Permission::ALL).await;
    let other = other.unwrap();
    for _ in 0..3 {
        let job = json!({"kind": "echo", "delay": "1h"});
        api.post("/v1/jobs", &job).await.unwrap();
    }
    cluster.bury(None).await.unwrap();
    let mut begun = Vec::new();
    for limit in [3, 2] {
        let redrive = json!({"limit": limit});
        let answer = api
            .post("/v1/dead-letters/redrive", &redrive)
            .await
            .unwrap();
        begun.push(answer.json());
    }
    let stop = format!("/v1/operations/{}/stop", id_of(&begun[0]));

    let listed = api.get("/v1/operations").await.unwrap().json();
    assert_eq!(
        listed,
        json!({"items": [begun[1], begun[0]]}),
        "newest first"
    );
    let others = other.get("/v1/operations").await.unwrap().json();
    assert_eq!(others, json!({"items": []}));
    let not_theirs = other.post(&stop, &json!({})).await.unwrap();
    not_theirs.problem(404).unwrap();
    let stopped = api.post(&stop, &json!({})).await.unwrap();
    assert_eq!(stopped.status, StatusCode::OK, "{stopped:?}");
    assert_eq!(stopped.json()["state"], "stopped", "{stopped:?}");
    api.post(&stop, &json!({}))
        .await
        .unwrap()
        .problem(409)
        .unwrap();
    cluster.start_scheduler().await.unwrap();

    let operation = finished(&api, &begun[1]).await;
    assert_eq!(operation["done"], 2);
    let listed = api.get("/v1/operations").await.unwrap().json();
    let of_stopped = &listed["items"][1];
    assert_eq!(
        (&of_stopped["state"], &of_stopped["done"]),
        (&json!("stopped"), &json!(0)),
        "{listed}"
    );
    let left = api.get("/v1/dead-letters").await.unwrap().json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "{left}");
    cluster.take_down().await.unwrap();
}
