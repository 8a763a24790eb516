//! What bounds it: the broker and the database as bare as they can be, measured in the same run.
//!
//! | room | is |
//! |---|---|
//! | `broker` | publish persistent, confirm, deliver, ack; nothing else |
//! | `copy` | `COPY` into the table of jobs |
//! | `prototype` | the whole path without guarantees beyond the servers' own: no tenants, no fence, no retries, no errors |
//!
//! Each part is a process of its own, as the programs that it is compared with are: this program,
//! called again.

pub(crate) mod broker;
pub(crate) mod copy;
pub(crate) mod prototype;

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use lapin::options::{BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use postroad_common::config::Env;
use postroad_tests::harness::cluster::Cluster;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use crate::usage;

/// A part, as a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Part {
    /// Publishes messages, each confirmed.
    Publish { messages: usize },
    /// Consumes and acks them.
    Consume { messages: usize },
    /// Claims jobs and publishes them.
    Schedule { jobs: usize },
    /// Starts, finishes and acks them.
    Work { jobs: usize },
}

impl Part {
    /// In a process that `start` has started. Prints the processor seconds it took.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Publish { messages } => broker::publish(messages).await?,
            Self::Consume { messages } => broker::consume(messages).await?,
            Self::Schedule { jobs } => prototype::schedule(jobs).await?,
            Self::Work { jobs } => prototype::work(jobs).await?,
        }
        println!("{}", usage::of_self()?);
        Ok(())
    }

    fn start(self, cluster: &Cluster) -> anyhow::Result<Child> {
        let (name, count) = match self {
            Self::Publish { messages } => ("publish", messages),
            Self::Consume { messages } => ("consume", messages),
            Self::Schedule { jobs } => ("schedule", jobs),
            Self::Work { jobs } => ("work", jobs),
        };
        Command::new(std::env::current_exe().context("finding this program")?)
            .args(["raw", name, &count.to_string()])
            .env("DATABASE_URL", cluster.database_url())
            .env("AMQP_URL", cluster.vhost().amqp_url())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a part of the raw path")
    }
}

/// Waits for a part; the processor seconds it took.
async fn ended(part: Child) -> anyhow::Result<f64> {
    let output = part.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "a part ended with {}",
        output.status
    );
    let seconds = String::from_utf8_lossy(&output.stdout);
    seconds.trim().parse().context("a part prints its seconds")
}

/// Its database, in a part.
async fn postgres() -> anyhow::Result<Client> {
    connect(&variable("DATABASE_URL")?).await
}

pub(crate) async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

/// Its broker, in a part.
async fn rabbitmq() -> anyhow::Result<Connection> {
    dial(&variable("AMQP_URL")?).await
}

async fn dial(url: &str) -> anyhow::Result<Connection> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

fn variable(name: &str) -> anyhow::Result<String> {
    let text = Env::of_process().text(name).map(str::to_owned);
    text.with_context(|| format!("{name} is not set"))
}

const QUEUE: &str = "raw";

/// The queue, as Postroad's are: quorum, durable.
async fn make_queue(cluster: &Cluster) -> anyhow::Result<()> {
    let connection = dial(cluster.vhost().amqp_url()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(QUEUE.into(), options, arguments)
        .await?;
    Ok(connection.close(200, "done".into()).await?)
}

async fn publishing(connection: &Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn consuming(connection: &Connection, prefetch: u16) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await?;
    Ok(channel)
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}
