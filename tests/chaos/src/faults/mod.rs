//! What is broken, in which run, and how soon everything must be well again. One row, one run.
//!
//! A new fault is a function in the file of what it breaks, and a row in that file's table.

mod broker;
mod clock;
mod combined;
mod database;
mod leaks;
mod programs;
mod provider;
mod wires;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use postroad_provision::Servers;

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
    /// Whether its servers live on a disk that can be filled.
    pub on_small_disk: bool,
    /// Whether it may be one of several in a run.
    pub can_be_combined: bool,
    /// What the run is set up with.
    pub setup: fn() -> Setup,
    /// Breaks and heals.
    pub act: for<'a> fn(&'a mut Stage, &'a mut Servers) -> Acting<'a>,
}

impl FaultRow {
    /// A run of the standard setup.
    pub(crate) const fn new(
        name: &'static str,
        says: &'static str,
        act: for<'a> fn(&'a mut Stage, &'a mut Servers) -> Acting<'a>,
    ) -> Self {
        Self {
            name,
            says,
            tier: Tier::Standard,
            recovery: Recovery::Soon,
            may_repeat: true,
            on_small_disk: false,
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

    /// Its servers live on a disk that can be filled.
    pub(crate) const fn on_small_disk(mut self) -> Self {
        self.on_small_disk = true;
        self.alone()
    }

    /// It is not one of several in a run.
    pub(crate) const fn alone(mut self) -> Self {
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
    all.extend(clock::rows());
    all.extend(leaks::rows());
    all.extend(combined::rows());
    all
}

/// How long a fault lasts.
pub(crate) async fn lasting(duration: Duration) {
    tokio::time::sleep(duration).await;
}
