//! How many jobs of each queue are in hand and run at once here: as the worker is configured, or as
//! an operator has set the queue, also while it works; and no more than their provider takes at once
//! from one worker, whatever queues they came from.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use postroad_common::store::WorkerProvider;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::PREFETCH_MAX;

/// The number of each queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefetch {
    default: u16,
    set: BTreeMap<String, u16>,
    /// What the queue's provider takes at once.
    most: BTreeMap<String, u16>,
}

impl Prefetch {
    /// As the worker is configured.
    pub(crate) fn new(default: u16) -> Self {
        Self {
            default,
            set: BTreeMap::new(),
            most: BTreeMap::new(),
        }
    }

    pub(crate) fn of(&self, queue: &str) -> u16 {
        let set = self.set.get(queue).copied().unwrap_or(self.default);
        let most = self.most.get(queue).copied();
        most.map_or(set, |most| set.min(most))
    }

    /// Half of the places of the queue that has most of them.
    pub(crate) fn half(&self) -> usize {
        let set = self.set.values().copied();
        usize::from(set.fold(self.default, u16::max)) / 2
    }

    /// Takes what operators have set, for queues and for their providers, and says whether that is
    /// news.
    pub(crate) fn set(&mut self, set: Vec<(String, u16)>, providers: &[WorkerProvider]) -> bool {
        let most = u16::try_from(PREFETCH_MAX).unwrap_or(u16::MAX);
        let set = set.into_iter().map(|(queue, to)| (queue, to.min(most)));
        let now = Self {
            default: self.default,
            set: set.collect(),
            most: by_queue(providers, |provider| provider.unanswered_max).collect(),
        };
        let is_news = *self != now;
        *self = now;
        is_news
    }
}

/// What is set for providers, by the queues whose jobs go to them.
pub(crate) fn by_queue<'a, T: Clone + 'a>(
    providers: &'a [WorkerProvider],
    set: impl Fn(&WorkerProvider) -> Option<T> + 'a,
) -> impl Iterator<Item = (String, T)> + 'a {
    providers.iter().flat_map(move |provider| {
        let set = set(provider);
        let queues = provider.queues.iter();
        queues.filter_map(move |queue| Some((queue.clone(), set.clone()?)))
    })
}

/// A job's place among those of its queue, and among those of all queues of its provider.
#[derive(Debug)]
pub(crate) struct Place {
    _of_queue: OwnedSemaphorePermit,
    _of_provider: Option<OwnedSemaphorePermit>,
}

impl Place {
    pub(crate) fn new(
        of_queue: OwnedSemaphorePermit,
        of_provider: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            _of_queue: of_queue,
            _of_provider: of_provider,
        }
    }
}

/// The rooms of providers that take so many jobs at once from a worker.
#[derive(Debug, Default)]
pub(crate) struct ProviderRooms {
    rooms: Mutex<Rooms>,
}

#[derive(Debug, Default)]
struct Rooms {
    /// One that is not limited any more stays: some of its places may be taken.
    by_provider: HashMap<i32, Arc<Room>>,
    of_queue: HashMap<String, Arc<Room>>,
}

impl ProviderRooms {
    /// Takes what is set now.
    pub(crate) fn set(&self, providers: &[WorkerProvider]) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.of_queue.clear();
        for provider in providers {
            let Some(most) = provider.unanswered_max else {
                continue;
            };
            let room = rooms.by_provider.entry(provider.id).or_default().clone();
            room.resize(most);
            for queue in &provider.queues {
                rooms.of_queue.insert(queue.clone(), room.clone());
            }
        }
    }

    /// Waits for a place for a job of this queue, if its provider has a limit. Nothing is lost if this is
    /// given up.
    pub(crate) async fn enter(&self, queue: &str) -> Option<OwnedSemaphorePermit> {
        Some(self.of(queue)?.enter().await)
    }

    /// How many jobs the queue's provider takes at once, if that is set.
    pub(crate) fn places(&self, queue: &str) -> Option<usize> {
        Some(self.of(queue)?.places())
    }

    fn of(&self, queue: &str) -> Option<Arc<Room>> {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.of_queue.get(queue).cloned()
    }
}

/// Places for the jobs of one queue; none to begin with.
#[derive(Debug)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    size: Mutex<Size>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(0)),
            size: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Size {
    places: usize,
    /// Places too many, whose jobs still run: each goes when its job has ended.
    too_many: usize,
}

impl Room {
    /// Waits for a place, which is taken until the permit is dropped. Nothing is lost if this is
    /// given up.
    pub(crate) async fn enter(&self) -> OwnedSemaphorePermit {
        loop {
            let place = self.places.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            if !self.is_one_too_many() {
                return place;
            }
            place.forget();
        }
    }

    /// How many there are, taken or free.
    pub(crate) fn places(&self) -> usize {
        let size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        size.places
    }

    fn is_one_too_many(&self) -> bool {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let is_one = size.too_many > 0;
        size.too_many -= usize::from(is_one);
        is_one
    }

    pub(crate) fn resize(&self, places: u16) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let places = usize::from(places);
        if places >= size.places {
            let more = places - size.places;
            let kept = more.min(size.too_many);
            size.too_many -= kept;
            self.places.add_permits(more - kept);
        } else {
            let fewer = size.places - places;
            size.too_many += fewer - self.places.forget_permits(fewer);
        }
        size.places = places;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_operator_goes_before_the_configuration() {
        let mut prefetch = Prefetch::new(100);
        assert!(prefetch.set(vec![("slow".to_owned(), 2)], &[]));
        assert!(!prefetch.set(vec![("slow".to_owned(), 2)], &[]));
        assert_eq!((prefetch.of("slow"), prefetch.of("default")), (2, 100));
        assert!(prefetch.set(vec![("slow".to_owned(), u16::MAX)], &[]));
        assert_eq!(prefetch.of("slow"), 2000, "what RabbitMQ takes");
        assert!(prefetch.set(Vec::new(), &[]));
        assert_eq!(prefetch.of("slow"), 100);
    }

    fn gateway(unanswered_max: Option<u16>) -> WorkerProvider {
        WorkerProvider {
            id: 1,
            name: "gateway".to_owned(),
            unanswered_max,
            failure_max: None,
            queues: vec!["one".to_owned(), "two".to_owned()],
        }
    }

    #[test]
    fn a_provider_bounds_each_of_its_queues() {
        let mut prefetch = Prefetch::new(100);
        assert!(prefetch.set(vec![("one".to_owned(), 7)], &[gateway(Some(50))]));
        assert_eq!(
            ["one", "two", "other"].map(|queue| prefetch.of(queue)),
            [7, 50, 100]
        );
        assert!(prefetch.set(Vec::new(), &[gateway(None)]));
        assert_eq!(prefetch.of("two"), 100);
    }

    #[test]
    fn queues_of_a_provider_share_its_places() {
        let rooms = ProviderRooms::default();
        rooms.set(&[gateway(Some(3))]);
        let enter = |queue| rooms.enter(queue).now_or_never();
        let first: Vec<_> = (0..2).filter_map(|_| enter("one").flatten()).collect();
        let last = enter("two").flatten();
        assert!(first.len() == 2 && last.is_some());
        assert!(enter("two").is_none(), "it waits");
        assert!(enter("other").is_some_and(|place| place.is_none()));
        drop(first);
        assert!(enter("two").flatten().is_some());
        rooms.set(&[gateway(None)]);
        assert!(enter("two").is_some_and(|place| place.is_none()));
    }

    proptest! {
        /// Nobody enters a room in which as many run already, whatever its size was when they came.
        #[test]
        fn a_room_takes_as_many_as_it_has_places_for_now(
            steps in proptest::collection::vec(prop_oneof![
                (1..20u16).prop_map(Step::Resize),
                Just(Step::Enter),
                Just(Step::Leave),
            ], 1..200),
        ) {
            let (room, mut places, mut inside) = (Room::default(), 0, Vec::new());
            for step in steps {
                match step {
                    Step::Resize(to) => {
                        room.resize(to);
                        places = usize::from(to);
                    }
                    Step::Enter => {
                        let entered = room.enter().now_or_never();
                        prop_assert_eq!(entered.is_some(), inside.len() < places);
                        inside.extend(entered);
                    }
                    Step::Leave => drop(inside.pop()),
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Resize(u16),
        Enter,
        Leave,
    }
}
