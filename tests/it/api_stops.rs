//! The kill switch over HTTP: who may stop what, and what the answers say.

use postroad_common::token::Permission;
use postroad_tests::harness::cluster::eventually;
use reqwest::StatusCode;
use serde_json::json;

use crate::api_fixture::{busy, id_of, pages, quiet, wait_for_state};

#[tokio::test]
async fn a_stop_is_in_force_with_its_answer_and_says_where_the_jobs_are() {
    let (cluster, _, api) = busy().await;
    let made = api
        .post(
            "/v1/stops",
            &json!({"mode": "pause", "kind": "echo", "reason": "wrong text"}),
        )
        .await
        .unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let stop = made.json();
    assert_eq!(stop["tenant"], "acme");
    assert_eq!(
        stop["named"],
        json!({"waiting": 0, "in_pipe": 0, "too_late": 0})
    );
    let path = format!("/v1/stops/{}", id_of(&stop));

    let job = api
        .post("/v1/jobs", &json!({"kind": "echo"}))
        .await
        .unwrap();
    let id = id_of(&job.json());
    eventually("a claim has met it", async || {
        let stop = api.get(&path).await?.json();
        anyhow::ensure!(stop["stopped"]["waiting"] == 1, "{stop}");
        Ok(())
    })
    .await
    .unwrap();
    wait_for_state(&api, &id, "scheduled").await;
    let queues = api.get("/v1/queues").await.unwrap().json();
    let queue = queues["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "default");
    assert_eq!(queue.unwrap()["stopped"], 1, "{queues}");

    let lifted = api.post(&format!("{path}/lift"), &json!({})).await.unwrap();
    assert_eq!(lifted.status, StatusCode::OK, "{lifted:?}");
    assert!(lifted.json()["lifted_at"].is_string());
    wait_for_state(&api, &id, "completed").await;
    let again = api.post(&format!("{path}/lift"), &json!({})).await.unwrap();
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenant_stops_its_own_jobs_only_and_sees_its_own_stops_only() {
    let (cluster, program, acme) = quiet().await;
    let other = cluster
        .client(program, Some("other"), &Permission::ALL)
        .await
        .unwrap();
    let operator = cluster
        .client(program, None, &Permission::ALL)
        .await
        .unwrap();
    let of_operator = operator
        .post("/v1/stops", &json!({"mode": "pause", "queue": "default"}))
        .await
        .unwrap();
    assert_eq!(of_operator.status, StatusCode::CREATED, "{of_operator:?}");
    let of_acme = acme
        .post("/v1/stops", &json!({"mode": "pause"}))
        .await
        .unwrap();
    assert_eq!(
        of_acme.json()["tenant"],
        "acme",
        "a tenant's token names its tenant"
    );

    let refused = other
        .post("/v1/stops", &json!({"mode": "pause", "tenant": "acme"}))
        .await
        .unwrap();
    assert_eq!(
        refused.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{refused:?}"
    );
    assert_eq!(refused.json()["pointer"], "/tenant");
    for stop in [&of_acme, &of_operator] {
        let path = format!("/v1/stops/{}", id_of(&stop.json()));
        assert_eq!(
            other.get(&path).await.unwrap().status,
            StatusCode::NOT_FOUND
        );
        let lift = other
            .post(&format!("{path}/lift"), &json!({}))
            .await
            .unwrap();
        assert_eq!(lift.status, StatusCode::NOT_FOUND);
    }
    let listed = |api| async move {
        let api: &postroad_tests::harness::api::Api = api;
        let page = api.get("/v1/stops").await.unwrap().json();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(listed(&other).await, 0);
    assert_eq!(listed(&acme).await, 1);
    assert_eq!(listed(&operator).await, 2);
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn what_an_operator_has_stopped_only_an_operator_lets_go_on() {
    let (cluster, program, acme) = quiet().await;
    let operator = cluster
        .client(program, None, &Permission::ALL)
        .await
        .unwrap();
    let body = json!({"mode": "pause", "tenant": "acme", "reason": "too many complaints"});
    let stop = operator.post("/v1/stops", &body).await.unwrap().json();
    let path = format!("/v1/stops/{}", id_of(&stop));

    let seen = acme.get(&path).await.unwrap().json();
    assert_eq!(seen["reason"], "too many complaints");
    assert_eq!(
        seen["actor"], "operator",
        "who it was is not the tenant's to know"
    );
    let lift = acme
        .post(&format!("{path}/lift"), &json!({}))
        .await
        .unwrap();
    assert_eq!(lift.status, StatusCode::CONFLICT, "{lift:?}");
    let lift = operator
        .post(&format!("{path}/lift"), &json!({}))
        .await
        .unwrap();
    assert_eq!(lift.status, StatusCode::OK, "{lift:?}");
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn stops_are_listed_page_by_page_newest_first() {
    let (cluster, _, api) = quiet().await;
    let mut made = Vec::new();
    for n in 0..5 {
        // Five that pause the same would be one.
        let stop = json!({"mode": "cancel", "kind": "echo", "reason": format!("number {n}")});
        made.push(id_of(&api.post("/v1/stops", &stop).await.unwrap().json()));
    }
    api.post(&format!("/v1/stops/{}/lift", made[4]), &json!({}))
        .await
        .unwrap();
    made.reverse();

    let seen = pages(&api, "/v1/stops?all=true&limit=2").await.unwrap();
    let seen: Vec<_> = seen.iter().map(id_of).collect();

    assert_eq!(seen, made);
    let in_force = api.get("/v1/stops").await.unwrap().json();
    assert_eq!(in_force["items"].as_array().unwrap().len(), 4);
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_stop_is_refused_and_says_where() {
    let (cluster, program, api) = quiet().await;
    let operator = cluster
        .client(program, None, &Permission::ALL)
        .await
        .unwrap();
    for (body, pointer) in [
        (json!({"mode": "pause"}), ""),
        (json!({"mode": "off", "kind": "echo"}), "/mode"),
        (json!({"kind": "echo"}), "/mode"),
        (json!({"mode": "pause", "kind": "no-such"}), "/kind"),
        (json!({"mode": "pause", "queue": "no-such"}), "/queue"),
        (json!({"mode": "pause", "kind": "Not A Name"}), "/kind"),
        (json!({"mode": "pause", "queue": "Not A Name"}), "/queue"),
        (json!({"mode": "pause", "tenant": "no-such"}), "/tenant"),
        (
            json!({"mode": "pause", "kind": "echo", "reason": "x".repeat(501)}),
            "/reason",
        ),
        (
            json!({"mode": "pause", "kind": "echo", "reason": "a\u{0}b"}),
            "/reason",
        ),
        (
            json!({"mode": "pause", "kind": "echo", "until": "noon"}),
            "/until",
        ),
    ] {
        let refused = operator.post("/v1/stops", &body).await.unwrap();
        assert_eq!(
            refused.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{body}: {refused:?}"
        );
        assert_eq!(refused.json()["pointer"], pointer, "{body}: {refused:?}");
    }
    for path in [
        "/v1/stops?limit=0",
        "/v1/stops?cursor=x",
        "/v1/stops?some=1",
    ] {
        let refused = api.get(path).await.unwrap();
        assert_eq!(
            refused.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path}: {refused:?}"
        );
    }
    for path in [
        "/v1/stops/x",
        "/v1/stops/0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
    ] {
        assert_eq!(
            api.get(path).await.unwrap().status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    cluster.finish().await.unwrap();
}
