//! Consuming: one consumer, one channel, one task that owns the channel's acks.
//!
//! Delivery tags count from 1 on each channel. The settler acks the unbroken run of settled tags
//! with one `multiple` ack, and settles singly what is done behind a delivery that is not: a slow
//! job holds up nothing but itself. When the channel ends, the settler ends with it, and what was
//! not settled is delivered again; a late settle goes nowhere, never to another channel.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};

use super::codec::RawMessage;
use super::{Connection, Error, within};
use crate::failpoint;

/// What to do with a delivery that has been dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Forget it.
    Ack,
    /// Send it to the dead-letter exchange.
    DeadLetter,
    /// Give it back: it is delivered again, to whoever has room.
    Requeue,
}

/// A message as received, to be settled once by its tag.
#[derive(Debug)]
pub struct Delivery {
    /// Its number on its channel.
    pub tag: u64,
    /// Whether the broker has delivered it before.
    pub redelivered: bool,
    /// The message.
    pub message: RawMessage,
}

/// One consumer on a channel of its own.
pub struct Subscription {
    queue: String,
    channel: Channel,
    consumer: Consumer,
    settler: Settler,
}

impl Subscription {
    /// Consumes from a broker queue with at most `prefetch` deliveries unsettled.
    /// `consumer_tag` tells a reader of the broker's pages who consumes.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        prefetch: u16,
        consumer_tag: &str,
    ) -> Result<Self, Error> {
        let channel = connection.channel().await?;
        // Before the first delivery: the buffer behind the consumer has no other bound.
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        within("setting the prefetch", qos).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(queue.into(), consumer_tag.into(), options, arguments);
        let consumer = within("consuming", consume).await?;
        let settler = Settler::spawn(connection, channel.clone(), prefetch);
        Ok(Self {
            queue: queue.to_owned(),
            channel,
            consumer,
            settler,
        })
    }

    /// The next delivery. An error means that this subscription is over, whatever the cause.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        let delivery = tokio::select! {
            delivery = self.consumer.next() => delivery,
            // Without its settler a subscription would take deliveries and never settle one.
            () = self.settler.requests.closed() => None,
        };
        match delivery {
            Some(Ok(delivery)) => Ok(Delivery {
                tag: delivery.delivery_tag,
                redelivered: delivery.redelivered,
                message: RawMessage {
                    properties: delivery.properties,
                    body: delivery.data,
                },
            }),
            Some(Err(source)) => Err(Error::Call {
                operation: "receiving",
                source,
            }),
            None => Err(Error::DeliveriesEnded {
                queue: self.queue.clone(),
            }),
        }
    }

    /// Settles the deliveries of this subscription.
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// Ends this subscription: nothing more is delivered, and what was and has not been taken goes
    /// back to the queue. What was taken can still be settled.
    pub async fn give_back(&mut self) -> Result<(), Error> {
        let tag = self.consumer.tag();
        let cancel = self
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        within("cancelling the consumer", cancel).await?;
        let mut untaken = Vec::new();
        // Ends with the cancellation, which is behind the last delivery.
        while let Some(delivery) = self.consumer.next().await {
            let delivery = delivery.map_err(|source| Error::Call {
                operation: "receiving",
                source,
            })?;
            untaken.push((delivery.delivery_tag, Settle::Requeue));
        }
        self.settler.settle(untaken).await;
        Ok(())
    }
}

/// Settles the deliveries of one subscription, in any order.
#[derive(Clone, Debug)]
pub struct Settler {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Settle(Vec<(u64, Settle)>),
    /// To be answered when everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Settler {
    fn spawn(connection: &Connection, channel: Channel, prefetch: u16) -> Self {
        // Never full for long: at most `prefetch` deliveries are unsettled at any time.
        let (requests, receiver) = mpsc::channel(usize::from(prefetch).max(1));
        connection.settlers.spawn(settle_all(channel, receiver));
        Self { requests }
    }

    /// Settles deliveries. Does nothing when their channel is gone: then they come again.
    pub async fn settle(&self, batch: Vec<(u64, Settle)>) {
        drop(self.requests.send(Request::Settle(batch)).await);
    }

    /// Whether both settle over the same channel.
    pub fn is_same(&self, other: &Self) -> bool {
        self.requests.same_channel(&other.requests)
    }

    /// Waits until everything handed in so far has been written, or cannot be any more.
    pub async fn flush(&self) {
        let (written, answer) = oneshot::channel();
        if self.requests.send(Request::Flush(written)).await.is_ok() {
            drop(answer.await);
        }
    }
}

async fn settle_all(channel: Channel, mut requests: mpsc::Receiver<Request>) {
    let mut ledger = Ledger::default();
    let mut waiting = Vec::new();
    while requests.recv_many(&mut waiting, REQUESTS_AT_ONCE).await > 0 {
        let (mut settles, mut flushes) = (Vec::new(), Vec::new());
        for request in waiting.drain(..) {
            match request {
                Request::Settle(batch) => settles.extend(batch),
                Request::Flush(written) => flushes.push(written),
            }
        }
        for write in ledger.enter(settles) {
            if let Err(error) = write.send(&channel).await {
                // The subscription ends by itself and reports why.
                tracing::debug!("settling: {error}");
                return;
            }
        }
        failpoint!("settler.written");
        for written in flushes {
            // Whoever asked may have stopped waiting.
            written.send(()).ok();
        }
    }
}

/// Requests that are written together, at most.
const REQUESTS_AT_ONCE: usize = 64;

/// One frame to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    AckUpTo(u64),
    Ack(u64),
    Reject(u64),
    Requeue(u64),
}

impl Write {
    async fn send(self, channel: &Channel) -> Result<(), Error> {
        match self {
            Self::AckUpTo(tag) => {
                within(
                    "acking",
                    channel.basic_ack(tag, BasicAckOptions { multiple: true }),
                )
                .await
            }
            Self::Ack(tag) => {
                within(
                    "acking",
                    channel.basic_ack(tag, BasicAckOptions { multiple: false }),
                )
                .await
            }
            Self::Reject(tag) => {
                let reject = channel.basic_reject(tag, BasicRejectOptions { requeue: false });
                within("rejecting", reject).await
            }
            Self::Requeue(tag) => {
                let requeue = channel.basic_reject(tag, BasicRejectOptions { requeue: true });
                within("giving back", requeue).await
            }
        }
    }
}

/// Which tags of a channel are settled. Pure, and no larger than the prefetch.
#[derive(Debug, Default)]
struct Ledger {
    /// The highest tag that is.
    top: u64,
    /// Those below it that are not.
    open: BTreeSet<u64>,
}

impl Ledger {
    /// The frames that settle these: one ack for the unbroken run of settled tags, and a single one
    /// for each that is done behind one that is not.
    fn enter(&mut self, settles: Vec<(u64, Settle)>) -> Vec<Write> {
        let (mut writes, mut acks) = (Vec::new(), Vec::new());
        for (tag, settle) in settles {
            self.close(tag);
            match settle {
                Settle::Ack => acks.push(tag),
                // Before an ack that covers it.
                Settle::DeadLetter => writes.push(Write::Reject(tag)),
                Settle::Requeue => writes.push(Write::Requeue(tag)),
            }
        }
        let unbroken = self.open.first().map_or(self.top, |first| first - 1);
        let (run, ahead): (Vec<_>, Vec<_>) = acks.into_iter().partition(|tag| *tag <= unbroken);
        writes.extend(run.into_iter().max().map(Write::AckUpTo));
        writes.extend(ahead.into_iter().map(Write::Ack));
        writes
    }

    fn close(&mut self, tag: u64) {
        if tag > self.top {
            self.open.extend(self.top + 1..tag);
            self.top = tag;
        } else {
            self.open.remove(&tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn run(ledger: &mut Ledger, batch: &[(u64, Settle)]) -> Vec<Write> {
        ledger.enter(batch.to_vec())
    }

    #[test]
    fn a_job_that_runs_for_long_makes_the_ledger_no_larger() {
        let mut ledger = Ledger::default();
        for tag in 2..100_000 {
            ledger.enter(vec![(tag, Settle::Ack)]);
        }
        assert_eq!(ledger.open, BTreeSet::from([1]));
        assert_eq!(run(&mut ledger, &[(1, Settle::Ack)]), [Write::AckUpTo(1)]);
        assert!(ledger.open.is_empty());
    }

    #[test]
    fn an_unbroken_run_is_one_ack() {
        let mut ledger = Ledger::default();
        let batch: Vec<_> = [3, 1, 2].map(|tag| (tag, Settle::Ack)).into();
        assert_eq!(run(&mut ledger, &batch), [Write::AckUpTo(3)]);
    }

    #[test]
    fn a_slow_delivery_holds_up_only_itself() {
        let mut ledger = Ledger::default();
        assert_eq!(
            run(&mut ledger, &[(2, Settle::Ack), (3, Settle::Ack)]),
            [Write::Ack(2), Write::Ack(3)]
        );
        assert_eq!(run(&mut ledger, &[(1, Settle::Ack)]), [Write::AckUpTo(1)]);
        assert_eq!(run(&mut ledger, &[(4, Settle::Ack)]), [Write::AckUpTo(4)]);
    }

    #[test]
    fn a_rejected_delivery_is_written_before_an_ack_could_cover_it() {
        let mut ledger = Ledger::default();
        let batch = [(1, Settle::Ack), (2, Settle::DeadLetter), (3, Settle::Ack)];
        assert_eq!(
            run(&mut ledger, &batch),
            [Write::Reject(2), Write::AckUpTo(3)]
        );
    }

    proptest! {
        #[test]
        fn every_tag_is_settled_once_and_as_asked(
            order in Just((1..=60u64).collect::<Vec<_>>()).prop_shuffle(),
            settles in proptest::collection::vec(
                prop_oneof![Just(Settle::Ack), Just(Settle::DeadLetter), Just(Settle::Requeue)], 60),
            cuts in proptest::collection::vec(1..10usize, 60),
        ) {
            let settle = |tag: u64| settles[tag as usize - 1];
            let (mut ledger, mut seen, mut rest) = (Ledger::default(), BTreeMap::new(), &order[..]);
            for cut in cuts {
                let (batch, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                let batch: Vec<_> = batch.iter().map(|tag| (*tag, settle(*tag))).collect();
                for write in run(&mut ledger, &batch) {
                    // What the broker does with each frame: it must know every single tag.
                    match write {
                        Write::Ack(tag) => prop_assert_eq!(seen.insert(tag, Settle::Ack), None),
                        Write::Reject(tag) => {
                            prop_assert_eq!(seen.insert(tag, Settle::DeadLetter), None);
                        }
                        Write::Requeue(tag) => {
                            prop_assert_eq!(seen.insert(tag, Settle::Requeue), None);
                        }
                        Write::AckUpTo(top) => {
                            prop_assert!(!seen.contains_key(&top), "acked twice: {}", top);
                            for tag in 1..=top {
                                seen.entry(tag).or_insert(Settle::Ack);
                            }
                        }
                    }
                }
            }
            if rest.is_empty() {
                for tag in 1..=60 {
                    prop_assert_eq!(seen.get(&tag), Some(&settle(tag)));
                }
            }
        }
    }
}
