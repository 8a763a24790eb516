//! Jobs whose destination takes no more → back to the schedule, many in one statement; then, and only
//! then, settled.
//!
//! They have not been started: no attempt is charged, and nothing was sent.
//!
//! What if the process dies after …
//!
//! | step | then | repaired by |
//! |---|---|---|
//! | taking the job, or deciding to send it back | it is dispatched, its message unsettled | RabbitMQ delivers it again |
//! | the statement was sent, not committed | as above | as above |
//! | the commit, before the ack | it is scheduled, and its message is delivered again | the gate refuses it: it is not dispatched, or under another fence. Sent back once more it is not moved, for the same reason. Then it is acked |
//! | the ack was written, and perhaps not read | as above | as above |
//!
//! An answer that was lost is asked for again: what has moved does not move twice. Where a bundle brought
//! the job, its message is settled with the last of its jobs; dying before means that all of it comes
//! again, and the gate lets through what has not been started and not been sent back.
//!
//! While Postgres is away nothing is sent back and nothing is settled: the jobs keep their places. When
//! the worker stops first, their messages go back to the broker.

use postroad_common::backoff::Backoff;
use postroad_common::broker::Settle;
use postroad_common::failpoint;
use postroad_common::health::Health;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Fenced, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::Duration;

use crate::destinations::PutOff;
use crate::gather::gather;
use crate::inflight::{self, Ticket};
use crate::metrics;
use crate::prefetch::{Place, Prefetch};

/// Jobs per statement.
const BATCH: usize = 512;

const HEALTH: &str = "releases";

/// A job that is to come again.
pub(crate) struct Release {
    pub(crate) ticket: Ticket,
    pub(crate) put_off: PutOff,
    /// The place that it has until it is gone.
    pub(crate) place: Place,
}

/// Sends jobs back until nobody brings any more, or the worker stops.
pub(crate) struct Releaser {
    pub(crate) store: Store,
    pub(crate) prefetch: watch::Receiver<Prefetch>,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Releaser {
    pub(crate) async fn run(self, mut releases: mpsc::Receiver<Release>) {
        self.health.expect(HEALTH);
        self.health.good(HEALTH);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let enough = self.prefetch.borrow().half();
            tokio::select! {
                biased;
                () = self.shutdown.quiesce.cancelled() => break,
                taken = gather(&mut releases, &mut batch, BATCH, enough) => if taken == 0 { return },
            }
            if !self.release(&batch).await {
                break;
            }
            failpoint!("releaser.committed");
            let settle = |release: Release| {
                metrics::put_off(release.put_off.reason);
                ((release.ticket, Settle::Ack), release.place)
            };
            let (settles, places): (Vec<_>, Vec<_>) = batch.drain(..).map(settle).unzip();
            inflight::redeem(settles).await;
            drop(places);
        }
        releases.close();
        while let Some(release) = releases.recv().await {
            batch.push(release);
        }
        for release in batch {
            release.ticket.give_back().await;
        }
    }

    /// Until it is committed. False: the worker stops first.
    async fn release(&self, batch: &[Release]) -> bool {
        let mut backoff = Backoff::default();
        let job = |release: &Release| (release.ticket.job(), release.put_off.delay);
        let mut jobs: Vec<(Fenced, Duration)> = batch.iter().map(job).collect();
        // In the order of ids, as every statement locks rows.
        jobs.sort_unstable();
        loop {
            failpoint!("releaser.before_release");
            match self.store.release(&jobs).await {
                Ok(_) => {
                    self.health.good(HEALTH);
                    return true;
                }
                Err(error) => self.health.bad(HEALTH, error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.shutdown.quiesce.cancelled() => return false,
            }
        }
    }
}
