//! Jobs come in: thousands of rows a statement, with dedup.

use tokio_postgres::types::ToSql;

use super::{Error, Store, millis};
use crate::job::{DEDUP_FOR, JobId, NewJob, RunAt};

/// What became of one job of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The job that now stands for it: itself, or the first one with its dedup key.
    pub id: JobId,
    /// Whether this call inserted it. False: it was there before, by its id or its dedup key.
    pub is_new: bool,
}

/// A name that is new gets its row first; the batch statement below then finds it.
const ENSURE_NAMES: &str = "
    with queues as (
        insert into postroad.queue (name)
        select distinct n from unnest($1::text[]) n
        where not exists (select from postroad.queue q where q.name = n)
        order by n
        on conflict (name) do nothing),
    kinds as (
        insert into postroad.kind (name)
        select distinct n from unnest($2::text[]) n
        where not exists (select from postroad.kind k where k.name = n)
        order by n
        on conflict (name) do nothing)
    insert into postroad.tenant (name)
    select distinct n from unnest($3::text[]) n
    where not exists (select from postroad.tenant t where t.name = n)
    order by n
    on conflict (name) do nothing";

/// Expired keys of a batch ($1 tenants, $2 kinds, $3 keys), locked in key order. In a statement of
/// its own: one that waits for a lock does not see the job for which the key is kept by now.
const LOCK_EXPIRED_KEYS: &str = "
    select from postroad.dedup d
    join postroad.tenant t on t.id = d.tenant_id
    join postroad.kind k on k.id = d.kind_id
    join unnest($1::text[], $2::text[], $3::text[]) u(tenant, kind, key)
      on u.tenant = t.name and u.kind = k.name and u.key = d.key
    where d.expires_at < now()
    order by d.tenant_id, d.kind_id, d.key
    for no key update of d";

/// Frees those of them whose job is finished.
const FREE_EXPIRED_KEYS: &str = "
    delete from postroad.dedup d
    using postroad.tenant t, postroad.kind k,
          unnest($1::text[], $2::text[], $3::text[]) u(tenant, kind, key)
    where t.id = d.tenant_id and k.id = d.kind_id
      and u.tenant = t.name and u.kind = k.name and u.key = d.key
      and d.expires_at < now() and not exists (select from postroad.job j where j.id = d.job_id)";

/// Answers one row per input, in input order. `job_id` is null where the dedup key was taken by a
/// transaction that committed after this statement began: [`FIRST_JOB`] then finds it.
///
/// A name that is missing after all fails the insert, rather than dropping its job.
///
/// Keys are inserted in key order, so that two batches with the same keys cannot deadlock.
const INSERT: &str = "
    with input as materialized (
        select u.*, q.id as queue_id, k.id as kind_id, t.id as tenant_id,
               coalesce(u.run_at, now() + u.delay_ms * interval '1 ms') as due
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[],
                    $7::timestamptz[], $8::bigint[], $9::timestamptz[], $10::int[], $11::text[],
                    $12::text[], $13::text[])
             with ordinality as u(id, queue, kind, tenant, args, priority, run_at, delay_ms,
                                  expires_at, max_attempts, on_lost, dedup_key, traceparent, n)
        left join postroad.queue q on q.name = u.queue
        left join postroad.kind k on k.name = u.kind
        left join postroad.tenant t on t.name = u.tenant),
    won as (
        insert into postroad.dedup (tenant_id, kind_id, key, job_id, expires_at)
        select distinct on (tenant_id, kind_id, dedup_key)
               tenant_id, kind_id, dedup_key, id,
               greatest(due, now()) + $14 * interval '1 ms'
        from input where dedup_key is not null
        order by tenant_id, kind_id, dedup_key, n
        on conflict (tenant_id, kind_id, key) do nothing
        returning tenant_id, kind_id, key, job_id),
    inserted as (
        insert into postroad.job (id, queue_id, kind_id, tenant_id, args, priority, run_at,
                                  expires_at, max_attempts, on_lost, traceparent)
        select id, queue_id, kind_id, tenant_id, args::json, priority, due,
               expires_at, max_attempts, on_lost, traceparent
        from input
        where (dedup_key is null or id in (select job_id from won))
          and not ($15 and exists (select from postroad.archive a where a.id = input.id))
        order by id
        on conflict (id) do nothing
        returning id)
    select coalesce(won.job_id, before.job_id,
                    case when input.dedup_key is null then input.id end),
           inserted.id is not null
    from input
    left join won on won.tenant_id = input.tenant_id and won.kind_id = input.kind_id
                 and won.key = input.dedup_key
    left join postroad.dedup before on before.tenant_id = input.tenant_id
                 and before.kind_id = input.kind_id and before.key = input.dedup_key
    left join inserted on inserted.id = input.id
    order by input.n";

const FIRST_JOB: &str = "
    select d.job_id
    from postroad.dedup d
    join postroad.tenant t on t.id = d.tenant_id
    join postroad.kind k on k.id = d.kind_id
    where t.name = $1 and k.name = $2 and d.key = $3";

impl Store {
    /// Enqueues a batch in one transaction: all of it is accepted, or none.
    ///
    /// `is_resend` says that this very batch may have been committed before by a call whose answer
    /// was lost; jobs that have even finished since are then not run again.
    pub async fn enqueue(&self, jobs: &[NewJob], is_resend: bool) -> Result<Vec<Enqueued>, Error> {
        if let Some((index, source)) = jobs
            .iter()
            .enumerate()
            .find_map(|(n, job)| job.check().err().map(|e| (n, e)))
        {
            return Err(Error::InvalidJob { index, source });
        }
        let queues = column(jobs, |job| job.queue.as_str());
        let kinds = column(jobs, |job| job.kind.as_str());
        let tenants = column(jobs, |job| job.tenant.as_str());
        self.query("adding names", ENSURE_NAMES, &[&queues, &kinds, &tenants])
            .await?;

        let keys = column(jobs, |job| job.dedup_key.as_deref());
        let rows = self
            .with_connection("enqueueing jobs", async |connection| {
                let tx = connection.transaction().await?;
                if keys.iter().any(Option::is_some) {
                    for sql in [LOCK_EXPIRED_KEYS, FREE_EXPIRED_KEYS] {
                        let statement = tx.prepare_cached(sql).await?;
                        tx.execute(&statement, &[&tenants, &kinds, &keys]).await?;
                    }
                }
                let insert = tx.prepare_cached(INSERT).await?;
                let rows = tx
                    .query(
                        &insert,
                        &[
                            &column(jobs, |job| *job.id.as_uuid()),
                            &queues,
                            &kinds,
                            &tenants,
                            &column(jobs, |job| job.args.get()),
                            &column(jobs, |job| job.priority),
                            &column(jobs, |job| match job.run_at {
                                RunAt::At(at) => Some(at),
                                RunAt::Now | RunAt::After(_) => None,
                            }),
                            &column(jobs, |job| match job.run_at {
                                RunAt::After(wait) => millis(wait),
                                RunAt::Now | RunAt::At(_) => 0,
                            }),
                            &column(jobs, |job| job.expires_at),
                            &column(jobs, |job| job.max_attempts),
                            &column(jobs, |job| job.on_lost.map(|on_lost| on_lost.as_str())),
                            &keys,
                            &column(jobs, |job| job.traceparent.as_deref()),
                            &(millis(DEDUP_FOR) as f64),
                            &is_resend,
                        ],
                    )
                    .await?;
                tx.commit().await?;
                Ok(rows)
            })
            .await?;
        let mut enqueued = Vec::with_capacity(jobs.len());
        for (job, row) in jobs.iter().zip(&rows) {
            enqueued.push(match row.get::<_, Option<uuid::Uuid>>(0) {
                Some(id) => Enqueued {
                    id: id.into(),
                    is_new: row.get(1),
                },
                None => self.first_job(job).await?,
            });
        }
        Ok(enqueued)
    }

    /// The job that had the key first; or this one after all, if the key was pruned meanwhile.
    async fn first_job(&self, job: &NewJob) -> Result<Enqueued, Error> {
        let (tenant, kind) = (job.tenant.as_str(), job.kind.as_str());
        let params: [&(dyn ToSql + Sync); 3] = [&tenant, &kind, &job.dedup_key];
        let rows = self
            .query("finding the first job", FIRST_JOB, &params)
            .await?;
        if let Some(row) = rows.first() {
            return Ok(Enqueued {
                id: row.get::<_, uuid::Uuid>(0).into(),
                is_new: false,
            });
        }
        let again = Box::pin(self.enqueue(std::slice::from_ref(job), true)).await?;
        Ok(again[0])
    }
}

fn column<'a, T>(jobs: &'a [NewJob], field: impl Fn(&'a NewJob) -> T) -> Vec<T> {
    jobs.iter().map(field).collect()
}
