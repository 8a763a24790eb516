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
//! Under backlog a message carries several jobs (see `bundling`); what is said above holds for
//! each of them.
//!
//! A call names the queue of a job that is due now: that one is claimed from before anything is looked
//! for. The look follows at once, so no queue is passed over for one that is called again and again.
//!
//! Nothing is written when a confirm arrives: the worker's gate is the next thing that is true.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use postroad_common::broker::{Outgoing, Published, Publisher};
use postroad_common::failpoint;
use postroad_common::membership::Membership;
use postroad_common::message::Envelope;
use postroad_common::service::{Progress, Service};
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{self, Called, Claim, Claimed, Cursor, DueQueue, Fenced, Store};
use rand::seq::SliceRandom as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::TaskTracker;

use self::lane::{BATCH, Lane};
use crate::bundling::{self, Pace};
use crate::{metrics, of_tests};

mod lane;

/// What is being claimed, or published and not yet confirmed, at most, in messages or in units of
/// [`UNIT_BYTES`] of args, whichever are more: one full batch is under way while the next is claimed,
/// or any number of small ones. A claim that was to be bundled, and was not, is over it once.
const UNITS_IN_FLIGHT: i64 = 2 * BATCH;
/// Bytes of args that take as much memory, on their way, as a message does.
const UNIT_BYTES: usize = 1024;
/// Rest between two looks that found nothing to claim: what an idle system adds to a job's start.
const IDLE_REST: Duration = Duration::from_millis(20);
/// Where a pipe is kept short, the rest is shorter, but not than this, nor than a look takes.
const SHORT_REST_MIN: Duration = Duration::from_millis(1);
/// Where it is longer than this, a short pipe holds what leaves it meanwhile.
const SHORT_REST_MAX: Duration = Duration::from_millis(10);
/// Looking may otherwise not cost more than this share of the time: with thousands of tenants one look takes
/// milliseconds, and the rest grows with it.
const REST_PER_LOOK: u32 = 10;
/// And not beyond this: a look that waited for a cut wire tells nothing of what looking costs.
const LOOK_REST_MAX: Duration = Duration::from_millis(500);
/// Before a message that no queue took, or that the broker refused, is tried again.
const REFUSED_REST: Duration = Duration::from_secs(1);
/// Before a message of which nobody knows whether it arrived is tried again.
const UNKNOWN_REST: Duration = Duration::from_millis(200);

/// Where claimed jobs go.
pub struct Outlet {
    /// Publishes them.
    pub publisher: Publisher,
    /// Tells it which queues must exist.
    pub queues: watch::Sender<Vec<String>>,
    /// Batches under way, to be waited for when the service has ended.
    pub publishing: TaskTracker,
    /// A message has at most so many jobs.
    pub bundle_max: usize,
    /// What the pipe of a queue that tenants share holds, beside a job for every place of its workers:
    /// what leaves it in this time. None: as much as the window allows.
    pub shared_pipe: Option<Duration>,
}

/// The service.
pub struct Dispatcher {
    store: Store,
    outlet: Outlet,
    membership: Membership,
    lanes: HashMap<i32, Lane>,
    called: Called,
    has_looked: bool,
    room: Arc<Semaphore>,
    shutdown: Shutdown,
    rest: Duration,
    look_took: Duration,
}

impl Dispatcher {
    /// `called` are queues that may have a job that is due.
    pub fn new(
        store: Store,
        outlet: Outlet,
        membership: Membership,
        called: Called,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            store,
            outlet,
            membership,
            lanes: HashMap::new(),
            called,
            has_looked: false,
            room: Arc::new(Semaphore::new(UNITS_IN_FLIGHT as usize)),
            shutdown,
            rest: IDLE_REST,
            look_took: Duration::ZERO,
        }
    }

    /// Claims one batch and has it published by a task of its own: once claimed, a batch is
    /// published or given back, whatever becomes of this run. Says whether more should be claimed at once.
    async fn claim_from(&mut self, queue: &DueQueue) -> Result<bool, store::Error> {
        let rest = self.short_rest();
        let lane = self.lanes.entry(queue.id);
        let lane = lane.or_insert_with(|| Lane::of(queue.clone(), self.outlet.shared_pipe));
        let limit = lane.limit();
        // How many messages it comes to is not known yet.
        let units = limit.min(BATCH);
        let room = self.room.clone().acquire_many_owned(units as u32).await;
        let mut permit = room.expect("the semaphore is never closed");
        // Without a publisher a claim only delays its job.
        let Some(me) = self
            .membership
            .id()
            .filter(|_| self.outlet.publisher.is_ready())
        else {
            return Ok(false);
        };
        let (now, beginning) = (Instant::now(), Cursor::default());
        let mut wanted = lane.wanted(now);
        if let Some(short) = wanted.short.as_mut()
            && rest > SHORT_REST_MAX
        {
            // So long it is not looked after, and must not run dry.
            short.slack = (short.slack + rest + self.look_took).min(LOOK_REST_MAX);
        }
        let known = lane.backlog(now);
        let (is_from_beginning, cursor) = (known.is_none(), known.unwrap_or(&beginning));
        let claimed = self
            .store
            .claim(queue, wanted, me, cursor)
            .await
            .inspect_err(|_| lane.failed(Instant::now(), limit))?;
        let Some(claimed) = claimed else {
            return Ok(false);
        };
        metrics::stopped("set_aside", claimed.set_aside);
        let jobs = claimed.jobs.len();
        let bytes = claimed.args_bytes();
        let pace = lane.claimed(Instant::now(), limit, is_from_beginning, &claimed);
        if jobs == 0 {
            // All that was met is stopped: behind it there may be what is not.
            return Ok(true);
        }
        let queue = claimed.queue.clone();
        let messages = pack(claimed, self.outlet.bundle_max, pace);
        lane.packed(jobs, messages.len());
        let is_hungry = lane.is_hungry(Instant::now(), jobs);
        let units = messages.len().max(bytes / UNIT_BYTES);
        let permit = permit.split(units).unwrap_or(permit);
        metrics::claimed(&queue.name, jobs);
        metrics::messages(&queue.name, messages.len());
        let (store, publisher) = (self.store.clone(), self.outlet.publisher.clone());
        self.outlet
            .publishing
            .spawn(publish(store, publisher, queue, messages, permit));
        Ok(is_hungry)
    }

    /// The least rest where a pipe is short.
    fn short_rest(&self) -> Duration {
        SHORT_REST_MIN.max(self.look_took)
    }

    /// The queues that are called. Of one that was never seen here only a look can tell what it is.
    fn called(&self) -> Vec<DueQueue> {
        let called = self.called.take();
        if called.is_empty() {
            return Vec::new();
        }
        let seen = self.lanes.values().map(Lane::queue);
        seen.filter(|queue| called.contains(&queue.name))
            .cloned()
            .collect()
    }

    /// Looks for queues that have a job that is due.
    async fn look(&mut self) -> Result<Vec<DueQueue>, store::Error> {
        let started = Instant::now();
        let queues = self.store.due_queues(&self.backlogs()).await?;
        self.look_took = started.elapsed();
        self.rest = rest_after(self.look_took);
        self.announce(&queues);
        Ok(queues)
    }

    /// The queues that need no look to know that more of them is due.
    fn backlogs(&self) -> Vec<i32> {
        let now = Instant::now();
        let backlogs = self.lanes.iter();
        let backlogs = backlogs.filter(|(_, lane)| lane.backlog(now).is_some());
        backlogs.map(|(queue, _)| *queue).collect()
    }

    /// Has the broker's side of new queues made.
    fn announce(&self, queues: &[DueQueue]) {
        self.outlet.queues.send_if_modified(|known| {
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
        let now = Instant::now();
        let short = self.lanes.values().filter_map(|lane| lane.rest(now)).min();
        short.map_or(self.rest, |short| {
            short.max(self.short_rest()).min(self.rest)
        })
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        if !self.outlet.publisher.is_ready() || self.membership.id().is_none() {
            return Ok(Progress::Idle);
        }
        let called = if self.has_looked {
            self.called()
        } else {
            Vec::new()
        };
        self.has_looked = called.is_empty();
        let mut queues = match self.has_looked {
            true => self.look().await?,
            false => called,
        };
        // Queues of one provider, or of one tenant with a rate, take what there is room for from each
        // other. Which one goes first is left to chance: any order of turns may keep step with the
        // rounds in which there is room.
        queues.shuffle(&mut rand::rng());
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
            None => Ok(Progress::more_if(any || !self.has_looked)),
        }
    }
}

/// How long to rest after a look that took so long and found nothing to claim.
fn rest_after(look: Duration) -> Duration {
    // So long that a test can see what is dispatched without a look.
    static OF_TEST: LazyLock<Option<Duration>> =
        LazyLock::new(|| of_tests::rest("POSTROAD_TEST_IDLE_REST"));
    OF_TEST.unwrap_or_else(|| (look * REST_PER_LOOK).clamp(IDLE_REST, LOOK_REST_MAX))
}

/// Which of the claimed jobs travel together.
fn pack(claimed: Claimed, bundle_max: usize, pace: &Pace) -> Vec<Vec<Claim>> {
    let most = match (claimed.places, bundle_of_test()) {
        (Some(_), Some(jobs)) => jobs,
        (Some(places), None) if claimed.is_backlog => {
            bundling::jobs_per_message(bundle_max, claimed.window, places, pace)
        }
        _ => 1,
    };
    bundling::pack(claimed.jobs, most, |job| job.args.len())
}

/// So many jobs in each message, backlog or not: a test can then break every step of a bundle's way.
/// Never in a release build.
#[cfg(debug_assertions)]
fn bundle_of_test() -> Option<usize> {
    use std::sync::LazyLock;

    use postroad_common::config::Env;

    static JOBS: LazyLock<Option<usize>> = LazyLock::new(|| {
        let env = Env::of_process();
        let text = env.text("POSTROAD_TEST_BUNDLE")?;
        Some(text.parse().expect("a test says how many"))
    });
    *JOBS
}

#[cfg(not(debug_assertions))]
fn bundle_of_test() -> Option<usize> {
    None
}

/// Publishes a batch and gives back what did not arrive. If giving back fails, the rescuer does it.
async fn publish(
    store: Store,
    publisher: Publisher,
    queue: DueQueue,
    messages: Vec<Vec<Claim>>,
    _room: OwnedSemaphorePermit,
) {
    let fence = |claim: &Claim| Fenced {
        id: claim.id,
        dispatch: claim.dispatch,
    };
    let fences: Vec<Vec<_>> = messages
        .iter()
        .map(|jobs| jobs.iter().map(fence).collect())
        .collect();
    let messages = messages
        .into_iter()
        .map(|jobs| message(&queue, jobs))
        .collect();
    let started = Instant::now();
    let outcomes = publisher.publish(messages).await;
    failpoint!("dispatcher.answered");
    metrics::publish_seconds(started.elapsed().as_secs_f64());

    let mut unpublished = Vec::new();
    for (jobs, outcome) in fences.into_iter().zip(outcomes) {
        let (reason, rest) = match outcome {
            Published::Confirmed => continue,
            Published::Returned => ("returned", REFUSED_REST),
            Published::Nacked => ("nacked", REFUSED_REST),
            Published::Unknown => ("unknown", UNKNOWN_REST),
        };
        metrics::released(reason, jobs.len());
        unpublished.extend(jobs.into_iter().map(|job| (job, rest)));
    }
    if unpublished.is_empty() {
        return;
    }
    tracing::warn!(
        queue = queue.name,
        jobs = unpublished.len(),
        "jobs of {} were not taken by the broker: back to scheduled",
        queue.name
    );
    failpoint!("dispatcher.before_release");
    if let Err(error) = store.release(&unpublished).await {
        tracing::warn!("{error}: the rescuer will release them");
    }
}

fn message(queue: &DueQueue, jobs: Vec<Claim>) -> Outgoing {
    let claimed_at = jobs.first().map_or(0, |claim| claim.claimed_at);
    let jobs: Vec<_> = jobs.into_iter().map(envelope).collect();
    match <[Envelope; 1]>::try_from(jobs) {
        Ok([job]) => Outgoing::job(&queue.name, job, queue.pipe_ttl, claimed_at),
        Err(jobs) => Outgoing::bundle(&queue.name, &jobs, queue.pipe_ttl, claimed_at),
    }
}

fn envelope(claim: Claim) -> Envelope {
    Envelope {
        id: claim.id,
        dispatch: claim.dispatch,
        kind: claim.kind.to_string(),
        tenant: claim.tenant.to_string(),
        attempt: claim.attempts_before + 1,
        traceparent: claim.traceparent,
        body: claim.args.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_look_is_followed_by_a_longer_rest_and_a_cut_wire_by_none_that_matters() {
        assert_eq!(rest_after(Duration::from_micros(300)), IDLE_REST);
        let slow = Duration::from_millis(8);
        assert_eq!(rest_after(slow), slow * REST_PER_LOOK);
        assert_eq!(rest_after(Duration::from_secs(8)), LOOK_REST_MAX);
    }
}
