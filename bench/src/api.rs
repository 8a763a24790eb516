//! Jobs over HTTP, beside the same jobs in SQL: what the way costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use postroad_common::job::{NewJob, RunAt};
use reqwest::Method;
use serde_json::{Value, json, value::RawValue};

use crate::client::Client;
use crate::ground::{Ground, Site};
use crate::table::{Table, quantile};

/// Jobs in a run.
const BATCHED: usize = 200_000;
const SINGLE: usize = 40_000;
/// Requests at once.
const BATCHES: usize = 4;
const CLIENTS: usize = 64;
/// Jobs per statement of the SQL that it is compared with.
const STATEMENT: usize = 1000;
/// Between two looks at a program's memory.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn measure(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let site = ground.site().await?;
    // The tenant of the jobs, names, statements and pools are there before anything is measured.
    batch(&site, STATEMENT * BATCHES, "1h").await?;
    sql(&site, STATEMENT * BATCHES).await?;
    let (mut in_sql, mut later, mut now, mut one_by_one) = (vec![], vec![], vec![], vec![]);
    let (mut drained, mut p50, mut p99, mut peaks) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        in_sql.push(sql(&site, BATCHED / scale).await?);
        let (rate, peak) = with_peak(&site, batch(&site, BATCHED / scale, "1h")).await?;
        later.push(rate);
        peaks.push(peak);
        let (rate, mut waits) = singles(&site, SINGLE / scale).await?;
        one_by_one.push(rate);
        p50.push(quantile(&mut waits, 0.5));
        p99.push(quantile(&mut waits, 0.99));
        let started = Instant::now();
        let jobs = BATCHED / scale / 4;
        now.push(batch(&site, jobs, "0s").await?);
        drain(&site).await?;
        drained.push(jobs as f64 / started.elapsed().as_secs_f64());
    }
    let ratios = later.iter().zip(&in_sql).map(|(http, sql)| http / sql);
    let ratios = ratios.collect();
    table.add("bulk enqueue in SQL, due later", "jobs/s", in_sql);
    table.add("POST /v1/jobs/batch, due later", "jobs/s", later);
    table.add("  of that in SQL, run by run", "ratio", ratios);
    table.add(
        "POST /v1/jobs/batch, due now, beside the workers",
        "jobs/s",
        now,
    );
    table.add(
        "  from the first request to the last job's end",
        "jobs/s",
        drained,
    );
    table.add("POST /v1/jobs, 64 clients", "jobs/s", one_by_one);
    table.add("  answer, median", "ms", p50);
    table.add("  answer, p99", "ms", p99);
    table.add("memory of the api, peak of a batch", "MB", peaks);
    site.cluster.take_down().await
}

/// A job, as its client writes it.
fn line(delay: &str) -> Value {
    json!({"kind": "echo", "delay": delay, "args": {"to": "+33639980606", "text": "Your code is 123456", "campaign": "spring"}})
}

async fn batch(site: &Site, jobs: usize, delay: &str) -> anyhow::Result<f64> {
    let per_request = jobs / BATCHES;
    let body: Bytes = format!("{}\n", line(delay)).repeat(per_request).into();
    let started = Instant::now();
    try_join_all((0..BATCHES).map(|_| async {
        let kind = "application/x-ndjson";
        let answer = site
            .operator
            .raw(Method::POST, "/v1/jobs/batch", kind, body.clone())
            .await?;
        let lines = answer.lines();
        let counts = lines.last().context("an answer without a line")?;
        ensure!(counts["accepted"] == per_request, "{answer:?}");
        Ok(())
    }))
    .await?;
    Ok((per_request * BATCHES) as f64 / started.elapsed().as_secs_f64())
}

/// The same rows without HTTP, JSON and tokens.
async fn sql(site: &Site, jobs: usize) -> anyhow::Result<f64> {
    let args = RawValue::from_string(line("1h")["args"].to_string())?;
    let statements = jobs / STATEMENT / BATCHES;
    let started = Instant::now();
    try_join_all((0..BATCHES).map(|_| async {
        for _ in 0..statements {
            let job = || {
                let mut job = NewJob::new("echo".parse()?, args.clone());
                job.run_at = RunAt::After(Duration::from_secs(3600));
                anyhow::Ok(job)
            };
            let jobs: Vec<_> = (0..STATEMENT).map(|_| job()).collect::<Result<_, _>>()?;
            site.cluster.store.enqueue(&jobs, false).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    let jobs = statements * STATEMENT * BATCHES;
    Ok(jobs as f64 / started.elapsed().as_secs_f64())
}

/// One job a request, every client waiting for its answer; how long each waited, in milliseconds.
async fn singles(site: &Site, jobs: usize) -> anyhow::Result<(f64, Vec<f64>)> {
    let body = Bytes::from(line("1h").to_string());
    let per_client = jobs / CLIENTS;
    let started = Instant::now();
    let waits = try_join_all((0..CLIENTS).map(|_| async {
        let mut waits = Vec::with_capacity(per_client);
        let mut client = Client::connect(&site.operator).await?;
        for _ in 0..per_client {
            let asked = Instant::now();
            client.post("/v1/jobs", body.clone()).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::Ok(waits)
    }))
    .await?;
    let rate = (per_client * CLIENTS) as f64 / started.elapsed().as_secs_f64();
    Ok((rate, waits.concat()))
}

/// The most memory that the api has taken meanwhile, in MB.
async fn with_peak<T>(
    site: &Site,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, f64)> {
    let mut peak = 0.0_f64;
    let look = async {
        loop {
            let footprint = site.cluster.footprint(site.api)?;
            peak = peak.max(footprint.rss_bytes as f64 / 1e6);
            tokio::time::sleep(LOOK).await;
        }
    };
    let done: anyhow::Result<T> = tokio::select! {
        done = work => done,
        failed = look => failed,
    };
    Ok((done?, peak))
}

/// Waits until nothing that is due is left.
async fn drain(site: &Site) -> anyhow::Result<()> {
    let left = "select count(*) from (select from postroad.job
        where stage <> 0 or run_at <= now() limit 1) one";
    loop {
        let rows = site.cluster.query(left, &[]).await?;
        if rows[0].get::<_, i64>(0) == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
