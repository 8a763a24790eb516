//! Queues and kinds over HTTP: looked at by tenants, set by operators while programs run.

use std::time::Duration;

use postroad_common::token::Permission;
use postroad_tests::harness::cluster::{Cluster, Program, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api_fixture::{busy, id_of, quiet, wait_for_state};

#[tokio::test]
async fn a_paused_queue_keeps_its_jobs_and_a_resumed_one_runs_them() {
    let (cluster, id, api) = busy().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();

    let paused = operator
        .post("/v1/queues/default/pause", &json!({}))
        .await
        .unwrap();
    assert!(paused.json()["paused_at"].is_string(), "{paused:?}");
    let job = api
        .post("/v1/jobs", &json!({"kind": "echo"}))
        .await
        .unwrap()
        .json();
    let queues = api.get("/v1/queues").await.unwrap().json();
    assert_eq!(queues["items"][0]["due"], 1, "{queues}");
    let now = api
        .get(&format!("/v1/jobs/{}", id_of(&job)))
        .await
        .unwrap()
        .json();
    assert_eq!(now["state"], "scheduled");

    let resumed = operator
        .post("/v1/queues/default/resume", &json!({}))
        .await
        .unwrap();
    assert!(resumed.json()["paused_at"].is_null(), "{resumed:?}");
    wait_for_state(&api, &id_of(&job), "completed").await;
    let later = json!({"kind": "echo", "delay": "1h"});
    let later = id_of(&api.post("/v1/jobs", &later).await.unwrap().json());
    let cancel = format!("/v1/jobs/{later}/cancel");
    api.post(&cancel, &json!({})).await.unwrap();
    let log = "select l.action, l.actor, l.target, t.name
               from postroad.audit_log l left join postroad.tenant t on t.id = l.tenant_id order by l.id";
    let rows = cluster.query(log, &[]).await.unwrap();
    let made: Vec<(&str, Option<&str>)> = rows.iter().map(|row| (row.get(0), row.get(3))).collect();
    let expected = [
        ("queue.pause", None),
        ("queue.resume", None),
        ("job.cancel", Some("acme")),
    ];
    assert_eq!(made, expected);
    assert!(rows[0].get::<_, &str>(1).starts_with("token:"));
    assert_eq!(rows[2].get::<_, &str>(2), later);
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_queue_is_set_live_and_nonsense_is_refused_with_its_pointer() {
    let (cluster, id, _) = quiet().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let patch = async |body: Value| {
        operator
            .call(Method::PATCH, "/v1/queues/default", &body)
            .await
            .unwrap()
    };

    let set =
        patch(json!({"window_size": 7, "rate_per_second": 5, "pipe_ttl": "90s", "prefetch": 3}))
            .await;
    let kept = async || {
        let listed = operator.get("/v1/queues").await.unwrap().json();
        listed["items"][0]["retention_days"].clone()
    };
    let queue = set.json();
    assert_eq!(queue["window_size"], 7, "{queue}");
    assert_eq!(queue["pipe_ttl_seconds"], 90.0, "{queue}");
    assert_eq!(
        (&queue["rate_per_second"], &queue["prefetch"]),
        (&json!(5), &json!(3))
    );
    let cleared = patch(json!({"rate_per_second": null})).await.json();
    assert_eq!(
        (&cleared["rate_per_second"], &cleared["prefetch"]),
        (&json!(null), &json!(3))
    );
    assert_eq!(kept().await, json!(null), "as the schedulers say");
    for days in [json!(1), json!(3650), json!(null), json!(30)] {
        let set = patch(json!({"retention_days": days})).await.json();
        assert_eq!(
            (&set["retention_days"], &set["prefetch"]),
            (&days, &json!(3))
        );
        assert_eq!(kept().await, days);
    }
    for (body, pointer) in [
        (json!({"retention_days": 0}), "/retention_days"),
        (json!({"retention_days": -1}), "/retention_days"),
        (json!({"retention_days": 3651}), "/retention_days"),
        (json!({"retention_days": 1.5}), "/retention_days"),
        (json!({"retention_days": "x"}), "/retention_days"),
        (json!({"retention_days": "7d"}), "/retention_days"),
        (json!({"window_size": 0}), "/window_size"),
        (json!({"window_size": "many"}), "/window_size"),
        (json!({"rate_per_second": -1}), "/rate_per_second"),
        (json!({"prefetch": 2001}), "/prefetch"),
        (json!({"pipe_ttl": "5"}), "/pipe_ttl"),
        (json!({"pipe_ttl": "500ms"}), "/pipe_ttl"),
        (json!({"colour": 1}), "/colour"),
    ] {
        let refused = patch(body.clone()).await.problem(422).unwrap();
        assert_eq!(refused.as_deref(), Some(pointer), "{body}");
    }
    assert_eq!(kept().await, json!(30));
    for name in ["nobody", "No%20Name", "%00", "%ff", "..%2f.."] {
        let path = format!("/v1/queues/{name}");
        let missing = operator
            .call(Method::PATCH, &path, &json!({}))
            .await
            .unwrap();
        missing.problem(404).unwrap();
    }
    let kind = operator
        .call(
            Method::PATCH,
            "/v1/kinds/echo",
            &json!({"max_attempts": 3, "backoff_base": "2s"}),
        )
        .await
        .unwrap()
        .json();
    assert_eq!(
        (&kind["max_attempts"], &kind["backoff_base_seconds"]),
        (&json!(3), &json!(2.0))
    );
    assert!(kind["overridden_at"].is_string());
    let set = async |body: Value| operator.call(Method::PATCH, "/v1/kinds/echo", &body).await;
    let kind = set(json!({"timeout": "2m"})).await.unwrap().json();
    assert_eq!(
        (&kind["timeout_seconds"], &kind["max_attempts"]),
        (&json!(120.0), &json!(3))
    );
    for (body, pointer) in [
        (json!({"timeout": "999ms"}), "/timeout"),
        (json!({"timeout": "25h"}), "/timeout"),
        (
            json!({"backoff_base": "1h", "backoff_cap": "1m"}),
            "/backoff_base",
        ),
        (json!({"backoff_cap": "1s"}), "/backoff_cap"),
        (json!({"reset": true, "timeout": "1s"}), "/reset"),
    ] {
        let refused = set(body.clone()).await.unwrap().problem(422).unwrap();
        assert_eq!(refused.as_deref(), Some(pointer), "{body}");
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_rate_bounds_what_enters_the_pipe_over_all_schedulers() {
    let mut cluster = Cluster::builder().schedulers(3).start().await.unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    let api = cluster.client(id, None, &Permission::ALL).await.unwrap();
    api.call(
        Method::PATCH,
        "/v1/queues/default",
        &json!({"rate_per_second": 20}),
    )
    .await
    .unwrap();
    let body = "{\"kind\":\"echo\"}\n".repeat(100);
    let started = std::time::Instant::now();
    api.raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();

    eventually("all of them have run", async || {
        let states = cluster.states().await?;
        anyhow::ensure!(states.get("completed") == Some(&100), "{states:?}");
        Ok(())
    })
    .await
    .unwrap();

    // Half a second's worth at once, and the rest at twenty a second.
    assert!(
        started.elapsed() >= Duration::from_millis(4450),
        "{:?}",
        started.elapsed()
    );
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_kind_that_is_given_back_is_as_its_workers_have_it() {
    let (mut cluster, id, api) = busy().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let kinds = async || {
        let listed = api.get("/v1/kinds").await.unwrap().json();
        listed["items"].as_array().unwrap().clone()
    };
    let echo = async || {
        let found = kinds()
            .await
            .into_iter()
            .find(|kind| kind["name"] == "echo");
        found.expect("workers have registered it")
    };
    let set = async |name: &str, body: Value| {
        let path = format!("/v1/kinds/{name}");
        operator.call(Method::PATCH, &path, &body).await.unwrap()
    };
    let names: Vec<_> = kinds().await.iter().map(name_of).collect();
    assert!(
        names.is_sorted() && names.contains(&"sms".to_owned()),
        "{names:?}"
    );
    let before = echo().await;
    assert_eq!(before["overridden_at"], json!(null), "{before}");
    let theirs = json!({"max_attempts": 3, "timeout": "2m", "on_lost": "hold"});
    let changed = set("echo", theirs).await.json();
    assert_eq!(echo().await, changed, "the list shows what is in force");
    assert!(changed["overridden_at"].is_string(), "{changed}");

    for _ in 0..2 {
        let given_back = set("echo", json!({"reset": true})).await.json();
        assert_eq!(given_back["overridden_at"], json!(null), "{given_back}");
        assert_eq!(given_back["timeout_seconds"], before["timeout_seconds"]);
        assert_eq!(given_back["max_attempts"], 3, "until a worker starts");
    }
    cluster.start_worker().await.unwrap();
    eventually("the worker has written its policy", async || {
        let now = echo().await;
        anyhow::ensure!(now == before, "{now}");
        Ok(())
    })
    .await
    .unwrap();

    let unchanged = set("echo", json!({"reset": false})).await;
    assert_eq!(unchanged.json(), before);
    set("nobody", json!({"reset": true}))
        .await
        .problem(404)
        .unwrap();
    let refused = set("echo", json!({"reset": "yes"})).await.problem(422);
    assert_eq!(refused.unwrap().as_deref(), Some("/reset"));
    cluster.finish().await.unwrap();
}

fn name_of(kind: &Value) -> String {
    kind["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn names_are_made_up_to_a_number() {
    let (cluster, _, api) = quiet().await;
    for table in ["queue", "kind"] {
        let fill = format!(
            "insert into postroad.{table} (name) select 'n' || n from generate_series(1, 1000) n"
        );
        cluster.query(&fill, &[]).await.unwrap();
    }
    let known = json!({"kind": "n1", "queue": "n2", "delay": "1h"});
    for field in ["kind", "queue"] {
        let mut new = known.clone();
        new[field] = json!("new");
        let refused = api.post("/v1/jobs", &new).await.unwrap();
        refused.problem(422).unwrap();
        assert!(refused.text.contains(field), "{refused:?}");
        let lines = format!("{known}\n{new}\n{known}\n");
        let answer = api
            .raw(
                Method::POST,
                "/v1/jobs/batch",
                "application/x-ndjson",
                lines,
            )
            .await
            .unwrap();
        let counts = json!({"accepted": 2, "duplicates": 0, "rejected": 1, "complete": true});
        assert_eq!(answer.lines().pop().unwrap(), counts, "{field}: {answer:?}");
    }
    cluster.take_down().await.unwrap();
}
