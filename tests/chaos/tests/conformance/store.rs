//! The model store against the real one.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use postroad_chaos::sim::model_store::ModelStore;
use postroad_common::job::{JobEvent, JobState, TenantName};
use postroad_common::store::Role;

use crate::doors::{Claiming, Door};
use crate::model::Model;
use crate::real::Real;
use crate::script::{Author, Step};

const SEQUENCES: u64 = 240;
const STEPS: usize = 30;
/// Sequences at once, each lane on a database of its own.
const LANES: u64 = 3;

type Moves = BTreeSet<(JobState, JobState)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_store_answers_as_the_real_one_and_keeps_the_same_rows() {
    let lane = async |number: u64| {
        let mut real = Real::open().await;
        let mut moves = Moves::new();
        for seed in (0..SEQUENCES).filter(|seed| seed % LANES == number) {
            moves.extend(compare(seed, &mut real).await);
        }
        moves
    };
    let lanes = join_all((0..LANES).map(lane)).await;

    let made: Moves = lanes.into_iter().flatten().collect();
    let missing: Vec<_> = legal_moves().difference(&made).copied().collect();
    println!(
        "{SEQUENCES} sequences of {STEPS} steps made {} kinds of moves",
        made.len()
    );
    assert_eq!(missing, [], "moves that no sequence made");
}

#[tokio::test]
async fn a_claim_serves_tenants_in_turn_until_its_credit_is_spent() {
    let mut real = Real::open().await;
    let now = real.now().await;
    let mut model = Model(ModelStore::new(now));
    let author = Author::of(0);
    let mut jobs = Vec::new();
    for number in 0..15 {
        let mut job = author.plain_job(now, number);
        job.tenant = author.tenants[number % 3].clone();
        jobs.push(job);
    }
    let queue = jobs[0].queue.clone();
    let claimer = real.register(Role::Scheduler).await;
    assert_eq!(model.register(Role::Scheduler).await, claimer);
    let enqueue = Step::Enqueue(jobs, false);
    assert_eq!(
        enqueue.take(&mut real).await,
        enqueue.take(&mut model).await
    );
    for limit in [4, 3, 1, 5, 2] {
        let claim = Step::Claim(Claiming {
            queue: queue.clone(),
            limit,
            credit_min: 1,
            claimer,
            order: Vec::new(),
        });
        model.set_now(real.now().await);
        let answer = claim.take(&mut real).await;
        let modelled = take_like(&claim, &mut model, &author.tenants, &answer).await;
        assert_eq!(modelled, answer);
        let share = |tenant: &TenantName| {
            let of_tenant = format!(" of {tenant},");
            answer
                .iter()
                .filter(|claim| claim.contains(&of_tenant))
                .count()
        };
        println!(
            "{limit} of three tenants: {:?}",
            author.tenants.iter().map(share).collect::<Vec<_>>()
        );
    }
    assert_eq!(model.rows().await, real.rows().await);
}

/// Runs one sequence on both; the moves that were made.
async fn compare(seed: u64, real: &mut Real) -> Moves {
    real.empty().await;
    let mut model = Model(ModelStore::new(real.now().await));
    let mut author = Author::of(seed);
    for queue in &author.queues {
        real.set_queue(queue, 5, false).await;
        model.set_queue(queue, 5, false).await;
    }
    for role in [
        Role::Scheduler,
        Role::Scheduler,
        Role::Worker,
        Role::Worker,
        Role::Worker,
    ] {
        assert_eq!(real.register(role).await, model.register(role).await);
    }
    let mut told = Vec::new();
    for number in 0..STEPS {
        let now = real.now().await;
        model.set_now(now);
        let step = author.next(&model.0, now);
        told.push(format!("{number}: {step:?}"));
        let answer = step.take(real).await;
        let modelled = take_like(&step, &mut model, &author.tenants, &answer).await;
        let what = || format!("seed {seed}:\n{}\n", told.join("\n"));
        assert_eq!(
            modelled,
            answer,
            "{}the model's answer, then the real one",
            what()
        );
        let (modelled, rows) = (model.rows().await, real.rows().await);
        assert_eq!(
            modelled,
            rows,
            "{}the model's rows, then the real ones",
            what()
        );
    }
    assert_eq!(model.0.violations(), Vec::<String>::new(), "seed {seed}");
    let moves = model.0.moves().iter();
    moves.filter_map(|one| Some((one.from?, one.to?))).collect()
}

/// The model serves tenants in the order that explains the real answer, if there is one.
async fn take_like(
    step: &Step,
    model: &mut Model,
    tenants: &[TenantName],
    answer: &[String],
) -> Vec<String> {
    let Step::Claim(claiming) = step else {
        return step.take(model).await;
    };
    for order in orders(tenants) {
        let mut claiming = claiming.clone();
        claiming.order = order;
        let mut copy = model.clone();
        let claimed = copy.claim(&claiming).await;
        if claimed == answer {
            *model = copy;
            return claimed;
        }
    }
    model.claim(claiming).await
}

fn orders(tenants: &[TenantName]) -> Vec<Vec<TenantName>> {
    if tenants.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in tenants.iter().enumerate() {
        let mut rest = tenants.to_vec();
        rest.remove(at);
        for mut order in orders(&rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}

fn legal_moves() -> Moves {
    let mut legal = Moves::new();
    for state in JobState::ALL {
        // What people do to jobs beyond held ones is not modelled.
        let is_modelled =
            |event: &JobEvent| !matches!(event, JobEvent::Cancelled | JobEvent::Revived);
        for event in JobEvent::ALL.into_iter().filter(is_modelled) {
            legal.extend(state.next(event).ok().map(|to| (state, to)));
        }
    }
    legal
}
