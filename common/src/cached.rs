//! Values that are read once and kept until they change.
//!
//! What has changed is [`Changes`]' to know; here is what follows of it. Any number of callers that
//! ask at once make one read. What is kept is bounded: the keys that nobody has asked for since as
//! many others were, are forgotten. A read that fails is not kept, and everybody who waited for it
//! gets its error.
//!
//! While changes are not known (Postgres does not answer), each [`Cached`] does what it was made
//! for: [`Unknown::Reread`] reads again what was read longer ago than [`TRUSTED`], so that a token
//! that was revoked is not good for longer; [`Unknown::KeepFor`] goes on with what it has for a
//! while, as an old setting is better than none.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use metrics::Counter;

use crate::changes::{Changes, Mark, TRUSTED};
use crate::store::{Error, Topic};

/// Whatever is kept is read again after so long: what no trigger sees (a restore without triggers, a
/// transaction that a crash has lost) must not be kept for ever.
const READ_ANEW: Duration = Duration::from_secs(10 * 60);

/// What becomes of kept values while it is not known whether they have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are read again, each at most once in [`TRUSTED`].
    Reread,
    /// They are used for so long. After that they are read again.
    KeepFor(Duration),
}

/// A value that was read, and what it depends on.
#[derive(Clone, Debug)]
pub struct Loaded<V> {
    value: V,
    tenant: Option<i32>,
    valid_for: Option<Duration>,
}

impl<V> Loaded<V> {
    /// Holds until something of the topic changes for this tenant.
    pub fn of_tenant(id: i32, value: V) -> Self {
        Self {
            value,
            tenant: Some(id),
            valid_for: None,
        }
    }

    /// Holds until anything of the topic changes: also that something is not there.
    pub fn of_topic(value: V) -> Self {
        Self {
            value,
            tenant: None,
            valid_for: None,
        }
    }

    /// And no longer than this, where time alone changes it.
    #[must_use]
    pub fn valid_for(self, valid_for: Option<Duration>) -> Self {
        Self { valid_for, ..self }
    }
}

/// Values of one topic by key. Clones keep the same.
#[derive(Clone)]
pub struct Cached<K, V>(Arc<Shelf<K, V>>);

struct Shelf<K, V> {
    topic: Topic,
    changes: Changes,
    unknown: Unknown,
    slots: Mutex<Slots<K, V>>,
    counters: Counters,
}

#[derive(Clone)]
struct Entry<V> {
    loaded: Loaded<V>,
    mark: Mark,
    read_at: Instant,
}

/// A read that is under way for everybody who waits for it. Nobody waits: it is given up.
type Read<V> = Shared<BoxFuture<'static, Result<Entry<V>, Arc<Error>>>>;

/// The same as the slot knows it, with its number.
struct Flight<V> {
    number: u64,
    read: WeakShared<BoxFuture<'static, Result<Entry<V>, Arc<Error>>>>,
}

struct Slot<V> {
    entry: Option<Entry<V>>,
    flight: Option<Flight<V>>,
}

/// Two halves: what is asked for moves into the younger, and when that is full, what is left in the
/// older is forgotten.
struct Slots<K, V> {
    younger: HashMap<K, Slot<V>>,
    older: HashMap<K, Slot<V>>,
    half: usize,
    flights: u64,
}

struct Counters {
    hits: Counter,
    misses: Counter,
    shared: Counter,
    kept: Counter,
    queries: Counter,
}

impl<K, V> Cached<K, V>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing yet, and never more than so many values.
    pub fn new(changes: &Changes, topic: Topic, unknown: Unknown, entries_max: usize) -> Self {
        let slots = Slots {
            younger: HashMap::new(),
            older: HashMap::new(),
            half: entries_max.div_ceil(2),
            flights: 0,
        };
        Self(Arc::new(Shelf {
            topic,
            changes: changes.clone(),
            unknown,
            slots: Mutex::new(slots),
            counters: Counters::of(topic),
        }))
    }

    /// The value of `key`, as it was committed no more than [`TRUSTED`] ago; read by `load`, in one
    /// query, if it is not kept or may have changed.
    pub async fn get<Q, L>(&self, key: &Q, load: impl Fn() -> L) -> Result<V, Arc<Error>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        L: Future<Output = Result<Loaded<V>, Error>> + Send + 'static,
    {
        let shelf = &*self.0;
        let mut has_waited = false;
        loop {
            let (number, is_own, read) = match shelf.find(key, &load) {
                Found::Entry(value) => return Ok(value),
                Found::Begun(number, read) => (number, true, read),
                Found::UnderWay(number, read) => (number, false, read),
            };
            let entry = shelf.land(key, number, read.await)?;
            // A read that had begun before this question may have missed a change that is known by
            // now. The next has begun later, and is good whatever it says.
            let is_good =
                has_waited || shelf.holds(&entry) || (is_own && shelf.is_unchanged(&entry));
            if is_good {
                return Ok(entry.loaded.value);
            }
            has_waited = true;
        }
    }
}

enum Found<V> {
    Entry(V),
    Begun(u64, Read<V>),
    UnderWay(u64, Read<V>),
}

impl<K, V> Shelf<K, V>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// What is kept, or the read that is under way, or one that begins now.
    fn find<Q, L>(&self, key: &Q, load: impl Fn() -> L) -> Found<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        L: Future<Output = Result<Loaded<V>, Error>> + Send + 'static,
    {
        let mut slots = self.lock();
        let number = slots.flights + 1;
        let slot = slots.slot(key);
        if let Some(entry) = &slot.entry
            && self.holds(entry)
        {
            let is_known = self.is_known();
            let counter = if is_known {
                &self.counters.hits
            } else {
                &self.counters.kept
            };
            counter.increment(1);
            return Found::Entry(entry.loaded.value.clone());
        }
        if let Some(flight) = &slot.flight
            && let Some(read) = flight.read.upgrade()
        {
            self.counters.shared.increment(1);
            return Found::UnderWay(flight.number, read);
        }
        self.counters.misses.increment(1);
        self.counters.queries.increment(1);
        // Before the read, which is polled later.
        let mark = self.changes.mark();
        let read_at = Instant::now();
        let load = load();
        let read = async move {
            let loaded = load.await.map_err(Arc::new)?;
            Ok(Entry {
                loaded,
                mark,
                read_at,
            })
        };
        let read = read.boxed().shared();
        slot.flight = read.downgrade().map(|read| Flight { number, read });
        slots.flights = number;
        Found::Begun(number, read)
    }

    /// Keeps what a read has found, unless a later one has begun.
    fn land<Q>(
        &self,
        key: &Q,
        number: u64,
        read: Result<Entry<V>, Arc<Error>>,
    ) -> Result<Entry<V>, Arc<Error>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut slots = self.lock();
        let slot = slots.slot(key);
        if slot
            .flight
            .as_ref()
            .is_some_and(|flight| flight.number == number)
        {
            slot.flight = None;
            if let Ok(entry) = &read {
                slot.entry = Some(entry.clone());
            }
        }
        read
    }

    /// Whether a value may be used.
    fn holds(&self, entry: &Entry<V>) -> bool {
        let age = entry.read_at.elapsed();
        let has_expired = entry.loaded.valid_for.is_some_and(|most| age >= most);
        if has_expired || age >= READ_ANEW || !self.is_unchanged(entry) {
            return false;
        }
        let unknown_for = self.changes.known_for().map_or(age, |known| known.min(age));
        match self.unknown {
            Unknown::Reread => unknown_for <= TRUSTED,
            Unknown::KeepFor(most) => unknown_for <= most.max(TRUSTED),
        }
    }

    fn is_unchanged(&self, entry: &Entry<V>) -> bool {
        let tenant = entry.loaded.tenant;
        self.changes.is_unchanged(self.topic, tenant, entry.mark)
    }

    fn is_known(&self) -> bool {
        self.changes
            .known_for()
            .is_some_and(|known| known <= TRUSTED)
    }

    fn lock(&self) -> MutexGuard<'_, Slots<K, V>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V> Slots<K, V> {
    fn slot<Q>(&mut self, key: &Q) -> &mut Slot<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.younger.contains_key(key) {
            if self.younger.len() >= self.half {
                self.older = std::mem::take(&mut self.younger);
            }
            let slot = self.older.remove(key).unwrap_or(Slot {
                entry: None,
                flight: None,
            });
            self.younger.insert(key.to_owned(), slot);
        }
        self.younger
            .get_mut(key)
            .expect("it was put there if it was not")
    }
}

impl Counters {
    fn of(topic: Topic) -> Self {
        let of = topic.name();
        let asked = |found: &'static str| metrics::counter!("postroad_settings_asked_total", "of" => of, "found" => found);
        Self {
            hits: asked("kept"),
            misses: asked("nothing"),
            shared: asked("under_way"),
            kept: asked("old"),
            queries: metrics::counter!("postroad_settings_queries_total", "of" => of),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// What a read finds: how many came before it. It waits for a permit, after it has found that.
    #[derive(Clone)]
    struct Reads {
        begun: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Reads {
        fn through(permits: usize) -> Self {
            Self {
                begun: Arc::default(),
                gate: Arc::new(Semaphore::new(permits)),
            }
        }

        fn count(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }

        fn read(&self) -> impl Future<Output = Result<Loaded<usize>, Error>> + use<> {
            let Self { begun, gate } = self.clone();
            async move {
                let found = begun.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("it is not closed").forget();
                Ok(Loaded::of_tenant(7, found))
            }
        }
    }

    const MANY: usize = 1_000_000;

    fn watched() -> Changes {
        let changes = Changes::unwatched();
        changes.learn_of(None);
        changes
    }

    fn cached(changes: &Changes, entries_max: usize) -> Cached<u32, usize> {
        Cached::new(changes, Topic::Tenant, Unknown::Reread, entries_max)
    }

    #[tokio::test]
    async fn a_herd_makes_one_read_and_a_change_one_more() {
        let (changes, reads) = (watched(), Reads::through(0));
        let cached = cached(&changes, 10);
        let herd: Vec<_> = (0..1000)
            .map(|_| {
                let (cached, reads) = (cached.clone(), reads.clone());
                tokio::spawn(async move { cached.get(&1, || reads.read()).await })
            })
            .collect();
        // One thread: when this one goes on, all of them wait.
        tokio::task::yield_now().await;
        reads.gate.add_permits(MANY);
        for one in herd {
            assert_eq!(one.await.unwrap().unwrap(), 0);
        }
        assert_eq!(reads.count(), 1);

        changes.learn_of(Some(&[(Topic::Tenant, 8), (Topic::Secret, 7)]));
        assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), 0);
        changes.learn_of(Some(&[(Topic::Tenant, 7)]));
        for _ in 0..2 {
            assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_read_that_began_before_a_change_and_ends_after_it_is_not_what_is_kept() {
        let (changes, reads) = (watched(), Reads::through(0));
        let cached = cached(&changes, 10);
        let asked = {
            let (cached, reads) = (cached.clone(), reads.clone());
            tokio::spawn(async move { cached.get(&1, || reads.read()).await })
        };
        tokio::task::yield_now().await;
        assert_eq!(reads.count(), 1, "it has begun");
        changes.learn_of(Some(&[(Topic::Tenant, 7)]));
        // Whoever asks now shares that read, and must not be content with it.
        let late = cached.get(&1, || reads.read());
        reads.gate.add_permits(MANY);
        assert_eq!(late.await.unwrap(), 1);
        assert_eq!(asked.await.unwrap().unwrap(), 1);
        assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_any_more_is_given_up_and_one_that_fails_is_not_kept() {
        let (changes, reads) = (watched(), Reads::through(0));
        let cached = cached(&changes, 10);
        let given_up = cached.get(&1, || reads.read()).now_or_never();
        assert!(given_up.is_none());
        reads.gate.add_permits(MANY);
        assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), 1);

        let failing = || async {
            Err(Error::Timeout {
                operation: "reading",
            })
        };
        assert!(cached.get(&2, failing).await.is_err());
        assert_eq!(cached.get(&2, || reads.read()).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_nobody_asks_for_is_forgotten_and_what_somebody_asks_for_is_not() {
        let (changes, reads) = (watched(), Reads::through(MANY));
        let cached = cached(&changes, 10);
        for key in 0..1000 {
            cached.get(&key, || reads.read()).await.unwrap();
            assert_eq!(cached.get(&0, || reads.read()).await.unwrap(), 0);
            let slots = cached.0.lock();
            assert!(slots.younger.len() + slots.older.len() <= 10);
        }
        assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), 1000);
    }

    #[tokio::test]
    async fn while_nothing_is_known_one_kind_reads_again_and_the_other_goes_on_for_a_while() {
        let (changes, reads) = (watched(), Reads::through(MANY));
        let reread = cached(&changes, 10);
        let keep = |most| Cached::new(&changes, Topic::Tenant, Unknown::KeepFor(most), 10);
        let (keep, keep_less) = (keep(3 * TRUSTED), keep(2 * TRUSTED));
        for (cached, found) in [(&reread, 0), (&keep, 1), (&keep_less, 2)] {
            assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), found);
        }
        let then = Instant::now() - 5 * TRUSTED / 2;
        changes.learn_at(then);
        for cached in [&reread, &keep, &keep_less] {
            let mut slots = cached.0.lock();
            let slot = slots.slot(&1);
            slot.entry.as_mut().unwrap().read_at = then;
        }
        for (cached, found) in [(&reread, 3), (&keep, 1), (&keep_less, 4), (&reread, 3)] {
            assert_eq!(cached.get(&1, || reads.read()).await.unwrap(), found);
        }
    }

    #[tokio::test]
    async fn what_time_alone_changes_is_read_again_in_time() {
        let (changes, reads) = (watched(), Reads::through(MANY));
        let cached = cached(&changes, 10);
        let brief = || {
            let read = reads.read();
            async move { Ok(read.await?.valid_for(Some(Duration::ZERO))) }
        };
        for n in 0..3 {
            assert_eq!(cached.get(&1, brief).await.unwrap(), n);
        }
    }
}
