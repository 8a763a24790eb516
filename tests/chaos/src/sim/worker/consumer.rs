//! From a connection to deliveries, and from settled deliveries back to it.

use std::cell::RefCell;
use std::rc::Rc;

use postroad_common::broker::Settle;
use postroad_common::broker::topology::work_queue;
use postroad_common::store::Fenced;

use super::{Receipt, Session, Worker};
use crate::sim::Bug;
use crate::sim::executor::Bell;
use crate::sim::membership::Backoff;
use crate::sim::model_broker::ChannelId;

impl Worker {
    /// Consumes until the worker stops, and then until everything in hand is settled.
    pub(super) async fn consume(self: &Rc<Self>) {
        let mut backoff = Backoff::default();
        while !self.stop.quiesce.get() {
            if let Some(session) = self.open() {
                backoff.reset();
                *self.session.borrow_mut() = Some(session.clone());
                self.sim
                    .spawn(self.me, self.clone().settle_all(session.clone()));
                self.receive(&session).await;
                if self.stop.quiesce.get() {
                    break;
                }
                self.sim.with(|world| world.close(session.connection));
            }
            let wait = backoff.next_wait(&self.sim);
            self.sim.wait(Bell::Process(self.me), wait).await;
        }
        let session = self.session.borrow().clone();
        if let Some(session) = &session {
            self.sim.with(|world| {
                for (_, channel) in &session.lanes {
                    world.broker.cancel(*channel);
                }
            });
        }
        self.drain().await;
        if let Some(session) = session {
            while !session.outbox.borrow().is_empty() && self.is_open(&session) {
                self.until_rung().await;
            }
            self.sim.with(|world| world.close(session.connection));
        }
    }

    fn open(&self) -> Option<Rc<Session>> {
        self.sim.with(|world| {
            let connection = world.connect(self.me)?;
            world.declare();
            let mut lanes = Vec::new();
            for queue in world.plan.queues.clone() {
                let (name, prefetch) = (work_queue(queue.as_str()), world.plan.prefetch);
                let channel = world
                    .broker
                    .subscribe(connection, &name, prefetch, world.now)?;
                lanes.push((name, channel));
            }
            Some(Rc::new(Session {
                connection,
                lanes,
                outbox: RefCell::default(),
            }))
        })
    }

    fn is_open(&self, session: &Session) -> bool {
        self.sim
            .with(|world| world.broker.is_open(session.connection))
    }

    /// Takes deliveries from all queues until the connection ends.
    async fn receive(&self, session: &Rc<Session>) {
        while self.is_open(session) && !self.stop.quiesce.get() {
            let mut any = false;
            for (lane, channel) in &session.lanes {
                any |= self.receive_one(session, lane, *channel);
                self.sim.step().await;
            }
            if !any {
                self.sim.wait(Bell::Broker, 500).await;
            }
        }
    }

    fn receive_one(&self, session: &Rc<Session>, lane: &str, channel: ChannelId) -> bool {
        let prefetch = self.sim.with(|world| world.plan.prefetch);
        // Room first: after a lost connection the jobs of the old one still run.
        if self
            .room
            .borrow()
            .get(lane)
            .is_some_and(|taken| *taken >= prefetch)
        {
            return false;
        }
        let delivery = self.sim.with(|world| world.broker.next(channel, world.now));
        let Some(delivery) = delivery else {
            return false;
        };
        let receipt = Receipt {
            session: session.clone(),
            lane: lane.to_owned(),
            channel,
            tag: delivery.tag,
        };
        let parcel = delivery.message;
        let is_unknown = parcel.kind == "sms"
            && self
                .sim
                .with(|world| world.now < world.plan.one_kind_until && self.me % 2 == 1);
        if is_unknown {
            self.settle(receipt, Settle::DeadLetter);
            return true;
        }
        let before = self.in_flight.borrow_mut().insert(parcel.job, receipt);
        match before {
            // The one before is done with; the job is settled over the new one.
            Some(before) => self.settle(before, Settle::Ack),
            None => {
                *self.room.borrow_mut().entry(lane.to_owned()).or_default() += 1;
                self.asking.borrow_mut().push_back(parcel);
                self.ring();
            }
        }
        true
    }

    /// Over the channel that made the delivery, or not at all.
    fn settle(&self, receipt: Receipt, settle: Settle) {
        let Receipt {
            session,
            lane,
            channel,
            tag,
        } = receipt;
        if self.is_open(&session) {
            session
                .outbox
                .borrow_mut()
                .push_back((channel, tag, settle));
        } else if self.sim.with(|world| world.has_bug(Bug::StaleAck)) {
            let newer = self.session.borrow().clone();
            if let Some(newer) = newer {
                let same = newer.lanes.iter().find(|(other, _)| *other == lane);
                let channel = same.map_or(channel, |(_, channel)| *channel);
                newer.outbox.borrow_mut().push_back((channel, tag, settle));
            }
        }
        self.ring();
    }

    async fn settle_all(self: Rc<Self>, session: Rc<Session>) {
        while self.is_open(&session) {
            let next = session.outbox.borrow_mut().pop_front();
            match next {
                Some((channel, tag, settle)) => {
                    self.sim.step().await;
                    self.sim.with(|world| {
                        let was_open = world.broker.has_channel(channel);
                        world.broker.settle(channel, tag, settle, world.now);
                        if was_open && !world.broker.has_channel(channel) {
                            let what = "a delivery was settled that its channel did not have";
                            world.violations.push(what.to_owned());
                            world.ring_all();
                        }
                        world.ring(Bell::Broker);
                    });
                    self.ring();
                }
                None => self.until_rung().await,
            }
        }
    }

    /// Settles a job over its newest delivery; it is in hand no longer.
    pub(super) fn redeem(&self, job: Fenced, settle: Settle) {
        let receipt = self.in_flight.borrow_mut().remove(&job);
        if let Some(receipt) = receipt {
            self.settle(receipt, settle);
        }
    }
}
