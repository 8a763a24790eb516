//! Recurring schedules over HTTP and on the clock: each tick has one job, whoever is there.

use std::time::Duration;

use jiff::Timestamp;
use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Cluster, Program, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn start(schedulers: usize, workers: usize) -> (Cluster, Api) {
    let builder = Cluster::builder().schedulers(schedulers).workers(workers);
    let mut cluster = builder.start().await.unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    (cluster, api)
}

/// The ticks that have a job, and the seconds between the first and the last of them.
async fn ticks(cluster: &Cluster) -> Vec<Timestamp> {
    let sql = "select tick_at from postroad.schedule_tick order by tick_at";
    let rows = cluster.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn jobs(cluster: &Cluster) -> i64 {
    let sql = "select count(*) from postroad.jobs";
    cluster.query(sql, &[]).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn a_schedule_is_created_shown_changed_run_and_deleted() {
    let (cluster, api) = start(0, 0).await;
    let new = json!({
        "name": "digest", "cron": "30 9 * * MON-FRI", "timezone": "Europe/Stockholm",
        "kind": "echo", "args": {"n": 1}, "misfire": "catch_up", "catch_up_max": 5,
        "expires_after": "1h", "priority": 2, "max_attempts": 3, "on_lost": "hold",
    });

    let created = api.post("/v1/schedules", &new).await.unwrap();
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let schedule = created.json();
    assert_eq!(
        schedule["next_ticks"].as_array().unwrap().len(),
        3,
        "{schedule}"
    );
    assert_eq!(schedule["expires_after_seconds"], 3600.0);
    let again = api.post("/v1/schedules", &new).await.unwrap();
    assert_eq!(again.problem(409).unwrap().as_deref(), Some("/name"));
    let listed = api.get("/v1/schedules").await.unwrap().json();
    assert_eq!(listed["items"][0], schedule, "{listed}");

    let change = json!({"cron": "@hourly", "max_attempts": null, "paused": true});
    let changed = api
        .call(Method::PATCH, "/v1/schedules/digest", &change)
        .await
        .unwrap()
        .json();
    assert_eq!(changed["cron"], "@hourly", "{changed}");
    assert!(
        changed["max_attempts"].is_null() && changed["paused_at"].is_string(),
        "{changed}"
    );
    assert_eq!(changed["next_ticks"], json!([]));
    assert_eq!(changed["on_lost"], "hold", "what was left out stays");

    let run = api
        .post("/v1/schedules/digest/run", &json!({}))
        .await
        .unwrap();
    assert_eq!(run.status, StatusCode::CREATED, "{run:?}");
    let job = run.json();
    assert_eq!(
        (&job["kind"], &job["on_lost"], &job["tenant"]),
        (&json!("echo"), &json!("hold"), &json!("acme"))
    );

    let other = cluster
        .token(Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let other = api.with_token(&other);
    other
        .get("/v1/schedules/digest")
        .await
        .unwrap()
        .problem(404)
        .unwrap();
    let gone = other.request(Method::DELETE, "/v1/schedules/digest");
    other.send(gone).await.unwrap().problem(404).unwrap();

    let delete = || api.send(api.request(Method::DELETE, "/v1/schedules/digest"));
    assert_eq!(delete().await.unwrap().status, StatusCode::NO_CONTENT);
    delete().await.unwrap().problem(404).unwrap();
    assert_eq!(jobs(&cluster).await, 1, "what it has made goes on");
    cluster.take_down().await.unwrap();
}

/// Values that no schedule can have, by the field that they are of.
fn refused() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (
            "cron",
            vec![
                json!(""),
                json!("* * * *"),
                json!("* * * * * * *"),
                json!("61 * * * *"),
                json!("0 0 31 2 *"),
                json!("@never"),
                json!(5),
                json!("*/0 * * * *"),
                json!("5-1 * * * *"),
                json!("\u{0}"),
                json!("x".repeat(10_240)),
            ],
        ),
        (
            "timezone",
            vec![
                json!("CEST"),
                json!("Mars/Olympus"),
                json!(""),
                json!("+02:00"),
                json!("../etc/passwd"),
                json!("EST5EDT,M3.2.0,M11.1.0"),
            ],
        ),
        ("misfire", vec![json!("ignore"), json!(1)]),
        ("catch_up_max", vec![json!(0), json!(10_001), json!("9")]),
        (
            "name",
            vec![
                json!("No Name"),
                json!(""),
                json!("x".repeat(64)),
                json!("a/b"),
            ],
        ),
        ("kind", vec![json!("Echo"), json!("")]),
        ("queue", vec![json!("no queue")]),
        ("priority", vec![json!(4), json!(-1), json!(1.5)]),
        ("max_attempts", vec![json!(0), json!(1001)]),
        ("on_lost", vec![json!("shrug")]),
        (
            "expires_after",
            vec![json!("0s"), json!("1"), json!("400d")],
        ),
        ("tenant", vec![json!("umbrella")]),
        ("paused", vec![json!("yes")]),
        ("colour", vec![json!("red")]),
    ]
}

/// The same for fields that are texts, with what is said against each.
fn refused_texts() -> Vec<(String, String, String)> {
    let table = include_str!("../data/schedules_refused.json");
    serde_json::from_str(table).unwrap()
}

fn says(answer: &Answer, what: &str) -> bool {
    let detail = answer.json()["detail"].to_string();
    let what = serde_json::to_string(what).unwrap();
    detail.contains(what.trim_matches('"'))
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_refused_with_its_pointer() {
    let (cluster, api) = start(0, 0).await;
    let good = json!({"name": "s", "cron": "* * * * *", "kind": "echo"});
    let create = async |field: &str, value: Value| {
        let mut schedule = good.clone();
        schedule[field] = value;
        let refused = api.post("/v1/schedules", &schedule).await.unwrap();
        let pointer = refused.problem(422).unwrap();
        assert_eq!(pointer, Some(format!("/{field}")), "{refused:?}");
        refused
    };
    for (field, values) in refused() {
        for value in values {
            create(field, value).await;
        }
    }
    for (field, text, what) in refused_texts() {
        let refused = create(&field, json!(text)).await;
        assert!(says(&refused, &what), "{text:?}: {refused:?}");
    }
    let inside = json!({"name": "s", "cron": "* * * * *", "kind": "webhook", "args": {"url": "http://10.0.0.1/", "body": ""}});
    let refused = api.post("/v1/schedules", &inside).await.unwrap();
    assert_eq!(refused.problem(422).unwrap().as_deref(), Some("/args/url"));
    for missing in ["name", "cron", "kind"] {
        let mut schedule = good.clone();
        schedule.as_object_mut().unwrap().remove(missing);
        let refused = api.post("/v1/schedules", &schedule).await.unwrap();
        assert_eq!(refused.problem(422).unwrap(), Some(format!("/{missing}")));
    }
    let none = api.get("/v1/schedules").await.unwrap().json();
    assert_eq!(none["items"], json!([]));
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_schedule_cannot_become_one_either() {
    let (cluster, api) = start(0, 0).await;
    let good = json!({"name": "s", "cron": "* * * * *", "kind": "echo"});
    let before = api.post("/v1/schedules", &good).await.unwrap().json();
    let change = async |change: Value, pointer: &str| {
        let path = "/v1/schedules/s";
        let refused = api.call(Method::PATCH, path, &change).await.unwrap();
        let at = refused.problem(422).unwrap();
        assert_eq!(at.as_deref(), Some(pointer), "{change:.100}: {refused:?}");
        refused
    };
    for (field, values) in refused() {
        for value in values {
            change(json!({field: value}), &format!("/{field}")).await;
        }
    }
    for (field, text, what) in refused_texts() {
        let refused = change(json!({field.as_str(): text}), &format!("/{field}")).await;
        assert!(says(&refused, &what), "{text:?}: {refused:?}");
    }
    let inside = json!({"kind": "webhook", "args": {"url": "http://10.0.0.1/", "body": ""}});
    change(inside, "/args/url").await;
    change(json!({"name": "other"}), "/name").await;

    let after = api.get("/v1/schedules/s").await.unwrap().json();
    for (field, value) in before.as_object().unwrap() {
        // A minute may have passed.
        if field != "next_ticks" {
            assert_eq!(&after[field], value, "{field}");
        }
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn pages_hold_every_schedule_once_by_name_and_nonsense_is_refused() {
    let (mut cluster, acme) = start(0, 0).await;
    let id = cluster.start(Program::api()).await.unwrap();
    let umbrella = cluster.client(id, Some("umbrella"), &Permission::ALL).await;
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    let umbrella = umbrella.unwrap();
    for (api, names) in [
        (&acme, &["a", "b", "c"][..]),
        (&umbrella, &["b", "c", "d", "e"][..]),
    ] {
        for name in names {
            let new = json!({"name": name, "cron": "@daily", "kind": "echo"});
            let created = api.post("/v1/schedules", &new).await.unwrap();
            assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
        }
    }
    let all = [
        "a acme",
        "b acme",
        "b umbrella",
        "c acme",
        "c umbrella",
        "d umbrella",
        "e umbrella",
    ];
    for (api, filter, of) in [
        (&operator, "", ""),
        (&operator, "&tenant=acme", "acme"),
        (&acme, "", "acme"),
        (&umbrella, "", "umbrella"),
    ] {
        let expected: Vec<_> = all.into_iter().filter(|one| one.ends_with(of)).collect();
        for limit in 1..=4 {
            let path = format!("/v1/schedules?limit={limit}{filter}");
            assert_eq!(listed(api, &path, limit).await, expected, "{path}");
        }
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "cursor=",
        "cursor=b",
        "cursor=b/",
        "cursor=/acme",
        "cursor=b/acme/c",
        "cursor=No%20Name/acme",
        "cursor=%00/acme",
        "cursor=%ff",
        "tenant=umbrella",
        "tenant=",
        "name=a",
    ] {
        let path = format!("/v1/schedules?{query}");
        let refused = acme.get(&path).await.unwrap();
        refused.problem(422).unwrap();
        assert!(
            refused.json()["parameter"].is_string(),
            "{query}: {refused:?}"
        );
    }
    cluster.take_down().await.unwrap();
}

/// Every schedule of all pages, as its name and its tenant's.
async fn listed(api: &Api, path: &str, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{path}{cursor}")).await.unwrap().json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{page}");
        let name = |one: &Value| format!("{} {}", one["name"], one["tenant"]).replace('"', "");
        all.extend(items.iter().map(name));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn four_schedulers_make_one_job_for_each_tick_while_they_are_killed() {
    let (mut cluster, api) = start(4, 1).await;
    for n in 0..3 {
        let every_second = json!({"name": format!("s{n}"), "cron": "* * * * * *", "kind": "echo"});
        let created = api.post("/v1/schedules", &every_second).await.unwrap();
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    }
    for victim in 0..3 {
        let id = cluster.scheduler(victim);
        cluster.kill(id).await.unwrap();
        cluster.start_scheduler().await.unwrap();
    }
    eventually("thirty ticks", async || {
        let made = ticks(&cluster).await.len();
        anyhow::ensure!(made >= 30, "{made}");
        Ok(())
    })
    .await
    .unwrap();
    for n in 0..3 {
        let pause = json!({"paused": true});
        let path = format!("/v1/schedules/s{n}");
        api.call(Method::PATCH, &path, &pause).await.unwrap();
    }

    let made = ticks(&cluster).await;
    let sql = "select s.name, count(*), count(distinct t.tick_at),
            extract(epoch from max(t.tick_at) - min(t.tick_at))::bigint + 1
        from postroad.schedule_tick t join postroad.schedule s on s.id = t.schedule_id group by s.name";
    for row in cluster.query(sql, &[]).await.unwrap() {
        let (name, count, distinct, seconds): (String, i64, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!(
            (count, distinct),
            (seconds, seconds),
            "{name}: ticks are missing or doubled"
        );
    }
    assert_eq!(jobs(&cluster).await, made.len() as i64);
    let apart = "select count(*) from postroad.schedule_tick t
        left join postroad.jobs j on j.id = t.job_id where j.id is null or j.run_at <> t.tick_at";
    assert_eq!(
        cluster.query(apart, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );
    eventually("all of them have run", async || {
        let completed = cluster
            .states()
            .await?
            .get("completed")
            .copied()
            .unwrap_or(0);
        anyhow::ensure!(
            completed == made.len() as i64,
            "{completed} of {}",
            made.len()
        );
        Ok(())
    })
    .await
    .unwrap();
    cluster.finish().await.unwrap();
}

/// Nobody was there for an hour: the schedule's row says so, as it would after an outage.
#[tokio::test]
async fn late_ticks_are_skipped_run_once_or_caught_up_as_the_schedule_says() {
    let (mut cluster, api) = start(0, 0).await;
    for (name, misfire, most) in [
        ("skip", "skip", 1),
        ("once", "run_once", 1),
        ("some", "catch_up", 7),
    ] {
        // A minute that is not this one and not the next: nothing is on time.
        let minute = (Timestamp::now() + Duration::from_secs(1800))
            .strftime("%M")
            .to_string();
        let schedule = json!({"name": name, "cron": format!("{minute} * * * *"), "kind": "echo", "misfire": misfire, "catch_up_max": most});
        let created = api.post("/v1/schedules", &schedule).await.unwrap();
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    }
    let away = "update postroad.schedule set next_at = next_at - interval '10 hours'";
    cluster.query(away, &[]).await.unwrap();
    cluster.start_scheduler().await.unwrap();

    eventually("the schedules have moved on", async || {
        let sql = "select count(*) from postroad.schedule where next_at > now()";
        let moved: i64 = cluster.query(sql, &[]).await?[0].get(0);
        anyhow::ensure!(moved == 3, "{moved}");
        Ok(())
    })
    .await
    .unwrap();
    let sql = "select s.name, count(t.job_id) from postroad.schedule s
        left join postroad.schedule_tick t on t.schedule_id = s.id group by s.name order by s.name";
    let rows = cluster.query(sql, &[]).await.unwrap();
    let made: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        made,
        [
            ("once".to_owned(), 1),
            ("skip".to_owned(), 0),
            ("some".to_owned(), 7)
        ]
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_tick_computed_before_the_schedule_was_changed_is_not_made() {
    let (cluster, api) = start(0, 0).await;
    let schedule = json!({"name": "s", "cron": "* * * * * *", "kind": "echo"});
    api.post("/v1/schedules", &schedule).await.unwrap();
    eventually("it is due", async || {
        anyhow::ensure!(!cluster.store.due_schedules(10, &[]).await?.is_empty());
        Ok(())
    })
    .await
    .unwrap();
    let due = cluster
        .store
        .due_schedules(10, &[])
        .await
        .unwrap()
        .remove(0);
    let change = json!({"cron": "0 0 1 1 *"});
    api.call(Method::PATCH, "/v1/schedules/s", &change)
        .await
        .unwrap();

    let plan = postroad_common::schedule::Plan {
        ticks: vec![due.next_at],
        ..postroad_common::schedule::Plan::default()
    };
    let ticked = cluster.store.tick(&due, &plan).await.unwrap();
    assert_eq!(ticked, postroad_common::store::Ticked::default());
    assert_eq!(jobs(&cluster).await, 0);
    cluster.take_down().await.unwrap();
}
