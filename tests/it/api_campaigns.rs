//! Campaigns and suppressed recipients over HTTP: whatever a client sends, a clear answer that names
//! the place, no 5xx, and nothing changed that was refused. No scheduler is there: states stay what
//! they are.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Cluster, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::api_fixture::{id_of, quiet};

const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const NOBODY: &str = "/v1/campaigns/0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a";

/// What can be said: text messages in two languages, and notes to users.
fn content() -> Value {
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
fn campaign(more: &Value) -> Value {
    let mut body = json!({"name": "spring", "content": content()});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more.clone());
    }
    body
}

/// The path of a draft.
async fn draft(api: &Api, more: Value) -> String {
    let made = api.post("/v1/campaigns", &campaign(&more)).await.unwrap();
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    format!("/v1/campaigns/{}", id_of(&made.json()))
}

async fn put(api: &Api, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Answer {
    let path = format!("{path}/recipients");
    let answer = api.raw(Method::PUT, &path, kind, body).await.unwrap();
    assert!(answer.status.as_u16() < 500, "{answer:?}");
    answer
}

/// An upload that is taken: the lines that were refused, and the counts.
async fn take(
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

async fn planned(api: &Api, path: &str) -> Value {
    api.get(path).await.unwrap().json()["progress"]["planned"].clone()
}

/// So many users, who get notes: one line each.
fn users(from: usize, count: usize) -> String {
    let line = |n: usize| format!("user-{n},note\n");
    (from..from + count).map(line).collect()
}

/// Recipients that are kept: of the campaign, and of uploads that are not.
async fn kept(cluster: &Cluster) -> (i64, i64) {
    let sql = "
        select coalesce(sum(k.recipients) filter (where k.upload = c.upload), 0)::bigint,
               coalesce(sum(k.recipients) filter (where k.upload is distinct from c.upload), 0)::bigint
        from postroad.campaign_chunk k join postroad.campaign c on c.id = k.campaign_id";
    let row = &cluster.query(sql, &[]).await.unwrap()[0];
    (row.get(0), row.get(1))
}

/// Everything that an action could change.
async fn everything(cluster: &Cluster) -> String {
    let sql = "
        select (select string_agg(c::text, E'\\n' order by c.id) from postroad.campaign c)
            || (select count(*) from postroad.stop) || (select count(*) from postroad.campaign_chunk)
            || (select count(*) from postroad.suppression) || (select count(*) from postroad.audit_log)";
    cluster.query(sql, &[]).await.unwrap()[0].get(0)
}

/// All places that a refusal names.
fn places(refused: &Answer) -> BTreeSet<String> {
    let first = refused.problem(422).unwrap();
    let problem = refused.json();
    let errors = problem["errors"].as_array().into_iter().flatten();
    let all = errors.map(|one| one["pointer"].as_str().unwrap().to_owned());
    first.into_iter().chain(all).collect()
}

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

#[tokio::test]
async fn an_upload_of_which_nothing_can_be_read_is_refused_and_the_one_before_stays() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    let before = everything(&cluster).await;
    let utf16: Vec<u8> = "to,name\n+33639980001,Ana\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let with_mark: Vec<u8> = [&[0xff, 0xfe][..], &utf16].concat();
    let columns: String = (0..257).map(|n| format!("c{n},")).collect();
    for (kind, body, what) in [
        (CSV, Vec::new(), "is empty"),
        (CSV, b"\n\n\n".to_vec(), "is empty"),
        (NDJSON, Vec::new(), "is empty"),
        (NDJSON, b"\n \n".to_vec(), "is empty"),
        (
            CSV,
            b"+33639980001,Ana\n+33639980002,Bo\n".to_vec(),
            "must be `to`",
        ),
        (
            CSV,
            b"phone,name\n+33639980001,Ana\n".to_vec(),
            "must be `to`",
        ),
        (CSV, utf16, "UTF-16"),
        (CSV, with_mark, "UTF-16"),
        (CSV, b"to,na\0me\n+33639980001,x\n".to_vec(), "UTF-16"),
        (CSV, b"to,\xff\n+33639980001,x\n".to_vec(), "not UTF-8"),
        (CSV, b"to,name,to\n+33639980001,x,y\n".to_vec(), "twice"),
        (CSV, b"to,\"name\n+33639980001,x\n".to_vec(), "quote"),
        (CSV, format!("to,{columns}\n").into_bytes(), "256 columns"),
        (CSV, vec![b'x'; 70_000], "64 KiB"),
    ] {
        let refused = put(&api, &path, kind, body.clone()).await;
        refused.problem(422).unwrap();
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert!(detail.contains(what), "{shown:?}: {detail}");
    }
    for kind in [
        "application/json",
        "text/plain",
        "",
        "text/csv; charset=latin1",
    ] {
        let refused = put(&api, &path, kind, "to\n+33639980001\n").await;
        refused.problem(415).unwrap();
    }
    for encoding in ["gzip", "br"] {
        let request = api.request(Method::PUT, &format!("{path}/recipients"));
        let request = request.header("content-type", CSV);
        let request = request.header("content-encoding", encoding);
        let refused = api
            .send(request.body(vec![0x1f, 0x8b, 8, 0]))
            .await
            .unwrap();
        refused.problem(415).unwrap();
    }
    let gzip = put(&api, &path, CSV, vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).await;
    gzip.problem(422).unwrap();
    let unknown = format!("{path}/recipients?go=1");
    let refused = api.raw(Method::PUT, &unknown, CSV, "to\n").await;
    refused.unwrap().problem(422).unwrap();
    assert_eq!(everything(&cluster).await, before);

    // Only a header is a file of nobody, and such a campaign cannot be started.
    let alone = format!("{path}/recipients?start=true");
    let alone = api
        .raw(Method::PUT, &alone, CSV, "to,name\n")
        .await
        .unwrap();
    let end = &alone.lines()[0];
    assert_eq!(
        (&end["accepted"], &end["state"]),
        (&json!(0), &json!("draft"))
    );
    let started = api
        .post(&format!("{path}/start"), &json!({}))
        .await
        .unwrap();
    started.problem(409).unwrap();
    assert!(started.text.contains("no recipients"), "{started:?}");
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_bad_line_is_told_with_its_number_and_column_and_keeps_no_other_out() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, json!({"region": "FR"})).await;
    let csv: Vec<u8> = [
        &b"to;name;language;timezone;channel;shoe size\r\n"[..],
        b"06 39 98 00 01;Ana;fr-CA;America/Toronto;;42\r\n",
        b"+33639980002;\xff;;;;\r\n",
        b"+33639980003;a\0b;;;;\r\n",
        b"call me;Bo;;;;\r\n",
        b";Bo;;;;\r\n",
        b"+33639980004;Bo;Klingon!;;;\r\n",
        b"+33639980005;Bo;;Middle/Earth;;\r\n",
        b"+33639980006;Bo;;;fax;\r\n",
        b"+33639980007;Bo\r\n",
        b"user-1;\"Bo \"\"B\"\"\";;;note;\r\n",
        b"+33639980008;\"a\"b;;;;\r\n",
        b"+33639980009;\"never closed;;;;\r\n",
        b"+33639980010;Bo;;;;\r\n",
    ]
    .concat();
    let (bad, end) = take(&api, &path, CSV, csv).await;
    let told = |bad: &[Value]| -> Vec<(u64, String)> {
        let one = |line: &Value| {
            assert!(
                line["error"].as_str().is_some_and(|text| !text.is_empty()),
                "{line}"
            );
            (
                line["line"].as_u64().unwrap(),
                line["field"].as_str().unwrap().to_owned(),
            )
        };
        bad.iter().map(one).collect()
    };
    let expected = [
        (3, ""),
        (4, ""),
        (5, "to"),
        (6, "to"),
        (7, "language"),
        (8, "timezone"),
        (9, "channel"),
        (10, ""),
        (12, ""),
        (13, ""),
    ];
    let expected = expected.map(|(line, field)| (line, field.to_owned()));
    assert_eq!(told(&bad), expected, "{bad:?}");
    assert_eq!(
        (&end["accepted"], &end["rejected"]),
        (&json!(2), &json!(10))
    );
    assert_eq!(end["ignored_columns"], json!(["shoe size"]));

    let ndjson = [
        r#"{"to": "+33639980001", "name": "Ana", "x": 1}"#,
        r#"["+33639980002"]"#,
        r#"{"to": "+33639980003""#,
        r#"{"to": ["+33639980004"]}"#,
        r#"{"to": "+33639980005", "name": {"first": "Ana"}}"#,
        r#"{"to": "+33639980006", "name": 17}"#,
        r#"{"to": "+33639980007", "to": "+33639980008"}"#,
        r#"{"to": "+33639980009", "name": "a\u0000b"}"#,
        r#"{"name": "nobody"}"#,
        "nonsense",
        "5",
    ]
    .join("\n");
    let (bad, end) = take(&api, &path, NDJSON, ndjson).await;
    let lines: Vec<u64> = told(&bad).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 7, 8, 9, 10, 11], "{bad:?}");
    assert_eq!(end["accepted"], 2);
    assert_eq!(planned(&api, &path).await, 2, "instead of those before");
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn lines_of_many_megabytes_and_quotes_that_are_never_closed_take_no_memory() {
    const LONG: usize = 8 << 20;
    let (cluster, id, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    take(
        &api,
        &path,
        CSV,
        format!("to,channel\n{}", users(0, 20_000)),
    )
    .await;
    let small = cluster.footprint(id).unwrap().rss_bytes;

    let long = "x".repeat(LONG);
    let csv = format!("to,channel\n{long},note\nuser-1,note\n{long}{long}\nuser-2,note\n\"{long}");
    let (bad, end) = take(&api, &path, CSV, csv).await;
    assert_eq!(end["accepted"], 2, "{bad:?}");
    let ndjson =
        format!("{{\"to\": \"{long}\n{{\"to\": \"user-1\", \"channel\": \"note\"}}\n{long}");
    let (bad, end) = take(&api, &path, NDJSON, ndjson).await;
    assert_eq!((&end["accepted"], bad.len()), (&json!(1), 2), "{bad:?}");

    let grown = cluster
        .footprint(id)
        .unwrap()
        .rss_bytes
        .saturating_sub(small);
    assert!(
        grown < 8 << 20,
        "{grown} bytes more for 48 MiB in lines of at least 8"
    );
    cluster.take_down().await.unwrap();
}

/// Each of whom is in another time zone than the one before, and brings as much as a line may hold.
#[tokio::test]
async fn long_lines_of_a_hundred_time_zones_take_no_memory() {
    const ZONES: usize = 100;
    const ROUNDS: usize = 16;
    let (cluster, id, api) = quiet().await;
    let names: Vec<String> = (0..14).map(|n| format!("v{n}")).collect();
    let variables: serde_json::Map<_, _> =
        names.iter().map(|name| (name.clone(), json!({}))).collect();
    let content = json!({
        "channels": {"note": {"kind": "echo", "args": {"en": "{{ v0 }}"}}},
        "language": "en", "variables": variables,
    });
    let night = json!({"from": "21:00", "until": "08:00"});
    let more = json!({"content": content, "quiet_hours": night, "timezone": "UTC"});
    let path = draft(&api, more).await;
    let zones: Vec<String> = jiff::tz::db()
        .available()
        .map(|zone| zone.to_string())
        .filter(|zone| zone.starts_with("America/"))
        .take(ZONES)
        .collect();
    assert_eq!(zones.len(), ZONES);
    let header = format!("to,timezone,{}\n", names.join(","));
    let small = cluster.footprint(id).unwrap().rss_bytes;

    let (pieces, body) = held_back();
    let sent = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { take(&api, &path, CSV, body).await }
    });
    pieces.send(Bytes::from(header)).await.unwrap();
    let values = vec!["x".repeat(4096); names.len()].join(",");
    let mut grown = 0;
    for round in 0..ROUNDS {
        for zone in &zones {
            let line = format!("user-{round},{zone},{values}\n");
            pieces.send(Bytes::from(line)).await.unwrap();
        }
        let now = cluster.footprint(id).unwrap().rss_bytes;
        grown = grown.max(now.saturating_sub(small));
    }
    drop(pieces);
    let (_, end) = sent.await.unwrap();

    assert_eq!(end["accepted"], ZONES * ROUNDS);
    assert_eq!(json!(kept(&cluster).await.0), end["accepted"]);
    assert!(grown < 48 << 20, "{grown} bytes more for 88 MiB");
    cluster.take_down().await.unwrap();
}

/// Sends this as a part of a body that never comes, and reads the answer.
async fn cut_off(api: &Api, path: &str, part: &str) -> String {
    let address = api.url("").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "PUT {path}/recipients HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: text/csv\r\ncontent-length: {}\r\n\r\n",
        api.token(),
        2 * part.len()
    );
    stream.write_all((head + part).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_campaign_as_it_was_and_nothing_behind() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    take(&api, &path, CSV, "to\n+33639980001\n").await;
    let good = format!("to,channel\n{}", users(0, 20_000));

    let answer = cut_off(&api, &path, &good).await;
    assert_eq!(answer.get(9..12), Some("400"), "{answer}");
    assert_eq!(kept(&cluster).await, (1, 0));

    // After a line that was told, the answer has begun: its end says that nothing was taken.
    let answer = cut_off(&api, &path, &good.replacen("user-7,", ",", 1)).await;
    assert_eq!(answer.get(9..12), Some("200"), "{answer}");
    assert!(answer.contains(r#"{"line":9,"field":"to""#), "{answer}");
    assert!(answer.contains(r#""accepted":0,"rejected":1"#), "{answer}");
    assert!(answer.contains(r#""complete":false,"error":{"#), "{answer}");
    assert_eq!(kept(&cluster).await, (1, 0));
    assert_eq!(planned(&api, &path).await, 1);

    // And a client that goes away without reading an answer.
    let (pieces, body) = held_back();
    let sent = tokio::spawn({
        let (api, path) = (api.clone(), format!("{path}/recipients"));
        async move { api.raw(Method::PUT, &path, CSV, body).await }
    });
    pieces.send(Bytes::from(good.clone())).await.unwrap();
    eventually("some of it is kept", async || {
        ensure!(kept(&cluster).await.1 > 0);
        Ok(())
    })
    .await
    .unwrap();
    sent.abort();
    drop(pieces);
    eventually("nothing of it is", async || {
        ensure!(kept(&cluster).await == (1, 0));
        Ok(())
    })
    .await
    .unwrap();

    let (_, end) = take(&api, &path, CSV, good).await;
    assert_eq!(end["accepted"], 20_000);
    assert_eq!(
        kept(&cluster).await,
        (20_000, 0),
        "instead of the one before"
    );
    cluster.take_down().await.unwrap();
}

/// A body whose pieces come when they are sent.
fn held_back() -> (mpsc::Sender<Bytes>, reqwest::Body) {
    let (pieces, coming) = mpsc::channel::<Bytes>(4);
    let body = futures_util::stream::unfold(coming, async |mut coming| {
        let piece = coming.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), coming))
    });
    (pieces, reqwest::Body::wrap_stream(body))
}

#[tokio::test]
async fn of_uploads_at_once_the_last_to_finish_is_the_campaigns() {
    let (cluster, _, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    let (pieces, body) = held_back();
    let first = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { take(&api, &path, CSV, body).await }
    });
    let half = format!("to,channel\n{}", users(0, 12_000));
    pieces.send(Bytes::from(half)).await.unwrap();
    let (_, end) = take(&api, &path, CSV, format!("to,channel\n{}", users(0, 9000))).await;
    assert_eq!(end["accepted"], 9000);
    assert_eq!(planned(&api, &path).await, 9000);
    pieces.send(Bytes::from(users(12_000, 3000))).await.unwrap();
    drop(pieces);
    let (_, end) = first.await.unwrap();
    assert_eq!(end["accepted"], 15_000);
    assert_eq!(planned(&api, &path).await, 15_000);
    assert_eq!(kept(&cluster).await, (15_000, 0));

    // And where nobody waits for anybody.
    for round in 0..5 {
        let sizes = [500, 700, 900, 1100].map(|size| size + round);
        let uploads = sizes.map(|size| {
            let body = format!("to,channel\n{}", users(0, size));
            take(&api, &path, CSV, body)
        });
        futures_util::future::join_all(uploads).await;
        let planned = planned(&api, &path).await;
        let of_one = planned
            .as_u64()
            .and_then(|planned| usize::try_from(planned).ok());
        assert!(sizes.iter().any(|size| Some(*size) == of_one), "{planned}");
        let preview = api.get(&format!("{path}/preview")).await.unwrap().json();
        assert_eq!(preview["parts"][0]["recipients"], planned, "{preview}");
        assert_eq!(json!(kept(&cluster).await.0), planned);
        assert_eq!(
            kept(&cluster).await.1,
            0,
            "of those that were replaced nothing is left"
        );
    }
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn recipients_are_those_of_a_draft_of_ones_own() {
    let (cluster, program, api) = quiet().await;
    let path = draft(&api, json!({})).await;
    let csv = "to\n+33639980001\n";
    take(&api, &path, CSV, csv).await;
    let other = cluster
        .client(program, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    put(&other, &path, CSV, csv).await.problem(404).unwrap();
    for unknown in [NOBODY, "/v1/campaigns/x", "/v1/campaigns/%ff"] {
        put(&api, unknown, CSV, csv).await.problem(404).unwrap();
    }
    // One that is under way when the campaign is started.
    let (pieces, body) = held_back();
    let late = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { put(&api, &path, CSV, body).await }
    });
    let many = format!("to,channel\n{}", users(0, 20_000));
    pieces.send(Bytes::from(many)).await.unwrap();
    eventually("some of it is kept", async || {
        ensure!(kept(&cluster).await.1 > 0);
        Ok(())
    })
    .await
    .unwrap();
    let started = api
        .post(&format!("{path}/start"), &json!({}))
        .await
        .unwrap();
    assert_eq!(started.json()["state"], "running", "{started:?}");
    drop(pieces);
    late.await.unwrap().problem(409).unwrap();
    assert_eq!(kept(&cluster).await, (1, 0));

    let refused = put(&api, &path, CSV, csv).await;
    refused.problem(409).unwrap();
    assert!(
        refused.text.contains("the campaign is running"),
        "{refused:?}"
    );
    assert_eq!(planned(&api, &path).await, 1);
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

/// All items of a list, page by page.
async fn pages(api: &Api, list: &str) -> anyhow::Result<Vec<Value>> {
    let (mut seen, mut path) = (Vec::new(), list.to_owned());
    loop {
        let page = api.get(&path).await?.json();
        let items = page["items"].as_array().context("a page has items")?;
        seen.extend(items.iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return Ok(seen);
        };
        let cursor: String = cursor.bytes().map(|byte| format!("%{byte:02x}")).collect();
        path = format!("{list}&cursor={cursor}");
    }
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

async fn suppress(api: &Api, body: Value) -> Value {
    let done = api.post("/v1/suppressions", &body).await.unwrap();
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    done.json()["added"].clone()
}

async fn unsuppress(api: &Api, query: &str) -> Answer {
    let path = format!("/v1/suppressions?{query}");
    api.send(api.request(Method::DELETE, &path)).await.unwrap()
}

#[tokio::test]
async fn a_recipient_is_suppressed_in_the_form_that_campaigns_give_it() {
    let (cluster, program, api) = quiet().await;
    let numbers = json!([
        "+33 6 39 98 06 06",
        "+33639980606",
        "tel:x",
        "+33-6-39-98-06-07"
    ]);
    assert_eq!(suppress(&api, json!({"recipients": numbers})).await, 3);
    let mails = json!([" Ana.B@EXAMPLE.Org ", "Ana.B@example.org", "user-7"]);
    assert_eq!(
        suppress(&api, json!({"recipients": mails, "reason": "STOP"})).await,
        2
    );
    let again = json!({"recipients": ["+33639980606"], "reason": "another"});
    assert_eq!(suppress(&api, again).await, 0, "it was there before");
    // Of one kind only, beside every kind.
    let of_kind = json!({"recipients": ["+33639980606"], "kind": "sms"});
    assert_eq!(suppress(&api, of_kind).await, 1);

    let listed = pages(&api, "/v1/suppressions?limit=2").await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|one| {
            (
                one["recipient"].as_str().unwrap(),
                one["kind"].as_str().unwrap_or("every"),
            )
        })
        .collect();
    let expected: BTreeSet<_> = [
        ("+33639980606", "every"),
        ("+33639980606", "sms"),
        ("+33639980607", "every"),
        ("Ana.B@example.org", "every"),
        ("tel:x", "every"),
        ("user-7", "every"),
    ]
    .into();
    assert_eq!(listed.len(), expected.len(), "each once: {listed:?}");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    let of_one = pages(
        &api,
        "/v1/suppressions?recipient=%2B33%206%2039%2098%2006%2006",
    );
    assert_eq!(of_one.await.unwrap().len(), 2);
    let other = cluster
        .client(program, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    assert_eq!(
        pages(&other, "/v1/suppressions?limit=5")
            .await
            .unwrap()
            .len(),
        0
    );

    let number = "recipient=%2B33%20639980606";
    unsuppress(&other, number).await.problem(404).unwrap();
    let gone = unsuppress(&api, &format!("{number}&kind=sms")).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    unsuppress(&api, &format!("{number}&kind=sms"))
        .await
        .problem(404)
        .unwrap();
    unsuppress(&api, &format!("{number}&kind=no-such"))
        .await
        .problem(404)
        .unwrap();
    assert_eq!(
        unsuppress(&api, number).await.status,
        StatusCode::NO_CONTENT
    );
    let mail = unsuppress(&api, "recipient=Ana.B@Example.ORG").await;
    assert_eq!(mail.status, StatusCode::NO_CONTENT, "{mail:?}");
    assert_eq!(
        pages(&api, "/v1/suppressions?limit=5").await.unwrap().len(),
        3
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_suppressed_is_refused_and_says_where() {
    let (cluster, _, api) = quiet().await;
    let many: Vec<String> = (0..1001).map(|n| format!("user-{n}")).collect();
    let good = json!(["+33639980606"]);
    for (body, pointer) in [
        (json!({}), "/recipients"),
        (json!({"recipients": []}), "/recipients"),
        (json!({"recipients": many}), "/recipients"),
        (json!({"recipients": "+33639980606"}), "/recipients"),
        (json!({"recipients": ["user-1", ""]}), "/recipients/1"),
        (json!({"recipients": ["user-1", " "]}), "/recipients/1"),
        (json!({"recipients": ["a\u{0}b"]}), "/recipients/0"),
        (json!({"recipients": ["a\nb"]}), "/recipients/0"),
        (json!({"recipients": ["x".repeat(256)]}), "/recipients/0"),
        (json!({"recipients": [5]}), "/recipients/0"),
        (json!({"recipients": good, "kind": "no-such"}), "/kind"),
        (json!({"recipients": good, "kind": "S M S"}), "/kind"),
        (
            json!({"recipients": good, "reason": "x".repeat(501)}),
            "/reason",
        ),
        (json!({"recipients": good, "reason": "a\u{0}b"}), "/reason"),
        (json!({"recipients": good, "tenant": "umbrella"}), "/tenant"),
        (json!({"recipients": good, "until": "noon"}), "/until"),
    ] {
        let refused = api.post("/v1/suppressions", &body).await.unwrap();
        let place = refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{body:.80}: {error:#}"));
        assert_eq!(place.as_deref(), Some(pointer), "{body}: {refused:?}");
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=%00%0a",
        "cursor=a%0a%00",
        "recipient=",
        "recipient=%00",
        "tenant=umbrella",
        "some=1",
    ] {
        let refused = api.get(&format!("/v1/suppressions?{query}")).await.unwrap();
        refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{query}: {error:#}"));
    }
    for query in [
        "",
        "recipient=",
        "recipient=%00",
        "recipient=x&kind=S%20M",
        "recipient=x&some=1",
    ] {
        unsuppress(&api, query).await.problem(422).unwrap();
    }
    let long = "x".repeat(255);
    let edge = json!({"recipients": vec![long; 1000], "reason": "x".repeat(500)});
    assert_eq!(
        suppress(&api, edge).await,
        1,
        "the same a thousand times is one"
    );
    cluster.take_down().await.unwrap();
}
