//! `prepare` | `backlog COUNT` | `paced COUNT FIRST GAP_MS` | `worker`

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use apalis::prelude::*;
use apalis_postgres::queries::push_tasks;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "bench";
const BULK: u64 = 1000;
/// Fetched at once, and at work at once: ten, as it is installed, are 16 times as slow.
const BATCH: usize = 2000;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Noop {
    seq: u64,
    pad: String,
}

impl Noop {
    /// About 100 bytes of payload.
    fn new(seq: u64) -> Self {
        let pad = "x".repeat(80);
        Self { seq, pad }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (what, numbers) = arguments.split_first().context("nothing to do")?;
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<Result<_, _>>()?;
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    match (what.as_str(), numbers.as_slice()) {
        ("prepare", []) => Ok(PostgresStorage::setup(&pool).await?),
        ("backlog", &[count]) => backlog(&pool, count).await,
        ("paced", &[count, first, gap_ms]) => paced(&pool, count, first, gap_ms).await,
        ("worker", []) => work(&pool).await,
        _ => bail!("unknown arguments: {arguments:?}"),
    }
}

fn storage(pool: &PgPool) -> PostgresStorage<Noop> {
    PostgresStorage::new(pool).with_config(Config::default().queue(QUEUE).batch_size(BATCH))
}

async fn backlog(pool: &PgPool, count: u64) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?.detach();
    let began = now();
    for from in (0..count).step_by(BULK as usize) {
        let tasks = (from..count.min(from + BULK))
            .map(|seq| Ok(TaskBuilder::new(serde_json::to_vec(&Noop::new(seq))?).build()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        push_tasks(&mut connection, QUEUE, tasks).await?;
    }
    println!("seconds {}", now() - began);
    Ok(())
}

async fn paced(pool: &PgPool, count: u64, first: u64, gap_ms: u64) -> anyhow::Result<()> {
    let mut storage = storage(pool);
    let mut sent = File::create(format!("{}/sent", std::env::var("RECORDS")?))?;
    for seq in first..first + count {
        sent.write_all(&record(seq))?;
        storage.push(Noop::new(seq)).await?;
        tokio::time::sleep(Duration::from_millis(gap_ms)).await;
    }
    Ok(())
}

async fn work(pool: &PgPool) -> anyhow::Result<()> {
    let file = format!(
        "{}/started-{}",
        std::env::var("RECORDS")?,
        std::process::id()
    );
    STARTED.get_or_init(|| File::create(file));
    let backend = storage(pool)
        .with_pubsub()
        .poll_with_interval(Duration::from_millis(100));
    WorkerBuilder::new(format!("worker-{}", std::process::id()))
        .backend(backend)
        .concurrency(BATCH)
        .build(noop)
        .run()
        .await?;
    Ok(())
}

static STARTED: OnceLock<std::io::Result<File>> = OnceLock::new();

async fn noop(job: Noop) -> Result<(), BoxDynError> {
    match STARTED.get() {
        Some(Ok(file)) => (&mut &*file).write_all(&record(job.seq))?,
        Some(Err(error)) => return Err(format!("opening the file of starts: {error}").into()),
        None => return Err("the file of starts is not open".into()),
    }
    Ok(())
}

/// What every peer writes down: 16 bytes a job, its number and the second, as two doubles.
fn record(seq: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(seq as f64).to_le_bytes());
    bytes[8..].copy_from_slice(&now().to_le_bytes());
    bytes
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
