//! Graphile Worker on Postgres.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const ERRORS: &str = "https://worker.graphile.org/docs/error-handling";

pub(super) const PEER: Peer = Peer {
    name: "graphile-worker",
    version: Some("0.18.0"),
    settings: "1 process, 50 at once, local queue of 2,000, batched completion",
    servers: &[Server::Postgres],
    language: Language::Node,
    files: &[
        (
            "package.json",
            include_str!("../../peers/graphile-worker/package.json"),
        ),
        (
            "enqueue.mjs",
            include_str!("../../peers/graphile-worker/enqueue.mjs"),
        ),
        (
            "worker.mjs",
            include_str!("../../peers/graphile-worker/worker.mjs"),
        ),
    ],
    enqueue: &["node", "enqueue.mjs"],
    worker: &["node", "worker.mjs"],
    processes: 1,
    env: &[],
    guarantees: Guarantees {
        durable: claim(
            "yes: committed in Postgres",
            "https://worker.graphile.org/docs",
        ),
        started_once: claim("a lock in its row, for 4 hours", ERRORS),
        fencing: claim(
            "none: what a job's end deletes is found by id alone",
            "graphile-worker 0.18.0, dist/sql/completeJobs.js",
        ),
        order: claim(
            "priority, then due time; named queues in series, but not with a local queue",
            "https://github.com/graphile/worker/issues/621",
        ),
        killed: claim(
            "nothing, but what it had fetched, here up to 2,000 jobs, stays locked for 4 hours",
            ERRORS,
        ),
    },
};
