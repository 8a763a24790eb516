//! Any number of jobs in one request: what is good is taken, and what is not has its line.

use reqwest::{Method, StatusCode};
use serde_json::json;

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
