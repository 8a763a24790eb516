//! A program waits for servers that are not there, and refuses what is wrong with one line that
//! says what to fix.

use anyhow::ensure;
use postroad_common::token::Permission;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually, sms};
use postroad_tests::proxy::Proxy;
use postroad_tests::simulator::Behaviour;
use serde_json::json;

/// Waits until a program says that it is not ready because of this server.
async fn wait_for_reason(cluster: &Cluster, id: Id, reason: &str) -> anyhow::Result<()> {
    eventually(format_args!("{reason} is missed"), async || {
        let (is_ready, page) = cluster.readyz(id).await?;
        let why = page["reasons"][reason].as_str().unwrap_or("starting");
        ensure!(!is_ready && why != "starting", "{page}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_program_waits_for_servers_that_are_not_there_yet() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let postgres = Proxy::start(cluster.postgres_addr()?)?;
    let rabbitmq = Proxy::start(cluster.amqp_addr()?)?;
    postgres.cut().await;
    rabbitmq.cut().await;
    let through = |program: Program| program.amqp_through(&rabbitmq).postgres_through(&postgres);
    let programs = [
        cluster.spawn(through(Program::scheduler()))?,
        cluster.spawn(through(Program::worker()))?,
    ];
    let api = cluster.spawn(through(Program::api()))?;

    for id in programs.into_iter().chain([api]) {
        wait_for_reason(&cluster, id, "postgres").await?;
    }
    postgres.heal().await;
    // It takes jobs whether RabbitMQ is there or not.
    cluster.wait_until_ready(api).await?;
    let client = cluster.client(api, Some("acme"), &Permission::ALL).await?;
    let taken = client.post("/v1/jobs", &json!({"kind": "echo"})).await?;
    ensure!(taken.status == 201, "{taken:?}");
    for id in programs {
        wait_for_reason(&cluster, id, "rabbitmq").await?;
    }
    rabbitmq.heal().await;
    for id in programs {
        cluster.wait_until_ready(id).await?;
    }
    cluster.enqueue(&[sms()]).await?;
    cluster.wait_for("completed", 2).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_program_that_waits_stops_when_it_is_asked_to() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let postgres = Proxy::start(cluster.postgres_addr()?)?;
    postgres.cut().await;
    for program in [Program::scheduler(), Program::worker(), Program::api()] {
        let id = cluster.spawn(program.postgres_through(&postgres))?;
        wait_for_reason(&cluster, id, "postgres").await?;
        assert_eq!(cluster.terminate(id).await?.code(), Some(0));
    }
    cluster.finish().await
}

/// Starts these programs with these variables; they end at once and say all of this.
async fn check_refused(
    cluster: &mut Cluster,
    programs: &[Program],
    env: &[(&str, String)],
    said: &[&str],
) -> anyhow::Result<()> {
    for program in programs {
        let mut program = program.clone();
        for (name, value) in env {
            program = program.env(name, value);
        }
        let id = cluster.spawn(program)?;
        let status = cluster.wait(id).await?;
        let log = cluster.log(id);
        ensure!(status.code() == Some(78), "{env:?}: {status} {log}");
        for text in said {
            ensure!(log.contains(text), "no `{text}` in {log}");
        }
    }
    Ok(())
}

fn replaced(url: &str, from: char, with: &str) -> String {
    let start = url.rfind(from).map_or(url, |at| &url[..=at]);
    format!("{start}{with}")
}

#[tokio::test]
async fn a_program_refuses_servers_that_refuse_it() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let (database, amqp) = (
        cluster.database_url().to_owned(),
        cluster.vhost().amqp_url().to_owned(),
    );
    let wrong_password = |url: &str| {
        let (start, end) = url.split_once('@').expect("the URL has a password");
        format!("{}@{end}", replaced(start, ':', "wrong"))
    };
    let cases = [
        ("DATABASE_URL", wrong_password(&database), "password"),
        (
            "DATABASE_URL",
            replaced(&database, '/', "nowhere"),
            "database that does not exist",
        ),
        (
            "DATABASE_URL",
            replaced(&database, '/', "template1"),
            "postroad migrate",
        ),
        ("AMQP_URL", wrong_password(&amqp), "password"),
        (
            "AMQP_URL",
            replaced(&amqp, '/', "nowhere"),
            "vhost that does not exist",
        ),
    ];
    for (name, url, why) in cases {
        let mut programs = vec![Program::scheduler(), Program::worker()];
        // The api knows no AMQP.
        programs.extend((name == "DATABASE_URL").then(Program::api));
        check_refused(&mut cluster, &programs, &[(name, url)], &[name, why]).await?;
    }
    cluster.finish().await
}

/// What is wrong for each of these programs.
async fn check_all_are_named(
    cluster: &mut Cluster,
    programs: &[Program],
    wrong: &[(&str, &str)],
) -> anyhow::Result<()> {
    let env: Vec<_> = wrong
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned()))
        .collect();
    let names: Vec<_> = wrong.iter().map(|(name, _)| *name).collect();
    check_refused(cluster, programs, &env, &names).await
}

#[tokio::test]
async fn every_wrong_variable_is_named_at_once() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let wrong = [
        ("DATABASE_URL", "not a url"),
        ("POSTROAD_GRACE", "long"),
        ("POSTROAD_ADMIN_LISTEN", "here"),
    ];
    let of_both = [("AMQP_URL", "http://x"), ("POSTROAD_LEASE", "1")];
    let both = [Program::scheduler(), Program::worker()];
    check_all_are_named(&mut cluster, &both, &[&wrong[..], &of_both].concat()).await?;
    let of_api = [
        ("POSTROAD_LISTEN", "8080"),
        ("POSTROAD_WEBHOOK_ALLOW", "10.0.0.0/99"),
        ("POSTROAD_LOG_FORMAT", "xml"),
    ];
    let api = [Program::api()];
    check_all_are_named(&mut cluster, &api, &[&wrong[..], &of_api].concat()).await?;
    cluster.finish().await
}

#[tokio::test]
async fn programs_work_without_the_right_to_declare() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    // An administrator has made the topology: the harness.
    let (worker, scheduler) = (cluster.worker(0), cluster.scheduler(0));
    cluster.terminate(worker).await?;
    cluster.terminate(scheduler).await?;
    let vhost = cluster.vhost().clone();
    let name = |role| format!("{role}_{}", std::process::id());
    let (scheduler, worker) = (name("scheduler"), name("worker"));
    let url = vhost
        .create_user(&scheduler, "^postroad\\.(jobs|parked)$")
        .await?;
    cluster
        .start(Program::scheduler().env("AMQP_URL", url))
        .await?;
    let url = vhost.create_user(&worker, "^$").await?;
    cluster
        .start(Program::worker().env("AMQP_URL", url))
        .await?;

    cluster.provider.set(Behaviour {
        rate_503: 1.0,
        ..Behaviour::default()
    })?;
    cluster.enqueue(&[sms()]).await?;
    cluster
        .provider
        .wait_for(|report| report.refused_503 == 1)
        .await?;
    cluster.provider.set(Behaviour::default())?;
    cluster.wait_for("completed", 1).await?;
    cluster.finish().await?;
    vhost.delete_user(&scheduler).await?;
    vhost.delete_user(&worker).await
}

#[tokio::test]
async fn a_new_queue_does_not_cost_a_scheduler_without_the_right_to_declare_its_connection()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let scheduler = cluster.scheduler(0);
    cluster.terminate(scheduler).await?;
    let vhost = cluster.vhost().clone();
    let name = format!("publisher_{}", std::process::id());
    let url = vhost
        .create_user(&name, "^postroad\\.(jobs|parked)$")
        .await?;
    let scheduler = cluster
        .start(Program::scheduler().env("AMQP_URL", url))
        .await?;

    // This worker may declare its queue; the scheduler is refused everything it asks for.
    let worker = Program::worker().env("AMQP_URL", vhost.amqp_url());
    cluster
        .start(worker.env("POSTROAD_QUEUES", "brand-new"))
        .await?;
    let sql = "select postroad.enqueue('echo', queue => 'brand-new') from generate_series(1, 3)";
    cluster.query(sql, &[]).await?;
    cluster.wait_for("completed", 3).await?;
    cluster.enqueue(&[sms()]).await?;
    cluster.wait_for("completed", 4).await?;

    let log = cluster.log(scheduler);
    assert!(!log.contains("did not answer in time"), "{log}");
    cluster.finish().await?;
    vhost.delete_user(&name).await
}
