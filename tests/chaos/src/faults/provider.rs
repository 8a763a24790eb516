//! Providers that are slow, refuse, break off, or do what they were asked and do not say so.

use std::time::Duration;

use postroad_tests::simulator::{Behaviour, Latency};

use super::{Acted, FaultRow, Recovery, Tier, lasting};
use crate::stage::Stage;

const SPELL: Duration = Duration::from_secs(6);

pub(super) fn rows() -> Vec<FaultRow> {
    let row = |name, says, act| FaultRow::new(name, says, act).recovery(Recovery::NotMeasured);
    vec![
        row(
            "slow-provider",
            "every answer takes two seconds",
            |stage, _| {
                Box::pin(spell(
                    stage,
                    "slow provider",
                    Behaviour {
                        latency: Latency::Fixed(Duration::from_secs(2)),
                        ..Behaviour::default()
                    },
                ))
            },
        )
        .tier(Tier::Gate)
        .never_repeats(),
        row(
            "provider-storm",
            "nine in ten are refused with 429 or 503 and Retry-After",
            |stage, _| {
                Box::pin(spell(
                    stage,
                    "429 and 503",
                    Behaviour {
                        rate_429: 0.4,
                        rate_503: 0.5,
                        ..Behaviour::default()
                    },
                ))
            },
        )
        .never_repeats(),
        row(
            "provider-errors",
            "half of all requests end in 500",
            |stage, _| {
                Box::pin(spell(
                    stage,
                    "500",
                    Behaviour {
                        rate_500: 0.5,
                        ..Behaviour::default()
                    },
                ))
            },
        )
        .never_repeats(),
        row(
            "provider-silence",
            "effects whose answers are reset or break off",
            |stage, _| {
                Box::pin(spell(
                    stage,
                    "answers that do not come",
                    Behaviour {
                        rate_reset: 0.2,
                        rate_half: 0.1,
                        rate_reset_before: 0.1,
                        ..Behaviour::default()
                    },
                ))
            },
        )
        .tier(Tier::Gate),
    ]
}

async fn spell(
    stage: &mut Stage,
    name: &'static str,
    behaviour: Behaviour,
) -> anyhow::Result<Acted> {
    // What an answer that broke off explains, the provider's own record says.
    let fault = stage.begin(name, false);
    stage.cluster.provider.set(behaviour)?;
    lasting(SPELL).await;
    stage.cluster.provider.set(stage.setup.provider.clone())?;
    stage.end(fault);
    Ok(Acted::Done)
}
