//! How soon a job starts that is due at once while nothing else is to be done.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Milliseconds from the commit to the start of the attempt: the commit is known when its answer
/// arrives.
pub(crate) struct Waits {
    pub(crate) api: Vec<f64>,
    pub(crate) sql: Vec<f64>,
    /// From the beginning of the transaction on: what nobody can see is between the two.
    pub(crate) api_begun: Vec<f64>,
}

pub(crate) async fn run(ground: &Ground, jobs: usize) -> anyhow::Result<Waits> {
    let site = ground.site().await?;
    let tenants = "select postroad.tenant_id('api'), postroad.tenant_id('sql')";
    site.cluster.query(tenants, &[]).await?;
    let job = json!({"kind": "echo", "args": {"n": 1}, "tenant": "api"});
    let mut answered = Vec::with_capacity(jobs);
    for n in 0..jobs {
        let answer = site.operator.call(Method::POST, "/v1/jobs", &job).await?;
        answered.push(now());
        ensure!(answer.status == 201, "{answer:?}");
        rest(n).await;
    }
    let times = times(&site.cluster, "api", jobs).await?;
    let api = since(&answered, &times);
    let api_begun = times.iter().map(|time| time.started - time.begun).collect();
    answered.clear();
    for n in 0..jobs {
        let enqueue = r#"select postroad.enqueue('echo', '{"n":1}', tenant => 'sql')"#;
        site.cluster.query(enqueue, &[]).await?;
        answered.push(now());
        rest(n).await;
    }
    let sql = since(&answered, &self::times(&site.cluster, "sql", jobs).await?);
    site.cluster.take_down().await?;
    Ok(Waits {
        api,
        sql,
        api_begun,
    })
}

async fn rest(n: usize) {
    tokio::time::sleep(GAP + JITTER * (n as u32 % JITTERS)).await;
}

/// Milliseconds of this machine's clock, which is the database's, too.
fn now() -> f64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs_f64() * 1000.0
}

/// When a job's transaction began, and when its attempt started.
struct Times {
    begun: f64,
    started: f64,
}

/// A job can have started before its answer arrived: then it did not wait.
fn since(answered: &[f64], times: &[Times]) -> Vec<f64> {
    let waits = answered.iter().zip(times);
    waits
        .map(|(answered, time)| (time.started - answered).max(0.0))
        .collect()
}

/// Of one job after the other, in the order in which they were handed in.
async fn times(cluster: &Cluster, tenant: &str, jobs: usize) -> anyhow::Result<Vec<Times>> {
    let sql = "select extract(epoch from a.created_at)::float8 * 1000, extract(epoch from a.started_at)::float8 * 1000
        from postroad.archive a join postroad.tenant t on t.id = a.tenant_id
        where t.name = $1 and a.state = 'completed'
        order by a.created_at";
    let all = eventually("all have ended", async || {
        let rows = cluster.query(sql, &[&tenant]).await?;
        ensure!(rows.len() == jobs, "{} of {jobs} have", rows.len());
        Ok(rows)
    });
    let time = |row: &tokio_postgres::Row| Times {
        begun: row.get(0),
        started: row.get(1),
    };
    Ok(all.await?.iter().map(time).collect())
}
