//! What is broken, in which run, and how soon everything must be well again. One row, one run.
//!
//! A new fault is a function in the file of what it breaks, and a row in that file's table.

mod broker;
mod bundles;
mod campaigns;
mod clock;
mod combined;
mod database;
mod leaks;
mod programs;
mod provider;
mod settings;
mod wires;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use self::leaks::LEAKS;
use postroad_provision::Servers;
use tokio::sync::Mutex;

use crate::stage::{PIPE_TTL, Setup, Stage};

/// A fault under way: it has been healed when this resolves.
pub type Acting<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Acted>> + 'a>>;

/// Whether a fault could be injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It was.
    Done,
    /// This machine does not allow it: why. A run that was skipped has not passed.
    Skipped(String),
}

/// Which runs `make chaos` makes, and which only `--all` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Also in the gate of every change.
    Gate,
    /// In `make chaos`.
    Standard,
    /// With `--all`.
    All,
}

/// What a run needs for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: others may run beside it.
    Nothing,
    /// The machine: it measures, or it is a load.
    Machine,
    /// The servers: it breaks them.
    Servers,
    /// Servers on a disk that can be filled.
    SmallDisk,
}

/// The servers, for whoever is to break them.
pub type Field = Mutex<Servers>;

/// How soon after the end of the fault throughput must be back at nine tenths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Within five seconds.
    Soon,
    /// The work of a lost program is given to others after its lease, and five seconds.
    Lease,
    /// Messages that the broker lost are missed after `pipe_ttl` and 16 seconds, and five.
    Missed,
    /// Throughput is the provider's.
    NotMeasured,
}

impl Recovery {
    /// In seconds; none when it is not measured.
    pub fn limit(self, lease: Duration) -> Option<f64> {
        let soon = Duration::from_secs(5);
        Some(match self {
            Self::Soon => soon.as_secs_f64(),
            Self::Lease => (lease + soon).as_secs_f64(),
            Self::Missed => (PIPE_TTL + Duration::from_secs(16) + soon).as_secs_f64(),
            Self::NotMeasured => return None,
        })
    }
}

/// One run.
#[derive(Clone)]
pub struct FaultRow {
    /// Its name: `--only` takes it.
    pub name: &'static str,
    /// What it does, for people.
    pub says: &'static str,
    /// When it is run.
    pub tier: Tier,
    /// How soon everything is well again.
    pub recovery: Recovery,
    /// Whether an effect may be repeated at all, even where the fault would explain it.
    pub may_repeat: bool,
    /// What it needs for itself.
    pub needs: Needs,
    /// Whether it may be one of several in a run.
    pub can_be_combined: bool,
    /// What the run is set up with.
    pub setup: fn() -> Setup,
    /// Breaks and heals.
    pub act: for<'a> fn(&'a mut Stage, &'a Field) -> Acting<'a>,
}

impl FaultRow {
    /// A run of the standard setup.
    pub(crate) const fn new(
        name: &'static str,
        says: &'static str,
        act: for<'a> fn(&'a mut Stage, &'a Field) -> Acting<'a>,
    ) -> Self {
        Self {
            name,
            says,
            tier: Tier::Standard,
            recovery: Recovery::Soon,
            may_repeat: true,
            needs: Needs::Nothing,
            can_be_combined: true,
            setup: Setup::default,
            act,
        }
    }

    pub(crate) const fn tier(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self
    }

    pub(crate) const fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Nothing may be repeated: the fault parts no effect from its record.
    pub(crate) const fn never_repeats(mut self) -> Self {
        self.may_repeat = false;
        self
    }

    /// It needs this for itself, and so is not one of several in a run.
    pub(crate) const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self.can_be_combined = false;
        self
    }

    /// It needs a setup of its own.
    pub(crate) const fn setup(mut self, setup: fn() -> Setup) -> Self {
        self.setup = setup;
        self.can_be_combined = false;
        self
    }
}

/// Every run.
pub fn table() -> Vec<FaultRow> {
    let mut all = programs::rows();
    all.extend(wires::rows());
    all.extend(broker::rows());
    all.extend(database::rows());
    all.extend(provider::rows());
    all.extend(settings::rows());
    all.extend(clock::rows());
    all.extend(leaks::rows());
    all.extend(combined::rows());
    all.extend(bundles::rows());
    all.extend(campaigns::rows());
    all
}

/// How long a fault lasts.
pub(crate) async fn lasting(duration: Duration) {
    tokio::time::sleep(duration).await;
}
