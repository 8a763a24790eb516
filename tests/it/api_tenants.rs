//! Who may do what over HTTP, and what tenants never see of each other.

use std::time::Duration;

use postroad_common::token::{Permission, Token};
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually};
use postroad_tests::harness::eventually::in_force_within;
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

/// A number that acme's campaigns leave out.
const SUPPRESSED: &str = "%2B33639980606";

/// What acme's reader is shown alone.
const ENTRY: &str = "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4b";

/// What acme has, so that others may look for it.
struct Things {
    jobs: Vec<String>,
    schedule: String,
    operation: String,
    stop: String,
    recipient: String,
    audience: String,
    announcement: String,
    campaign: String,
}

impl Things {
    /// The paths by which a route leads to them; one to something else if it leads to none.
    fn paths(&self, method: &Method, route: &str) -> Vec<String> {
        let one = std::slice::from_ref;
        let (part, names) = match route {
            _ if route.starts_with("/v1/campaigns/{id}") => ("{id}", one(&self.campaign)),
            // Whoever puts something makes one of its own.
            _ if *method == Method::PUT => {
                return vec![route.replace("{name}", "own").replace("{key}", "own")];
            }
            _ if route.starts_with("/v1/recipients/{key}") => ("{key}", one(&self.recipient)),
            _ if route.starts_with("/v1/audiences/{name}") => ("{name}", one(&self.audience)),
            _ if route.starts_with("/v1/announcements/{id}") => ("{id}", one(&self.announcement)),
            // Any tenant may have a recipient of this name.
            _ if route.starts_with("/v1/timeline/") => {
                return vec![route.replace("{recipient}", "reader")];
            }
            _ if route.starts_with("/v1/jobs/{id}") => ("{id}", &self.jobs[..]),
            _ if route.starts_with("/v1/operations/{id}") => ("{id}", one(&self.operation)),
            _ if route.starts_with("/v1/schedules/{name}") => ("{name}", one(&self.schedule)),
            _ if route.starts_with("/v1/stops/{id}") => ("{id}", one(&self.stop)),
            // Whom it is about is a parameter, and without it there is nothing to be asked.
            "/v1/suppressions" => return vec![format!("{route}?recipient={SUPPRESSED}")],
            _ => return vec![route.replace("{name}", "default")],
        };
        names.iter().map(|name| route.replace(part, name)).collect()
    }

    fn are_at(&self, path: &str) -> bool {
        let others = [
            &self.schedule,
            &self.operation,
            &self.stop,
            &self.recipient,
            &self.audience,
            &self.announcement,
            &self.campaign,
        ];
        let mut names = self.jobs.iter().chain(others);
        names.any(|name| path.contains(name))
    }
}

/// Every row of acme's, in words.
async fn everything_of_acmes(cluster: &Cluster) -> String {
    let mut all = String::new();
    let tables = [
        "job",
        "archive",
        "dedup",
        "schedule",
        "operation",
        "stop",
        "recipient",
        "audience",
        "announcement",
        "timeline_entry",
        "timeline_reader",
        "campaign",
        "suppression",
        "audit_log",
    ];
    for table in tables {
        let sql = format!(
            "select coalesce(string_agg(o::text, E'\\n' order by o::text), '')
             from postroad.{table} o join postroad.tenant t on t.id = o.tenant_id
             where t.name = 'acme'"
        );
        all += cluster.query(&sql, &[]).await.unwrap()[0].get(0);
    }
    let recipients = "
        select coalesce(string_agg(k::text, E'\\n' order by k::text), '')
        from postroad.campaign_chunk k join postroad.campaign c on c.id = k.campaign_id
        join postroad.tenant t on t.id = c.tenant_id where t.name = 'acme'";
    all += cluster.query(recipients, &[]).await.unwrap()[0].get(0);
    all
}

/// Bodies that get as far as the lookup.
fn bodies_of(method: &Method, route: &str) -> Vec<Value> {
    if route.ends_with("/resolve") {
        return vec![json!({"verdict": "dead"})];
    }
    if *method == Method::POST && route == "/v1/stops" {
        return vec![json!({"mode": "pause", "kind": "sms"})];
    }
    if *method == Method::POST && route == "/v1/campaigns" {
        return vec![campaign("another")];
    }
    if *method == Method::POST && route == "/v1/suppressions" {
        return vec![json!({"recipients": ["+33639980607"]})];
    }
    if *method == Method::PATCH && route == "/v1/announcements/{id}" {
        return vec![json!({"content": {"messages": {"en": {"title": "theirs"}}}})];
    }
    if route == "/v1/timeline/{recipient}/read" {
        return vec![json!({"ids": [ENTRY]})];
    }
    if *method == Method::PATCH && route == "/v1/schedules/{name}" {
        let (pause, resume) = (json!({"paused": true}), json!({"paused": false}));
        return vec![pause, resume, json!({"cron": "@daily"})];
    }
    vec![json!({})]
}

fn campaign(name: &str) -> Value {
    let args = json!({"en": {"to": "{{to}}", "text": "acme-only"}});
    let channels = json!({"sms": {"kind": "sms", "args": args}});
    json!({"name": name, "content": {"channels": channels, "language": "en"}})
}

async fn ask(api: &Api, method: &Method, path: &str, body: &Value) -> Answer {
    match *method {
        Method::GET => api.get(path).await.unwrap(),
        _ if path.ends_with("/batch") => api
            .raw(method.clone(), path, "application/x-ndjson", "")
            .await
            .unwrap(),
        _ => api.call(method.clone(), path, body).await.unwrap(),
    }
}

/// Tokens that are none, or not any more.
async fn bad_tokens(cluster: &Cluster, good: &str) -> Vec<String> {
    let expired = cluster.token(Some("acme"), &Permission::ALL).await.unwrap();
    let revoked = cluster.token(Some("acme"), &Permission::ALL).await.unwrap();
    let of_disabled = cluster.token(Some("gone"), &Permission::ALL).await.unwrap();
    let of_another_secret = cluster.token(Some("acme"), &Permission::ALL).await.unwrap();
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
        (
            "update postroad.token set secret_hash = sha256('another') where id = $1",
            &of_another_secret,
        ),
    ] {
        let token = Token::parse(token).unwrap();
        cluster.query(sql, &[&token.id()]).await.unwrap();
    }
    let (start, last) = good.split_at(good.len() - 1);
    let forged = format!("{start}{}", if last == "x" { "y" } else { "x" });
    vec![
        String::new(),
        "x".to_owned(),
        "prk_".to_owned(),
        expired,
        revoked,
        of_disabled,
        of_another_secret,
        Token::generate().expose(),
        forged,
        good[..30].to_owned(),
        "a".repeat(10_000),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
    ]
}

fn all_but(one: Permission) -> Vec<Permission> {
    let others = Permission::ALL.into_iter().filter(|other| *other != one);
    others.collect()
}

#[tokio::test]
async fn no_route_answers_without_a_good_token_of_the_right_scope() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let things = furnish(&cluster, &api).await;
    let before = everything_of_acmes(&cluster).await;
    let bad = bad_tokens(&cluster, api.token()).await;
    let routes = routes(&api).await;
    for (method, route, needed) in &routes {
        let wrong = [
            cluster
                .token(Some("acme"), &all_but(*needed))
                .await
                .unwrap(),
            cluster.token(None, &all_but(*needed)).await.unwrap(),
        ];
        for (path, body) in asked(method, route, &things) {
            for token in &bad {
                let answer = ask(&api.with_token(token), method, &path, &body).await;
                answer.problem(401).unwrap();
                assert_eq!(
                    answer.headers["www-authenticate"], "Bearer",
                    "{method} {path}"
                );
                assert!(!answer.text.contains("acme"), "{answer:?}");
            }
            for token in &wrong {
                let answer = ask(&api.with_token(token), method, &path, &body).await;
                answer.problem(403).unwrap();
            }
            // A tenant's token that says it may set queues was made by hand, and may not.
            if needed.is_for_operators() {
                let answer = ask(&api, method, &path, &body).await;
                answer.problem(403).unwrap();
            }
        }
    }
    assert_eq!(everything_of_acmes(&cluster).await, before);

    for (method, route, needed) in &routes {
        let path = route
            .replace("{id}", "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")
            .replace("{name}", "default");
        let right = cluster.token(None, &[*needed]).await.unwrap();
        let answer = ask(&api.with_token(&right), method, &path, &json!({})).await;
        let status = answer.status.as_u16();
        assert!(
            ![401, 403].contains(&status) && status < 500,
            "{method} {path}: {status}"
        );
    }
    cluster.take_down().await.unwrap();
}

/// What a route may be asked about what acme has.
fn asked(method: &Method, route: &str, things: &Things) -> Vec<(String, Value)> {
    let bodies = bodies_of(method, route);
    let of = |path: String| bodies.iter().map(move |body| (path.clone(), body.clone()));
    things
        .paths(method, route)
        .into_iter()
        .flat_map(of)
        .collect()
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

/// Jobs in three states, a schedule, a redrive that has begun, a stop, a campaign with recipients, and a
/// number that is suppressed.
async fn furnish(cluster: &Cluster, acme: &Api) -> Things {
    let mut jobs = Vec::new();
    for delay in ["1h", "2h", "3h"] {
        let job = json!({"kind": "echo", "delay": delay, "args": {"secret": "acme-only"}, "dedup_key": delay});
        let taken = acme.post("/v1/jobs", &job).await.unwrap().json();
        jobs.push(taken["id"].as_str().unwrap().to_owned());
    }
    // One is dead, one held.
    cluster.bury(Some(&jobs[1])).await.unwrap();
    cluster.hold(&jobs[2]).await.unwrap();
    let note = "insert into postroad.attempt_error (job_id, attempt, code, message)
        values ($1::text::uuid, 1, 'failed', 'acme-only')";
    cluster.query(note, &[&jobs[1]]).await.unwrap();

    let schedule = json!({"name": "acme-only", "cron": "@hourly", "kind": "echo"});
    let made = acme.post("/v1/schedules", &schedule).await.unwrap();
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    // Without a scheduler it goes no further.
    let begun = acme.post("/v1/dead-letters/redrive", &json!({})).await;
    let operation = begun.unwrap().json();
    assert_eq!(operation["planned"], 1, "{operation}");
    let stop = json!({"mode": "pause", "kind": "webhook", "reason": "acme-only"});
    let stop = acme.post("/v1/stops", &stop).await.unwrap().json();
    for (path, body) in [
        (
            "/v1/recipients/acme-only-user",
            json!({"plan": "acme-only"}),
        ),
        (
            "/v1/audiences/acme-only-vips",
            json!({"rules": {"all": true}}),
        ),
    ] {
        let made = acme.call(Method::PUT, path, &body).await.unwrap();
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }
    let content = json!({"messages": {"en": {"title": "acme-only"}}});
    let announcement = json!({"content": content, "rules": {"all": true}});
    let announced = acme.post("/v1/announcements", &announcement).await;
    let announced = announced.unwrap().json();
    let entry = "
        insert into postroad.timeline_entry (tenant_id, recipient, id, ends_at, message)
        select id, 'reader', $1::text::uuid, now() + interval '1 day', '{\"title\":\"acme-only\"}'
        from postroad.tenant where name = 'acme'";
    cluster.query(entry, &[&ENTRY]).await.unwrap();
    let seen = acme.get("/v1/timeline/reader").await.unwrap().json();
    assert_eq!(seen["unread"], 2, "{seen}");
    let made = acme.post("/v1/campaigns", &campaign("acme-only")).await;
    let made = made.unwrap().json();
    let campaign = made["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/campaigns/{campaign}/recipients");
    let csv = "to\n+33639980601\n";
    let taken = acme.raw(Method::PUT, &path, "text/csv", csv).await.unwrap();
    assert_eq!(taken.lines()[0]["accepted"], 1, "{taken:?}");
    let recipients = json!({"recipients": ["+33639980606"], "reason": "acme-only"});
    let added = acme.post("/v1/suppressions", &recipients).await.unwrap();
    assert_eq!(added.json(), json!({"added": 1}), "{added:?}");
    Things {
        campaign,
        jobs,
        stop: stop["id"].as_str().unwrap().to_owned(),
        schedule: "acme-only".to_owned(),
        recipient: "acme-only-user".to_owned(),
        audience: "acme-only-vips".to_owned(),
        announcement: announced["id"].as_str().unwrap().to_owned(),
        operation: operation["id"].as_str().unwrap().to_owned(),
    }
}

async fn check_that_nothing_is_seen(cluster: &Cluster, acme: &Api, other: &Api, things: &Things) {
    let before = everything_of_acmes(cluster).await;
    for (method, route, _) in routes(other).await {
        for (path, body) in asked(&method, &route, things) {
            let answer = ask(other, &method, &path, &body).await;
            assert!(answer.status.as_u16() < 500, "{method} {path}: {answer:?}");
            assert!(!answer.text.contains("acme"), "{method} {path}: {answer:?}");
            if things.are_at(&path) {
                answer.problem(404).unwrap();
            }
            if things.are_at(&path) && method == Method::GET {
                assert_eq!(
                    acme.get(&path).await.unwrap().status.as_u16(),
                    200,
                    "{path}"
                );
            }
        }
    }
    for look in [
        "/v1/jobs?state=dead",
        "/v1/jobs?state=held",
        "/v1/jobs?tenant=acme",
        "/v1/jobs?limit=200",
        "/v1/dead-letters?limit=200",
        "/v1/schedules?limit=200",
        "/v1/schedules?tenant=acme",
        "/v1/stops?all=true",
        "/v1/recipients?limit=200",
        "/v1/recipients?tenant=acme",
        "/v1/audiences?limit=200",
        "/v1/audiences?tenant=acme",
        "/v1/announcements?all=true",
        "/v1/timeline/reader?tenant=acme",
        "/v1/campaigns?limit=200",
        "/v1/suppressions?limit=200",
        "/v1/settings",
        "/v1/settings?tenant=acme",
    ] {
        let answer = other.get(look).await.unwrap();
        assert!(!answer.text.contains("acme-only"), "{look}: {answer:?}");
    }
    check_that_naming_acme_does_not_help(other, things).await;
    // And nothing of it was touched.
    assert_eq!(everything_of_acmes(cluster).await, before);
    let redriven = "select count(*) from postroad.operation where planned > 0";
    let count: i64 = cluster.query(redriven, &[]).await.unwrap()[0].get(0);
    assert_eq!(count, 1, "somebody redrove another tenant's dead letters");
}

async fn check_that_naming_acme_does_not_help(other: &Api, things: &Things) {
    let one = format!("/v1/schedules/{}", things.schedule);
    let (none, named) = (json!({}), json!({"tenant": "acme", "paused": true}));
    let new = json!({"tenant": "acme", "name": "another", "cron": "@daily", "kind": "echo"});
    let mut theirs = campaign("another");
    theirs["tenant"] = json!("acme");
    let suppressed = format!("/v1/suppressions?recipient={SUPPRESSED}&tenant=acme");
    for (method, path, body) in [
        (Method::GET, format!("{one}?tenant=acme"), &none),
        (Method::DELETE, format!("{one}?tenant=acme"), &none),
        (Method::POST, format!("{one}/run?tenant=acme"), &none),
        (Method::PATCH, one, &named),
        (Method::POST, "/v1/schedules".to_owned(), &new),
        (Method::POST, "/v1/campaigns".to_owned(), &theirs),
        (Method::GET, suppressed.clone(), &none),
        (Method::DELETE, suppressed, &none),
        (
            Method::POST,
            "/v1/suppressions".to_owned(),
            &json!({"tenant": "acme", "recipients": ["+33639980607"]}),
        ),
        (
            Method::POST,
            "/v1/dead-letters/redrive".to_owned(),
            &json!({"tenant": "acme"}),
        ),
    ] {
        ask(other, &method, &path, body).await.problem(422).unwrap();
    }
}

#[tokio::test]
async fn no_route_shows_or_touches_what_is_another_tenants() {
    let (cluster, id) = start().await;
    let acme = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let other = cluster
        .client(id, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let things = furnish(&cluster, &acme).await;

    check_that_nothing_is_seen(&cluster, &acme, &other, &things).await;
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_cursor_that_is_another_tenants_job_is_a_place_and_shows_nothing_of_it() {
    let (cluster, id) = start().await;
    let acme = cluster.client(id, Some("acme"), &Permission::ALL).await;
    let other = cluster.client(id, Some("umbrella"), &Permission::ALL).await;
    let (acme, other) = (acme.unwrap(), other.unwrap());
    let mut ids = Vec::new();
    for api in [&other, &acme, &other, &acme, &other] {
        let job = json!({"kind": "echo", "delay": "1h"});
        let taken = api.post("/v1/jobs", &job).await.unwrap().json();
        ids.push(taken["id"].clone());
    }

    for (cursor, expected) in [(3, &[2, 0][..]), (1, &[0][..])] {
        let path = format!("/v1/jobs?cursor={}", ids[cursor].as_str().unwrap());
        let page = other.get(&path).await.unwrap().json();
        let shown = page["items"].as_array().unwrap().iter();
        let shown: Vec<_> = shown.map(|job| &job["id"]).collect();
        let expected: Vec<_> = expected.iter().map(|n: &usize| &ids[*n]).collect();
        assert_eq!(shown, expected, "before {cursor}");
        assert_eq!(page["next_cursor"], json!(null), "{page}");
    }
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
    let things = furnish(&cluster, &acme).await;

    check_that_nothing_is_seen(&cluster, &acme, &other, &things).await;
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_is_refused_within_a_second() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    // It is known, and not asked about any more.
    assert_eq!(api.get("/v1/queues").await.unwrap().status.as_u16(), 200);
    let token = Token::parse(api.token()).unwrap();
    let revoke = "update postroad.token set revoked_at = now() where id = $1";
    cluster.query(revoke, &[&token.id()]).await.unwrap();
    in_force_within(Duration::from_secs(1), "the token is refused", async || {
        api.get("/v1/queues").await?.problem(401)
    })
    .await
    .unwrap();
    cluster.take_down().await.unwrap();
}

/// Requests of which each would cost a statement, if a token did.
const REQUESTS: usize = 50;

/// How many statements the api has sent to Postgres: its driver logs each before it goes out.
fn statements(cluster: &Cluster, api: Id) -> usize {
    cluster.log(api).matches(": executing ").count()
}

/// How many statements so many requests cost, each of them refused with this status.
async fn cost(cluster: &Cluster, id: Id, status: u16, callers: impl Iterator<Item = Api>) -> usize {
    let before = statements(cluster, id);
    let mut requests = 0;
    for caller in callers {
        let answer = caller.get("/v1/queues").await.unwrap();
        answer.problem(status).unwrap();
        requests += 1;
    }
    assert_eq!(requests, REQUESTS);
    statements(cluster, id) - before
}

#[tokio::test]
async fn a_token_that_is_known_and_one_that_cannot_be_one_cost_no_query() {
    let mut cluster = Cluster::builder()
        .schedulers(0)
        .workers(0)
        .start()
        .await
        .unwrap();
    let logging = Program::api().env("POSTROAD_LOG", "info,tokio_postgres=debug");
    let id = cluster.start(logging).await.unwrap();
    // A good token that is refused for its scope: whatever it costs, it costs to know it.
    let scopes = all_but(Permission::QueuesRead);
    let known = cluster.client(id, Some("acme"), &scopes).await.unwrap();
    known.get("/v1/queues").await.unwrap().problem(403).unwrap();
    let token = known.token();
    let (start, last) = token.split_at(token.len() - 3);
    let wrong = if last.ends_with('x') { "y" } else { "x" };
    let guess = |n: usize| known.with_token(&format!("{start}{n:02}{wrong}"));

    let of_known = cost(
        &cluster,
        id,
        403,
        std::iter::repeat_n(known.clone(), REQUESTS),
    )
    .await;
    let of_guessed = cost(&cluster, id, 401, (0..REQUESTS).map(guess)).await;
    let unknown = |_| known.with_token(&Token::generate().expose());
    let of_unknown = cost(&cluster, id, 401, (0..REQUESTS).map(unknown)).await;

    // Beside them the api asks now and then whether Postgres is there.
    assert!(of_known < REQUESTS / 2, "{of_known}");
    assert!(of_guessed < REQUESTS / 2, "{of_guessed}");
    assert!(of_unknown >= REQUESTS, "{of_unknown}: nothing was counted");
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_nobodys_to_know() {
    let (cluster, id) = start().await;
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let mut answers = Vec::new();
    for token in bad_tokens(&cluster, api.token()).await {
        let bad = api.with_token(&token);
        let request = bad.request(Method::GET, "/v1/queues");
        let request = request.header("x-request-id", "the-same");
        let mut answer = bad.send(request).await.unwrap();
        answer.problem(401).unwrap();
        answer.headers.remove("date");
        answers.push((token, answer));
    }
    let (_, first) = &answers[0];
    for (token, answer) in &answers {
        assert_eq!(answer.text, first.text, "{token}");
        assert_eq!(answer.headers, first.headers, "{token}");
    }
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
        "update postroad.tenant set disabled_at = now()",
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
