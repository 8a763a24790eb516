//! What programs log when all is well: a line per attempt for who asks for it, and none otherwise.

use anyhow::{Context as _, ensure};
use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::{Cluster, eventually, job};
use serde_json::{Value, json};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced() -> NewJob {
    NewJob {
        traceparent: Some(TRACEPARENT.to_owned()),
        ..job("echo", &json!({"secret": "args are not logged"}))
    }
}

/// The lines of a log that are about attempts.
pub(crate) fn attempts(log: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["target"] == "postroad::attempt")
        .collect()
}

#[tokio::test]
async fn a_worker_logs_one_line_per_attempt_where_it_is_asked_to() -> anyhow::Result<()> {
    let cluster = Cluster::builder()
        .env("POSTROAD_LOG", "info,postroad::attempt=info")
        .env("POSTROAD_LOG_FORMAT", "json")
        .start()
        .await?;
    let ids = cluster.enqueue(&[traced(), traced()]).await?;
    cluster.wait_for("completed", 2).await?;

    let worker = cluster.worker(0);
    let lines = eventually("both attempts are logged", async || {
        let lines = attempts(&cluster.log(worker));
        ensure!(lines.len() == 2, "{lines:?}");
        Ok(lines)
    })
    .await?;
    for id in ids {
        let line = lines
            .iter()
            .find(|line| line["job.id"] == json!(id))
            .context("every job has its line")?;
        assert_eq!(line["level"], "INFO");
        for (field, value) in [
            ("job.kind", json!("echo")),
            ("tenant", json!("default")),
            ("attempt", json!(1)),
            ("outcome", json!("completed")),
            ("trace.id", json!("0af7651916cd43dd8448eb211c80319c")),
        ] {
            assert_eq!(line[field], value, "{field} of {line}");
        }
        for field in ["duration_ms", "lateness_ms"] {
            assert!(line[field].is_u64(), "{field} of {line}");
        }
    }
    assert!(!cluster.log(worker).contains("args are not logged"));
    cluster.finish().await
}

#[tokio::test]
async fn a_worker_logs_nothing_of_attempts_unless_asked_to() -> anyhow::Result<()> {
    let cluster = Cluster::builder()
        .env("POSTROAD_LOG", "info")
        .env("POSTROAD_LOG_FORMAT", "json")
        .start()
        .await?;
    cluster.enqueue(&[traced()]).await?;
    cluster.wait_for("completed", 1).await?;
    assert_eq!(attempts(&cluster.log(cluster.worker(0))).len(), 0);
    cluster.finish().await
}
