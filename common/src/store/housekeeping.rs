//! What the pruner does: partitions ahead, old partitions away, finished jobs away that their queue
//! does not keep that long, dead keys and rows away.

use std::ops::Range;
use std::time::Duration;

use jiff::civil::Date;

use super::{Error, Store, millis};

/// How many days of partitions are kept ready. A week survives a long weekend without a scheduler.
pub const PARTITION_DAYS_AHEAD: i32 = 7;

/// A day of the archive that may hold finished jobs beyond their queues' retention.
#[derive(Clone, Debug)]
pub struct DayToForget {
    /// The day, in UTC.
    pub day: Date,
    /// These queues' ids, in order.
    pub queues: Vec<i32>,
    /// How large its partition is. It holds no jobs but those of the day, so it does not grow.
    pub blocks: i64,
}

/// The oldest first, so that nothing of its queues lies before it.
const DAY_TO_FORGET: &str = "
    select f.day, f.queues,
           coalesce(pg_relation_size(to_regclass(format('postroad.%I', f.child))), 0)
               / current_setting('block_size')::bigint
    from postroad.forgettable() f
    order by f.day limit 1";

const NOTE_FORGOTTEN: &str = "
    update postroad.queue set forgotten_before = $1::date + 1
    where id = any($2) and (forgotten_before is null or forgotten_before <= $1)";

/// A key outlives its time as long as its job is unfinished.
const PRUNE_DEDUP: &str = "
    with old as materialized (
        select d.ctid from postroad.dedup d
        where d.expires_at < now() and not exists (select from postroad.job j where j.id = d.job_id)
        order by d.expires_at limit $1
        for update skip locked)
    delete from postroad.dedup d using old where d.ctid = old.ctid
    returning d.job_id";

/// A gone process is remembered for a day, and as long as a job still names it.
const PRUNE_PROCESSES: &str = "
    delete from postroad.process p
    where greatest(p.stopped_at, p.lost_at) < now() - interval '1 day'
      and not exists (select from postroad.job j
                      where j.stage = 1 and (j.worker_id = p.id or j.claimed_by = p.id))
      and not exists (select from postroad.job j
                      where j.stage = 2 and (j.worker_id = p.id or j.claimed_by = p.id))
      and not exists (select from postroad.job j
                      where j.stage = 3 and (j.worker_id = p.id or j.claimed_by = p.id))
    returning p.id";

/// As long as a job is set aside by it, a stop is remembered.
const PRUNE_STOPS: &str = "
    delete from postroad.stop s
    where s.lifted_at < now() - $1 * interval '1 ms'
      and not exists (select from postroad.job j where j.stage = 4 and j.stopped_by = s.id)
    returning s.id";

impl Store {
    /// Creates the partitions of the coming days that are missing.
    pub async fn make_partitions(&self) -> Result<i32, Error> {
        const SQL: &str = "select postroad.make_partitions($1)";
        let rows = self
            .query("making partitions", SQL, &[&PARTITION_DAYS_AHEAD])
            .await?;
        Ok(rows[0].get(0))
    }

    /// Drops the partitions that lie wholly before `keep` ago.
    pub async fn drop_partitions(&self, keep: Duration) -> Result<i32, Error> {
        const SQL: &str = "select postroad.drop_partitions($1 * interval '1 ms')";
        let rows = self
            .query("dropping partitions", SQL, &[&(millis(keep) as f64)])
            .await?;
        Ok(rows[0].get(0))
    }

    /// The oldest day of which finished jobs are to be forgotten.
    pub async fn day_to_forget(&self) -> Result<Option<DayToForget>, Error> {
        let rows = self
            .query("looking for days to forget", DAY_TO_FORGET, &[])
            .await?;
        Ok(rows.first().map(|row| DayToForget {
            day: row.get(0),
            queues: row.get(1),
            blocks: row.get(2),
        }))
    }

    /// Forgets what is in these blocks of a day, and says how many jobs that were. None: not now,
    /// because somebody else is at it or holds one of the jobs; or not any more, because a setting
    /// has changed.
    pub async fn forget_finished(
        &self,
        of: &DayToForget,
        blocks: Range<i64>,
    ) -> Result<Option<i64>, Error> {
        const SQL: &str = "select postroad.forget_finished($1, $2, $3, $4)";
        let rows = self
            .query(
                "forgetting finished jobs",
                SQL,
                &[&of.day, &of.queues, &blocks.start, &blocks.end],
            )
            .await?;
        Ok(rows[0].get(0))
    }

    /// Writes down that nothing of these queues is left of a day, nor of any before it: true once
    /// all its blocks have been gone through.
    pub async fn note_forgotten(&self, of: &DayToForget) -> Result<(), Error> {
        self.query(
            "noting a forgotten day",
            NOTE_FORGOTTEN,
            &[&of.day, &of.queues],
        )
        .await
        .map(drop)
    }

    /// Deletes up to `limit` expired dedup keys.
    pub async fn prune_dedup(&self, limit: i64) -> Result<usize, Error> {
        Ok(self
            .query("pruning dedup keys", PRUNE_DEDUP, &[&limit])
            .await?
            .len())
    }

    /// Forgets stops that have been over for `keep`.
    pub async fn prune_stops(&self, keep: Duration) -> Result<usize, Error> {
        let keep = millis(keep) as f64;
        Ok(self
            .query("pruning stops", PRUNE_STOPS, &[&keep])
            .await?
            .len())
    }

    /// Deletes the rows of processes that are long gone.
    pub async fn prune_processes(&self) -> Result<usize, Error> {
        Ok(self
            .query("pruning processes", PRUNE_PROCESSES, &[])
            .await?
            .len())
    }
}
