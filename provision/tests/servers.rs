//! The promises of this crate, tried on real servers: they answer, they do not meet, they come
//! back when broken, and they never outlive their owner.

mod owner;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use postroad_provision::{Error, Options, Processes, Servers, Shutdown};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::owner::{Owner, any_alive, janitor_of, kill_9, nobody_is_left, recorded};

/// A directory that also the user of Postgres may enter.
fn open_dir() -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

async fn start(dir: &TempDir) -> Result<Servers, Error> {
    Servers::start(Options::new(dir.path())).await
}

async fn sql(url: &str, statements: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(statements).await?;
    drop(client);
    connection.await??;
    Ok(())
}

/// Declares the durable queue `jobs`, or with `passive` only looks for it.
async fn declare_queue(url: &str, passive: bool) -> Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let options = QueueDeclareOptions {
        durable: true,
        passive,
        ..Default::default()
    };
    let channel = connection.create_channel().await?;
    channel
        .queue_declare("jobs".into(), options, FieldTable::default())
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn management_answers(url: &str) -> Result<()> {
    let address = url.rsplit_once('@').map_or(url, |(_, address)| address);
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the management pages say: {answer}"
    );
    Ok(())
}

async fn both_answer(database_url: &str, amqp_url: &str) -> Result<()> {
    sql(database_url, "SELECT 1").await?;
    declare_queue(amqp_url, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pairs_run_side_by_side_and_leave_nothing() -> Result<()> {
    let (one_dir, two_dir) = (open_dir()?, open_dir()?);
    let (one, two) = tokio::try_join!(start(&one_dir), start(&two_dir))?;
    let started = [recorded(one_dir.path())?, recorded(two_dir.path())?].concat();
    for servers in [&one, &two] {
        both_answer(servers.database_url(), servers.amqp_url()).await?;
        management_answers(servers.management_url()).await?;
    }

    let taken = start(&one_dir).await.err();
    assert!(matches!(taken, Some(Error::InUse { .. })), "{taken:?}");

    tokio::try_join!(one.stop(), two.stop())?;
    assert!(!any_alive(&started));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_servers_come_back_with_what_they_had_until_wiped() -> Result<()> {
    let dir = open_dir()?;
    let mut servers = start(&dir).await?;
    let (database, amqp) = (
        servers.database_url().to_owned(),
        servers.amqp_url().to_owned(),
    );

    sql(
        &database,
        "CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)",
    )
    .await?;
    servers.postgres().restart(Shutdown::Immediate).await?;
    sql(&database, "SELECT 1 / count(*) FROM kept").await?;
    servers.postgres().kill().await?;
    servers.postgres().start_again().await?;
    sql(&database, "SELECT 1 / count(*) FROM kept").await?;

    declare_queue(&amqp, false).await?;
    // RabbitMQ answers before the declaration is on disk: a kill right after it loses the queue.
    servers.rabbitmq().restart().await?;
    declare_queue(&amqp, true).await?;
    servers.rabbitmq().kill().await?;
    servers.rabbitmq().start_again().await?;
    declare_queue(&amqp, true).await?;
    servers.rabbitmq().wipe().await?;
    assert!(
        declare_queue(&amqp, true).await.is_err(),
        "a wiped broker still has its queue"
    );

    servers.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_stop_when_their_owner_is_killed() -> Result<()> {
    let dir = open_dir()?;
    let mut owner = Owner::start(dir.path()).await?;
    both_answer(&owner.database_url, &owner.amqp_url).await?;
    let started = recorded(dir.path())?;
    assert!(any_alive(&started));

    owner.process.kill().await?;
    nobody_is_left(&started).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_over_is_replaced() -> Result<()> {
    let dir = open_dir()?;
    let mut owner = Owner::start(dir.path()).await?;
    sql(&owner.database_url, "CREATE TABLE kept (id int)").await?;
    let left_over = recorded(dir.path())?;

    kill_9(janitor_of(&owner)?)?;
    owner.process.kill().await?;
    assert!(
        any_alive(&left_over),
        "without a janitor nobody stops the servers"
    );

    let servers = start(&dir).await?;
    assert!(!any_alive(&left_over));
    sql(servers.database_url(), "SELECT * FROM kept").await?;
    servers.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_everything_and_frees_the_output() -> Result<()> {
    let dir = open_dir()?;
    let mut owner = Owner::start(dir.path()).await?;
    let started = recorded(dir.path())?;

    owner.interrupt()?;
    // Ends only when nobody holds the pipe any more, the janitor and the servers included.
    owner.read_to_end().await?;
    assert!(owner.process.wait().await?.success());
    assert!(!any_alive(&started));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_needs_no_more_rights() -> Result<()> {
    let dir = open_dir()?;
    let mut owner = Owner::start_as_nobody(dir.path()).await?;
    both_answer(&owner.database_url, &owner.amqp_url).await?;
    owner.interrupt()?;
    assert!(owner.process.wait().await?.success());
    Ok(())
}

/// As root, Postgres runs as a user that cannot enter here.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_directory_will_do() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let servers = start(&dir).await?;
    let data = dir.path().join("postgres").canonicalize()?;
    sql(servers.database_url(), "SELECT 1").await?;
    servers.stop().await?;
    if !data.starts_with(dir.path()) {
        fs::remove_dir_all(data)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_child_that_ignores_its_signal_is_killed_with_its_children() -> Result<()> {
    let dir = open_dir()?;
    let processes = Processes::open(dir.path()).await?;
    let log = dir.path().join("child.log");
    let script = "trap '' TERM; sleep 1000 & echo $!; wait";
    let mut child = processes.spawn(shell(script, &log))?;
    let line = owner::eventually("the child's first line", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    let grandchild = line.await?.trim().parse()?;

    child.stop(std::time::Duration::from_millis(100)).await?;
    assert!(!any_alive(&[child.pid(), grandchild]));
    assert!(recorded(dir.path())?.is_empty());
    Ok(())
}

fn shell(script: &str, log: &Path) -> postroad_provision::ChildSpec {
    postroad_provision::ChildSpec {
        name: "shell".to_owned(),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: Vec::new(),
        log: log.to_owned(),
    }
}
