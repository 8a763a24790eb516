//! What RabbitMQ's quorum queues do with Postroad's topology, without RabbitMQ.
//!
//! Messages are pushed to consumers up to their prefetch, as the real ones are. A connection that
//! ends gives back what was in hand, marked as delivered before. What is rejected, waits too long,
//! or is given back too often goes to the dead-letter queue with the reason, and waits where it is
//! while that queue does not exist (`at-least-once`). `tests/conformance.rs` holds the model to a
//! real broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use postroad_common::broker::topology::{DEAD_QUEUE, PARKED_QUEUE};
use postroad_common::broker::{DeathReason, Published, Settle};

use super::model_store::Millis;
use crate::history::QueueDepth;

/// Times that a message of a job is given back before the broker gives it up.
const WORK_DELIVERY_LIMIT: u32 = 20;
const DEAD_DELIVERY_LIMIT: u32 = 100;
const PARKED_DELIVERY_LIMIT: u32 = 1_000_000;

/// A connection. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// A channel with one consumer on it. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelId(u64);

/// A message in somebody's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<M> {
    /// Its number on its channel.
    pub tag: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Why the broker dead-lettered it, if it did.
    pub death: Option<DeathReason>,
    /// The message.
    pub message: M,
}

/// What the broker may do to a message without breaking a promise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mischief {
    /// The message arrives twice.
    pub is_doubled: bool,
    /// It overtakes so many others.
    pub overtakes: usize,
}

#[derive(Clone, Debug)]
struct Stored<M> {
    message: M,
    returns: u32,
    expires_at: Option<Millis>,
    death: Option<DeathReason>,
}

#[derive(Clone, Debug)]
struct Consumer<M> {
    connection: ConnectionId,
    queue: String,
    prefetch: usize,
    next_tag: u64,
    unacked: BTreeMap<u64, Stored<M>>,
    inbox: VecDeque<u64>,
    is_cancelled: bool,
}

#[derive(Clone, Debug)]
struct Queue<M> {
    ready: VecDeque<Stored<M>>,
    delivery_limit: u32,
    dead_letters_to: Option<&'static str>,
    /// Dead letters whose queue does not exist.
    stranded: Vec<Stored<M>>,
    served: usize,
}

/// The model.
#[derive(Clone, Debug)]
pub struct ModelBroker<M> {
    queues: BTreeMap<String, Queue<M>>,
    connections: BTreeSet<ConnectionId>,
    channels: BTreeMap<ChannelId, Consumer<M>>,
    next_id: u64,
    /// Messages that a queue of jobs may hold ready.
    length_max: usize,
}

impl<M: Clone> Default for ModelBroker<M> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            connections: BTreeSet::new(),
            channels: BTreeMap::new(),
            next_id: 0,
            length_max: usize::MAX,
        }
    }
}

impl<M: Clone> ModelBroker<M> {
    /// Opens a connection.
    pub fn connect(&mut self) -> ConnectionId {
        self.next_id += 1;
        let id = ConnectionId(self.next_id);
        self.connections.insert(id);
        id
    }

    /// Whether the connection is there.
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection)
    }

    /// Every open connection.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.connections.iter().copied().collect()
    }

    /// Ends a connection, whoever wanted it: what was in hand on it is given back.
    pub fn close(&mut self, connection: ConnectionId, now: Millis) {
        self.connections.remove(&connection);
        let is_on_it = |(_, channel): &(&ChannelId, &Consumer<M>)| channel.connection == connection;
        let channels: Vec<_> = self
            .channels
            .iter()
            .filter(is_on_it)
            .map(|(id, _)| *id)
            .collect();
        for id in channels {
            let Some(mut channel) = self.channels.remove(&id) else {
                continue;
            };
            // Backwards, so that the oldest comes to stand first again.
            while let Some((_, stored)) = channel.unacked.pop_last() {
                self.give_back(&channel.queue, stored);
            }
        }
        self.deliver_all(now);
    }

    /// Makes the queues that everybody needs and one for each name, where they are missing.
    pub fn declare<'a>(&mut self, work: impl IntoIterator<Item = &'a str>, now: Millis) {
        let work = work
            .into_iter()
            .map(|name| (name, WORK_DELIVERY_LIMIT, Some(DEAD_QUEUE)));
        let fixed = [
            (DEAD_QUEUE, DEAD_DELIVERY_LIMIT, Some(PARKED_QUEUE)),
            (PARKED_QUEUE, PARKED_DELIVERY_LIMIT, None),
        ];
        for (name, delivery_limit, dead_letters_to) in work.chain(fixed) {
            let queue = || Queue {
                ready: VecDeque::new(),
                delivery_limit,
                dead_letters_to,
                stranded: Vec::new(),
                served: 0,
            };
            self.queues.entry(name.to_owned()).or_insert_with(queue);
        }
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            let queue = self.queues.get_mut(&name).expect("was just listed");
            for stored in std::mem::take(&mut queue.stranded) {
                self.bury(&name, stored);
            }
        }
        self.deliver_all(now);
    }

    /// Refuses what would make a queue of jobs longer.
    pub fn limit_length(&mut self, messages: usize) {
        self.length_max = messages;
    }

    /// Takes a message for a queue. What it answers is the confirm; whether anybody hears it is
    /// for the caller to say.
    pub fn publish(
        &mut self,
        queue: &str,
        message: M,
        expires_at: Option<Millis>,
        mischief: Mischief,
        now: Millis,
    ) -> Published {
        self.expire(now);
        let length_max = self.length_max;
        let Some(target) = self.queues.get_mut(queue) else {
            return Published::Returned;
        };
        let is_work = target.dead_letters_to == Some(DEAD_QUEUE);
        if is_work && target.ready.len() >= length_max {
            return Published::Nacked;
        }
        let stored = Stored {
            message,
            returns: 0,
            expires_at,
            death: None,
        };
        let copy = mischief.is_doubled.then(|| stored.clone());
        let at = target.ready.len().saturating_sub(mischief.overtakes);
        target.ready.insert(at, stored);
        target.ready.extend(copy);
        self.deliver(queue, now);
        Published::Confirmed
    }

    /// Consumes a queue. None: there is no such queue, or no such connection.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        queue: &str,
        prefetch: usize,
        now: Millis,
    ) -> Option<ChannelId> {
        if !self.is_open(connection) || !self.queues.contains_key(queue) {
            return None;
        }
        self.next_id += 1;
        let id = ChannelId(self.next_id);
        let consumer = Consumer {
            connection,
            queue: queue.to_owned(),
            prefetch,
            next_tag: 1,
            unacked: BTreeMap::new(),
            inbox: VecDeque::new(),
            is_cancelled: false,
        };
        self.channels.insert(id, consumer);
        self.deliver(queue, now);
        Some(id)
    }

    /// Delivers no more to a consumer; what it has can still be settled.
    pub fn cancel(&mut self, channel: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.is_cancelled = true;
        }
    }

    /// The next message that has been pushed to a consumer.
    pub fn next(&mut self, channel: ChannelId, now: Millis) -> Option<Delivery<M>> {
        self.expire(now);
        let channel = self.channels.get_mut(&channel)?;
        let tag = channel.inbox.pop_front()?;
        let stored = channel.unacked.get(&tag)?;
        Some(Delivery {
            tag,
            redelivered: stored.returns > 0,
            death: stored.death,
            message: stored.message.clone(),
        })
    }

    /// Whether a channel is there.
    pub fn has_channel(&self, channel: ChannelId) -> bool {
        self.channels.contains_key(&channel)
    }

    /// Settles a delivery. A tag that the channel does not know costs its connection.
    pub fn settle(&mut self, channel: ChannelId, tag: u64, settle: Settle, now: Millis) {
        let Some(consumer) = self.channels.get_mut(&channel) else {
            return;
        };
        let (queue, connection) = (consumer.queue.clone(), consumer.connection);
        match (consumer.unacked.remove(&tag), settle) {
            (None, _) => return self.close(connection, now),
            (Some(_), Settle::Ack) => {}
            (Some(stored), Settle::DeadLetter) => {
                self.die(&queue, stored, DeathReason::Rejected);
            }
            (Some(stored), Settle::Requeue) => self.give_back(&queue, stored),
        }
        self.deliver_all(now);
    }

    /// Everything is gone: messages, queues, connections.
    pub fn wipe(&mut self) {
        self.queues.clear();
        self.channels.clear();
        self.connections.clear();
    }

    /// Ends every connection; what the queues hold is on disk.
    pub fn restart(&mut self, now: Millis) {
        for connection in self.connections() {
            self.close(connection, now);
        }
    }

    /// What every queue holds.
    pub fn depths(&mut self, now: Millis) -> Vec<QueueDepth> {
        self.expire(now);
        let mut depths = Vec::new();
        for (name, queue) in &self.queues {
            let unacked = self
                .channels
                .values()
                .filter(|channel| channel.queue == *name);
            depths.push(QueueDepth {
                queue: name.clone(),
                ready: (queue.ready.len() + queue.stranded.len()) as u64,
                unacked: unacked.map(|channel| channel.unacked.len() as u64).sum(),
                may_hold: name == PARKED_QUEUE,
            });
        }
        depths
    }

    /// How many messages the queues of jobs hold, ready and in somebody's hands.
    pub fn work_messages(&mut self, now: Millis) -> u64 {
        let depths = self.depths(now);
        let work = depths
            .iter()
            .filter(|depth| depth.queue != DEAD_QUEUE && !depth.may_hold);
        work.map(|depth| depth.ready + depth.unacked).sum()
    }

    fn give_back(&mut self, queue: &str, mut stored: Stored<M>) {
        stored.returns += 1;
        let Some(target) = self.queues.get_mut(queue) else {
            return;
        };
        if stored.returns > target.delivery_limit {
            self.die(queue, stored, DeathReason::DeliveryLimit);
        } else {
            target.ready.push_front(stored);
        }
    }

    /// Dead-letters what waits at the head of a queue for longer than it may.
    fn expire(&mut self, now: Millis) {
        let mut has_died = false;
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            let is_late = |head: &Stored<M>| head.expires_at.is_some_and(|at| at <= now);
            while let Some(queue) = self.queues.get_mut(&name) {
                if queue.ready.front().is_none_or(|head| !is_late(head)) {
                    break;
                }
                let stored = queue.ready.pop_front().expect("the head was just seen");
                self.die(&name, stored, DeathReason::Expired);
                has_died = true;
            }
        }
        if has_died {
            self.deliver_all(now);
        }
    }

    fn die(&mut self, queue: &str, mut stored: Stored<M>, reason: DeathReason) {
        stored.death = Some(reason);
        // RabbitMQ takes the expiration off a dead letter.
        (stored.expires_at, stored.returns) = (None, 0);
        self.bury(queue, stored);
    }

    fn bury(&mut self, queue: &str, stored: Stored<M>) {
        let Some(to) = self
            .queues
            .get(queue)
            .and_then(|queue| queue.dead_letters_to)
        else {
            return;
        };
        let to = match self.queues.contains_key(to) {
            true => to,
            false => queue,
        };
        let is_stranded = to == queue;
        let target = self.queues.get_mut(to).expect("was just looked for");
        match is_stranded {
            true => target.stranded.push(stored),
            false => target.ready.push_back(stored),
        }
    }

    fn deliver_all(&mut self, now: Millis) {
        for name in self.queues.keys().cloned().collect::<Vec<_>>() {
            self.deliver(&name, now);
        }
    }

    /// Pushes ready messages to the consumers in turn, as long as any has room.
    fn deliver(&mut self, name: &str, now: Millis) {
        while let Some(queue) = self.queues.get_mut(name) {
            let has_room = |(_, channel): &(&ChannelId, &mut Consumer<M>)| {
                channel.queue == name
                    && !channel.is_cancelled
                    && channel.unacked.len() < channel.prefetch
            };
            let mut open: Vec<_> = self.channels.iter_mut().filter(has_room).collect();
            let is_expired = |stored: &Stored<M>| stored.expires_at.is_some_and(|at| at <= now);
            if open.is_empty() || queue.ready.front().is_none_or(is_expired) {
                return;
            }
            let stored = queue.ready.pop_front().expect("the head was just seen");
            queue.served += 1;
            let next = queue.served % open.len();
            let (_, channel) = &mut open[next];
            let tag = channel.next_tag;
            channel.next_tag += 1;
            channel.unacked.insert(tag, stored);
            channel.inbox.push_back(tag);
        }
    }
}
