//! What a peer is: its programs as data, and what it guarantees while it runs them.

use serde::Serialize;

/// A system that Postroad is measured beside.
pub(super) struct Peer {
    /// Also the directory of its programs.
    pub(super) name: &'static str,
    /// None where it is the distribution's to say.
    pub(super) version: Option<&'static str>,
    /// How it is set up: the best that was found for jobs which take no time.
    pub(super) settings: &'static str,
    pub(super) servers: &'static [Server],
    pub(super) language: Language,
    /// Name and text.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Takes `prepare`, `backlog COUNT` or `paced COUNT FIRST GAP_MS` as well.
    pub(super) enqueue: &'static [&'static str],
    /// `{nth}` in it is the number of the process.
    pub(super) worker: &'static [&'static str],
    /// How many of them.
    pub(super) processes: usize,
    pub(super) env: &'static [(&'static str, &'static str)],
    pub(super) guarantees: Guarantees,
}

/// What keeps a peer's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Server {
    Postgres,
    RabbitMq,
    Redis,
}

impl Server {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::RabbitMq => "RabbitMQ",
            Self::Redis => "Redis",
        }
    }
}

/// How a peer gets here, and how its programs are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// By pip, into a virtual environment: `requirements.txt`.
    Python,
    /// By npm, on a Node that npm has brought: `package.json`.
    Node,
    /// By apt.
    Ruby,
    /// By cargo: `Cargo.toml`.
    Rust,
}

/// What it guarantees in the settings in which it is measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Guarantees {
    /// Whether a job that was acknowledged to its submitter survives the crash of any process.
    pub(super) durable: Claim,
    /// What keeps a job that is delivered twice from being started twice.
    pub(super) started_once: Claim,
    /// What keeps one that was given up from writing over its successor.
    pub(super) fencing: Claim,
    pub(super) order: Claim,
    /// What a worker that is killed takes with it.
    pub(super) killed: Claim,
}

/// A statement, and where it is from.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Claim {
    pub(super) says: &'static str,
    pub(super) source: &'static str,
}

pub(super) const fn claim(says: &'static str, source: &'static str) -> Claim {
    Claim { says, source }
}
