//! The wall clock of one program is wrong, and jumps.

use std::time::Duration;

use postroad_tests::faults::clock::FakeClock;

use super::{Acted, FaultRow, Recovery, lasting};
use crate::stage::{Role, Stage};

const MINUTES: i64 = 60;
const HOURS: i64 = 60 * MINUTES;

/// Ahead, behind, back by an hour, a day ahead, right.
const JUMPS: [i64; 5] = [10 * MINUTES, -10 * MINUTES, -HOURS, 24 * HOURS, 0];

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            "worker-clock",
            "a worker's clock jumps by minutes, an hour, a day",
            |stage, _| Box::pin(jump(stage, Role::Worker)),
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
        FaultRow::new(
            "scheduler-clock",
            "a scheduler's clock jumps by minutes, an hour, a day",
            |stage, _| Box::pin(jump(stage, Role::Scheduler)),
        )
        .recovery(Recovery::Lease)
        .never_repeats(),
    ]
}

/// All of this role are replaced by one whose clock is ours.
async fn jump(stage: &mut Stage, role: Role) -> anyhow::Result<Acted> {
    let clock = FakeClock::new().await?;
    let before = stage.of(role);
    let skewed = stage
        .start_as(role, stage.program(role).clock(&clock))
        .await?;
    for id in before {
        stage.cluster.terminate(id).await?;
        stage.forget(id);
    }
    let fault = stage.begin("clock", false);
    for offset in JUMPS {
        clock.set(offset)?;
        lasting(Duration::from_secs(2)).await;
    }
    stage.end(fault);
    for _ in 0..2 {
        stage.start(role).await?;
    }
    // The clock goes with this function, and so does who reads it.
    stage.cluster.terminate(skewed).await?;
    stage.forget(skewed);
    Ok(Acted::Done)
}
