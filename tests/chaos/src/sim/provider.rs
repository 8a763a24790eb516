//! The other side of every job: it does what it is asked for, or not, and says so, or not.

use std::time::Duration;

use postroad_common::store::Ending;

use super::executor::Sim;
use super::model_store::Millis;
use super::world::Parcel;

/// What a handler gets out of one call.
pub(super) enum Reply {
    /// An end of the attempt, after so long.
    After(Millis, Ending),
    /// Nothing.
    Never,
}

/// One request, which arrives now.
pub(super) fn call(sim: &Sim, parcel: &Parcel) -> Reply {
    sim.with(|world| {
        let is_kind = world.now >= world.plan.faults_until;
        let takes = match world.chance.below(10) {
            0 => world.chance.between(500, 7_500),
            _ => world.chance.between(5, 300),
        };
        let what = world.chance.below(if is_kind { 400 } else { 100 });
        let id = *parcel.job.id.as_uuid();
        let mut arrived = |effect, answered| world.called(id, &parcel.args, effect, answered);
        match what {
            0..=7 => {
                arrived(false, true);
                let told = (what < 4).then(|| Duration::from_millis(700));
                Reply::After(takes, failed(false, told))
            }
            8..=9 => {
                arrived(false, true);
                Reply::After(takes, failed(true, None))
            }
            10..=12 => {
                arrived(true, false);
                Reply::After(takes, unknown("reset"))
            }
            13..=14 => {
                arrived(false, false);
                Reply::After(takes, unknown("reset"))
            }
            15 => {
                arrived(true, false);
                Reply::Never
            }
            16 => {
                arrived(false, false);
                Reply::Never
            }
            // The handler looks at the clock, and does not even call.
            17..=18 => Reply::After(1, Ending::Snoozed(Duration::from_millis(900))),
            _ => {
                arrived(true, true);
                Reply::After(takes, Ending::Completed(None))
            }
        }
    })
}

pub(super) fn unknown(code: &'static str) -> Ending {
    Ending::Unknown {
        code,
        message: String::new(),
    }
}

fn failed(fatal: bool, retry_after: Option<Duration>) -> Ending {
    Ending::Failed {
        fatal,
        retry_after,
        code: "failed",
        message: String::new(),
    }
}
