//! Campaigns for audiences over HTTP: accepted in one request whatever the size, refused at their place,
//! and another tenant's audience is none. No scheduler is there.

use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::{id_of, quiet};

fn campaign(audience: &Value) -> Value {
    json!({
        "name": "spring",
        "audience": audience,
        "content": {
            "channels": {
                "sms": {"kind": "sms", "cost": 0.05, "args": {
                    "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                    "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
                }},
                "note": {"kind": "echo", "args": {"en": {"for": "{{to}}"}}},
            },
            "channel": "sms",
            "language": "en",
            "variables": {"name": {"default": "friend"}},
            "currency": "EUR",
        },
    })
}

async fn make(api: &Api, audience: &Value) -> Answer {
    let path = "/v1/campaigns";
    let answer = api.post(path, &campaign(audience)).await.unwrap();
    assert!(answer.status.as_u16() < 500, "{answer:?}");
    answer
}

async fn draft(api: &Api, audience: &Value) -> String {
    let made = make(api, audience).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    format!("/v1/campaigns/{}", id_of(&made.json()))
}

async fn set(api: &Api, name: &str, rules: &Value) {
    let path = format!("/v1/audiences/{name}");
    let body = json!({"rules": rules});
    let put = api.call(Method::PUT, &path, &body).await.unwrap();
    assert!(put.status.is_success(), "{put:?}");
}

async fn put(api: &Api, key: &str, recipient: &Value) {
    let path = format!("/v1/recipients/{key}");
    let put = api.call(Method::PUT, &path, recipient).await.unwrap();
    assert!(put.status.is_success(), "{put:?}");
}

#[tokio::test]
async fn an_audience_that_cannot_be_used_is_refused_at_its_place_and_another_tenants_is_none() {
    let (cluster, program, api) = quiet().await;
    let other = cluster.client(program, Some("other"), &Permission::ALL);
    let other = other.await.unwrap();
    set(&other, "theirs", &json!({"all": true})).await;
    set(&api, "newer", &json!({"all": true})).await;
    let sql = "update postroad.audience set rules = '{\"moon\":1}' where name = 'newer'";
    cluster.query(sql, &[]).await.unwrap();

    let mut told = Vec::new();
    for (audience, pointer, what) in [
        (json!("theirs"), "/audience", "there is no such audience"),
        (json!("nowhere"), "/audience", "there is no such audience"),
        (
            json!("newer"),
            "/audience",
            "rules of this audience cannot be read",
        ),
        (json!("No name"), "/audience", "is no name"),
        (json!(5), "/audience", "must be the name of an audience"),
        (
            json!([{"all": true}]),
            "/audience",
            "must be the name of an audience",
        ),
        (json!({}), "/audience", "exactly one condition"),
        (json!({"moon": 1}), "/audience/moon", "condition"),
        (
            json!({"or": [{"country": ["fr"]}]}),
            "/audience/or/0/country/0",
            "two capital",
        ),
    ] {
        let refused = make(&api, &audience).await;
        let place = refused.problem(422).unwrap();
        assert_eq!(place.as_deref(), Some(pointer), "{refused:?}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(what), "{audience}: {detail}");
        told.push(detail);
    }
    assert_eq!(told[0], told[1], "whose it is, is not told");
    let without = campaign(&Value::Null);
    let started = api.post("/v1/campaigns?start=true", &without);
    started.await.unwrap().problem(422).unwrap();

    // Rules can ask what is known of recipients.
    let only = [Permission::CampaignsRead, Permission::CampaignsWrite];
    let blind = cluster.client(program, Some("acme"), &only).await.unwrap();
    for audience in [json!("newer"), json!({"all": true})] {
        make(&blind, &audience).await.problem(403).unwrap();
    }
    let sql = "select count(*) from postroad.campaign";
    let made: i64 = cluster.query(sql, &[]).await.unwrap()[0].get(0);
    assert_eq!(made, 0);
}

#[tokio::test]
async fn a_campaign_has_one_source_and_an_audience_is_as_it_was_when_it_was_made() {
    let (cluster, _, api) = quiet().await;
    set(&api, "active", &json!({"country": ["FR"]})).await;
    let path = draft(&api, &json!("active")).await;

    // Nothing was counted, and an upload is not for it.
    let made = api.get(&path).await.unwrap().json();
    assert_eq!(made["progress"]["planned"], Value::Null);
    assert_eq!(made["progress"]["planned_is"], "unknown");
    assert_eq!(
        (&made["source"], &made["audience"]),
        (&json!("audience"), &json!("active"))
    );
    let upload = format!("{path}/recipients");
    let csv = "to\n+33639980001\n";
    let refused = api
        .raw(Method::PUT, &upload, "text/csv", csv)
        .await
        .unwrap();
    refused.problem(409).unwrap();
    assert!(refused.text.contains("for an audience"), "{refused:?}");

    // The rules are its own.
    set(&api, "active", &json!({"country": ["DE"]})).await;
    let audience = api.request(Method::DELETE, "/v1/audiences/active");
    api.send(audience).await.unwrap();
    let preview = api.get(&format!("{path}/preview")).await.unwrap().json();
    assert_eq!(preview["rules"], json!({"country": ["FR"]}), "{preview}");

    let mut states = Vec::new();
    for action in ["start", "pause", "resume", "cancel", "resume"] {
        let done = api
            .post(&format!("{path}/{action}"), &json!({}))
            .await
            .unwrap();
        assert_eq!(done.status, StatusCode::OK, "{action}: {done:?}");
        states.push(done.json()["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        states,
        ["running", "paused", "running", "cancelled", "running"]
    );

    // A scheduler that knows of no audiences cannot call it done, nor can it have both sources.
    for change in ["state = 'finished'", "upload = gen_random_uuid()"] {
        let sql = format!("update postroad.campaign set {change}");
        let session = cluster.session().await.unwrap();
        let error = session.batch_execute(&sql).await.unwrap_err();
        let error = error.as_db_error().unwrap().constraint().map(str::to_owned);
        assert!(error.is_some(), "{change}");
    }
    // Neither source is no campaign that runs.
    let neither = draft(&api, &Value::Null).await;
    let refused = api
        .post(&format!("{neither}/start"), &json!({}))
        .await
        .unwrap();
    refused.problem(409).unwrap();
    let listed = api.get("/v1/campaigns").await.unwrap().json();
    let sources: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["source"])
        .collect();
    assert_eq!(sources, [&json!("upload"), &json!("audience")]);
}

#[tokio::test]
async fn a_preview_of_an_audience_counts_costs_shows_some_and_warns() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, &json!({"not": {"country": ["SE"]}})).await;
    let empty = api.get(&format!("{path}/preview")).await.unwrap().json();
    assert_eq!(
        (&empty["recipients"], &empty["cost"], &empty["samples"]),
        (&json!(0), &json!("0.000000"), &json!([])),
        "{empty}"
    );
    let sms = |n: usize| json!({"sms": format!("+3363998000{n}")});
    for (n, language) in ["fr", "fr-CA", "de", "en"].iter().enumerate() {
        let key = format!("user-{n}");
        put(
            &api,
            &key,
            &json!({"addresses": sms(n), "language": language}),
        )
        .await;
    }
    put(
        &api,
        "unreachable",
        &json!({"language": "fr", "addresses": {"push": "x"}}),
    )
    .await;
    put(
        &api,
        "swede",
        &json!({"country": "SE", "addresses": sms(9)}),
    )
    .await;

    let preview = api
        .get(&format!("{path}/preview?samples=10"))
        .await
        .unwrap()
        .json();

    assert_eq!(
        (&preview["recipients"], &preview["without_address"]),
        (&json!(5), &json!(1)),
        "{preview}"
    );
    assert_eq!(
        preview["parts"],
        json!([{"channel": "sms", "language": "en", "recipients": 2},
               {"channel": "sms", "language": "fr", "recipients": 2}])
    );
    assert_eq!(
        (&preview["cost"], &preview["currency"]),
        (&json!("0.200000"), &json!("EUR"))
    );
    let samples = preview["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 5);
    let of = |key: &str| samples.iter().find(|one| one["recipient"] == key).unwrap();
    assert_eq!(of("user-1")["args"]["text"], "Bonjour friend");
    assert_eq!(of("unreachable")["error"], "to: has no address for `sms`");
    let made: i64 = cluster
        .query("select count(*) from postroad.job", &[])
        .await
        .unwrap()[0]
        .get(0);
    assert_eq!(made, 0);

    let odd = json!({"and": [{"country": ["FR"]}, {"country": ["DE"]}]});
    let path = draft(&api, &odd).await;
    let preview = api.get(&format!("{path}/preview")).await.unwrap().json();
    assert_eq!(preview["recipients"], 0);
    assert_eq!(
        preview["warnings"].as_array().map(Vec::len),
        Some(1),
        "{preview}"
    );
    assert!(
        preview["warnings"][0]["pointer"]
            .as_str()
            .unwrap()
            .starts_with("/rules/and")
    );
}
