//! Dramatiq on RabbitMQ.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const PRACTICES: &str = "https://dramatiq.io/best_practices.html";

pub(super) const PEER: Peer = Peer {
    name: "dramatiq",
    version: Some("2.2.1"),
    settings: "2 processes of 2 threads, prefetch 200; classic queue, no confirms (default)",
    servers: &[Server::RabbitMq],
    language: Language::Python,
    files: &[
        (
            "requirements.txt",
            include_str!("../../peers/dramatiq/requirements.txt"),
        ),
        ("app.py", include_str!("../../peers/dramatiq/app.py")),
        (
            "enqueue.py",
            include_str!("../../peers/dramatiq/enqueue.py"),
        ),
    ],
    enqueue: &["python", "enqueue.py"],
    worker: &["dramatiq", "app", "--processes", "2", "--threads", "2"],
    processes: 1,
    env: &[("dramatiq_queue_prefetch", "200")],
    guarantees: Guarantees {
        durable: claim(
            "no: messages are persistent, confirms are off (`confirm_delivery`)",
            "https://dramatiq.io/reference.html",
        ),
        started_once: claim("no: a message that is redelivered runs again", PRACTICES),
        fencing: claim("none: actors must be idempotent", PRACTICES),
        order: claim(super::RABBITMQ_ORDER, super::RABBITMQ_QUEUES),
        killed: claim(
            "nothing: a message is acked when it is done",
            "https://dramatiq.io/motivation.html",
        ),
    },
};
