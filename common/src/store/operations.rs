//! What is asked for many jobs at once: written down as one row, worked off in batches by
//! schedulers, watched and stopped by whoever likes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit::{Change, if_so, one};
use super::{Error, Store};

/// Which dead letters to redrive. Empty fields do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveFilter {
    /// Of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// In this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of this tenant, for operators; others have their own only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Dead since this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// A redrive to begin.
#[derive(Clone, Debug)]
pub struct NewRedrive<'a> {
    /// Which dead letters.
    pub filter: &'a RedriveFilter,
    /// Only so many of them, the oldest first: to see whether they go through now.
    pub limit: Option<i64>,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its id.
    pub id: Uuid,
    /// What is done: `redrive`.
    pub action: String,
    /// `running`, `finished` or `stopped`.
    pub state: String,
    /// Jobs that it was about when it began.
    pub planned: i64,
    /// Jobs done so far.
    pub done: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last got on.
    pub updated_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Who asked for it.
    pub actor: String,
}

/// Dead letters by a filter: $1 tenant, $2 kind, $3 queue, $4 since.
macro_rules! dead_letters {
    () => {
        "a.state = 'dead' and a.state <> 'completed'
         and ($1::int is null or a.tenant_id = $1)
         and ($2::text is null or a.kind_id = (select id from postroad.kind where name = $2))
         and ($3::text is null or a.queue_id = (select id from postroad.queue where name = $3))
         and ($4::timestamptz is null or a.finished_at >= $4)"
    };
}

const COUNT: &str = concat!(
    "select count(*) from postroad.archive a where ",
    dead_letters!()
);

const BEGIN: &str = concat!(
    "insert into postroad.operation (id, tenant_id, action, filter, limit_to, actor, planned)
     select $5, $1, 'redrive', $6::text::jsonb, $7, $8, least(count(*), $7)
     from postroad.archive a where ",
    dead_letters!(),
    " returning id, action, planned, done, created_at, updated_at, stopped_at, finished_at, actor"
);

const OPERATIONS: &str = "
    select id, action, planned, done, created_at, updated_at, stopped_at, finished_at, actor
    from postroad.operation
    where ($1::int is null or tenant_id = $1) and ($2::uuid is null or id = $2)
    order by id desc limit $3";

const STOP: &str = "
    update postroad.operation set stopped_at = now(), updated_at = now()
    where id = $1 and ($2::int is null or tenant_id = $2) and finished_at is null and stopped_at is null
    returning true, tenant_id";

/// The oldest operation that is not finished, and that no other scheduler is at.
const TAKE: &str = "
    select id, tenant_id, filter->>'kind', filter->>'queue', (filter->>'since')::timestamptz,
           until, cursor, limit_to - done
    from postroad.operation
    where finished_at is null and stopped_at is null
    order by created_at limit 1
    for no key update skip locked";

/// What was stopped is finished where it is.
const FINISH_STOPPED: &str = "
    update postroad.operation set finished_at = now()
    where finished_at is null and stopped_at is not null";

/// One batch: dead letters go back to life under their old fence, and the operation's cursor moves,
/// in one statement. In the order of ids, so that the cursor tells what is done.
const STEP: &str = concat!(
    "
    with picked as materialized (
        select a.id, a.finished_at from postroad.archive a
        where ",
    dead_letters!(),
    "     and a.finished_at <= $5 and ($6::uuid is null or a.id > $6)
        order by a.id limit $7
        for update skip locked),
    back as (
        delete from postroad.archive a using picked p
        where a.id = p.id and a.finished_at = p.finished_at and a.state = 'dead'
        returning a.*),
    alive as (
        ",
    revive_from!("back"),
    "),
    moved as (
        update postroad.operation o
        set done = o.done + (select count(*) from alive),
            cursor = coalesce((select id from picked order by id desc limit 1), o.cursor),
            updated_at = now(),
            finished_at = case when (select count(*) from picked) < $7 or o.done + (select count(*) from alive) >= o.limit_to
                          then now() end
        where o.id = $8
        returning o.id)
    select count(*) from alive"
);

impl Store {
    /// How many dead letters a redrive would be about.
    pub async fn count_dead_letters(
        &self,
        filter: &RedriveFilter,
        tenant: Option<i32>,
    ) -> Result<i64, Error> {
        let tenant = self.tenant_id().or(tenant);
        let rows = self
            .query(
                "counting dead letters",
                COUNT,
                &[&tenant, &filter.kind, &filter.queue, &filter.since],
            )
            .await?;
        Ok(rows[0].get(0))
    }

    /// Writes down that dead letters are to be redriven; schedulers do it.
    pub async fn begin_redrive(
        &self,
        redrive: &NewRedrive<'_>,
        tenant: Option<i32>,
    ) -> Result<Operation, Error> {
        let NewRedrive { filter, limit } = redrive;
        let actor = self.actor.as_ref().map_or("postroad", |actor| &actor.name);
        // Written down, and not only asked for.
        let tenant = self.own_tenant().or(tenant);
        let json = serde_json::to_string(filter).unwrap_or_default();
        let id = Uuid::now_v7();
        let change = Change {
            operation: "beginning a redrive",
            sql: BEGIN,
            params: &[
                &tenant,
                &filter.kind,
                &filter.queue,
                &filter.since,
                &id,
                &json,
                limit,
                &actor,
            ],
            action: "dead_letters.redrive",
            detail: json!({"filter": filter, "limit": limit}),
        };
        let rows = self.change(change, one(tenant, &id.to_string())).await?;
        Ok(operation(&rows[0]))
    }

    /// The newest operations of this store's tenant, or the one of this id.
    pub async fn operations(&self, id: Option<Uuid>, limit: i64) -> Result<Vec<Operation>, Error> {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&self.tenant_id(), &id, &limit];
        let rows = self
            .query("reading operations", OPERATIONS, &params)
            .await?;
        Ok(rows.iter().map(operation).collect())
    }

    /// Asks for an operation to go no further. False: it is over, or not there.
    pub async fn stop_operation(&self, id: Uuid) -> Result<bool, Error> {
        let change = Change {
            operation: "stopping an operation",
            sql: STOP,
            params: &[&id, &self.tenant_id()],
            action: "operation.stop",
            detail: json!({}),
        };
        let rows = self.change(change, if_so(&id.to_string())).await?;
        Ok(!rows.is_empty())
    }

    /// Does one batch of the oldest operation; how many jobs came back to life. None: there is
    /// nothing to do.
    pub async fn step_operation(&self, batch: i64) -> Result<Option<i64>, Error> {
        self.query("finishing stopped operations", FINISH_STOPPED, &[])
            .await?;
        self.with_connection("redriving dead letters", async |connection| {
            let tx = self.begin(connection).await?;
            let take = tx.prepare_cached(TAKE).await?;
            let Some(taken) = tx.query_opt(&take, &[]).await? else {
                return Ok(None);
            };
            let id: Uuid = taken.get(0);
            let tenant: Option<i32> = taken.get(1);
            let (kind, queue): (Option<String>, Option<String>) = (taken.get(2), taken.get(3));
            let since: Option<Timestamp> = taken.get(4);
            let until: Timestamp = taken.get(5);
            let cursor: Option<Uuid> = taken.get(6);
            let batch = batch
                .min(taken.get::<_, Option<i64>>(7).unwrap_or(batch))
                .max(0);
            let step = tx.prepare_cached(STEP).await?;
            let rows = tx
                .query(
                    &step,
                    &[&tenant, &kind, &queue, &since, &until, &cursor, &batch, &id],
                )
                .await?;
            tx.commit().await?;
            Ok(Some(rows[0].get(0)))
        })
        .await
    }
}

fn operation(row: &Row) -> Operation {
    let (stopped, finished): (Option<Timestamp>, Option<Timestamp>) = (row.get(6), row.get(7));
    let state = match (stopped, finished) {
        (Some(_), _) => "stopped",
        (None, Some(_)) => "finished",
        (None, None) => "running",
    };
    Operation {
        id: row.get(0),
        action: row.get(1),
        state: state.to_owned(),
        planned: row.get(2),
        done: row.get(3),
        created_at: row.get(4),
        updated_at: row.get(5),
        finished_at: finished,
        actor: row.get(8),
    }
}
