//! Who hands jobs in, and who decides about held ones.

use std::time::Duration;

use jiff::Timestamp;
use postroad_common::job::{JobState, NewJob, OnLost, RunAt};
use postroad_common::store::Resolution;
use serde_json::value::RawValue;

use super::executor::{NoAnswer, Sim};
use super::model_store::{Job, Millis, ModelStore, seconds};
use super::world::{OUTSIDE, World, sha256};
use crate::history::{Answer, Submit, Tick};

/// Tries of one submit before its client gives up.
const TRIES: usize = 6;
/// How long a held job waits for its decision, at least.
const DECISION_TAKES: Millis = 1_000;

/// A job to be submitted, with what a history says of it.
#[derive(Clone)]
struct Order {
    job: NewJob,
    tick: Option<Tick>,
    at: Millis,
}

/// Starts the clients of a run: one for ordinary jobs, two that both submit every tick.
pub(super) fn start(sim: &Sim) {
    let (orders, ticks) = sim.with(|world| {
        world.clients = 3;
        let orders: Vec<_> = (0..world.plan.jobs).map(|_| order(world)).collect();
        let count = world.chance.below(6) as u64;
        let ticks: Vec<_> = (0..count).map(|number| tick(world, number)).collect();
        (orders, ticks)
    });
    for orders in [orders, ticks.clone(), ticks] {
        sim.spawn(OUTSIDE, submit_all(sim.clone(), orders));
    }
}

fn order(world: &mut World) -> Order {
    let begin = world.now;
    let at = world.chance.between(begin, world.plan.load_until);
    let tenant = world.chance.one_of(&world.plan.tenants.clone()).clone();
    let queue = world.chance.one_of(&world.plan.queues.clone()).clone();
    let kind = *world.chance.one_of(&["webhook", "sms"]);
    let number = world.next_job_id();
    let args = args(tenant.as_str(), &number.to_string());
    let mut job = NewJob::new(kind.parse().expect("is a name"), args);
    (job.id, job.tenant, job.queue) = (number.into(), tenant, queue);
    job.priority = Some(i16::try_from(world.chance.below(4)).expect("is small"));
    let wait = match world.chance.below(3) {
        0 => world.chance.between(1, 8_000),
        _ => 0,
    };
    job.run_at = match wait {
        0 => RunAt::Now,
        wait if world.chance.is(0.5) => RunAt::After(duration(wait)),
        wait => RunAt::At(timestamp(at + wait)),
    };
    if world.chance.is(0.15) {
        let slack = world.chance.between(50, 6_000);
        job.expires_at = Some(timestamp(at + wait + slack));
    }
    if world.chance.is(0.1) {
        job.on_lost = Some(*world.chance.one_of(&[OnLost::Retry, OnLost::Hold]));
    }
    if world.chance.is(0.1) {
        job.max_attempts = Some(1 + i32::try_from(world.chance.below(3)).expect("is small"));
    }
    if world.chance.is(0.02) {
        job.priority = Some(9);
    }
    Order {
        job,
        tick: None,
        at,
    }
}

/// One occasion of a schedule: whoever submits it says the same, but for the id.
fn tick(world: &mut World, number: u64) -> Order {
    let base = order(world);
    let mut job = base.job;
    job.kind = "webhook".parse().expect("is a name");
    (job.tenant, job.queue) = (world.plan.tenants[0].clone(), world.plan.queues[0].clone());
    (job.run_at, job.expires_at, job.on_lost, job.priority) = (RunAt::Now, None, None, None);
    job.args = args(job.tenant.as_str(), &format!("tick {number}"));
    job.dedup_key = Some(format!("schedule/{number}"));
    let schedule = "schedule".to_owned();
    Order {
        job,
        tick: Some(Tick { schedule, number }),
        at: base.at,
    }
}

/// The tenant stands first: the address that its provider is called at.
fn args(tenant: &str, text: &str) -> Box<RawValue> {
    let json = format!(r#"{{"to":"{tenant}","text":"{text}"}}"#);
    RawValue::from_string(json).expect("is JSON")
}

async fn submit_all(sim: Sim, mut orders: Vec<Order>) {
    orders.sort_by_key(|order| order.at);
    while !orders.is_empty() {
        let now = sim.now();
        sim.sleep((orders[0].at - now).max(0)).await;
        let most = sim.with(|world| 1 + world.chance.below(4));
        let now = sim.now();
        let is_due = |order: &&Order| order.at <= now + 50;
        let count = orders.iter().take(most).take_while(is_due).count();
        let batch: Vec<_> = orders.drain(..count.max(1)).collect();
        submit(&sim, batch).await;
    }
    sim.with(|world| world.clients -= 1);
}

async fn submit(sim: &Sim, mut batch: Vec<Order>) {
    for order in batch.iter_mut().filter(|order| order.tick.is_some()) {
        // Who submits the same tick has its own id for it.
        order.job.id = sim.with(|world| world.next_job_id()).into();
    }
    let begun = sim.now();
    let jobs: Vec<_> = batch.iter().map(|order| order.job.clone()).collect();
    let mut answer = Err(NoAnswer);
    for tries in 0..TRIES {
        let sent = jobs.clone();
        let enqueue = move |store: &mut ModelStore| store.enqueue(&sent, tries > 0);
        answer = sim.transact(OUTSIDE, enqueue).await;
        if answer.is_ok() {
            break;
        }
        sim.sleep(300).await;
    }
    let answer_of = |n: usize| match &answer {
        Ok(Ok(enqueued)) => Answer::Accepted(*enqueued[n].id.as_uuid()),
        Ok(Err(_)) => Answer::Refused,
        Err(NoAnswer) => Answer::Unknown,
    };
    for (n, order) in batch.into_iter().enumerate() {
        let submit = order.describe(begun, answer_of(n));
        sim.with(|world| world.submitted(submit));
    }
}

impl Order {
    fn describe(self, begun: Millis, answer: Answer) -> Submit {
        let Self { job, tick, .. } = self;
        let due = match job.run_at {
            RunAt::Now => seconds(begun),
            RunAt::After(wait) => seconds(begun) + wait.as_secs_f64(),
            RunAt::At(at) => seconds(at.as_millisecond()),
        };
        let of_kind = match job.kind.as_str() {
            "sms" => OnLost::Hold,
            _ => OnLost::Retry,
        };
        Submit {
            t: seconds(begun),
            id: *job.id.as_uuid(),
            tenant: job.tenant.to_string(),
            kind: job.kind.to_string(),
            on_lost: job.on_lost.unwrap_or(of_kind).into(),
            due,
            expires: job.expires_at.map(|at| seconds(at.as_millisecond())),
            dedup_key: job.dedup_key,
            tick,
            body_sha256: Some(sha256(job.args.get())),
            over_http: false,
            resumed: Vec::new(),
            answer,
        }
    }
}

/// Decides about held jobs by what the provider says: done, or once more.
pub(super) async fn operate(sim: Sim) {
    loop {
        sim.sleep(700).await;
        sim.with(|world| {
            let latest = world.now - DECISION_TAKES;
            let is_waiting = |job: &&Job| {
                job.state == JobState::Held && job.ended_at.is_some_and(|at| at <= latest)
            };
            let waiting: Vec<_> = world
                .store
                .jobs()
                .filter(is_waiting)
                .map(|job| job.id)
                .collect();
            for id in waiting {
                let uuid = *id.as_uuid();
                let mut calls = world.history.calls.iter();
                let is_done = calls.any(|call| call.id == Some(uuid) && call.effect);
                let to = match is_done {
                    true => Resolution::Completed,
                    false => Resolution::Retry,
                };
                if !world.store.resolve(&[id], to).is_empty() {
                    world.decided(uuid, !is_done);
                }
            }
        });
    }
}

fn duration(millis: Millis) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn timestamp(at: Millis) -> Timestamp {
    Timestamp::from_millisecond(at).expect("the model's clock stays near the present")
}
