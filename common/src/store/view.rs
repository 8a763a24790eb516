//! What people look at, and what they decide about held jobs.

use super::{Error, Store};
use crate::job::JobId;

/// Which jobs to list. Empty fields do not restrict.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// With one of these ids.
    pub ids: Option<Vec<uuid::Uuid>>,
    /// After this id: ids of newer jobs are greater.
    pub after: Option<uuid::Uuid>,
    /// At most so many.
    pub limit: i64,
}

/// A job, in words.
#[derive(Clone, Debug, serde::Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are those of the public job, in the same words"
)]
pub struct JobRow {
    pub id: JobId,
    pub tenant: String,
    pub queue: String,
    pub kind: String,
    pub state: String,
    pub priority: i16,
    pub attempt: i32,
    pub max_attempts: i32,
    pub on_lost: String,
    pub run_at: jiff::Timestamp,
    pub created_at: jiff::Timestamp,
    pub expires_at: Option<jiff::Timestamp>,
    pub finished_at: Option<jiff::Timestamp>,
    pub reason: Option<String>,
    pub error: Option<String>,
}

/// How many jobs are on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// Committed to the pipe and not started.
    pub dispatched: i64,
    /// Running.
    pub running: i64,
    /// Failed and not yet ruled on.
    pub failed: i64,
    /// Waiting for a decision.
    pub held: i64,
}

/// What a person or a reconciliation decides about a held job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It did take effect.
    Completed,
    /// It did not, or may do so again: run it once more.
    Retry,
    /// Give up.
    Dead,
}

impl Resolution {
    /// Its name in the API and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retry => "retry",
            Self::Dead => "dead",
        }
    }
}

const JOBS: &str = "
    select v.id, v.tenant, v.queue, v.kind, v.state::text, v.priority, v.attempt, v.max_attempts,
           v.on_lost, v.run_at, v.created_at, v.expires_at, v.finished_at, v.reason,
           (select e.code || ': ' || e.message from postroad.attempt_error e
            where e.job_id = v.id order by e.at desc limit 1)
    from postroad.jobs v
    where ($1::text is null or v.state::text = $1)
      and ($2::text is null or v.kind = $2)
      and ($3::text is null or v.queue = $3)
      and ($4::text is null or v.tenant = $4)
      and ($5::uuid[] is null or v.id = any($5))
      and ($6::uuid is null or v.id > $6)
    order by v.id limit $7";

/// Each count is the range of a small partial index.
const CENSUS: &str = "
    select count(*) filter (where started_at is null),
           count(*) filter (where started_at is not null),
           (select count(*) from postroad.job where stage = 2),
           (select count(*) from postroad.job where stage = 3)
    from postroad.job where stage = 1";

/// Three probes of partial indexes, whatever the number of jobs.
const UNFINISHED: &str = "
    select exists (select from postroad.job where stage = 0)
        or exists (select from postroad.job where stage = 1)
        or exists (select from postroad.job where stage = 2)";

impl Store {
    /// Lists jobs, oldest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, Error> {
        let JobFilter {
            state,
            kind,
            queue,
            tenant,
            ids,
            after,
            limit,
        } = filter;
        let rows = self
            .query(
                "listing jobs",
                JOBS,
                &[state, kind, queue, tenant, ids, after, limit],
            )
            .await?;
        Ok(rows.iter().map(job_row).collect())
    }

    /// Counts the jobs that are on their way.
    pub async fn census(&self) -> Result<Census, Error> {
        let rows = self.query("counting jobs", CENSUS, &[]).await?;
        let [dispatched, running, failed, held] = [0, 1, 2, 3].map(|n| rows[0].get(n));
        Ok(Census {
            dispatched,
            running,
            failed,
            held,
        })
    }

    /// Whether any job is on its way, held ones aside.
    pub async fn has_unfinished(&self) -> Result<bool, Error> {
        Ok(self
            .query("looking for unfinished jobs", UNFINISHED, &[])
            .await?[0]
            .get(0))
    }
}

fn job_row(row: &tokio_postgres::Row) -> JobRow {
    JobRow {
        id: row.get::<_, uuid::Uuid>(0).into(),
        tenant: row.get(1),
        queue: row.get(2),
        kind: row.get(3),
        state: row.get(4),
        priority: row.get(5),
        attempt: row.get(6),
        max_attempts: row.get(7),
        on_lost: row.get(8),
        run_at: row.get(9),
        created_at: row.get(10),
        expires_at: row.get(11),
        finished_at: row.get(12),
        reason: row.get(13),
        error: row.get(14),
    }
}
