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
    /// In any queue of this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
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
    /// The provider that it names.
    pub provider: Option<String>,
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

/// Why a stop cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The queue.
    Queue,
    /// The kind.
    Kind,
    /// The provider.
    Provider,
    /// There are as many stops in force as there may be.
    Room,
}

impl Missing {
    /// Its word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kind => "kind",
            Self::Provider => "provider",
            Self::Room => "room for another stop",
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

/// No row: the queue ($4), the kind ($5) or the provider ($11) is not there, or there are as many as there may be ($8 of a
/// tenant's own, $9 of operators').
const CREATE: &str = "
    insert into postroad.stop
        (id, tenant_id, queue_id, kind_id, provider_id, mode, reason, actor, is_operators, open_then)
    select $1, $2::int, q.id, k.id, v.id, $3, $6, $7, $10,
           array(select l.virtualxid from pg_locks l
                 where l.locktype = 'virtualxid' and l.pid <> pg_backend_pid())
    from (select) one
    left join postroad.queue q on q.name = $4
    left join postroad.kind k on k.name = $5
    left join postroad.provider v on v.name = $11
    where ($4::text is null or q.id is not null) and ($5::text is null or k.id is not null)
      and ($11::text is null or v.id is not null)
      and (select count(*) from postroad.stop o
           where o.lifted_at is null and o.campaign_id is null and o.is_operators = $10
             and ($10 or o.tenant_id = $2)) < case when $10 then $9::bigint else $8::bigint end
    returning true, tenant_id";

/// The one in force that names the same in the same way, made by whoever may lift it.
const SAME: &str = "
    select s.id from postroad.stop s
    left join postroad.queue q on q.id = s.queue_id
    left join postroad.kind k on k.id = s.kind_id
    left join postroad.provider v on v.id = s.provider_id
    where s.lifted_at is null and s.campaign_id is null and s.mode = $1 and s.is_operators = $5
      and s.tenant_id is not distinct from $2::int and q.name is not distinct from $3::text
      and k.name is not distinct from $4::text and v.name is not distinct from $6::text
    order by s.id limit 1";

const ARE_THERE: &str = "
    select $1::text is null or exists (select from postroad.queue where name = $1),
           $2::text is null or exists (select from postroad.kind where name = $2),
           $3::text is null or exists (select from postroad.provider where name = $3)";

/// What the stop of alias `s` names, of jobs `j`. Those that a stop came too late for, or that were
/// accepted after one that cancels, do not count.
macro_rules! named_by_s {
    () => {
        "(s.tenant_id is null or j.tenant_id = s.tenant_id)
         and (s.queue_id is null or j.queue_id = s.queue_id)
         and (s.kind_id is null or j.kind_id = s.kind_id)
         and (s.provider_id is null
              or s.provider_id = (select o.provider_id from postroad.queue o where o.id = j.queue_id))
         and (s.campaign_id is null or j.campaign_id = s.campaign_id)
         and (s.mode = 'pause' or s.campaign_id is not null or j.created_at <= s.created_at)"
    };
}

/// What they name is counted for one stop only ($4): that takes a look at every unfinished job of its
/// tenant, or of all.
const STOPS: &str = concat!(
    "
    select s.id, s.mode, t.name, q.name, k.name, s.reason,
           case when s.is_operators and $1::int is not null then 'operator' else s.actor end,
           s.created_at, s.lifted_at,
           coalesce(caught.waiting, 0), coalesce(caught.pipe, 0), coalesce(caught.prefetched, 0),
           coalesce(named.waiting, 0), coalesce(named.in_pipe, 0), coalesce(named.running, 0), v.name
    from postroad.stop s
    left join postroad.tenant t on t.id = s.tenant_id
    left join postroad.queue q on q.id = s.queue_id
    left join postroad.kind k on k.id = s.kind_id
    left join postroad.provider v on v.id = s.provider_id
    left join lateral (
        select (sum(c.jobs) filter (where c.place = 'waiting'))::bigint as waiting,
               (sum(c.jobs) filter (where c.place = 'pipe'))::bigint as pipe,
               (sum(c.jobs) filter (where c.place = 'prefetched'))::bigint as prefetched
        from postroad.stop_catch c where c.stop_id = s.id) caught on true
    left join lateral (
        select count(*) filter (where j.stage in (0, 2)
                                or (j.stage = 4 and j.stopped_by <> s.id)) as waiting,
               count(*) filter (where j.stage = 1 and j.started_at is null) as in_pipe,
               count(*) filter (where j.stage = 1 and j.started_at is not null) as running
        from postroad.job j
        where $4 and s.lifted_at is null and ($5::int is null or j.tenant_id = $5) and ",
    named_by_s!(),
    ") named on true
    where s.campaign_id is null
      and ($1::int is null or s.tenant_id = $1) and ($2::uuid is null or s.id = $2)
      and ($6 or s.lifted_at is null) and ($7::uuid is null or s.id < $7)
    order by s.id desc limit $3"
);

/// What an operator has made, a tenant does not lift.
const LIFT: &str = "
    update postroad.stop set lifted_at = now()
    where id = $1 and campaign_id is null
      and ($2::int is null or (tenant_id = $2 and not is_operators)) and lifted_at is null
    returning true, tenant_id";

/// Set aside by a stop that is over: back to where it was, or on to another stop that names it. Stops
/// are found by walking the index from one to the next, so those that are not over cost one probe; and
/// jobs behind the last one of the step before ($2, $3), as those that are back stay in the index until
/// Postgres vacuums it.
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
        select j.id, over.id as stop_id from over
        cross join lateral (
            select j.id from postroad.job j
            where j.stage = 4 and j.stopped_by = over.id and (j.stopped_by, j.id) > ($2, $3)
            order by j.stopped_by, j.id limit $1 for no key update skip locked) j
        limit $1),
    moved as (
    update postroad.job j
    set (stage, stopped_by) = (
        select case when stop.id is null then 0 else 4 end, stop.id from (select ",
    stop_of_j!(),
    " as id) stop)
    from back where j.id = back.id
    returning j.stage, j.stopped_by, j.id),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select m.stopped_by, 'waiting', count(*) from moved m where m.stage = 4 group by m.stopped_by)
    select m.stage, b.stop_id, m.id from moved m join back b on b.id = m.id
    order by b.stop_id desc, m.id desc"
);

/// The oldest stop that cancels and whose next step is due, unless another scheduler is at it. A new
/// pass can be the last if nobody is there any more who could commit a job of before the stop.
const TAKE: &str = "
    select s.id, s.tenant_id, s.cursor, s.campaign_id,
           case when s.pass_at is not null then s.pass_is_last
                else pg_snapshot_xmin(pg_current_snapshot()) > s.created_xid
                     and not exists (select from pg_locks l
                                     where l.locktype = 'virtualxid' and l.virtualxid = any(s.open_then))
           end
    from postroad.stop s
    where s.lifted_at is null and s.mode = 'cancel' and (s.pass_after is null or s.pass_after <= now())
    order by s.created_at limit 1
    for no key update skip locked";

/// One step of a pass over the jobs of a campaign ($5), of a tenant ($3), or of all, that goes on
/// behind $2. In a statement after the one that says whether the pass can be the last ($6): what it sees
/// is not older.
///
/// A job in the pipe is the gate's, and one that runs its worker's: they come by again when that is
/// over, and as long as one is met the pass is not the last. A pass rests five times as long as it took.
/// What a person had called off, while it ran, is not the stop's: it stays so when the campaign goes on.
const STEP: &str = concat!(
    "
    with seen as materialized (
        select j.id, j.stage, s.id is not null as is_named
        from postroad.job j
        left join postroad.stop s on s.id = $1 and ",
    named_by_s!(),
    "
        where ($2::uuid is null or j.id > $2)
          and case when $5::bigint is not null then j.campaign_id = $5
                   else $3::int is null or j.tenant_id = $3 end
        order by j.id limit $4),
    taken as materialized (
        select j.id, j.stage, j.stopped_by from postroad.job j
        where j.id = any(array(select id from seen where is_named and stage in (0, 2, 4)))
          and j.stage in (0, 2, 4)
        order by j.id for update skip locked),
    gone as (
        delete from postroad.job j using taken where j.id = taken.id returning j.*),
    archived as (
        ",
    archive_from!(
        "gone",
        "'cancelled'",
        "(select case when s.campaign_id is null then 'stopped'
                      when cancel_at is not null then 'cancelled while it ran'
                      else 'campaign cancelled' end
              from postroad.stop s where s.id = $1)",
        "null",
        "args"
    ),
    "),
    caught as (
        insert into postroad.stop_catch (stop_id, place, jobs)
        select $1, 'waiting', count(*) from taken
        where stage <> 4 or stopped_by is distinct from $1 having count(*) > 0),
    pass as (
        select (select count(*) from seen) < $4 as is_over,
               (select count(*) from seen where is_named and stage <> 3)
                   > (select count(*) from taken) as leaves_some),
    moved as (
        update postroad.stop s
        set cursor = case when not pass.is_over then (select id from seen order by id desc limit 1) end,
            pass_found = not pass.is_over and (s.pass_found or pass.leaves_some),
            pass_is_last = not pass.is_over and $6,
            pass_at = case when not pass.is_over then coalesce(s.pass_at, now()) end,
            pass_after = case when pass.is_over
                then now() + greatest(interval '1 second', 5 * (now() - coalesce(s.pass_at, now()))) end,
            lifted_at = case when pass.is_over and $6 and not s.pass_found and not pass.leaves_some
                        then now() end
        from pass where s.id = $1)
    select (select count(*) from archived), (select not is_over from pass)"
);

/// Rows that count what was stopped are added up when there are many.
const FOLD_CATCHES: &str = "
    with taken as (
        delete from postroad.stop_catch
        where ctid = any(array(
            select c.ctid from postroad.stop_catch c
            where (select count(*) from (select from postroad.stop_catch limit $1) counted) >= $1
            limit $2 for update skip locked))
        returning stop_id, place, jobs)
    insert into postroad.stop_catch (stop_id, place, jobs)
    select stop_id, place, sum(jobs) from taken group by stop_id, place order by stop_id, place";

/// Stops in force of one tenant's own making, and of all operators'; those of campaigns aside.
const OWN_MAX: i64 = 20;
const OPERATORS_MAX: i64 = 100;
/// Rows from which on counts are added up, and how many at a time.
const CATCHES_MAX: i64 = 500;
const CATCHES_FOLDED: i64 = 5000;

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
        let tenant = self.own_tenant().or(scope.tenant);
        let is_operators = self.own_tenant().is_none();
        let (mode, id) = (mode.as_str(), Uuid::now_v7());
        let same: [&(dyn ToSql + Sync); 6] = [
            &mode,
            &tenant,
            &scope.queue,
            &scope.kind,
            &is_operators,
            &scope.provider,
        ];
        let same = self.query("looking for a stop", SAME, &same).await?;
        // A cancelling one is about what was there when it was made.
        if let Some(row) = same.first().filter(|_| mode == "pause") {
            let id: Uuid = row.get(0);
            if let Some(stop) = self.counted_or_not(id).await? {
                return Ok(Ok(stop));
            }
        }
        let actor = self.actor_name();
        let change = Change {
            operation: "stopping jobs",
            sql: CREATE,
            params: &[
                &id,
                &tenant,
                &mode,
                &scope.queue,
                &scope.kind,
                reason,
                &actor,
                &OWN_MAX,
                &OPERATORS_MAX,
                &is_operators,
                &scope.provider,
            ],
            action: "stop.create",
            detail: json!({
                "mode": mode, "queue": scope.queue, "kind": scope.kind, "provider": scope.provider,
                "reason": reason,
            }),
        };
        let rows = self.change(change, one(tenant, &id.to_string())).await?;
        if rows.is_empty() {
            let names: [&(dyn ToSql + Sync); 3] = [&scope.queue, &scope.kind, &scope.provider];
            let found = self
                .query("looking for what a stop names", ARE_THERE, &names)
                .await?;
            let is_there = |column| found[0].get::<usize, bool>(column);
            return Ok(Err(match (is_there(0), is_there(1), is_there(2)) {
                (false, ..) => Missing::Queue,
                (_, false, _) => Missing::Kind,
                (.., false) => Missing::Provider,
                _ => Missing::Room,
            }));
        }
        let made = self.counted_or_not(id).await?;
        made.map(Ok)
            .ok_or_else(|| Error::Configuration("a stop that was made is not there".to_owned()))
    }

    /// A stop with what it names counted, unless that takes too long: it is in force all the same.
    async fn counted_or_not(&self, id: Uuid) -> Result<Option<Stop>, Error> {
        match self.read_stop(id, true).await {
            Err(error) if error.is_transient() => self.read_stop(id, false).await,
            counted => counted,
        }
    }

    async fn read_stop(&self, id: Uuid, is_counted: bool) -> Result<Option<Stop>, Error> {
        let (tenant, before) = (self.tenant_id(), None::<Uuid>);
        let params: [&(dyn ToSql + Sync); 7] =
            [&tenant, &id, &1_i64, &is_counted, &tenant, &true, &before];
        let rows = self.query("reading a stop", STOPS, &params).await?;
        Ok(rows.first().map(|row| stop(row, is_counted)))
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

    /// One stop, with what it names counted, unless that takes longer than a statement may.
    pub async fn find_stop(&self, id: Uuid) -> Result<Option<Stop>, Error> {
        self.counted_or_not(id).await
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

    /// Brings back up to `limit` jobs that were set aside by stops that are over, behind the `last` one
    /// that was; and says which was the last now. None: there was none.
    pub async fn release_set_aside(
        &self,
        last: Option<(Uuid, Uuid)>,
        limit: i64,
    ) -> Result<(Swept, Option<(Uuid, Uuid)>), Error> {
        let (stop, job) = last.unwrap_or_default();
        let params: [&(dyn ToSql + Sync); 3] = [&limit, &stop, &job];
        let rows = self.query("bringing back jobs", RELEASE, &params).await?;
        let is_back = |row: &&Row| row.get::<_, i16>(0) == 0;
        let swept = Swept {
            released: rows.iter().filter(is_back).count(),
            cancelled: 0,
            has_more: rows.len() as i64 >= limit,
        };
        Ok((swept, rows.first().map(|row| (row.get(1), row.get(2)))))
    }

    /// Adds up what stops have met, if that is many rows.
    pub async fn fold_catches(&self) -> Result<(), Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&CATCHES_MAX, &CATCHES_FOLDED];
        self.query("adding up what stops have met", FOLD_CATCHES, &params)
            .await
            .map(drop)
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
            let (cursor, campaign): (Option<Uuid>, Option<i64>) = (taken.get(2), taken.get(3));
            let can_be_last: bool = taken.get(4);
            let step = tx.prepare_cached(STEP).await?;
            let row = tx
                .query_one(
                    &step,
                    &[&id, &cursor, &tenant, &batch, &campaign, &can_be_last],
                )
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
        provider: row.get(15),
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
