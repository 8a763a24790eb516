//! Seeds, and mistakes that they have to find.

use std::time::Instant;

use postroad_common::config::Env;

use super::{Bug, run, run_seed, run_seeds};

/// Enough for every test run; the long run asks for more by `POSTROAD_SEEDS`.
const SEEDS: u64 = 500;
/// A mistake that is not found in so many seeds is not found.
const SEEDS_PER_BUG: u64 = 400;
const THREADS: usize = 2;

#[test]
fn nothing_is_lost_or_doubled_whatever_the_order_of_events() {
    let seeds = number("POSTROAD_SEEDS").unwrap_or(SEEDS);
    let started = Instant::now();
    let summary = run_seeds(0..seeds, THREADS);
    let took = started.elapsed().as_secs_f64();
    println!(
        "{} seeds in {took:.1} s: {:?}",
        summary.seeds, summary.figures
    );
    let done = summary.figures;
    assert!(
        [
            done.crashes,
            done.pauses,
            done.stops,
            done.wipes,
            done.outages
        ]
        .iter()
        .all(|n| *n > 0),
        "what was not broken was not tested: {done:?}"
    );
    assert!(done.looks > 0, "nobody looked at the pipe");
    assert!(
        summary.red.is_empty(),
        "{} seeds are red",
        summary.red.len()
    );
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| format!("{:?}", run_seed(seed, None)));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn every_mistake_is_found() {
    let mut found = 0;
    for bug in Bug::ALL {
        let red = |seed: &u64| !run(*seed, Some(bug)).red().is_empty();
        match (0..SEEDS_PER_BUG).find(red) {
            Some(seed) => {
                let what = run(seed, Some(bug)).red();
                println!("{bug:?}: seed {seed}, {}", what[0]);
                assert_eq!(run(seed, None).red(), Vec::<String>::new(), "seed {seed}");
                found += 1;
            }
            None => println!("{bug:?}: not found in {SEEDS_PER_BUG} seeds"),
        }
    }
    println!("{found} of {} caught", Bug::ALL.len());
    assert_eq!(found, Bug::ALL.len());
}

/// For people: what happened in the seed `POSTROAD_SEED`.
#[test]
fn one_seed_is_told() {
    let Some(seed) = number("POSTROAD_SEED") else {
        return;
    };
    let run = run(seed, None);
    for fault in &run.history.faults {
        println!("{:.3} to {:.3} {}", fault.from, fault.until, fault.name);
    }
    for one in &run.history.moves {
        println!("{one:?}");
    }
    for call in &run.history.calls {
        println!("{call:?}");
    }
    println!("{:?}", run.figures);
    assert_eq!(run.red(), Vec::<String>::new());
}

fn number(name: &str) -> Option<u64> {
    let env = Env::of_process();
    env.text(name)
        .map(|text| text.parse().expect("is a number"))
}
