//! How many jobs of each queue are in hand and run at once here: as the worker is configured, or as
//! an operator has set the queue, also while it works.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::PREFETCH_MAX;

/// The number of each queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefetch {
    default: u16,
    set: BTreeMap<String, u16>,
}

impl Prefetch {
    /// As the worker is configured.
    pub(crate) fn new(default: u16) -> Self {
        Self {
            default,
            set: BTreeMap::new(),
        }
    }

    pub(crate) fn of(&self, queue: &str) -> u16 {
        self.set.get(queue).copied().unwrap_or(self.default)
    }

    /// Half of the places of the queue that has most of them.
    pub(crate) fn half(&self) -> usize {
        let set = self.set.values().copied();
        usize::from(set.fold(self.default, u16::max)) / 2
    }

    /// Takes what operators have set, and says whether that is news.
    pub(crate) fn set(&mut self, set: Vec<(String, u16)>) -> bool {
        let most = u16::try_from(PREFETCH_MAX).unwrap_or(u16::MAX);
        let set = set.into_iter().map(|(queue, to)| (queue, to.min(most)));
        let set = BTreeMap::from_iter(set);
        let is_news = self.set != set;
        self.set = set;
        is_news
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
        assert!(prefetch.set(vec![("slow".to_owned(), 2)]));
        assert!(!prefetch.set(vec![("slow".to_owned(), 2)]));
        assert_eq!((prefetch.of("slow"), prefetch.of("default")), (2, 100));
        assert!(prefetch.set(vec![("slow".to_owned(), u16::MAX)]));
        assert_eq!(prefetch.of("slow"), 2000, "what RabbitMQ takes");
        assert!(prefetch.set(Vec::new()));
        assert_eq!(prefetch.of("slow"), 100);
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
