//! The provider at the far end of every notification, for tests, the demo and benchmarks: it
//! counts what reaches it, and misbehaves as told. Never part of the product.
//!
//! `behaviour` decides how a request ends, `ledger` counts, `record` writes one line for each,
//! `server` speaks HTTP, `answer` is what it says.
//! None of them knows anything of Postroad but its header names.
//!
//! It does not deduplicate by idempotency key unless told to, because it is there to show doubles.
//!
//! | request | does |
//! |---|---|
//! | `POST` to any other path, such as `/sms` or `/webhook` | what the [`Behaviour`] says |
//! | `GET /report` | the [`Report`] |
//! | `POST /seen` with a JSON array of ids | those of them that had an effect |
//! | `GET /behaviour`, `PUT /behaviour` | shows it, replaces all of it |
//! | `PUT /release` | answers what `Latency::Hold` holds |

mod answer;
mod behaviour;
mod ledger;
mod record;
mod server;
mod signature;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use behaviour::{Behaviour, Latency, parse_duration};
pub use ledger::Report;
pub use record::{Record, Status};
pub use signature::verify_signature;

use ledger::Ledger;
use server::{Keep, Shared};

/// Connections open at once; later ones wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;

/// How long [`Simulator::wait_for`] waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a simulator is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// The file to append a line to for each request.
    pub record: Option<PathBuf>,
    /// How to behave at first.
    pub behaviour: Behaviour,
    /// Decides the order of faults and latencies.
    pub seed: u64,
    /// Whether [`Simulator::records`] has them; they stay in memory.
    pub keep_records: bool,
    /// Whether those records have their bodies too.
    pub keep_bodies: bool,
}

/// For tests: any port, no file, no faults, records in memory.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            record: None,
            behaviour: Behaviour::default(),
            seed: 1,
            keep_records: true,
            keep_bodies: false,
        }
    }
}

/// A running simulator; it stops when dropped.
pub struct Simulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    writer: Option<record::Writer>,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Simulator {
    /// Listens, and serves on the current runtime.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        config.behaviour.check()?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listening on {}", config.listen))?;
        let addr = listener
            .local_addr()
            .context("reading the address of the listener")?;
        let (records, writer) = config
            .record
            .as_deref()
            .map(record::open)
            .transpose()?
            .unzip();
        let ledger = Ledger::new(config.behaviour, config.seed);
        let keep = match (config.keep_records, config.keep_bodies) {
            (_, true) => Keep::RecordAndBody,
            (true, false) => Keep::Record,
            (false, false) => Keep::Nothing,
        };
        let shared = Arc::new(Shared::new(ledger, records, keep));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let accepting = accept(listener, shared.clone(), tasks.clone(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self {
            addr,
            shared,
            writer,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://` and where it listens; append a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The counts at this moment.
    pub fn report(&self) -> Report {
        self.shared.ledger().report()
    }

    /// Every request so far, in the order of the decisions; with `Config::keep_records`.
    pub fn records(&self) -> Vec<Record> {
        self.shared.ledger().records.clone()
    }

    /// The requests with this idempotency key; with `Config::keep_records`.
    pub fn calls(&self, key: &str) -> Vec<Record> {
        let ledger = self.shared.ledger();
        ledger
            .records
            .iter()
            .filter(|record| record.key.as_deref() == Some(key))
            .cloned()
            .collect()
    }

    /// Those of these ids that had an effect.
    pub fn seen(&self, ids: Vec<String>) -> Vec<String> {
        server::seen(&self.shared, ids)
    }

    /// Behaves so from the next request on; what is held or paused stays so.
    pub fn set(&self, behaviour: Behaviour) -> anyhow::Result<()> {
        self.shared.set(behaviour)
    }

    /// Answers every request that `Latency::Hold` holds now; [`Report::held`] says how many.
    pub fn release(&self) {
        self.shared.release();
    }

    /// Waits until the report is as wanted, and returns it; an error after 30 seconds.
    ///
    /// To release a request, wait for `held` and not for `in_flight`, which rises earlier.
    pub async fn wait_for(&self, wanted: impl Fn(&Report) -> bool) -> anyhow::Result<Report> {
        let wait = async {
            loop {
                // Before the look at the report, so that no change falls between the two.
                let changed = self.shared.changed.notified();
                let report = self.report();
                if wanted(&report) {
                    return report;
                }
                changed.await;
            }
        };
        tokio::time::timeout(WAIT_MAX, wait)
            .await
            .with_context(|| format!("waited {WAIT_MAX:?} for the provider; {:?}", self.report()))
    }

    /// Returns when the record file cannot be written any more; never without one.
    pub async fn record_failed(&self) {
        match &self.shared.records {
            Some(records) => mpsc::Sender::closed(records).await,
            None => std::future::pending().await,
        }
    }

    /// Drops all connections, and waits until the record file is written.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
        // The last sender of records goes with it, which ends the writer.
        drop(self.shared);
        let Some(writer) = self.writer else {
            return Ok(());
        };
        tokio::task::spawn_blocking(|| writer.join())
            .await
            .context("waiting for the record file")?
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room
            .clone()
            .acquire_owned()
            .await
            .expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                let serving = async move {
                    let _permit = permit;
                    server::serve(&shared, stream).await;
                };
                tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
            }
            Err(error) => {
                // Mostly: out of file descriptors. Waiting gives others the time to close some.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
