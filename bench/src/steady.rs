//! A load that the machine can bear, for long: what grows?

use std::time::{Duration, Instant};

use anyhow::Context as _;
use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::{Cluster, job};
use serde::Serialize;
use serde_json::json;

use crate::drain::{self, Setup};
use crate::ground::Ground;
use crate::usage::peak_memory;

/// Jobs come so often.
const BEAT: Duration = Duration::from_millis(50);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What there was at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Look {
    pub(crate) second: u64,
    /// The table of unfinished jobs.
    pub(crate) table_mb: f64,
    /// Its indexes.
    pub(crate) index_mb: f64,
    pub(crate) dead_tuples: i64,
    /// Of scheduler and worker, the most so far.
    pub(crate) scheduler_mb: f64,
    pub(crate) worker_mb: f64,
    /// Of the jobs that came since the look before: how late they started, p50 and p99.
    pub(crate) late_p50_ms: f64,
    pub(crate) late_p99_ms: f64,
}

/// What the load came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Steady {
    pub(crate) jobs_per_second: f64,
    pub(crate) wal_bytes_per_job: f64,
    pub(crate) looks: Vec<Look>,
}

pub(crate) async fn run(ground: &Ground, rate: f64, lasting: Duration) -> anyhow::Result<Steady> {
    let cluster = drain::cluster(ground, 1, Setup::BUNDLED).await?;
    let wal = async || -> anyhow::Result<f64> {
        let sql = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
        Ok(cluster.query(sql, &[]).await?[0].get(0))
    };
    let (started, before) = (Instant::now(), wal().await?);
    let mut looks = Vec::new();
    let feed = feed(&cluster, rate, lasting);
    let watch = async {
        loop {
            tokio::time::sleep(LOOK).await;
            looks.push(look(&cluster, started.elapsed().as_secs()).await?);
        }
    };
    let fed = tokio::select! {
        fed = feed => fed?,
        watched = watch => { let never: anyhow::Result<usize> = watched; never? }
    };
    let seconds = started.elapsed().as_secs_f64();
    cluster.wait_for("completed", i64::try_from(fed)?).await?;
    let wal_bytes_per_job = (wal().await? - before) / fed as f64;
    lateness(&cluster, &mut looks).await?;
    cluster.take_down().await?;
    Ok(Steady {
        jobs_per_second: fed as f64 / seconds,
        wal_bytes_per_job,
        looks,
    })
}

/// Hands jobs in at this rate; how many it were.
async fn feed(cluster: &Cluster, rate: f64, lasting: Duration) -> anyhow::Result<usize> {
    let mut beat = tokio::time::interval(BEAT);
    let (started, mut fed) = (Instant::now(), 0);
    let one = job(
        "echo",
        &json!({"to": "+33639980606", "text": "Your code is 123456"}),
    );
    while started.elapsed() < lasting {
        beat.tick().await;
        let wanted = (started.elapsed().as_secs_f64() * rate) as usize;
        let jobs: Vec<_> = (fed..wanted)
            .map(|_| NewJob::new(one.kind.clone(), one.args.clone()))
            .collect();
        for some in jobs.chunks(1000) {
            cluster.store.enqueue(some, false).await?;
        }
        fed = wanted;
    }
    Ok(fed)
}

async fn look(cluster: &Cluster, second: u64) -> anyhow::Result<Look> {
    let sql = "select pg_table_size('postroad.job')::float8 / 1e6, pg_indexes_size('postroad.job')::float8 / 1e6,
        (select n_dead_tup from pg_stat_user_tables where relid = 'postroad.job'::regclass)";
    let rows = cluster.query(sql, &[]).await?;
    let row = rows.first().context("a query without a row")?;
    Ok(Look {
        second,
        table_mb: row.get(0),
        index_mb: row.get(1),
        dead_tuples: row.get(2),
        scheduler_mb: peak_memory(cluster.pid(cluster.scheduler(0)))?,
        worker_mb: peak_memory(cluster.pid(cluster.worker(0)))?,
        late_p50_ms: f64::NAN,
        late_p99_ms: f64::NAN,
    })
}

/// Afterwards, because reading the archive beside the load would be load; and in one pass, because it
/// has tens of millions of jobs by then.
async fn lateness(cluster: &Cluster, looks: &mut [Look]) -> anyhow::Result<()> {
    // Of the jobs before the first look, between it and the second, and so on.
    let sql =
        "select width_bucket(extract(epoch from a.created_at - first.at)::float8, $1::float8[]),
               percentile_cont(array[0.5, 0.99]) within group
                   (order by extract(epoch from a.started_at - a.created_at)::float8 * 1000)
        from postroad.archive a, (select min(created_at) as at from postroad.archive) first
        group by 1";
    let ends: Vec<_> = looks.iter().map(|look| look.second as f64).collect();
    for row in cluster.query(sql, &[&ends]).await? {
        let nth = usize::try_from(row.get::<_, i32>(0))?;
        let quantiles: Vec<f64> = row.get(1);
        // What came after the last look has none.
        if let (Some(look), [p50, p99]) = (looks.get_mut(nth), quantiles.as_slice()) {
            (look.late_p50_ms, look.late_p99_ms) = (*p50, *p99);
        }
    }
    Ok(())
}
