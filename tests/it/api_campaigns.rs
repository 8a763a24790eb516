//! Campaigns over HTTP: whatever a client sends, a clear answer that names the place, no 5xx, and
//! nothing changed that was refused. No scheduler is there: states stay what they are.

use std::collections::BTreeSet;

use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_campaign_fixture::{
    CSV, NOBODY, campaign, content, draft, everything, places, take,
};
use crate::api_fixture::{id_of, pages, quiet};

#[tokio::test]
async fn a_content_that_cannot_be_used_is_refused_with_every_place_at_once() {
    let (cluster, _, api) = quiet().await;
    let text = "/content/channels/sms/args/en/text";
    let say = |what: &str| ("/channels/sms/args/en/text", json!(what));
    for (changes, expected) in [
        (vec![say("Hi {{ nmae }}")], vec![text]),
        (vec![say("{% for x in name %}x{% endfor %}")], vec![text]),
        (vec![say("{% if name %}x{% endif %}")], vec![text]),
        (vec![say("{% include 'x' %}")], vec![text]),
        (vec![say("{{ range(10) }}")], vec![text]),
        (vec![say("{{ name.x }}")], vec![text]),
        (vec![say("{{ name|shout }}")], vec![text]),
        (vec![say("{{ name is tall }}")], vec![text]),
        (vec![say("{{ name")], vec![text]),
        (vec![say("{{ 'x' * 1000000000 }}")], vec![text]),
        (vec![("/channel", json!("fax"))], vec!["/content/channel"]),
        (vec![("/language", json!("xx_"))], vec!["/content/language"]),
        (
            vec![("/language", json!("de"))],
            vec!["/content/channels/note/args", "/content/channels/sms/args"],
        ),
        (
            vec![("/currency", json!("euro"))],
            vec!["/content/currency"],
        ),
        (
            vec![("/channels", json!({}))],
            vec!["/content/channel", "/content/channels"],
        ),
        (
            vec![("/channels", json!([]))],
            vec!["/content/channel", "/content/channels"],
        ),
        (vec![("/colour", json!("red"))], vec!["/content/colour"]),
        (
            vec![("/channels/sms/kind", json!("S M S"))],
            vec!["/content/channels/sms/kind"],
        ),
        (
            vec![("/channels/sms/cost", json!(-1))],
            vec!["/content/channels/sms/cost"],
        ),
        (
            vec![("/channels/sms/priority", json!(4))],
            vec!["/content/channels/sms/priority"],
        ),
        (
            vec![("/channels/sms/max_attempts", json!(0))],
            vec!["/content/channels/sms/max_attempts"],
        ),
        (
            vec![("/channels/sms/address", json!("pigeon"))],
            vec!["/content/channels/sms/address"],
        ),
        (
            vec![("/variables/to", json!({}))],
            vec!["/content/variables/to"],
        ),
        (
            vec![("/variables/name/default", json!("a\u{0}b"))],
            vec!["/content/variables/name/default"],
        ),
        // Several things at once.
        (
            vec![
                say("{{ nmae }} {{ other }}"),
                ("/channels/sms/cost", json!("much")),
                ("/currency", json!("€")),
                ("/channels/note/queue", json!("a b")),
            ],
            vec![
                text,
                "/content/channels/note/queue",
                "/content/channels/sms/cost",
                "/content/currency",
            ],
        ),
    ] {
        let mut body = campaign(&json!({}));
        for (place, value) in &changes {
            let (parent, member) = place.rsplit_once('/').unwrap();
            let parent = format!("/content{parent}");
            body.pointer_mut(&parent).unwrap()[member] = value.clone();
        }
        let refused = api.post("/v1/campaigns", &body).await.unwrap();
        let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(places(&refused), expected, "{changes:?}: {refused:?}");
    }
    for content in [json!(null), json!(5), json!("x"), json!([]), json!({})] {
        let body = json!({"name": "x", "content": content});
        let refused = api.post("/v1/campaigns", &body).await.unwrap();
        let first = refused.problem(422).unwrap().unwrap();
        assert!(first.starts_with("/content"), "{content}: {refused:?}");
    }
    let unknown = json!({"name": "x", "content": content(), "colour": "red"});
    let refused = api.post("/v1/campaigns", &unknown).await.unwrap();
    assert_eq!(refused.problem(422).unwrap().as_deref(), Some("/colour"));
    let sql = "select count(*) from postroad.campaign";
    assert_eq!(
        cluster.query(sql, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_campaign_with_a_value_out_of_range_is_refused_and_says_where() {
    let (cluster, _, api) = quiet().await;
    let day = json!({"from": "09:00", "until": "20:00"});
    for (more, pointer) in [
        (json!({"name": ""}), "/name"),
        (json!({"name": null}), "/name"),
        (json!({"name": 5}), "/name"),
        (json!({"name": "x".repeat(201)}), "/name"),
        (json!({"name": "a\u{0}b"}), "/name"),
        (json!({"name": "a\nb"}), "/name"),
        (json!({"tenant": "umbrella"}), "/tenant"),
        (json!({"tenant": "\u{0}"}), "/tenant"),
        (json!({"send_window": day}), "/timezone"),
        (
            json!({"send_window": "always", "timezone": "UTC"}),
            "/send_window",
        ),
        (
            json!({"send_window": {"from": "09:00"}, "timezone": "UTC"}),
            "/send_window/until",
        ),
        (
            json!({"send_window": {"from": "9", "until": "20:00"}, "timezone": "UTC"}),
            "/send_window/from",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "25:00"}, "timezone": "UTC"}),
            "/send_window/until",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "09:00"}, "timezone": "UTC"}),
            "/send_window/until",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00", "days": []}, "timezone": "UTC"}),
            "/send_window/days",
        ),
        (
            json!({"send_window": {"from": "09:00", "until": "20:00", "days": ["funday"]}, "timezone": "UTC"}),
            "/send_window/days/0",
        ),
        (
            json!({"send_window": day, "timezone": "Middle/Earth"}),
            "/timezone",
        ),
        (json!({"send_window": day, "timezone": 5}), "/timezone"),
        // One that never opens, and silence that never ends.
        (
            json!({"send_window": day, "quiet_hours": {"from": "08:00", "until": "21:00"}, "timezone": "UTC"}),
            "/send_window",
        ),
        (
            json!({"quiet_hours": {"from": "00:00", "until": "24:00"}, "timezone": "UTC"}),
            "/quiet_hours",
        ),
        (json!({"region": "France"}), "/region"),
        (json!({"region": "XX"}), "/region"),
        (json!({"region": ""}), "/region"),
        (json!({"rate_per_second": 0}), "/rate_per_second"),
        (json!({"rate_per_second": -1}), "/rate_per_second"),
        (json!({"rate_per_second": 1_000_001}), "/rate_per_second"),
        (json!({"rate_per_second": 0.5}), "/rate_per_second"),
        (json!({"rate_per_second": "fast"}), "/rate_per_second"),
        (json!({"rate_per_second": 1e30}), "/rate_per_second"),
        (json!({"canary_share": 0}), "/canary_share"),
        (json!({"canary_share": 1}), "/canary_share"),
        (json!({"canary_share": -0.1}), "/canary_share"),
        (json!({"canary_share": "NaN"}), "/canary_share"),
        (json!({"failure_max": -0.1}), "/failure_max"),
        (json!({"failure_max": 1.1}), "/failure_max"),
        (json!({"failure_max": "NaN"}), "/failure_max"),
        (json!({"start_at": "1999-12-31T23:59:59Z"}), "/start_at"),
        (json!({"start_at": "2200-01-01T00:00:00Z"}), "/start_at"),
        (json!({"start_at": "tomorrow"}), "/start_at"),
        (json!({"start_at": 5}), "/start_at"),
        (json!({"expires_at": "2200-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        // It would have ended before it is started.
        (
            json!({"start_at": "2001-01-01T00:00:00Z", "expires_at": "2002-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (
            json!({"start_at": "2100-01-02T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (
            json!({"start_at": "2100-01-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (json!({"needs_approval": "yes"}), "/needs_approval"),
    ] {
        let refused = api.post("/v1/campaigns", &campaign(&more)).await.unwrap();
        let place = refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{more}: {error:#}"));
        assert_eq!(place.as_deref(), Some(pointer), "{more}: {refused:?}");
    }
    // What is no JSON at all.
    for number in ["NaN", "1e999", "-Infinity"] {
        let body = campaign(&json!({"failure_max": 123}));
        let body = body.to_string().replace("123", number);
        let refused = api
            .raw(Method::POST, "/v1/campaigns", "application/json", body)
            .await;
        refused.unwrap().problem(400).unwrap();
    }
    let long = json!({"x": "x".repeat(300 * 1024)});
    let long = api
        .post("/v1/campaigns", &campaign(&json!({"content": long})))
        .await;
    long.unwrap().problem(413).unwrap();
    let xml = api
        .raw(Method::POST, "/v1/campaigns", "text/xml", "<x/>")
        .await;
    xml.unwrap().problem(415).unwrap();
    let sql = "select count(*) from postroad.campaign";
    assert_eq!(
        cluster.query(sql, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );

    // And at the very edge it is taken.
    let edge = json!({
        "name": "x".repeat(200), "rate_per_second": 1_000_000, "canary_share": 0.000_001, "failure_max": 0,
        "region": "fr", "start_at": "2000-01-01T00:00:00Z", "expires_at": "2199-12-31T23:59:59Z",
    });
    draft(&api, edge).await;
    cluster.take_down().await.unwrap();
}

const STATES: [&str; 7] = [
    "draft",
    "awaiting_approval",
    "running",
    "paused",
    "cancelled",
    "expired",
    "finished",
];

/// What each action is for, and what comes of it.
const ACTIONS: [(&str, &[&str], &str); 5] = [
    ("start", &["draft"], "running"),
    ("approve", &["awaiting_approval"], "running"),
    ("pause", &["running"], "paused"),
    ("resume", &["paused", "cancelled"], "running"),
    (
        "cancel",
        &["draft", "awaiting_approval", "running", "paused"],
        "cancelled",
    ),
];

#[tokio::test]
async fn an_action_in_a_state_that_is_not_its_own_is_a_conflict_and_changes_nothing() {
    let (cluster, program, api) = quiet().await;
    let second = cluster
        .client(program, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let path = draft(&api, json!({})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    for state in STATES {
        for (action, from, to) in ACTIONS {
            let set = "update postroad.campaign set state = $1, note = ''";
            cluster.query(set, &[&state]).await.unwrap();
            let before = everything(&cluster).await;
            let path = format!("{path}/{action}");
            let done = second.post(&path, &json!({})).await.unwrap();
            if from.contains(&state) {
                assert_eq!(done.status, StatusCode::OK, "{action} of {state}: {done:?}");
                assert_eq!(done.json()["state"], to, "{action} of {state}");
                continue;
            }
            done.problem(409)
                .unwrap_or_else(|error| panic!("{action} of {state}: {error:#}"));
            assert!(done.text.contains(&format!("is {state}")), "{done:?}");
            assert_eq!(everything(&cluster).await, before, "{action} of {state}");
        }
    }
    for (action, ..) in ACTIONS {
        for unknown in [NOBODY, "/v1/campaigns/1", "/v1/campaigns/%00"] {
            let path = format!("{unknown}/{action}");
            api.post(&path, &json!({}))
                .await
                .unwrap()
                .problem(404)
                .unwrap();
        }
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn whoever_made_a_campaign_does_not_approve_of_it() {
    let (cluster, program, api) = quiet().await;
    let path = draft(&api, json!({"needs_approval": true})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    let act = async |api: &Api, action: &str| {
        let path = format!("{path}/{action}");
        api.post(&path, &json!({})).await.unwrap()
    };
    assert_eq!(
        act(&api, "start").await.json()["state"],
        "awaiting_approval"
    );
    let before = everything(&cluster).await;
    let own = act(&api, "approve").await;
    own.problem(409).unwrap();
    assert!(own.text.contains("another token"), "{own:?}");
    assert_eq!(everything(&cluster).await, before);
    // Calling it off and going on is no way around it.
    assert_eq!(act(&api, "cancel").await.json()["state"], "cancelled");
    act(&api, "resume").await.problem(409).unwrap();

    let path = draft(&api, json!({"needs_approval": true})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    api.post(&format!("{path}/start"), &json!({}))
        .await
        .unwrap();
    let second = cluster
        .client(program, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let approved = second
        .post(&format!("{path}/approve"), &json!({}))
        .await
        .unwrap();
    assert_eq!(approved.json()["state"], "running", "{approved:?}");
    cluster.take_down().await.unwrap();
}

/// An operator's pause is not its tenant's to end, and no tenant runs any number at once.
#[tokio::test]
async fn what_may_not_run_is_a_conflict_that_says_so() {
    let (cluster, program, api) = quiet().await;
    let operator = cluster
        .client(program, None, &Permission::ALL)
        .await
        .unwrap();
    let path = draft(&api, json!({})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    let act = async |api: &Api, action: &str| {
        let path = format!("{path}/{action}");
        api.post(&path, &json!({})).await.unwrap()
    };
    let fill = "
        insert into postroad.campaign (public_id, tenant_id, name, content, state, created_by)
        select gen_random_uuid(), c.tenant_id, 'another', '{}', 'running', 'x'
        from postroad.campaign c, generate_series(1, 200)";
    cluster.query(fill, &[]).await.unwrap();
    let full = act(&api, "start").await;
    full.problem(409).unwrap();
    assert!(full.text.contains("as many campaigns"), "{full:?}");
    let sql = "delete from postroad.campaign where name = 'another'";
    cluster.query(sql, &[]).await.unwrap();

    assert_eq!(act(&api, "start").await.json()["state"], "running");
    for action in ["pause", "cancel"] {
        let done = act(&operator, action).await;
        assert_eq!(done.status, StatusCode::OK, "{done:?}");
        let refused = act(&api, "resume").await;
        refused.problem(409).unwrap();
        assert!(refused.text.contains("only an operator"), "{refused:?}");
    }
    // What was thrown away cannot be gone on with, whoever asks.
    cluster
        .query("delete from postroad.campaign_chunk", &[])
        .await
        .unwrap();
    act(&operator, "resume").await.problem(409).unwrap();
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_preview_says_how_many_at_what_cost_and_sends_nothing() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    let empty = api.get(&format!("{path}/preview")).await.unwrap().json();
    assert_eq!(
        (&empty["recipients"], &empty["samples"]),
        (&json!(0), &json!([]))
    );
    let csv = "to,name,language,channel\n+33639980001,Ana,fr-CA,\n+33639980002,,,\nuser-1,,,note\n";
    take(&api, &path, CSV, csv).await;

    let preview = api
        .get(&format!("{path}/preview?samples=1"))
        .await
        .unwrap()
        .json();

    assert_eq!(preview["recipients"], 3);
    assert_eq!(
        preview["parts"],
        json!([
            {"channel": "note", "language": "en", "recipients": 1},
            {"channel": "sms", "language": "en", "recipients": 1},
            {"channel": "sms", "language": "fr", "recipients": 1},
        ])
    );
    assert_eq!(
        (&preview["cost"], &preview["currency"]),
        (&json!("0.090000"), &json!("EUR"))
    );
    let samples = preview["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 1);
    assert_eq!(
        samples[0]["args"],
        json!({"to": "+33639980001", "text": "Bonjour Ana"})
    );
    for samples in ["0", "11", "-1", "x", ""] {
        let refused = api.get(&format!("{path}/preview?samples={samples}")).await;
        refused.unwrap().problem(422).unwrap();
    }
    api.get(&format!("{NOBODY}/preview"))
        .await
        .unwrap()
        .problem(404)
        .unwrap();
    let sql = "select count(*) from postroad.job";
    assert_eq!(
        cluster.query(sql, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn campaigns_are_listed_page_by_page_newest_first() {
    let (cluster, program, api) = quiet().await;
    let other = cluster
        .client(program, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(draft(&api, json!({"name": format!("number {n}")})).await);
        draft(&other, json!({})).await;
    }
    api.post(&format!("{}/cancel", made[1]), &json!({}))
        .await
        .unwrap();
    made.reverse();
    let paths = |items: Vec<Value>| -> Vec<String> {
        let path = |item: &Value| format!("/v1/campaigns/{}", id_of(item));
        items.iter().map(path).collect()
    };
    let seen = paths(pages(&api, "/v1/campaigns?limit=2").await.unwrap());
    assert_eq!(seen, made);
    let cancelled = pages(&api, "/v1/campaigns?state=cancelled&limit=1").await;
    assert_eq!(paths(cancelled.unwrap()), [made[3].clone()]);
    for query in [
        "limit=0",
        "limit=201",
        "cursor=x",
        "cursor=%00",
        "state=Draft",
        "state=",
        "some=1",
    ] {
        let refused = api.get(&format!("/v1/campaigns?{query}")).await.unwrap();
        refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{query}: {error:#}"));
    }
    for path in [NOBODY, "/v1/campaigns/x", "/v1/campaigns/%ff"] {
        api.get(path).await.unwrap().problem(404).unwrap();
    }
    cluster.take_down().await.unwrap();
}
