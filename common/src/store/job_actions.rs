//! What people do to single jobs: call them off, run them again, or decide about held ones.

use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{self, Change};
use super::{Error, Resolution, Store};
use crate::job::JobId;

/// What came of asking for a job to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled. A message of it that is still about will be refused by the gate.
    Done,
    /// It runs: its worker is told with its next heartbeat.
    Asked,
    /// It cannot be: it is held, finished, or not there.
    Not,
}

/// What came of asking for a job to be run again, or at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is due now.
    Done,
    /// It cannot be: it is under way, held, completed, or not there.
    Not,
}

/// A job that runs is only asked about: who takes its row away would not know what it did.
const CANCEL: &str = concat!(
    "
    with asked as (
        update postroad.job j set cancel_at = coalesce(j.cancel_at, now())
        where j.id = any($1) and ($2::int is null or j.tenant_id = $2)
          and j.stage = 1 and j.started_at is not null
        returning j.id, j.tenant_id, j.cancel_at = now() as is_new),
    gone as (
        delete from postroad.job j
        where j.id = any($1) and ($2::int is null or j.tenant_id = $2)
          and (j.stage in (0, 2, 4) or (j.stage = 1 and j.started_at is null))
        returning j.*),
    archived as (
        ",
    archive_from!("gone", "'cancelled'", "'cancelled'", "null", "args"),
    ")
    select id, true, tenant_id, true from archived
     union all select id, false, tenant_id, is_new from asked"
);

const REVIVE: &str = concat!(
    "
    with back as (
        delete from postroad.archive a
        where a.id = any($1) and ($2::int is null or a.tenant_id = $2)
          and a.state in ('dead', 'cancelled', 'expired')
        returning a.*)
    ",
    revive_from!("back")
);

/// What a stop has set aside is due at once when the stop is lifted. Whether its recipient may be reached
/// now is looked at anew.
const HURRY: &str = "
    update postroad.job j
    set stage = case j.stage when 4 then 4 else 0 end, fatal = false, retry_after = null,
        ended_at = null, claimed_at = null, claimed_by = null, started_at = null, worker_id = null,
        run_at = least(j.run_at, now()), closes_at = case when j.zone is not null then now() end
    where j.id = any($1) and ($2::int is null or j.tenant_id = $2)
      and j.stage in (0, 2, 4) and j.cancel_at is null
    returning j.id, j.tenant_id";

const RESOLVE_RETRY: &str = "
    update postroad.job
    set stage = 0, ended_at = null, claimed_at = null, claimed_by = null, started_at = null,
        worker_id = null, run_at = now(), cancel_at = null,
        closes_at = case when zone is not null then now() end
    where id = any($1) and stage = 3 and ($2::int is null or tenant_id = $2)
    returning id, tenant_id";

const RESOLVE_FINAL: &str = concat!(
    "
    with gone as (
        delete from postroad.job
        where id = any($1) and stage = 3 and ($2::int is null or tenant_id = $2)
        returning *)
    ",
    archive_from!(
        "gone",
        "$3::text::postroad.job_state",
        "'resolved'",
        "null",
        "case when $3 = 'dead' then args end"
    )
);

/// Those that were to be cancelled and are back where nobody runs them.
const FINISH_CANCELLING: &str = concat!(
    "
    with asked as materialized (
        select j.id from postroad.job j
        where j.cancel_at is not null and j.stage in (0, 2, 4)
        limit $1 for update skip locked),
    gone as (
        delete from postroad.job j using asked where j.id = asked.id returning j.*)
    ",
    archive_from!(
        "gone",
        "'cancelled'",
        "'cancelled while it ran'",
        "null",
        "args"
    )
);

const CANCELLED_OF: &str = "
    select id, dispatch from postroad.job
    where cancel_at is not null and stage = 1 and worker_id = $1";

impl Store {
    /// Cancels jobs of this store's tenant; what came of it, in the order given.
    pub async fn cancel(&self, ids: &[JobId]) -> Result<Vec<Cancelled>, Error> {
        let asked: Vec<Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
        let change = Change {
            operation: "cancelling jobs",
            sql: CANCEL,
            params: &[&asked, &self.tenant_id()],
            action: "job.cancel",
            detail: json!({}),
        };
        let targets = |rows: &[Row]| {
            let new = rows.iter().filter(|row| row.get(3));
            new.map(|row| audit::job(row, 0, 2)).collect()
        };
        let rows = self.change(change, targets).await?;
        let of = |id: &Uuid| {
            let row = rows.iter().find(|row| row.get::<_, Uuid>(0) == *id);
            match row.map(|row| row.get(1)) {
                Some(true) => Cancelled::Done,
                Some(false) => Cancelled::Asked,
                None => Cancelled::Not,
            }
        };
        Ok(asked.iter().map(of).collect())
    }

    /// Runs jobs of this store's tenant again: dead, cancelled and expired ones; and at once those
    /// that wait for their time or for their next attempt. What came of it, in the order given.
    pub async fn retry(&self, ids: &[JobId]) -> Result<Vec<Retried>, Error> {
        let asked: Vec<Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
        let params: &[&(dyn ToSql + Sync)] = &[&asked, &self.tenant_id()];
        let mut done: Vec<Uuid> = Vec::new();
        for (operation, sql) in [("hurrying jobs", HURRY), ("reviving jobs", REVIVE)] {
            let change = Change {
                operation,
                sql,
                params,
                action: "job.retry",
                detail: json!({}),
            };
            let rows = self.change(change, audit::jobs(0, 1)).await?;
            done.extend(rows.iter().map(|row| row.get::<_, Uuid>(0)));
        }
        let of = |id: &Uuid| match done.contains(id) {
            true => Retried::Done,
            false => Retried::Not,
        };
        Ok(asked.iter().map(of).collect())
    }

    /// Decides about held jobs. Answers with the ids that were held and are not any more.
    pub async fn resolve(&self, ids: &[JobId], to: Resolution) -> Result<Vec<JobId>, Error> {
        let ids: Vec<Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
        let (tenant, verdict) = (self.tenant_id(), to.as_str());
        let again: &[&(dyn ToSql + Sync)] = &[&ids, &tenant];
        let finally: &[&(dyn ToSql + Sync)] = &[&ids, &tenant, &verdict];
        let (sql, params, targets) = match to {
            Resolution::Retry => (RESOLVE_RETRY, again, audit::jobs(0, 1)),
            Resolution::Completed | Resolution::Dead => (RESOLVE_FINAL, finally, audit::jobs(0, 2)),
        };
        let change = Change {
            operation: "resolving held jobs",
            sql,
            params,
            action: "job.resolve",
            detail: json!({"verdict": verdict}),
        };
        let rows = self.change(change, targets).await?;
        Ok(rows
            .iter()
            .map(|row| row.get::<_, Uuid>(0).into())
            .collect())
    }

    /// Cancels up to `limit` jobs that were asked to be while they ran and do not run any more.
    pub async fn finish_cancelling(&self, limit: i64) -> Result<usize, Error> {
        Ok(self
            .query("cancelling jobs that ran", FINISH_CANCELLING, &[&limit])
            .await?
            .len())
    }

    /// The jobs that this worker runs and that are to be cancelled.
    pub async fn to_cancel(&self, worker: super::ProcessId) -> Result<Vec<super::Fenced>, Error> {
        let rows = self
            .query("looking for cancelled jobs", CANCELLED_OF, &[&worker.0])
            .await?;
        let fenced = |row: &Row| super::Fenced {
            id: row.get::<_, Uuid>(0).into(),
            dispatch: row.get(1),
        };
        Ok(rows.iter().map(fenced).collect())
    }
}
