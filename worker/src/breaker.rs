//! What this worker sees of providers, and what that says of their breakers, which the fleet shares.
//!
//! A breaker is of a provider and a tenant: one tenant's credentials may be refused while all others'
//! work. Where most tenants fail it is the provider, and that one's breaker keeps everybody's jobs back.
//!
//! Each worker judges by what it has seen itself, a share of the same traffic. What it concludes is
//! written by a service, and written again if that fails. If the worker dies first, the others come to
//! the same conclusion.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postroad_common::job::ProviderFailure;
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, BreakerOf, Store, WorkerProvider};

use crate::metrics;
use crate::prefetch::by_queue;

/// What was seen is forgotten after one to two of these.
const PERIOD: Duration = Duration::from_secs(10);
/// Fewer failures say nothing.
const FAILURES_MIN: u32 = 10;
/// Fewer tenants that fail are each their own affair.
const TENANTS_MIN: usize = 3;
/// Tenants of a provider that are told apart, at most. What more of them do is not judged.
const TENANTS_MAX: usize = 10_000;
/// More tenants than that are not looked through at every failure, but after such a time at the most
/// often: at thousands of failures a second that would be all that a worker does.
const TENANTS_FEW: usize = 100;
const LOOK_THROUGH: Duration = Duration::from_millis(100);
/// Longer than an attempt that calls a provider takes.
const ATTEMPT_MAX: Duration = Duration::from_secs(10 * 60);
/// How often is looked for breakers that are half open.
const LOOK: Duration = Duration::from_secs(1);

/// What is seen of the providers of this worker's queues.
#[derive(Clone, Default)]
pub(crate) struct Breakers {
    state: Arc<Mutex<State>>,
    nudge: Nudge,
}

#[derive(Default)]
struct State {
    /// By queue.
    providers: HashMap<String, Provider>,
    windows: HashMap<i32, HashMap<String, Window>>,
    /// When the many tenants of a provider were looked through.
    looked_through: HashMap<i32, Instant>,
    half_open: HashSet<BreakerOf>,
    /// Attempts that began earlier say nothing of these any more.
    judged_from: HashMap<BreakerOf, Instant>,
    /// Not written yet.
    verdicts: HashMap<BreakerOf, Verdict>,
}

#[derive(Clone, Debug, PartialEq)]
struct Provider {
    id: i32,
    name: Arc<str>,
    failure_max: f64,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Trip(String),
    Close,
}

impl Breakers {
    /// Whether what its jobs see of their provider is of interest.
    pub(crate) fn watches(&self, queue: &str) -> bool {
        self.lock().providers.contains_key(queue)
    }

    /// Notes how the provider failed an attempt of a job that came from this queue; or that it did not.
    pub(crate) fn note(
        &self,
        queue: &str,
        tenant: &str,
        failure: Option<ProviderFailure>,
        started: Instant,
    ) {
        let mut state = self.lock();
        let Some(provider) = state.providers.get(queue).cloned() else {
            return;
        };
        if state.note(&provider, tenant, failure, started, Instant::now()) {
            drop(state);
            self.nudge.wake();
        }
    }

    /// Takes what is set now.
    pub(crate) fn set(&self, providers: &[WorkerProvider]) {
        let mut state = self.lock();
        let watched = |provider: &WorkerProvider| {
            Some(Provider {
                id: provider.id,
                name: provider.name.as_str().into(),
                failure_max: provider.failure_max?,
            })
        };
        state.providers = by_queue(providers, watched).collect();
        let known: HashSet<i32> = state.providers.values().map(|one| one.id).collect();
        state.windows.retain(|id, _| known.contains(id));
        state.looked_through.retain(|id, _| known.contains(id));
        state.half_open.retain(|of| known.contains(&of.provider));
    }

    fn name_of(&self, provider: i32) -> Arc<str> {
        let state = self.lock();
        let mut known = state.providers.values();
        let found = known.find(|one| one.id == provider);
        found.map_or_else(|| provider.to_string().into(), |one| one.name.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Says whether there is something to be written.
    fn note(
        &mut self,
        provider: &Provider,
        tenant: &str,
        failure: Option<ProviderFailure>,
        started: Instant,
        now: Instant,
    ) -> bool {
        let of_tenant = BreakerOf {
            provider: provider.id,
            tenant: Some(tenant.to_owned()),
        };
        let of_all = BreakerOf {
            provider: provider.id,
            tenant: None,
        };
        // It was begun before what was concluded, and says nothing of what has been since.
        let is_old = |of| self.judged_from.get(of).is_some_and(|from| started < *from);
        if is_old(&of_tenant) || is_old(&of_all) {
            return false;
        }
        let windows = self.windows.entry(provider.id).or_default();
        if windows.len() >= TENANTS_MAX && !windows.contains_key(tenant) {
            windows.retain(|_, window| !window.at(now).is_empty());
            if windows.len() >= TENANTS_MAX {
                return false;
            }
        }
        let window = windows.entry(tenant.to_owned()).or_default().at(now);
        window.note(failure.is_none());
        let window = *window;
        let mut is_news = false;
        match failure {
            None => {
                for of in [of_tenant, of_all] {
                    if self.half_open.remove(&of) {
                        self.verdicts.insert(of, Verdict::Close);
                        is_news = true;
                    }
                }
            }
            Some(failure) => {
                let what = failure.as_str();
                for of in [&of_tenant, &of_all] {
                    if self.half_open.remove(of) {
                        let reason = format!("tried again, and it was {what}");
                        self.trip(of.clone(), reason, now);
                        is_news = true;
                    }
                }
                if window.fails(provider.failure_max) {
                    let reason = window.reason(what);
                    windows_of(&mut self.windows, provider.id).remove(tenant);
                    self.trip(of_tenant, reason, now);
                    is_news = true;
                }
                if let Some(reason) = self.fails_for_most(provider, what, now) {
                    self.windows.remove(&provider.id);
                    self.trip(of_all, reason, now);
                    is_news = true;
                }
            }
        }
        is_news
    }

    fn trip(&mut self, of: BreakerOf, reason: String, now: Instant) {
        self.judged_from.insert(of.clone(), now);
        self.verdicts.insert(of, Verdict::Trip(reason));
    }

    /// Takes which are half open now.
    fn look(&mut self, half_open: HashSet<BreakerOf>, now: Instant) {
        for of in half_open.difference(&self.half_open) {
            self.judged_from.insert(of.clone(), now);
        }
        self.judged_from
            .retain(|_, from| now.saturating_duration_since(*from) < ATTEMPT_MAX);
        self.half_open = half_open;
    }

    /// Whether most tenants whose jobs were run lately have seen failures, mostly.
    fn fails_for_most(&mut self, provider: &Provider, what: &str, now: Instant) -> Option<String> {
        let windows = windows_of(&mut self.windows, provider.id);
        if windows.len() > TENANTS_FEW {
            let last = self.looked_through.get(&provider.id);
            if last.is_some_and(|last| now.saturating_duration_since(*last) < LOOK_THROUGH) {
                return None;
            }
            self.looked_through.insert(provider.id, now);
        }
        let (mut all, mut failing, mut failures) = (0, 0, 0);
        for window in windows.values_mut() {
            let window = window.at(now);
            all += usize::from(!window.is_empty());
            failing += usize::from(window.share() >= provider.failure_max);
            failures += window.failed();
        }
        let is_most = failing >= TENANTS_MIN && failing as f64 >= all as f64 * provider.failure_max;
        (is_most && failures >= FAILURES_MIN)
            .then(|| format!("{failing} of {all} tenants saw it fail; at last it was {what}"))
    }
}

fn windows_of(
    windows: &mut HashMap<i32, HashMap<String, Window>>,
    provider: i32,
) -> &mut HashMap<String, Window> {
    windows.entry(provider).or_default()
}

/// What was seen of one provider by one tenant: in this period, and in the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    since: Option<Instant>,
    now: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    good: u32,
    bad: u32,
}

impl Window {
    /// Forgets what is too old.
    fn at(&mut self, now: Instant) -> &mut Self {
        let age = self
            .since
            .map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if age >= PERIOD {
            *self = Self {
                since: Some(now),
                now: Counts::default(),
                before: if age < 2 * PERIOD {
                    self.now
                } else {
                    Counts::default()
                },
            };
        }
        self
    }

    fn note(&mut self, is_good: bool) {
        let counts = &mut self.now;
        *(if is_good {
            &mut counts.good
        } else {
            &mut counts.bad
        }) += 1;
    }

    fn failed(&self) -> u32 {
        self.now.bad + self.before.bad
    }

    fn all(&self) -> u32 {
        self.failed() + self.now.good + self.before.good
    }

    fn is_empty(&self) -> bool {
        self.all() == 0
    }

    fn share(&self) -> f64 {
        f64::from(self.failed()) / f64::from(self.all().max(1))
    }

    fn fails(&self, failure_max: f64) -> bool {
        self.failed() >= FAILURES_MIN && self.share() >= failure_max
    }

    fn reason(&self, what: &str) -> String {
        let (failed, all) = (self.failed(), self.all());
        format!("{failed} of {all} answers failed; at last it was {what}")
    }
}

/// Writes what was concluded, and looks for breakers that are half open.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) breakers: Breakers,
}

impl Writer {
    /// Wakes the service when something was concluded.
    pub(crate) fn nudge(&self) -> Nudge {
        self.breakers.nudge.clone()
    }

    async fn write(&self, of: &BreakerOf, verdict: &Verdict) -> Result<(), store::Error> {
        let whose = of.tenant.as_deref().unwrap_or("all tenants");
        let provider = self.breakers.name_of(of.provider);
        match verdict {
            Verdict::Trip(reason) => {
                if let Some(rest) = self.store.trip_breaker(of, reason).await? {
                    metrics::breaker("opened");
                    tracing::warn!(
                        provider = &*provider,
                        tenant = of.tenant,
                        "the breaker of provider {provider} for {whose} is open for {rest:?}: {reason}"
                    );
                }
            }
            Verdict::Close => {
                if self.store.close_breaker(of).await? {
                    metrics::breaker("closed");
                    tracing::info!(
                        provider = &*provider,
                        tenant = of.tenant,
                        "the breaker of provider {provider} for {whose} is closed: a job has gone through"
                    );
                }
            }
        }
        Ok(())
    }
}

impl Service for Writer {
    const NAME: &'static str = "breakers";
    type Error = store::Error;

    fn period(&self) -> Duration {
        LOOK
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        loop {
            let next = {
                let state = self.breakers.lock();
                let next = state.verdicts.iter().next();
                next.map(|(of, verdict)| (of.clone(), verdict.clone()))
            };
            let Some((of, verdict)) = next else { break };
            self.write(&of, &verdict).await?;
            let mut state = self.breakers.lock();
            // What was concluded meanwhile is newer.
            if state.verdicts.get(&of) == Some(&verdict) {
                state.verdicts.remove(&of);
            }
        }
        let providers: HashSet<i32> = {
            let state = self.breakers.lock();
            state.providers.values().map(|one| one.id).collect()
        };
        if !providers.is_empty() {
            let providers: Vec<_> = providers.into_iter().collect();
            let half_open = self.store.probed_breakers(&providers).await?;
            if !half_open.is_empty() {
                let closed = self.store.close_unseen_breakers(&providers).await?;
                (0..closed).for_each(|_| metrics::breaker("closed"));
            }
            let half_open = half_open.into_iter().collect();
            self.breakers.lock().look(half_open, Instant::now());
        }
        Ok(Progress::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Option<ProviderFailure> = None;
    const BAD: Option<ProviderFailure> = Some(ProviderFailure::Silent);

    fn provider() -> Provider {
        Provider {
            id: 1,
            name: "gateway".into(),
            failure_max: 0.5,
        }
    }

    fn of(tenant: Option<&str>) -> BreakerOf {
        BreakerOf {
            provider: 1,
            tenant: tenant.map(str::to_owned),
        }
    }

    /// Of an attempt that took no time.
    fn note(
        state: &mut State,
        tenant: &str,
        failure: Option<ProviderFailure>,
        now: Instant,
    ) -> bool {
        state.note(&provider(), tenant, failure, now, now)
    }

    fn trips(state: &State, tenant: Option<&str>) -> bool {
        matches!(state.verdicts.get(&of(tenant)), Some(Verdict::Trip(_)))
    }

    #[test]
    fn a_breaker_opens_when_enough_and_most_answers_failed() {
        let (mut state, now) = (State::default(), Instant::now());
        for _ in 0..FAILURES_MIN - 1 {
            assert!(!note(&mut state, "acme", BAD, now));
        }
        for _ in 0..FAILURES_MIN + 1 {
            assert!(!note(&mut state, "acme", GOOD, now));
        }
        assert!(!note(&mut state, "acme", BAD, now), "ten of 21");
        assert!(note(&mut state, "acme", BAD, now), "eleven of 22");
        assert!(trips(&state, Some("acme")));
        assert!(!trips(&state, None), "one tenant is not the provider");
    }

    #[test]
    fn what_was_seen_long_ago_is_forgotten() {
        let (mut state, now) = (State::default(), Instant::now());
        for _ in 0..FAILURES_MIN - 1 {
            note(&mut state, "acme", BAD, now);
        }
        assert!(!note(&mut state, "acme", BAD, now + 3 * PERIOD));
        let soon = now + 3 * PERIOD + PERIOD;
        for _ in 0..FAILURES_MIN - 2 {
            assert!(!note(&mut state, "acme", BAD, soon));
        }
        assert!(note(&mut state, "acme", BAD, soon), "with the one before");
    }

    #[test]
    fn many_tenants_with_few_jobs_each_open_the_providers_own() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..20 {
            note(&mut state, &format!("good-{n}"), GOOD, now);
        }
        for n in 0..20 {
            let is_news = note(&mut state, &format!("bad-{n}"), BAD, now);
            assert_eq!(is_news, n == 19, "{n}: half of them have to fail");
        }
        assert!(trips(&state, None));
        assert_eq!(state.verdicts.len(), 1);
    }

    #[test]
    fn very_many_tenants_open_it_a_moment_later() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..2 * TENANTS_FEW {
            note(&mut state, &format!("good-{n}"), GOOD, now);
        }
        for n in 0..2 * TENANTS_FEW {
            assert!(!note(&mut state, &format!("bad-{n}"), BAD, now));
        }
        assert!(note(&mut state, "bad-0", BAD, now + LOOK_THROUGH));
        assert!(trips(&state, None));
    }

    #[test]
    fn one_that_is_half_open_is_closed_by_a_success_and_opened_by_a_failure() {
        let (mut state, now) = (State::default(), Instant::now());
        state.half_open = HashSet::from([of(Some("acme")), of(Some("beta")), of(None)]);
        assert!(note(&mut state, "acme", BAD, now));
        assert!(trips(&state, Some("acme")) && trips(&state, None));
        assert!(note(&mut state, "beta", GOOD, now));
        assert_eq!(state.verdicts[&of(Some("beta"))], Verdict::Close);
        assert!(!note(&mut state, "gamma", GOOD, now));
    }

    #[test]
    fn what_began_before_says_nothing_of_what_is_now() {
        let (mut state, before) = (State::default(), Instant::now());
        let half_open = HashSet::from([of(Some("acme"))]);
        let now = before + Duration::from_secs(1);
        state.look(half_open.clone(), now);
        for failure in [BAD, GOOD] {
            assert!(!state.note(&provider(), "acme", failure, before, now));
        }
        state.look(half_open, now + LOOK);
        assert!(
            note(&mut state, "acme", BAD, now),
            "it is no news that it is"
        );
        for _ in 0..2 * FAILURES_MIN {
            assert!(!state.note(&provider(), "acme", BAD, before, now));
        }
    }

    #[test]
    fn tenants_that_are_told_apart_are_bounded() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..TENANTS_MAX + 10 {
            note(&mut state, &format!("t{n}"), GOOD, now);
        }
        assert_eq!(state.windows[&1].len(), TENANTS_MAX);
        note(&mut state, "new", GOOD, now + 2 * PERIOD);
        assert_eq!(state.windows[&1].len(), 1);
    }
}
