//! The core on models: ten thousand short lives of a whole installation, each determined by its
//! seed.
//!
//! | room | for |
//! |---|---|
//! | [`model_store`], [`model_broker`] | what the two servers mean; held to the real ones by `tests/conformance.rs` |
//! | `executor`, `world` | one thread, one virtual clock; the seed picks who goes on at every await |
//! | `scheduler`, `worker`, `membership` | the steps of the programs, with the awaits where theirs are |
//! | `client`, `provider`, `faults` | who submits, who is called, who breaks things |
//! | `bug` | mistakes to be found |
//!
//! What is real: the states and their moves, the decisions about retries, the checks of a new job.
//! What is modelled: everything that waits for a server. So a red seed is a mistake of the design
//! or of a model, and a green one says nothing of the drivers; those are tested against real
//! servers.
//!
//! To look into a seed: `POSTROAD_SEED=17 cargo test -p postroad-chaos --lib -- --nocapture
//! one_seed_is_told`.

mod bug;
mod chance;
mod client;
mod executor;
mod faults;
mod membership;
pub mod model_broker;
pub mod model_store;
mod plan;
mod provider;
mod scheduler;
mod worker;
mod world;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use bug::Bug;
pub use chance::Chance;

use crate::checker::{Limits, check_with};
use crate::history::History;
use crate::run::complaints;
use executor::Sim;
use world::{OUTSIDE, World};

/// Clocks here are exact, and what a lost message leaves is repaired after a minute.
const LIMITS: Limits = Limits {
    shadow_seconds: 80.0,
    lead_seconds: 1.0,
    start_slack_seconds: 0.5,
};

/// One seed's life.
#[derive(Debug)]
pub struct Run {
    /// What observers saw.
    pub history: History,
    /// What only a model sees: a move that the state machine refuses, a window overrun, a share
    /// exceeded, a delivery settled that was not there.
    pub violations: Vec<String>,
    /// What was done.
    pub figures: Figures,
}

impl Run {
    /// What is wrong, one sentence each. Empty: all is well.
    pub fn red(&self) -> Vec<String> {
        let mut red = complaints(&check_with(&self.history, &LIMITS));
        red.extend_from_slice(&self.violations);
        red
    }
}

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What was done, counted.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Figures { $($(#[$doc])* pub $name: u64),* }

        impl Figures {
            fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

figures! {
    /// Jobs that clients tried to submit.
    jobs,
    /// Requests that reached the provider.
    calls,
    /// Processes killed.
    crashes,
    /// Processes stopped for a while.
    pauses,
    /// Workers asked to stop.
    stops,
    /// Times the broker came back empty.
    wipes,
    /// Times connections to the broker were closed.
    connections,
    /// Times somebody, or everybody, was cut from Postgres.
    outages,
    /// Calls to the database that did nothing.
    calls_failed,
    /// Calls to the database that acted without an answer, some of them later.
    answers_lost,
    /// Messages that arrived twice.
    copies,
    /// Looks at whether every job in the pipe has a message behind it.
    looks,
}

/// Everything about one seed.
pub fn run(seed: u64, bug: Option<Bug>) -> Run {
    let sim = Sim::of(World::of(seed, bug));
    sim.with(|world| assert_eq!(world.begin_process(), OUTSIDE, "the outside comes first"));
    client::start(&sim);
    sim.spawn(OUTSIDE, client::operate(sim.clone()));
    faults::start(&sim);
    sim.run();
    let (history, violations, figures) = sim.end().finish();
    Run {
        history,
        violations,
        figures,
    }
}

/// What was seen of one seed: the same, every time.
pub fn run_seed(seed: u64, bug: Option<Bug>) -> History {
    run(seed, bug).history
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many.
    pub seeds: u64,
    /// What was done in all of them.
    pub figures: Figures,
    /// The seeds that are red, in order, and what is wrong with each.
    pub red: Vec<(u64, Vec<String>)>,
}

/// Runs seeds on so many threads. What is red is printed, with how to see it again.
pub fn run_seeds(seeds: Range<u64>, threads: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let part = run_part(&next, seeds.end);
                let mut summary = summary.lock().expect("no thread panics while it adds");
                summary.seeds += part.seeds;
                summary.figures.add(&part.figures);
                summary.red.extend(part.red);
            });
        }
    });
    let mut summary = summary.into_inner().expect("every thread has ended");
    summary.red.sort();
    for (seed, red) in &summary.red {
        println!("seed {seed} is red: {}", red.join("; "));
        println!(
            "  POSTROAD_SEED={seed} cargo test -p postroad-chaos --lib -- --nocapture one_seed_is_told"
        );
    }
    summary
}

fn run_part(next: &AtomicU64, end: u64) -> Summary {
    let mut summary = Summary::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return summary;
        }
        let run = run(seed, None);
        let red = run.red();
        summary.seeds += 1;
        summary.figures.add(&run.figures);
        if !red.is_empty() {
            summary.red.push((seed, red));
        }
    }
}

#[cfg(test)]
mod tests;
