//! Stops: what is not to be started, from the moment that the stop is committed.
//!
//! Claims and the start gate ask for stops (see `stop_of_j`) and set aside what one names. Here they
//! are made, looked at and lifted, and schedulers do what is left: they bring back what a lifted stop
//! has set aside, and cancel what is there for a stop that cancels.
//!
//! What if the process dies in the middle? Each step is one transaction of a bounded batch, and takes
//! up what it finds: rows of a stop that is lifted, or the cursor of a pass.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{Change, if_so, one};
use super::{Error, Store};

/// What becomes of the jobs that a stop names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// They wait until it is lifted, those that come later, too.
    Pause,
    /// Those that were accepted before it are cancelled; what comes later is not stopped.
    Cancel,
}

impl StopMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pause, Self::Cancel];

    /// Its name in SQL, API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Cancel => "cancel",
        }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

/// Which jobs: those for which everything that is given fits. Something must be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StopScope {
    /// Of this tenant.
    pub tenant: Option<i32>,
    /// In this queue.
    pub queue: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// A stop to make.
#[derive(Clone, Debug)]
pub struct NewStop<'a> {
    /// What it names.
    pub scope: &'a StopScope,
    /// What becomes of it.
    pub mode: StopMode,
    /// Why, for whoever finds it: at most 500 bytes.
    pub reason: &'a str,
}

/// A stop, and what it has stopped.
#[derive(Clone, Debug, Serialize)]
pub struct Stop {
    /// Its id.
    pub id: Uuid,
    /// `pause` or `cancel`.
    pub mode: String,
    /// The tenant that it names.
    pub tenant: Option<String>,
    /// The queue that it names.
    pub queue: Option<String>,
    /// The kind that it names.
    pub kind: Option<String>,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub actor: String,
    /// Since when.
    pub created_at: Timestamp,
    /// Since when no more: somebody has lifted it, or nothing is left to be cancelled.
    pub lifted_at: Option<Timestamp>,
    /// What it has met so far.
    pub stopped: Stopped,
    /// What it names and has not met yet, if that was counted.
    pub named: Option<Named>,
}

/// Jobs that were stopped, by where they were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// In Postgres, waiting for their time or for another attempt.
    pub waiting: i64,
    /// On their way through RabbitMQ.
    pub in_pipe: i64,
    /// In the hands of a worker that had not begun with them.
    pub prefetched: i64,
}

impl Stopped {
    /// All of them.
    pub fn all(self) -> i64 {
        self.waiting + self.in_pipe + self.prefetched
    }
}

/// Jobs that a stop in force names and has not met yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Waiting for their time or for another attempt: stopped when they are due.
    pub waiting: i64,
    /// On their way to a worker, who will not begin with them.
    pub in_pipe: i64,
    /// Running: for this attempt the stop came too late.
    pub too_late: i64,
}

/// What a stop was to name, and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The queue.
    Queue,
    /// The kind.
    Kind,
}

impl Missing {
    /// Its word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kind => "kind",
        }
    }
}

/// What a scheduler did for stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs that were set aside and may be started again.
    pub released: usize,
    /// Jobs that were cancelled.
    pub cancelled: usize,
    /// Whether there is more to do at once.
    pub has_more: bool,
}

/// No row: the queue ($4) or the kind ($5) is not there.
const CREATE: &str = "
    insert into postroad.stop (id, tenant_id, queue_id, kind_id, mode, reason, actor)
    select $1, $2::int, q.id, k.id, $3, $6, $7
    from (select) one
    left join postroad.queue q on q.name = $4
    left join postroad.kind k on k.name = $5
    where ($4::text is null or q.id is not null) and ($5::text is null or k.id is not null)
    returning true, tenant_id";

const HAS_QUEUE: &str = "select exists (select from postroad.queue where name = $1)";

/// What the stop of alias `s` names, of jobs `j`. Those that a stop came too late for, or that were
/// accepted after one that cancels, do not count.
macro_rules! named_by_s {
    () => {
        "(s.tenant_id is null or j.tenant_id = s.tenant_id)
         and (s.queue_id is null or j.queue_id = s.queue_id)
         and (s.kind_id is null or j.kind_id = s.kind_id)
         and (s.mode = 'pause' or j.created_at <= s.created_at)"
    };
}

/// What they name is counted for one stop only ($4): that takes a look at every unfinished job of its
/// tenant, or of all.
const STOPS: &str = concat!(
    "
    select s.id, s.mode, t.name, q.name, k.name, s.reason, s.actor, s.created_at, s.lifted_at,
           coalesce(caught.waiting, 0), coalesce(caught.pipe, 0), coalesce(caught.prefetched, 0),
           coalesce(named.waiting, 0), coalesce(named.in_pipe, 0), coalesce(named.running, 0)
    from postroad.stop s
    left join postroad.tenant t on t.id = s.tenant_id
    left join postroad.queue q on q.id = s.queue_id
    left join postroad.kind k on k.id = s.kind_id
    left join lateral (
        select sum(c.jobs) filter (where c.place = 'waiting') as waiting,
               sum(c.jobs) filter (where c.place = 'pipe') as pipe,
               sum(c.jobs) filter (where c.place = 'prefetched') as prefetched
        from postroad.stop_catch c where c.stop_id = s.id) caught on true
    left join lateral (
        select count(*) filter (where j.stage in (0, 2)) as waiting,
               count(*) filter (where j.stage = 1 and j.started_at is null) as in_pipe,
               count(*) filter (where j.stage = 1 and j.started_at is not null) as running
        from postroad.job j
        where $4 and s.lifted_at is null and ($5::int is null or j.tenant_id = $5) and ",
    named_by_s!(),
    ") named on true
    where ($1::int is null or s.tenant_id = $1) and ($2::uuid is null or s.id = $2)
      and ($6 or s.lifted_at is null) and ($7::uuid is null or s.id < $7)
    order by s.id desc limit $3"
);

const LIFT: &str = "
    update postroad.stop set lifted_at = now()
    where id = $1 and ($2::int is null or tenant_id = $2) and lifted_at is null
    returning true, tenant_id";

/// Set aside by a stop that is over: back to where it was, or on to another stop that names it. Stops
/// are found by walking the index from one to the next, so those that are not over cost one probe.
const RELEASE: &str = concat!(
    "
    with recursive walk as (
        (select j.stopped_by as id from postroad.job j where j.stage = 4 order by j.stopped_by limit 1)
        union all
        select next.id from walk w
        cross join lateral (
            select j.stopped_by as id from postroad.job j
            where j.stage = 4 and j.stopped_by > w.id order by j.stopped_by limit 1) next),
    over as materialized (
        select w.id from walk w
        where not exists (select from postroad.stop s where s.id = w.id and s.lifted_at is null)),
    back as materialized (
        select j.id from over
        cross join lateral (
            select j.id from postroad.job j where j.stage = 4 and j.stopped_by = over.id
            order by j.id limit $1 for no key update skip locked) j
        limit $1)
    update postroad.job j
    set (stage, stopped_by) = (
        select case when stop.id is null then 0 else 4 end, stop.id from (select ",
    stop_of_j!(),
    " as id) stop)
    from back where j.id = back.id
    returning j.stage"
);

/// The oldest stop that cancels and whose next step is due, unless another scheduler is at it.
const TAKE: &str = "
    select s.id, s.tenant_id, s.cursor from postroad.stop s
    where s.lifted_at is null and s.mode = 'cancel' and (s.pass_after is null or s.pass_after <= now())
    order by s.created_at limit 1
    for no key update skip locked";

/// One step of a pass over the jobs of a tenant ($3), or of all, that goes on behind $2.
///
/// A job in the pipe is the gate's, and one that runs its worker's: they come by again when that is
/// over. The pass that meets none is the last, if no job can be committed any more that was accepted
/// before the stop: if it has begun after every transaction of that time had ended.
const STEP: &str = concat!(
    "
    with seen as materialized (
        select j.id, j.stage, s.id is not null as is_named
        from postroad.job j
        left join postroad.stop s on s.id = $1 and ",
    named_by_s!(),
    "
        where ($2::uuid is null or j.id > $2) and ($3::int is null or j.tenant_id = $3)
        order by j.id limit $4),
    taken as materialized (
        select j.id, j.stage from postroad.job j
        where j.id = any(array(select id from seen where is_named and stage in (0, 2, 4)))
          and j.stage in (0, 2, 4)
        order by j.id for update skip locked),
    gone as (
        delete from postroad.job j using taken where j.id = taken.id returning j.*),
    archived as (
        ",
    archive_from!("gone", "'cancelled'", "'stopped'", "null", "args"),
    "),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select $1, 'waiting', count(*) from taken where stage <> 4 having count(*) > 0),
    pass as (
        select (select count(*) from seen) < $4 as is_over,
               (select count(*) from seen where is_named and stage <> 3)
                   > (select count(*) from taken) as leaves_some),
    moved as (
        update postroad.stop s
        set cursor = case when not pass.is_over then (select id from seen order by id desc limit 1) end,
            pass_found = not pass.is_over and (s.pass_found or pass.leaves_some),
            pass_xmin = case when pass.is_over then null
                             else coalesce(s.pass_xmin, pg_snapshot_xmin(pg_current_snapshot())) end,
            pass_after = case when pass.is_over then now() + interval '1 second' end,
            lifted_at = case when pass.is_over and not s.pass_found and not pass.leaves_some
                              and coalesce(s.pass_xmin, pg_snapshot_xmin(pg_current_snapshot())) > s.created_xid
                        then now() end
        from pass where s.id = $1)
    select (select count(*) from archived), (select not is_over from pass)"
);

impl Store {
    /// Stops what a scope names, if that is there.
    ///
    /// Once this has answered, no claim and no gate that begins later starts what is named.
    pub async fn create_stop(&self, new: &NewStop<'_>) -> Result<Result<Stop, Missing>, Error> {
        let NewStop {
            scope,
            mode,
            reason,
        } = new;
        let actor = self.actor.as_ref().map_or("postroad", |actor| &actor.name);
        let tenant = self.own_tenant().or(scope.tenant);
        let id = Uuid::now_v7();
        let change = Change {
            operation: "stopping jobs",
            sql: CREATE,
            params: &[
                &id,
                &tenant,
                &mode.as_str(),
                &scope.queue,
                &scope.kind,
                reason,
                &actor,
            ],
            action: "stop.create",
            detail: json!({
                "mode": mode, "queue": scope.queue, "kind": scope.kind, "reason": reason,
            }),
        };
        let rows = self.change(change, one(tenant, &id.to_string())).await?;
        if rows.is_empty() {
            let queue = scope.queue.as_deref().unwrap_or_default();
            let found = self
                .query("looking for a queue", HAS_QUEUE, &[&queue])
                .await?;
            let has_queue = scope.queue.is_none() || found[0].get(0);
            return Ok(Err(match has_queue {
                true => Missing::Kind,
                false => Missing::Queue,
            }));
        }
        // In force before it is counted: what begins meanwhile has asked the gate before.
        let params: [&(dyn ToSql + Sync); 7] = [
            &None::<i32>,
            &id,
            &1_i64,
            &true,
            &tenant,
            &true,
            &None::<Uuid>,
        ];
        let rows = self.query("reading a stop", STOPS, &params).await?;
        Ok(Ok(stop(&rows[0], true)))
    }

    /// The newest stops of this store's tenant that are older than `before`; with `all`, those too
    /// that are over. What they name is not counted.
    pub async fn stops(
        &self,
        all: bool,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Stop>, Error> {
        let (none, tenant, id) = (None::<i32>, self.tenant_id(), None::<Uuid>);
        let params: [&(dyn ToSql + Sync); 7] = [&tenant, &id, &limit, &false, &none, &all, &before];
        let rows = self.query("reading stops", STOPS, &params).await?;
        Ok(rows.iter().map(|row| stop(row, false)).collect())
    }

    /// One stop, with what it names counted. That can take seconds where millions of jobs wait.
    pub async fn find_stop(&self, id: Uuid) -> Result<Option<Stop>, Error> {
        let (tenant, before) = (self.tenant_id(), None::<Uuid>);
        let params: [&(dyn ToSql + Sync); 7] =
            [&tenant, &id, &1_i64, &true, &tenant, &true, &before];
        let rows = self.query("reading a stop", STOPS, &params).await?;
        Ok(rows.first().map(|row| stop(row, true)))
    }

    /// Lifts a stop: what it has set aside goes on, and what it has cancelled stays so. False: it is
    /// over, or not there.
    pub async fn lift_stop(&self, id: Uuid) -> Result<bool, Error> {
        let change = Change {
            operation: "lifting a stop",
            sql: LIFT,
            params: &[&id, &self.tenant_id()],
            action: "stop.lift",
            detail: json!({}),
        };
        let rows = self.change(change, if_so(&id.to_string())).await?;
        Ok(!rows.is_empty())
    }

    /// Brings back up to `limit` jobs that were set aside by stops that are over.
    pub async fn release_set_aside(&self, limit: i64) -> Result<Swept, Error> {
        let rows = self.query("bringing back jobs", RELEASE, &[&limit]).await?;
        let is_back = |row: &&Row| row.get::<_, i16>(0) == 0;
        Ok(Swept {
            released: rows.iter().filter(is_back).count(),
            cancelled: 0,
            has_more: rows.len() as i64 >= limit,
        })
    }

    /// Does one step of the oldest stop that cancels: looks at `batch` jobs.
    pub async fn sweep_cancelled(&self, batch: i64) -> Result<Swept, Error> {
        self.with_connection("cancelling stopped jobs", async |connection| {
            let tx = self.begin(connection).await?;
            let take = tx.prepare_cached(TAKE).await?;
            let Some(taken) = tx.query_opt(&take, &[]).await? else {
                return Ok(Swept::default());
            };
            let (id, tenant): (Uuid, Option<i32>) = (taken.get(0), taken.get(1));
            let cursor: Option<Uuid> = taken.get(2);
            let step = tx.prepare_cached(STEP).await?;
            let row = tx
                .query_one(&step, &[&id, &cursor, &tenant, &batch])
                .await?;
            tx.commit().await?;
            Ok(Swept {
                released: 0,
                cancelled: usize::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                has_more: row.get(1),
            })
        })
        .await
    }
}

fn stop(row: &Row, is_counted: bool) -> Stop {
    let named = Named {
        waiting: row.get(12),
        in_pipe: row.get(13),
        too_late: row.get(14),
    };
    Stop {
        id: row.get(0),
        mode: row.get(1),
        tenant: row.get(2),
        queue: row.get(3),
        kind: row.get(4),
        reason: row.get(5),
        actor: row.get(6),
        created_at: row.get(7),
        lifted_at: row.get(8),
        stopped: Stopped {
            waiting: row.get(9),
            in_pipe: row.get(10),
            prefetched: row.get(11),
        },
        named: is_counted.then_some(named),
    }
}
