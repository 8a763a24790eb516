//! How many calls are under way to each destination, so that one that is slow or gone keeps nobody's
//! jobs but its own waiting. Each worker process finds out for itself.
//!
//! A job is looked at before it asks the gate:
//!
//! | its destination | the job |
//! |---|---|
//! | takes one more call | goes on, and is counted until its attempt has ended |
//! | takes none, and is soon to take it | waits here for [`WAIT_MAX`] at most, in its place; it has not been started |
//! | takes none | goes back to the schedule, for as long as it will take until its turn, and its place is free |
//!
//! What a destination takes is the least of three:
//!
//! * its [`Limit`], which follows from how it answers;
//! * nothing, after it has said for how long not to call it (`Retry-After`);
//! * while others have work, a share: no more calls than places of the job's queue are left free of
//!   calls. One destination then has at most half of them, of two each a third: wherever calls hang,
//!   others have places. (That is Choudhury and Hahne's rule for sharing the buffer of a switch, "Dynamic
//!   Queue Length Thresholds", 1998.)
//!
//! What goes back comes again at the pace at which the destination answers, or would with all places where
//! nothing is wrong with it, and at least at [`RETURNS_PER_SECOND`], all destinations together: so one that
//! is only busy never runs out of jobs, a few jobs are soon back when one recovers, and a hundred thousand
//! do not go round and round meanwhile.
//!
//! At most [`KNOWN_MAX`] destinations are known. Those without a job for [`IDLE`] are forgotten, and so
//! are all without a call when there are too many.

mod evidence;
mod known;
mod limit;
mod name;
#[cfg(test)]
mod tests;
mod tidier;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub(crate) use self::evidence::Evidence;
use self::known::{Known, Waiter};
pub use self::name::Destination;
pub(crate) use self::tidier::Tidier;

/// The longest that a job waits here, in its place.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Jobs that come again a second, at least, over all destinations that take no more.
const RETURNS_PER_SECOND: f64 = 200.0;
/// Destinations that are known at once.
const KNOWN_MAX: usize = 10_000;
/// Without a job for so long, a destination is forgotten.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Others have work if they had a job within this time.
const OTHERS: Duration = Duration::from_secs(10);
/// A destination is logged once in this time,
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// and any of them in this.
const ANY_LOGGED_EVERY: Duration = Duration::from_secs(1);

/// The destinations of one worker.
#[derive(Clone)]
pub(crate) struct Destinations {
    most: usize,
    queues: Arc<[String]>,
    state: Arc<Mutex<State>>,
}

struct State {
    known: HashMap<Destination, Known>,
    /// One for each queue.
    lanes: Vec<Lane>,
    /// How many destinations have jobs that were sent back and are to come again.
    put_off: usize,
    logged_at: Option<Instant>,
}

/// The places of one queue.
#[derive(Clone, Debug, Default)]
struct Lane {
    places: usize,
    calls: usize,
    /// For whom the last job was, and when it came.
    last: Option<(Option<Destination>, Instant)>,
    /// When the last one came that was for another than that.
    other_at: Option<Instant>,
}

/// What a job may do now.
pub(crate) enum Turn {
    /// Go on, uncounted: it calls nobody, or nobody whom there is room to know.
    Uncounted,
    /// Go on.
    Now(Call),
    /// Wait for a moment.
    Wait(Wait),
    /// Come again.
    Later(PutOff),
}

/// A job's wait for a call.
pub(crate) struct Wait {
    destinations: Destinations,
    destination: Destination,
    lane: usize,
    granted: oneshot::Receiver<Call>,
}

/// After how long to come again, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutOff {
    pub(crate) delay: Duration,
    pub(crate) reason: &'static str,
}

/// A call, which counts until this is dropped.
pub(crate) struct Call {
    destinations: Destinations,
    destination: Destination,
    lane: usize,
    ended: Option<(Evidence, Instant)>,
    is_counted: bool,
}

/// How many destinations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Census {
    known: usize,
    put_off: usize,
    paused: usize,
}

impl Lane {
    fn arrived(&mut self, destination: Option<&Destination>, now: Instant) {
        if let Some((last, at)) = &mut self.last
            && last.as_ref() == destination
        {
            *at = now;
            return;
        }
        let before = self.last.replace((destination.cloned(), now));
        self.other_at = before.map(|(_, at)| at);
    }

    fn has_others_than(&self, destination: &Destination, now: Instant) -> bool {
        let at = match &self.last {
            Some((Some(last), _)) if last == destination => self.other_at,
            last => last.as_ref().map(|(_, at)| *at),
        };
        at.is_some_and(|at| now.saturating_duration_since(at) < OTHERS)
    }

    /// Whether a destination that has so many calls in this queue may have one more.
    fn has_share_for(&self, destination: &Destination, calls: usize, now: Instant) -> bool {
        calls == 0
            || calls < self.places.saturating_sub(self.calls)
            || !self.has_others_than(destination, now)
    }
}

impl Destinations {
    /// At most `most` calls at once to each, by jobs of these queues.
    pub(crate) fn new(most: usize, queues: &[String]) -> Self {
        let state = State {
            known: HashMap::new(),
            lanes: vec![Lane::default(); queues.len()],
            put_off: 0,
            logged_at: None,
        };
        Self {
            most,
            queues: queues.into(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A job has come, over a queue that has so many places, and whose provider is `told` to take so many
    /// calls at once.
    pub(crate) fn enter(
        &self,
        for_whom: Option<&Destination>,
        queue: &str,
        places: usize,
        told: Option<usize>,
    ) -> Turn {
        let now = Instant::now();
        let Some(number) = self.queues.iter().position(|name| name == queue) else {
            return Turn::Uncounted;
        };
        let state = &mut *self.lock();
        let lane = &mut state.lanes[number];
        lane.places = places;
        lane.arrived(for_whom, now);
        let Some(destination) = for_whom else {
            return Turn::Uncounted;
        };
        let Some(known) = known_or_new(&mut state.known, destination, || {
            Known::new(self.most, self.queues.len(), now)
        }) else {
            return Turn::Uncounted;
        };
        known.seen_at = now;
        if let Some(calls) = told {
            known.tell(calls);
        }
        // A pause may have ended since the last call did.
        self.admit(destination, known, &mut state.lanes, now);
        let lane = &mut state.lanes[number];
        let has_share = lane.has_share_for(destination, known.calls_in(number), now);
        if has_share && known.takes_more(now) && known.next_waiting().is_none() {
            return Turn::Now(self.begin(destination, number, known, lane, now));
        }
        let (grant, granted) = oneshot::channel();
        let waiter = Waiter {
            lane: number,
            grant,
        };
        if known.wait(now, waiter).is_ok() {
            return Turn::Wait(Wait {
                destinations: self.clone(),
                destination: destination.clone(),
                lane: number,
                granted,
            });
        }
        let reason = match (known.is_paused(now), has_share) {
            (true, _) => "paused",
            (_, false) => "share",
            (_, true) => "full",
        };
        Turn::Later(state.put_off(destination, number, reason, now))
    }

    fn begin(
        &self,
        destination: &Destination,
        number: usize,
        known: &mut Known,
        lane: &mut Lane,
        now: Instant,
    ) -> Call {
        known.begin(number, now);
        lane.calls += 1;
        Call {
            destinations: self.clone(),
            destination: destination.clone(),
            lane: number,
            ended: None,
            is_counted: true,
        }
    }

    /// A call is over.
    fn end(&self, call: &mut Call) {
        let now = Instant::now();
        let State { known, lanes, .. } = &mut *self.lock();
        let destination = &call.destination;
        let Some(known) = known.get_mut(destination) else {
            debug_assert!(false, "what has a call is not forgotten");
            return;
        };
        if let Some((evidence, began)) = call.ended.take() {
            known.heard(evidence, began, now);
        }
        known.end(call.lane);
        lanes[call.lane].calls -= 1;
        self.admit(destination, known, lanes, now);
    }

    /// Whoever waits for a call may have it, if there is one.
    fn admit(
        &self,
        destination: &Destination,
        known: &mut Known,
        lanes: &mut [Lane],
        now: Instant,
    ) {
        known.forget_gone();
        while let Some(number) = known.next_waiting().filter(|_| known.takes_more(now)) {
            let lane = &mut lanes[number];
            if !lane.has_share_for(destination, known.calls_in(number), now) {
                break;
            }
            let Some(waiter) = known.take_waiting() else {
                break;
            };
            let next = self.begin(destination, number, known, lane, now);
            if let Err(mut unwanted) = waiter.grant.send(next) {
                // It waits no more. Counted out here: its drop would want the lock.
                unwanted.is_counted = false;
                known.end(number);
                lane.calls -= 1;
            }
        }
    }

    /// Forgets those without jobs, and counts the others.
    fn tidy(&self) -> Census {
        let now = Instant::now();
        let mut state = self.lock();
        let is_wanted = |known: &Known| {
            let is_idle = now.saturating_duration_since(known.seen_at) >= IDLE;
            known.is_in_use() || known.has_put_off(now) || !is_idle
        };
        state.known.retain(|_, known| is_wanted(known));
        let count =
            |is: &dyn Fn(&Known) -> bool| state.known.values().filter(|one| is(one)).count();
        let census = Census {
            known: state.known.len(),
            put_off: count(&|known| known.has_put_off(now)),
            paused: count(&|known| known.is_paused(now)),
        };
        state.put_off = census.put_off;
        census
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None: it is not known, and there is no room for more.
fn known_or_new<'a>(
    known: &'a mut HashMap<Destination, Known>,
    destination: &Destination,
    new: impl FnOnce() -> Known,
) -> Option<&'a mut Known> {
    if !known.contains_key(destination) {
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| known.is_in_use());
        }
        if known.len() >= KNOWN_MAX {
            return None;
        }
        known.insert(destination.clone(), new());
    }
    known.get_mut(destination)
}

impl State {
    fn put_off(
        &mut self,
        destination: &Destination,
        lane: usize,
        reason: &'static str,
        now: Instant,
    ) -> PutOff {
        let places = self.lanes[lane].places;
        let delay = self.known.get_mut(destination).map_or(WAIT_MAX, |known| {
            let is_due = |at: Option<Instant>, every| at.is_none_or(|at| now >= at + every);
            if is_due(known.logged_at, LOGGED_EVERY) && is_due(self.logged_at, ANY_LOGGED_EVERY) {
                (known.logged_at, self.logged_at) = (Some(now), Some(now));
                tracing::warn!(
                    limit = known.calls_max(),
                    "there are more jobs than {destination} takes at once ({}; {reason}): they go back \
                     to the schedule for a while",
                    known.calls_max()
                );
            }
            known.put_off(now, places, self.put_off)
        });
        PutOff { delay, reason }
    }
}

impl Wait {
    /// Waits for as long as a job may.
    pub(crate) async fn end(self) -> Result<Call, PutOff> {
        match tokio::time::timeout(WAIT_MAX, self.granted).await {
            Ok(Ok(call)) => Ok(call),
            _ => {
                let mut state = self.destinations.lock();
                Err(state.put_off(&self.destination, self.lane, "waited", Instant::now()))
            }
        }
    }
}

impl Call {
    /// What was called has been heard of: the call began at `began`.
    pub(crate) fn ended(mut self, evidence: Evidence, began: Instant) {
        self.ended = Some((evidence, began));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_counted {
            let destinations = self.destinations.clone();
            destinations.end(self);
        }
    }
}
