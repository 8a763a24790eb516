//! Timelines over HTTP: who sees what, from when to when, in which language, and what they have read.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use postroad_common::store::NewEntry;
use postroad_common::timeline::MessageInput;
use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Cluster, Program, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api_fixture::{id_of, quiet};

fn message(title: &str) -> Value {
    json!({"messages": {"en": {"title": title}}})
}

/// Announces something to whom `rules` pick, and says its id.
async fn announce(api: &Api, title: &str, rules: Value) -> String {
    let body = json!({"content": message(title), "rules": rules});
    let made = api.post("/v1/announcements", &body).await.unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    id_of(&made.json())
}

async fn put(api: &Api, key: &str, body: Value) {
    let path = format!("/v1/recipients/{key}");
    let put = api.call(Method::PUT, &path, &body).await.unwrap();
    assert!(put.status.is_success(), "{put:?}");
}

async fn look(api: &Api, recipient: &str, query: &str) -> Value {
    let path = format!("/v1/timeline/{recipient}?{query}");
    let answer = api.get(&path).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

fn titles(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|item| item["message"]["title"].as_str().unwrap().to_owned())
        .collect()
}

async fn sees(api: &Api, recipient: &str) -> Vec<String> {
    titles(&look(api, recipient, "").await)
}

async fn mark(api: &Api, recipient: &str, body: Value) -> Answer {
    let path = format!("/v1/timeline/{recipient}/read");
    api.post(&path, &body).await.unwrap()
}

/// Marks as read, and says how much is left.
async fn unread_after(api: &Api, recipient: &str, body: Value) -> u64 {
    let answer = mark(api, recipient, body).await;
    let left = answer.json()["unread"].as_u64();
    left.unwrap_or_else(|| panic!("{answer:?}"))
}

/// Something for one recipient of acme's, as a worker makes it.
async fn entry(cluster: &Cluster, recipient: &str, title: &str) -> Uuid {
    let message = MessageInput {
        title: Some(title.to_owned()),
        ..MessageInput::default()
    };
    let id = Uuid::now_v7();
    let entry = NewEntry {
        id,
        tenant: "acme".to_owned(),
        recipient: recipient.to_owned(),
        language: None,
        ends_at: None,
        message: message.into_message().unwrap(),
    };
    assert_eq!(cluster.store.put_entries(&[entry]).await.unwrap(), 1);
    id
}

/// What one process has answered, the other one knows, with nobody to tell it.
#[tokio::test]
async fn what_is_published_changed_or_withdrawn_is_seen_so_by_every_process_at_once() {
    let (mut cluster, _, one) = quiet().await;
    let second = cluster.start(Program::api()).await.unwrap();
    let other = Api::at(cluster.api_url(second).unwrap(), one.token().to_owned()).unwrap();
    let stranger = cluster.client(second, Some("umbrella"), &Permission::ALL);
    let stranger = stranger.await.unwrap();
    put(
        &one,
        "french",
        json!({"country": "FR", "language": "fr-CA"}),
    )
    .await;
    put(&one, "german", json!({"country": "DE", "language": "de"})).await;
    assert!(sees(&other, "french").await.is_empty());

    let everybody = announce(&one, "for everybody", json!({"all": true})).await;
    assert_eq!(sees(&other, "french").await, ["for everybody"]);
    // Somebody of whom nothing is known is one of everybody, and of those who are not something.
    assert_eq!(sees(&other, "nobody has put me").await, ["for everybody"]);

    let audience = "/v1/audiences/francophones";
    let rules = json!({"rules": {"country": ["FR"]}});
    one.call(Method::PUT, audience, &rules).await.unwrap();
    let body = json!({"audience": "francophones", "content": {"language": "en", "messages": {
        "en": {"title": "Good day"}, "fr": {"title": "Bonjour", "body": "à\ntous", "url": "/prix", "data": {"n": 1}},
    }}});
    let made = other.post("/v1/announcements", &body).await.unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let of_audience = id_of(&made.json());
    // The rules were copied.
    let rules = json!({"rules": {"country": ["DE"]}});
    one.call(Method::PUT, audience, &rules).await.unwrap();
    let page = look(&one, "french", "").await;
    assert_eq!(titles(&page), ["Bonjour", "for everybody"]);
    let item = &page["items"][0];
    assert_eq!(item["language"], "fr");
    assert_eq!(
        item["message"],
        json!({"title": "Bonjour", "body": "à\ntous", "url": "/prix", "data": {"n": 1}})
    );
    assert_eq!(sees(&one, "german").await, ["for everybody"]);

    let path = format!("/v1/announcements/{of_audience}");
    let corrected = json!({"content": message("Corrected")});
    let changed = one.call(Method::PATCH, &path, &corrected).await.unwrap();
    assert_eq!(changed.json()["state"], "active", "{changed:?}");
    assert_eq!(sees(&other, "french").await, ["Corrected", "for everybody"]);

    let path = format!("/v1/announcements/{everybody}");
    let withdraw = format!("{path}/withdraw");
    for _ in 0..2 {
        let withdrawn = other.post(&withdraw, &json!({})).await.unwrap();
        assert_eq!(withdrawn.json()["state"], "withdrawn", "{withdrawn:?}");
    }
    assert_eq!(sees(&one, "french").await, ["Corrected"]);
    let changed = one.call(Method::PATCH, &path, &corrected).await.unwrap();
    changed.problem(409).unwrap();
    let left = one.get("/v1/announcements?limit=1").await.unwrap().json();
    assert_eq!(left["items"][0]["id"], of_audience.as_str());
    let cursor = left["next_cursor"].as_str().unwrap();
    let behind = format!("/v1/announcements?all=true&cursor={cursor}");
    let behind = one.get(&behind).await.unwrap().json();
    assert_eq!(behind["items"][0]["id"], everybody.as_str());

    // And nothing of it is another tenant's.
    assert!(sees(&stranger, "french").await.is_empty());
    let up_to = json!({"up_to": of_audience});
    mark(&stranger, "french", up_to).await.problem(422).unwrap();
    cluster.take_down().await.unwrap();
}

/// By the database's clock, from what is kept in memory: nobody is told.
#[tokio::test]
async fn an_announcement_is_seen_from_its_start_to_its_end() {
    let (cluster, id, api) = quiet().await;
    let now = cluster.store.now().await.unwrap();
    let after = |millis: i64| (now + SignedDuration::from_millis(millis)).to_string();
    let body = json!({
        "content": message("for a moment"), "rules": {"all": true},
        "starts_at": after(900), "ends_at": after(1800),
    });
    let made = api.post("/v1/announcements", &body).await.unwrap();
    assert_eq!(made.json()["state"], "scheduled", "{made:?}");
    let page = look(&api, "somebody", "").await;
    assert_eq!((&page["items"], &page["unread"]), (&json!([]), &json!(0)));
    // It cannot be read before it is there.
    let up_to = json!({"up_to": made.json()["id"]});
    mark(&api, "somebody", up_to).await.problem(422).unwrap();
    let name = "postroad_announcement_sets_read_total";
    let before = cluster.counted(id, name).await.unwrap();
    for (what, expected) in [("it has begun", 1), ("it has ended", 0)] {
        eventually(what, async || {
            let seen = look(&api, "somebody", "").await;
            anyhow::ensure!(seen["unread"] == expected, "{seen}");
            Ok(())
        })
        .await
        .unwrap();
    }
    assert_eq!(before, Some(1));
    assert_eq!(cluster.counted(id, name).await.unwrap(), before);
    let path = format!("/v1/announcements/{}/withdraw", id_of(&made.json()));
    let over = api.post(&path, &json!({})).await.unwrap();
    over.problem(409).unwrap();
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn pages_stay_where_they_are_while_new_items_come_and_marks_hold_across_them() {
    let (cluster, _, api) = quiet().await;
    let mut expected = BTreeSet::new();
    for n in 0..4 {
        expected.insert(announce(&api, &format!("a{n}"), json!({"all": true})).await);
        expected.insert(entry(&cluster, "me", &format!("e{n}")).await.to_string());
    }
    entry(&cluster, "somebody else", "not mine").await;

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = look(&api, "me", &format!("limit=3{cursor}")).await;
        seen.extend(titles(&page));
        // What comes meanwhile is before the first page.
        announce(&api, "new", json!({"all": true})).await;
        entry(&cluster, "me", "new").await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["e3", "a3", "e2", "a2", "e1", "a1", "e0", "a0"]);

    // Fourteen now: each page has brought two new ones.
    let all = look(&api, "me", "").await;
    let items = all["items"].as_array().unwrap();
    let ids: Vec<&str> = items
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect();
    assert_eq!((items.len(), &all["unread"]), (14, &json!(14)));
    let some = json!({"ids": [ids[1], ids[2], ids[2], ids[9], Uuid::now_v7()]});
    for _ in 0..2 {
        assert_eq!(unread_after(&api, "me", some.clone()).await, 11);
    }
    let unread = look(&api, "me", "unread=true&limit=200").await;
    let left: Vec<&str> = (0..14)
        .filter(|n| ![1, 2, 9].contains(n))
        .map(|n| ids[n])
        .collect();
    let found = unread["items"].as_array().unwrap().iter();
    assert_eq!(
        found
            .map(|item| item["id"].as_str().unwrap())
            .collect::<Vec<_>>(),
        left
    );

    // Up to the sixth: that and all behind it. Then up to an older one, which takes nothing back.
    for _ in 0..2 {
        assert_eq!(unread_after(&api, "me", json!({"up_to": ids[5]})).await, 3);
        assert_eq!(unread_after(&api, "me", json!({"up_to": ids[12]})).await, 3);
    }
    let page = look(&api, "me", "").await;
    let is_read = |n: usize| page["items"][n]["read"] == true;
    let read: Vec<usize> = (0..14).filter(|n| is_read(*n)).collect();
    assert_eq!(
        read,
        [[1, 2].as_slice(), &(5..14).collect::<Vec<_>>()].concat()
    );
    // Nobody else has read anything.
    assert_eq!(look(&api, "you", "").await["unread"], 8 - 1);

    // A mark keeps no more than is shown.
    let kept = "select cardinality(read_ids) from postroad.timeline_reader where recipient = 'me'";
    let kept: i32 = cluster.query(kept, &[]).await.unwrap()[0].get(0);
    assert!(kept <= 2, "{kept}");
    let delete = api.request(Method::DELETE, "/v1/recipients/me");
    api.send(delete).await.unwrap().problem(404).unwrap();
    let page = look(&api, "me", "").await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["unread"]),
        (7, &json!(7))
    );
    cluster.take_down().await.unwrap();
}

/// Rows in every table of the schema.
async fn rows(cluster: &Cluster) -> i64 {
    let sql = "
        select coalesce(sum((xpath('/row/n/text()', query_to_xml(
            format('select count(*) as n from postroad.%I', c.relname), false, true, '')))[1]::text::bigint), 0)::bigint
        from pg_class c
        where c.relnamespace = 'postroad'::regnamespace and c.relkind = 'r'";
    cluster.query(sql, &[]).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn an_announcement_is_three_rows_whomever_it_is_for_and_made_again_it_is_none() {
    let (cluster, _, api) = quiet().await;
    let lines: String = (0..3000)
        .map(|n| format!("{{\"key\":\"user-{n}\"}}\n"))
        .collect();
    let body = json!({"content": message("one"), "rules": {"all": true}, "dedup_key": "spring"});
    for recipients in [String::new(), lines] {
        let path = "/v1/recipients/batch";
        let imported = api.raw(Method::POST, path, "application/x-ndjson", recipients);
        assert_eq!(imported.await.unwrap().status, StatusCode::OK);
        announce(&api, "warm", json!({"all": true})).await;
        let before = rows(&cluster).await;
        announce(&api, "for all of them", json!({"all": true})).await;
        // Itself and a row of the audit log. The version of the set is a row that is there.
        assert_eq!(rows(&cluster).await - before, 2);
    }

    let made = api.post("/v1/announcements", &body).await.unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let before = rows(&cluster).await;
    let again = api.post("/v1/announcements", &body).await.unwrap();
    assert_eq!((again.status, again.json()), (StatusCode::OK, made.json()));
    let mut another = body.clone();
    another["rules"] = json!({"plan": ["pro"]});
    let taken = api.post("/v1/announcements", &another).await.unwrap();
    assert_eq!(taken.problem(409).unwrap().as_deref(), Some("/dedup_key"));
    assert_eq!(rows(&cluster).await, before);

    // Of those who want the last places at once, no more than there are get one.
    let fill = "
        insert into postroad.announcement
            (id, tenant_id, fingerprint, content, rules, starts_at, ends_at, created_by)
        select gen_random_uuid(), a.tenant_id, '', a.content, a.rules, now(), now() + interval '1 day', 'test'
        from postroad.announcement a, generate_series(1, 1000 - 2 - $1) where a.dedup_key = 'spring'";
    let there = "select count(*)::int from postroad.announcement";
    let there: i32 = cluster.query(there, &[]).await.unwrap()[0].get(0);
    cluster.query(fill, &[&there]).await.unwrap();
    let body = json!({"content": message("late"), "rules": {"all": true}});
    let late = (0..6).map(|_| api.post("/v1/announcements", &body));
    let late = futures_util::future::try_join_all(late).await.unwrap();
    let made = late
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED);
    assert_eq!(made.count(), 2);
    for answer in late
        .iter()
        .filter(|answer| answer.status != StatusCode::CREATED)
    {
        answer.problem(409).unwrap();
    }
    let page = look(&api, "user-1", "limit=200").await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["unread"]),
        (200, &json!(100))
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_announced_or_asked_for_is_refused_at_its_place() {
    let (cluster, _, api) = quiet().await;
    let now = Timestamp::now();
    let hours = |hours: i64| (now + SignedDuration::from_hours(hours)).to_string();
    let deep = (0..100).fold(json!({"all": true}), |rule, _| json!({"not": rule}));
    let with = |field: &str, value: Value| {
        let mut body = json!({"content": message("x"), "rules": {"all": true}});
        body[field] = value;
        body
    };
    let says = |message: Value| with("content", json!({"messages": {"en": message}}));
    let (content, title) = ("/content/messages/en", json!("x"));
    let at = |field: &str| format!("{content}/{field}");
    for (body, pointer) in [
        (json!({}), "/content".to_owned()),
        (json!([]), String::new()),
        (json!({"content": message("x")}), "/rules".to_owned()),
        (with("rule", json!({})), "/rule".to_owned()),
        (with("tenant", json!("umbrella")), "/tenant".to_owned()),
        (with("audience", json!("vips")), "/audience".to_owned()),
        (
            json!({"content": message("x"), "audience": "vips"}),
            "/audience".to_owned(),
        ),
        (
            json!({"content": message("x"), "audience": "../etc"}),
            "/audience".to_owned(),
        ),
        (with("rules", json!({"plan": []})), "/rules/plan".to_owned()),
        (with("rules", deep), "/rules".to_owned()),
        (with("dedup_key", json!("")), "/dedup_key".to_owned()),
        (with("dedup_key", json!("a\u{0}")), "/dedup_key".to_owned()),
        (
            with("starts_at", json!("tomorrow")),
            "/starts_at".to_owned(),
        ),
        (with("ends_at", json!(hours(-1))), "/ends_at".to_owned()),
        (
            with("ends_at", json!("-009999-01-02T00:00:00Z")),
            "/ends_at".to_owned(),
        ),
        (
            with("ends_at", json!(hours(24 * 367))),
            "/ends_at".to_owned(),
        ),
        (
            json!({"content": message("x"), "rules": {"all": true}, "starts_at": hours(2), "ends_at": hours(1)}),
            "/ends_at".to_owned(),
        ),
        (
            with("content", json!({"messages": {}})),
            "/content/messages".to_owned(),
        ),
        (
            with("content", json!({"text": "x"})),
            "/content/text".to_owned(),
        ),
        (
            with(
                "content",
                json!({"messages": {"en": {"title": "x"}, "fr": {"title": "y"}}}),
            ),
            "/content/language".to_owned(),
        ),
        (
            with(
                "content",
                json!({"language": "de", "messages": {"en": {"title": "x"}}}),
            ),
            "/content/language".to_owned(),
        ),
        (
            with("content", json!({"messages": {"english": {"title": "x"}}})),
            "/content/messages/english".to_owned(),
        ),
        (says(json!({})), at("title")),
        (says(json!({"title": ""})), at("title")),
        (says(json!({"title": "a\nb"})), at("title")),
        (says(json!({"title": "x".repeat(201)})), at("title")),
        (
            says(json!({"title": title, "body": "x".repeat(4001)})),
            at("body"),
        ),
        (says(json!({"title": title, "body": "\u{0}"})), at("body")),
        (
            says(json!({"title": title, "url": "javascript:alert(1)"})),
            at("url"),
        ),
        (
            says(json!({"title": title, "url": "//elsewhere.example"})),
            at("url"),
        ),
        (says(json!({"title": title, "url": "elsewhere"})), at("url")),
        (says(json!({"title": title, "data": []})), at("data")),
        (
            says(json!({"title": title, "data": {"x": "x".repeat(4096)}})),
            at("data"),
        ),
        (says(json!({"title": title, "html": "x"})), at("html")),
    ] {
        let answer = api.post("/v1/announcements", &body).await.unwrap();
        let said = answer.problem(422).unwrap();
        assert_eq!(
            said.as_deref(),
            Some(pointer.as_str()),
            "{body}: {answer:?}"
        );
    }
    let none = "select count(*) from postroad.announcement";
    assert_eq!(
        cluster.query(none, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );

    let id = announce(&api, "there", json!({"all": true})).await;
    let path = format!("/v1/announcements/{id}");
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"rules": {"all": true}}), "/rules"),
        (json!({"ends_at": hours(-1)}), "/ends_at"),
        (json!({"ends_at": hours(24 * 367)}), "/ends_at"),
    ] {
        let answer = api.call(Method::PATCH, &path, &body).await.unwrap();
        assert_eq!(
            answer.problem(422).unwrap().as_deref(),
            Some(pointer),
            "{answer:?}"
        );
    }
    let ids = vec![id.clone(); 201];
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"ids": []}), "/ids"),
        (json!({"ids": ids}), "/ids"),
        (json!({"ids": ["x"]}), "/ids/0"),
        (json!({"ids": [id], "up_to": id}), "/up_to"),
        (json!({"up_to": Uuid::nil()}), "/up_to"),
        (json!({"all": true}), "/all"),
    ] {
        let answer = mark(&api, "me", body).await;
        assert_eq!(
            answer.problem(422).unwrap().as_deref(),
            Some(pointer),
            "{answer:?}"
        );
    }
    for query in [
        "limit=0",
        "limit=201",
        "cursor=x",
        "cursor=-1.0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
        "cursor=99999999999999999999.0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
        "cursor=9223372036854775807.0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
        "unread=maybe",
        "page=2",
    ] {
        let answer = api.get(&format!("/v1/timeline/me?{query}")).await.unwrap();
        answer.problem(422).unwrap();
    }
    let long = "x".repeat(256);
    for nobody in ["%00", "a%0Ab", &long] {
        let answer = api.get(&format!("/v1/timeline/{nobody}")).await.unwrap();
        answer.problem(404).unwrap();
        mark(&api, nobody, json!({"ids": [id]}))
            .await
            .problem(404)
            .unwrap();
    }
    cluster.take_down().await.unwrap();
}
