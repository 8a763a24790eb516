//! What the retrier reads and writes: failed jobs, and what was ruled about them.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Error, Fenced, Store, from_millis, millis};
use crate::failpoint;
use crate::job::retry::{FailedAttempt, Verdict};

/// A failed job, as far as its next attempt depends on it.
#[derive(Clone, Copy, Debug)]
pub struct FailedJob {
    /// The job and the fence under which it failed.
    pub job: Fenced,
    /// What the decision needs.
    pub failed: FailedAttempt,
}

/// A decision about a failed job.
#[derive(Clone, Copy, Debug)]
pub struct Ruling {
    /// The job and the fence under which it failed.
    pub job: Fenced,
    /// What is to become of it.
    pub verdict: Verdict,
}

/// Reading takes no locks: two retriers may judge one job, and the first ruling that lands moves
/// the stage, so that the second one finds nothing.
macro_rules! failed {
    ($from:literal) => {
        concat!(
            "select j.id, j.dispatch, j.attempt, coalesce(j.max_attempts, k.max_attempts), j.fatal,
                (extract(epoch from j.retry_after) * 1000)::bigint,
                (extract(epoch from k.backoff_base) * 1000)::bigint,
                (extract(epoch from k.backoff_cap) * 1000)::bigint,
                (extract(epoch from j.expires_at - now()) * 1000)::bigint
            from ",
            $from
        )
    };
}

const FAILED_OF: &str = failed!(
    "unnest($1::uuid[], $2::bigint[]) d(id, dispatch)
     join postroad.job j on j.id = d.id and j.dispatch = d.dispatch and j.stage = 2
     join postroad.kind k on k.id = j.kind_id"
);

const FAILED_LONG_AGO: &str = failed!(
    "postroad.job j join postroad.kind k on k.id = j.kind_id
     where j.stage = 2 and j.ended_at <= now() - $1 * interval '1 ms'
     order by j.ended_at limit $2"
);

/// A provider gets further attempts at the pace of its budget: those that come together, as after an
/// outage, are spread by chance over the time that the budget needs for them, behind what was asked of
/// it before and has not been given yet. Without a number of its own the budget is a tenth of the provider's rate.
///
/// What is of a campaign that is cancelled is not tried again, but goes where the others went: a held job
/// of which its worker says, when the cancel is long over, that it failed. A resume waits for the lock
/// and sees it, or is waited for and lets it be tried.
const RETRY: &str = concat!(
    "
    with ruled as (
        select * from unnest($1::uuid[], $2::bigint[], $3::bigint[]) d(id, dispatch, wait_ms)),
    called_off as materialized (
        select c.id from postroad.campaign c
        where c.id = any(array(
            select j.campaign_id from ruled d join postroad.job j on j.id = d.id
            where j.dispatch = d.dispatch and j.stage = 2 and j.campaign_id is not null))
          and c.state = 'cancelled'
        order by c.id for share),
    asked as materialized (
        select q.provider_id, count(*) as n
        from ruled d
        join postroad.job j on j.id = d.id and j.dispatch = d.dispatch and j.stage = 2
        join postroad.queue q on q.id = j.queue_id
        where q.provider_id is not null
          and (j.campaign_id is null or j.campaign_id not in (select id from called_off))
        group by q.provider_id),
    budget as materialized (
        select v.id, coalesce(v.retries_per_second, greatest(v.rate_per_second / 10, 1)) as per_second,
               v.retry_debt, v.retry_at
        from postroad.provider v
        where v.id = any(array(select provider_id from asked))
          and (v.retries_per_second is not null or v.rate_per_second is not null)
        order by v.id
        for no key update),
    spread as materialized (
        select b.id, b.per_second,
               greatest(b.retry_debt - b.per_second
                   * greatest(extract(epoch from clock_timestamp() - b.retry_at), 0), 0) + a.n as debt, a.n
        from budget b join asked a on a.provider_id = b.id),
    noted as (
        update postroad.provider v set retry_debt = s.debt, retry_at = clock_timestamp()
        from spread s where v.id = s.id),
    gone as (
        delete from postroad.job j using ruled d, called_off c
        where j.id = d.id and j.dispatch = d.dispatch and j.stage = 2 and j.cancel_at is null
          and j.campaign_id = c.id
        returning j.*),
    archived as (
        ",
    archive_from!("gone", "'cancelled'", "'campaign cancelled'", "null", "args"),
    "),
    retried as (
    update postroad.job j
    set stage = 0, fatal = false, retry_after = null, ended_at = null, claimed_at = null,
        claimed_by = null, started_at = null, worker_id = null,
        run_at = now() + d.wait_ms * interval '1 ms'
            + coalesce((s.debt - random() * s.n) / s.per_second, 0) * interval '1 second'
    from ruled d, postroad.queue q left join spread s on s.id = q.provider_id
    where j.id = d.id and j.dispatch = d.dispatch and j.stage = 2 and j.cancel_at is null
      and q.id = j.queue_id
      and (j.campaign_id is null or j.campaign_id not in (select id from called_off))
    returning j.id)
    select id from retried union all select id from archived"
);

const BURY: &str = concat!(
    "
    with gone as (
        delete from postroad.job j
        using unnest($1::uuid[], $2::bigint[], $3::text[]) d(id, dispatch, reason)
        where j.id = d.id and j.dispatch = d.dispatch and j.stage = 2
        returning j.*, d.reason)
    ",
    archive_from!("gone", "'dead'", "reason", "null", "args")
);

const NOTE: &str = "
    insert into postroad.attempt_error (job_id, attempt, code, message)
    select j.id, j.attempt, d.code, d.message
    from unnest($1::uuid[], $2::text[], $3::text[]) d(id, code, message)
    join postroad.job j on j.id = d.id
    where not exists (select from postroad.attempt_error e where e.job_id = d.id and e.code = d.code)";

impl Store {
    /// Those of `jobs` that are still failed under the same fence.
    pub async fn failed_of(&self, jobs: &[Fenced]) -> Result<Vec<FailedJob>, Error> {
        let (ids, dispatches): (Vec<_>, Vec<_>) = jobs
            .iter()
            .map(|job| (*job.id.as_uuid(), job.dispatch))
            .unzip();
        let rows = self
            .query("reading failed jobs", FAILED_OF, &[&ids, &dispatches])
            .await?;
        Ok(rows.iter().map(failed_job).collect())
    }

    /// Up to `limit` jobs that failed at least `age` ago and were not ruled on since.
    pub async fn failed_long_ago(
        &self,
        age: Duration,
        limit: i64,
    ) -> Result<Vec<FailedJob>, Error> {
        let age = millis(age) as f64;
        let rows = self
            .query("sweeping failed jobs", FAILED_LONG_AGO, &[&age, &limit])
            .await?;
        Ok(rows.iter().map(failed_job).collect())
    }

    /// Carries out rulings; says how many still applied.
    pub async fn rule(&self, rulings: &[Ruling]) -> Result<usize, Error> {
        let mut retries = (Vec::new(), Vec::new(), Vec::new());
        let mut burials = (Vec::new(), Vec::new(), Vec::new());
        for Ruling { job, verdict } in rulings {
            match verdict {
                Verdict::RetryAfter(wait) => {
                    retries.0.push(*job.id.as_uuid());
                    retries.1.push(job.dispatch);
                    retries.2.push(millis(*wait));
                }
                Verdict::Dead(reason) => {
                    burials.0.push(*job.id.as_uuid());
                    burials.1.push(job.dispatch);
                    burials.2.push(*reason);
                }
            }
        }
        let mut applied = 0;
        if !retries.0.is_empty() {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&retries.0, &retries.1, &retries.2];
            applied += self
                .query("scheduling retries", RETRY, &params)
                .await?
                .len();
        }
        failpoint!("retrier.between_statements");
        if !burials.0.is_empty() {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&burials.0, &burials.1, &burials.2];
            applied += self.query("burying jobs", BURY, &params).await?.len();
        }
        Ok(applied)
    }

    /// Writes an error beside jobs that were refused before they ran; for each job and code once.
    pub async fn note_errors(
        &self,
        jobs: &[crate::job::JobId],
        code: &'static str,
        message: &str,
    ) -> Result<(), Error> {
        let ids: Vec<_> = jobs.iter().map(|id| *id.as_uuid()).collect();
        let codes = vec![code; jobs.len()];
        let messages = vec![message; jobs.len()];
        self.query("noting errors", NOTE, &[&ids, &codes, &messages])
            .await
            .map(drop)
    }
}

fn failed_job(row: &Row) -> FailedJob {
    FailedJob {
        job: Fenced {
            id: row.get::<_, uuid::Uuid>(0).into(),
            dispatch: row.get(1),
        },
        failed: FailedAttempt {
            attempt: row.get(2),
            max_attempts: row.get(3),
            fatal: row.get(4),
            retry_after: row.get::<_, Option<i64>>(5).map(from_millis),
            backoff_base: from_millis(row.get(6)),
            backoff_cap: from_millis(row.get(7)),
            expires_in: row.get::<_, Option<i64>>(8).map(from_millis),
        },
    }
}
