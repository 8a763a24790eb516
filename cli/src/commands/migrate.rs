//! `postroad migrate`: schema and broker topology, both idempotent.

use std::time::Duration;

use anyhow::bail;
use postroad_common::broker::topology;
use postroad_common::config::parse_duration;

use crate::setup::Setup;

/// Creates or updates the schema in Postgres and the queues in RabbitMQ.
///
/// Run it with an administrator's rights on both, before the programs of a new version start.
/// It may be run at any time and by several at once.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// Change nothing; fail if anything is missing.
    #[arg(long)]
    check: bool,
    /// How long to wait for servers that do not answer yet.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    wait: Duration,
}

const HELP: &str = "\
Examples:
  postroad migrate
  postroad migrate --check        in a deployment, before the new programs start
  DATABASE_URL=postgres://admin@db/app AMQP_URL=amqps://admin@mq/postroad postroad migrate";

fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("a duration with its unit, such as `30s`, is expected")
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let setup = Setup::of_process()?;
    match args.check {
        true => check(&setup, args.wait).await,
        false => migrate(&setup, args.wait, |text| eprintln!("{text}")).await,
    }
}

/// Brings both servers up to date, and says what that took.
pub(crate) async fn migrate(
    setup: &Setup,
    wait: Duration,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let connection = setup.wait(wait).await?;
    let mut client = setup.store.own_connection().await?;
    let applied = postroad_migrations::migrate(&mut client).await?;
    for name in &applied {
        say(&format!("schema: applied {name}"));
    }
    if applied.is_empty() {
        say("schema: nothing to do");
    }
    let queues = setup.store.queue_names().await?;
    let declared = topology::declare(&connection, &queues).await?;
    if declared.refused > 0 {
        bail!(
            "RabbitMQ refused {} declarations: AMQP_URL needs a user with `configure` permission on `^postroad\\.`",
            declared.refused
        );
    }
    say(&format!(
        "broker: exchanges and {} queues are there",
        queues.len() + 2
    ));
    Ok(())
}

async fn check(setup: &Setup, wait: Duration) -> anyhow::Result<()> {
    let connection = setup.wait(wait).await?;
    setup.store.schema_state().await?.require_current()?;
    let missing = topology::missing(&connection, &setup.store.queue_names().await?).await?;
    if !missing.is_empty() {
        bail!(
            "RabbitMQ lacks {}: run `postroad migrate`",
            missing.join(", ")
        );
    }
    eprintln!("schema and broker are up to date");
    Ok(())
}
