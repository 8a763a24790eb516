//! Sidekiq on Redis: the free one, as Debian has it.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const RELIABILITY: &str = "https://github.com/sidekiq/sidekiq/wiki/Reliability";

pub(super) const PEER: Peer = Peer {
    name: "sidekiq",
    version: None,
    settings: "2 processes of 10 threads",
    servers: &[Server::Redis],
    language: Language::Ruby,
    files: &[
        ("job.rb", include_str!("../../peers/sidekiq/job.rb")),
        ("enqueue.rb", include_str!("../../peers/sidekiq/enqueue.rb")),
    ],
    enqueue: &["ruby", "enqueue.rb"],
    worker: &[
        "sidekiq",
        "--require",
        "./job.rb",
        "--queue",
        "bench",
        "--concurrency",
        "10",
    ],
    processes: 2,
    env: &[],
    guarantees: Guarantees {
        durable: claim(super::REDIS_LOSES, super::REDIS_PERSISTENCE),
        started_once: claim(
            "a job leaves Redis when it is fetched, and is there once",
            RELIABILITY,
        ),
        fencing: claim("none: nothing of a job is left to write to", RELIABILITY),
        order: claim(
            "first in, first out, as they are fetched",
            "sidekiq 6.4.1, lib/sidekiq/fetch.rb",
        ),
        killed: claim(
            "what it had fetched, here up to 10 jobs a process, is lost",
            RELIABILITY,
        ),
    },
};
