//! What Postgres and the broker saw: a log of moves by triggers of our own, and what is left at
//! the end.

use std::collections::HashMap;

use anyhow::Context as _;
use postroad_common::broker::topology::{DEAD_QUEUE, PARKED_QUEUE, work_queue};
use postroad_tests::harness::cluster::Cluster;
use postroad_tests::simulator::{Record, Status};
use tokio_postgres::Row as SqlRow;
use uuid::Uuid;

use crate::history::{AttemptError, Backing, Call, Move, QueueDepth, Row, state_of};

const MOVES: &str = "
    select extract(epoch from at)::float8, id, tx::text, in_archive, from_state, to_state,
           dispatch_before, dispatch, attempt_before, attempt
    from chaos.move order by seq";

const ROWS: &str = "
    select id, tenant, kind, state::text, attempt, dispatch from postroad.jobs";

const ERRORS: &str = "
    select extract(epoch from at)::float8, job_id, attempt, code from postroad.attempt_error";

/// Jobs in the pipe long enough for the management API, which is seconds behind, to have seen
/// their messages.
const BACKED: &str = "
    select count(*) from postroad.job where stage = 1 and claimed_at < now() - interval '4 seconds'";

/// Begins to log every move in this cluster's database.
pub async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    let session = cluster.session().await?;
    let sql = include_str!("observer.sql");
    session
        .batch_execute(sql)
        .await
        .context("installing the observer")
}

/// Every move so far.
pub async fn moves(cluster: &Cluster) -> anyhow::Result<Vec<Move>> {
    let rows = cluster.query(MOVES, &[]).await?;
    let mut moves: Vec<Move> = Vec::with_capacity(rows.len());
    // Where the departures of the transactions under way are, to be joined with their arrivals.
    let mut left: HashMap<(Uuid, String), usize> = HashMap::new();
    for row in &rows {
        let (id, tx, in_archive): (Uuid, String, bool) = (row.get(1), row.get(2), row.get(3));
        let one = read_move(row)?;
        match (in_archive, left.remove(&(id, tx.clone()))) {
            (true, Some(index)) => moves[index].to = one.to,
            _ => {
                if one.to.is_none() {
                    left.insert((id, tx), moves.len());
                }
                moves.push(one);
            }
        }
    }
    Ok(moves)
}

fn read_move(row: &SqlRow) -> anyhow::Result<Move> {
    let state = |column| {
        let name: Option<String> = row.get(column);
        name.map(|name| state_of(&name).with_context(|| format!("there is no state {name}")))
            .transpose()
    };
    Ok(Move {
        t: row.get(0),
        id: row.get(1),
        from: state(4)?,
        to: state(5)?,
        dispatch_before: row.get(6),
        dispatch: row.get(7),
        attempt_before: row.get(8),
        attempt: row.get(9),
    })
}

/// Every job that Postgres holds.
pub async fn rows(cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let rows = cluster.query(ROWS, &[]).await?;
    let read = |row: &SqlRow| {
        let state: String = row.get(3);
        Ok(Row {
            id: row.get(0),
            tenant: row.get(1),
            kind: row.get(2),
            state: state_of(&state).with_context(|| format!("there is no state {state}"))?,
            attempt: row.get(4),
            dispatch: row.get(5),
        })
    };
    rows.iter().map(read).collect()
}

/// Every attempt error that Postgres holds.
pub async fn errors(cluster: &Cluster) -> anyhow::Result<Vec<AttemptError>> {
    let rows = cluster.query(ERRORS, &[]).await?;
    let read = |row: &SqlRow| AttemptError {
        t: row.get(0),
        id: row.get(1),
        attempt: row.get(2),
        code: row.get(3),
    };
    Ok(rows.iter().map(read).collect())
}

/// What the queues hold once every consumer is gone: so nothing is in anybody's hands.
pub async fn queues(cluster: &Cluster) -> anyhow::Result<Vec<QueueDepth>> {
    let stranger = cluster.vhost().stranger().await?;
    let mut names: Vec<_> = cluster.store.queue_names().await?;
    for name in &mut names {
        *name = work_queue(name);
    }
    names.extend([DEAD_QUEUE.to_owned(), PARKED_QUEUE.to_owned()]);
    let mut depths = Vec::with_capacity(names.len());
    for queue in names {
        let depth = stranger.depth(&queue).await?;
        depths.push(QueueDepth {
            may_hold: queue == PARKED_QUEUE,
            ready: depth.ready.into(),
            unacked: 0,
            queue,
        });
    }
    Ok(depths)
}

/// One look at both ends of the pipe; none while one of them cannot be asked.
pub async fn backing(cluster: &Cluster, queue: &str) -> Option<Backing> {
    let (ready, unacked) = cluster.vhost().messages(&work_queue(queue)).await.ok()?;
    let rows = cluster.query(BACKED, &[]).await.ok()?;
    Some(Backing {
        t: now(),
        rows: u64::try_from(rows.first()?.get::<_, i64>(0)).unwrap_or(0),
        messages: ready + unacked,
    })
}

/// A request as the provider recorded it.
pub fn call(record: &Record) -> Call {
    Call {
        t: record.t,
        id: record.key.as_deref().and_then(|key| key.parse().ok()),
        tenant: record.path.strip_prefix("/webhook/").map(str::to_owned),
        body_sha256: record.body_sha256.clone(),
        effect: record.effect,
        answered: matches!(record.status, Status::Code(_)),
    }
}

/// The time of this machine, in Unix seconds.
pub fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}
