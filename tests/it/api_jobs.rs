//! Jobs over HTTP: in, looked at, called off, run again, decided about.

use std::time::Duration;

use postroad_common::token::Permission;
use postroad_tests::harness::cluster::eventually;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::api_fixture::{busy, id_of, pages, quiet, wait_for_state};

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
    let job_of_key = first.json();
    assert_eq!(job_of_key["dedup_key"], "order-17");
    let path = format!("/v1/jobs/{}", id_of(&job_of_key));
    assert_eq!(api.get(&path).await.unwrap().json(), job_of_key);
    let page = api.get("/v1/jobs").await.unwrap().json();
    assert_eq!(page["items"], json!([job_of_key]));
    let timed = json!({
        "kind": "echo", "dedup_key": "order-18",
        "run_at": "2100-01-01T00:00:00Z", "expires_at": "2100-01-02T00:00:00Z",
    });
    api.post("/v1/jobs", &timed).await.unwrap();
    let mut elsewhere = timed.clone();
    elsewhere["run_at"] = json!("2100-01-01T02:00:00+02:00");
    let again = api.post("/v1/jobs", &elsewhere).await.unwrap();
    assert_eq!(again.status, StatusCode::OK, "the same moment: {again:?}");
    for (original, field, value) in [
        (&job, "args", json!({"n": 2})),
        (&job, "delay", json!("2h")),
        (&job, "priority", json!(2)),
        (&job, "queue", json!("other")),
        (&job, "max_attempts", json!(3)),
        (&job, "on_lost", json!("hold")),
        (&job, "expires_at", json!("2100-01-02T00:00:00Z")),
        (&timed, "run_at", json!("2100-01-01T00:00:01Z")),
        (&timed, "run_at", json!(null)),
        (&timed, "expires_at", json!("2100-01-02T00:00:01Z")),
        (&timed, "expires_at", json!(null)),
    ] {
        let mut other = original.clone();
        other[field] = value.clone();
        let refused = api.post("/v1/jobs", &other).await.unwrap();
        let pointer = refused.problem(409).unwrap();
        assert_eq!(pointer.as_deref(), Some("/dedup_key"), "{field}: {value}");
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
    assert_eq!(count[0].get::<_, i64>(0), 4);
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
        let items = pages(&api, &format!("/v1/jobs?limit=100{filter}")).await;
        let ids: Vec<_> = items.unwrap().iter().map(id_of).collect();
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

#[tokio::test]
async fn a_held_job_becomes_what_is_decided_and_nothing_by_another_word() {
    let (cluster, _, api) = quiet().await;
    for (verdict, state) in [
        ("completed", "completed"),
        ("retry", "scheduled"),
        ("dead", "dead"),
    ] {
        let new =
            json!({"kind": "sms", "delay": "1h", "args": {"to": "+33639980606", "text": "hi"}});
        let job = api.post("/v1/jobs", &new).await.unwrap().json();
        let path = format!("/v1/jobs/{}/resolve", id_of(&job));
        let decision = json!({"verdict": verdict});
        let too_early = api.post(&path, &decision).await.unwrap();
        too_early.problem(409).unwrap();
        cluster.hold(&id_of(&job)).await.unwrap();
        for (body, pointer) in [
            (json!({}), ""),
            (json!([verdict]), ""),
            (json!({"verdict": null}), "/verdict"),
            (json!({"verdict": ""}), "/verdict"),
            (json!({"verdict": 1}), "/verdict"),
            (json!({"verdict": verdict.to_uppercase()}), "/verdict"),
            (json!({"verdict": "cancelled"}), "/verdict"),
            (json!({"verdict": verdict, "colour": 1}), "/colour"),
        ] {
            let refused = api.post(&path, &body).await.unwrap();
            let at = refused.problem(422).unwrap();
            assert_eq!(at.as_deref(), Some(pointer), "{body}");
        }
        wait_for_state(&api, &id_of(&job), "held").await;

        let resolved = api.post(&path, &decision).await.unwrap();

        assert_eq!(resolved.status, StatusCode::OK, "{resolved:?}");
        let resolved = resolved.json();
        assert_eq!(resolved["state"], state, "{resolved}");
        // What is to run again is due, and not when it was first.
        let is_due = resolved["run_at"].as_str() < job["run_at"].as_str();
        assert_eq!(is_due, verdict == "retry", "{resolved}");
        api.post(&path, &decision)
            .await
            .unwrap()
            .problem(409)
            .unwrap();
    }
    let ledger = api.get("/v1/ledger").await.unwrap().json();
    assert_eq!(ledger["balanced"], true, "{ledger}");
    cluster.take_down().await.unwrap();
}

fn slow() -> postroad_tests::simulator::Behaviour {
    postroad_tests::simulator::Behaviour {
        latency: postroad_tests::simulator::Latency::Fixed(Duration::from_secs(20)),
        ..Default::default()
    }
}
