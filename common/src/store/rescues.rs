//! What the rescuer moves: claims that came to nothing, runs whose worker is gone, jobs whose
//! time has passed.
//!
//! Every statement takes a bounded batch, oldest first, and passes over rows that another
//! rescuer holds, so any number of rescuers share the work.

use std::time::Duration;

use super::{Error, Store, millis};

/// What one sweep of lost runs did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Runs that failed with their worker, to be tried again by their kind's policy.
    pub failed: usize,
    /// Runs that wait for a decision.
    pub held: usize,
}

/// Never started, though its message must have left the pipe by now; or claimed by a scheduler
/// that was lost, who may have died before it published. In both cases a message that is still
/// about is refused by the gate.
const RELEASE_UNSTARTED: &str = "
    with lost as materialized (
        select j.id
        from postroad.queue q
        cross join lateral (
            select j.id from postroad.job j
            left join postroad.process p on p.id = j.claimed_by
            where j.queue_id = q.id and j.stage = 1 and j.started_at is null
              and (j.claimed_at < now() - q.pipe_ttl - $1 * interval '1 ms' or p.lost_at is not null)
            order by j.claimed_at
            limit $2
            for no key update of j skip locked) j)
    update postroad.job j
    set stage = 0, claimed_at = null, claimed_by = null
    from lost where j.id = lost.id
    returning j.id";

/// Running under a worker that was called lost, has stopped, or was never heard of.
const END_LOST: &str = "
    with lost as materialized (
        select j.id, coalesce(j.on_lost, j.kind_on_lost) = 'hold' as hold
        from postroad.queue q
        cross join lateral (
            select j.id, j.on_lost, k.on_lost as kind_on_lost
            from postroad.job j
            join postroad.kind k on k.id = j.kind_id
            left join postroad.process p on p.id = j.worker_id
            where j.queue_id = q.id and j.stage = 1 and j.started_at is not null
              and (p.id is null or p.lost_at is not null or p.stopped_at is not null)
            order by j.claimed_at
            limit $1
            for no key update of j skip locked) j),
    moved as (
        update postroad.job j
        set stage = case when lost.hold then 3 else 2 end, ended_at = now()
        from lost where j.id = lost.id
        returning j.id, j.attempt, j.worker_id, j.stage),
    noted as (
        insert into postroad.attempt_error (job_id, attempt, worker_id, code, message)
        select id, attempt, worker_id, 'worker_lost', 'the worker was lost while the job ran'
        from moved)
    select stage from moved";

/// Stage by stage: each has its own small index.
macro_rules! expire {
    ($stage:literal) => {
        concat!(
            "
    with late as materialized (
        select id from postroad.job
        where stage = ",
            $stage,
            " and expires_at is not null and expires_at <= now()
        order by expires_at limit $1
        for update skip locked),
    gone as (
        delete from postroad.job j using late where j.id = late.id returning j.*)
    ",
            archive_from!(
                "gone",
                "'expired'",
                "'expired before it was dispatched'",
                "null",
                "args"
            )
        )
    };
}

const EXPIRE: [&str; 2] = [expire!("0"), expire!("4")];

impl Store {
    /// Puts claims that came to nothing back to scheduled: `slack` after their message must have
    /// expired, or as soon as their scheduler is called lost. At most `limit` per queue.
    pub async fn release_unstarted(&self, slack: Duration, limit: i64) -> Result<usize, Error> {
        let slack = millis(slack) as f64;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&slack, &limit];
        Ok(self
            .query("releasing lost claims", RELEASE_UNSTARTED, &params)
            .await?
            .len())
    }

    /// Ends runs whose worker is gone, as each kind says. At most `limit` per queue.
    pub async fn end_lost_runs(&self, limit: i64) -> Result<Rescued, Error> {
        let rows = self.query("ending lost runs", END_LOST, &[&limit]).await?;
        let held = rows.iter().filter(|row| row.get::<_, i16>(0) == 3).count();
        Ok(Rescued {
            failed: rows.len() - held,
            held,
        })
    }

    /// Archives up to `limit` scheduled jobs whose `expires_at` has passed, and as many that are set
    /// aside.
    pub async fn expire(&self, limit: i64) -> Result<usize, Error> {
        let mut expired = 0;
        for sql in EXPIRE {
            expired += self.query("expiring jobs", sql, &[&limit]).await?.len();
        }
        Ok(expired)
    }
}
