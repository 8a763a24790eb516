//! A process among others: it registers, beats, and knows when it may no longer act.
//!
//! The heartbeat is the lease of everything the process holds. A watcher calls a process lost
//! after it has watched it be silent for a whole lease; the process stops acting by itself after
//! half of one without a heartbeat that was answered, counted from before the heartbeat was sent.
//! So between the two lies half a lease for whatever was under way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::health::Health;
use crate::shutdown::Shutdown;
use crate::store::{Error, NewProcess, ProcessId, Store};

/// How long a process may be silent before it is called lost.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Shorter than this, an ordinary hiccup would be a death.
pub const LEASE_MIN: Duration = Duration::from_secs(2);
/// Longer than this, nobody would wait.
pub const LEASE_MAX: Duration = Duration::from_secs(60 * 60);

const HEALTH: &str = "heartbeat";

/// This process's place among the others.
#[derive(Clone)]
pub struct Membership {
    store: Store,
    process: Arc<NewProcess>,
    state: Arc<Mutex<State>>,
    /// Held while registering anew: the gate and the heartbeat may both find out.
    rejoining: Arc<tokio::sync::Mutex<()>>,
    left: CancellationToken,
}

struct State {
    id: ProcessId,
    /// Just before the last heartbeat that was answered.
    proven_at: Instant,
}

impl Membership {
    /// Registers the process and keeps beating until it leaves.
    pub async fn join(
        store: Store,
        process: NewProcess,
        health: &Health,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        health.expect(HEALTH);
        let proven_at = Instant::now();
        let id = store.register(&process).await?;
        failpoint!("membership.registered");
        let state = Arc::new(Mutex::new(State { id, proven_at }));
        let membership = Self {
            store,
            process: Arc::new(process),
            state,
            rejoining: Arc::default(),
            left: CancellationToken::new(),
        };
        tokio::spawn(membership.clone().beat(health.clone(), shutdown.clone()));
        Ok(membership)
    }

    /// The id under which the process may act now. None: it has not been heard for too long, and
    /// must start nothing until it is.
    pub fn id(&self) -> Option<ProcessId> {
        let state = self.lock();
        (state.proven_at.elapsed() < self.process.lease / 2).then_some(state.id)
    }

    /// The id under which outcomes of the past are written, whether or not it may start more.
    pub fn last_id(&self) -> ProcessId {
        self.lock().id
    }

    /// Registers anew, after this process was called lost under `id`.
    pub async fn rejoin(&self, id: ProcessId) -> Result<(), Error> {
        let _one_at_a_time = self.rejoining.lock().await;
        if self.left.is_cancelled() || self.last_id() != id {
            return Ok(());
        }
        let proven_at = Instant::now();
        let new_id = self.store.register(&self.process).await?;
        tracing::warn!("called lost as process {id}, back as process {new_id}");
        *self.lock() = State {
            id: new_id,
            proven_at,
        };
        Ok(())
    }

    /// Signs off: everything this process had to write is written.
    pub async fn leave(self) -> Result<(), Error> {
        self.left.cancel();
        let _nobody_rejoins = self.rejoining.lock().await;
        failpoint!("membership.before_leaving");
        self.store.stop(self.last_id()).await
    }

    async fn beat(self, health: Health, shutdown: Shutdown) {
        let mut tick = tokio::time::interval(self.process.lease / 6);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // Not at quiesce: what is being drained is still held.
                () = self.left.cancelled() => return,
                () = shutdown.cancel.cancelled() => return,
            }
            match self.beat_once().await {
                Ok(()) => health.good(HEALTH),
                Err(error) => health.bad(HEALTH, error),
            }
        }
    }

    async fn beat_once(&self) -> Result<(), Error> {
        let (id, before) = (self.last_id(), Instant::now());
        if !self.store.beat(id).await? {
            return self.rejoin(id).await;
        }
        let mut state = self.lock();
        if state.id == id {
            state.proven_at = before;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of this machine, for people.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name.to_owned()
    }
}
