//! Celery on RabbitMQ. Threads, because processes spend more on passing jobs to each other than on
//! the jobs.

use super::peer::{Guarantees, Language, Peer, Server, claim};

const TASKS: &str = "https://docs.celeryq.dev/en/stable/userguide/tasks.html";

pub(super) const PEER: Peer = Peer {
    name: "celery",
    version: Some("5.7.0"),
    settings: "2 processes of 4 threads, late acks, prefetch 400; classic queue, no confirms (default)",
    servers: &[Server::RabbitMq],
    language: Language::Python,
    files: &[
        (
            "requirements.txt",
            include_str!("../../peers/celery/requirements.txt"),
        ),
        ("app.py", include_str!("../../peers/celery/app.py")),
        ("enqueue.py", include_str!("../../peers/celery/enqueue.py")),
    ],
    enqueue: &["python", "enqueue.py"],
    worker: &[
        "celery",
        "-A",
        "app",
        "worker",
        "--loglevel",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--queues",
        "bench",
        "--pool",
        "threads",
        "--concurrency",
        "4",
        // Processes of Celery tell each other apart by name.
        "--hostname",
        "worker-{nth}@%h",
    ],
    processes: 2,
    env: &[],
    guarantees: Guarantees {
        durable: claim(
            "no: messages are persistent, confirms are off (`confirm_publish`)",
            "https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.pyamqp.html",
        ),
        started_once: claim("no: a message that is redelivered runs again", TASKS),
        fencing: claim("none: tasks should be idempotent", TASKS),
        order: claim(super::RABBITMQ_ORDER, super::RABBITMQ_QUEUES),
        killed: claim(
            "nothing, with late acks: its messages are redelivered; by default what was running",
            TASKS,
        ),
    },
};
