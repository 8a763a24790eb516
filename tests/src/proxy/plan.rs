//! What a proxy does to bytes at the moment: plain data, changed while connections live.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    ToServer,
    /// What the server sends.
    ToClient,
    /// Either way.
    Both,
}

/// Everything that is active, for a test's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Connections are refused.
    pub cut: bool,
    /// What happens to what clients send.
    pub to_server: Flow,
    /// What happens to what the server sends.
    pub to_client: Flow,
    /// How often everything that was open has been reset.
    pub resets: u64,
    /// How often a limit was set.
    #[serde(skip)]
    pub(super) limits: u64,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Flow {
    /// Bytes are held back.
    pub stalled: bool,
    /// Bytes are thrown away.
    pub blackhole: bool,
    /// Bytes arrive this much later.
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    pub latency: Duration,
    /// And up to this much later still.
    pub jitter: Option<Jitter>,
    /// Bytes per second.
    pub bandwidth: Option<NonZeroU64>,
    /// Bytes arrive in pieces.
    pub slicing: Option<Slicing>,
    /// A connection ends after so many more bytes.
    pub reset_after: Option<Limit>,
}

/// A random part of the latency, between nothing and `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Jitter {
    /// The longest.
    #[serde(rename = "up_to_ms", serialize_with = "millis")]
    pub up_to: Duration,
    /// The n-th connection of a proxy draws the same waits whenever the seed is the same.
    pub seed: u64,
}

/// Writes of a few bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slicing {
    /// The most that is written at once.
    pub bytes: NonZeroUsize,
    /// Between two writes; long enough for the peer to read the one before the next.
    #[serde(rename = "pause_ms", serialize_with = "millis")]
    pub pause: Duration,
}

/// How much a connection may still carry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// Counted from the call, or from the opening of a later connection.
    pub bytes: u64,
    /// The how many-th limit it is: another one counts anew.
    #[serde(skip)]
    pub(super) number: u64,
}

impl Plan {
    /// Changes the flows of a direction.
    pub(super) fn change(&mut self, direction: Direction, change: impl Fn(&mut Flow)) {
        if direction != Direction::ToClient {
            change(&mut self.to_server);
        }
        if direction != Direction::ToServer {
            change(&mut self.to_client);
        }
    }

    /// Ends what is broken. What remains is what a wire in order may have as well: distance.
    pub(super) fn heal(&mut self) {
        self.cut = false;
        self.change(Direction::Both, |flow| {
            *flow = Flow {
                latency: flow.latency,
                jitter: flow.jitter,
                ..Flow::default()
            };
        });
    }
}

fn millis<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64() * 1000.0)
}
