//! The broker's side of a worker: one connection, one consumer per queue, rebuilt whole whenever
//! any part of it ends.
//!
//! When an operator changes the prefetch of a queue, a consumer with the new one takes over from the
//! one that there is: what that has not begun goes back, and what it runs is settled where it came from.
//!
//! A message that cannot be read, or whose kind this worker does not know, is rejected at once: the
//! scheduler takes it from the dead-letter queue and parks it or schedules it again.
//!
//! The prefetch is how many messages RabbitMQ hands out, and how many jobs run: the jobs of a bundle
//! wait here, each for a place of its own.

use std::time::Instant;
use std::vec;

use futures_util::future::{join_all, select_all};
use postroad_common::backoff::Backoff;
use postroad_common::broker::{
    Broker, Connection, Delivery, Error, Settle, Settler, Subscription, topology,
};
use postroad_common::failpoint;
use postroad_common::health::Health;
use postroad_common::shutdown::Shutdown;
use tokio::sync::watch;

use crate::inflight;
use crate::intake::{Intake, Received};
use crate::metrics;
use crate::prefetch::{Place, Prefetch};

pub(crate) const HEALTH: &str = "rabbitmq_consume";

/// Consumes the worker's queues until it stops.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: watch::Receiver<Prefetch>,
    pub(crate) consumer_tag: String,
    pub(crate) intake: Intake,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
}

impl Consumer {
    /// Consumes until the worker stops. What is left is the session whose deliveries are still in
    /// hand: keep it until they are settled.
    pub(crate) async fn run(self) -> Option<Session> {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_requested() {
            match self.open().await {
                Ok(mut session) => {
                    self.health.good(HEALTH);
                    backoff.reset();
                    tokio::select! {
                        error = session.receive(&self) => {
                            self.health.bad(HEALTH, error);
                            // Channels live on in the hands of running jobs and would hold on to
                            // deliveries that others could run: closing takes them away at once.
                            tokio::spawn(session.connection.close());
                        }
                        () = self.shutdown.quiesce.cancelled() => {
                            session.give_back().await;
                            return Some(session);
                        }
                    }
                }
                Err(error) => self.health.bad(HEALTH, error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = self.shutdown.quiesce.cancelled() => {}
            }
        }
        None
    }

    async fn open(&self) -> Result<Session, Error> {
        let connection = self.broker.connect("consume").await?;
        topology::declare(&connection, &self.queues).await?;
        let mut lanes = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            lanes.push(self.open_lane(&connection, queue).await?);
        }
        Ok(Session { connection, lanes })
    }

    async fn open_lane(&self, connection: &Connection, queue: &str) -> Result<Lane, Error> {
        let prefetch = self.prefetch.borrow().of(queue);
        let name = topology::work_queue(queue);
        let subscription =
            Subscription::open(connection, &name, prefetch, &self.consumer_tag).await?;
        self.intake.room(queue).resize(prefetch);
        Ok(Lane {
            queue: queue.to_owned(),
            prefetch,
            inbox: Inbox {
                subscription,
                opened: Vec::new().into_iter(),
            },
        })
    }
}

/// A queue that is consumed.
struct Lane {
    queue: String,
    prefetch: u16,
    inbox: Inbox,
}

/// What is delivered from a queue, job by job.
struct Inbox {
    subscription: Subscription,
    /// What is left of the delivery that came last: jobs that wait for a place.
    opened: vec::IntoIter<Received>,
}

impl Lane {
    /// Takes deliveries until the subscription ends.
    async fn receive(&mut self, connection: &Connection, consumer: &Consumer) -> Error {
        loop {
            if let Err(error) = self.receive_one(connection, consumer).await {
                return error;
            }
        }
    }

    async fn receive_one(
        &mut self,
        connection: &Connection,
        consumer: &Consumer,
    ) -> Result<(), Error> {
        let intake = &consumer.intake;
        tokio::select! {
            received = self.inbox.next(&self.queue, intake) => {
                let (place, received) = received?;
                intake.take(&self.queue, place, received).await;
            }
            () = is_changed(consumer.prefetch.clone(), &self.queue, self.prefetch) => {
                let lane = consumer.open_lane(connection, &self.queue).await?;
                tracing::info!("{} jobs of {} at once from now on, {} before",
                    lane.prefetch, lane.queue, self.prefetch);
                let mut before = std::mem::replace(self, lane);
                before.inbox.give_back().await?;
            }
        }
        Ok(())
    }
}

impl Inbox {
    /// The next job, and a place to run it. Nothing is lost if this is given up: a delivery that was
    /// being rejected comes again when the channel ends.
    async fn next(&mut self, queue: &str, intake: &Intake) -> Result<(Place, Received), Error> {
        // Room first: after a lost connection the jobs of the old one still run.
        let of_queue = intake.room(queue).enter().await;
        loop {
            if !self.opened.as_slice().is_empty() {
                // And not before there is a job: other queues of the provider may have one.
                let of_provider = intake.enter_provider(queue).await;
                if let Some(received) = self.opened.next() {
                    return Ok((Place::new(of_queue, of_provider), received));
                }
            }
            let delivery = self.subscription.next().await?;
            let settler = self.subscription.settler();
            match open(delivery, &settler) {
                Ok(jobs) => self.opened = jobs.into_iter(),
                Err(tag) => settler.settle(vec![(tag, Settle::DeadLetter)]).await,
            }
        }
    }

    /// Takes no more; what was not begun goes to others now.
    async fn give_back(&mut self) -> Result<(), Error> {
        if let Some(left) = self.opened.next() {
            left.receipt.give_back().await;
        }
        self.opened = Vec::new().into_iter();
        self.subscription.give_back().await
    }
}

/// The jobs in a delivery; or its tag, if nobody can read it.
fn open(delivery: Delivery, settler: &Settler) -> Result<Vec<Received>, u64> {
    let Delivery {
        tag,
        redelivered,
        message,
    } = delivery;
    if redelivered {
        metrics::redelivered();
    }
    failpoint!("consumer.delivered");
    let jobs = message.into_jobs().map_err(|unreadable| {
        metrics::rejected(unreadable.code());
        tracing::warn!("rejecting a message that cannot be read: {unreadable}");
        tag
    })?;
    let receipts = inflight::receipts(settler.clone(), tag, jobs.len());
    let taken_at = Instant::now();
    let received = |(job, receipt)| Received {
        job,
        receipt,
        taken_at,
    };
    Ok(jobs.into_iter().zip(receipts).map(received).collect())
}

/// Resolves when the prefetch of a queue is another one.
async fn is_changed(mut prefetch: watch::Receiver<Prefetch>, queue: &str, from: u16) {
    // What it resolves to is a lock on the settings, and must not live on.
    if prefetch
        .wait_for(|now| now.of(queue) != from)
        .await
        .is_err()
    {
        // Nobody reads settings any more: the worker is about to stop.
        std::future::pending::<()>().await;
    }
}

/// One connection's life.
pub(crate) struct Session {
    connection: Connection,
    lanes: Vec<Lane>,
}

impl Session {
    /// Takes deliveries from all queues until one of them ends.
    async fn receive(&mut self, consumer: &Consumer) -> Error {
        let connection = &self.connection;
        let lanes = self.lanes.iter_mut();
        let lanes = lanes.map(|lane| Box::pin(lane.receive(connection, consumer)));
        select_all(lanes).await.0
    }

    /// Takes no more; what was not begun goes to others now, and not when the rest has ended.
    async fn give_back(&mut self) {
        let lanes = self.lanes.iter_mut();
        for given in join_all(lanes.map(|lane| lane.inbox.give_back())).await {
            if let Err(error) = given {
                tracing::debug!("{error}");
            }
        }
    }

    /// Closes when every settle handed in has been written, also those of jobs that began before
    /// the prefetch was changed. Nobody may have a delivery in hand any more.
    pub(crate) async fn close(self) {
        drop(self.lanes);
        if let Err(error) = self.connection.close_settled().await {
            tracing::debug!("{error}");
        }
    }
}
