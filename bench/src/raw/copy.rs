//! Rows into the table of jobs, as fast as Postgres takes them: binary `COPY` over one connection.

use std::pin::pin;
use std::time::{Instant, SystemTime};

use postroad_tests::harness::cluster::Cluster;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::connect;

/// Rows per transaction.
const ROWS: usize = 2000;

/// Rows a second. They are due in an hour, with the indexes and triggers that jobs have.
pub(crate) async fn rate(
    cluster: &Cluster,
    rows: usize,
    args: &serde_json::Value,
) -> anyhow::Result<f64> {
    let names = "select postroad.queue_id('default'), postroad.kind_id('echo'), postroad.tenant_id('default')";
    let names = cluster.query(names, &[]).await?;
    let (queue, kind, tenant): (i32, i32, i32) =
        (names[0].get(0), names[0].get(1), names[0].get(2));
    let client = connect(cluster.database_url()).await?;
    let copy =
        "copy postroad.job (id, queue_id, kind_id, tenant_id, run_at, args) from stdin binary";
    let types = [
        Type::UUID,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::TIMESTAMPTZ,
        Type::JSON,
    ];
    let due = SystemTime::now() + std::time::Duration::from_secs(3600);
    let started = Instant::now();
    for _ in 0..rows / ROWS {
        let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(copy).await?, &types));
        for _ in 0..ROWS {
            let id = Uuid::now_v7();
            writer
                .as_mut()
                .write(&[&id, &queue, &kind, &tenant, &due, &Json(args)])
                .await?;
        }
        writer.finish().await?;
    }
    Ok((rows / ROWS * ROWS) as f64 / started.elapsed().as_secs_f64())
}
