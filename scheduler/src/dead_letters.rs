//! The dead-letter queue → what each letter says about its job.
//!
//! | letter | the job is | then |
//! |---|---|---|
//! | rejected | failed under the same fence | ruled on by its policy |
//! | rejected | dispatched under the same fence: no worker could take it | scheduled again after a while, error noted, no attempt charged |
//! | expired, delivery limit | dispatched under the same fence | scheduled again, no attempt charged |
//! | any | elsewhere, or under another fence | nothing |
//! | unreadable | – | parked with the reason; a job that it names is scheduled again |
//!
//! A bundle says the same of each job in it. It is rejected when all its jobs have been dealt with
//! and one of them failed or was refused: the others are elsewhere by then.
//!
//! A letter is acked after everything it leads to is committed and, if it is parked, confirmed. So
//! a crash in between repeats it, which the fence makes harmless; a parked message may then appear
//! twice. All schedulers consume from the one queue.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::FutureExt;
use postroad_common::broker::topology::{self, DEAD_QUEUE};
use postroad_common::broker::{
    self, Broker, Connection, DeathReason, Delivery, Outgoing, Published, Publisher, RawMessage,
    Settle, Subscription,
};
use postroad_common::failpoint;
use postroad_common::job::JobId;
use postroad_common::message::{Envelope, Unreadable};
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Fenced, Store};

use crate::metrics;
use crate::retrier;

/// Letters in hand, at most.
const PREFETCH: u16 = 500;
/// Jobs per statement: a letter may name many.
const BATCH: usize = 1000;
/// How long one run waits for a first letter, so that shutdown is never far.
const PATIENCE: Duration = Duration::from_millis(500);
/// Before a job that no worker could take is tried again: long enough for a deployment to go on.
const REFUSED_REST: Duration = Duration::from_secs(60);

/// The service.
pub struct DeadLetters {
    store: Store,
    broker: Broker,
    publisher: Publisher,
    subscription: Option<(Connection, Subscription)>,
    /// Received and not dealt with yet: while Postgres is away they stay here, undelivered to others.
    in_hand: Vec<Delivery>,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An unreadable message could not be put aside.
    #[error("parking an unreadable message: not confirmed")]
    NotParked,
}

/// What a letter is about.
#[derive(Debug, PartialEq, Eq)]
enum Letter {
    Rejected(Vec<Fenced>),
    NeverStarted(Vec<Fenced>),
    Unreadable {
        why: Unreadable,
        job: Option<Fenced>,
    },
}

impl DeadLetters {
    /// Consumes over a connection of its own; parks through `publisher`.
    pub fn new(store: Store, broker: Broker, publisher: Publisher) -> Self {
        Self {
            store,
            broker,
            publisher,
            subscription: None,
            in_hand: Vec::new(),
        }
    }

    async fn subscription(&mut self) -> Result<&mut Subscription, Error> {
        if self.subscription.is_none() {
            let connection = self.broker.connect("consume dead letters").await?;
            // The first connection to a new virtual host, or to one that was wiped.
            topology::declare(&connection, &[]).await?;
            let subscription =
                Subscription::open(&connection, DEAD_QUEUE, PREFETCH, "retrier").await?;
            self.subscription = Some((connection, subscription));
        }
        let (_, subscription) = self.subscription.as_mut().expect("was just set");
        Ok(subscription)
    }

    async fn receive_and_handle(&mut self) -> Result<(), Error> {
        if self.in_hand.is_empty() {
            self.in_hand = self.receive().await?;
        }
        if self.in_hand.is_empty() {
            Ok(())
        } else {
            self.handle().await
        }
    }

    /// The letters that are there; waits a little for the first.
    async fn receive(&mut self) -> Result<Vec<Delivery>, Error> {
        let subscription = self.subscription().await?;
        let Ok(first) = tokio::time::timeout(PATIENCE, subscription.next()).await else {
            return Ok(Vec::new());
        };
        let mut letters = vec![first?];
        while letters.len() < usize::from(PREFETCH) {
            match subscription.next().now_or_never() {
                Some(letter) => letters.push(letter?),
                None => break,
            }
        }
        Ok(letters)
    }

    /// Deals with what is in hand. May be repeated after an error.
    async fn handle(&mut self) -> Result<(), Error> {
        let (mut rejected, mut never_started, mut parked) = (Vec::new(), Vec::new(), Vec::new());
        for Delivery { message, .. } in &self.in_hand {
            match read(message) {
                Letter::Rejected(jobs) => rejected.extend(jobs),
                Letter::NeverStarted(jobs) => {
                    never_started.extend(jobs.into_iter().map(|job| (job, Duration::ZERO)));
                }
                Letter::Unreadable { why, job } => {
                    never_started.extend(job.map(|job| (job, REFUSED_REST)));
                    parked.push((message.clone(), why));
                }
            }
        }
        failpoint!("dead_letters.received");
        for jobs in rejected.chunks(BATCH) {
            self.rule_on_rejected(jobs).await?;
        }
        failpoint!("dead_letters.ruled");
        for jobs in never_started.chunks(BATCH) {
            let released = self.store.release(jobs).await?;
            metrics::released("dead_lettered", released.len());
        }
        self.park(parked).await?;
        failpoint!("dead_letters.before_ack");
        let deliveries = std::mem::take(&mut self.in_hand);
        for delivery in &deliveries {
            metrics::dead_letter(delivery.message.death_reason().as_str());
        }
        let tags = deliveries
            .iter()
            .map(|delivery| (delivery.tag, Settle::Ack))
            .collect();
        self.subscription().await?.settler().settle(tags).await;
        Ok(())
    }

    async fn park(&self, messages: Vec<(RawMessage, Unreadable)>) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let outgoing = |(message, why): &(RawMessage, Unreadable)| {
            tracing::warn!("parking a message that nobody can read: {why}");
            Outgoing::parked(message.clone(), &why.to_string())
        };
        let outcomes = self
            .publisher
            .publish(messages.iter().map(outgoing).collect())
            .await;
        if outcomes
            .iter()
            .any(|outcome| *outcome != Published::Confirmed)
        {
            return Err(Error::NotParked);
        }
        for (_, why) in &messages {
            metrics::parked(why.code());
        }
        Ok(())
    }

    async fn rule_on_rejected(&self, rejected: &[Fenced]) -> Result<(), store::Error> {
        let failed = self.store.failed_of(rejected).await?;
        retrier::rule(&self.store, &failed).await?;
        if failed.len() == rejected.len() {
            return Ok(());
        }
        let failed: HashSet<_> = failed.iter().map(|failed| failed.job).collect();
        let others = rejected.iter().filter(|job| !failed.contains(*job));
        let refused: Vec<_> = others.map(|job| (*job, REFUSED_REST)).collect();
        let released = self.store.release(&refused).await?;
        self.note_refused(&released).await
    }

    async fn note_refused(&self, jobs: &[JobId]) -> Result<(), store::Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        metrics::released("refused_by_worker", jobs.len());
        tracing::warn!(
            jobs = jobs.len(),
            "workers refused jobs before they ran: is their kind deployed on that queue?"
        );
        let text = "no worker of this queue knows the job's kind; tried again in a minute";
        self.store.note_errors(jobs, "refused", text).await
    }
}

fn read(message: &RawMessage) -> Letter {
    let fenced = |job: Envelope| Fenced {
        id: job.id,
        dispatch: job.dispatch,
    };
    let jobs = match message.clone().into_jobs() {
        Ok(jobs) => jobs.into_iter().map(fenced).collect(),
        Err(why) => {
            let job = message.named_job().map(fenced);
            return Letter::Unreadable { why, job };
        }
    };
    match message.death_reason() {
        DeathReason::Rejected => Letter::Rejected(jobs),
        DeathReason::Expired | DeathReason::DeliveryLimit | DeathReason::Other => {
            Letter::NeverStarted(jobs)
        }
    }
}

impl Service for DeadLetters {
    const NAME: &'static str = "dead_letters";
    type Error = Error;

    fn period(&self) -> Duration {
        Duration::ZERO
    }

    async fn run_once(&mut self) -> Result<Progress, Error> {
        let result = self.receive_and_handle().await;
        if let Err(Error::Broker(_)) = &result {
            // What was in hand comes again on the next connection.
            self.subscription = None;
            self.in_hand.clear();
        }
        result.map(|()| Progress::Idle)
    }
}
