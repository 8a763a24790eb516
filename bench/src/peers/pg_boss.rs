//! pg-boss on Postgres.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const INTRODUCTION: &str = "https://timgit.github.io/pg-boss/introduction";

pub(super) const PEER: Peer = Peer {
    name: "pg-boss",
    version: Some("12.35.0"),
    settings: "1 process, 2 loops that fetch 5,000 each half second",
    servers: &[Server::Postgres],
    language: Language::Node,
    files: &[
        (
            "package.json",
            include_str!("../../peers/pg-boss/package.json"),
        ),
        (
            "enqueue.mjs",
            include_str!("../../peers/pg-boss/enqueue.mjs"),
        ),
        ("worker.mjs", include_str!("../../peers/pg-boss/worker.mjs")),
    ],
    enqueue: &["node", "enqueue.mjs"],
    worker: &["node", "worker.mjs"],
    processes: 1,
    env: &[],
    guarantees: Guarantees {
        durable: claim("yes: committed in Postgres", INTRODUCTION),
        started_once: claim("a state in its row, until it expires", INTRODUCTION),
        fencing: claim(
            "what its worker settles names the attempt",
            "pg-boss 12.35.0, dist/plans.js, attemptFence",
        ),
        order: claim(
            "priority, then age; in series by key where a queue is made so",
            "https://github.com/timgit/pg-boss/blob/master/docs/api/queues.md",
        ),
        killed: claim(
            "nothing: tried again when it expires, by default after 15 minutes; here up to 10,000 \
             jobs",
            "pg-boss 12.35.0, dist/plans.js, QUEUE_DEFAULTS",
        ),
    },
};
