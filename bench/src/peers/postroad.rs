//! Postroad itself, measured as its peers are.
//!
//! Its handler, that of `echo`, writes nothing down: when an attempt has started is in the archive,
//! as the database's clock had it at the start gate, and was committed before the handler ran.

use std::time::{Duration, Instant};

use anyhow::ensure;
use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::{Cluster, job};
use postroad_tests::harness::eventually::eventually;
use serde_json::json;
use uuid::Uuid;

use super::measure::{GAP, Look, PACED, REST, Run};
use super::peer::{Guarantees, claim};
use crate::drain::{self, Setup};
use crate::ground::Ground;
use crate::table::quantile;
use crate::usage::peak_memory;

pub(super) const NAME: &str = "postroad";
pub(super) const SETTINGS: &str =
    "1 scheduler, 1 worker; prefetch 600, window 12,000, bundles; quorum queue, confirms";

pub(super) const GUARANTEES: Guarantees = Guarantees {
    durable: claim(
        "yes: committed in Postgres",
        "docs/GUARANTEES.md, promise 1",
    ),
    started_once: claim(
        "yes: of all messages of a claim one passes the start gate",
        "docs/GUARANTEES.md, promise 2",
    ),
    fencing: claim(
        "yes: each write names the number of its claim",
        "ARCHITECTURE.md, invariant 2",
    ),
    order: claim(
        "priority, then due time, at the claim",
        "docs/GUARANTEES.md, what it does not promise",
    ),
    killed: claim(
        "nothing: after its lease a job is tried again, or held where its kind says so",
        "docs/GUARANTEES.md, promises 4 and 5",
    ),
};

/// As its peers with a call for many do it.
const BULK: usize = 1000;

pub(super) async fn run(ground: &Ground, jobs: usize) -> anyhow::Result<Run> {
    let cluster = drain::cluster(ground, 1, Setup::BUNDLED).await?;
    let measured = measure(ground, &cluster, jobs).await;
    let taken_down = cluster.take_down().await;
    let run = measured?;
    taken_down?;
    Ok(run)
}

async fn measure(ground: &Ground, cluster: &Cluster, jobs: usize) -> anyhow::Result<Run> {
    // Programs run, and have nothing to do: a queue that is paused is one without workers.
    drain::pause(cluster, true).await?;
    let began = Instant::now();
    for from in (0..jobs).step_by(BULK) {
        let some: Vec<_> = (from..jobs.min(from + BULK)).map(noop).collect();
        cluster.store.enqueue(&some, false).await?;
    }
    let enqueueing = began.elapsed();
    cluster.query("vacuum analyze postroad.job", &[]).await?;
    cluster.query("checkpoint", &[]).await?;

    let watched = ground.watched(cluster);
    let before = Look::at(&watched)?;
    drain::pause(cluster, false).await?;
    drain::all_done(cluster, i64::try_from(jobs)?).await?;
    let spent = Look::at(&watched)?.since(&before);
    let drained = rate(cluster, jobs).await?;
    let programs = [cluster.scheduler(0), cluster.worker(0)];
    let mut memory = 0.0;
    for program in programs {
        memory += peak_memory(cluster.pid(program))?;
    }
    let mut waits = one_by_one(cluster, jobs).await?;
    let is_server = |name: &str| ground.servers().iter().any(|server| server.name == name);
    Ok(Run {
        enqueued: jobs as f64 / enqueueing.as_secs_f64(),
        drained,
        servers_cpu: spent.per_1000(jobs, is_server),
        workers_cpu: spent.per_1000(jobs, |name| !is_server(name)),
        memory,
        wait_median: quantile(&mut waits, 0.5),
        wait_p99: quantile(&mut waits, 0.99),
        others: spent.others(),
    })
}

/// The payload that its peers have.
fn noop(seq: usize) -> NewJob {
    job("echo", &json!({"seq": seq, "pad": "x".repeat(80)}))
}

/// From the first start to the last.
async fn rate(cluster: &Cluster, jobs: usize) -> anyhow::Result<f64> {
    let sql = "select count(*), extract(epoch from max(started_at) - min(started_at))::float8
        from postroad.archive where state = 'completed'";
    let row = &cluster.query(sql, &[]).await?[0];
    let (completed, seconds): (i64, f64) = (row.get(0), row.get(1));
    ensure!(
        completed == i64::try_from(jobs)?,
        "{completed} of {jobs} jobs are completed"
    );
    Ok((jobs as f64 - 1.0) / seconds)
}

/// Milliseconds from right before each enqueue to the start.
async fn one_by_one(cluster: &Cluster, first: usize) -> anyhow::Result<Vec<f64>> {
    tokio::time::sleep(REST).await;
    let (mut ids, mut sent) = (Vec::new(), Vec::new());
    for seq in first..first + PACED {
        let job = noop(seq);
        ids.push(*job.id.as_uuid());
        sent.push(now()?.as_secs_f64());
        cluster.store.enqueue(&[job], false).await?;
        tokio::time::sleep(GAP).await;
    }
    let started = eventually("all have started", async || starts(cluster, &ids).await);
    let started = started.await?;
    let waits = started.iter().zip(&sent);
    Ok(waits.map(|(start, sent)| (start - sent) * 1000.0).collect())
}

/// In the order of the ids, when all of them have ended.
async fn starts(cluster: &Cluster, ids: &[Uuid]) -> anyhow::Result<Vec<f64>> {
    let sql = "select extract(epoch from a.started_at)::float8
        from unnest($1::uuid[]) with ordinality as asked (id, nth)
        join postroad.archive a on a.id = asked.id
        where a.state = 'completed' order by asked.nth";
    let rows = cluster.query(sql, &[&ids]).await?;
    ensure!(
        rows.len() == ids.len(),
        "{} of {} have",
        rows.len(),
        ids.len()
    );
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// On the clock that the database, on the same machine, has too.
fn now() -> anyhow::Result<Duration> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?)
}
