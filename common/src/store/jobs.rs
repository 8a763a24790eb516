//! Jobs come in: thousands of rows a statement, with dedup.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Error, Store, millis};
use crate::job::{DEDUP_FOR, JobId, NewJob, RunAt};

/// A statement and its parameters.
type Statement<'a> = (&'static str, &'a [&'a (dyn ToSql + Sync)]);

/// What became of one job of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The job that now stands for it: itself, or the first one with its dedup key.
    pub id: JobId,
    /// Whether this call inserted it. False: it was there before, by its id or its dedup key.
    pub is_new: bool,
    /// Whether the job that stands for it was asked for in the same words, as far as is known.
    pub is_same: bool,
    /// What the database decided about a new job.
    pub inserted: Option<Inserted>,
}

/// What the database decided about a new job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// When it is due.
    pub run_at: jiff::Timestamp,
    /// When it was accepted.
    pub created_at: jiff::Timestamp,
    /// Its priority, its tenant's default included.
    pub priority: i16,
    /// When it is pointless, its tenant's default included.
    pub expires_at: Option<jiff::Timestamp>,
    /// Attempts before it is dead: its own, its tenant's default, or its kind's.
    pub max_attempts: i32,
    /// Whether its kind is held when its worker is lost.
    pub kind_holds: bool,
}

/// A name that is new gets its row first; the batch statement below then finds it.
const ENSURE_NAMES: &str = "select postroad.ensure_names($1, $2, $3, $4)";

/// Whoever may not be trusted with any number of queues and kinds may add to so many.
const NAMES_MAX: i32 = 1000;

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

/// Jobs without dedup keys; answers a row for each that was not there. Every name of a batch is
/// looked up once: $2 to $4 are those of queues, kinds and tenants, and $5 to $7 say which of them,
/// from 1, each job has. What a job does not say is what its tenant's row says, as it is now.
///
/// A name that is missing after all fails the insert, rather than dropping its job.
const INSERT: &str = "
    with tenants as materialized (
        select array_agg(t.id order by n) as ids,
               array_agg(t.default_priority order by n) as priorities,
               array_agg(t.default_max_attempts order by n) as max_attempts,
               array_agg(t.default_expires_after order by n) as expires_after
        from unnest($4::text[]) with ordinality as one(name, n)
        left join postroad.tenant t on t.name = one.name),
    inserted as (
        insert into postroad.job (id, queue_id, kind_id, tenant_id, args, priority, run_at,
                                  expires_at, max_attempts, on_lost, traceparent, coalesce_key)
        select u.id,
               (array(select q.id from unnest($2::text[]) with ordinality as one(name, n)
                      left join postroad.queue q on q.name = one.name order by n))[u.queue],
               (array(select k.id from unnest($3::text[]) with ordinality as one(name, n)
                      left join postroad.kind k on k.name = one.name order by n))[u.kind],
               tenants.ids[u.tenant], u.args::json,
               coalesce(u.priority, tenants.priorities[u.tenant], 1), at.due,
               coalesce(u.expires_at,
                        postroad.default_expiry(at.due, tenants.expires_after[u.tenant])),
               coalesce(u.max_attempts, tenants.max_attempts[u.tenant]), u.on_lost, u.traceparent,
               u.coalesce_key
        from tenants,
             unnest($1::uuid[], $5::int[], $6::int[], $7::int[], $8::text[], $9::smallint[],
                    $10::timestamptz[], $11::bigint[], $12::timestamptz[], $13::int[],
                    $14::text[], $15::text[], $17::text[])
             as u(id, queue, kind, tenant, args, priority, run_at, delay_ms, expires_at,
                  max_attempts, on_lost, traceparent, coalesce_key),
             lateral (select coalesce(u.run_at, now() + u.delay_ms * interval '1 ms')) as at(due)
        where not ($16 and postroad.is_archived(u.id))
        order by u.id
        on conflict (id) do nothing
        returning id, kind_id, run_at, created_at, priority, expires_at, max_attempts)
    select inserted.id, inserted.run_at, inserted.created_at, inserted.priority,
           inserted.expires_at, coalesce(inserted.max_attempts, k.max_attempts), k.on_lost = 'hold'
    from inserted
    join postroad.kind k on k.id = inserted.kind_id";

/// Answers one row per input, in input order. `job_id` is null where the dedup key was taken by a
/// transaction that committed after this statement began: [`FIRST_JOB`] then finds it.
///
/// A name that is missing after all fails the insert, rather than dropping its job.
///
/// Keys are inserted in key order, so that two batches with the same keys cannot deadlock.
const INSERT_WITH_KEYS: &str = "
    with input as materialized (
        select u.*, q.id as queue_id, k.id as kind_id, t.id as tenant_id,
               k.max_attempts as kind_max_attempts, k.on_lost = 'hold' as kind_holds,
               t.default_priority, t.default_max_attempts, t.default_expires_after,
               coalesce(u.run_at, now() + u.delay_ms * interval '1 ms') as due
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[],
                    $7::timestamptz[], $8::bigint[], $9::timestamptz[], $10::int[], $11::text[],
                    $12::text[], $13::text[], $16::bytea[], $17::text[])
             with ordinality as u(id, queue, kind, tenant, args, priority, run_at, delay_ms,
                                  expires_at, max_attempts, on_lost, dedup_key, traceparent,
                                  digest, coalesce_key, n)
        left join postroad.queue q on q.name = u.queue
        left join postroad.kind k on k.name = u.kind
        left join postroad.tenant t on t.name = u.tenant),
    won as (
        insert into postroad.dedup (tenant_id, kind_id, key, job_id, expires_at, digest)
        select distinct on (tenant_id, kind_id, dedup_key)
               tenant_id, kind_id, dedup_key, id,
               greatest(due, now()) + $14 * interval '1 ms', digest
        from input where dedup_key is not null
        order by tenant_id, kind_id, dedup_key, n
        on conflict (tenant_id, kind_id, key) do nothing
        returning tenant_id, kind_id, key, job_id, digest),
    inserted as (
        insert into postroad.job (id, queue_id, kind_id, tenant_id, args, priority, run_at,
                                  expires_at, max_attempts, on_lost, traceparent, coalesce_key)
        select id, queue_id, kind_id, tenant_id, args::json,
               coalesce(priority, default_priority, 1), due,
               coalesce(expires_at, postroad.default_expiry(due, default_expires_after)),
               coalesce(max_attempts, default_max_attempts), on_lost, traceparent, coalesce_key
        from input
        where (dedup_key is null or id in (select job_id from won))
          and not ($15 and postroad.is_archived(input.id))
        order by id
        on conflict (id) do nothing
        returning id, run_at, created_at, priority, expires_at, max_attempts)
    select coalesce(won.job_id, before.job_id,
                    case when input.dedup_key is null then input.id end),
           inserted.id is not null and coalesce(won.job_id, before.job_id, input.id) = input.id,
           coalesce(won.digest, before.digest, input.digest) is not distinct from input.digest,
           inserted.run_at, inserted.created_at, inserted.priority, inserted.expires_at,
           coalesce(inserted.max_attempts, input.kind_max_attempts), input.kind_holds, inserted.id
    from input
    left join won on won.tenant_id = input.tenant_id and won.kind_id = input.kind_id
                 and won.key = input.dedup_key
    left join postroad.dedup before on before.tenant_id = input.tenant_id
                 and before.kind_id = input.kind_id and before.key = input.dedup_key
    left join inserted on inserted.id = input.id
    order by input.n";

/// Whether one of these ids is a finished job's.
const IS_ANY_ARCHIVED: &str = "
    select exists (select from unnest($1::uuid[]) u(id) where postroad.is_archived(u.id))";

const FIRST_JOB: &str = "
    select d.job_id, coalesce(d.digest, $4) is not distinct from $4
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
        let queues = Distinct::of(jobs, |job| job.queue.as_str());
        let kinds = Distinct::of(jobs, |job| job.kind.as_str());
        let tenants = Distinct::of(jobs, |job| job.tenant.as_str());
        self.ensure_names(&queues.names, &kinds.names, &tenants.names)
            .await?;
        match jobs.iter().any(|job| job.dedup_key.is_some()) {
            true => self.insert_with_keys(jobs, is_resend).await,
            false => {
                self.insert(jobs, is_resend, &queues, &kinds, &tenants)
                    .await
            }
        }
    }

    /// Jobs without dedup keys: one statement, one round trip.
    async fn insert(
        &self,
        jobs: &[NewJob],
        is_resend: bool,
        queues: &Distinct<'_>,
        kinds: &Distinct<'_>,
        tenants: &Distinct<'_>,
    ) -> Result<Vec<Enqueued>, Error> {
        let fields = Fields::of(jobs);
        let params: [&(dyn ToSql + Sync); 17] = [
            &fields.ids,
            &queues.names,
            &kinds.names,
            &tenants.names,
            &queues.numbers,
            &kinds.numbers,
            &tenants.numbers,
            &fields.args,
            &fields.priorities,
            &fields.run_ats,
            &fields.delays_ms,
            &fields.expires_ats,
            &fields.max_attempts,
            &fields.on_lost,
            &fields.traceparents,
            &is_resend,
            &fields.coalesce_keys,
        ];
        let rows = match is_resend {
            false => self.query("enqueueing jobs", INSERT, &params).await?,
            true => {
                let inserted = |row: &Row| Some(row.get(0));
                self.insert_unless_finished(&[], (INSERT, &params), inserted)
                    .await?
            }
        };
        let inserted = |row: &Row| (row.get::<_, Uuid>(0), inserted_of(row, 1));
        let inserted: HashMap<_, _> = rows.iter().map(inserted).collect();
        let enqueued = |job: &NewJob| {
            let inserted = inserted.get(job.id.as_uuid()).copied();
            Enqueued {
                id: job.id,
                is_new: inserted.is_some(),
                is_same: true,
                inserted,
            }
        };
        Ok(jobs.iter().map(enqueued).collect())
    }

    async fn insert_with_keys(
        &self,
        jobs: &[NewJob],
        is_resend: bool,
    ) -> Result<Vec<Enqueued>, Error> {
        let queues = column(jobs, |job| job.queue.as_str());
        let kinds = column(jobs, |job| job.kind.as_str());
        let tenants = column(jobs, |job| job.tenant.as_str());
        let keys = column(jobs, |job| job.dedup_key.as_deref());
        let digests = column(jobs, digest);
        let fields = Fields::of(jobs);
        let params: [&(dyn ToSql + Sync); 17] = [
            &fields.ids,
            &queues,
            &kinds,
            &tenants,
            &fields.args,
            &fields.priorities,
            &fields.run_ats,
            &fields.delays_ms,
            &fields.expires_ats,
            &fields.max_attempts,
            &fields.on_lost,
            &keys,
            &fields.traceparents,
            &(millis(DEDUP_FOR) as f64),
            &is_resend,
            &digests,
            &fields.coalesce_keys,
        ];
        let of_keys: [&(dyn ToSql + Sync); 3] = [&tenants, &kinds, &keys];
        let before = [
            (LOCK_EXPIRED_KEYS, &of_keys[..]),
            (FREE_EXPIRED_KEYS, &of_keys),
        ];
        // What is sent for the first time is not finished.
        let inserted = if is_resend {
            |row: &Row| row.get(9)
        } else {
            |_: &Row| None
        };
        let rows = self
            .insert_unless_finished(&before, (INSERT_WITH_KEYS, &params), inserted)
            .await?;
        let mut enqueued = Vec::with_capacity(jobs.len());
        for (job, row) in jobs.iter().zip(&rows) {
            enqueued.push(match row.get::<_, Option<Uuid>>(0) {
                Some(id) => {
                    let is_new = row.get(1);
                    Enqueued {
                        id: id.into(),
                        is_new,
                        is_same: row.get(2),
                        inserted: is_new.then(|| inserted_of(row, 3)),
                    }
                }
                None => self.first_job(job).await?,
            });
        }
        Ok(enqueued)
    }

    /// Inserts in one transaction, and again if it has inserted a job that is finished.
    ///
    /// A statement sees the archive as it was when it began, and the index of the live jobs as it is
    /// now. A job that was sent before and finishes between the two is in neither; what was inserted
    /// for it is taken back before anybody has seen it, and the next try sees the archive with it.
    async fn insert_unless_finished(
        &self,
        before: &[Statement<'_>],
        (insert, params): Statement<'_>,
        inserted: fn(&Row) -> Option<Uuid>,
    ) -> Result<Vec<Row>, Error> {
        self.with_connection("enqueueing jobs", async |connection| {
            loop {
                let tx = self.begin(connection).await?;
                for (sql, params) in before {
                    let statement = tx.prepare_cached(sql).await?;
                    tx.execute(&statement, params).await?;
                }
                let statement = tx.prepare_cached(insert).await?;
                let rows = tx.query(&statement, params).await?;
                let ids: Vec<Uuid> = rows.iter().filter_map(inserted).collect();
                if is_any_finished(&tx, &ids).await? {
                    tx.rollback().await?;
                    continue;
                }
                tx.commit().await?;
                return Ok(rows);
            }
        })
        .await
    }

    /// Adds the names that are new. What has been there once stays.
    pub(super) async fn ensure_names(
        &self,
        queues: &[&str],
        kinds: &[&str],
        tenants: &[&str],
    ) -> Result<(), Error> {
        // Within a scope the tenant is there already, and nobody may add one.
        let tenants = if self.scope.is_some() { &[] } else { tenants };
        let all = [("queue", queues), ("kind", kinds), ("tenant", tenants)];
        if all
            .iter()
            .all(|(what, names)| self.names.are_there(what, names))
        {
            return Ok(());
        }
        let most = self.scope.is_some().then_some(NAMES_MAX);
        let params: [&(dyn ToSql + Sync); 4] = [&queues, &kinds, &tenants, &most];
        self.query("adding names", ENSURE_NAMES, &params).await?;
        for (what, names) in all {
            self.names.note_there(what, names);
        }
        Ok(())
    }

    /// The job that had the key first; or this one after all, if the key was pruned meanwhile.
    async fn first_job(&self, job: &NewJob) -> Result<Enqueued, Error> {
        let (tenant, kind) = (job.tenant.as_str(), job.kind.as_str());
        let digest = digest(job);
        let params: [&(dyn ToSql + Sync); 4] = [&tenant, &kind, &job.dedup_key, &digest];
        let rows = self
            .query("finding the first job", FIRST_JOB, &params)
            .await?;
        if let Some(row) = rows.first() {
            return Ok(Enqueued {
                id: row.get::<_, Uuid>(0).into(),
                is_new: false,
                is_same: row.get(1),
                inserted: None,
            });
        }
        let again = Box::pin(self.enqueue(std::slice::from_ref(job), true)).await?;
        Ok(again[0])
    }
}

/// Whether the archive, as it is by now, has one of these.
pub(super) async fn is_any_finished(
    tx: &Transaction<'_>,
    ids: &[Uuid],
) -> Result<bool, tokio_postgres::Error> {
    if ids.is_empty() {
        return Ok(false);
    }
    let ask = tx.prepare_cached(IS_ANY_ARCHIVED).await?;
    Ok(tx.query_one(&ask, &[&ids]).await?.get(0))
}

/// What was asked for under a dedup key, in 32 bytes. Where it came from (id, trace) is no part of it,
/// nor is what came of it: a tenant's defaults may be others when the same is asked again. A priority
/// that is left out counts as 1, whatever the default: so it was kept before there were any.
fn digest(job: &NewJob) -> Option<Vec<u8>> {
    job.dedup_key.as_ref()?;
    let mut digest = Sha256::new();
    let mut field = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    };
    field(job.queue.as_str());
    field(job.args.get());
    field(&job.priority.unwrap_or(1).to_string());
    field(&match job.run_at {
        RunAt::Now => "now".to_owned(),
        RunAt::After(wait) => format!("after {}", wait.as_millis()),
        RunAt::At(at) => format!("at {at}"),
    });
    field(&job.expires_at.map(|at| at.to_string()).unwrap_or_default());
    field(&job.max_attempts.map(|n| n.to_string()).unwrap_or_default());
    field(
        job.on_lost
            .map(|on_lost| on_lost.as_str())
            .unwrap_or_default(),
    );
    // Not of jobs without: theirs was made before there was such a key.
    if let Some(key) = &job.coalesce_key {
        field(key);
    }
    Some(digest.finalize().to_vec())
}

/// What the database decided, from this column of a row on.
fn inserted_of(row: &Row, at: usize) -> Inserted {
    Inserted {
        run_at: row.get(at),
        created_at: row.get(at + 1),
        priority: row.get(at + 2),
        expires_at: row.get(at + 3),
        max_attempts: row.get(at + 4),
        kind_holds: row.get(at + 5),
    }
}

/// The names of a batch, each once, and which of them each job has, from 1.
struct Distinct<'a> {
    names: Vec<&'a str>,
    numbers: Vec<i32>,
}

impl<'a> Distinct<'a> {
    fn of(jobs: &'a [NewJob], name: impl Fn(&'a NewJob) -> &'a str) -> Self {
        let mut known = HashMap::new();
        let mut all = Self {
            names: Vec::new(),
            numbers: Vec::with_capacity(jobs.len()),
        };
        for job in jobs {
            let name = name(job);
            let number = *known.entry(name).or_insert_with(|| {
                all.names.push(name);
                i32::try_from(all.names.len()).expect("a batch is smaller")
            });
            all.numbers.push(number);
        }
        all
    }
}

/// What is the job's own, column by column.
struct Fields<'a> {
    ids: Vec<Uuid>,
    args: Vec<&'a str>,
    priorities: Vec<Option<i16>>,
    run_ats: Vec<Option<jiff::Timestamp>>,
    delays_ms: Vec<i64>,
    expires_ats: Vec<Option<jiff::Timestamp>>,
    max_attempts: Vec<Option<i32>>,
    on_lost: Vec<Option<&'a str>>,
    traceparents: Vec<Option<&'a str>>,
    coalesce_keys: Vec<Option<&'a str>>,
}

impl<'a> Fields<'a> {
    fn of(jobs: &'a [NewJob]) -> Self {
        Self {
            ids: column(jobs, |job| *job.id.as_uuid()),
            args: column(jobs, |job| job.args.get()),
            priorities: column(jobs, |job| job.priority),
            run_ats: column(jobs, |job| match job.run_at {
                RunAt::At(at) => Some(at),
                RunAt::Now | RunAt::After(_) => None,
            }),
            delays_ms: column(jobs, |job| match job.run_at {
                RunAt::After(wait) => millis(wait),
                RunAt::Now | RunAt::At(_) => 0,
            }),
            expires_ats: column(jobs, |job| job.expires_at),
            max_attempts: column(jobs, |job| job.max_attempts),
            on_lost: column(jobs, |job| job.on_lost.map(|on_lost| on_lost.as_str())),
            traceparents: column(jobs, |job| job.traceparent.as_deref()),
            coalesce_keys: column(jobs, |job| job.coalesce_key.as_deref()),
        }
    }
}

fn column<'a, T>(jobs: &'a [NewJob], field: impl Fn(&'a NewJob) -> T) -> Vec<T> {
    jobs.iter().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests are kept: what was asked for before tenants had defaults is asked for again today.
    #[test]
    fn the_digest_of_a_job_without_a_priority_is_that_of_priority_1_as_it_always_was() {
        let args = serde_json::value::to_raw_value(&serde_json::json!({})).unwrap();
        let job = |priority| NewJob {
            priority,
            dedup_key: Some("k".to_owned()),
            ..NewJob::new("echo".parse().unwrap(), args.clone())
        };
        let hex = |job| -> String {
            let bytes = digest(&job).unwrap();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let before = "7fcca2b5244a0de58a4331718b0383a2b186f33db3343b392373b8909eed7d5e";
        assert_eq!(hex(job(None)), before);
        assert_eq!(hex(job(Some(1))), before);
        assert_ne!(hex(job(Some(2))), before);
    }
}
