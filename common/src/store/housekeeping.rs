//! What the pruner does: partitions ahead, old partitions away, dead keys and rows away.

use std::time::Duration;

use super::{Error, Store, millis};

/// How many days of partitions are kept ready. A week survives a long weekend without a scheduler.
pub const PARTITION_DAYS_AHEAD: i32 = 7;

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

    /// Deletes up to `limit` expired dedup keys.
    pub async fn prune_dedup(&self, limit: i64) -> Result<usize, Error> {
        Ok(self
            .query("pruning dedup keys", PRUNE_DEDUP, &[&limit])
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
