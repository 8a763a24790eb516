//! Pages of jobs, newest first, at a cost that is bounded whatever is asked for.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Error, Store};
use crate::job::{JobId, JobState};

/// Which jobs to list. Empty fields do not restrict.
#[derive(Clone, Debug, Default)]
pub struct JobQuery {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this kind.
    pub kind: Option<String>,
    /// In this queue.
    pub queue: Option<String>,
    /// Of this tenant; a scoped store sees its own only.
    pub tenant: Option<i32>,
    /// Older than this one.
    pub before: Option<Uuid>,
    /// At most so many.
    pub limit: i64,
}

/// A page, and where the next one begins.
#[derive(Clone, Debug)]
pub struct JobPage {
    /// The jobs, newest first. May be fewer than asked for though there are more.
    pub jobs: Vec<JobView>,
    /// The `before` of the next page; none: this was the last one.
    pub next: Option<Uuid>,
}

/// A job with everything that is known of it.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are those of the public job, in the same words"
)]
pub struct JobView {
    pub id: JobId,
    pub tenant: String,
    pub queue: String,
    pub kind: String,
    pub state: String,
    pub priority: i16,
    pub attempt: i32,
    pub max_attempts: i32,
    pub on_lost: String,
    pub run_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub cancel_requested_at: Option<Timestamp>,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub args: Option<Box<RawValue>>,
    pub result: Option<Box<RawValue>>,
    pub dedup_key: Option<String>,
}

/// Rows that are looked at for one page. What is rare is not on every page, but no page is slow.
const SCAN_MAX: i64 = 800;
/// Rows that are looked at first, for each that is asked for: mostly enough.
const SCAN_FIRST: i64 = 4;

/// A conditions that does not apply is folded away before the plan is made, so each combination
/// gets the index that it needs; `state <> 'completed'` is that of a small one.
const PAGE: &str = "
    with live as (
        select j.id, j.tenant_id, j.kind_id, j.queue_id, null::timestamptz as finished_at,
               postroad.live_state(j.stage, j.started_at) as state
        from postroad.job j
        where $3 and ($1::int is null or j.tenant_id = $1) and ($2::uuid is null or j.id < $2)
          and ($5::smallint[] is null or j.stage = any($5))
        order by j.id desc limit $9),
    done as (
        select a.id, a.tenant_id, a.kind_id, a.queue_id, a.finished_at, a.state
        from postroad.archive a
        where $4 and ($1::int is null or a.tenant_id = $1) and ($2::uuid is null or a.id < $2)
          and (not $6 or a.state <> 'completed')
        order by a.id desc limit $9),
    seen as materialized (
        select * from live union all select * from done order by id desc limit $9),
    page as materialized (
        select s.id, s.finished_at, s.state
        from seen s
        where ($7::text is null or s.state = $7::postroad.job_state)
          and ($8::text is null or s.kind_id = (select id from postroad.kind where name = $8))
          and ($11::text is null or s.queue_id = (select id from postroad.queue where name = $11))
        order by s.id desc limit $10)
    select (select count(*) from seen), (select s.id from seen s order by s.id limit 1), p.id,
           p.finished_at
    from (select 1) one left join page p on true
    order by p.id desc nulls last";

/// The rows of known ids, which are few. When they were finished ($3), where that is known, says
/// which partitions have them.
const VIEWS: &str = "
    select v.id, v.tenant, v.queue, v.kind, v.state::text, v.priority, v.attempt, v.max_attempts,
           v.on_lost, v.run_at, v.expires_at, v.created_at, v.started_at, v.finished_at,
           v.cancel_at, v.reason, last.error, v.args::text, v.result, dedup.key
    from (
        select j.id, t.name as tenant, q.name as queue, k.name as kind,
               postroad.live_state(j.stage, j.started_at) as state, j.priority, j.attempt,
               coalesce(j.max_attempts, k.max_attempts) as max_attempts,
               coalesce(j.on_lost, k.on_lost) as on_lost,
               j.run_at, j.expires_at, j.created_at, j.started_at, null::timestamptz as finished_at,
               j.cancel_at, null::text as reason, j.args, null::text as result
        from postroad.job j
        join postroad.tenant t on t.id = j.tenant_id
        join postroad.queue q on q.id = j.queue_id
        join postroad.kind k on k.id = j.kind_id
        where j.id = any($1) and ($2::int is null or j.tenant_id = $2)
        union all
        select a.id, t.name, q.name, k.name, a.state, a.priority, a.attempt,
               coalesce(a.max_attempts, k.max_attempts), coalesce(a.on_lost, k.on_lost),
               a.run_at, a.expires_at, a.created_at, a.started_at, a.finished_at,
               null, a.reason, a.args, a.result
        from postroad.archive a
        join postroad.tenant t on t.id = a.tenant_id
        join postroad.queue q on q.id = a.queue_id
        join postroad.kind k on k.id = a.kind_id
        where a.id = any($1) and ($2::int is null or a.tenant_id = $2)
          and ($3::timestamptz[] is null or a.finished_at = any($3))) v
    left join lateral (
        select e.code || ': ' || e.message as error from postroad.attempt_error e
        where e.job_id = v.id order by e.at desc limit 1) last on true
    left join lateral (
        select d.key from postroad.dedup d where d.job_id = v.id limit 1) dedup on true
    order by v.id desc";

impl Store {
    /// One page of jobs.
    pub async fn job_page(&self, query: &JobQuery) -> Result<JobPage, Error> {
        let tenant = self.tenant_id().or(query.tenant);
        let stages: Option<&[i16]> = query.state.and_then(|state| match state {
            JobState::Scheduled => Some(&[0, 4][..]),
            JobState::Dispatched | JobState::Running => Some(&[1]),
            JobState::Failed => Some(&[2]),
            JobState::Held => Some(&[3]),
            _ => None,
        });
        let is_final = query.state.map(JobState::is_final);
        let (live, done) = (is_final != Some(true), is_final != Some(false));
        let not_well =
            matches!(query.state, Some(state) if state.is_final() && state != JobState::Completed);
        let state = query.state.map(JobState::as_str);
        let look = async |scan: &i64| {
            let params: [&(dyn ToSql + Sync); 11] = [
                &tenant,
                &query.before,
                &live,
                &done,
                &stages,
                &not_well,
                &state,
                &query.kind,
                scan,
                &query.limit,
                &query.queue,
            ];
            let rows = self.query("listing jobs", PAGE, &params).await?;
            let scanned: i64 = rows[0].get(0);
            let ids: Vec<Uuid> = rows.iter().filter_map(|row| row.get(2)).collect();
            let next: Option<Uuid> = if ids.len() as i64 == query.limit {
                ids.last().copied()
            } else if scanned == *scan {
                rows[0].get(1)
            } else {
                None
            };
            let finished: Vec<Timestamp> = rows.iter().filter_map(|row| row.get(3)).collect();
            Ok::<_, Error>((ids, finished, next))
        };
        let few = SCAN_MAX.min(query.limit * SCAN_FIRST);
        let (mut ids, mut finished, mut next) = look(&few).await?;
        if next.is_some() && (ids.len() as i64) < query.limit && few < SCAN_MAX {
            (ids, finished, next) = look(&SCAN_MAX).await?;
        }
        let mut jobs = self.job_views_of(&ids, tenant, Some(finished)).await?;
        // Whoever has moved since the first statement is somewhere else now.
        let is_missing = |id: &Uuid| !jobs.iter().any(|job| job.id.as_uuid() == id);
        let missing: Vec<Uuid> = ids.iter().copied().filter(is_missing).collect();
        if !missing.is_empty() {
            jobs.extend(self.job_views_of(&missing, tenant, None).await?);
            jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        }
        Ok(JobPage { jobs, next })
    }

    /// These jobs, as far as this store's tenant has them, newest first.
    pub async fn job_views(&self, ids: &[JobId]) -> Result<Vec<JobView>, Error> {
        let ids: Vec<Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
        self.job_views_of(&ids, self.tenant_id(), None).await
    }

    async fn job_views_of(
        &self,
        ids: &[Uuid],
        tenant: Option<i32>,
        finished: Option<Vec<Timestamp>>,
    ) -> Result<Vec<JobView>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let params: [&(dyn ToSql + Sync); 3] = [&ids, &tenant, &finished];
        let rows = self.query("reading jobs", VIEWS, &params).await?;
        Ok(rows.iter().map(view).collect())
    }
}

fn view(row: &Row) -> JobView {
    let json = |column| {
        let text: Option<String> = row.get(column);
        // What the database took for JSON is JSON.
        text.and_then(|text| RawValue::from_string(text).ok())
    };
    JobView {
        id: row.get::<_, Uuid>(0).into(),
        tenant: row.get(1),
        queue: row.get(2),
        kind: row.get(3),
        state: row.get(4),
        priority: row.get(5),
        attempt: row.get(6),
        max_attempts: row.get(7),
        on_lost: row.get(8),
        run_at: row.get(9),
        expires_at: row.get(10),
        created_at: row.get(11),
        started_at: row.get(12),
        finished_at: row.get(13),
        cancel_requested_at: row.get(14),
        reason: row.get(15),
        error: row.get(16),
        args: json(17),
        result: json(18),
        dedup_key: row.get(19),
    }
}
