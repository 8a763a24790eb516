//! BullMQ on Redis.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const STALLED: &str = "https://docs.bullmq.io/guide/workers/stalled-jobs";

pub(super) const PEER: Peer = Peer {
    name: "bullmq",
    version: Some("6.7.0"),
    settings: "1 process, 100 at once, finished jobs are removed",
    servers: &[Server::Redis],
    language: Language::Node,
    files: &[
        (
            "package.json",
            include_str!("../../peers/bullmq/package.json"),
        ),
        (
            "enqueue.mjs",
            include_str!("../../peers/bullmq/enqueue.mjs"),
        ),
        ("worker.mjs", include_str!("../../peers/bullmq/worker.mjs")),
    ],
    enqueue: &["node", "enqueue.mjs"],
    worker: &["node", "worker.mjs"],
    processes: 1,
    env: &[],
    guarantees: Guarantees {
        durable: claim(super::REDIS_LOSES, super::REDIS_PERSISTENCE),
        started_once: claim("a lock for 30 seconds, renewed while it runs", STALLED),
        fencing: claim(
            "what its worker settles names the lock",
            "bullmq 6.7.0, scripts/moveToFinished",
        ),
        order: claim(
            "first in, first out, by default",
            "https://docs.bullmq.io/guide/jobs/fifo",
        ),
        killed: claim(
            "nothing: a job that stalls waits again, and fails if it does so twice",
            STALLED,
        ),
    },
};
