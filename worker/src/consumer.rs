//! The broker's side of a worker: one connection, one consumer per queue, rebuilt whole whenever
//! any part of it ends.
//!
//! A message that cannot be read, or whose kind this worker does not know, is rejected at once: the
//! scheduler takes it from the dead-letter queue and parks it or schedules it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use postroad_common::backoff::Backoff;
use postroad_common::broker::{
    Broker, Connection, Delivery, Error, Settle, Subscription, topology,
};
use postroad_common::failpoint;
use postroad_common::health::Health;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::Fenced;
use tokio::sync::{Semaphore, mpsc};

use crate::gate::Asking;
use crate::inflight::{InFlight, Receipt, Taken};
use crate::metrics;
use crate::registry::Registry;

pub(crate) const HEALTH: &str = "rabbitmq_consume";

/// Consumes the worker's queues until it stops.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: Prefetch,
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
                        error = session.receive(&self.intake) => {
                            self.health.bad(HEALTH, error);
                            // Channels live on in the hands of running jobs and would hold on to
                            // deliveries that others could run: closing takes them away at once.
                            tokio::spawn(session.connection.close());
                        }
                        () = self.shutdown.quiesce.cancelled() => {
                            session.cancel().await;
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
            let name = topology::work_queue(queue);
            let subscription = Subscription::open(
                &connection,
                &name,
                self.prefetch.of(queue),
                &self.consumer_tag,
            )
            .await?;
            lanes.push((queue.clone(), subscription));
        }
        Ok(Session { connection, lanes })
    }
}

/// How many jobs of each queue run at once here.
pub(crate) struct Prefetch {
    default: u16,
    of_queue: BTreeMap<String, u16>,
}

impl Prefetch {
    /// As the worker is configured, but for queues that somebody has set.
    pub(crate) fn new(default: u16, set: Vec<(String, u16)>) -> Self {
        Self {
            default,
            of_queue: set.into_iter().collect(),
        }
    }

    fn of(&self, queue: &str) -> u16 {
        self.of_queue.get(queue).copied().unwrap_or(self.default)
    }
}

/// One connection's life.
pub(crate) struct Session {
    connection: Connection,
    lanes: Vec<(String, Subscription)>,
}

impl Session {
    /// Takes deliveries from all queues until one of them ends.
    async fn receive(&mut self, intake: &Intake) -> Error {
        let lanes = self.lanes.iter_mut().map(|(queue, subscription)| {
            Box::pin(async move {
                loop {
                    if let Err(error) = intake.next(queue, subscription).await {
                        return error;
                    }
                }
            })
        });
        select_all(lanes).await.0
    }

    async fn cancel(&self) {
        for cancelled in join_all(self.lanes.iter().map(|(_, lane)| lane.cancel())).await {
            if let Err(error) = cancelled {
                tracing::debug!("{error}");
            }
        }
    }

    /// Waits until every settle handed in has been written, then closes: the broker gives what was
    /// not started to others.
    pub(crate) async fn close(self) {
        for (_, lane) in &self.lanes {
            lane.settler().flush().await;
        }
        if let Err(error) = self.connection.close().await {
            tracing::debug!("{error}");
        }
    }
}

/// From a delivery to the gate.
pub(crate) struct Intake {
    registry: Registry,
    rooms: BTreeMap<String, Arc<Semaphore>>,
    in_flight: InFlight,
    asking: mpsc::Sender<Asking>,
}

impl Intake {
    /// At most `prefetch` jobs of each queue run at once.
    pub(crate) fn new(
        registry: Registry,
        queues: &[String],
        prefetch: &Prefetch,
        asking: mpsc::Sender<Asking>,
    ) -> Self {
        let room = |queue: &String| {
            (
                queue.clone(),
                Arc::new(Semaphore::new(usize::from(prefetch.of(queue)))),
            )
        };
        let rooms = queues.iter().map(room).collect();
        Self {
            registry,
            rooms,
            in_flight: InFlight::default(),
            asking,
        }
    }

    async fn next(&self, queue: &str, subscription: &mut Subscription) -> Result<(), Error> {
        // Room first: after a lost connection the jobs of the old one still run.
        let room = self.rooms[queue].clone();
        let permit = room
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Delivery {
            tag,
            redelivered,
            message,
        } = subscription.next().await?;
        let settler = subscription.settler();
        if redelivered {
            metrics::redelivered();
        }
        failpoint!("consumer.delivered");
        let envelope = match message.into_envelope() {
            Ok(envelope) => envelope,
            Err(unreadable) => {
                metrics::rejected(unreadable.code());
                tracing::warn!("rejecting a message that cannot be read: {unreadable}");
                settler.settle(vec![(tag, Settle::DeadLetter)]).await;
                return Ok(());
            }
        };
        let Some(kind) = self.registry.find(&envelope.kind) else {
            metrics::rejected("unknown_kind");
            tracing::warn!(
                job.kind = envelope.kind.chars().take(80).collect::<String>(),
                "rejecting a job whose kind this worker does not know"
            );
            settler.settle(vec![(tag, Settle::DeadLetter)]).await;
            return Ok(());
        };
        let job = Fenced {
            id: envelope.id,
            dispatch: envelope.dispatch,
        };
        match self.in_flight.take(job, Receipt { settler, tag }) {
            Taken::New(ticket) => {
                // Fails only when the gate has stopped: then the broker delivers it elsewhere.
                drop(
                    self.asking
                        .send(Asking {
                            ticket,
                            kind,
                            envelope,
                            permit,
                        })
                        .await,
                );
            }
            Taken::Again(Receipt { settler, tag }) => {
                settler.settle(vec![(tag, Settle::Ack)]).await;
            }
        }
        Ok(())
    }
}
