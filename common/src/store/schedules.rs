//! Recurring schedules: kept by people, ticked by schedulers.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{Change, if_so, one};
use super::{Error, Store, millis};
use crate::failpoint;
use crate::job::JobId;
use crate::schedule::{Misfire, Plan};

/// A schedule, in words.
#[derive(Clone, Debug, serde::Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct ScheduleRow {
    pub name: String,
    pub tenant: String,
    pub cron: String,
    pub timezone: String,
    pub misfire: String,
    pub catch_up_max: i32,
    pub queue: String,
    pub kind: String,
    pub args: Box<RawValue>,
    pub priority: i16,
    pub max_attempts: Option<i32>,
    pub on_lost: Option<String>,
    pub expires_after_seconds: Option<f64>,
    pub paused_at: Option<Timestamp>,
    #[serde(skip)]
    pub next_at: Option<Timestamp>,
    pub last_at: Option<Timestamp>,
    #[serde(skip)]
    pub version: i32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What was asked of a schedule, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleChange {
    /// It is as was asked.
    Applied,
    /// It was so before.
    AlreadyDone,
    /// Somebody changed it since it was looked at.
    Superseded,
    /// There is none of this name.
    NotFound,
}

/// What one call has made of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Jobs.
    pub jobs: i64,
    /// Ticks that were written down without one.
    pub passed_over: i64,
}

/// A tick that is over.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TickRow {
    /// When it was due.
    pub tick_at: Timestamp,
    /// When a scheduler saw to it.
    pub made_at: Timestamp,
    /// Its job; none: the misfire policy passed over it.
    pub job_id: Option<JobId>,
}

/// What a schedule is to be. Names are checked by whoever fills it in.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct NewSchedule {
    pub name: String,
    pub cron: String,
    pub timezone: String,
    pub misfire: String,
    pub catch_up_max: i32,
    pub queue: String,
    pub kind: String,
    pub args: Box<RawValue>,
    pub priority: i16,
    pub max_attempts: Option<i32>,
    pub on_lost: Option<String>,
    pub expires_after: Option<Duration>,
    pub is_paused: bool,
    /// The first tick from now on.
    pub next_at: Option<Timestamp>,
}

impl NewSchedule {
    /// $1 to $15 of the statements that write it.
    fn params<'a>(
        &'a self,
        tenant: &'a i32,
        args: &'a &'a str,
        expires_after: &'a Option<f64>,
    ) -> [&'a (dyn ToSql + Sync); 15] {
        [
            tenant,
            &self.name,
            &self.cron,
            &self.timezone,
            &self.misfire,
            &self.catch_up_max,
            &self.queue,
            &self.kind,
            args,
            &self.priority,
            &self.max_attempts,
            &self.on_lost,
            expires_after,
            &self.is_paused,
            &self.next_at,
        ]
    }

    fn expires_after_millis(&self) -> Option<f64> {
        self.expires_after.map(|after| millis(after) as f64)
    }

    /// What the audit log says of it.
    fn detail(&self) -> serde_json::Value {
        json!({
            "cron": self.cron, "timezone": self.timezone, "kind": self.kind, "paused": self.is_paused,
        })
    }
}

/// A schedule whose next tick is due.
#[derive(Clone, Debug)]
pub struct DueSchedule {
    /// Its id.
    pub id: i64,
    /// Raised by every change of it.
    pub version: i32,
    /// Its name, for logs.
    pub name: String,
    /// Bytes of the args of each of its jobs.
    pub args_bytes: usize,
    /// The expression.
    pub cron: String,
    /// The zone.
    pub timezone: String,
    /// What becomes of late ticks.
    pub misfire: Misfire,
    /// The tick that is due.
    pub next_at: Timestamp,
    /// The database's clock.
    pub now: Timestamp,
}

macro_rules! schedules {
    ($from:literal) => {
        concat!(
            "select s.name, t.name, s.cron, s.timezone, s.misfire, s.catch_up_max, q.name, k.name,
                s.args::text, s.priority, s.max_attempts, s.on_lost,
                extract(epoch from s.expires_after)::double precision,
                s.paused_at, s.next_at, s.last_at, s.created_at, s.updated_at, s.version
             from ",
            $from,
            " join postroad.tenant t on t.id = s.tenant_id
              join postroad.queue q on q.id = s.queue_id
              join postroad.kind k on k.id = s.kind_id"
        )
    };
}

const LIST: &str = concat!(
    schedules!("postroad.schedule s"),
    " where ($1::int is null or s.tenant_id = $1) and ($2::text is null or s.name = $2)
        and ($3::text is null or (s.name, t.name) > ($3, $5))
      order by s.name, t.name limit $4"
);

const CREATE: &str = "
    insert into postroad.schedule
        (tenant_id, name, cron, timezone, misfire, catch_up_max, queue_id, kind_id, args, priority,
         max_attempts, on_lost, expires_after, paused_at, next_at)
    select $1, $2, $3, $4, $5, $6, q.id, k.id, $9::text::json, $10, $11, $12,
           $13::float8 * interval '1 ms', case when $14 then now() end, $15
    from postroad.queue q, postroad.kind k where q.name = $7 and k.name = $8
    returning id";

/// The version keeps a tick from being made that somebody computed by what the schedule was before,
/// and a change from undoing another one that its maker has not seen.
/// A tick that is due and has not been seen to yet stays due, unless this is about when it ticks.
const REPLACE: &str = "
    update postroad.schedule s
    set cron = $3, timezone = $4, misfire = $5, catch_up_max = $6, queue_id = q.id, kind_id = k.id,
        args = $9::text::json, priority = $10, max_attempts = $11, on_lost = $12,
        expires_after = $13::float8 * interval '1 ms',
        paused_at = case when $14 then coalesce(s.paused_at, now()) end,
        next_at = case when s.cron = $3 and s.timezone = $4 and s.paused_at is null and not $14
                       then s.next_at else $15 end,
        version = s.version + 1, updated_at = now()
    from postroad.queue q, postroad.kind k
    where s.tenant_id = $1 and s.name = $2 and q.name = $7 and k.name = $8 and s.version = $16
    returning s.id";

const DELETE: &str = "
    delete from postroad.schedule where tenant_id = $1 and name = $2 returning id";

const PAUSE: &str = "
    with found as materialized (
        select id from postroad.schedule where tenant_id = $1 and name = $2),
    paused as (
        update postroad.schedule s set paused_at = now(), version = s.version + 1, updated_at = now()
        from found where s.id = found.id and s.paused_at is null
        returning s.id)
    select exists (select from paused), $1::int from found";

/// Ticks of the time in which it was paused are no misfires: it goes on with the first one from now
/// on, which was computed for this version.
const RESUME: &str = "
    update postroad.schedule s
    set paused_at = null, next_at = $3, version = s.version + 1, updated_at = now()
    where s.tenant_id = $1 and s.name = $2 and s.version = $4 and s.paused_at is not null
    returning s.id";

/// A job beside the ticks, due now, whether the schedule is paused or not. What the schedule does not
/// say is what its tenant says.
const RUN: &str = "
    insert into postroad.job
        (id, queue_id, kind_id, tenant_id, args, priority, run_at, expires_at, max_attempts, on_lost,
         traceparent)
    select $3, s.queue_id, s.kind_id, s.tenant_id, s.args, s.priority, now(),
           now() + coalesce(s.expires_after, t.default_expires_after),
           coalesce(s.max_attempts, t.default_max_attempts), s.on_lost, $4
    from postroad.schedule s join postroad.tenant t on t.id = s.tenant_id
    where s.tenant_id = $1 and s.name = $2
    on conflict (id) do nothing
    returning id";

const TICKS: &str = "
    select t.tick_at, t.made_at, t.job_id
    from postroad.schedule_tick t join postroad.schedule s on s.id = t.schedule_id
    where s.tenant_id = $1 and s.name = $2 and ($3::timestamptz is null or t.tick_at < $3)
    order by t.tick_at desc limit $4";

const DUE: &str = "
    select id, version, name, cron, timezone, misfire, catch_up_max, next_at, now(),
           octet_length(args::text)
    from postroad.schedule
    where paused_at is null and next_at <= now() and id <> all($2)
    order by next_at limit $1";

/// Rounded up: whoever wakes then finds it due.
const UNTIL_NEXT: &str = "
    select ceil(extract(epoch from min(next_at) - now()) * 1000)::bigint
    from postroad.schedule where paused_at is null and next_at is not null and id <> all($1)";

/// The ticks of one schedule, whatever number of schedulers has seen them: the row's lock lets one
/// of them in, `next_at` and `version` say that nobody was there before, and the primary key of the
/// ticks stands behind both.
const TICK: &str = "
    with due as materialized (
        select * from postroad.schedule
        where id = $1 and version = $2 and next_at = $3 and paused_at is null
        for no key update skip locked),
    won as (
        insert into postroad.schedule_tick (schedule_id, tick_at, tenant_id, job_id)
        select due.id, u.tick_at, due.tenant_id, u.job_id
        from due, unnest($4::timestamptz[], $5::uuid[]) u(tick_at, job_id)
        on conflict (schedule_id, tick_at) do nothing
        returning tick_at, job_id),
    -- Only a tick that has won its row has a job; one that was passed over has a row alone.
    made as (
        insert into postroad.job
            (id, queue_id, kind_id, tenant_id, args, priority, run_at, expires_at, max_attempts, on_lost)
        select won.job_id, due.queue_id, due.kind_id, due.tenant_id, due.args, due.priority,
               won.tick_at,
               coalesce(won.tick_at + due.expires_after,
                        postroad.default_expiry(won.tick_at, t.default_expires_after)),
               coalesce(due.max_attempts, t.default_max_attempts), due.on_lost
        from won, due join postroad.tenant t on t.id = due.tenant_id
        where won.job_id is not null order by won.job_id
        returning id),
    moved as (
        update postroad.schedule s
        set next_at = $6, last_at = coalesce((select max(tick_at) from won where job_id is not null), s.last_at)
        from due where s.id = due.id
        returning s.id)
    select (select count(*) from made), (select count(*) from won where job_id is null)";

const PRUNE: &str = "
    with old as materialized (
        select schedule_id, tick_at from postroad.schedule_tick
        where made_at < now() - $1 * interval '1 ms' limit $2
        for update skip locked)
    delete from postroad.schedule_tick t using old
    where t.schedule_id = old.schedule_id and t.tick_at = old.tick_at
    returning t.schedule_id";

impl Store {
    /// The database's clock.
    pub async fn now(&self) -> Result<Timestamp, Error> {
        let rows = self.query("reading the clock", "select now()", &[]).await?;
        Ok(rows[0].get(0))
    }

    /// Creates a schedule of this tenant. False: it has one of this name already.
    pub async fn create_schedule(&self, tenant: i32, new: &NewSchedule) -> Result<bool, Error> {
        self.ensure_names(&[&new.queue], &[&new.kind], &[]).await?;
        let (args, expires_after) = (new.args.get(), new.expires_after_millis());
        let change = Change {
            operation: "creating a schedule",
            sql: CREATE,
            params: &new.params(&tenant, &args, &expires_after),
            action: "schedule.create",
            detail: new.detail(),
        };
        match self.change(change, one(Some(tenant), &new.name)).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(error) if error.is_taken() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the schedule of this name, which was looked at in this version.
    pub async fn replace_schedule(
        &self,
        tenant: i32,
        seen: i32,
        new: &NewSchedule,
    ) -> Result<ScheduleChange, Error> {
        self.ensure_names(&[&new.queue], &[&new.kind], &[]).await?;
        let (args, expires_after) = (new.args.get(), new.expires_after_millis());
        let mut params = new.params(&tenant, &args, &expires_after).to_vec();
        params.push(&seen);
        let change = Change {
            operation: "changing a schedule",
            sql: REPLACE,
            params: &params,
            action: "schedule.change",
            detail: new.detail(),
        };
        let rows = self.change(change, one(Some(tenant), &new.name)).await?;
        Ok(match rows.first() {
            Some(_) => ScheduleChange::Applied,
            None => ScheduleChange::Superseded,
        })
    }

    /// Deletes a schedule, and the record of its ticks; their jobs go on. False: there is none.
    pub async fn delete_schedule(&self, tenant: i32, name: &str) -> Result<bool, Error> {
        let change = Change {
            operation: "deleting a schedule",
            sql: DELETE,
            params: &[&tenant, &name],
            action: "schedule.delete",
            detail: json!({}),
        };
        let rows = self.change(change, one(Some(tenant), name)).await?;
        Ok(!rows.is_empty())
    }

    /// Schedules by name and tenant, after this one; or those of this name.
    pub async fn schedules(
        &self,
        tenant: Option<i32>,
        name: Option<&str>,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Vec<ScheduleRow>, Error> {
        let tenant = self.tenant_id().or(tenant);
        let (after, of) = after.unzip();
        let params: [&(dyn ToSql + Sync); 5] = [&tenant, &name, &after, &limit, &of];
        let rows = self.query("reading schedules", LIST, &params).await?;
        Ok(rows.iter().map(schedule).collect())
    }

    /// Pauses a schedule: what is due and has no job yet gets none.
    pub async fn pause_schedule(&self, tenant: i32, name: &str) -> Result<ScheduleChange, Error> {
        let change = Change {
            operation: "pausing a schedule",
            sql: PAUSE,
            params: &[&tenant, &name],
            action: "schedule.pause",
            detail: json!({}),
        };
        let rows = self.change(change, if_so(name)).await?;
        Ok(match rows.first().map(|row| row.get(0)) {
            Some(true) => ScheduleChange::Applied,
            Some(false) => ScheduleChange::AlreadyDone,
            None => ScheduleChange::NotFound,
        })
    }

    /// Resumes a schedule that was looked at in this version, with the first tick from now on.
    pub async fn resume_schedule(
        &self,
        tenant: i32,
        seen: &ScheduleRow,
        next_at: Option<Timestamp>,
    ) -> Result<ScheduleChange, Error> {
        if seen.paused_at.is_none() {
            return Ok(ScheduleChange::AlreadyDone);
        }
        let change = Change {
            operation: "resuming a schedule",
            sql: RESUME,
            params: &[&tenant, &seen.name, &next_at, &seen.version],
            action: "schedule.resume",
            detail: json!({}),
        };
        let rows = self.change(change, one(Some(tenant), &seen.name)).await?;
        Ok(match rows.first() {
            Some(_) => ScheduleChange::Applied,
            None => ScheduleChange::Superseded,
        })
    }

    /// Makes a job of a schedule now, beside its ticks. False: there is no such schedule, or the job
    /// of this id has been made before: whoever has lost the answer may ask again.
    pub async fn run_schedule(
        &self,
        tenant: i32,
        name: &str,
        id: JobId,
        traceparent: Option<&str>,
    ) -> Result<bool, Error> {
        let change = Change {
            operation: "running a schedule",
            sql: RUN,
            params: &[&tenant, &name, id.as_uuid(), &traceparent],
            action: "schedule.run",
            detail: json!({"job": id.to_string()}),
        };
        let targets = one(Some(tenant), name);
        let rows = self.change_unless_finished(change, Some(id), targets);
        Ok(!rows.await?.is_empty())
    }

    /// The newest ticks of a schedule, of those before this one.
    pub async fn schedule_ticks(
        &self,
        tenant: i32,
        name: &str,
        before: Option<Timestamp>,
        limit: i64,
    ) -> Result<Vec<TickRow>, Error> {
        let params: [&(dyn ToSql + Sync); 4] = [&tenant, &name, &before, &limit];
        let rows = self.query("reading ticks", TICKS, &params).await?;
        let tick = |row: &Row| TickRow {
            tick_at: row.get(0),
            made_at: row.get(1),
            job_id: row.get::<_, Option<Uuid>>(2).map(JobId::from),
        };
        Ok(rows.iter().map(tick).collect())
    }

    /// Up to `limit` schedules whose next tick is due, the most overdue first, without these.
    pub async fn due_schedules(
        &self,
        limit: i64,
        without: &[i64],
    ) -> Result<Vec<DueSchedule>, Error> {
        let rows = self
            .query("looking for due schedules", DUE, &[&limit, &without])
            .await?;
        let due = |row: &Row| DueSchedule {
            id: row.get(0),
            version: row.get(1),
            name: row.get(2),
            cron: row.get(3),
            timezone: row.get(4),
            misfire: Misfire::of_name(row.get(5), row.get(6)).unwrap_or(Misfire::RunOnce),
            next_at: row.get(7),
            now: row.get(8),
            args_bytes: usize::try_from(row.get::<_, i32>(9)).unwrap_or(0),
        };
        Ok(rows.iter().map(due).collect())
    }

    /// How long until the next tick of any schedule but these; none if there is none to come.
    pub async fn until_next_tick(&self, without: &[i64]) -> Result<Option<Duration>, Error> {
        let rows = self
            .query("looking for the next tick", UNTIL_NEXT, &[&without])
            .await?;
        Ok(rows[0].get::<_, Option<i64>>(0).map(super::from_millis))
    }

    /// Makes the jobs of a plan, and moves the schedule on. Nothing happens if another scheduler was
    /// there first, or the schedule is not what it was.
    pub async fn tick(&self, due: &DueSchedule, plan: &Plan) -> Result<Ticked, Error> {
        let passed_over = plan.passed_over.iter().map(|tick| (*tick, None));
        let made = plan.ticks.iter().map(|tick| (*tick, Some(Uuid::now_v7())));
        let (ticks, ids): (Vec<Timestamp>, Vec<Option<Uuid>>) = passed_over.chain(made).unzip();
        self.with_connection("making the jobs of a schedule", async |connection| {
            let tx = self.begin(connection).await?;
            let tick = tx.prepare_cached(TICK).await?;
            let rows = tx
                .query(
                    &tick,
                    &[
                        &due.id,
                        &due.version,
                        &due.next_at,
                        &ticks,
                        &ids,
                        &plan.next,
                    ],
                )
                .await?;
            failpoint!("ticker.before_commit");
            tx.commit().await?;
            failpoint!("ticker.committed");
            Ok(Ticked {
                jobs: rows[0].get(0),
                passed_over: rows[0].get(1),
            })
        })
        .await
    }

    /// Forgets up to `limit` ticks that were made longer than `keep` ago.
    pub async fn prune_ticks(&self, keep: Duration, limit: i64) -> Result<usize, Error> {
        let keep = millis(keep) as f64;
        Ok(self
            .query("pruning ticks", PRUNE, &[&keep, &limit])
            .await?
            .len())
    }
}

fn schedule(row: &Row) -> ScheduleRow {
    let args: String = row.get(8);
    ScheduleRow {
        name: row.get(0),
        tenant: row.get(1),
        cron: row.get(2),
        timezone: row.get(3),
        misfire: row.get(4),
        catch_up_max: row.get(5),
        queue: row.get(6),
        kind: row.get(7),
        // What the database took for JSON is JSON.
        args: RawValue::from_string(args).unwrap_or_default(),
        priority: row.get(9),
        max_attempts: row.get(10),
        on_lost: row.get(11),
        expires_after_seconds: row.get(12),
        paused_at: row.get(13),
        next_at: row.get(14),
        last_at: row.get(15),
        created_at: row.get(16),
        updated_at: row.get(17),
        version: row.get(18),
    }
}
