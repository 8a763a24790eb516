//! Several faults at once, drawn by the seed.

use rand::RngExt as _;

use super::{Acted, Acting, FaultRow, Field, Recovery, Tier, programs, wires};
use crate::stage::Stage;

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            "combined",
            "five faults in a row, drawn by the seed",
            combined,
        )
        .tier(Tier::Gate)
        .recovery(Recovery::Missed),
    ]
}

const FAULTS: usize = 5;

fn combined<'a>(stage: &'a mut Stage, servers: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        let mut choice = programs::rows();
        choice.extend(wires::rows());
        choice.retain(|row| row.can_be_combined);
        for _ in 0..FAULTS {
            let row = &choice[stage.rng.random_range(0..choice.len())];
            tracing::info!("combined: {}", row.name);
            (row.act)(stage, servers).await?;
        }
        Ok(Acted::Done)
    })
}
