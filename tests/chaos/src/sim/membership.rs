//! A process among others, and the wait between two of its tries.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use postroad_common::store::ProcessId;

use super::executor::{NoAnswer, Sim};
use super::model_store::Millis;
use super::world::ProcessNo;

/// Milliseconds between two tries, as `postroad_common::backoff` has them.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn next_wait(&mut self, sim: &Sim) -> Millis {
        let full = (100 << self.failures.min(16)).min(5000);
        self.failures += 1;
        sim.with(|world| world.chance.between(full / 2, full))
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A process among others, as `postroad_common::membership` has it.
pub(super) struct Membership {
    sim: Sim,
    me: ProcessNo,
    lease: Millis,
    state: RefCell<(ProcessId, Millis)>,
    is_rejoining: Cell<bool>,
    has_left: Cell<bool>,
}

impl Membership {
    /// Registers, as often as it takes, and keeps beating.
    pub(super) async fn join(sim: &Sim, me: ProcessNo) -> Rc<Self> {
        let lease = sim.with(|world| world.plan.lease);
        let (id, proven_at) = loop {
            let before = sim.now();
            match sim
                .call(me, move |store| store.register(lease_of(lease)))
                .await
            {
                Ok(id) => break (id, before),
                Err(NoAnswer) => sim.sleep(200).await,
            }
        };
        let membership = Rc::new(Self {
            sim: sim.clone(),
            me,
            lease,
            state: RefCell::new((id, proven_at)),
            is_rejoining: false.into(),
            has_left: false.into(),
        });
        sim.spawn(me, membership.clone().beat());
        membership
    }

    /// The id under which the process may act now.
    pub(super) fn id(&self) -> Option<ProcessId> {
        let (id, proven_at) = *self.state.borrow();
        (self.sim.now() - proven_at < self.lease / 2).then_some(id)
    }

    /// The id under which outcomes of the past are written.
    pub(super) fn last_id(&self) -> ProcessId {
        self.state.borrow().0
    }

    /// Registers anew, after this process was called lost under `id`.
    pub(super) async fn rejoin(&self, id: ProcessId) {
        while self.is_rejoining.get() {
            self.sim.sleep(5).await;
        }
        if self.has_left.get() || self.last_id() != id {
            return;
        }
        self.is_rejoining.set(true);
        let (before, lease) = (self.sim.now(), self.lease);
        let registered = self
            .sim
            .call(self.me, move |store| store.register(lease_of(lease)));
        if let Ok(new_id) = registered.await {
            *self.state.borrow_mut() = (new_id, before);
        }
        self.is_rejoining.set(false);
    }

    /// Signs off.
    pub(super) async fn leave(&self) {
        self.has_left.set(true);
        let id = self.last_id();
        drop(self.sim.call(self.me, move |store| store.stop(id)).await);
    }

    async fn beat(self: Rc<Self>) {
        while !self.has_left.get() {
            let (id, before) = (self.last_id(), self.sim.now());
            match self.sim.call(self.me, move |store| store.beat(id)).await {
                Ok(false) => self.rejoin(id).await,
                Ok(true) if self.last_id() == id => self.state.borrow_mut().1 = before,
                Ok(true) | Err(NoAnswer) => {}
            }
            self.sim.sleep(self.lease / 6).await;
        }
    }
}

fn lease_of(millis: Millis) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
