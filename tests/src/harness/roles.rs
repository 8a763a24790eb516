//! The login users under which programs run in tests: each with no more than its program needs.

use anyhow::Context as _;
use reqwest::Url;
use tokio_postgres::Client;

/// The programs that have a role of their own; whoever else has the owner's.
const ROLES: [(&str, &str); 3] = [
    ("postroad-scheduler", "postroad_scheduler"),
    ("postroad-worker", "postroad_worker"),
    ("postroad-api", "postroad_api"),
];

/// Servers of tests listen on the loopback interface only.
const PASSWORD: &str = "postroad-tests";

/// Makes a login user of each group role. Users belong to the server, so that other tests may be
/// making the same ones.
pub(super) async fn create_users(client: &Client) -> anyhow::Result<()> {
    for (_, role) in ROLES {
        let create = format!(
            "do $$ begin
                 create role {role}_of_tests login password '{PASSWORD}' in role {role};
             exception when duplicate_object or unique_violation then null;
             end $$"
        );
        let created = client.batch_execute(&create).await;
        created.with_context(|| format!("creating a login user of {role}"))?;
    }
    Ok(())
}

/// The URL of the same database, for a program of this name.
pub(super) fn url_of(database_url: &str, program: &str) -> anyhow::Result<String> {
    // A worker of a test's own is a worker.
    let program = match program {
        "examples/greet" | "postroad-chaos-worker" => "postroad-worker",
        name => name,
    };
    let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == program) else {
        return Ok(database_url.to_owned());
    };
    let mut url: Url = database_url.parse().context("parsing a URL")?;
    let is_set = url.set_username(&format!("{role}_of_tests")).is_ok()
        && url.set_password(Some(PASSWORD)).is_ok();
    anyhow::ensure!(is_set, "the URL of a database cannot have a user");
    Ok(url.into())
}
