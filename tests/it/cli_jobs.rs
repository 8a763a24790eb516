//! `postroad jobs`, `dead-letters` and `operations`.

use std::process::Stdio;

use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{Ending, Moved};
use postroad_tests::harness::eventually::eventually;
use serde_json::{Value, json};

use crate::cli_fixture::{Cli, Terminal, end};
use crate::store_fixture::{Room, job, job_to_hold, unknown};

async fn actions(cli: &Cli) -> Vec<String> {
    let mut rows = cli.json(&["audit", "list", "--json"]).await;
    rows.reverse();
    rows.iter()
        .map(|row| row["action"].as_str().unwrap().to_owned())
        .collect()
}

/// So many dead jobs.
async fn dead(room: &Room, count: usize) -> Vec<JobId> {
    let jobs: Vec<NewJob> = (0..count).map(|_| job()).collect();
    let ids = room.enqueue_all(&jobs).await;
    bury(room).await;
    ids
}

/// Has everything that is due fail for good.
async fn bury(room: &Room) {
    for claimed in room.claim_all().await {
        room.start(claimed).await;
        let ending = Ending::Failed {
            fatal: true,
            retry_after: None,
            code: "refused",
            message: "the other side refused".to_owned(),
        };
        assert_eq!(room.finish(claimed, ending).await, Moved::Failed);
    }
    room.execute(
        "with gone as (delete from postroad.job where stage = 2 returning *)
         insert into postroad.archive
            (id, state, priority, attempt, dispatch, queue_id, kind_id, tenant_id, worker_id, run_at,
             created_at, started_at, expires_at, max_attempts, on_lost, traceparent, reason, args)
         select id, 'dead', priority, attempt, dispatch, queue_id, kind_id, tenant_id, worker_id,
                run_at, created_at, started_at, expires_at, max_attempts, on_lost, traceparent,
                'fatal', args
         from gone",
    )
    .await;
}

#[tokio::test]
async fn everything_that_is_known_of_a_job_is_shown() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let id = dead(&room, 1).await[0].to_string();
    let shown = &cli.json(&["jobs", "get", &id, "--json"]).await[0];
    assert_eq!(shown["state"], json!("dead"));
    assert_eq!(shown["args"], json!({"n": 1}));
    assert_eq!(shown["error"], json!("refused: the other side refused"));
    let text = cli.ok(&["jobs", "get", &id]).await;
    for part in [
        &*id,
        "dead",
        "refused: the other side refused",
        r#"{"n":1}"#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn what_waits_is_cancelled_what_runs_is_asked_and_what_is_held_stays() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let held = room.running(job_to_hold()).await;
    assert_eq!(room.finish(held, unknown()).await, Moved::Held);
    let running = room.running(job()).await;
    let waiting = room.enqueue(job()).await;
    let [held, running] = [held.id, running.id];

    let ids = [waiting, running, held].map(|id| id.to_string());
    let said = cli
        .run(&["jobs", "cancel", "--yes", &ids[0], &ids[1], &ids[2]])
        .await;
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(
        said.out.contains(&format!("{waiting} cancelled\n")),
        "{said:?}"
    );
    assert!(said.out.contains(&format!("{running} asked\n")), "{said:?}");
    assert!(said.err.contains(&format!("{held} (held)")), "{said:?}");
    assert_eq!(room.state(waiting).await, "cancelled");
    assert_eq!(room.state(held).await, "held");
    let rows = cli.json(&["audit", "list", "--json"]).await;
    for id in &ids[..2] {
        let row = rows.iter().find(|row| row["target"] == json!(id)).unwrap();
        assert_eq!(
            (&row["action"], &row["tenant"]),
            (&json!("job.cancel"), &json!("default"))
        );
    }

    // Once more changes nothing: nobody has done anything.
    cli.refuses(&["jobs", "cancel", "--yes", &ids[2]], 5).await;
    assert_eq!(actions(&cli).await, ["job.cancel", "job.cancel"]);
}

#[tokio::test]
async fn dead_jobs_are_retried_held_ones_resolved_and_others_left() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let dead = dead(&room, 1).await[0];
    let held = room.running(job_to_hold()).await;
    room.finish(held, unknown()).await;
    let held = held.id;

    let said = cli
        .run(&["jobs", "retry", &dead.to_string(), &held.to_string()])
        .await;
    assert_eq!(said.code, Some(5), "{said:?}");
    assert_eq!(said.out, format!("{dead}\n"));
    assert_eq!(room.state(dead).await, "scheduled");

    cli.ok(&["jobs", "resolve", &held.to_string(), "--verdict", "dead"])
        .await;
    assert_eq!(room.state(held).await, "dead");
    cli.refuses(
        &["jobs", "resolve", &held.to_string(), "--verdict", "dead"],
        5,
    )
    .await;
    assert_eq!(actions(&cli).await, ["job.retry", "job.resolve"]);
}

#[tokio::test]
async fn dead_letters_are_listed_and_counted_by_what_is_asked() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    dead(&room, 3).await;
    let of_acme = NewJob {
        tenant: "acme".parse().unwrap(),
        kind: "webhook".parse().unwrap(),
        ..job()
    };
    room.enqueue(of_acme).await;
    bury(&room).await;
    room.enqueue(job()).await;

    let count = async |filter: &[&str]| {
        let list = [&["dead-letters", "list", "--json"], filter].concat();
        let redrive = [&["dead-letters", "redrive", "--dry-run"], filter].concat();
        let (listed, counted) = (cli.json(&list).await.len(), cli.ok(&redrive).await);
        assert_eq!(format!("{listed}\n"), counted, "{filter:?}");
        listed
    };
    assert_eq!(count(&[]).await, 4);
    assert_eq!(count(&["--tenant", "acme"]).await, 1);
    assert_eq!(count(&["--kind", "echo"]).await, 3);
    assert_eq!(count(&["--queue", "nothing"]).await, 0);
    assert_eq!(count(&["--since", "1h"]).await, 4);
    assert_eq!(count(&["--since", "2199-01-01T00:00:00Z"]).await, 0);
    assert_eq!(
        cli.json(&["dead-letters", "list", "--limit", "2", "--json"])
            .await
            .len(),
        2
    );
    let rows = cli
        .json(&["dead-letters", "list", "--limit", "2", "--json"])
        .await;
    let last = rows[1]["id"].as_str().unwrap();
    let rest = cli
        .json(&["dead-letters", "list", "--before", last, "--json"])
        .await;
    assert_eq!(rest.len(), 2);
    assert_eq!(actions(&cli).await, [""; 0], "looking is no change");
}

#[tokio::test]
async fn a_few_dead_letters_are_redriven_first_and_then_the_rest() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    dead(&room, 5).await;

    let begun = cli
        .ok(&["dead-letters", "redrive", "--limit", "2", "--yes"])
        .await;
    let canary = begun.trim();
    let operation = &cli.json(&["operations", "get", canary, "--json"]).await[0];
    assert_eq!(
        (&operation["state"], &operation["planned"]),
        (&json!("running"), &json!(2))
    );
    while room.store.step_operation(100).await.unwrap().is_some() {}
    let operation = &cli
        .json(&["operations", "get", canary, "--watch", "--json"])
        .await[0];
    assert_eq!(
        (&operation["state"], &operation["done"]),
        (&json!("finished"), &json!(2))
    );
    assert_eq!(
        cli.ok(&["dead-letters", "redrive", "--dry-run"]).await,
        "3\n"
    );
    cli.refuses(&["operations", "stop", canary], 5).await;

    let redrive = [
        "dead-letters",
        "redrive",
        "--kind",
        "echo",
        "--yes",
        "--wait",
    ];
    let waiting = cli
        .command(&redrive)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the rest is back", async || {
        room.store.step_operation(100).await?;
        let left = room
            .value::<i64>("select count(*) from postroad.archive")
            .await;
        anyhow::ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
    .unwrap();
    while room.store.step_operation(100).await.unwrap().is_some() {}
    let said = end(waiting).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("3 of 3 dead jobs are scheduled again"),
        "{said:?}"
    );
    assert_eq!(cli.json(&["operations", "list", "--json"]).await.len(), 2);
    cli.refuses(&["dead-letters", "redrive", "--yes"], 4).await;
    assert_eq!(actions(&cli).await, ["dead_letters.redrive"; 2]);
}

#[tokio::test]
async fn an_operation_is_stopped_and_whoever_waits_for_it_is_told() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    dead(&room, 2).await;
    let begun = cli.ok(&["dead-letters", "redrive", "--yes"]).await;
    cli.ok(&["operations", "stop", begun.trim()]).await;
    let operation = &cli
        .json(&["operations", "get", begun.trim(), "--json"])
        .await[0];
    assert_eq!(operation["state"], json!("stopped"));
    cli.refuses(&["operations", "stop", begun.trim()], 5).await;
    assert_eq!(
        actions(&cli).await,
        ["dead_letters.redrive", "operation.stop"]
    );
}

#[tokio::test]
async fn ctrl_c_ends_the_watching_and_says_how_to_resume() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    dead(&room, 2).await;
    let mut terminal: Terminal = cli.in_terminal(&["dead-letters", "redrive"], 24, 80);
    terminal.wait_for("try 2 dead jobs again? [y/N] ").await;
    terminal.type_in("y\n");
    terminal.wait_for("0/2").await;
    terminal.interrupt();
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("postroad operations get "), "{shown}");
    assert!(shown.contains("postroad operations stop "), "{shown}");
    let operations: Vec<Value> = cli.json(&["operations", "list", "--json"]).await;
    assert_eq!(operations[0]["state"], json!("running"), "it goes on");
}

#[tokio::test]
async fn without_a_scheduler_whoever_waits_is_told_why_nothing_happens() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    dead(&room, 1).await;
    room.execute("update postroad.process set stopped_at = now()")
        .await;
    let terminal = cli.in_terminal(&["dead-letters", "redrive", "--yes"], 24, 80);
    terminal.wait_for("no scheduler runs").await;
    terminal.interrupt();
    assert_eq!(terminal.end().await.1, Some(0));
}
