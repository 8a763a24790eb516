//! Who breaks things, and when. Afterwards everything has to come to its end by itself.

use std::cell::RefCell;
use std::rc::Rc;

use super::executor::Sim;
use super::model_store::Millis;
use super::worker::Stop;
use super::world::{OUTSIDE, ProcessNo};
use super::{scheduler, worker};

/// The longest that a run may take to drain after the last fault.
const DRAIN_TAKES: Millis = 600_000;
/// What is judged by a timer of a whole lease is repaired so much after it.
const AFTER_LEASE: Millis = 5_000;
/// A job whose message went to another worker runs so long, at most.
const RUN_TAKES: Millis = 12_000;

/// A place in the fleet, and who has it now.
enum Seat {
    Scheduler(ProcessNo),
    Worker(ProcessNo, Rc<Stop>),
}

impl Seat {
    fn process(&self) -> ProcessNo {
        match self {
            Self::Scheduler(process) | Self::Worker(process, _) => *process,
        }
    }
}

type Fleet = Rc<RefCell<Vec<Seat>>>;

/// Starts the fleet and everything that goes wrong with it.
pub(super) fn start(sim: &Sim) {
    let fleet = Fleet::default();
    let (workers, schedulers) = sim.with(|world| (world.plan.workers, world.plan.schedulers));
    for _ in 0..schedulers {
        fleet
            .borrow_mut()
            .push(Seat::Scheduler(scheduler::start(sim)));
    }
    for _ in 0..workers {
        let (process, stop) = worker::start(sim);
        fleet.borrow_mut().push(Seat::Worker(process, stop));
    }
    for _ in 0..sim.with(|world| world.plan.faults) {
        let at = sim.with(|world| {
            world
                .chance
                .between(world.plan.faults_from, world.plan.faults_until)
        });
        sim.spawn(OUTSIDE, one(sim.clone(), fleet.clone(), at));
    }
    sim.spawn(OUTSIDE, end_when_drained(sim.clone()));
}

async fn one(sim: Sim, fleet: Fleet, at: Millis) {
    sim.sleep(at - sim.now()).await;
    let (seat, what) = sim.with(|world| {
        let seat = world.chance.below(fleet.borrow().len());
        (seat, world.chance.below(12))
    });
    match what {
        0..=2 => kill(&sim, &fleet, seat).await,
        3..=4 => pause(&sim, &fleet, seat),
        5 => stop(&sim, &fleet, seat).await,
        6 => cut_from_database(&sim, &fleet, Some(seat)),
        7 => cut_from_database(&sim, &fleet, None),
        8 => take_broker(&sim, true),
        9 => take_broker(&sim, false),
        _ => close_connections(&sim, &fleet, seat),
    }
}

/// Puts another process into a seat.
fn refill(sim: &Sim, fleet: &Fleet, seat: usize) {
    let mut fleet = fleet.borrow_mut();
    fleet[seat] = match &fleet[seat] {
        Seat::Scheduler(_) => Seat::Scheduler(scheduler::start(sim)),
        Seat::Worker(..) => {
            let (process, stop) = worker::start(sim);
            Seat::Worker(process, stop)
        }
    };
}

fn process_of(fleet: &Fleet, seat: usize) -> ProcessNo {
    fleet.borrow()[seat].process()
}

async fn kill(sim: &Sim, fleet: &Fleet, seat: usize) {
    let process = process_of(fleet, seat);
    let restart = sim.with(|world| {
        if !world.is_running(process) {
            return None;
        }
        world.kill(process);
        world.figures.crashes += 1;
        let shadow = world.plan.lease + AFTER_LEASE;
        world.fault("kill", world.now, true, shadow);
        Some(world.chance.between(10, 3_000))
    });
    if let Some(restart) = restart {
        sim.sleep(restart).await;
        refill(sim, fleet, seat);
    }
}

fn pause(sim: &Sim, fleet: &Fleet, seat: usize) {
    let process = process_of(fleet, seat);
    sim.with(|world| {
        let lease = world.plan.lease;
        let takes = match world.chance.is(0.5) {
            true => world.chance.between(50, lease),
            false => world.chance.between(lease, 3 * lease),
        };
        let until = world.now + takes;
        world.pause(process, until);
        world.figures.pauses += 1;
        world.fault("pause", until, true, lease + AFTER_LEASE + RUN_TAKES);
        if takes > lease && world.chance.is(0.5) {
            // The broker's own heartbeat has missed it, too.
            for connection in world.connections_of(process) {
                world.close(connection);
            }
        }
    });
}

/// SIGTERM, and a new one when it has ended.
async fn stop(sim: &Sim, fleet: &Fleet, seat: usize) {
    let stop = match &fleet.borrow()[seat] {
        Seat::Worker(process, stop) if sim.with(|world| world.is_running(*process)) => stop.clone(),
        _ => return,
    };
    let process = process_of(fleet, seat);
    let grace = sim.with(|world| {
        world.figures.stops += 1;
        let grace = world.chance.between(0, 4_000);
        let shadow = world.plan.lease + AFTER_LEASE;
        world.fault("stop", world.now + grace + 10_000, true, shadow);
        world.ring_all();
        grace
    });
    stop.quiesce();
    sim.sleep(grace).await;
    stop.cancel();
    sim.with(|world| world.ring_all());
    while !stop.has_stopped() && sim.with(|world| world.is_running(process)) {
        sim.sleep(100).await;
    }
    // Killed meanwhile, it has been replaced already.
    if stop.has_stopped() && process_of(fleet, seat) == process {
        refill(sim, fleet, seat);
    }
}

fn cut_from_database(sim: &Sim, fleet: &Fleet, seat: Option<usize>) {
    let mut processes = vec![OUTSIDE];
    match seat {
        Some(seat) => processes = vec![process_of(fleet, seat)],
        None => processes.extend(fleet.borrow().iter().map(Seat::process)),
    }
    sim.with(|world| {
        let until = world.now + world.chance.between(200, 2 * world.plan.lease);
        for process in processes {
            world.cut_from_database(process, until);
        }
        world.figures.outages += 1;
        let shadow = world.rescue_takes() + world.plan.lease + RUN_TAKES;
        // Whoever waits for an answer when the wire is cut waits a little longer.
        world.fault("cut from Postgres", until + 5_000, true, shadow);
    });
}

fn take_broker(sim: &Sim, is_wiped: bool) {
    sim.with(|world| {
        let until = world.now + world.chance.between(0, 3_000);
        world.broker_away_until = until;
        world.broker.restart(world.now);
        if is_wiped {
            world.broker.wipe();
            world.figures.wipes += 1;
        }
        world.figures.connections += 1;
        let shadow = world.rescue_takes() + RUN_TAKES;
        let name = if is_wiped {
            "wipe RabbitMQ"
        } else {
            "restart RabbitMQ"
        };
        world.fault(name, until, false, shadow);
        world.ring_all();
    });
}

fn close_connections(sim: &Sim, fleet: &Fleet, seat: usize) {
    let process = process_of(fleet, seat);
    sim.with(|world| {
        for connection in world.connections_of(process) {
            world.close(connection);
        }
        world.figures.connections += 1;
        world.fault("close connections", world.now, false, RUN_TAKES);
    });
}

/// Heals what is broken when the time of faults is over, and ends the world when nothing is on
/// its way any more.
async fn end_when_drained(sim: Sim) {
    let heals_at = sim.with(|world| world.plan.faults_until);
    let mut is_healed = false;
    loop {
        sim.sleep(500).await;
        let now = sim.now();
        sim.with(|world| {
            world.look_at_backing();
            if now >= heals_at && !is_healed {
                world.broker.limit_length(usize::MAX);
                is_healed = true;
            }
            let is_late = now > heals_at + DRAIN_TAKES;
            if is_healed && (is_late || (world.is_drained() && now > world.plan.load_until)) {
                world.is_over = true;
            }
        });
    }
}
