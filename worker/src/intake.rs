//! A delivered job → the gate, if whom it calls takes one more call.
//!
//! Otherwise it does not keep its place from others (see [`crate::destinations`]): it waits for a moment
//! in a task of its own, or goes back to the schedule. Until it is sent to the gate it has not been
//! started, and nothing is charged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use postroad_common::broker::Settle;
use postroad_common::message::Envelope;
use postroad_common::store::Fenced;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::destinations::{Call, Destinations, PutOff, Turn, Wait};
use crate::gate::Asking;
use crate::inflight::{InFlight, Receipt, Taken};
use crate::metrics;
use crate::prefetch::{Place, ProviderRooms, Room};
use crate::registry::Registry;
use crate::releaser::Release;

/// A job and how to settle its delivery.
pub(crate) struct Received {
    pub(crate) job: Envelope,
    pub(crate) receipt: Receipt,
    /// When its delivery was opened.
    pub(crate) taken_at: Instant,
}

/// Takes jobs in.
pub(crate) struct Intake {
    registry: Registry,
    rooms: BTreeMap<String, (Arc<str>, Room)>,
    provider_rooms: Arc<ProviderRooms>,
    in_flight: InFlight,
    /// None: no destination is limited.
    destinations: Option<Destinations>,
    exits: Exits,
}

/// Where jobs go from here.
#[derive(Clone)]
pub(crate) struct Exits {
    /// Those that may call.
    pub(crate) asking: mpsc::Sender<Asking>,
    /// Those that are to come again.
    pub(crate) releases: mpsc::Sender<Release>,
    /// Those that wait for a moment.
    pub(crate) waiting: TaskTracker,
    /// Cancelled when nothing more is to begin.
    pub(crate) quiesce: CancellationToken,
}

impl Intake {
    /// There is no room for jobs of any queue before it is consumed.
    pub(crate) fn new(
        registry: Registry,
        queues: &[String],
        provider_rooms: Arc<ProviderRooms>,
        destinations: Option<Destinations>,
        exits: Exits,
    ) -> Self {
        let room = |queue: &String| {
            let name = Arc::from(queue.as_str());
            (queue.clone(), (name, Room::default()))
        };
        let rooms = queues.iter().map(room).collect();
        Self {
            registry,
            rooms,
            provider_rooms,
            in_flight: InFlight::default(),
            destinations,
            exits,
        }
    }

    /// The places of one of its queues.
    pub(crate) fn room(&self, queue: &str) -> &Room {
        &self.rooms[queue].1
    }

    /// Waits for a place among the jobs of all queues of its provider, if that has a limit. Nothing is
    /// lost if this is given up.
    pub(crate) async fn enter_provider(&self, queue: &str) -> Option<OwnedSemaphorePermit> {
        self.provider_rooms.enter(queue).await
    }

    pub(crate) async fn take(&self, queue: &str, place: Place, received: Received) {
        let Received {
            job,
            receipt,
            taken_at,
        } = received;
        let Some(kind) = self.registry.find(&job.kind) else {
            metrics::rejected("unknown_kind");
            tracing::warn!(
                job.kind = job.kind.chars().take(80).collect::<String>(),
                "rejecting a job whose kind this worker does not know"
            );
            receipt.settle(Settle::DeadLetter).await;
            return;
        };
        let fenced = Fenced {
            id: job.id,
            dispatch: job.dispatch,
        };
        match self.in_flight.take(fenced, receipt) {
            Taken::New(ticket) => {
                let asking = Asking {
                    ticket,
                    queue: self.rooms[queue].0.clone(),
                    kind,
                    envelope: job,
                    permit: place,
                    call: None,
                    taken_at,
                };
                self.send_on(queue, asking).await;
            }
            Taken::Again(before) => before.settle(Settle::Ack).await,
        }
    }

    async fn send_on(&self, queue: &str, asking: Asking) {
        let turn = match &self.destinations {
            None => Turn::Uncounted,
            Some(destinations) => {
                let destination = asking.kind.destination(&asking.envelope.body);
                let told = self.provider_rooms.places(queue);
                destinations.enter(destination.as_ref(), queue, self.room(queue).places(), told)
            }
        };
        match turn {
            Turn::Uncounted => self.exits.ask(asking, None).await,
            Turn::Now(call) => self.exits.ask(asking, Some(call)).await,
            Turn::Wait(wait) => drop(
                self.exits
                    .waiting
                    .spawn(self.exits.clone().wait(asking, wait)),
            ),
            Turn::Later(put_off) => self.exits.put_off(asking, put_off).await,
        }
    }
}

impl Exits {
    /// Fails only when the gate has stopped: then the broker delivers it elsewhere.
    async fn ask(&self, asking: Asking, call: Option<Call>) {
        drop(self.asking.send(Asking { call, ..asking }).await);
    }

    async fn wait(self, asking: Asking, wait: Wait) {
        tokio::select! {
            biased;
            // Others can run it now, and not only when this worker has ended.
            () = self.quiesce.cancelled() => asking.ticket.give_back().await,
            ended = wait.end() => match ended {
                Ok(call) => self.ask(asking, Some(call)).await,
                Err(put_off) => self.put_off(asking, put_off).await,
            }
        }
    }

    /// Fails only when the worker stops: then the broker delivers it elsewhere.
    async fn put_off(&self, asking: Asking, put_off: PutOff) {
        let Asking { ticket, permit, .. } = asking;
        let release = Release {
            ticket,
            put_off,
            place: permit,
        };
        drop(self.releases.send(release).await);
    }
}
