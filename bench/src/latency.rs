//! How soon a job starts that is due at once while nothing else is to be done.

use std::time::Duration;

use anyhow::ensure;
use postroad_tests::harness::cluster::Cluster;
use postroad_tests::harness::eventually::eventually;
use reqwest::Method;
use serde_json::json;

use crate::ground::Ground;

/// Between two jobs, and what is added in turn: an even pace could keep step with a poll.
const GAP: Duration = Duration::from_millis(31);
const JITTER: Duration = Duration::from_millis(7);
const JITTERS: u32 = 5;

/// Milliseconds from the beginning of the transaction that enqueues to the start of the attempt:
/// a little more than from its commit.
pub(crate) struct Waits {
    pub(crate) api: Vec<f64>,
    pub(crate) sql: Vec<f64>,
}

pub(crate) async fn run(ground: &Ground, jobs: usize) -> anyhow::Result<Waits> {
    let site = ground.site().await?;
    let tenants = "select postroad.tenant_id('api'), postroad.tenant_id('sql')";
    site.cluster.query(tenants, &[]).await?;
    let job = json!({"kind": "echo", "args": {"n": 1}, "tenant": "api"});
    for n in 0..jobs {
        let answer = site.operator.call(Method::POST, "/v1/jobs", &job).await?;
        ensure!(answer.status == 201, "{answer:?}");
        rest(n).await;
    }
    let api = waits(&site.cluster, "api", jobs).await?;
    for n in 0..jobs {
        let enqueue = r#"select postroad.enqueue('echo', '{"n":1}', tenant => 'sql')"#;
        site.cluster.query(enqueue, &[]).await?;
        rest(n).await;
    }
    let sql = waits(&site.cluster, "sql", jobs).await?;
    site.cluster.take_down().await?;
    Ok(Waits { api, sql })
}

async fn rest(n: usize) {
    tokio::time::sleep(GAP + JITTER * (n as u32 % JITTERS)).await;
}

async fn waits(cluster: &Cluster, tenant: &str, jobs: usize) -> anyhow::Result<Vec<f64>> {
    let sql = "select extract(epoch from a.started_at - a.created_at)::float8 * 1000
        from postroad.archive a join postroad.tenant t on t.id = a.tenant_id
        where t.name = $1 and a.state = 'completed'";
    let all = eventually("all have ended", async || {
        let rows = cluster.query(sql, &[&tenant]).await?;
        ensure!(rows.len() == jobs, "{} of {jobs} have", rows.len());
        Ok(rows)
    });
    Ok(all.await?.iter().map(|row| row.get(0)).collect())
}
