//! Any number of jobs in one request: what is good is taken, and what is not has its line.

use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::Cluster;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api_fixture::quiet;

#[tokio::test]
async fn a_batch_takes_what_is_good_and_answers_for_each_line_that_is_not() {
    let (cluster, _, api) = quiet().await;
    let body = [
        r#"{"kind":"echo","args":{"n":1}}"#,
        "",
        r#"{"kind":"Echo"}"#,
        "nonsense",
        r#"{"kind":"echo","dedup_key":"k"}"#,
        r#"{"kind":"echo","dedup_key":"k"}"#,
        r#"{"kind":"echo","dedup_key":"k","args":2}"#,
        r#"{"kind":"echo","tenant":"umbrella"}"#,
        r#"{"kind":"webhook","args":{"url":"http://169.254.169.254/"}}"#,
        r#"{"kind":"echo","priority":9}"#,
    ]
    .join("\n");

    let answer = api
        .raw(Method::POST, "/v1/jobs/batch", "application/x-ndjson", body)
        .await
        .unwrap();

    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.content_type, "application/x-ndjson");
    let mut lines = answer.lines();
    let counts = lines.pop().expect("the counts come last");
    assert_eq!(
        counts,
        json!({"accepted": 2, "duplicates": 1, "rejected": 6, "complete": true})
    );
    let mut refused: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["line"].as_u64().unwrap(),
                line["error"]["pointer"].as_str().unwrap_or(""),
            )
        })
        .collect();
    refused.sort_unstable();
    assert_eq!(
        refused,
        [
            (3, "/kind"),
            (4, ""),
            (7, "/dedup_key"),
            (8, "/tenant"),
            (9, "/args/url"),
            (10, "/priority")
        ]
    );
    let count = cluster
        .query("select count(*) from postroad.job", &[])
        .await
        .unwrap();
    assert_eq!(count[0].get::<_, i64>(0), 2);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_lines_go_through_in_constant_memory() {
    let (cluster, id, api) = quiet().await;
    const LINES: usize = 100_000;
    let small = cluster.footprint(id).unwrap().rss_bytes;
    let chunks = futures_util::stream::iter((0..LINES / 1000).map(|chunk| {
        let lines: String = (0..1000)
            .map(|n| {
                format!(
                    "{{\"kind\":\"echo\",\"args\":{{\"n\":{}}},\"delay\":\"1h\"}}\n",
                    chunk * 1000 + n
                )
            })
            .collect();
        Ok::<_, std::io::Error>(lines)
    }));

    let answer = api
        .raw(
            Method::POST,
            "/v1/jobs/batch",
            "application/x-ndjson",
            reqwest::Body::wrap_stream(chunks),
        )
        .await
        .unwrap();

    assert_eq!(answer.lines().pop().unwrap()["accepted"], LINES);
    let grown = cluster
        .footprint(id)
        .unwrap()
        .rss_bytes
        .saturating_sub(small);
    assert!(grown < 64 << 20, "{grown} bytes more for 5 MB of lines");
    cluster.take_down().await.unwrap();
}

fn lines(jobs: usize) -> String {
    "{\"kind\":\"echo\",\"delay\":\"1h\"}\n".repeat(jobs)
}

async fn jobs(cluster: &Cluster) -> i64 {
    let sql = "select count(*) from postroad.job";
    cluster.query(sql, &[]).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn a_batch_over_the_quota_breaks_off_and_says_how_far_it_came() {
    let (cluster, _, api) = quiet().await;
    let set = "update postroad.tenant set unfinished_max = 1500";
    cluster.query(set, &[]).await.unwrap();
    let send = async |body: String| {
        let path = "/v1/jobs/batch";
        let sent = api.raw(Method::POST, path, "application/x-ndjson", body);
        sent.await.unwrap()
    };

    let answer = send(lines(1200) + "nonsense\n" + &lines(1800)).await;

    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let end = answer.lines().pop().unwrap();
    assert_eq!(end["error"]["status"], 429, "{end}");
    for (field, value) in [
        ("complete", json!(false)),
        ("accepted", json!(1000)),
        ("duplicates", json!(0)),
        // The refused one is not among the first lines.
        ("rejected", json!(0)),
    ] {
        assert_eq!(end[field], value, "{field} of {end}");
    }
    assert_eq!(jobs(&cluster).await, 1000);
    // One of which nothing can be taken is no half answer.
    let refused = send(lines(1000)).await;
    refused.problem(429).unwrap();
    assert_eq!(jobs(&cluster).await, 1000);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_counted_as_far_as_it_was_taken() {
    let (cluster, _, api) = quiet().await;
    // What is taken, of how many lines before the cut, and the status that says so.
    for (sent, status, taken) in [(999, "400", 0), (1500, "200", 1000), (2500, "200", 2000)] {
        let before = jobs(&cluster).await;
        let answer = cut_off(&api, lines(sent) + r#"{"kind":"ec"#).await;
        assert_eq!(answer.get(9..12), Some(status), "{sent}: {answer}");
        let counted =
            format!(r#"{{"accepted":{taken},"duplicates":0,"rejected":0,"complete":false"#);
        assert_eq!(answer.contains(&counted), taken > 0, "{sent}: {answer}");
        assert!(answer.contains("the body broke off"), "{sent}: {answer}");
        assert_eq!(jobs(&cluster).await - before, taken, "{sent}");
    }
    cluster.take_down().await.unwrap();
}

/// Sends this as a part of a body that never comes, and reads the answer.
async fn cut_off(api: &Api, part: String) -> String {
    let address = api.url("").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /v1/jobs/batch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        api.token(),
        2 * part.len()
    );
    stream.write_all((head + &part).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
