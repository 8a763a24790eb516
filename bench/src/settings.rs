//! What settings cost at load, and how soon a change is in force.

use std::time::{Duration, Instant};

use anyhow::ensure;
use postroad_common::token::Permission;
use reqwest::Method;
use serde_json::json;

use crate::ground::{Ground, Site};
use crate::table::{Table, quantile};

/// Jobs a second, and for how long.
const RATE: usize = 10_000;
const LASTING: Duration = Duration::from_secs(10);
/// Jobs are handed in so often.
const BEAT: Duration = Duration::from_millis(50);
/// Changes whose effect is waited for.
const CHANGES: usize = 20;

/// Statements about settings and nothing else. The looks for changes are left out: four a second of
/// each api and worker, whatever the load. Those of jobs name tenants, queues and kinds, too, in
/// the same statement.
const STATEMENTS: &str = "
    select coalesce(sum(calls), 0)::bigint from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
      and query ~ 'postroad.(tenant|queue|kind|token|tenant_secret|good_token|ensure_names)'
      and query !~ 'postroad.(job|archive|dedup|ledger|process)'
      and query !~ 'pg_stat_statements'";

pub(crate) async fn measure(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let site = ground.site().await?;
    let set_up = "create extension if not exists pg_stat_statements";
    site.cluster.query(set_up, &[]).await?;
    let lasting = LASTING / u32::try_from(scale)?;
    // Names and settings are read once.
    load(&site, Duration::from_secs(1)).await?;
    let (mut rates, mut queries) = (Vec::new(), Vec::new());
    let (mut medians, mut longest) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let before = statements(&site).await?;
        let started = Instant::now();
        let jobs = load(&site, lasting).await?;
        let seconds = started.elapsed().as_secs_f64();
        rates.push(jobs as f64 / seconds);
        queries.push((statements(&site).await? - before) as f64 / seconds);
        let mut waits = Vec::new();
        for _ in 0..CHANGES {
            waits.push(change(&site).await?);
        }
        medians.push(quantile(&mut waits, 0.5));
        longest.push(quantile(&mut waits, 1.0));
    }
    table.add("settings: load", "jobs/s", rates);
    table.add(
        "settings: statements about them, all programs",
        "1/s",
        queries,
    );
    table.add(
        "settings: a change is in force after, median",
        "ms",
        medians,
    );
    table.add(
        "settings: a change is in force after, longest",
        "ms",
        longest,
    );
    site.cluster.take_down().await
}

async fn statements(site: &Site) -> anyhow::Result<i64> {
    Ok(site.cluster.query(STATEMENTS, &[]).await?[0].get(0))
}

/// Hands jobs in that are due, and run beside it; how many.
async fn load(site: &Site, lasting: Duration) -> anyhow::Result<usize> {
    let per_beat = RATE / 20;
    let line = json!({"kind": "echo", "args": {"n": 1}});
    let body: bytes::Bytes = format!("{line}\n").repeat(per_beat).into();
    let mut beat = tokio::time::interval(BEAT);
    let (started, mut jobs) = (Instant::now(), 0);
    while started.elapsed() < lasting {
        beat.tick().await;
        let kind = "application/x-ndjson";
        let answer = site
            .operator
            .raw(Method::POST, "/v1/jobs/batch", kind, body.clone())
            .await?;
        ensure!(answer.status == 200, "{answer:?}");
        jobs += per_beat;
    }
    Ok(jobs)
}

/// Takes a tenant's quota away, and waits for the first refusal; milliseconds from the commit on.
async fn change(site: &Site) -> anyhow::Result<f64> {
    let set = "update postroad.tenant set unfinished_max = $1 where name = 'changing'";
    let client = site
        .cluster
        .client(site.api, Some("changing"), &[Permission::JobsWrite])
        .await?;
    let job = json!({"kind": "echo", "delay": "1h"});
    let answer = client.call(Method::POST, "/v1/jobs", &job).await?;
    ensure!(answer.status == 201, "{answer:?}");
    site.cluster.query(set, &[&Some(0_i64)]).await?;
    let committed = Instant::now();
    while client.call(Method::POST, "/v1/jobs", &job).await?.status != 429 {}
    let wait = committed.elapsed().as_secs_f64() * 1000.0;
    site.cluster.query(set, &[&None::<i64>]).await?;
    while client.call(Method::POST, "/v1/jobs", &job).await?.status == 429 {}
    Ok(wait)
}
