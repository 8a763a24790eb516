//! The login users under which programs run in tests, on either server: each with no more than its
//! program needs.

use anyhow::Context as _;
use postroad_common::broker::users::{SCHEDULER, User, WORKER};
use reqwest::Url;
use tokio_postgres::Client;

use super::broker::Vhost;

/// What a program logs in as.
struct Role {
    program: &'static str,
    /// The group role in Postgres.
    database: &'static str,
    /// None: the program does not know the broker.
    broker: Option<User>,
}

/// The programs that have a role of their own; whoever else has the owner's.
const ROLES: [Role; 3] = [
    Role {
        program: "postroad-scheduler",
        database: "postroad_scheduler",
        broker: Some(SCHEDULER),
    },
    Role {
        program: "postroad-worker",
        database: "postroad_worker",
        broker: Some(WORKER),
    },
    Role {
        program: "postroad-api",
        database: "postroad_api",
        broker: None,
    },
];

/// Servers of tests listen on the loopback interface only.
const PASSWORD: &str = "postroad-tests";

fn role_of(program: &str) -> Option<&'static Role> {
    // A worker of a test's own is a worker.
    let program = match program {
        "examples/greet" | "postroad-chaos-worker" => "postroad-worker",
        name => name,
    };
    ROLES.iter().find(|role| role.program == program)
}

fn user_of(role: &Role) -> String {
    format!("{}_of_tests", role.database)
}

/// Makes a login user of each group role. Users belong to the server, so that other tests may be
/// making the same ones.
pub(super) async fn create_users(client: &Client) -> anyhow::Result<()> {
    for role in &ROLES {
        let (role, user) = (role.database, user_of(role));
        let create = format!(
            "do $$ begin
                 create role {user} login password '{PASSWORD}' in role {role};
             exception when duplicate_object or unique_violation then null;
             end $$"
        );
        let created = client.batch_execute(&create).await;
        created.with_context(|| format!("creating a login user of {role}"))?;
    }
    Ok(())
}

/// Lets each program's user into a virtual host. These users belong to the server, too: to make one
/// that is there changes nothing, since it is given the password that it has.
pub(super) async fn create_broker_users(vhost: &Vhost) -> anyhow::Result<()> {
    for role in &ROLES {
        if let Some(user) = &role.broker {
            let name = user_of(role);
            vhost.make_user(&name, PASSWORD).await?;
            vhost.permit(&name, &user.permissions()).await?;
        }
    }
    Ok(())
}

/// The URL of the same database, for a program of this name.
pub(super) fn url_of(database_url: &str, program: &str) -> anyhow::Result<String> {
    match role_of(program) {
        Some(role) => with_user(database_url, &user_of(role)),
        None => Ok(database_url.to_owned()),
    }
}

/// The URL of the same virtual host, for a program of this name; none if it does not know the broker.
pub(super) fn amqp_url_of(amqp_url: &str, program: &str) -> anyhow::Result<Option<String>> {
    match role_of(program) {
        Some(Role { broker: None, .. }) => Ok(None),
        Some(role) => with_user(amqp_url, &user_of(role)).map(Some),
        None => Ok(Some(amqp_url.to_owned())),
    }
}

fn with_user(url: &str, user: &str) -> anyhow::Result<String> {
    let mut url: Url = url.parse().context("parsing a URL")?;
    let is_set = url.set_username(user).is_ok() && url.set_password(Some(PASSWORD)).is_ok();
    anyhow::ensure!(is_set, "the URL of a server cannot have a user");
    Ok(url.into())
}
