//! `postroad migrate`: schema and broker topology, and who may use them; all idempotent.

mod broker_users;

use std::time::Duration;

use anyhow::bail;
use postroad_common::broker::topology;
use postroad_common::store::Store;
use serde_json::json;

use crate::commands::values::duration;
use crate::output::note;
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
    /// Create or update the group roles that the programs' database users are members of; nothing
    /// else. Needs a user who owns the schema and may create roles.
    #[arg(long, conflicts_with = "check")]
    roles: bool,
    /// Create RabbitMQ's users for scheduler, worker and monitoring, or set their permissions anew;
    /// nothing else. Prints how new ones log in, this once. Needs POSTROAD_MANAGEMENT_URL, such as
    /// http://user:password@host:15672, with an administrator.
    #[arg(long, conflicts_with_all = ["check", "roles"])]
    broker_users: bool,
    /// One JSON object a line for each of RabbitMQ's users.
    #[arg(long, requires = "broker_users")]
    json: bool,
    /// How long to wait for servers that do not answer yet.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    wait: Duration,
}

const HELP: &str = "\
Examples:
  postroad migrate
  postroad migrate --check        in a deployment, before the new programs start
  postroad migrate --roles        the least that each program needs, after each new version
  POSTROAD_MANAGEMENT_URL=http://admin:secret@mq:15672 postroad migrate --broker-users
  DATABASE_URL=postgres://admin@db/app AMQP_URL=amqps://admin@mq/postroad postroad migrate";

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let setup = Setup::of_process()?;
    if args.check {
        check(&setup, args.wait).await
    } else if args.roles {
        roles(setup.current_store().await?).await
    } else if args.broker_users {
        broker_users::run(setup, args.json).await
    } else {
        migrate(&setup, args.wait, |text| note(text)).await
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
    } else {
        let detail = json!({"applied": applied});
        setup
            .store
            .note("schema.migrate", "postroad", detail)
            .await?;
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
    note("schema and broker are up to date");
    Ok(())
}

const ROLES: &str = "\
roles: postroad_scheduler, postroad_worker, postroad_api and postroad_readonly have what they need in
this database, and no more. They cannot log in: give each program a user of its own, and name it in
the program's DATABASE_URL.

  create user my_scheduler login password '…' in role postroad_scheduler;
  create user my_worker    login password '…' in role postroad_worker;
  create user my_api       login password '…' in role postroad_api;
  create user my_dashboard login password '…' in role postroad_readonly;

Then `postroad doctor`, with each of them in DATABASE_URL, says which program it may run.";

async fn roles(store: Store) -> anyhow::Result<()> {
    let mut client = store.own_connection().await?;
    postroad_migrations::grant_roles(&mut client).await?;
    store.note("roles.grant", "postroad", json!({})).await?;
    note(ROLES);
    Ok(())
}
