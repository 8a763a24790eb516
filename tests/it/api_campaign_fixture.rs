//! What tests of campaigns over HTTP share: a draft that is good, its recipients, and what is kept of them.

use std::collections::BTreeSet;

use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::Cluster;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::id_of;

pub(crate) const CSV: &str = "text/csv";
pub(crate) const NDJSON: &str = "application/x-ndjson";
pub(crate) const NOBODY: &str = "/v1/campaigns/0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a";

/// What can be said: text messages in two languages, and notes to users.
pub(crate) fn content() -> Value {
    json!({
        "channels": {
            "sms": {"kind": "sms", "cost": 0.045, "args": {
                "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
            }},
            "note": {"kind": "echo", "cost": 0, "args": {"en": {"for": "{{to}}"}}},
        },
        "channel": "sms",
        "language": "en",
        "variables": {"name": {"default": "friend"}},
        "currency": "EUR",
    })
}

/// A good campaign, with what else is given.
pub(crate) fn campaign(more: &Value) -> Value {
    let mut body = json!({"name": "spring", "content": content()});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more.clone());
    }
    body
}

/// The path of a draft.
pub(crate) async fn draft(api: &Api, more: Value) -> String {
    let made = api.post("/v1/campaigns", &campaign(&more)).await.unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    format!("/v1/campaigns/{}", id_of(&made.json()))
}

pub(crate) async fn put(
    api: &Api,
    path: &str,
    kind: &str,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let path = format!("{path}/recipients");
    let answer = api.raw(Method::PUT, &path, kind, body).await.unwrap();
    assert!(answer.status.as_u16() < 500, "{answer:?}");
    answer
}

/// An upload that is taken: the lines that were refused, and the counts.
pub(crate) async fn take(
    api: &Api,
    path: &str,
    kind: &str,
    body: impl Into<reqwest::Body>,
) -> (Vec<Value>, Value) {
    let answer = put(api, path, kind, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let mut lines = answer.lines();
    let end = lines.pop().expect("the counts come last");
    assert_eq!(end["complete"], true, "{end}");
    (lines, end)
}

pub(crate) async fn planned(api: &Api, path: &str) -> Value {
    api.get(path).await.unwrap().json()["progress"]["planned"].clone()
}

/// So many users, who get notes: one line each.
pub(crate) fn users(from: usize, count: usize) -> String {
    let line = |n: usize| format!("user-{n},note\n");
    (from..from + count).map(line).collect()
}

/// Recipients that are kept: of the campaign, and of uploads that are not.
pub(crate) async fn kept(cluster: &Cluster) -> (i64, i64) {
    let sql = "
        select coalesce(sum(k.recipients) filter (where k.upload = c.upload), 0)::bigint,
               coalesce(sum(k.recipients) filter (where k.upload is distinct from c.upload), 0)::bigint
        from postroad.campaign_chunk k join postroad.campaign c on c.id = k.campaign_id";
    let row = &cluster.query(sql, &[]).await.unwrap()[0];
    (row.get(0), row.get(1))
}

/// Everything that an action could change.
pub(crate) async fn everything(cluster: &Cluster) -> String {
    let sql = "
        select (select string_agg(c::text, E'\\n' order by c.id) from postroad.campaign c)
            || (select count(*) from postroad.stop) || (select count(*) from postroad.campaign_chunk)
            || (select count(*) from postroad.suppression) || (select count(*) from postroad.audit_log)";
    cluster.query(sql, &[]).await.unwrap()[0].get(0)
}

/// All places that a refusal names.
pub(crate) fn places(refused: &Answer) -> BTreeSet<String> {
    let first = refused.problem(422).unwrap();
    let problem = refused.json();
    let errors = problem["errors"].as_array().into_iter().flatten();
    let all = errors.map(|one| one["pointer"].as_str().unwrap().to_owned());
    first.into_iter().chain(all).collect()
}
