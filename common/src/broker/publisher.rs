//! Publishing: one task owns the one confirm channel of a process.
//!
//! The task writes whole batches and goes on to the next while the confirms of the last are under
//! way, up to [`CONFIRM_WINDOW`] of them. A message counts as published when it was confirmed and
//! not returned; a nack, a return, a broken connection or no answer in time all count as *not
//! published*, although the message may exist: whoever asked must be able to live with a copy.
//!
//! One task, because lapin numbers a publish and queues its frames under two locks: two tasks on
//! one channel could swap confirms. Returns are found by `message_id`, because lapin credits a
//! returned message to whichever confirm resolves next.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::codec::{self, RawMessage};
use super::connection::FRAME_OF_OURS_MAX;
use super::topology::{JOBS_EXCHANGE, PARKED_EXCHANGE};
use super::{Broker, CALL_TIMEOUT, Connection, Error, topology, within};
use crate::backoff::Backoff;
use crate::failpoint;
use crate::health::Health;
use crate::message::Envelope;
use crate::shutdown::Shutdown;

/// Messages written and not yet confirmed, at most. 100 instead of 2,000 costs 40 % more CPU per
/// message; far more makes lapin's scan of pending tags slow.
pub const CONFIRM_WINDOW: usize = 2000;

/// Batches waiting for the publisher, at most.
const BATCHES_WAITING: usize = 4;

const HEALTH: &str = "rabbitmq_publish";

/// A message to be published.
#[derive(Debug)]
pub struct Outgoing {
    exchange: &'static str,
    routing_key: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Outgoing {
    /// One attempt of a job, for the workers of `queue`, that may wait in the pipe for
    /// `expiration`. `timestamp` is in Unix seconds.
    pub fn job(queue: &str, envelope: Envelope, expiration: Duration, timestamp: u64) -> Self {
        Self {
            exchange: JOBS_EXCHANGE,
            routing_key: queue.to_owned(),
            properties: codec::properties(&envelope, expiration, timestamp),
            body: envelope.body,
        }
    }

    /// One attempt each of several jobs of `queue`, as [`Outgoing::job`] sends one.
    pub fn bundle(queue: &str, jobs: &[Envelope], expiration: Duration, timestamp: u64) -> Self {
        Self {
            exchange: JOBS_EXCHANGE,
            routing_key: queue.to_owned(),
            properties: codec::bundle_properties(jobs.len(), expiration, timestamp),
            body: codec::bundle_body(jobs),
        }
    }

    /// A message that nobody can read, for people to look at.
    pub fn parked(message: RawMessage, reason: &str) -> Self {
        let (properties, body) = message.parked(reason);
        Self {
            exchange: PARKED_EXCHANGE,
            routing_key: String::new(),
            properties,
            body,
        }
    }

    /// How a return of this message is recognised.
    fn key(&self) -> String {
        message_id(&self.properties)
    }
}

fn message_id(properties: &BasicProperties) -> String {
    properties
        .message_id()
        .as_ref()
        .map(|id| id.as_str().to_owned())
        .unwrap_or_default()
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in a queue.
    Confirmed,
    /// The broker took it and found no queue for it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// Nobody can say.
    Unknown,
}

struct Batch {
    messages: Vec<Outgoing>,
    report: oneshot::Sender<Vec<Published>>,
}

/// The way to the publishing task.
#[derive(Clone, Debug)]
pub struct Publisher {
    batches: mpsc::Sender<Batch>,
    ready: watch::Receiver<bool>,
}

impl Publisher {
    /// Starts the publishing task, which ends when the last handle is gone.
    ///
    /// Every time it connects, it declares the topology of the queues that `queues` then names.
    pub fn spawn(
        broker: Broker,
        queues: watch::Receiver<Vec<String>>,
        health: Health,
        shutdown: Shutdown,
    ) -> Self {
        health.expect(HEALTH);
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING);
        let (told, ready) = watch::channel(false);
        tokio::spawn(supervise(broker, queues, receiver, told, health, shutdown));
        Self { batches, ready }
    }

    /// Whether publishing is worth a try: connected, and not blocked by the broker.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Publishes a batch; says for each message what became of it, within a bounded time.
    pub async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Published> {
        let unknown = vec![Published::Unknown; messages.len()];
        let (report, answer) = oneshot::channel();
        if self.batches.send(Batch { messages, report }).await.is_err() {
            return unknown;
        }
        answer.await.unwrap_or(unknown)
    }
}

async fn supervise(
    broker: Broker,
    mut queues: watch::Receiver<Vec<String>>,
    mut batches: mpsc::Receiver<Batch>,
    ready: watch::Sender<bool>,
    health: Health,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::default();
    while !shutdown.cancel.is_cancelled() {
        let Some(connected) = refusing(connect(&broker, &mut queues), &mut batches).await else {
            return;
        };
        match connected {
            Ok((connection, channel)) => {
                health.good(HEALTH);
                let mut session = Session::new(broker.clone(), connection, channel, queues.clone());
                let end = session.run(&mut batches, &ready, &health).await;
                ready.send_replace(false);
                // Connecting alone proves nothing: a missing exchange refuses every message.
                if session.has_confirmed {
                    backoff.reset();
                }
                match end {
                    End::NobodyAsks => return,
                    End::Broken(error) => health.bad(HEALTH, error),
                }
            }
            Err(error) => health.bad(HEALTH, error),
        }
        let rest = tokio::time::sleep(backoff.next_wait());
        if refusing(rest, &mut batches).await.is_none() {
            return;
        }
    }
}

/// Answers everything that is asked while `work` is under way with "unknown". None: nobody asks
/// any more.
async fn refusing<T>(
    work: impl Future<Output = T>,
    batches: &mut mpsc::Receiver<Batch>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            batch = batches.recv() => match batch {
                // Dropping the sender of the report says "unknown".
                Some(batch) => drop(batch),
                None => return None,
            },
        }
    }
}

async fn connect(
    broker: &Broker,
    queues: &mut watch::Receiver<Vec<String>>,
) -> Result<(Connection, Channel), Error> {
    let connection = broker.connect_with(FRAME_OF_OURS_MAX, "publish").await?;
    let names = queues.borrow_and_update().clone();
    topology::declare(&connection, &names).await?;
    let channel = connection.channel().await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    within("asking for confirms", select).await?;
    Ok((connection, channel))
}

enum End {
    NobodyAsks,
    Broken(Error),
}

/// A confirm that came in: of which batch, at which place in it, and what it said.
type Confirmed = (u64, usize, lapin::Result<Confirmation>);

/// One connection's life.
struct Session {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    queues: watch::Receiver<Vec<String>>,
    pending: HashMap<u64, Pending>,
    next_batch: u64,
    unconfirmed: usize,
    returned: HashSet<String>,
    has_confirmed: bool,
}

/// A batch that has been written.
struct Pending {
    keys: Vec<String>,
    outcomes: Vec<Option<Published>>,
    open: usize,
    deadline: Instant,
    /// None once whoever asked was told "unknown".
    report: Option<oneshot::Sender<Vec<Published>>>,
}

impl Session {
    fn new(
        broker: Broker,
        connection: Connection,
        channel: Channel,
        queues: watch::Receiver<Vec<String>>,
    ) -> Self {
        Self {
            broker,
            connection,
            channel,
            queues,
            pending: HashMap::new(),
            next_batch: 0,
            unconfirmed: 0,
            returned: HashSet::new(),
            has_confirmed: false,
        }
    }

    /// Publishes until the connection breaks. Batches without an answer are then dropped, which
    /// says "unknown" to whoever asked.
    async fn run(
        &mut self,
        batches: &mut mpsc::Receiver<Batch>,
        ready: &watch::Sender<bool>,
        health: &Health,
    ) -> End {
        let mut blocked = self.connection.blocked();
        let mut confirms = FuturesUnordered::new();
        ready.send_replace(true);
        loop {
            let room = self.unconfirmed < CONFIRM_WINDOW;
            let deadline = self.pending.values().map(|batch| batch.deadline).min();
            let overdue = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(confirm) = confirms.next() => {
                    self.confirmed(confirm);
                    // Everything that has resolved by now, so that a return credited to a later
                    // confirm is known before the batch it belongs to is judged.
                    while let Some(Some(confirm)) = confirms.next().now_or_never() {
                        self.confirmed(confirm);
                    }
                    if let Err(error) = self.report().await {
                        return End::Broken(error);
                    }
                }
                // A blocked broker's session still takes batches, to answer them.
                batch = batches.recv(), if room || blocked.borrow().is_some() => match batch {
                    None => return End::NobodyAsks,
                    // Dropping the batch says "unknown" at once.
                    Some(batch) if blocked.borrow().is_some() => drop(batch),
                    Some(batch) => match self.write(batch, blocked.clone()).await {
                        Ok(written) => confirms.extend(written),
                        Err(error) => return End::Broken(error),
                    },
                },
                changed = blocked.changed() => {
                    let reason = blocked.borrow_and_update().clone();
                    ready.send_replace(reason.is_none());
                    match (changed, reason) {
                        (Ok(()), None) => health.good(HEALTH),
                        (Ok(()), Some(reason)) => {
                            health.bad(HEALTH, format_args!("blocked by RabbitMQ: {reason}"));
                        }
                        (Err(_), _) => return End::Broken(Error::Timeout { operation: "the connection" }),
                    }
                }
                Ok(()) = self.queues.changed() => {
                    if let Err(error) = self.declare().await {
                        return End::Broken(error);
                    }
                }
                // A blocked broker answers nobody; its connection is kept, for closing it would have
                // to wait, too. The confirms may still come, and then find nobody who asks.
                () = overdue => match blocked.borrow().is_some() {
                    true => self.answer_unknown(),
                    false => return End::Broken(Error::Timeout { operation: "confirming" }),
                },
            }
        }
    }

    /// Writes a batch in order; the futures are its confirms.
    async fn write(
        &mut self,
        batch: Batch,
        mut blocked: watch::Receiver<Option<String>>,
    ) -> Result<Vec<impl Future<Output = Confirmed> + use<>>, Error> {
        let number = self.next_batch;
        self.next_batch += 1;
        let Batch { messages, report } = batch;
        let keys: Vec<_> = messages.iter().map(Outgoing::key).collect();
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        // Polled in order by one task, so frames go out in order; one wake-up for all of them.
        let writes = join_all(messages.iter().map(|message| {
            let Outgoing {
                exchange,
                routing_key,
                properties,
                body,
            } = message;
            self.channel.basic_publish(
                (*exchange).into(),
                routing_key.as_str().into(),
                mandatory,
                body,
                properties.clone(),
            )
        }));
        let written = tokio::select! {
            written = timeout(CALL_TIMEOUT, writes) => {
                written.map_err(|_| Error::Timeout { operation: "publishing" })?
            }
            // What was handed over may be written when the block ends; who asked is told "unknown".
            Ok(_) = blocked.wait_for(Option::is_some) => return Ok(Vec::new()),
        };
        let mut confirms = Vec::with_capacity(written.len());
        for (index, confirm) in written.into_iter().enumerate() {
            let confirm = confirm.map_err(|source| Error::Call {
                operation: "publishing",
                source,
            })?;
            confirms.push(async move { (number, index, confirm.await) });
        }
        failpoint!("publisher.written");
        let size = keys.len();
        self.unconfirmed += size;
        let deadline = Instant::now() + CALL_TIMEOUT;
        let outcomes = vec![None; size];
        self.pending.insert(
            number,
            Pending {
                keys,
                outcomes,
                open: size,
                deadline,
                report: Some(report),
            },
        );
        Ok(confirms)
    }

    fn confirmed(&mut self, (number, index, confirmation): Confirmed) {
        self.unconfirmed -= 1;
        let (outcome, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => {
                self.has_confirmed = true;
                (Published::Confirmed, returned)
            }
            Ok(Confirmation::Nack(returned)) => (Published::Nacked, returned),
            // Confirms are always asked for, so this is a connection that broke under us.
            Ok(Confirmation::NotRequested) | Err(_) => (Published::Unknown, None),
        };
        if let Some(message) = returned {
            self.returned
                .insert(message_id(&message.delivery.properties));
        }
        if let Some(batch) = self.pending.get_mut(&number) {
            batch.outcomes[index] = Some(outcome);
            batch.open -= 1;
            failpoint!("publisher.one_confirmed");
        }
    }

    /// Tells whoever asked that nobody knows, and gives the confirms of the overdue batches as long
    /// again: when the block ends they come, or this connection is worth nothing.
    fn answer_unknown(&mut self) {
        let now = Instant::now();
        for batch in self
            .pending
            .values_mut()
            .filter(|batch| batch.deadline <= now)
        {
            batch.report = None;
            batch.deadline = now + CALL_TIMEOUT;
        }
    }

    /// Reports the batches whose last confirm has come.
    async fn report(&mut self) -> Result<(), Error> {
        let complete: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, batch)| batch.open == 0)
            .map(|(n, _)| *n)
            .collect();
        let mut any_returned = false;
        for number in complete {
            let Some(batch) = self.pending.remove(&number) else {
                continue;
            };
            let judge = |(key, outcome): (String, Option<Published>)| {
                let is_returned = self.returned.remove(&key);
                any_returned |= is_returned;
                match outcome.unwrap_or(Published::Unknown) {
                    Published::Confirmed if is_returned => Published::Returned,
                    outcome => outcome,
                }
            };
            let outcomes = batch
                .keys
                .into_iter()
                .zip(batch.outcomes)
                .map(judge)
                .collect();
            // Nobody waits any more when the asker is being shut down.
            drop(batch.report.map(|report| report.send(outcomes)));
        }
        if any_returned {
            // The queue or its binding is missing: the next try finds it.
            self.declare().await?;
        }
        Ok(())
    }

    /// Over a connection of its own. What this user may not declare closes a channel, which lapin
    /// tells everybody who listens to the connection as if that had failed: this session would end
    /// with every new queue.
    async fn declare(&mut self) -> Result<(), Error> {
        let names = self.queues.borrow_and_update().clone();
        let connection = self.broker.connect_to_ask("declare").await?;
        topology::declare(&connection, &names).await.map(drop)
    }
}
