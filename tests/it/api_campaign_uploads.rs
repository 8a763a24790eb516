//! Recipients of campaigns over HTTP: whatever is uploaded, in whatever pieces, all of it is taken or
//! none, every bad line is told, and memory stays what it was. No scheduler is there.

use anyhow::ensure;
use bytes::Bytes;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::api_campaign_fixture::{
    CSV, NDJSON, NOBODY, draft, everything, kept, planned, put, take, users,
};
use crate::api_fixture::quiet;

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
