//! Programs die, sleep, and are replaced.

use std::time::Duration;

use anyhow::ensure;
use postroad_provision::Signal;
use postroad_tests::simulator::{Behaviour, Latency};
use rand::RngExt as _;

use super::{Acted, Acting, FaultRow, Field, Needs, Recovery, Tier, lasting};
use crate::load::{self, Load};
use crate::stage::{Role, Setup, Stage};

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new("calm", "nothing", calm)
            .recovery(Recovery::NotMeasured)
            .tier(Tier::Gate)
            .never_repeats(),
        FaultRow::new(
            "kill-workers",
            "kill -9 a worker, start another, five times",
            kill_workers,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Lease),
        FaultRow::new(
            "kill-schedulers",
            "kill -9 a scheduler, start another, five times",
            kill_schedulers,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "kill-apis",
            "kill -9 one of two apis, start another, five times",
            kill_apis,
        )
        .tier(Tier::Gate)
        .never_repeats()
        .setup(two_apis),
        FaultRow::new(
            "kill-all-workers",
            "kill -9 every worker at once, prefetch full",
            kill_all_workers,
        )
        .recovery(Recovery::Lease)
        .setup(full_hands),
        FaultRow::new(
            "kill-everything",
            "kill -9 every program at once, twice",
            kill_everything,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Lease),
        FaultRow::new(
            "pause-worker",
            "SIGSTOP a worker for less than its lease",
            pause_worker,
        )
        .recovery(Recovery::Lease),
        FaultRow::new(
            "sleep-worker",
            "SIGSTOP a worker for longer than its lease",
            sleep_worker,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Lease),
        FaultRow::new(
            "pause-scheduler",
            "SIGSTOP a scheduler for less than its lease",
            pause_scheduler,
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "sleep-scheduler",
            "SIGSTOP a scheduler for longer than its lease",
            sleep_scheduler,
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "rolling-restart",
            "SIGTERM every program in turn, and replace it",
            rolling_restart,
        )
        .tier(Tier::Gate)
        .never_repeats(),
        FaultRow::new(
            "prefetch-changes",
            "an operator changes how many jobs a worker runs at once, thirty times",
            change_prefetch,
        )
        .never_repeats(),
        FaultRow::new(
            "upgrade",
            "migrate under load, run the version before and this one side by side, kill one of each",
            upgrade,
        )
        .recovery(Recovery::Lease)
        .setup(version_before),
        FaultRow::new(
            "job-kills-worker",
            "jobs that abort the process that runs them",
            job_kills_worker,
        )
        .recovery(Recovery::Lease)
        .setup(poisonous),
        FaultRow::new("herd", "20,000 jobs due at the same moment", herd)
            .recovery(Recovery::NotMeasured)
            .never_repeats()
            .needs(Needs::Machine)
            .setup(|| herd_of(20_000)),
        FaultRow::new("herd-100k", "100,000 jobs due at the same moment", herd)
            .tier(Tier::All)
            .recovery(Recovery::NotMeasured)
            .never_repeats()
            .needs(Needs::Machine)
            .setup(|| herd_of(100_000)),
    ]
}

fn calm<'a>(_: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        lasting(Duration::from_secs(3)).await;
        Ok(Acted::Done)
    })
}

/// A random one of a role.
fn any(stage: &mut Stage, role: Role) -> postroad_tests::harness::cluster::Id {
    let of_role = stage.of(role);
    of_role[stage.rng.random_range(0..of_role.len())]
}

async fn kill_and_replace(stage: &mut Stage, role: Role, times: usize) -> anyhow::Result<Acted> {
    for _ in 0..times {
        let victim = any(stage, role);
        stage.kill(victim).await?;
        stage.start(role).await?;
        let pause = stage.rng.random_range(100..900);
        lasting(Duration::from_millis(pause)).await;
    }
    Ok(Acted::Done)
}

pub(super) fn kill_workers<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(kill_and_replace(stage, Role::Worker, 5))
}

pub(super) fn kill_schedulers<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(kill_and_replace(stage, Role::Scheduler, 5))
}

fn two_apis() -> Setup {
    Setup {
        apis: 2,
        ..Setup::default()
    }
}

fn kill_apis<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(kill_and_replace(stage, Role::Api, 5))
}

/// Slow answers, so that every place of every worker is taken.
fn full_hands() -> Setup {
    Setup {
        provider: Behaviour {
            latency: Latency::Fixed(Duration::from_millis(400)),
            ..Behaviour::default()
        },
        ..Setup::default()
    }
}

fn kill_all_workers<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        kill_all(stage, &[Role::Worker]).await?;
        Ok(Acted::Done)
    })
}

fn kill_everything<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        for _ in 0..2 {
            kill_all(stage, &Role::ALL).await?;
            lasting(Duration::from_secs(1)).await;
        }
        Ok(Acted::Done)
    })
}

/// Kills all of these roles, one after the other without a pause, and replaces them.
async fn kill_all(stage: &mut Stage, roles: &[Role]) -> anyhow::Result<()> {
    let victims: Vec<_> = stage
        .actors
        .iter()
        .filter(|actor| roles.contains(&actor.role))
        .cloned()
        .collect();
    for victim in &victims {
        stage.kill(victim.id).await?;
    }
    for victim in victims {
        stage.start(victim.role).await?;
    }
    Ok(())
}

/// Suspends one of a role; what it was doing goes on later, or is refused.
async fn pause(stage: &mut Stage, role: Role, share_of_lease: f64) -> anyhow::Result<Acted> {
    let victim = any(stage, role);
    let fault = stage.begin("SIGSTOP", role == Role::Worker);
    stage.cluster.signal(victim, Signal::STOP)?;
    lasting(stage.setup.lease.mul_f64(share_of_lease)).await;
    stage.cluster.signal(victim, Signal::CONT)?;
    stage.end(fault);
    Ok(Acted::Done)
}

fn pause_worker<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(pause(stage, Role::Worker, 0.5))
}

pub(super) fn sleep_worker<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(pause(stage, Role::Worker, 2.5))
}

fn pause_scheduler<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(pause(stage, Role::Scheduler, 0.5))
}

fn sleep_scheduler<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(pause(stage, Role::Scheduler, 2.5))
}

pub(super) fn rolling_restart<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        for actor in stage.actors.clone() {
            stage.note("SIGTERM", false);
            stage.start(actor.role).await?;
            let status = stage.cluster.terminate(actor.id).await?;
            ensure!(
                status.success(),
                "a program that was asked to stop ended with {status}"
            );
            stage.forget(actor.id);
        }
        Ok(Acted::Done)
    })
}

/// Jobs come over HTTP alone: the clients' way in SQL is this version's library, which is for this
/// version's schema, and here the one before is there first.
fn version_before() -> Setup {
    let load = Load {
        http_percent: 100,
        // Campaigns begin when all programs know them.
        recipients: 0,
        ..Load::default()
    };
    Setup {
        upgrades: true,
        load,
        ..Setup::default()
    }
}

/// In the order of docs/OPERATIONS.md: migrate first, then replace the programs.
fn upgrade<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let before = stage.actors.clone();
        for args in [&["migrate"][..], &["migrate", "--roles"]] {
            let migrated = stage.cluster.cli(args).await?;
            ensure!(
                migrated.status.success(),
                "{args:?} ended with {}: {}",
                migrated.status,
                String::from_utf8_lossy(&migrated.stderr)
            );
        }
        stage.note("migrate", false);
        stage.upgrade();
        for role in Role::ALL {
            stage.start(role).await?;
        }
        lasting(Duration::from_secs(2)).await;
        // What the one has begun, the other has to judge.
        for role in Role::ALL {
            let of_role = stage.of(role);
            let (old, new) = (of_role[0], of_role[of_role.len() - 1]);
            for victim in [old, new] {
                stage.kill(victim).await?;
                stage.start(role).await?;
            }
        }
        lasting(stage.setup.lease).await;
        for actor in before {
            if stage.of(actor.role).contains(&actor.id) {
                let status = stage.cluster.terminate(actor.id).await?;
                ensure!(
                    status.success(),
                    "a program that was asked to stop ended with {status}"
                );
                stage.forget(actor.id);
            }
        }
        Ok(Acted::Done)
    })
}

/// Each change has another consumer take over, with jobs in the hands of the one before.
pub(super) fn change_prefetch<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("changes of the prefetch", false);
        let sql = "update postroad.queue set prefetch = $1";
        for _ in 0..30 {
            let prefetch = stage.rng.random_range(1..100_i32);
            stage.cluster.query(sql, &[&prefetch]).await?;
            let pause = stage.rng.random_range(50..300);
            lasting(Duration::from_millis(pause)).await;
        }
        stage.cluster.query(sql, &[&None::<i32>]).await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

/// Workers with a kind that aborts its process.
fn poisonous() -> Setup {
    Setup {
        worker_program: Some("postroad-chaos-worker"),
        ..Setup::default()
    }
}

/// Three jobs that kill whoever runs them, each as often as it may try. What else those workers
/// had in hand is lost with them; the dead workers are replaced, as a supervisor would.
fn job_kills_worker<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("jobs that abort their worker", true);
        let (poison, submits): (Vec<_>, Vec<_>) = (0..3).map(|_| load::poison("tenant-0")).unzip();
        stage.handed_in.extend(submits);
        stage.cluster.enqueue(&poison).await?;
        while count_dead(stage).await? < poison.len() {
            replace_the_dead(stage).await?;
            lasting(Duration::from_millis(100)).await;
        }
        replace_the_dead(stage).await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

/// Of these jobs: others, too, are dead when they were in the hands of too many dying workers.
async fn count_dead(stage: &Stage) -> anyhow::Result<usize> {
    let sql = "select count(*) from postroad.jobs where kind = 'abort' and state = 'dead'";
    let dead: i64 = stage.cluster.query(sql, &[]).await?[0].get(0);
    Ok(usize::try_from(dead)?)
}

async fn replace_the_dead(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.of(Role::Worker) {
        if stage.cluster.has_ended(id)?.is_some() {
            stage.kills += 1;
            stage.forget(id);
            // Not waited for: the next such job may kill it before it is ready.
            stage.spawn_as(Role::Worker, stage.program(Role::Worker))?;
        }
    }
    Ok(())
}

fn herd_of(jobs: usize) -> Setup {
    Setup {
        prefetch: 200,
        provider: Behaviour::default(),
        load: Load {
            rate: 20_000,
            jobs_max: jobs,
            herd_after: Some(Duration::from_secs(2 + jobs as u64 / 10_000)),
            ..Load::default()
        },
        ..Setup::default()
    }
}

/// The load is the fault.
fn herd<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        stage.note("herd", false);
        Ok(Acted::Done)
    })
}
