//! apalis on Postgres. Its backend for RabbitMQ is left out: it neither confirms what it publishes
//! nor keeps a state.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const CRATE: &str = "https://docs.rs/apalis-postgres/1.0.0";
/// A heartbeat each 30 seconds, ten of them missed.
const CONFIG: &str = "https://docs.rs/apalis-postgres/1.0.0/apalis_postgres/struct.Config.html";

pub(super) const PEER: Peer = Peer {
    name: "apalis",
    version: Some("1.0.0"),
    settings: "1 process, fetches 2,000 when Postgres calls and each 100 ms, 2,000 at once",
    servers: &[Server::Postgres],
    language: Language::Rust,
    files: &[
        ("Cargo.toml", include_str!("../../peers/apalis/Cargo.toml")),
        (
            "src/main.rs",
            include_str!("../../peers/apalis/src/main.rs"),
        ),
    ],
    enqueue: &["apalis-peer"],
    worker: &["apalis-peer", "worker"],
    processes: 1,
    env: &[],
    guarantees: Guarantees {
        durable: claim("yes: committed in Postgres", CRATE),
        started_once: claim(
            "a lock in its row, until its worker was silent for 5 minutes",
            CONFIG,
        ),
        fencing: claim(
            "what its worker settles names the worker, not the attempt",
            "apalis-postgres 1.0.0, queries/task/handle_result.sql",
        ),
        order: claim(
            "priority, then due time",
            "apalis-postgres 1.0.0, migrations, apalis.get_jobs",
        ),
        killed: claim(
            "nothing: what it had, here up to 2,000 jobs, waits again after 5 minutes",
            CONFIG,
        ),
    },
};
