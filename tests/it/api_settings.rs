//! What is set for a tenant, over HTTP: what is its own to set, and what is not.

use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api_fixture::quiet;

async fn patch(api: &Api, path: &str, body: Value) -> Answer {
    api.call(Method::PATCH, path, &body).await.unwrap()
}

fn pointers(answer: &Answer) -> Vec<String> {
    answer.problem(422).unwrap();
    let problem = answer.json();
    let pointer = |one: &Value| one["pointer"].as_str().unwrap().to_owned();
    match problem["errors"].as_array() {
        Some(errors) => errors.iter().map(pointer).collect(),
        None => vec![pointer(&problem)],
    }
}

#[tokio::test]
async fn a_tenant_sets_what_is_its_own_and_an_operator_the_limits() {
    let (cluster, id, acme) = quiet().await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let own = json!({
        "language": "FR_ca", "timezone": "Europe/Paris", "sms_sender": "ACME",
        "default_priority": 2, "default_max_attempts": 5, "default_expires_after": "1d",
    });
    let set = patch(&acme, "/v1/settings", own).await;
    assert_eq!(set.status.as_u16(), 200, "{set:?}");
    let expected = json!({
        "tenant": "acme", "language": "fr-CA", "timezone": "Europe/Paris", "sms_sender": "ACME",
        "default_priority": 2, "default_max_attempts": 5, "default_expires_after_seconds": 86400.0,
        "weight": 1, "unfinished_max": null, "submit_rate": null,
        "in_pipe_max": null, "rate_per_second": null,
    });
    assert_eq!(set.json(), expected);

    let limits =
        json!({"weight": 5, "unfinished_max": null, "submit_rate": 100, "timezone": "Mars"});
    let refused = patch(&acme, "/v1/settings", limits).await;
    let four = ["/weight", "/unfinished_max", "/submit_rate", "/timezone"];
    assert_eq!(pointers(&refused), four);
    assert_eq!(acme.get("/v1/settings").await.unwrap().json(), expected);

    let limits = json!({"weight": 5, "submit_rate": 100, "language": null});
    let set = patch(&operator, "/v1/settings?tenant=acme", limits)
        .await
        .json();
    assert_eq!(set["submit_rate"], 100, "{set}");
    let shown = acme.get("/v1/settings").await.unwrap().json();
    assert_eq!(
        (&shown["weight"], &shown["language"]),
        (&json!(5), &Value::Null)
    );

    let log = "select target, detail::text, actor like 'token:%' and request_id is not null
        from postroad.audit_log where action = 'tenant.set' order by id";
    let rows = cluster.query(log, &[]).await.unwrap();
    let last = rows.last().unwrap();
    assert_eq!((rows.len(), last.get::<_, &str>(0)), (2, "acme"));
    let detail: Value = serde_json::from_str(last.get(1)).unwrap();
    assert_eq!(
        detail,
        json!({"weight": 5, "submit_rate": 100, "language": null})
    );
    assert!(last.get::<_, bool>(2));
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn settings_of_another_tenant_are_not_there_and_bad_ones_are_told_all_at_once() {
    let (cluster, id, acme) = quiet().await;
    let other = cluster
        .client(id, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    for path in ["/v1/settings?tenant=acme", "/v1/settings?tenant=nobody"] {
        other.get(path).await.unwrap().problem(422).unwrap();
        patch(&other, path, json!({"language": "fr"}))
            .await
            .problem(422)
            .unwrap();
    }
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let nobodys = patch(&operator, "/v1/settings?tenant=nobody", json!({})).await;
    nobodys.problem(422).unwrap();

    let wrong = json!({
        "default_priority": 4, "default_max_attempts": 0, "default_expires_after": "367d",
        "language": "french", "timezone": "CET", "sms_sender": "ACME Corp",
    });
    let all = wrong
        .as_object()
        .unwrap()
        .keys()
        .map(|field| format!("/{field}"));
    let mut all: Vec<_> = all.collect();
    let mut told = pointers(&patch(&acme, "/v1/settings", wrong).await);
    all.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, all);
    for (field, bad) in [
        ("sms_sender", json!("123456")),
        ("sms_sender", json!("abcdefghijkl")),
        ("sms_sender", json!("ACME\r\nx: y")),
        ("sms_sender", json!("")),
        ("timezone", json!("")),
        ("timezone", json!("Europe/Paris\u{0}")),
        ("timezone", json!("x".repeat(100_000))),
        ("language", json!("fr-")),
        ("language", json!(5)),
        ("default_expires_after", json!("99999999999999999999d")),
        ("default_priority", json!(-1)),
        ("colour", json!("red")),
    ] {
        let answer = patch(&acme, "/v1/settings", json!({ field: bad })).await;
        assert_eq!(answer.status.as_u16(), 422, "{field} {bad}: {answer:?}");
    }
    let untouched = acme.get("/v1/settings").await.unwrap().json();
    assert_eq!(untouched["sms_sender"], Value::Null, "{untouched}");
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_session_of_a_tenants_changes_neither_its_limits_nor_another_tenant() {
    let (cluster, _, _) = quiet().await;
    let ids = "select postroad.tenant_id('acme'), postroad.tenant_id('umbrella')";
    let ids = cluster.query(ids, &[]).await.unwrap();
    let (acme, other): (i32, i32) = (ids[0].get(0), ids[0].get(1));
    let url = cluster.database_url_for("postroad-api").unwrap();
    let (mut client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut set = async |scope: &str, what: &str, id: i32| {
        let transaction = client.transaction().await.unwrap();
        let enter = "select set_config('postroad.tenant', $1, true)";
        transaction.execute(enter, &[&scope]).await.unwrap();
        let sql = format!("update postroad.tenant set {what} where id = $1");
        let done = transaction.execute(&sql, &[&id]).await;
        transaction.commit().await.unwrap();
        done.map_err(|error| error.code().unwrap().code().to_owned())
    };
    let refused = Err("42501".to_owned());
    let own = acme.to_string();
    assert_eq!(
        set(&own, "language = 'fr', weight = weight", acme).await,
        Ok(1)
    );
    for limit in [
        "weight = 9",
        "unfinished_max = 9",
        "submit_rate = 9",
        "in_pipe_max = 9",
        "rate_per_second = 9",
    ] {
        assert_eq!(set(&own, limit, acme).await, refused, "{limit}");
        assert_eq!(set(&own, limit, other).await, Ok(0), "it is not there");
        assert_eq!(set("", limit, acme).await, Ok(0), "nobody's");
        assert_eq!(set("*", limit, acme).await, Ok(1), "an operator's");
    }
    for never in ["disabled_at = now()", "name = 'umbrella2'"] {
        assert_eq!(set("*", never, acme).await, refused, "{never}");
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn schedules_and_campaigns_that_name_none_have_their_tenants_zone_and_language() {
    let (cluster, _, acme) = quiet().await;
    let set = json!({"language": "fr", "timezone": "Asia/Tokyo"});
    assert_eq!(patch(&acme, "/v1/settings", set).await.status.as_u16(), 200);
    let schedule = |name: &str| json!({"name": name, "cron": "@daily", "kind": "echo"});
    postroad_tests::harness::cluster::eventually("the zone is in force", async || {
        let made = acme.post("/v1/schedules", &schedule("own")).await?;
        let zone = made.json()["timezone"].clone();
        acme.call(Method::DELETE, "/v1/schedules/own", &json!({}))
            .await?;
        anyhow::ensure!(zone == "Asia/Tokyo", "{zone}");
        Ok(())
    })
    .await
    .unwrap();
    let mut named = schedule("named");
    named["timezone"] = json!("UTC");
    let made = acme.post("/v1/schedules", &named).await.unwrap().json();
    assert_eq!(made["timezone"], "UTC");
    // What is there is not the tenant's any more.
    let paused = patch(&acme, "/v1/schedules/named", json!({"cron": "@hourly"})).await;
    assert_eq!(paused.json()["timezone"], "UTC");

    let args = json!({"fr": {"to": "{{to}}", "text": "{{timezone}}"}});
    let content = json!({"channels": {"sms": {"kind": "sms", "args": args}}});
    let made = acme
        .post("/v1/campaigns", &json!({"name": "c", "content": content}))
        .await
        .unwrap();
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    let path = format!("/v1/campaigns/{}", made.json()["id"].as_str().unwrap());
    let csv = "to\n+33639980601\n";
    let recipients = format!("{path}/recipients");
    acme.raw(Method::PUT, &recipients, "text/csv", csv)
        .await
        .unwrap();
    // Fixed when it was made.
    patch(
        &acme,
        "/v1/settings",
        json!({"language": null, "timezone": null}),
    )
    .await;
    let preview = acme.get(&format!("{path}/preview")).await.unwrap();
    let sample = preview.json()["samples"][0].clone();
    assert_eq!(sample["language"], "fr", "{preview:?}");
    assert_eq!(sample["args"]["text"], "Asia/Tokyo", "{preview:?}");
    cluster.take_down().await.unwrap();
}
