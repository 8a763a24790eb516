//! RabbitMQ restarts, dies, forgets, and raises alarms; strangers and operators meddle with it.

use std::time::Duration;

use postroad_tests::faults::rabbitmq::{self, Alarm};
use postroad_tests::simulator::{Behaviour, Latency};

use super::{Acted, Acting, FaultRow, Field, Needs, Recovery, Tier, lasting};
use crate::stage::{Role, Setup, Stage};

const ALARM: Duration = Duration::from_secs(6);

pub(super) fn rows() -> Vec<FaultRow> {
    let row = |name, says, act| {
        FaultRow::new(name, says, act)
            .recovery(Recovery::Missed)
            .needs(Needs::Servers)
            .never_repeats()
    };
    vec![
        row("broker-restart", "RabbitMQ restarts cleanly", restart),
        row(
            "broker-kill",
            "kill -9 of RabbitMQ, which keeps its data",
            kill,
        ),
        row("broker-wipe", "RabbitMQ comes back with nothing", wipe).tier(Tier::Gate),
        row("broker-pause", "RabbitMQ stands still (SIGSTOP)", pause),
        row(
            "memory-alarm",
            "RabbitMQ blocks who publishes: memory",
            |stage, servers| Box::pin(alarm(stage, servers, Alarm::Memory)),
        ),
        row(
            "disk-alarm",
            "RabbitMQ blocks who publishes: disk",
            |stage, servers| Box::pin(alarm(stage, servers, Alarm::Disk)),
        )
        .tier(Tier::All),
        row(
            "consumer-cancelled",
            "the work queue is deleted under its consumers, three times",
            cancel,
        ),
        row(
            "consumer-timeout",
            "the broker's consumer timeout is shorter than jobs take",
            consumer_timeout,
        )
        .setup(longer_than_the_timeout),
        row(
            "churn",
            "strangers connect and leave, and programs' connections are closed",
            churn,
        ),
    ]
}

fn restart<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("restart of RabbitMQ", false);
        servers.lock().await.rabbitmq().restart().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn kill<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("kill of RabbitMQ", false);
        servers.lock().await.rabbitmq().kill().await?;
        servers.lock().await.rabbitmq().start_again().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn wipe<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("wipe of RabbitMQ", false);
        servers.lock().await.rabbitmq().wipe().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn pause<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("pause of RabbitMQ", false);
        servers.lock().await.rabbitmq().pause().await?;
        lasting(Duration::from_secs(8)).await;
        servers.lock().await.rabbitmq().resume().await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

async fn alarm(stage: &mut Stage, servers: &Field, alarm: Alarm) -> anyhow::Result<Acted> {
    let node = servers.lock().await.rabbitmq().control();
    let fault = stage.begin("alarm", false);
    rabbitmq::raise(&node, alarm).await?;
    lasting(ALARM).await;
    rabbitmq::clear(&node, alarm).await?;
    stage.end(fault);
    Ok(Acted::Done)
}

fn cancel<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("queue deleted", false);
        for _ in 0..3 {
            stage.cluster.vhost().delete_queue("default").await?;
            lasting(Duration::from_secs(1)).await;
        }
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn longer_than_the_timeout() -> Setup {
    Setup {
        provider: Behaviour {
            latency: Latency::Uniform(Duration::from_millis(2), Duration::from_secs(4)),
            ..Behaviour::default()
        },
        prefetch: 400,
        ..Setup::default()
    }
}

/// It holds for channels that are opened from now on: so every worker is replaced.
fn consumer_timeout<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let node = servers.lock().await.rabbitmq().control();
        rabbitmq::set_consumer_timeout(&node, Duration::from_secs(2)).await?;
        let fault = stage.begin("consumer timeout", false);
        replace_workers(stage).await?;
        lasting(Duration::from_secs(8)).await;
        rabbitmq::set_consumer_timeout(&node, Duration::from_secs(1800)).await?;
        replace_workers(stage).await?;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

async fn replace_workers(stage: &mut Stage) -> anyhow::Result<()> {
    for id in stage.of(Role::Worker) {
        stage.start(Role::Worker).await?;
        stage.cluster.terminate(id).await?;
        stage.forget(id);
    }
    Ok(())
}

fn churn<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let node = servers.lock().await.rabbitmq().control();
        let fault = stage.begin("churn", false);
        for _ in 0..4 {
            rabbitmq::churn(stage.cluster.vhost(), 20, 5).await?;
            let vhost = stage.cluster.vhost().name().to_owned();
            rabbitmq::close_connections(&node, &vhost, "postroad-").await?;
        }
        stage.end(fault);
        Ok(Acted::Done)
    })
}
