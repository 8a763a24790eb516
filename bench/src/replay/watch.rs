//! What Postgres and the operating system say while a story goes on, twice a second.
//!
//! Of jobs it reads the ledger and the small indexes of what is in the pipe: counting a table of a
//! million jobs again and again would be load.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use postroad_tests::faults::footprint::Footprint;
use postroad_tests::harness::cluster::Cluster;
use tokio_postgres::Client;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// If nothing ends for so long, nothing will.
const STALL: Duration = Duration::from_secs(90);

/// Jobs of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) accepted: i64,
    pub(crate) completed: i64,
    pub(crate) shed: i64,
}

impl Account {
    /// What is accepted and has not ended: it waits, is in the pipe, or runs.
    pub(crate) fn unfinished(self) -> i64 {
        self.accepted - self.completed - self.shed
    }
}

/// What there was at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) second: f64,
    /// Of the tenant that is watched.
    pub(crate) bulk: Account,
    /// Of all others.
    pub(crate) others: Account,
    pub(crate) dispatched: i64,
    pub(crate) running: i64,
    pub(crate) held: i64,
    /// MB that each watched program has now, in their order.
    pub(crate) memory: Vec<f64>,
}

/// Looks, from a moment on.
pub(crate) struct Watch {
    client: Client,
    bulk: &'static str,
    pids: Vec<u32>,
    began: Instant,
    pub(crate) looks: Vec<Look>,
}

const LEDGER: &str = "
    with noted as (
        select t.name = $1 as is_bulk, e.accepted, e.completed, e.cancelled
        from (select tenant_id, accepted, completed, cancelled from postroad.ledger_total
              union all
              select tenant_id, accepted, completed, cancelled from postroad.ledger_entry) e
        join postroad.tenant t on t.id = e.tenant_id)
    select coalesce(sum(accepted) filter (where is_bulk), 0)::bigint,
           coalesce(sum(completed) filter (where is_bulk), 0)::bigint,
           coalesce(sum(cancelled) filter (where is_bulk), 0)::bigint,
           coalesce(sum(accepted) filter (where not is_bulk), 0)::bigint,
           coalesce(sum(completed) filter (where not is_bulk), 0)::bigint,
           coalesce(sum(cancelled) filter (where not is_bulk), 0)::bigint,
           (select count(*) from postroad.job where stage = 1 and started_at is null),
           (select count(*) from postroad.job where stage = 1 and started_at is not null),
           (select count(*) from postroad.job where stage = 3)
    from noted";

impl Watch {
    /// Of this tenant's jobs and of all others; and of the memory of these programs.
    pub(crate) async fn new(
        cluster: &Cluster,
        bulk: &'static str,
        pids: Vec<u32>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: cluster.session().await?,
            bulk,
            pids,
            began: Instant::now(),
            looks: Vec::new(),
        })
    }

    /// Since it began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Looks on until the story is over.
    pub(crate) async fn beside<T>(
        &mut self,
        story: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let looking = async {
            let mut beat = tokio::time::interval(LOOK);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                let look = self.look().await?;
                self.looks.push(look);
            }
        };
        let told: anyhow::Result<T> = tokio::select! {
            told = story => told,
            failed = looking => failed,
        };
        let last = self.look().await?;
        self.looks.push(last);
        told
    }

    async fn look(&self) -> anyhow::Result<Look> {
        let row = self.client.query_one(LEDGER, &[&self.bulk]).await;
        let row = row.context("reading the ledger")?;
        let account = |from: usize| Account {
            accepted: row.get(from),
            completed: row.get(from + 1),
            shed: row.get(from + 2),
        };
        // A program that was killed has nothing.
        let megabytes = |pid: &u32| Footprint::of(*pid).map_or(0.0, |of| of.rss_bytes as f64 / 1e6);
        Ok(Look {
            second: self.began.elapsed().as_secs_f64(),
            bulk: account(0),
            others: account(3),
            dispatched: row.get(6),
            running: row.get(7),
            held: row.get(8),
            memory: self.pids.iter().map(megabytes).collect(),
        })
    }

    // === Curves ===

    /// What this is at each look.
    pub(crate) fn levels(&self, of: impl Fn(&Look) -> f64) -> Vec<(f64, f64)> {
        self.looks
            .iter()
            .map(|look| (look.second, of(look)))
            .collect()
    }

    /// By how much this grows in a second, between each look and the next but one: about a second.
    pub(crate) fn rates(&self, of: impl Fn(&Look) -> i64) -> Vec<(f64, f64)> {
        let pairs = self.looks.iter().zip(self.looks.iter().skip(2));
        let rate = |(before, after): (&Look, &Look)| {
            let grown = (of(after) - of(before)) as f64;
            let seconds = (after.second - before.second).max(0.001);
            (f64::midpoint(before.second, after.second), grown / seconds)
        };
        pairs.map(rate).collect()
    }

    /// The most that this was.
    pub(crate) fn most(&self, of: impl Fn(&Look) -> f64) -> f64 {
        self.looks.iter().map(of).fold(0.0, f64::max)
    }
}

/// How many of these moments are in each second.
pub(crate) fn per_second(moments: impl Iterator<Item = f64>, until: f64) -> Vec<(f64, f64)> {
    let mut counts = vec![0.0; until.max(0.0) as usize + 1];
    for moment in moments {
        if let Some(count) = counts.get_mut(moment.max(0.0) as usize) {
            *count += 1.0;
        }
    }
    let at_middle = |(second, count)| (second as f64 + 0.5, count);
    counts.into_iter().enumerate().map(at_middle).collect()
}

/// Waits until this says so, and fails when it has said the same for too long. What it says of itself is
/// a number that goes on changing.
pub(crate) async fn until_done(
    what: &str,
    probe: impl AsyncFn() -> anyhow::Result<(bool, i64)>,
) -> anyhow::Result<()> {
    let (mut before, mut since) = (None, Instant::now());
    loop {
        let (is_done, progress) = probe().await?;
        if is_done {
            return Ok(());
        }
        if before != Some(progress) {
            (before, since) = (Some(progress), Instant::now());
        }
        if since.elapsed() > STALL {
            anyhow::bail!("waiting until {what}: {progress}, and nothing changes for {STALL:?}");
        }
        tokio::time::sleep(LOOK / 2).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_in_their_second() {
        let counted = per_second([0.1, 0.9, 2.0].into_iter(), 2.5);
        assert_eq!(counted, [(0.5, 2.0), (1.5, 0.0), (2.5, 1.0)]);
    }
}
