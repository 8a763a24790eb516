//! The same as in other files, while several jobs travel in each message: a backlog, and few places.

use std::time::Duration;

use anyhow::ensure;
use postroad_tests::harness::cluster::eventually;
use postroad_tests::simulator::{Behaviour, Latency};

use super::{Acting, FaultRow, Field, Recovery, Tier, programs, wires};
use crate::load::Load;
use crate::stage::{Role, Setup, Stage};

pub(super) fn rows() -> Vec<FaultRow> {
    let row = |name, says, act| {
        FaultRow::new(name, says, act)
            .recovery(Recovery::NotMeasured)
            .setup(backlog)
    };
    vec![
        row(
            "bundles-kill-workers",
            "kill -9 a worker with bundles in hand, start another, five times",
            |stage, field| first_bundles(stage, field, programs::kill_workers),
        )
        .tier(Tier::Gate),
        row(
            "bundles-kill-schedulers",
            "kill -9 a scheduler that makes bundles, start another, five times",
            |stage, field| first_bundles(stage, field, programs::kill_schedulers),
        )
        .never_repeats(),
        row(
            "bundles-sleep-worker",
            "SIGSTOP a worker with bundles in hand for longer than its lease",
            |stage, field| first_bundles(stage, field, programs::sleep_worker),
        ),
        row(
            "bundles-rolling-restart",
            "SIGTERM every program in turn with bundles under way, and replace it",
            |stage, field| first_bundles(stage, field, programs::rolling_restart),
        )
        .never_repeats(),
        row(
            "bundles-prefetch-changes",
            "an operator changes the prefetch while bundles are in hand, thirty times",
            |stage, field| first_bundles(stage, field, programs::change_prefetch),
        )
        .never_repeats(),
        row(
            "bundles-partition",
            "workers with bundles in hand cannot reach RabbitMQ, both ways",
            |stage, field| first_bundles(stage, field, wires::partition_worker_rabbitmq),
        ),
        row(
            "bundles-resets",
            "every connection is reset, five times, with bundles under way",
            |stage, field| first_bundles(stage, field, wires::resets),
        ),
    ]
}

/// More than the few places can run.
fn backlog() -> Setup {
    Setup {
        prefetch: 10,
        provider: Behaviour {
            latency: Latency::Uniform(Duration::from_millis(10), Duration::from_millis(40)),
            ..Behaviour::default()
        },
        load: Load {
            rate: 1000,
            jobs_max: 8000,
            ..Load::default()
        },
        ..Setup::default()
    }
}

type Act = for<'a> fn(&'a mut Stage, &'a Field) -> Acting<'a>;

fn first_bundles<'a>(stage: &'a mut Stage, field: &'a Field, act: Act) -> Acting<'a> {
    Box::pin(async move {
        eventually("jobs travel in bundles", async || {
            let (jobs, messages) = sent(stage).await?;
            ensure!(messages + 100 < jobs, "{jobs} jobs in {messages} messages");
            Ok(())
        })
        .await?;
        act(stage, field).await
    })
}

/// Jobs and messages that the schedulers have sent.
async fn sent(stage: &Stage) -> anyhow::Result<(u64, u64)> {
    let (mut jobs, mut messages) = (0, 0);
    for scheduler in stage.of(Role::Scheduler) {
        let count = async |name| stage.cluster.counted(scheduler, name).await;
        jobs += count("postroad_jobs_claimed_total").await?.unwrap_or(0);
        messages += count("postroad_messages_published_total")
            .await?
            .unwrap_or(0);
    }
    Ok((jobs, messages))
}
