//! A scheduler: the steps of `postroad-scheduler`'s services, with the awaits where theirs are.

mod dead_letters;
mod dispatcher;
mod watcher;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use postroad_common::job::retry;
use postroad_common::store::{FailedJob, Ruling};

use super::Bug;
use super::executor::{NoAnswer, Sim};
use super::membership::Membership;
use super::world::ProcessNo;
use dead_letters::DeadLetters;
use dispatcher::{Dispatcher, Publisher};
use watcher::watch;

// The services keep these to themselves; the same figures stand there.
const LETTER_PATIENCE: Duration = Duration::from_secs(2);
const EXPIRY_SLACK: Duration = Duration::from_secs(15);
const LIMIT: usize = 1000;

/// Starts one.
pub(super) fn start(sim: &Sim) -> ProcessNo {
    let me = sim.with(|world| world.begin_process());
    sim.spawn(me, run(sim.clone(), me));
    me
}

async fn run(sim: Sim, me: ProcessNo) {
    let membership = Membership::join(&sim, me).await;
    let publisher = Rc::new(Publisher {
        sim: sim.clone(),
        me,
        connection: Cell::new(None),
    });
    sim.spawn(me, publisher.clone().keep_connected());
    let dispatcher = Rc::new(Dispatcher {
        sim: sim.clone(),
        me,
        publisher,
        membership,
        in_flight: Cell::new(0),
        claimed_at: RefCell::default(),
    });
    sim.spawn(me, dispatcher.run());
    sim.spawn(
        me,
        DeadLetters {
            sim: sim.clone(),
            me,
            session: None,
            in_hand: Vec::new(),
        }
        .run(),
    );
    sim.spawn(me, sweep(sim.clone(), me));
    sim.spawn(me, watch(sim.clone(), me));
    sim.spawn(me, rescue(sim.clone(), me));
    sim.spawn(me, expire(sim.clone(), me));
}

/// Decides about failed jobs and carries it out.
async fn rule(sim: &Sim, me: ProcessNo, failed: &[FailedJob]) -> Result<(), NoAnswer> {
    let decide = |failed: &FailedJob| Ruling {
        job: failed.job,
        verdict: retry::decide(&failed.failed, sim.with(|world| world.chance.unit())),
    };
    let rulings: Vec<_> = failed.iter().map(decide).collect();
    if rulings.is_empty() {
        return Ok(());
    }
    sim.call(me, move |store| store.rule(&rulings))
        .await
        .map(drop)
}

async fn sweep(sim: Sim, me: ProcessNo) {
    if sim.with(|world| world.has_bug(Bug::NoSweep)) {
        return;
    }
    loop {
        let failed = sim
            .call(me, |store| store.failed_long_ago(LETTER_PATIENCE, LIMIT))
            .await;
        if let Ok(failed) = failed {
            // The next run is the retry.
            drop(rule(&sim, me, &failed).await);
        }
        sim.sleep(1_000).await;
    }
}

async fn rescue(sim: Sim, me: ProcessNo) {
    loop {
        if sim
            .call(me, |store| store.release_unstarted(EXPIRY_SLACK, LIMIT))
            .await
            .is_ok()
        {
            drop(sim.call(me, |store| store.end_lost_runs(LIMIT)).await);
        }
        sim.sleep(500).await;
    }
}

async fn expire(sim: Sim, me: ProcessNo) {
    loop {
        drop(sim.call(me, |store| store.expire(LIMIT)).await);
        sim.sleep(1_000).await;
    }
}
