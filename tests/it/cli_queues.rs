//! `postroad queues`, `kinds` and `workers`.

use std::time::Duration;

use postroad_common::job::{KindPolicy, OnLost};
use serde_json::{Value, json};

use crate::cli_fixture::Cli;
use crate::store_fixture::{Room, job};

async fn actions(cli: &Cli) -> Vec<Value> {
    let mut rows = cli.json(&["audit", "list", "--json"]).await;
    rows.reverse();
    rows.into_iter()
        .map(|row| json!([row["action"], row["target"], row["detail"]]))
        .collect()
}

#[tokio::test]
async fn a_paused_queue_is_not_dispatched_and_a_resumed_one_is() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    room.enqueue(job()).await;

    cli.ok(&["queues", "pause", "default"]).await;
    cli.ok(&["queues", "pause", "default"]).await;
    assert!(room.store.due_queues(&[]).await.unwrap().is_empty());
    let queue = &cli.json(&["queues", "get", "default", "--json"]).await[0];
    assert!(queue["paused_at"].is_string(), "{queue}");
    assert_eq!(queue["due"], json!(1));

    cli.ok(&["queues", "resume", "default"]).await;
    assert_eq!(room.store.due_queues(&[]).await.unwrap().len(), 1);
    let expected = [
        json!(["queue.pause", "default", {}]),
        json!(["queue.resume", "default", {}]),
    ];
    assert_eq!(actions(&cli).await, expected);
}

#[tokio::test]
async fn a_queue_is_set_as_far_as_something_is_given() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let set = [
        "queues",
        "set",
        "default",
        "--window",
        "50",
        "--pipe-ttl",
        "2m",
        "--rate",
        "7",
        "--prefetch",
        "9",
    ];
    cli.ok(&set).await;
    cli.ok(&["queues", "set", "default", "--rate", "none"])
        .await;
    let queue = &cli.json(&["queues", "list", "--json"]).await[0];
    assert_eq!(queue["name"], json!("default"));
    assert_eq!(queue["window_size"], json!(50));
    assert_eq!(queue["pipe_ttl_seconds"], json!(120.0));
    assert_eq!(queue["prefetch"], json!(9));
    assert_eq!(queue["rate_per_second"], json!(null));
    let rows = actions(&cli).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(
        rows[1],
        json!(["queue.set", "default", {"rate_per_second": null}])
    );
}

#[tokio::test]
async fn a_queues_retention_is_set_in_days_and_taken_away() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let set = async |days: &str| {
        cli.ok(&["queues", "set", "default", "--retention-days", days])
            .await;
        cli.json(&["queues", "get", "default", "--json"]).await[0]["retention_days"].clone()
    };
    let shown = async || cli.ok(&["queues", "get", "default"]).await;
    assert!(shown().await.contains("as the scheduler says"));

    assert_eq!(set("14").await, json!(14));
    let listed = cli.ok(&["queues", "list"]).await;
    assert!(listed.contains(" 14d "), "{listed}");
    assert!(shown().await.contains("14d"));
    for bad in ["0", "-1", "3651", "1.5", "x", "7d", ""] {
        let days = format!("--retention-days={bad}");
        cli.refuses(&["queues", "set", "default", &days], 2).await;
    }
    assert_eq!(set("none").await, json!(null));

    let expected = [
        json!(["queue.set", "default", {"retention_days": 14}]),
        json!(["queue.set", "default", {"retention_days": null}]),
    ];
    assert_eq!(actions(&cli).await, expected);
}

#[tokio::test]
async fn an_operators_policy_of_a_kind_stands_until_it_is_reset() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let of_worker = KindPolicy {
        on_lost: OnLost::Retry,
        max_attempts: 4,
        backoff_base: Duration::from_secs(1),
        ..KindPolicy::default()
    };
    let register = async || {
        let kinds = [("echo".parse().unwrap(), of_worker)];
        room.store.register_kinds(&kinds).await.unwrap();
    };
    let kind = async || {
        let kinds = cli.json(&["kinds", "list", "--json"]).await;
        kinds
            .into_iter()
            .find(|kind| kind["name"] == json!("echo"))
            .unwrap()
    };
    let timeouts = async || room.store.kind_timeouts(&["echo"]).await.unwrap();
    // A kind that an operator sets before its first worker is registered all the same.
    cli.ok(&[
        "kinds",
        "set",
        "echo",
        "--max-attempts",
        "9",
        "--on-lost",
        "hold",
    ])
    .await;
    register().await;
    let set = kind().await;
    assert_eq!(
        (&set["max_attempts"], &set["on_lost"]),
        (&json!(9), &json!("hold"))
    );
    assert_eq!(set["backoff_base_seconds"], json!(5.0));
    assert!(
        set["registered_at"].is_string() && set["overridden_at"].is_string(),
        "{set}"
    );
    register().await;
    assert_eq!(kind().await, set);
    // Nobody has set a timeout: workers have their own.
    assert_eq!(set["timeout_seconds"], json!(30.0));
    assert!(timeouts().await.is_empty());
    cli.ok(&["kinds", "set", "echo", "--timeout", "5m"]).await;
    register().await;
    assert_eq!(kind().await["timeout_seconds"], json!(300.0));
    assert_eq!(timeouts().await["echo"], Duration::from_secs(300));

    cli.ok(&["kinds", "reset", "echo"]).await;
    cli.ok(&["kinds", "reset", "echo"]).await;
    assert_eq!(
        kind().await["max_attempts"],
        json!(9),
        "until a worker starts"
    );
    register().await;
    let reset = kind().await;
    assert_eq!(
        (&reset["max_attempts"], &reset["on_lost"]),
        (&json!(4), &json!("retry"))
    );
    assert_eq!(reset["overridden_at"], json!(null));
    assert_eq!(reset["timeout_seconds"], json!(30.0));
    assert!(timeouts().await.is_empty());

    cli.refuses(&["kinds", "set", "echo", "--backoff-cap", "500ms"], 2)
        .await;
    let expected = [
        json!(["kind.set", "echo", {"max_attempts": 9, "on_lost": "hold"}]),
        json!(["kind.set", "echo", {"timeout_seconds": 300.0}]),
        json!(["kind.reset", "echo", {}]),
    ];
    assert_eq!(actions(&cli).await, expected);
}

#[tokio::test]
async fn processes_are_listed_with_what_they_have_in_hand() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    room.running(job()).await;
    let lost = room.another_worker().await;
    room.call_lost(lost).await;

    let running = cli.json(&["workers", "list", "--json"]).await;
    assert_eq!(running.len(), 2, "{running:?}");
    let worker = running
        .iter()
        .find(|one| one["role"] == json!("worker"))
        .unwrap();
    assert_eq!(
        (&worker["jobs"], &worker["state"]),
        (&json!(1), &json!("running"))
    );
    assert!(worker["seen_seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!(
        cli.json(&["workers", "list", "--role", "scheduler", "--json"])
            .await
            .len(),
        1
    );
    let all = cli.json(&["workers", "list", "--all", "--json"]).await;
    assert_eq!(
        all.iter()
            .filter(|one| one["state"] == json!("lost"))
            .count(),
        1
    );
    room.execute("update postroad.process set seen_at = now() - interval '1 h'")
        .await;
    let table = cli.ok(&["workers", "list"]).await;
    assert_eq!(table.matches("silent").count(), 2, "{table}");
}
