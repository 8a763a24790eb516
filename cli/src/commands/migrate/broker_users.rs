//! `postroad migrate --broker-users`: a RabbitMQ user for each program, with the least it needs.
//!
//! Users that are there keep their passwords; permissions are set anew each time. A new password is
//! printed as soon as RabbitMQ has it, since nobody can ask for it later. Two of these at once would
//! give one new user two passwords: they wait for each other at the lock of all migrations.

use anyhow::Context as _;
use postroad_common::broker::Settings;
use postroad_common::broker::users::{MONITORING, USERS, User};
use postroad_common::config::{AMQP_URL_DEFAULT, ConfigError, Env};
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use reqwest::Url;
use serde_json::{Value, json};

use crate::management::{Management, VARIABLE, url_for};
use crate::output::{line, note};
use crate::setup::Setup;

/// 190 bits. Letters and digits only: passwords go into URLs.
const PASSWORD_CHARS: usize = 32;

const DONE: &str = "\
Each line goes into the environment of what it is for; `postroad doctor` says there whether it will
do. A password is shown this once: for another one, delete the user and run this again.";

pub(super) async fn run(setup: Setup, json: bool) -> anyhow::Result<()> {
    let api = Api::of_process()?;
    let store = setup.current_store().await?;
    let session = store.own_connection().await?;
    postroad_migrations::lock(&session).await?;
    api.check().await?;
    let mut created = Vec::new();
    for user in &USERS {
        let name = user.name_in(&api.vhost);
        let login = api.create(user, &name).await?;
        show(user, &name, login.as_ref(), json)?;
        let granted = api.grant(user, &name).await;
        granted.with_context(|| format!("setting the permissions of {name}"))?;
        if login.is_some() {
            created.push(name);
        }
    }
    if !created.is_empty() {
        note(DONE);
    }
    let detail = json!({"vhost": api.vhost, "created": created});
    Ok(store.note("broker_users.grant", "postroad", detail).await?)
}

/// The broker's administrator, at work on one virtual host.
struct Api {
    management: Management,
    amqp_url: Url,
    vhost: String,
}

/// How a new user logs in.
struct Login {
    variable: &'static str,
    url: String,
}

impl Api {
    fn of_process() -> anyhow::Result<Self> {
        let env = Env::of_process();
        let missing = "is not set: it has to name RabbitMQ's management API and an administrator, such as http://admin:password@host:15672";
        let url = env.text(VARIABLE);
        let url = url.ok_or_else(|| ConfigError::of(VARIABLE, missing))?;
        let management = Management::of_url(url)?;
        let amqp_url = env.text("AMQP_URL").unwrap_or(AMQP_URL_DEFAULT);
        let wrong = |what: &str| ConfigError::of("AMQP_URL", format_args!("is wrong: {what}"));
        let settings = Settings::of_url(amqp_url).map_err(|error| wrong(&error))?;
        Ok(Self {
            management,
            amqp_url: amqp_url.parse().map_err(|_| wrong("it is not a URL"))?,
            vhost: settings.vhost().to_owned(),
        })
    }

    /// That the rest can be done, before any of it is.
    async fn check(&self) -> anyhow::Result<()> {
        let wrong = |what: String| Err(ConfigError::of(VARIABLE, what).into());
        let me = self.management.get(&["whoami"]).await;
        let me = me.with_context(|| {
            format!("asking whom {VARIABLE} names, at the port of RabbitMQ's management plug-in")
        })?;
        let me = me.unwrap_or_default();
        let Some(name) = me["name"].as_str() else {
            return wrong("names something else than RabbitMQ's management API".to_owned());
        };
        if !tags(&me).contains(&"administrator") {
            return wrong(format!(
                "names the user {name}, who is no administrator: name one, or have one run `rabbitmqctl set_user_tags {name} administrator`"
            ));
        }
        // Not made here: what a mistyped AMQP_URL names would be made, too.
        let vhost = self.management.get(&["vhosts", &self.vhost]).await?;
        if vhost.is_none() {
            let vhost = &self.vhost;
            let what = format!(
                "names the virtual host {vhost}, which does not exist: run `rabbitmqctl add_vhost {vhost}`"
            );
            return Err(ConfigError::of("AMQP_URL", what).into());
        }
        Ok(())
    }

    /// Makes a user, unless it is there; says how a new one logs in.
    async fn create(&self, user: &User, name: &str) -> anyhow::Result<Option<Login>> {
        let found = self.management.get(&["users", name]).await;
        if let Some(found) = found.with_context(|| format!("looking for the user {name}"))? {
            let tags = tags(&found);
            if tags != user.tags {
                note(format_args!(
                    "warning: {name} has the tags [{}] and needs [{}], see `rabbitmqctl set_user_tags`",
                    tags.join(", "),
                    user.tags.join(", "),
                ));
            }
            return Ok(None);
        }
        let password = password();
        let (variable, url) = match *user {
            // It looks at the pages, and has nothing to do in the virtual host.
            MONITORING => (VARIABLE, self.management.url_for(name, &password)?),
            _ => ("AMQP_URL", url_for(&self.amqp_url, name, &password)?),
        };
        let body = json!({"password": password, "tags": user.tags.join(",")});
        let made = self.management.put(&["users", name], &body).await;
        made.with_context(|| format!("making the user {name}"))?;
        Ok(Some(Login { variable, url }))
    }

    async fn grant(&self, user: &User, name: &str) -> anyhow::Result<()> {
        let path = ["permissions", &self.vhost, name];
        self.management.put(&path, &user.permissions()).await
    }
}

fn show(user: &User, name: &str, login: Option<&Login>, json: bool) -> anyhow::Result<()> {
    let role = user.role;
    match (json, login) {
        (true, login) => line(json!({
            "role": role,
            "user": name,
            "created": login.is_some(),
            "variable": login.map(|login| login.variable),
            "url": login.map(|login| &login.url),
        })),
        (false, Some(Login { variable, url })) => line(format_args!("{role:10}  {variable}={url}")),
        (false, None) => {
            note(format_args!(
                "{name} was there, and keeps its password; its permissions are set"
            ));
            Ok(())
        }
    }
}

fn password() -> String {
    let chars = rand::rng().sample_iter(Alphanumeric);
    chars.take(PASSWORD_CHARS).map(char::from).collect()
}

/// Of a user, as RabbitMQ's versions tell them: a list, or a text with commas.
fn tags(user: &Value) -> Vec<&str> {
    let listed = user["tags"].as_array().into_iter().flatten();
    let listed = listed.filter_map(Value::as_str);
    let told = user["tags"].as_str().unwrap_or_default().split(',');
    listed.chain(told.filter(|tag| !tag.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_however_they_are_told() {
        let expected = ["administrator", "management"];
        for told in [
            json!(["administrator", "management"]),
            json!("administrator,management"),
        ] {
            assert_eq!(tags(&json!({"tags": told})), expected);
        }
        for told in [json!([]), json!(""), Value::Null] {
            assert_eq!(tags(&json!({"tags": told})), [""; 0]);
        }
    }

    #[test]
    fn passwords_are_long_and_never_the_same() {
        let (one, other) = (password(), password());
        assert_eq!(one.len(), PASSWORD_CHARS);
        assert_ne!(one, other);
    }
}
