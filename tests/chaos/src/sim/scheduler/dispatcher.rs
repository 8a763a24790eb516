//! Due and in credit → claimed, published, confirmed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use postroad_common::broker::Published;
use postroad_common::broker::topology::work_queue;
use postroad_common::job::QueueName;
use postroad_common::store::{Claim, DueQueue, Fenced};

use crate::sim::executor::{Bell, NoAnswer, Sim};
use crate::sim::membership::{Backoff, Membership};
use crate::sim::model_broker::{ConnectionId, Mischief};
use crate::sim::model_store::{Millis, ModelStore};
use crate::sim::world::{Parcel, ProcessNo};
use crate::sim::{Bug, Chance};

// The service keeps these to itself; the same figures stand there.
const BATCHES_IN_FLIGHT: usize = 2;
const REFILL_PATIENCE: Millis = 100;
const REFUSED_REST: Duration = Duration::from_secs(1);
const UNKNOWN_REST: Duration = Duration::from_millis(200);

/// The one way to publish of a process.
pub(super) struct Publisher {
    pub(super) sim: Sim,
    pub(super) me: ProcessNo,
    pub(super) connection: Cell<Option<ConnectionId>>,
}

impl Publisher {
    pub(super) async fn keep_connected(self: Rc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            if self.is_ready() {
                backoff.reset();
                self.sim.wait(Bell::Broker, 1_000).await;
                continue;
            }
            let connection = self.sim.with(|world| {
                let connection = world.connect(self.me)?;
                world.declare();
                Some(connection)
            });
            self.connection.set(connection);
            let wait = backoff.next_wait(&self.sim);
            self.sim.sleep(wait).await;
        }
    }

    fn is_ready(&self) -> bool {
        let connection = self.connection.get();
        connection.is_some_and(|id| self.sim.with(|world| world.broker.is_open(id)))
    }

    async fn publish(&self, queue: &DueQueue, parcels: Vec<Parcel>) -> Vec<Published> {
        let Some(connection) = self.connection.get() else {
            return vec![Published::Unknown; parcels.len()];
        };
        let mut outcomes = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            self.sim.step().await;
            outcomes.push(self.write(connection, queue, parcel));
        }
        // The confirms come back. What the connection took with it, nobody knows.
        self.sim.step().await;
        if !self.is_ready() || self.connection.get() != Some(connection) {
            for outcome in &mut outcomes {
                let is_heard = self.sim.with(|world| world.chance.is(0.5));
                *outcome = if is_heard {
                    *outcome
                } else {
                    Published::Unknown
                };
            }
        }
        if outcomes.contains(&Published::Unknown) {
            // A confirm that does not come ends the connection.
            self.sim.with(|world| world.close(connection));
        }
        if outcomes.contains(&Published::Returned) && self.is_ready() {
            self.sim.with(|world| world.declare());
        }
        if self.sim.with(|world| world.has_bug(Bug::NoConfirmWait)) {
            outcomes.fill(Published::Confirmed);
        }
        outcomes
    }

    fn write(&self, connection: ConnectionId, queue: &DueQueue, parcel: Parcel) -> Published {
        self.sim.with(|world| {
            if !world.broker.is_open(connection) {
                return Published::Unknown;
            }
            let mischief = Mischief {
                is_doubled: world.chance.is(world.plan.mischief),
                overtakes: world
                    .chance
                    .below(if world.plan.mischief > 0.0 { 4 } else { 1 }),
            };
            world.figures.copies += u64::from(mischief.is_doubled);
            let expires_at = Some(world.now + queue.pipe_ttl.as_millis() as Millis);
            let name = work_queue(&queue.name);
            let published = world
                .broker
                .publish(&name, parcel, expires_at, mischief, world.now);
            world.ring(Bell::Broker);
            let is_broken =
                world.now >= world.plan.faults_from && world.now < world.plan.faults_until;
            match is_broken && world.chance.is(world.plan.trouble) {
                true => Published::Unknown,
                false => published,
            }
        })
    }
}

pub(super) struct Dispatcher {
    pub(super) sim: Sim,
    pub(super) me: ProcessNo,
    pub(super) publisher: Rc<Publisher>,
    pub(super) membership: Rc<Membership>,
    pub(super) in_flight: Cell<usize>,
    pub(super) claimed_at: RefCell<BTreeMap<i32, Millis>>,
}

impl Dispatcher {
    pub(super) async fn run(self: Rc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            match self.clone().run_once().await {
                Ok(true) => {
                    backoff.reset();
                    self.sim.step().await;
                }
                Ok(false) => {
                    backoff.reset();
                    let rest = self.sim.with(|world| world.chance.between(20, 500));
                    self.sim.sleep(rest).await;
                }
                Err(NoAnswer) => {
                    let wait = backoff.next_wait(&self.sim);
                    self.sim.sleep(wait).await;
                }
            }
        }
    }

    async fn run_once(self: Rc<Self>) -> Result<bool, NoAnswer> {
        if !self.publisher.is_ready() || self.membership.id().is_none() {
            return Ok(false);
        }
        let queues = self.sim.call(self.me, |store| store.due_queues()).await?;
        let (mut any, mut result) = (false, Ok(()));
        for queue in queues {
            match self.clone().claim_from(queue).await {
                Ok(claimed) => any |= claimed,
                Err(NoAnswer) => result = Err(NoAnswer),
            }
        }
        result.map(|()| any)
    }

    async fn claim_from(self: Rc<Self>, queue: DueQueue) -> Result<bool, NoAnswer> {
        while self.in_flight.get() >= BATCHES_IN_FLIGHT {
            self.sim.wait(Bell::Process(self.me), 1_000).await;
        }
        let Some(me) = self.membership.id().filter(|_| self.publisher.is_ready()) else {
            return Ok(false);
        };
        let name: QueueName = queue.name.parse().expect("came from the store");
        let limit = self.sim.with(|world| world.plan.batch);
        let (credit_min, mut chance) = (
            self.credit_min(&queue),
            self.sim.with(|world| Chance::of(world.chance.number())),
        );
        let claim = move |store: &mut ModelStore| {
            store.claim(&name, limit, credit_min, me, |tenants| {
                chance.shuffle(tenants);
            })
        };
        let claims = match self.sim.transact(self.me, claim).await {
            Ok(claims) => claims,
            Err(NoAnswer) => {
                self.leave_to_rescuer();
                return Err(NoAnswer);
            }
        };
        if claims.is_empty() {
            return Ok(false);
        }
        self.claimed_at
            .borrow_mut()
            .insert(queue.id, self.sim.now());
        self.in_flight.set(self.in_flight.get() + 1);
        self.sim.spawn(self.me, self.clone().publish(queue, claims));
        Ok(true)
    }

    fn credit_min(&self, queue: &DueQueue) -> i64 {
        let now = self.sim.now();
        match self.claimed_at.borrow().get(&queue.id) {
            Some(at) if now - at < REFILL_PATIENCE => (queue.window / 5).max(1),
            _ => 1,
        }
    }

    async fn publish(self: Rc<Self>, queue: DueQueue, claims: Vec<Claim>) {
        let parcels: Vec<_> = claims.iter().map(parcel).collect();
        let fences: Vec<_> = parcels.iter().map(|parcel| parcel.job).collect();
        let outcomes = self.publisher.publish(&queue, parcels).await;
        let rest = |outcome| match outcome {
            Published::Confirmed => None,
            Published::Returned | Published::Nacked => Some(REFUSED_REST),
            Published::Unknown => Some(UNKNOWN_REST),
        };
        let unpublished: Vec<_> = fences
            .into_iter()
            .zip(outcomes)
            .filter_map(|(job, outcome)| Some((job, rest(outcome)?)))
            .collect();
        if !unpublished.is_empty() {
            let release = move |store: &mut ModelStore| store.release(&unpublished);
            if self.sim.call(self.me, release).await.is_err() {
                self.leave_to_rescuer();
            }
        }
        self.in_flight.set(self.in_flight.get() - 1);
        self.sim.with(|world| world.ring(Bell::Process(self.me)));
    }

    fn leave_to_rescuer(&self) {
        self.sim
            .with(|world| world.not_calm_until(world.now + world.rescue_takes()));
    }
}

fn parcel(claim: &Claim) -> Parcel {
    Parcel {
        job: Fenced {
            id: claim.id,
            dispatch: claim.dispatch,
        },
        kind: claim.kind.to_string(),
        args: claim.args.clone(),
    }
}
