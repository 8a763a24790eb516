//! A worker: the stages of `postroad-worker`, with the awaits where theirs are.

mod attempt;
mod consumer;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use postroad_common::broker::Settle;
use postroad_common::store::{Fenced, Outcome};

use super::executor::{Bell, Sim};
use super::membership::Membership;
use super::model_broker::{ChannelId, ConnectionId};
use super::model_store::ModelStore;
use super::world::{Parcel, ProcessNo, kinds};

/// How a worker is asked to stop, and whether it has.
#[derive(Default)]
pub(super) struct Stop {
    quiesce: Cell<bool>,
    cancel: Cell<bool>,
    has_stopped: Cell<bool>,
}

impl Stop {
    /// Take no more, finish what runs.
    pub(super) fn quiesce(&self) {
        self.quiesce.set(true);
    }

    /// Let go of what still runs.
    pub(super) fn cancel(&self) {
        self.cancel.set(true);
    }

    /// Whether the worker has ended.
    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped.get()
    }
}

/// Starts one.
pub(super) fn start(sim: &Sim) -> (ProcessNo, Rc<Stop>) {
    let me = sim.with(|world| world.begin_process());
    let stop = Rc::new(Stop::default());
    sim.spawn(me, run(sim.clone(), me, stop.clone()));
    (me, stop)
}

/// One connection's life.
struct Session {
    connection: ConnectionId,
    lanes: Vec<(String, ChannelId)>,
    outbox: RefCell<VecDeque<(ChannelId, u64, Settle)>>,
}

/// How to settle one delivery.
#[derive(Clone)]
struct Receipt {
    session: Rc<Session>,
    lane: String,
    channel: ChannelId,
    tag: u64,
}

struct Worker {
    sim: Sim,
    me: ProcessNo,
    stop: Rc<Stop>,
    membership: Rc<Membership>,
    session: RefCell<Option<Rc<Session>>>,
    /// How each job in hand is to be settled: over its newest delivery.
    in_flight: RefCell<BTreeMap<Fenced, Receipt>>,
    /// Deliveries that ask to be started.
    asking: RefCell<VecDeque<Parcel>>,
    finished: RefCell<VecDeque<Outcome>>,
    /// Permits taken, per lane.
    room: RefCell<BTreeMap<String, usize>>,
    running: Cell<usize>,
    has_gate_ended: Cell<bool>,
    has_finisher_ended: Cell<bool>,
}

async fn run(sim: Sim, me: ProcessNo, stop: Rc<Stop>) {
    let queues = sim.with(|world| world.plan.queues.clone());
    let register = move |store: &mut ModelStore| {
        store.register_queues(&queues);
        store.register_kinds(&kinds());
    };
    while sim.call(me, register.clone()).await.is_err() {
        sim.sleep(200).await;
    }
    let membership = Membership::join(&sim, me).await;
    let worker = Rc::new(Worker {
        sim: sim.clone(),
        me,
        stop,
        membership,
        session: RefCell::default(),
        in_flight: RefCell::default(),
        asking: RefCell::default(),
        finished: RefCell::default(),
        room: RefCell::default(),
        running: Cell::new(0),
        has_gate_ended: Cell::new(false),
        has_finisher_ended: Cell::new(false),
    });
    let unanswered = Rc::new(RefCell::new(Vec::new()));
    let (gate, answer) = (worker.clone(), unanswered.clone());
    sim.spawn(me, async move {
        *answer.borrow_mut() = gate.gatekeeper().await;
        gate.has_gate_ended.set(true);
        gate.ring();
    });
    let finisher = worker.clone();
    sim.spawn(me, async move {
        finisher.finisher().await;
        finisher.has_finisher_ended.set(true);
        finisher.ring();
    });
    worker.consume().await;
    let unanswered = unanswered.borrow().clone();
    worker.sign_off(unanswered).await;
    sim.with(|world| world.kill(me));
    worker.stop.has_stopped.set(true);
}

impl Worker {
    fn ring(&self) {
        self.sim.with(|world| world.ring(Bell::Process(self.me)));
    }

    async fn until_rung(&self) {
        self.sim.wait(Bell::Process(self.me), 500).await;
    }

    /// Nothing new comes in: each stage ends when the one before it has.
    async fn drain(&self) {
        while !self.has_finisher_ended.get() {
            self.until_rung().await;
        }
    }

    async fn sign_off(&self, unanswered: Vec<Fenced>) {
        let id = self.membership.last_id();
        if !unanswered.is_empty() {
            let release = move |store: &mut ModelStore| store.release_never_run(id, &unanswered);
            if self.sim.call(self.me, release).await.is_err() {
                return;
            }
        }
        self.membership.leave().await;
    }
}
