use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

const QUEUE: &str = "default";
const PLACES: usize = 60;

fn destinations(most: usize) -> Destinations {
    Destinations::new(most, &[QUEUE.to_owned(), "other".to_owned()])
}

fn enter(destinations: &Destinations, name: &str) -> Turn {
    destinations.enter(Some(&Destination::new(name)), QUEUE, PLACES, None)
}

/// As many calls as there may be, of so many jobs.
fn calls(destinations: &Destinations, name: &str, jobs: usize) -> Vec<Call> {
    let call = |_| match enter(destinations, name) {
        Turn::Now(call) => Some(call),
        _ => None,
    };
    (0..jobs).filter_map(call).collect()
}

/// Has so many calls end well, each within a moment, one after the other.
fn answer(destinations: &Destinations, name: &str, times: usize) {
    for _ in 0..times {
        let began = Instant::now();
        for call in calls(destinations, name, 1000) {
            call.ended(Evidence::Done, began);
        }
    }
}

#[test]
fn alone_a_destination_may_have_every_place_and_beside_others_half_of_them() {
    let destinations = destinations(1000);
    answer(&destinations, "a", 20);
    assert_eq!(calls(&destinations, "a", 1000).len(), 1000, "as it answers");
    drop(destinations.enter(None, QUEUE, PLACES, None));
    let of_a = calls(&destinations, "a", 1000);
    assert_eq!(of_a.len(), PLACES / 2);
    // What is left is shared alike.
    assert_eq!(calls(&destinations, "b", 1000).len(), PLACES / 4);
    let elsewhere = destinations.enter(Some(&Destination::new("a")), "other", PLACES, None);
    assert!(matches!(elsewhere, Turn::Now(_)), "places of another queue");
}

/// An operator who has said what a provider takes need not wait until each worker has found out: what is
/// above the first calls of a burst would go back to the schedule, whatever it is worth.
#[test]
fn a_destination_that_is_told_to_take_so_many_gets_them_from_the_first_job_on() {
    let taken = |most, told| {
        let (destinations, name) = (destinations(most), Destination::new("gateway"));
        let enter = |_| match destinations.enter(Some(&name), QUEUE, PLACES, told) {
            Turn::Now(call) => Some(call),
            _ => None,
        };
        (0..1000).filter_map(enter).collect::<Vec<_>>().len()
    };
    assert_eq!(taken(1000, Some(100)), 100);
    assert_eq!(taken(1000, None), 20);
    assert_eq!(
        taken(50, Some(100)),
        50,
        "the worker's own bound is kept to"
    );
}

#[test]
fn every_destination_gets_one_call_though_others_have_all_places() {
    let destinations = destinations(1000);
    let mut all = Vec::new();
    for n in 0..PLACES * 2 {
        all.extend(calls(&destinations, &n.to_string(), 100));
    }
    for n in 0..PLACES * 2 {
        let name = Destination::new(&n.to_string());
        assert!(all.iter().any(|call| call.destination == name), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_call_that_ends_and_nobody_waits_for_long() {
    let destinations = destinations(2);
    let mut held = calls(&destinations, "a", 2);
    let waits = |_| match enter(&destinations, "a") {
        Turn::Wait(wait) => wait,
        _ => panic!("it does not wait"),
    };
    let [first, second] = [0, 1].map(waits);
    held.pop();
    let call = first.end().now_or_never().expect("at once");
    assert!(call.is_ok());
    let put_off = second.end().await.err().expect("nothing has ended");
    assert_eq!(put_off.reason, "waited");
    drop((call, held));
    let again = calls(&destinations, "a", 5);
    assert_eq!(again.len(), 2, "who gave up waiting does not count");
}

#[test]
fn who_asked_to_be_left_alone_is() {
    let destinations = destinations(100);
    for call in calls(&destinations, "a", 1) {
        let pause = Some(Duration::from_secs(20));
        call.ended(Evidence::overloaded(pause), Instant::now());
    }
    match enter(&destinations, "a") {
        Turn::Later(put_off) => {
            assert_eq!(put_off.reason, "paused");
            assert!(put_off.delay >= Duration::from_secs(19), "{put_off:?}");
        }
        _ => panic!("it is called"),
    }
    assert!(matches!(enter(&destinations, "b"), Turn::Now(_)));
    let census = destinations.tidy();
    assert_eq!((census.known, census.put_off, census.paused), (2, 1, 1));
}

#[test]
fn not_more_are_known_than_there_is_memory_for() {
    let destinations = destinations(100);
    let held = calls(&destinations, "held", 3);
    for n in 0..KNOWN_MAX + 100 {
        assert!(matches!(enter(&destinations, &n.to_string()), Turn::Now(_)));
    }
    assert!(destinations.tidy().known <= KNOWN_MAX);
    let name = Destination::new("held");
    let calls = destinations.lock().known[&name].calls_in(0);
    assert_eq!(calls, held.len(), "one with a call is not forgotten");
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u8, bool),
    End(usize, bool),
    GiveUp(usize),
    Await(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8, any::<bool>()).prop_map(|(who, other)| Step::Enter(who, other)),
        2 => (0..99usize, any::<bool>()).prop_map(|(which, fails)| Step::End(which, fails)),
        1 => (0..99usize).prop_map(Step::GiveUp),
        1 => (0..99usize).prop_map(Step::Await),
    ]
}

proptest! {
    /// Whatever order jobs come, end, wait and give up in: nobody is called more than its limit, no call
    /// is counted that is over, and nobody waits while there is a call to be had.
    #[test]
    fn calls_are_counted_while_they_last(steps in proptest::collection::vec(step(), 1..300)) {
        let destinations = destinations(5);
        let (mut calls, mut waits): (Vec<Call>, Vec<Wait>) = Default::default();
        for step in steps {
            match step {
                Step::Enter(who, other) => {
                    let name = Destination::new(&who.to_string());
                    let queue = if other { "other" } else { QUEUE };
                    match destinations.enter(Some(&name), queue, 8, None) {
                        Turn::Now(call) => calls.push(call),
                        Turn::Wait(wait) => waits.push(wait),
                        Turn::Later(put_off) => prop_assert!(put_off.delay > Duration::ZERO),
                        Turn::Uncounted => prop_assert!(false, "there is room to know it"),
                    }
                }
                Step::End(which, fails) if !calls.is_empty() => {
                    let which = which % calls.len();
                    let call = calls.swap_remove(which);
                    let evidence = match fails {
                        true => Evidence::silence(),
                        false => Evidence::Done,
                    };
                    call.ended(evidence, Instant::now());
                }
                Step::GiveUp(which) if !waits.is_empty() => {
                    let which = which % waits.len();
                    drop(waits.swap_remove(which));
                }
                Step::Await(which) if !waits.is_empty() => {
                    let which = which % waits.len();
                    match waits[which].granted.try_recv() {
                        Ok(call) => {
                            calls.push(call);
                            waits.swap_remove(which);
                        }
                        Err(error) => prop_assert_eq!(error, oneshot::error::TryRecvError::Empty),
                    }
                }
                _ => {}
            }
            check(&destinations, &calls, &waits)?;
        }
        drop((calls, waits));
        let state = destinations.lock();
        prop_assert!(state.lanes.iter().all(|lane| lane.calls == 0));
        prop_assert!(state.known.values().all(|known| !known.is_in_use()));
    }
}

fn check(destinations: &Destinations, calls: &[Call], waits: &[Wait]) -> Result<(), TestCaseError> {
    let now = Instant::now();
    let state = destinations.lock();
    for (name, known) in &state.known {
        let counted: usize = (0..2).map(|lane| known.calls_in(lane)).sum();
        let held = calls.iter().filter(|call| call.destination == *name);
        // Some may have been granted and not been taken yet.
        let waiting = waits.iter().filter(|wait| wait.destination == *name);
        let (held, waiting) = (held.count(), waiting.count());
        prop_assert!(
            (held..=held + waiting).contains(&counted),
            "{counted} {held}"
        );
        prop_assert!(counted <= 5, "{counted}");
        if let Some(lane) = known.next_waiting().filter(|_| known.takes_more(now)) {
            let has_share = state.lanes[lane].has_share_for(name, known.calls_in(lane), now);
            prop_assert!(!has_share || counted > 0, "{name} keeps jobs waiting");
        }
    }
    Ok(())
}
