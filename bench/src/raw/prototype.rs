//! The whole path as somebody would first write it: a table, a claim, a message per job, a start
//! mark, a move to an archive, an ack; all in batches. What Postroad adds to it is what it promises.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use postroad_tests::harness::cluster::Cluster;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::broker::confirm;
use super::{
    Part, QUEUE, connect, consuming, ended, make_queue, persistent, postgres, publishing, rabbitmq,
};
use crate::usage::{Usage, Watched};

/// Jobs per statement.
const BATCH: usize = 1000;
/// How long a batch is collected before it goes with what there is.
const COLLECT: Duration = Duration::from_millis(2);
const IDLE_REST: Duration = Duration::from_millis(5);

const TABLES: &str = "
    drop table if exists raw_job, raw_archive;
    create table raw_job (id uuid primary key, kind text not null, payload jsonb not null,
        run_at timestamptz not null, state smallint not null, dedup text,
        claimed_at timestamptz, started_at timestamptz, finished_at timestamptz,
        attempt integer not null default 0);
    create unique index raw_job_dedup on raw_job (dedup);
    create index raw_job_due on raw_job (run_at) where state = 0;
    create table raw_archive (like raw_job);
    alter table raw_archive add primary key (id)";
const CLAIM: &str = "
    update raw_job set state = 1, claimed_at = now()
    where id in (select id from raw_job where state = 0 and run_at <= now()
                 order by run_at limit $1 for update skip locked)
    returning id, kind, payload::text";
const START: &str = "
    update raw_job set state = 2, started_at = now(), attempt = attempt + 1
    where id = any($1) and state = 1";
const FINISH: &str = "
    with gone as (delete from raw_job where id = any($1) returning *)
    insert into raw_archive
    select id, kind, payload, run_at, 3, dedup, claimed_at, started_at, now(), attempt from gone";

/// What a run came to.
pub(crate) struct Outcome {
    /// From the start of the two processes to their end.
    pub(crate) jobs_per_second: f64,
    /// Of both servers and both processes.
    pub(crate) cpu_per_1000: f64,
}

/// So many jobs that are due, through everything.
pub(crate) async fn run(
    cluster: &Cluster,
    servers: &[Watched],
    jobs: usize,
    args: &serde_json::Value,
) -> anyhow::Result<Outcome> {
    let client = connect(cluster.database_url()).await?;
    client.batch_execute(TABLES).await?;
    load(&client, jobs, args).await?;
    make_queue(cluster).await?;
    let (before, started) = (Usage::of(servers)?, Instant::now());
    let worker = Part::Work { jobs }.start(cluster)?;
    let scheduler = ended(Part::Schedule { jobs }.start(cluster)?).await?;
    let worker = ended(worker).await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = Usage::of(servers)?.since(&before).total() + scheduler + worker;
    Ok(Outcome {
        jobs_per_second: jobs as f64 / seconds,
        cpu_per_1000: cpu / jobs as f64 * 1000.0,
    })
}

async fn load(
    client: &tokio_postgres::Client,
    jobs: usize,
    args: &serde_json::Value,
) -> anyhow::Result<()> {
    let copy = "copy raw_job (id, kind, payload, run_at, state, dedup) from stdin binary";
    let types = [
        Type::UUID,
        Type::TEXT,
        Type::JSONB,
        Type::TIMESTAMPTZ,
        Type::INT2,
        Type::TEXT,
    ];
    let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(copy).await?, &types));
    let now = SystemTime::now();
    for _ in 0..jobs {
        let id = Uuid::now_v7();
        let key = format!("d-{}", id.simple());
        writer
            .as_mut()
            .write(&[&id, &"echo", &Json(args), &now, &0_i16, &key])
            .await?;
    }
    writer.finish().await?;
    Ok(())
}

/// The next claim overlaps with the confirms of the one before.
pub(super) async fn schedule(jobs: usize) -> anyhow::Result<()> {
    let (client, connection) = (postgres().await?, rabbitmq().await?);
    let channel = publishing(&connection).await?;
    let claim = client.prepare(CLAIM).await?;
    let (mut left, mut confirms) = (jobs, Vec::new());
    while left > 0 {
        let rows = client.query(&claim, &[&(BATCH as i64)]).await?;
        if rows.is_empty() {
            tokio::time::sleep(IDLE_REST).await;
            continue;
        }
        left = left.saturating_sub(rows.len());
        let (mut written, mut body) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            body.clear();
            body.extend_from_slice(row.get::<_, Uuid>(0).as_bytes());
            body.extend_from_slice(row.get::<_, &str>(1).as_bytes());
            body.extend_from_slice(row.get::<_, &str>(2).as_bytes());
            let options = BasicPublishOptions::default();
            let published =
                channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
            written.push(published.await?);
        }
        for one in std::mem::replace(&mut confirms, written) {
            confirm(Some(one)).await?;
        }
    }
    for one in confirms {
        confirm(Some(one)).await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}

pub(super) async fn work(jobs: usize) -> anyhow::Result<()> {
    let (client, connection) = (postgres().await?, rabbitmq().await?);
    let channel = consuming(&connection, u16::try_from(4 * BATCH)?).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel
        .basic_consume(QUEUE.into(), "raw".into(), options, FieldTable::default())
        .await?;
    let (start, finish) = (client.prepare(START).await?, client.prepare(FINISH).await?);
    let mut left = jobs;
    while left > 0 {
        let (mut ids, mut last) = (Vec::with_capacity(BATCH), None);
        while ids.len() < BATCH {
            let next = deliveries.next();
            let delivery = match ids.is_empty() {
                true => next.await,
                false => match tokio::time::timeout(COLLECT, next).await {
                    Ok(delivery) => delivery,
                    Err(_) => break,
                },
            };
            let delivery = delivery.context("the consumer was ended")??;
            ids.push(Uuid::from_slice(&delivery.data[..16])?);
            last = Some(delivery);
        }
        let begun = client.execute(&start, &[&ids]).await?;
        ensure!(
            begun == ids.len() as u64,
            "a job was not there to be started"
        );
        client.execute(&finish, &[&ids]).await?;
        left -= ids.len();
        let last = last.context("a batch has a job")?;
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    Ok(connection.close(200, "done".into()).await?)
}
