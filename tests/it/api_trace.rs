//! A request's `traceparent` goes with its jobs, to the worker's line about each attempt.

use anyhow::Context as _;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Cluster, Program, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api_fixture::{id_of, quiet};
use crate::cluster_log::attempts;

const OF_REQUEST: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OF_BODY: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Posts with this `traceparent`.
async fn post(api: &Api, path: &str, traceparent: &str, body: String) -> String {
    let content_type = match path {
        "/v1/jobs/batch" => "application/x-ndjson",
        _ => "application/json",
    };
    let request = api
        .request(Method::POST, path)
        .header("content-type", content_type)
        .header("traceparent", traceparent)
        .body(body);
    let answer = api.send(request).await.unwrap();
    assert!(answer.status.is_success(), "{traceparent}: {answer:?}");
    answer.text
}

/// The traces of the newest jobs, the newest last.
async fn newest_traces(cluster: &Cluster, jobs: usize) -> Vec<Option<String>> {
    let sql = "select traceparent from postroad.job order by created_at, args->>'n'";
    let rows = cluster.query(sql, &[]).await.unwrap();
    rows[rows.len() - jobs..]
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn a_job_without_a_trace_has_its_requests_and_one_that_is_not_valid_is_ignored() {
    let (cluster, _, api) = quiet().await;
    let line = |n: usize, own: Value| {
        json!({"kind": "echo", "delay": "1h", "args": {"n": n}, "traceparent": own}).to_string()
    };
    let (plain, traced) = (|| line(0, json!(null)), || line(0, json!(OF_BODY)));
    let batch = [plain(), line(1, json!(OF_BODY)), line(2, json!(null))].join("\n");
    let schedule = json!({"name": "s", "cron": "0 0 1 1 *", "kind": "echo"});
    api.post("/v1/schedules", &schedule).await.unwrap();
    let (request, body) = (Some(OF_REQUEST), Some(OF_BODY));
    for (path, header, sent, expected) in [
        ("/v1/jobs", OF_REQUEST, plain(), vec![request]),
        ("/v1/jobs", OF_REQUEST, traced(), vec![body]),
        ("/v1/jobs", "00-not-a-trace", plain(), vec![None]),
        ("/v1/jobs", "", traced(), vec![body]),
        (
            "/v1/jobs/batch",
            OF_REQUEST,
            batch,
            vec![request, body, request],
        ),
        (
            "/v1/schedules/s/run",
            OF_REQUEST,
            "{}".to_owned(),
            vec![request],
        ),
        ("/v1/schedules/s/run", "x", "{}".to_owned(), vec![None]),
    ] {
        post(&api, path, header, sent).await;
        let traces = newest_traces(&cluster, expected.len()).await;
        let traces: Vec<_> = traces.iter().map(Option::as_deref).collect();
        assert_eq!(traces, expected, "{path} with {header:?}");
    }
    let too_long = json!({"kind": "echo", "traceparent": "x".repeat(256)});
    let refused = api.post("/v1/jobs", &too_long).await.unwrap();
    assert_eq!(
        refused.problem(422).unwrap().as_deref(),
        Some("/traceparent")
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn the_trace_of_a_request_is_in_the_line_about_the_attempt() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder()
        .env("POSTROAD_LOG", "info,postroad::attempt=info")
        .env("POSTROAD_LOG_FORMAT", "json")
        .start()
        .await?;
    // Its address is read from its log.
    let readable = Program::api().env("POSTROAD_LOG_FORMAT", "text");
    let id = cluster.start(readable).await?;
    let api = cluster.client(id, Some("acme"), &Permission::ALL).await?;

    let taken = post(
        &api,
        "/v1/jobs",
        OF_REQUEST,
        json!({"kind": "echo"}).to_string(),
    )
    .await;

    let job: Value = serde_json::from_str(&taken)?;
    let line = eventually("the attempt is logged", async || {
        let lines = attempts(&cluster.log(cluster.worker(0)));
        lines.into_iter().next().context("no line")
    })
    .await?;
    assert_eq!(line["job.id"], id_of(&job));
    assert_eq!(line["trace.id"], OF_REQUEST.split('-').nth(1).unwrap());
    cluster.finish().await
}
