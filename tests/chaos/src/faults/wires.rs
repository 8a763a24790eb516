//! Wires are cut, forget, delay, and tear.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use postroad_tests::proxy::{Direction, Proxy, Slicing};

use super::{Acted, Acting, FaultRow, Field, Recovery, Tier, lasting};
use crate::stage::{Role, Stage};

const PARTITION: Duration = Duration::from_secs(8);
/// Frames and rows are longer than this.
const SLICE: NonZeroUsize = NonZeroUsize::new(100).expect("100 is not zero");

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            "partition-worker-postgres",
            "workers cannot reach Postgres, both ways",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Worker,
                    Server::Postgres,
                    Direction::Both,
                ))
            },
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Lease),
        FaultRow::new(
            "partition-scheduler-postgres",
            "schedulers cannot reach Postgres, both ways",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Scheduler,
                    Server::Postgres,
                    Direction::Both,
                ))
            },
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "partition-worker-rabbitmq",
            "workers cannot reach RabbitMQ, both ways",
            partition_worker_rabbitmq,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Missed)
        .never_repeats(),
        FaultRow::new(
            "partition-scheduler-rabbitmq",
            "schedulers cannot reach RabbitMQ, both ways",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Scheduler,
                    Server::RabbitMq,
                    Direction::Both,
                ))
            },
        )
        .recovery(Recovery::Missed)
        .never_repeats(),
        FaultRow::new(
            "deaf-worker-postgres",
            "Postgres hears the workers, whose answers do not come",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Worker,
                    Server::Postgres,
                    Direction::ToClient,
                ))
            },
        )
        .recovery(Recovery::Lease),
        FaultRow::new(
            "deaf-scheduler-postgres",
            "Postgres hears the schedulers, whose answers do not come",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Scheduler,
                    Server::Postgres,
                    Direction::ToClient,
                ))
            },
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "deaf-worker-rabbitmq",
            "acks arrive, deliveries do not",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Worker,
                    Server::RabbitMq,
                    Direction::ToClient,
                ))
            },
        )
        .recovery(Recovery::Missed)
        .never_repeats(),
        FaultRow::new(
            "deaf-scheduler-rabbitmq",
            "messages arrive, confirms do not",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Scheduler,
                    Server::RabbitMq,
                    Direction::ToClient,
                ))
            },
        )
        .recovery(Recovery::Missed)
        .never_repeats(),
        FaultRow::new(
            "mute-worker-rabbitmq",
            "deliveries arrive, acks do not",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Worker,
                    Server::RabbitMq,
                    Direction::ToServer,
                ))
            },
        )
        .recovery(Recovery::Missed)
        .never_repeats(),
        FaultRow::new(
            "partition-api-postgres",
            "apis cannot reach Postgres, both ways",
            |stage, _| Box::pin(stall(stage, Role::Api, Server::Postgres, Direction::Both)),
        )
        .never_repeats(),
        FaultRow::new(
            "deaf-api-postgres",
            "Postgres hears the apis, whose answers do not come",
            |stage, _| {
                Box::pin(stall(
                    stage,
                    Role::Api,
                    Server::Postgres,
                    Direction::ToClient,
                ))
            },
        )
        .tier(Tier::Gate)
        .never_repeats(),
        FaultRow::new("resets", "every connection is reset every 300 ms", resets)
            .tier(Tier::Gate)
            .recovery(Recovery::Lease),
        FaultRow::new(
            "resets-midway",
            "connections are reset in the middle of what they carry",
            resets_midway,
        )
        .recovery(Recovery::Lease),
        FaultRow::new(
            "distance",
            "50 ms more, and up to 50 ms of jitter, on every wire",
            distance,
        )
        .never_repeats(),
        FaultRow::new(
            "slow-link",
            "32 kB/s in pieces of 100 bytes, on every wire",
            slow_link,
        )
        .recovery(Recovery::Missed),
        FaultRow::new(
            "blackhole",
            "what is sent is taken and lost, then the connections break",
            blackhole,
        )
        .recovery(Recovery::Missed),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Postgres,
    RabbitMq,
}

fn wire(stage: &Stage, role: Role, server: Server) -> &Proxy {
    match server {
        Server::Postgres => &stage.wires(role).postgres,
        Server::RabbitMq => &stage.wires(role).rabbitmq,
    }
}

fn every_wire(stage: &Stage) -> Vec<&Proxy> {
    let all = Role::ALL.map(|role| stage.wires(role));
    all.iter()
        .flat_map(|wires| [&wires.postgres, &wires.rabbitmq])
        .collect()
}

async fn stall(
    stage: &mut Stage,
    role: Role,
    server: Server,
    direction: Direction,
) -> anyhow::Result<Acted> {
    // Without its word to Postgres a worker may lose the record of an effect.
    let parts = role == Role::Worker && server == Server::Postgres;
    let fault = stage.begin("partition", parts);
    stage.partitions += 1;
    wire(stage, role, server).stall(direction);
    lasting(PARTITION).await;
    if role == Role::Api {
        // Its callers ask for longer than this: answers that are late would be answers all the same.
        wire(stage, role, server).reset_all();
    }
    wire(stage, role, server).heal().await;
    stage.end(fault);
    Ok(Acted::Done)
}

pub(super) fn partition_worker_rabbitmq<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(stall(
        stage,
        Role::Worker,
        Server::RabbitMq,
        Direction::Both,
    ))
}

pub(super) fn resets<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("resets", true);
        for _ in 0..20 {
            for proxy in every_wire(stage) {
                proxy.reset_all();
            }
            stage.partitions += 1;
            lasting(Duration::from_millis(300)).await;
        }
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn resets_midway<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("resets midway", true);
        for round in 0..10 {
            for proxy in every_wire(stage) {
                proxy.reset_after(Direction::Both, 20_000 + 7_001 * round);
            }
            stage.partitions += 1;
            lasting(Duration::from_millis(600)).await;
        }
        heal_all(stage).await;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

async fn heal_all(stage: &Stage) {
    for proxy in every_wire(stage) {
        proxy.heal().await;
    }
}

fn distance<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("latency", false);
        for (seed, proxy) in (1..).zip(every_wire(stage)) {
            proxy.latency(Direction::Both, Duration::from_millis(50));
            proxy.jitter(Direction::Both, Duration::from_millis(50), seed);
        }
        stage.partitions += 1;
        lasting(PARTITION).await;
        for proxy in every_wire(stage) {
            proxy.latency(Direction::Both, Duration::ZERO);
            proxy.jitter(Direction::Both, Duration::ZERO, 0);
        }
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn slow_link<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        // A statement that takes ten seconds to arrive is one that timed out.
        let fault = stage.begin("slow link", true);
        for proxy in every_wire(stage) {
            proxy.bandwidth(Direction::Both, NonZeroU64::new(32 * 1024));
            proxy.slicing(
                Direction::Both,
                Some(Slicing {
                    bytes: SLICE,
                    pause: Duration::from_micros(100),
                }),
            );
        }
        stage.partitions += 1;
        lasting(PARTITION).await;
        heal_all(stage).await;
        stage.end(fault);
        Ok(Acted::Done)
    })
}

fn blackhole<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let fault = stage.begin("blackhole", true);
        for proxy in every_wire(stage) {
            proxy.blackhole(Direction::ToServer);
        }
        stage.partitions += 1;
        lasting(PARTITION).await;
        // A stream with a hole in it is no stream: whatever made the hole breaks the connections.
        for proxy in every_wire(stage) {
            proxy.reset_all();
        }
        heal_all(stage).await;
        stage.end(fault);
        Ok(Acted::Done)
    })
}
