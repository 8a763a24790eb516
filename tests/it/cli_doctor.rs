//! `postroad doctor`, on a cluster that is well and on ones that are not.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_common::broker::topology::{DEAD_QUEUE, work_queue};
use postroad_common::store::{Fenced, KindChange};
use postroad_tests::faults::clock::FakeClock;
use postroad_tests::harness::broker::Forged;
use postroad_tests::harness::cluster::{Cluster, eventually, job};
use serde_json::{Value, json};

use crate::cli_fixture::{Cli, Said, object};
use crate::store_fixture::Room;

fn cli(cluster: &Cluster) -> Cli {
    Cli::at(cluster.database_url(), cluster.vhost().amqp_url())
}

/// What it found, and how it ended.
async fn findings(cli: &Cli) -> (Vec<Value>, Said) {
    let said = cli.run(&["doctor", "--json"]).await;
    (said.out.lines().map(object).collect(), said)
}

/// That it finds this, and ends as it must.
async fn finds(cli: &Cli, level: &str, check: &str, part: &str) -> anyhow::Result<()> {
    let (found, said) = findings(cli).await;
    let is_meant = |one: &&Value| {
        let has =
            |field: &str, part: &str| one[field].as_str().is_some_and(|text| text.contains(part));
        one["check"] == json!(check)
            && one["level"] == json!(level)
            && (has("finding", part) || has("remedy", part))
    };
    let one = found.iter().find(is_meant);
    let one = one.with_context(|| format!("{level} {check} `{part}` in {said:?}"))?;
    let is_silent = one["remedy"].as_str().is_none_or(str::is_empty);
    ensure!(level == "OK" || !is_silent, "{one} says nothing to do");
    let fails = found.iter().any(|one| one["level"] == json!("FAIL"));
    ensure!(said.code == Some(i32::from(fails)), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_fails_in_a_cluster_that_is_well() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let management = postroad_tests::harness::endpoints::Endpoints::shared()?.management_url;
    let cli = cli(&cluster).env("POSTROAD_MANAGEMENT_URL", management);
    let (found, said) = findings(&cli).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    for check in [
        "configuration",
        "Postgres",
        "Postgres version",
        "session settings",
        "schema",
        "database permissions",
        "clock",
        "RabbitMQ",
        "RabbitMQ version",
        "RabbitMQ permissions",
        "topology",
        "RabbitMQ alarms",
        "parked messages",
        "schedulers",
        "workers",
        "queues",
        "kinds",
        "held jobs",
        "dead letters",
        "webhooks",
    ] {
        let of_check = |one: &&Value| one["check"] == json!(check);
        let one = found
            .iter()
            .find(of_check)
            .with_context(|| format!("{check} in {said:?}"))?;
        assert_eq!(one["level"], json!("OK"), "{one}");
    }
    let text = cli.ok(&["doctor"]).await;
    let schema = format!(
        "OK    schema: version {}\n",
        postroad_common::store::SCHEMA_VERSION
    );
    assert!(text.contains(&schema), "{text}");
    cluster.finish().await
}

#[tokio::test]
async fn an_attempt_that_rabbitmq_would_not_wait_for_is_found() -> anyhow::Result<()> {
    let room = Room::open().await;
    let long = KindChange {
        timeout: Some(Duration::from_secs(7200)),
        ..KindChange::default()
    };
    room.store.set_kind("sms", &long).await?;
    finds(&Cli::of(&room), "WARN", "timeouts", "timeout of sms").await
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_found() -> anyhow::Result<()> {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let url = room.database.url();
    let nowhere = format!("{url}_nowhere");
    for (name, value, level, check, part) in [
        (
            "DATABASE_URL",
            "nonsense",
            "FAIL",
            "configuration",
            "DATABASE_URL",
        ),
        ("AMQP_URL", "nonsense", "FAIL", "configuration", "AMQP_URL"),
        (
            "POSTROAD_LEASE",
            "1",
            "FAIL",
            "configuration",
            "POSTROAD_LEASE",
        ),
        (
            "POSTROAD_PREFETCH",
            "2001",
            "FAIL",
            "configuration",
            "POSTROAD_PREFETCH",
        ),
        (
            "POSTROAD_LEESE",
            "30s",
            "WARN",
            "variables",
            "did you mean POSTROAD_LEASE?",
        ),
        (
            "DATABASE_URL",
            &nowhere,
            "FAIL",
            "Postgres",
            "does not exist",
        ),
        (
            "DATABASE_URL",
            "postgres://a:b@127.0.0.1:1/c",
            "FAIL",
            "Postgres",
            "refused",
        ),
        (
            "AMQP_URL",
            "amqp://a:b@127.0.0.1:1/c",
            "FAIL",
            "RabbitMQ",
            "AMQP_URL",
        ),
        (
            "POSTROAD_LEASE",
            "2s",
            "WARN",
            "timeouts",
            "set 20s or more",
        ),
        (
            "POSTROAD_GRACE",
            "1h",
            "WARN",
            "timeouts",
            "consumer timeout",
        ),
        (
            "POSTROAD_LEASE",
            "5m",
            "WARN",
            "timeouts",
            "the pipe ttl of default",
        ),
        (
            "POSTROAD_WEBHOOK_ALLOW",
            "10.0.0.0/8",
            "WARN",
            "webhooks",
            "10.0.0.0/8",
        ),
        (
            "POSTROAD_MANAGEMENT_URL",
            "http://127.0.0.1:1",
            "WARN",
            "RabbitMQ alarms",
            "not known",
        ),
    ] {
        finds(&cli.env(name, value), level, check, part)
            .await
            .context(name)?;
    }
    let secret = "http://someone:hunter2@127.0.0.1:1";
    let (_, said) = findings(&cli.env("POSTROAD_MANAGEMENT_URL", secret)).await;
    assert!(!said.out.contains("hunter2"), "{said:?}");

    let clock = FakeClock::new().await?;
    clock.set(-3600)?;
    let mut late = cli.clone();
    for (name, value) in clock.env() {
        late = late.env(&name, value);
    }
    finds(&late, "WARN", "clock", "behind Postgres").await?;

    room.execute("drop schema postroad cascade").await;
    finds(&cli, "FAIL", "schema", "postroad migrate").await
}

#[tokio::test]
async fn what_is_wrong_with_jobs_and_programs_is_found() -> anyhow::Result<()> {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    // Nobody has ever run what is asked for here, in a queue that nobody reads.
    let sql = "select postroad.enqueue('unheard-of', queue => 'lonely', run_at => now() - interval '1 minute'),
        postroad.enqueue('echo', queue => 'stopped')";
    room.execute(sql).await;
    room.execute(
        "update postroad.queue set paused_at = now() where name = 'stopped';
         update postroad.process set version = '0.0.9'",
    )
    .await;
    finds(&cli, "WARN", "queues", "no worker consumes lonely").await?;
    finds(&cli, "WARN", "queues", "postroad queues resume stopped").await?;
    finds(&cli, "WARN", "kinds", "unheard-of").await?;
    finds(&cli, "WARN", "versions", "0.0.9").await?;
    finds(&cli, "OK", "schedulers", "1 running").await?;

    let held = room.running(crate::store_fixture::job_to_hold()).await;
    room.finish(held, crate::store_fixture::unknown()).await;
    room.store
        .resolve(
            &[room.enqueue(crate::store_fixture::job()).await],
            postroad_common::store::Resolution::Dead,
        )
        .await?;
    finds(&cli, "WARN", "held jobs", "1 jobs may or may not").await?;
    room.store
        .resolve(&[held.id], postroad_common::store::Resolution::Dead)
        .await?;
    finds(&cli, "WARN", "dead letters", "1 jobs are dead").await?;

    room.execute("update postroad.process set seen_at = now() - interval '1 hour'")
        .await;
    finds(&cli, "FAIL", "schedulers", "none runs").await?;
    finds(&cli, "WARN", "schedulers", "1 silent").await?;
    finds(&cli, "WARN", "workers", "none runs").await
}

#[tokio::test]
async fn what_is_wrong_in_rabbitmq_is_found() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let doctor = cli(&cluster);
    finds(&doctor, "OK", "topology", "is there").await?;
    let stranger = cluster.vhost().stranger().await?;
    let nobody = Fenced {
        id: postroad_common::job::JobId::new(),
        dispatch: 1,
    };
    let unreadable = Forged {
        message_id: Some("not an id".to_owned()),
        ..Forged::of(nobody, "echo")
    };
    stranger.publish_letters(&[unreadable]).await?;
    eventually("it is parked", async || {
        finds(&doctor, "WARN", "parked messages", "x-postroad-reason").await
    })
    .await?;
    cluster.expect_parked(1);

    let name = format!("doctor-{}", std::process::id());
    let url = cluster
        .vhost()
        .create_user(&name, "^postroad\\.jobs$")
        .await?;
    let scheduler = doctor.env("AMQP_URL", &url);
    finds(
        &scheduler,
        "OK",
        "RabbitMQ permissions",
        "not create queues (migrate)",
    )
    .await?;
    let url = cluster.vhost().create_user(&name, "^$").await?;
    let worker = doctor.env("AMQP_URL", &url);
    let part = "may consume jobs (worker); not create queues (migrate), publish jobs (scheduler)";
    finds(&worker, "OK", "RabbitMQ permissions", part).await?;
    cluster.vhost().delete_user(&name).await?;
    finds(&worker, "FAIL", "RabbitMQ", "AMQP_URL").await?;

    // What nobody may declare any more is missed.
    let scheduler = cluster.scheduler(0);
    cluster.terminate(scheduler).await?;
    cluster.vhost().delete_queue("default").await?;
    finds(&doctor, "FAIL", "topology", &work_queue("default")).await?;
    stranger.delete_dead().await?;
    finds(&doctor, "FAIL", "topology", DEAD_QUEUE).await?;
    finds(&doctor, "FAIL", "schedulers", "none runs").await?;
    doctor.ok(&["migrate"]).await;
    finds(&doctor, "OK", "topology", "is there").await?;
    cluster.start_scheduler().await?;
    cluster.enqueue(&[job("echo", &json!({}))]).await?;
    cluster.start_worker().await?;
    cluster.wait_for("completed", 1).await?;
    cluster.finish().await
}

#[tokio::test]
async fn each_role_may_run_its_own_program_and_no_other() -> anyhow::Result<()> {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    finds(
        &cli,
        "OK",
        "database permissions",
        "may run scheduler, worker, api, migrate",
    )
    .await?;
    let said = cli.run(&["migrate", "--roles"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("in role postroad_worker"), "{said:?}");
    let rows = cli.json(&["audit", "list", "--json"]).await;
    assert_eq!(rows[0]["action"], json!("roles.grant"), "{rows:?}");

    let id = uuid::Uuid::now_v7().simple();
    for role in ["scheduler", "worker", "api", "readonly"] {
        let user = format!("doctor_{role}_{id}");
        let create = format!("create user {user} login password 'secret' in role postroad_{role}");
        room.execute(&create).await;
        let mut url: reqwest::Url = room.database.url().parse()?;
        url.set_username(&user).ok().context("a URL with a user")?;
        url.set_password(Some("secret"))
            .ok()
            .context("a URL with a password")?;
        let as_user = cli.env("DATABASE_URL", url.as_str());
        match role {
            "readonly" => {
                finds(&as_user, "FAIL", "database permissions", "may run nothing").await?;
            }
            _ => {
                let part = format!("may run {role}; not ");
                finds(&as_user, "OK", "database permissions", &part).await?;
            }
        }
        let drop = format!("drop owned by {user}; drop user {user}");
        room.execute(&drop).await;
    }
    Ok(())
}
