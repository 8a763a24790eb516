//! Who may do what over HTTP, and what tenants never see of each other.

use std::time::{Duration, Instant};

use postroad_common::token::{Permission, Token};
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually};
use reqwest::Method;
use serde_json::{Value, json};

async fn start() -> (Cluster, Id) {
    let mut cluster = Cluster::builder()
        .schedulers(0)
        .workers(0)
        .start()
        .await
        .unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    (cluster, id)
}

/// Every route that there is, by the description that is served: method, path with `{}` for ids,
/// and the scope that its description says it needs.
async fn routes(api: &Api) -> Vec<(Method, String, Permission)> {
    let document = api.get("/openapi.json").await.unwrap().json();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let needed = operation["responses"]["403"]["description"]
                .as_str()
                .unwrap();
            let scope = needed.split('`').nth(1).unwrap();
            routes.push((method, path.clone(), Permission::of_name(scope).unwrap()));
        }
    }
    assert!(routes.len() >= 18, "{routes:?}");
    routes
}

/// A body that gets as far as the lookup.
fn body_of(path: &str) -> Value {
    if path.ends_with("/resolve") {
        json!({"verdict": "dead"})
    } else {
        json!({})
    }
}

async fn ask(api: &Api, method: &Method, path: &str) -> postroad_tests::harness::api::Answer {
    match *method {
        Method::GET => api.get(path).await.unwrap(),
        _ if path.ends_with("/batch") => api
            .raw(method.clone(), path, "application/x-ndjson", "")
            .await
            .unwrap(),
        _ => api
            .call(method.clone(), path, &body_of(path))
            .await
            .unwrap(),
    }
}

#[tokio::test]
async fn no_route_answers_without_a_good_token_of_the_right_scope() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let expired = cluster.token(Some("acme"), &Permission::ALL).await.unwrap();
    let revoked = cluster.token(Some("acme"), &Permission::ALL).await.unwrap();
    let of_disabled = cluster.token(Some("gone"), &Permission::ALL).await.unwrap();
    for (sql, token) in [
        (
            "update postroad.token set expires_at = now() - interval '1 s' where id = $1",
            &expired,
        ),
        (
            "update postroad.token set revoked_at = now() where id = $1",
            &revoked,
        ),
        (
            "update postroad.tenant set disabled_at = now() from postroad.token k where k.id = $1 and tenant.id = k.tenant_id",
            &of_disabled,
        ),
    ] {
        let token = Token::parse(token).unwrap();
        cluster.query(sql, &[&token.id()]).await.unwrap();
    }
    let unknown = Token::generate().expose();
    let (start, last) = api.token().split_at(api.token().len() - 1);
    let forged = format!("{start}{}", if last == "x" { "y" } else { "x" });
    let bad = [
        "",
        "x",
        "prk_",
        &expired,
        &revoked,
        &of_disabled,
        &unknown,
        &forged,
        &api.token()[..30],
        &"a".repeat(10_000),
        "eyJhbGciOiJub25lIn0.e30.",
    ];
    for (method, path, needed) in routes(&api).await {
        let path = path
            .replace("{id}", "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")
            .replace("{name}", "default");
        for token in bad {
            let answer = ask(&api.with_token(token), &method, &path).await;
            answer.problem(401).unwrap();
            assert_eq!(
                answer.headers["www-authenticate"], "Bearer",
                "{method} {path}"
            );
            assert!(!answer.text.contains("acme"), "{answer:?}");
        }
        let others: Vec<_> = Permission::ALL
            .into_iter()
            .filter(|one| *one != needed)
            .collect();
        let wrong = cluster.token(None, &others).await.unwrap();
        ask(&api.with_token(&wrong), &method, &path)
            .await
            .problem(403)
            .unwrap();
        // A tenant's token that says it may set queues was made by hand, and may not.
        if needed.is_for_operators() {
            ask(&api, &method, &path).await.problem(403).unwrap();
        }
        let right = cluster.token(None, &[needed]).await.unwrap();
        let status = ask(&api.with_token(&right), &method, &path)
            .await
            .status
            .as_u16();
        assert!(
            ![401, 403].contains(&status) && status < 500,
            "{method} {path}: {status}"
        );
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn other_ways_of_sending_a_token_are_none() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let (token, none) = (api.token().to_owned(), api.with_token(""));
    for (header, value) in [
        ("authorization", format!("Basic {token}")),
        ("authorization", token.clone()),
        ("authorization", format!("Bearer{token}")),
        ("x-api-key", token.clone()),
        ("cookie", format!("token={token}")),
    ] {
        let request = none.request(Method::GET, "/v1/jobs").header(header, value);
        none.send(request).await.unwrap().problem(401).unwrap();
    }
    let in_url = format!("/v1/jobs?access_token={token}");
    none.get(&in_url).await.unwrap().problem(401).unwrap();
    let twice = none
        .request(Method::GET, "/v1/jobs")
        .header("authorization", format!("Bearer {token}"))
        .header("authorization", format!("Bearer {token}"));
    none.send(twice).await.unwrap().problem(401).unwrap();
    let lower = none
        .request(Method::GET, "/v1/jobs")
        .header("authorization", format!("bearer {token}"));
    assert_eq!(none.send(lower).await.unwrap().status.as_u16(), 200);
    cluster.take_down().await.unwrap();
}

/// What acme has, so that another tenant may look for it.
async fn furnish(cluster: &Cluster, acme: &Api) -> Vec<String> {
    let mut ids = Vec::new();
    for delay in ["1h", "2h", "3h"] {
        let job = json!({"kind": "echo", "delay": delay, "args": {"secret": "acme-only"}, "dedup_key": delay});
        let taken = acme.post("/v1/jobs", &job).await.unwrap().json();
        ids.push(taken["id"].as_str().unwrap().to_owned());
    }
    // One is dead, one held.
    cluster.bury(Some(&ids[1])).await.unwrap();
    let hold = "update postroad.job set stage = 3, claimed_at = now(), started_at = now(),
        ended_at = now(), worker_id = 1, dispatch = 1 where id = $1::text::uuid";
    cluster.query(hold, &[&ids[2]]).await.unwrap();
    let note = "insert into postroad.attempt_error (job_id, attempt, code, message)
        values ($1::text::uuid, 1, 'failed', 'acme-only')";
    cluster.query(note, &[&ids[1]]).await.unwrap();
    ids
}

async fn check_that_nothing_is_seen(cluster: &Cluster, acme: &Api, other: &Api, ids: &[String]) {
    for (method, path, _) in routes(other).await {
        let paths: Vec<String> = match path.contains("{id}") {
            true => ids.iter().map(|id| path.replace("{id}", id)).collect(),
            false => vec![path.replace("{name}", "default")],
        };
        for path in paths {
            let answer = ask(other, &method, &path).await;
            assert!(answer.status.as_u16() < 500, "{method} {path}: {answer:?}");
            assert!(!answer.text.contains("acme"), "{method} {path}: {answer:?}");
            if path.contains("/v1/jobs/0") || path.contains("/v1/operations/0") {
                answer.problem(404).unwrap();
            }
        }
    }
    for query in ["state=dead", "state=held", "tenant=acme", "limit=200"] {
        let answer = other.get(&format!("/v1/jobs?{query}")).await.unwrap();
        assert!(!answer.text.contains("acme-only"), "{query}: {answer:?}");
    }
    // And nothing of it was touched.
    let states: Vec<_> = futures_util::future::join_all(ids.iter().map(|id| async move {
        acme.get(&format!("/v1/jobs/{id}")).await.unwrap().json()["state"].clone()
    }))
    .await;
    assert_eq!(states, ["scheduled", "dead", "held"]);
    let ops = cluster
        .query(
            "select count(*) from postroad.operation where planned > 0",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        ops[0].get::<_, i64>(0),
        0,
        "somebody redrove another tenant's dead letters"
    );
}

#[tokio::test]
async fn no_route_shows_or_touches_another_tenants_jobs() {
    let (cluster, id) = start().await;
    let acme = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let other = cluster
        .client(id, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let ids = furnish(&cluster, &acme).await;

    check_that_nothing_is_seen(&cluster, &acme, &other, &ids).await;
    cluster.take_down().await.unwrap();
}

/// The api runs as if its queries had no condition of their own: each sees what row-level security
/// lets through, and nothing else stands between two tenants.
#[tokio::test]
async fn row_level_security_holds_where_a_query_forgets_its_tenant() {
    let mut cluster = Cluster::builder()
        .schedulers(0)
        .workers(0)
        .start()
        .await
        .unwrap();
    let forgetful = Program::api().env("POSTROAD_TEST_FORGET_TENANT", "1");
    let id = cluster.start(forgetful).await.unwrap();
    let acme = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let other = cluster
        .client(id, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let ids = furnish(&cluster, &acme).await;

    check_that_nothing_is_seen(&cluster, &acme, &other, &ids).await;
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_a_second_and_a_good_one_costs_no_query() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    for _ in 0..50 {
        assert_eq!(api.get("/v1/queues").await.unwrap().status.as_u16(), 200);
    }
    let token = Token::parse(api.token()).unwrap();
    let revoke = "update postroad.token set revoked_at = now() where id = $1";
    cluster.query(revoke, &[&token.id()]).await.unwrap();
    let revoked_at = Instant::now();
    eventually("the token is refused", async || {
        api.get("/v1/queues").await?.problem(401).map(drop)
    })
    .await
    .unwrap();
    assert!(
        revoked_at.elapsed() < Duration::from_secs(1),
        "{:?}",
        revoked_at.elapsed()
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_tenant_over_its_quota_or_rate_is_told_when_to_come_again() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let job = json!({"kind": "echo", "delay": "1h"});
    cluster
        .query(
            "update postroad.tenant set unfinished_max = 3 where name = 'acme'",
            &[],
        )
        .await
        .unwrap();
    eventually("the quota is in force", async || {
        api.post("/v1/jobs", &job).await?.problem(429).map(drop)
    })
    .await
    .unwrap();
    let refused = api.post("/v1/jobs", &job).await.unwrap();
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let sql = "select count(*) from postroad.job";
    let count: i64 = cluster.query(sql, &[]).await.unwrap()[0].get(0);
    // What was taken before the change was heard of.
    assert!(count >= 3, "{count}");
    let set =
        "update postroad.tenant set unfinished_max = null, submit_rate = 2 where name = 'acme'";
    cluster.query(set, &[]).await.unwrap();
    eventually("the rate is in force", async || {
        let answers =
            futures_util::future::try_join_all((0..8).map(|_| api.post("/v1/jobs", &job))).await?;
        let refused = answers
            .iter()
            .filter(|answer| answer.status.as_u16() == 429)
            .count();
        anyhow::ensure!(refused >= 4, "{refused} of 8 were refused");
        Ok(())
    })
    .await
    .unwrap();
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn the_api_may_do_in_the_database_what_it_needs_and_no_more() {
    let (cluster, _) = start().await;
    let url = cluster.database_url_for("postroad-api").unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    for sql in [
        "select * from postroad.token",
        "select * from postroad.tenant_secret",
        "select * from postroad.audit_log",
        "update postroad.tenant set weight = 9",
        "insert into postroad.tenant (name) values ('mine')",
        "delete from postroad.queue",
        "drop table postroad.job",
        "select postroad.make_partitions(1)",
        "create table postroad.mine (a int)",
        "alter table postroad.job disable row level security",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let code = error
            .as_db_error()
            .map(|error| error.code().code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error:?}");
    }
    // Without a tenant there are no rows, whatever is asked for.
    let rows = client
        .query("select * from postroad.tenant", &[])
        .await
        .unwrap();
    assert!(rows.is_empty());
    cluster.take_down().await.unwrap();
}
