//! Jobs over HTTP: in, looked at, called off, run again, decided about.

use std::time::Duration;

use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// An api with a tenant's token, and no scheduler: jobs stay where they are put.
async fn quiet() -> (Cluster, Id, Api) {
    let mut cluster = Cluster::builder()
        .schedulers(0)
        .workers(0)
        .start()
        .await
        .unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    (cluster, id, api)
}

/// The same with a scheduler and a worker.
async fn busy() -> (Cluster, Id, Api) {
    let mut cluster = Cluster::builder().start().await.unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    (cluster, id, api)
}

fn id_of(job: &Value) -> String {
    job["id"].as_str().expect("a job has an id").to_owned()
}

async fn wait_for_state(api: &Api, id: &str, state: &str) -> Value {
    eventually(format_args!("job {id} is {state}"), async || {
        let job = api.get(&format!("/v1/jobs/{id}")).await?.json();
        anyhow::ensure!(job["state"] == state, "it is {job}");
        Ok(())
    })
    .await
    .unwrap();
    api.get(&format!("/v1/jobs/{id}")).await.unwrap().json()
}

#[tokio::test]
async fn a_job_is_taken_shown_as_it_is_stored_and_runs() {
    let (cluster, _, api) = busy().await;

    let taken = api
        .post(
            "/v1/jobs",
            &json!({"kind": "echo", "args": {"n": 1}, "priority": 0}),
        )
        .await
        .unwrap();

    assert_eq!(taken.status, StatusCode::CREATED, "{taken:?}");
    let job = taken.json();
    let id = id_of(&job);
    assert_eq!(taken.headers["location"], format!("/v1/jobs/{id}"));
    assert_eq!(job["state"], "scheduled");
    assert_eq!(
        (&job["tenant"], &job["queue"]),
        (&json!("acme"), &json!("default"))
    );
    assert_eq!(
        (&job["max_attempts"], &job["on_lost"]),
        (&json!(20), &json!("retry"))
    );
    let done = wait_for_state(&api, &id, "completed").await;
    assert_eq!(
        (&done["result"], &done["attempt"]),
        (&json!({"n": 1}), &json!(1))
    );
    for field in [
        "id",
        "tenant",
        "queue",
        "kind",
        "priority",
        "run_at",
        "created_at",
        "max_attempts",
    ] {
        assert_eq!(job[field], done[field], "{field}");
    }
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_waits_for_a_lock_keeps_nobody_else_waiting() {
    let (cluster, id, api) = quiet().await;
    let other = cluster.client(id, Some("other"), &Permission::ALL).await;
    let other = other.unwrap();
    let mut session = cluster.session().await.unwrap();
    let open = session.transaction().await.unwrap();
    let enqueue = "select postroad.enqueue('echo', '{}', tenant => 'acme', dedup_key => 'locked')";
    open.batch_execute(enqueue).await.unwrap();

    let mut waiting = tokio::task::JoinSet::new();
    // One alone, and then the rest: two statements, which is as many as acme may have.
    for (requests, statements) in [(1, 1), (9, 2)] {
        for _ in 0..requests {
            let api = api.clone();
            waiting.spawn(async move {
                let job = json!({"kind": "echo", "dedup_key": "locked"});
                api.post("/v1/jobs", &job).await.unwrap().status
            });
        }
        eventually("acme's statements wait", async || {
            let sql = "select count(*) from pg_stat_activity
                where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
            let waiting: i64 = cluster.query(sql, &[]).await?[0].get(0);
            anyhow::ensure!(waiting == statements, "{waiting} wait");
            Ok(())
        })
        .await
        .unwrap();
    }
    for _ in 0..3 {
        let taken = other.post("/v1/jobs", &json!({"kind": "echo"})).await;
        assert_eq!(taken.unwrap().status, StatusCode::CREATED);
    }
    assert!(waiting.try_join_next().is_none(), "nobody waited");

    open.commit().await.unwrap();
    // 503 for whom the wait was longer than the API's patience.
    for status in waiting.join_all().await {
        let is_one = matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE);
        assert!(is_one, "{status}");
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn the_same_key_is_the_same_job_and_other_words_are_a_conflict() {
    let (cluster, _, api) = quiet().await;
    let job = json!({"kind": "echo", "args": {"n": 1}, "dedup_key": "order-17", "delay": "1h"});

    let first = api.post("/v1/jobs", &job).await.unwrap();
    let again = api.post("/v1/jobs", &job).await.unwrap();

    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    assert_eq!(first.json(), again.json());
    assert_eq!(first.json()["dedup_key"], "order-17");
    let changes = [
        ("args", json!({"n": 2})),
        ("delay", json!("2h")),
        ("priority", json!(2)),
        ("queue", json!("other")),
        ("max_attempts", json!(3)),
        ("on_lost", json!("hold")),
    ];
    for (field, value) in changes {
        let mut other = job.clone();
        other[field] = value;
        let refused = api.post("/v1/jobs", &other).await.unwrap();
        let pointer = refused.problem(409).unwrap();
        assert_eq!(pointer.as_deref(), Some("/dedup_key"), "{field}");
    }
    // Another kind and another tenant have keys of their own.
    let mut other_kind = job.clone();
    other_kind["kind"] = json!("other");
    let taken = api.post("/v1/jobs", &other_kind).await.unwrap();
    assert_eq!(taken.status, StatusCode::CREATED);
    let token = cluster
        .token(Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let taken = api.with_token(&token).post("/v1/jobs", &job).await.unwrap();
    assert_eq!(taken.status, StatusCode::CREATED);
    let count = cluster
        .query("select count(*) from postroad.job", &[])
        .await
        .unwrap();
    assert_eq!(count[0].get::<_, i64>(0), 3);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn sixty_four_at_once_with_one_key_make_one_job() {
    let (cluster, _, api) = quiet().await;
    let job = json!({"kind": "echo", "dedup_key": "once", "delay": "1h"});

    let all = (0..64).map(|_| api.post("/v1/jobs", &job));
    let answers = futures_util::future::try_join_all(all).await.unwrap();

    let created = answers
        .iter()
        .filter(|a| a.status == StatusCode::CREATED)
        .count();
    let found = answers
        .iter()
        .filter(|a| a.status == StatusCode::OK)
        .count();
    assert_eq!((created, found), (1, 63));
    let ids: std::collections::HashSet<_> = answers.iter().map(|a| id_of(&a.json())).collect();
    assert_eq!(ids.len(), 1);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn an_id_sent_twice_is_one_job_even_after_it_has_finished() {
    let (cluster, _, api) = busy().await;
    let id = uuid::Uuid::now_v7().to_string();
    let job = json!({"id": id, "kind": "echo"});

    let first = api.post("/v1/jobs", &job).await.unwrap();
    assert_eq!(first.status, StatusCode::CREATED);
    wait_for_state(&api, &id, "completed").await;
    let again = api.post("/v1/jobs", &job).await.unwrap();

    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    assert_eq!(again.json()["state"], "completed");
    // Another tenant's id is taken, and nothing of it is shown.
    let token = cluster
        .token(Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let foreign = api.with_token(&token).post("/v1/jobs", &job).await.unwrap();
    foreign.problem(409).unwrap();
    assert!(!foreign.text.contains("acme"));
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_batch_takes_what_is_good_and_answers_for_each_line_that_is_not() {
    let (cluster, _, api) = quiet().await;
    let body = [
        r#"{"kind":"echo","args":{"n":1}}"#,
        "",
        r#"{"kind":"Echo"}"#,
        "nonsense",
        r#"{"kind":"echo","dedup_key":"k"}"#,
        r#"{"kind":"echo","dedup_key":"k"}"#,
        r#"{"kind":"echo","dedup_key":"k","args":2}"#,
        r#"{"kind":"echo","tenant":"umbrella"}"#,
        r#"{"kind":"webhook","args":{"url":"http://169.254.169.254/"}}"#,
        r#"{"kind":"echo","priority":9}"#,
    ]
    .join("\n");

    let answer = api
        .raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();

    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.content_type, "application/x-ndjson");
    let mut lines = answer.lines();
    let counts = lines.pop().expect("the counts come last");
    assert_eq!(
        counts,
        json!({"accepted": 2, "duplicates": 1, "rejected": 6, "complete": true})
    );
    let mut refused: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["line"].as_u64().unwrap(),
                line["error"]["pointer"].as_str().unwrap_or(""),
            )
        })
        .collect();
    refused.sort_unstable();
    assert_eq!(
        refused,
        [
            (3, "/kind"),
            (4, ""),
            (7, "/dedup_key"),
            (8, "/tenant"),
            (9, "/args/url"),
            (10, "/priority")
        ]
    );
    let count = cluster
        .query("select count(*) from postroad.job", &[])
        .await
        .unwrap();
    assert_eq!(count[0].get::<_, i64>(0), 2);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_lines_go_through_in_constant_memory() {
    let (cluster, id, api) = quiet().await;
    const LINES: usize = 100_000;
    let small = cluster.footprint(id).unwrap().rss_bytes;
    let chunks = futures_util::stream::iter((0..LINES / 1000).map(|chunk| {
        let lines: String = (0..1000)
            .map(|n| {
                format!(
                    "{{\"kind\":\"echo\",\"args\":{{\"n\":{}}},\"delay\":\"1h\"}}\n",
                    chunk * 1000 + n
                )
            })
            .collect();
        Ok::<_, std::io::Error>(lines)
    }));

    let answer = api
        .raw(
            Method::POST,
            "/v1/jobs/batch",
            "application/x-ndjson",
            reqwest::Body::wrap_stream(chunks),
        )
        .await
        .unwrap();

    assert_eq!(answer.lines().pop().unwrap()["accepted"], LINES);
    let grown = cluster
        .footprint(id)
        .unwrap()
        .rss_bytes
        .saturating_sub(small);
    assert!(grown < 64 << 20, "{grown} bytes more for 5 MB of lines");
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn pages_hold_every_job_once_newest_first_with_any_filter() {
    let (cluster, _, api) = quiet().await;
    let mut body = String::new();
    for n in 0..450 {
        let (kind, queue) = (["echo", "other"][n % 2], ["default", "bulk", "slow"][n % 3]);
        body.push_str(&json!({"kind": kind, "queue": queue, "delay": "1h"}).to_string());
        body.push('\n');
    }
    let answer = api
        .raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();
    assert_eq!(answer.lines().pop().unwrap()["accepted"], 450);

    for (filter, expected) in [
        ("", 450),
        ("&kind=echo", 225),
        ("&kind=echo&queue=slow", 75),
        ("&state=scheduled", 450),
        ("&state=completed", 0),
        ("&kind=nobody", 0),
    ] {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api
                .get(&format!("/v1/jobs?limit=100{filter}{cursor}"))
                .await
                .unwrap()
                .json();
            ids.extend(page["items"].as_array().unwrap().iter().map(id_of));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(ids.len(), expected, "{filter}");
        assert!(
            ids.windows(2).all(|two| two[0] > two[1]),
            "{filter}: not newest first"
        );
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_scheduled_job_is_cancelled_and_comes_back_when_it_is_retried() {
    let (cluster, _, api) = busy().await;
    let job = api
        .post(
            "/v1/jobs",
            &json!({"kind": "echo", "delay": "1h", "args": [1]}),
        )
        .await
        .unwrap()
        .json();
    let id = id_of(&job);

    let cancelled = api
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .unwrap();
    assert_eq!(cancelled.status, StatusCode::OK, "{cancelled:?}");
    assert_eq!(cancelled.json()["state"], "cancelled");
    let again = api
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .unwrap();
    assert_eq!(
        again.status,
        StatusCode::OK,
        "cancelling twice is cancelling once"
    );

    let retried = api
        .post(&format!("/v1/jobs/{id}/retry"), &json!({}))
        .await
        .unwrap();
    assert_eq!(retried.status, StatusCode::OK, "{retried:?}");
    let done = wait_for_state(&api, &id, "completed").await;
    assert_eq!(done["result"], json!([1]));
    api.post(&format!("/v1/jobs/{id}/retry"), &json!({}))
        .await
        .unwrap()
        .problem(409)
        .unwrap();
    let ledger = api.get("/v1/ledger").await.unwrap().json();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    assert_eq!(ledger["tenants"][0]["accepted"], 1, "{ledger}");
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_running_job_learns_that_it_is_called_off_and_ends_cancelled() {
    let (cluster, _, api) = busy().await;
    cluster.provider.set(slow()).unwrap();
    let url = format!("{}/webhook", cluster.provider.url());
    let job = api
        .post(
            "/v1/jobs",
            &json!({"kind": "webhook", "args": {"url": url, "body": "x"}}),
        )
        .await
        .unwrap();
    let id = id_of(&job.json());
    wait_for_state(&api, &id, "running").await;

    let asked = api
        .post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .unwrap();

    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    assert!(asked.json()["cancel_requested_at"].is_string());
    let ended = wait_for_state(&api, &id, "cancelled").await;
    assert_eq!(ended["attempt"], 1);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_running_job_that_may_not_be_repeated_is_held_when_it_is_called_off() {
    let (cluster, _, api) = busy().await;
    cluster.provider.set(slow()).unwrap();
    let job = api
        .post(
            "/v1/jobs",
            &json!({"kind": "sms", "args": {"to": "+33639980606", "text": "hi"}}),
        )
        .await
        .unwrap();
    let id = id_of(&job.json());
    wait_for_state(&api, &id, "running").await;

    api.post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .unwrap();

    wait_for_state(&api, &id, "held").await;
    api.post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
        .await
        .unwrap()
        .problem(409)
        .unwrap();
    let resolved = api
        .post(
            &format!("/v1/jobs/{id}/resolve"),
            &json!({"verdict": "dead"}),
        )
        .await
        .unwrap();
    assert_eq!(resolved.json()["state"], "dead", "{resolved:?}");
    api.post(
        &format!("/v1/jobs/{id}/resolve"),
        &json!({"verdict": "dead"}),
    )
    .await
    .unwrap()
    .problem(409)
    .unwrap();
    cluster.take_down().await.unwrap();
}

fn slow() -> postroad_tests::simulator::Behaviour {
    postroad_tests::simulator::Behaviour {
        latency: postroad_tests::simulator::Latency::Fixed(Duration::from_secs(20)),
        ..Default::default()
    }
}

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
    for (body, pointer) in [
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
    for name in ["nobody", "No%20Name", "%00", "..%2f.."] {
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

    // A second's worth at once, and eighty at twenty a second.
    assert!(
        started.elapsed() >= Duration::from_millis(3900),
        "{:?}",
        started.elapsed()
    );
    cluster.finish().await.unwrap();
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
