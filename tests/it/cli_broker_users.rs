//! `postroad migrate --broker-users`: a user of RabbitMQ for each program, who may do what it needs
//! and no more.

use anyhow::{Context as _, ensure};
use postroad_common::broker::users::{SCHEDULER, USERS, WORKER};
use postroad_common::broker::{Broker, Connection, Settings, topology};
use postroad_common::job::JobId;
use postroad_common::store::Fenced;
use postroad_tests::harness::broker::{Forged, Vhost};
use postroad_tests::harness::cluster::{Cluster, Program, job, sms};
use postroad_tests::harness::endpoints::Endpoints;
use reqwest::Url;
use serde_json::{Value, json};

use crate::cli_fixture::Cli;

const VARIABLE: &str = "POSTROAD_MANAGEMENT_URL";

async fn cluster() -> anyhow::Result<(Cluster, Cli)> {
    let cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let cli = Cli::at(cluster.database_url(), cluster.vhost().amqp_url());
    let management = Endpoints::shared()?.management_url;
    Ok((cluster, cli.env(VARIABLE, management)))
}

/// What the command says of each user, in the order of `USERS`.
async fn users(cli: &Cli) -> Vec<Value> {
    let users = cli.json(&["migrate", "--broker-users", "--json"]).await;
    let roles: Vec<_> = users.iter().map(|user| user["role"].clone()).collect();
    assert_eq!(roles, USERS.map(|user| json!(user.role)), "{users:?}");
    users
}

fn url(user: &Value, variable: &str) -> anyhow::Result<String> {
    ensure!(user["variable"] == json!(variable), "{user}");
    let url = user["url"].as_str().context("a new user has a URL")?;
    Ok(url.to_owned())
}

async fn connect(amqp_url: &str) -> anyhow::Result<Connection> {
    let settings = Settings::of_url(amqp_url).map_err(anyhow::Error::msg)?;
    Ok(Broker::new(settings, "test".to_owned())
        .connect("test")
        .await?)
}

async fn finish(cluster: Cluster) -> anyhow::Result<()> {
    let vhost = cluster.vhost().clone();
    cluster.finish().await?;
    for user in USERS {
        vhost.delete_user(&user.name_in(vhost.name())).await?;
    }
    Ok(())
}

/// Everything that a worker has no business with is refused to it.
async fn check_worker_may_only_consume(amqp_url: &str) -> anyhow::Result<()> {
    let connection = connect(amqp_url).await?;
    let declared = topology::declare(&connection, &["of-nobody".to_owned()]).await?;
    ensure!(
        declared.refused == 6,
        "three exchanges, three queues: {declared:?}"
    );
    drop(connection);
    let vhost = Vhost::of(amqp_url, &Endpoints::shared()?.management_url)?;
    let nobody = Fenced {
        id: JobId::new(),
        dispatch: 1,
    };
    let letter = [Forged::of(nobody, "echo")];
    let stranger = vhost.stranger().await?;
    let published = [
        stranger.publish("default", &letter).await,
        stranger.publish_letters(&letter).await,
    ];
    for publish in published {
        let Err(refused) = publish else {
            anyhow::bail!("a worker may publish");
        };
        ensure!(
            format!("{refused:#}").contains("ACCESS_REFUSED"),
            "{refused:#}"
        );
    }
    ensure!(
        stranger.take_parked().await.is_err(),
        "a worker reads what is parked"
    );
    Ok(())
}

#[tokio::test]
async fn programs_work_as_the_users_that_are_made_for_them_who_may_do_no_more() -> anyhow::Result<()>
{
    let (mut cluster, cli) = cluster().await?;
    let made = users(&cli).await;
    assert!(
        made.iter().all(|user| user["created"] == json!(true)),
        "{made:?}"
    );
    let (scheduler, worker) = (url(&made[0], "AMQP_URL")?, url(&made[1], "AMQP_URL")?);

    // The queue of a name that nobody has seen is the scheduler's to declare.
    let queues = "default,brand-new";
    let id = cluster
        .start(Program::scheduler().env("AMQP_URL", &scheduler))
        .await?;
    let program = Program::worker().env("AMQP_URL", &worker);
    cluster
        .start(program.env("POSTROAD_QUEUES", queues))
        .await?;
    let mut new = job("echo", &json!({}));
    new.queue = "brand-new".parse()?;
    cluster.enqueue(&[sms(), new]).await?;
    cluster.wait_for("completed", 2).await?;

    check_worker_may_only_consume(&worker).await?;
    // RabbitMQ's own pages know who is connected.
    let doctor = cli.env("AMQP_URL", &scheduler);
    let said = doctor.run(&["doctor"]).await;
    assert!(said.out.contains("publish jobs (scheduler)"), "{said:?}");
    cluster.terminate(id).await?;
    cluster.start_scheduler().await?;
    finish(cluster).await
}

#[tokio::test]
async fn whoever_monitors_sees_rabbitmqs_pages_and_administers_nothing() -> anyhow::Result<()> {
    let (cluster, cli) = cluster().await?;
    let made = users(&cli).await;
    let monitoring = cli.env(VARIABLE, url(&made[2], VARIABLE)?);
    let said = monitoring.run(&["doctor"]).await;
    let alarms = said
        .out
        .lines()
        .find(|line| line.contains("RabbitMQ alarms"));
    assert!(alarms.is_some_and(|line| line.contains("none")), "{said:?}");
    let said = monitoring.refuses(&["migrate", "--broker-users"], 78).await;
    let name = made[2]["user"].as_str().context("it has a name")?;
    for part in [VARIABLE, name, "set_user_tags"] {
        assert!(said.contains(part), "{said}");
    }
    finish(cluster).await
}

#[tokio::test]
async fn a_user_that_is_there_keeps_its_password_and_gets_its_permissions_again()
-> anyhow::Result<()> {
    let (cluster, cli) = cluster().await?;
    let vhost = cluster.vhost().clone();
    let said = cli.run(&["migrate", "--broker-users"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let (_, amqp_url) = said
        .out
        .lines()
        .find_map(|line| line.strip_prefix("worker"))
        .and_then(|line| line.split_once("AMQP_URL="))
        .with_context(|| format!("it is ready to paste: {said:?}"))?;
    connect(amqp_url).await?;

    let (scheduler, worker) = (
        SCHEDULER.name_in(vhost.name()),
        WORKER.name_in(vhost.name()),
    );
    vhost.permit(&worker, &SCHEDULER.permissions()).await?;
    vhost.delete_user(&scheduler).await?;
    let again = users(&cli).await;

    assert_eq!(again[0]["created"], json!(true), "{again:?}");
    let expected = json!({
        "role": "worker", "user": worker, "created": false, "variable": null, "url": null,
    });
    assert_eq!(again[1], expected);
    for user in USERS {
        let permissions = vhost.permissions(&user.name_in(vhost.name())).await?;
        assert_eq!(permissions, user.permissions(), "{}", user.role);
    }
    connect(amqp_url).await?;
    let said = cli.run(&["migrate", "--broker-users"]).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert!(
        said.err.contains(&format!("{worker} was there")),
        "{said:?}"
    );

    let rows = cli.json(&["audit", "list", "--json"]).await;
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(
        rows.iter()
            .all(|row| row["action"] == json!("broker_users.grant"))
    );
    assert_eq!(rows[1]["detail"]["created"], json!([scheduler]), "{rows:?}");
    finish(cluster).await
}

#[tokio::test]
async fn several_at_once_give_each_user_one_password() -> anyhow::Result<()> {
    let (cluster, cli) = cluster().await?;
    let (one, other) = tokio::join!(users(&cli), users(&cli));
    let made: Vec<_> = one
        .iter()
        .chain(&other)
        .filter(|user| user["created"] == json!(true))
        .collect();
    assert_eq!(made.len(), USERS.len(), "{made:?}");
    for user in made
        .iter()
        .filter(|user| user["role"] != json!("monitoring"))
    {
        connect(&url(user, "AMQP_URL")?).await?;
    }
    finish(cluster).await
}

#[tokio::test]
async fn what_it_cannot_work_with_is_named_and_its_password_is_not() -> anyhow::Result<()> {
    let (cluster, cli) = cluster().await?;
    let management: Url = Endpoints::shared()?.management_url.parse()?;
    let with_password = |password| {
        let mut url = management.clone();
        let is_set = url.set_password(Some(password)).is_ok();
        assert!(is_set, "{url}");
        String::from(url)
    };
    let vhost = cluster.vhost().name();
    let nowhere = cluster.vhost().amqp_url().replace(vhost, "nowhere");
    let password = management.password().context("the harness has one")?;
    let amqp = cluster.vhost().amqp_url().replacen(password, "hunter2", 1);
    let cases = [
        (VARIABLE, String::new(), 78, "is not set"),
        (
            VARIABLE,
            "hunter2".to_owned(),
            78,
            "http://user:password@host:15672",
        ),
        (VARIABLE, amqp, 78, "http://"),
        (
            VARIABLE,
            with_password("hunter2"),
            78,
            "check user and password",
        ),
        (
            VARIABLE,
            "http://u:hunter2@127.0.0.1:1".to_owned(),
            1,
            "management plug-in",
        ),
        ("AMQP_URL", nowhere, 78, "rabbitmqctl add_vhost nowhere"),
    ];
    for (name, value, code, part) in cases {
        let said = cli
            .env(name, &value)
            .refuses(&["migrate", "--broker-users"], code)
            .await;
        assert!(
            said.contains(name) && said.contains(part),
            "{value}: {said}"
        );
        assert!(
            !said.contains("hunter2") && !said.contains("panicked"),
            "{said}"
        );
    }
    for user in USERS {
        let user = user.name_in(vhost);
        assert!(
            cluster.vhost().permissions(&user).await.is_err(),
            "{user} was made"
        );
    }
    for args in ["--roles", "--check"] {
        cli.refuses(&["migrate", "--broker-users", args], 2).await;
    }
    cli.refuses(&["migrate", "--json"], 2).await;
    cluster.finish().await
}

#[tokio::test]
async fn programs_of_the_tests_log_in_as_users_with_the_least_they_need() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    for (program, user) in [
        ("postroad-scheduler", SCHEDULER),
        ("postroad-worker", WORKER),
    ] {
        let amqp_url: Url = cluster.amqp_url_for(program)?.context("it does")?.parse()?;
        let permissions = cluster.vhost().permissions(amqp_url.username()).await?;
        assert_eq!(permissions, user.permissions(), "{program}");
    }
    assert_eq!(cluster.amqp_url_for("postroad-api")?, None);
    cluster.finish().await
}
