//! `postroad schedules`: what it makes, what it prints, and how it refuses.

use serde_json::{Value, json};

use crate::cli_fixture::Cli;
use crate::store_fixture::Room;

const DIGEST: &[&str] = &[
    "schedules",
    "create",
    "digest",
    "--cron",
    "30 9 * * MON-FRI",
    "--timezone",
    "Europe/Stockholm",
    "--kind",
    "digest",
    "--args",
    r#"{"n": 1.0}"#,
    "--expires-after",
    "1h",
];

#[tokio::test]
async fn a_schedule_is_created_shown_paused_run_and_deleted_and_each_is_one_row_of_the_audit_log() {
    let room = Room::open().await;
    let cli = Cli::of(&room);

    let ticks = cli.ok(DIGEST).await;
    assert!(ticks.starts_with("LOCAL "), "{ticks}");
    assert_eq!(ticks.lines().count(), 4, "{ticks}");
    assert!(ticks.contains("T09:30:00+0"), "{ticks}");
    cli.refuses(DIGEST, 5).await;

    let schedule = cli.ok(&["schedules", "get", "digest", "--json"]).await;
    assert!(
        schedule.contains(r#""args":{"n": 1.0}"#),
        "kept byte for byte: {schedule}"
    );
    let schedule: Value = serde_json::from_str(&schedule).unwrap();
    assert_eq!(schedule["timezone"], "Europe/Stockholm");
    assert_eq!(schedule["expires_after_seconds"], json!(3600.0));
    assert_eq!(schedule["next_ticks"].as_array().unwrap().len(), 3);

    cli.ok(&["schedules", "pause", "digest"]).await;
    // It is so already: nothing changes, and nobody did anything.
    cli.ok(&["schedules", "pause", "digest"]).await;
    let listed = cli.json(&["schedules", "list", "--json"]).await;
    assert!(listed[0]["paused_at"].is_string(), "{listed:?}");
    assert_eq!(listed[0]["next_ticks"], json!([]));
    cli.ok(&["schedules", "resume", "digest"]).await;
    let id = cli.ok(&["schedules", "run", "digest"]).await;
    let job = &cli.json(&["jobs", "get", id.trim(), "--json"]).await[0];
    assert_eq!(job["kind"], "digest");

    let table = cli.ok(&["schedules", "list", "--tenant", "default"]).await;
    assert!(table.starts_with("SCHEDULE "), "{table}");
    let shown = cli.ok(&["schedules", "get", "digest"]).await;
    assert!(shown.contains("ticks next"), "{shown}");
    let next = cli
        .json(&["schedules", "next", "digest", "--count", "7", "--json"])
        .await;
    assert_eq!(next.len(), 7);

    cli.refuses(&["schedules", "delete", "digest"], 2).await;
    cli.ok(&["schedules", "delete", "digest", "--yes"]).await;
    for command in ["get", "pause", "resume", "run", "next"] {
        cli.refuses(&["schedules", command, "digest"], 4).await;
    }
    cli.refuses(&["schedules", "get", "x", "--tenant", "nobody"], 4)
        .await;
    let mut actions: Vec<_> = cli
        .json(&["audit", "list", "--json"])
        .await
        .iter()
        .map(|row| row["action"].as_str().unwrap().to_owned())
        .collect();
    actions.reverse();
    assert_eq!(
        actions,
        [
            "schedule.create",
            "schedule.pause",
            "schedule.resume",
            "schedule.run",
            "schedule.delete"
        ]
    );
}

#[tokio::test]
async fn the_next_ticks_of_an_expression_need_no_servers() {
    let cli = Cli::at(
        "postgres://nobody@127.0.0.1:1/none",
        "amqp://127.0.0.1:1/none",
    );
    let next = [
        "schedules",
        "next",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Stockholm",
        "--count",
        "370",
        "--json",
    ];
    let ticks = cli.json(&next).await;
    assert_eq!(ticks.len(), 370);
    let at_three = |tick: &&Value| tick["local"].as_str().unwrap().contains("T03:00:00+02:00");
    assert!(
        (1..=2).contains(&ticks.iter().filter(at_three).count()),
        "a spring has its gap"
    );
    let table = cli.ok(&["schedules", "next", "--cron", "@daily"]).await;
    assert_eq!(table.lines().count(), 6, "{table}");
}

#[tokio::test]
async fn what_is_no_schedule_is_wrong_usage_and_says_where() {
    let cli = Cli::at(
        "postgres://nobody@127.0.0.1:1/none",
        "amqp://127.0.0.1:1/none",
    );
    let table = include_str!("../data/schedules_refused.json");
    let table: Vec<(String, String, String)> = serde_json::from_str(table).unwrap();
    // One process each: every eighth of them. The rest is the expression's own test.
    for (field, value, says) in table.iter().step_by(8).filter(|row| !row.1.contains('\0')) {
        let option = format!("--{field}={value}");
        let other = if field == "cron" {
            "--timezone=UTC"
        } else {
            "--cron=@daily"
        };
        let create = ["schedules", "create", "s", "--kind", "echo", &option, other];
        let error = cli.refuses(&create, 2).await;
        assert!(error.contains(says.as_str()), "{value:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    for wrong in [
        &["schedules", "next"][..],
        &["schedules", "next", "s", "--cron", "@daily"],
        &["schedules", "create", "s", "--cron", "@daily"],
        &[
            "schedules",
            "create",
            "S",
            "--cron",
            "@daily",
            "--kind",
            "echo",
        ],
        &[
            "schedules",
            "create",
            "s",
            "--cron",
            "@daily",
            "--kind",
            "echo",
            "--args",
            "{",
        ],
        &[
            "schedules",
            "create",
            "s",
            "--cron",
            "@daily",
            "--kind",
            "echo",
            "--misfire",
            "no",
        ],
        &[
            "schedules",
            "create",
            "s",
            "--cron",
            "@daily",
            "--kind",
            "echo",
            "--expires-after",
            "0s",
        ],
    ] {
        cli.refuses(wrong, 2).await;
    }
}
