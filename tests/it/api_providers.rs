//! Providers over HTTP: set by operators, and what is refused.

use std::collections::BTreeSet;

use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::quiet;

const GATEWAY: &str = "/v1/providers/gateway";

#[tokio::test]
async fn a_provider_is_made_set_given_queues_and_deleted_when_none_is_left() {
    let (cluster, id, _) = quiet().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let call =
        async |method, path: &str, body: Value| operator.call(method, path, &body).await.unwrap();
    let settings = json!({"unanswered_max": 100, "rate_per_second": 500});
    let made = call(Method::PUT, GATEWAY, settings).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json();
    assert_eq!(made["failure_max"], 0.5);
    assert_eq!(
        (&made["queues"], &made["breakers"]),
        (&json!([]), &json!([]))
    );
    let set = call(Method::PUT, GATEWAY, json!({"failure_max": null})).await;
    assert_eq!(set.status, StatusCode::OK);
    let set = set.json();
    assert_eq!(
        (&set["rate_per_second"], &set["failure_max"]),
        (&json!(null), &json!(null)),
        "all of it is set"
    );

    let queue = "/v1/queues/default";
    let queue =
        async |provider: Value| call(Method::PATCH, queue, json!({"provider": provider})).await;
    assert_eq!(queue(json!("gateway")).await.json()["provider"], "gateway");
    let unknown = queue(json!("nobody")).await;
    assert_eq!(unknown.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(unknown.json()["pointer"], "/provider");
    let in_use = call(Method::DELETE, GATEWAY, json!({})).await;
    assert_eq!(in_use.status, StatusCode::CONFLICT);
    let shown = operator.get(GATEWAY).await.unwrap().json();
    assert_eq!(shown["queues"], json!(["default"]));

    let closed = call(Method::POST, "/v1/providers/gateway/close", json!({})).await;
    assert_eq!(closed.json(), json!({"closed": 0}));
    assert_eq!(queue(json!(null)).await.json()["provider"], json!(null));
    let gone = call(Method::DELETE, GATEWAY, json!({})).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    for (method, path) in [
        (Method::DELETE, GATEWAY),
        (Method::POST, "/v1/providers/gateway/close"),
    ] {
        let answer = call(method, path, json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    cluster.take_down().await.unwrap();
}

/// Why its jobs wait is a tenant's to know: its own breaker, and the one that keeps everybody's back.
#[tokio::test]
async fn a_tenant_sees_the_breakers_that_keep_its_jobs_back() {
    let (cluster, id, acme) = quiet().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let made = operator.call(Method::PUT, GATEWAY, &json!({})).await;
    assert_eq!(made.unwrap().status, StatusCode::CREATED);
    let open = "insert into postroad.breaker (provider_id, tenant_id, probe_at, rest, reason)
        select v.id, t.id, now() + interval '1 h', '1 h', 'it timed out'
        from postroad.provider v, (select 0 as id union all select postroad.tenant_id(name)
                                   from unnest(array['acme', 'other']) name) t";
    cluster.query(open, &[]).await.unwrap();
    let whose = async |client: &Api| {
        let breakers = client.get(GATEWAY).await.unwrap().json()["breakers"].clone();
        let of = |breaker: &Value| breaker["tenant"].as_str().map(str::to_owned);
        let whose = breakers.as_array().unwrap().iter().map(of);
        whose.collect::<BTreeSet<_>>()
    };
    let expected = |names: &[&str]| {
        let names = names.iter().map(|name| Some((*name).to_owned()));
        names.chain([None]).collect::<BTreeSet<_>>()
    };
    assert_eq!(whose(&acme).await, expected(&["acme"]));
    assert_eq!(whose(&operator).await, expected(&["acme", "other"]));
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_and_tenants_set_nothing() {
    let (cluster, id, acme) = quiet().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    for (body, pointer) in [
        (json!({"unanswered_max": 0}), "/unanswered_max"),
        (json!({"unanswered_max": 2001}), "/unanswered_max"),
        (json!({"rate_per_second": 0}), "/rate_per_second"),
        (json!({"retries_per_second": -1}), "/retries_per_second"),
        (json!({"failure_max": 0}), "/failure_max"),
        (json!({"failure_max": 1.01}), "/failure_max"),
        (json!({"rate_per_second": 1.5}), "/rate_per_second"),
        (json!({"rate": 5}), "/rate"),
    ] {
        let answer = operator.call(Method::PUT, GATEWAY, &body).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(answer.json()["pointer"], pointer, "{body}");
    }
    let zero = operator
        .call(Method::PUT, GATEWAY, &json!({"rate_per_second": 0}))
        .await
        .unwrap();
    let detail = zero.json()["detail"].to_string();
    assert!(detail.contains("make a stop"), "{detail}");
    let bad_name = operator
        .call(Method::PUT, "/v1/providers/No%20Name", &json!({}))
        .await
        .unwrap();
    assert_eq!(bad_name.status, StatusCode::UNPROCESSABLE_ENTITY);
    let stop = operator
        .call(
            Method::POST,
            "/v1/stops",
            &json!({"mode": "pause", "provider": "nobody"}),
        )
        .await
        .unwrap();
    assert_eq!(stop.json()["pointer"], "/provider");

    let answer = acme.call(Method::PUT, GATEWAY, &json!({})).await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(
        acme.get("/v1/providers").await.unwrap().json()["items"],
        json!([])
    );
    cluster.take_down().await.unwrap();
}
