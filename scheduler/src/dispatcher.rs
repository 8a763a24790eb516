//! Due and in credit → claimed, published, confirmed.
//!
//! Any number of schedulers run this at once: a queue's row lock lets one of them claim from a
//! queue at a time, and the fence makes every copy of a message but the newest harmless.
//!
//! What if the process dies after …
//!
//! | step | then | repaired by |
//! |---|---|---|
//! | the claim | the job is dispatched, without a message | rescuer: this process is called lost, or the claim outlives `pipe_ttl` |
//! | writing the message | it may have arrived: it runs. If the rescuer came first, the gate refuses it | rescuer, gate |
//! | a nack or return, before the release | as after the claim | rescuer |
//!
//! Nothing is written when a confirm arrives: the worker's gate is the next thing that is true.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_common::broker::{Outgoing, Published, Publisher};
use postroad_common::failpoint;
use postroad_common::membership::Membership;
use postroad_common::message::Envelope;
use postroad_common::service::{Progress, Service};
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{self, Claim, DueQueue, Fenced, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::metrics;

/// Jobs per claim and per published batch, at most.
const BATCH: i64 = 1000;
/// Bytes of args per batch, about: the next claim is sized by what the last one of its queue held.
const BATCH_BYTES: i64 = 2 * 1024 * 1024;
/// Jobs of the first claim from a queue: how large its args are is not known yet.
const BATCH_FIRST: i64 = 100;
/// A claim is at most so many times as large as the one before it: what comes may be larger.
const BATCH_GROWTH: i64 = 4;
/// Jobs that are being claimed, or published and not yet confirmed, at most: one full batch is under
/// way while the next is claimed, or any number of small ones.
const JOBS_IN_FLIGHT: i64 = 2 * BATCH;
/// Rest between two looks that found nothing to claim: what an idle system adds to a job's start.
const IDLE_REST: Duration = Duration::from_millis(20);
/// Looking may not cost more than this share of the time: with thousands of tenants one look takes
/// milliseconds, and the rest grows with it.
const REST_PER_LOOK: u32 = 10;
/// And not beyond this: a look that waited for a cut wire tells nothing of what looking costs.
const LOOK_REST_MAX: Duration = Duration::from_millis(500);
/// How long a full window is left to drain before fewer than a fifth of it is refilled.
const REFILL_PATIENCE: Duration = Duration::from_millis(100);
/// Before a message that no queue took, or that the broker refused, is tried again.
const REFUSED_REST: Duration = Duration::from_secs(1);
/// Before a message of which nobody knows whether it arrived is tried again.
const UNKNOWN_REST: Duration = Duration::from_millis(200);

/// The service.
pub struct Dispatcher {
    store: Store,
    publisher: Publisher,
    membership: Membership,
    queues: watch::Sender<Vec<String>>,
    lanes: HashMap<i32, Lane>,
    room: Arc<Semaphore>,
    publishing: TaskTracker,
    shutdown: Shutdown,
    rest: Duration,
}

/// What the last claim from a queue was like.
struct Lane {
    claimed_at: Instant,
    next_limit: i64,
}

impl Dispatcher {
    /// `queues` tells the publisher which queues must exist. Batches under way are tasks of
    /// `publishing`, to be waited for when the service has ended.
    pub fn new(
        store: Store,
        publisher: Publisher,
        membership: Membership,
        queues: watch::Sender<Vec<String>>,
        publishing: TaskTracker,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            store,
            publisher,
            membership,
            queues,
            lanes: HashMap::new(),
            room: Arc::new(Semaphore::new(JOBS_IN_FLIGHT as usize)),
            publishing,
            shutdown,
            rest: IDLE_REST,
        }
    }

    /// Claims one batch and has it published by a task of its own: once claimed, a batch is
    /// published or given back, whatever becomes of this run. Says whether there was one.
    async fn claim_from(&mut self, queue: &DueQueue) -> Result<bool, store::Error> {
        let limit = self.limit(queue);
        let room = self.room.clone().acquire_many_owned(limit as u32).await;
        let mut permit = room.expect("the semaphore is never closed");
        // Without a publisher a claim only delays its job.
        let Some(me) = self.membership.id().filter(|_| self.publisher.is_ready()) else {
            return Ok(false);
        };
        let credit_min = self.credit_min(queue);
        let claimed = self.store.claim(queue, limit, credit_min, me).await;
        if claimed.is_err() {
            // One that was too large to be answered in time must not be asked for again.
            self.remember(queue, (limit / 2).max(1));
        }
        let claims = claimed?;
        if claims.is_empty() {
            return Ok(false);
        }
        let permit = permit.split(claims.len()).unwrap_or(permit);
        let bytes: usize = claims.iter().map(|claim| claim.args.len()).sum();
        self.remember(queue, next_limit(limit, bytes / claims.len()));
        metrics::claimed(&queue.name, claims.len());
        let (store, publisher) = (self.store.clone(), self.publisher.clone());
        self.publishing
            .spawn(publish(store, publisher, queue.clone(), claims, permit));
        Ok(true)
    }

    fn remember(&mut self, queue: &DueQueue, next_limit: i64) {
        let lane = Lane {
            claimed_at: Instant::now(),
            next_limit,
        };
        self.lanes.insert(queue.id, lane);
    }

    /// How many jobs of a queue to claim at most.
    fn limit(&self, queue: &DueQueue) -> i64 {
        let lane = self.lanes.get(&queue.id);
        lane.map_or(BATCH_FIRST, |lane| lane.next_limit)
    }

    /// A full window is refilled a fifth at a time, so that batches form; but no job waits for
    /// room that is there.
    fn credit_min(&self, queue: &DueQueue) -> i64 {
        match self.lanes.get(&queue.id) {
            Some(lane) if lane.claimed_at.elapsed() < REFILL_PATIENCE => (queue.window / 5).max(1),
            _ => 1,
        }
    }

    /// Has the broker's side of new queues made.
    fn announce(&self, queues: &[DueQueue]) {
        self.queues.send_if_modified(|known| {
            let before = known.len();
            for queue in queues {
                if !known.contains(&queue.name) {
                    known.push(queue.name.clone());
                }
            }
            known.len() > before
        });
    }
}

impl Service for Dispatcher {
    const NAME: &'static str = "dispatcher";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        if !self.publisher.is_ready() || self.membership.id().is_none() {
            return Ok(Progress::Idle);
        }
        let started = Instant::now();
        let queues = self.store.due_queues().await?;
        self.rest = rest_after(started.elapsed());
        self.announce(&queues);
        // One batch from each, then another look: no queue waits for the end of another's backlog,
        // or for another's error.
        let (mut any, mut first_error) = (false, None);
        for queue in &queues {
            if self.shutdown.is_requested() {
                break;
            }
            match self.claim_from(queue).await {
                Ok(claimed) => any |= claimed,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(Progress::more_if(any)),
        }
    }
}

/// How many jobs to claim after a claim of up to `limit`, whose jobs had so many bytes each.
fn next_limit(limit: i64, bytes_each: usize) -> i64 {
    let bytes_each = i64::try_from(bytes_each).unwrap_or(i64::MAX).max(1);
    (BATCH_BYTES / bytes_each).clamp(1, BATCH.min(limit * BATCH_GROWTH))
}

/// How long to rest after a look that took so long and found nothing to claim.
fn rest_after(look: Duration) -> Duration {
    rest_of_test().unwrap_or_else(|| (look * REST_PER_LOOK).clamp(IDLE_REST, LOOK_REST_MAX))
}

/// A rest so long that a test can see what is dispatched without a look. Never in a release build.
#[cfg(debug_assertions)]
fn rest_of_test() -> Option<Duration> {
    use std::sync::LazyLock;

    use postroad_common::config::{Env, parse_duration};

    static REST: LazyLock<Option<Duration>> = LazyLock::new(|| {
        let env = Env::of_process();
        let text = env.text("POSTROAD_TEST_IDLE_REST")?;
        Some(parse_duration(text).expect("a test says how long"))
    });
    *REST
}

#[cfg(not(debug_assertions))]
fn rest_of_test() -> Option<Duration> {
    None
}

/// Publishes a batch and gives back what did not arrive. If giving back fails, the rescuer does it.
async fn publish(
    store: Store,
    publisher: Publisher,
    queue: DueQueue,
    claims: Vec<Claim>,
    _room: OwnedSemaphorePermit,
) {
    let fences: Vec<_> = claims
        .iter()
        .map(|claim| Fenced {
            id: claim.id,
            dispatch: claim.dispatch,
        })
        .collect();
    let messages = claims
        .into_iter()
        .map(|claim| message(&queue, claim))
        .collect();
    let started = Instant::now();
    let outcomes = publisher.publish(messages).await;
    failpoint!("dispatcher.answered");
    metrics::publish_seconds(started.elapsed().as_secs_f64());

    let mut unpublished = Vec::new();
    for (job, outcome) in fences.into_iter().zip(outcomes) {
        let (reason, rest) = match outcome {
            Published::Confirmed => continue,
            Published::Returned => ("returned", REFUSED_REST),
            Published::Nacked => ("nacked", REFUSED_REST),
            Published::Unknown => ("unknown", UNKNOWN_REST),
        };
        metrics::released(reason, 1);
        unpublished.push((job, rest));
    }
    if unpublished.is_empty() {
        return;
    }
    tracing::warn!(
        queue = queue.name,
        jobs = unpublished.len(),
        "messages of {} were not taken by the broker: back to scheduled",
        queue.name
    );
    failpoint!("dispatcher.before_release");
    if let Err(error) = store.release(&unpublished).await {
        tracing::warn!("{error}: the rescuer will release them");
    }
}

fn message(queue: &DueQueue, claim: Claim) -> Outgoing {
    let envelope = Envelope {
        id: claim.id,
        dispatch: claim.dispatch,
        kind: claim.kind.to_string(),
        tenant: claim.tenant.to_string(),
        attempt: claim.attempts_before + 1,
        traceparent: claim.traceparent,
        body: claim.args.into_bytes(),
    };
    Outgoing::job(&queue.name, envelope, queue.pipe_ttl, claim.claimed_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_grow_step_by_step_and_are_small_when_args_are_large() {
        let mut limit = BATCH_FIRST;
        for _ in 0..3 {
            limit = next_limit(limit, 100);
        }
        assert_eq!(limit, BATCH, "as many as there may be, soon");
        assert_eq!(next_limit(BATCH_FIRST, 0), BATCH_FIRST * BATCH_GROWTH);
        let largest = postroad_common::job::ARGS_BYTES_MAX;
        assert_eq!(next_limit(BATCH, largest), 8);
        assert_eq!(next_limit(1, largest), 4, "and from one on again");
        assert_eq!(next_limit(BATCH, 8 * largest), 1, "but never none");
    }

    #[test]
    fn a_slow_look_is_followed_by_a_longer_rest_and_a_cut_wire_by_none_that_matters() {
        assert_eq!(rest_after(Duration::from_micros(300)), IDLE_REST);
        let slow = Duration::from_millis(8);
        assert_eq!(rest_after(slow), slow * REST_PER_LOOK);
        assert_eq!(rest_after(Duration::from_secs(8)), LOOK_REST_MAX);
    }
}
