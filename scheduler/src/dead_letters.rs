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
//! A letter is acked after everything it leads to is committed and, if it is parked, confirmed. So
//! a crash in between repeats it, which the fence makes harmless; a parked message may then appear
//! twice. All schedulers consume from the one queue.

use std::time::Duration;

use futures_util::FutureExt;
use postroad_common::broker::topology::{self, DEAD_QUEUE};
use postroad_common::broker::{
    self, Broker, Connection, DeathReason, Delivery, Outgoing, Published, Publisher, Settle,
    Subscription,
};
use postroad_common::job::JobId;
use postroad_common::message::Unreadable;
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Fenced, Store};

use crate::metrics;
use crate::retrier;

/// Letters in hand, at most.
const PREFETCH: u16 = 500;
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
    Rejected(Fenced),
    NeverStarted(Fenced),
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

    async fn handle(&mut self, deliveries: Vec<Delivery>) -> Result<(), Error> {
        let tags: Vec<_> = deliveries
            .iter()
            .map(|delivery| (delivery.tag, Settle::Ack))
            .collect();
        let (mut rejected, mut never_started, mut parked) = (Vec::new(), Vec::new(), Vec::new());
        for Delivery { message, .. } in deliveries {
            metrics::dead_letter(message.death_reason().as_str());
            match read(&message) {
                Letter::Rejected(job) => rejected.push(job),
                Letter::NeverStarted(job) => never_started.push((job, Duration::ZERO)),
                Letter::Unreadable { why, job } => {
                    metrics::parked(why.code());
                    tracing::warn!("parking a message that nobody can read: {why}");
                    never_started.extend(job.map(|job| (job, REFUSED_REST)));
                    parked.push(Outgoing::parked(message, &why.to_string()));
                }
            }
        }
        self.rule_on_rejected(&rejected).await?;
        if !never_started.is_empty() {
            let released = self.store.release(&never_started).await?;
            metrics::released("dead_lettered", released.len());
        }
        if !parked.is_empty() {
            let outcomes = self.publisher.publish(parked).await;
            if outcomes
                .iter()
                .any(|outcome| *outcome != Published::Confirmed)
            {
                return Err(Error::NotParked);
            }
        }
        self.subscription().await?.settler().settle(tags).await;
        Ok(())
    }

    async fn rule_on_rejected(&self, rejected: &[Fenced]) -> Result<(), store::Error> {
        if rejected.is_empty() {
            return Ok(());
        }
        let failed = self.store.failed_of(rejected).await?;
        retrier::rule(&self.store, &failed).await?;
        if failed.len() == rejected.len() {
            return Ok(());
        }
        let is_failed = |job: &&Fenced| failed.iter().any(|failed| failed.job == **job);
        let others = rejected.iter().filter(|job| !is_failed(job));
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

fn read(message: &broker::RawMessage) -> Letter {
    let head = match message.head() {
        Ok(head) => head,
        Err(why) => return Letter::Unreadable { why, job: None },
    };
    let job = Fenced {
        id: head.id,
        dispatch: head.dispatch,
    };
    if let Err(why) = message.check_body() {
        return Letter::Unreadable {
            why,
            job: Some(job),
        };
    }
    match message.death_reason() {
        DeathReason::Rejected => Letter::Rejected(job),
        DeathReason::Expired | DeathReason::DeliveryLimit | DeathReason::Other => {
            Letter::NeverStarted(job)
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
        let result = match self.receive().await {
            Ok(letters) if letters.is_empty() => Ok(()),
            Ok(letters) => self.handle(letters).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            // What was in hand comes again on the next connection.
            self.subscription = None;
        }
        result.map(|()| Progress::Idle)
    }
}
