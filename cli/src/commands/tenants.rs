//! `postroad tenants`: whose jobs there are, what each may do, and what signs its webhooks.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use postroad_common::changes::Changes;
use postroad_common::job::TenantName;
use postroad_common::language::Language;
use postroad_common::sender::SmsSender;
use postroad_common::settings::{TenantSettings, Tenants};
use postroad_common::store::{Changed, Rotated, Store, TenantChange, TenantRow};
use rand::RngExt as _;
use serde_json::json;

use super::values::{
    Limit, expires_after_or_none, in_pipe, language, max_attempts, priority, quota, rate,
    sms_sender, timezone,
};
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, note, number_or, stretch};
use crate::setup::Setup;

/// Creates, shows and sets tenants, and the secrets that sign their webhooks.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
A tenant that enqueues by SQL or `postroad enqueue` is made by that. One that uses the API needs a
token (`postroad tokens create`).

Examples:
  postroad tenants create acme --weight 2
  postroad tenants set acme --unfinished-max 1000000
  postroad tenants secret rotate acme";

#[derive(Subcommand)]
enum Command {
    /// Adds a tenant.
    #[command(after_long_help = "\
Examples:
  postroad tenants create acme
  postroad tenants create acme --weight 3 --unfinished-max 1000000 --submit-rate 500")]
    Create {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lists tenants, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad tenants list
  postroad tenants list --json | jq -r 'select(.disabled_at) | .name'")]
    List {
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one tenant, with where its jobs are.
    #[command(after_long_help = "\
Examples:
  postroad tenants get acme
  postroad tenants get acme --json | jq .ledger.dead")]
    Get {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Sets what is given, and leaves the rest.
    #[command(after_long_help = "\
Examples:
  postroad tenants set acme --weight 5
  postroad tenants set acme --unfinished-max none --submit-rate 200
  postroad tenants set acme --default-priority 2 --default-expires-after 1d
  postroad tenants set acme --language fr --timezone Europe/Paris --sms-sender ACME
  postroad tenants set acme --default-max-attempts none")]
    Set {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Refuses its tokens. Jobs that are accepted go on.
    #[command(after_long_help = "\
Examples:
  postroad tenants disable acme
  postroad tenants disable acme --yes        without being asked")]
    Disable {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        sure: Sure,
    },
    /// Lets its tokens be good again.
    #[command(after_long_help = "Examples:\n  postroad tenants enable acme")]
    Enable {
        #[arg(value_name = "TENANT")]
        name: TenantName,
    },
    /// What signs its webhooks, instead of the workers' POSTROAD_WEBHOOK_SECRET.
    #[command(after_long_help = "\
A secret is made here and shown once, on standard output, or read from a file. It is never an
argument: others on this machine see those.

Examples:
  postroad tenants secret set acme > acme.secret
  postroad tenants secret rotate acme --file new.secret
  postroad tenants secret clear acme")]
    Secret {
        #[command(subcommand)]
        command: Secret,
    },
}

#[derive(Subcommand)]
enum Secret {
    /// Signs its webhooks with this secret alone, from now on.
    #[command(after_long_help = "\
Examples:
  postroad tenants secret set acme                      makes one and prints it
  postroad tenants secret set acme --file acme.secret
  vault read acme | postroad tenants secret set acme --file - --yes")]
    Set {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        sure: Sure,
    },
    /// Signs its webhooks with a new secret, and for 24 hours with the one before as well.
    #[command(after_long_help = "\
Receivers check both signatures meanwhile, and take the new secret in their own time.

Examples:
  postroad tenants secret rotate acme > new.secret
  postroad tenants secret rotate acme --file new.secret")]
    Rotate {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        source: Source,
    },
    /// Takes its secret away: the workers' own signs its webhooks again.
    #[command(after_long_help = "Examples:\n  postroad tenants secret clear acme --yes")]
    Clear {
        #[arg(value_name = "TENANT")]
        name: TenantName,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(clap::Args)]
struct Settings {
    /// Its share of a queue while others have due jobs too, against their weights (1 to 1000).
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=1000))]
    weight: Option<i32>,
    /// How many of its jobs may be unfinished before the API refuses more, or `none`.
    #[arg(long, value_name = "JOBS", value_parser = quota)]
    unfinished_max: Option<Limit<i64>>,
    /// How many jobs a second each API process takes from it, or `none`.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    submit_rate: Option<Limit<i32>>,
    /// The priority of its jobs that are handed in without: 0 first to 3 last, or `none` (it is 1).
    #[arg(long, value_name = "PRIORITY", value_parser = priority)]
    default_priority: Option<Limit<i16>>,
    /// The attempts of its jobs that are handed in without (1 to 1000), or `none` (as the kind says).
    #[arg(long, value_name = "ATTEMPTS", value_parser = max_attempts)]
    default_max_attempts: Option<Limit<i32>>,
    /// How long after it is due a job is pointless that is handed in without an expiry (1s to 366d),
    /// or `none` (never).
    #[arg(long, value_name = "DURATION", value_parser = expires_after_or_none)]
    default_expires_after: Option<Limit<Duration>>,
    /// How many of its jobs in each queue may be between the claim and the finish line at once
    /// (1 to 100000), or `none`.
    #[arg(long, value_name = "JOBS", value_parser = in_pipe)]
    in_pipe_max: Option<Limit<i32>>,
    /// How many of its jobs may enter the pipe in a second, of all queues and over all schedulers, or
    /// `none`.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<Limit<i32>>,
    /// The language of its campaigns that name none, such as `fr` or `pt-BR`, or `none`.
    #[arg(long, value_name = "TAG", value_parser = language)]
    language: Option<Limit<Language>>,
    /// The time zone of its campaigns and schedules that name none, by its IANA name, or `none` (UTC).
    #[arg(long, value_name = "ZONE", value_parser = timezone)]
    timezone: Option<Limit<String>>,
    /// Who its text messages are from: 1 to 11 letters and digits, or a phone number such as
    /// +33639980606, or `none` (as the gateway has it).
    #[arg(long, value_name = "SENDER", value_parser = sms_sender)]
    sms_sender: Option<Limit<SmsSender>>,
}

#[derive(clap::Args)]
struct Source {
    /// Reads the secret, `whsec_…`, from this file (`-`: standard input) instead of making one.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Settings {
    fn change(&self) -> TenantChange {
        TenantChange {
            weight: self.weight,
            unfinished_max: self.unfinished_max.map(|limit| limit.0),
            submit_rate: self.submit_rate.map(|limit| limit.0),
            default_priority: self.default_priority.map(|limit| limit.0),
            default_max_attempts: self.default_max_attempts.map(|limit| limit.0),
            default_expires_after: self.default_expires_after.map(|limit| limit.0),
            in_pipe_max: self.in_pipe_max.map(|limit| limit.0),
            rate_per_second: self.rate.map(|limit| limit.0),
            language: self.language.clone().map(|limit| limit.0),
            timezone: self.timezone.clone().map(|limit| limit.0),
            sms_sender: self.sms_sender.clone().map(|limit| limit.0),
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if let Command::Set { settings, .. } = &args.command
        && settings.change() == TenantChange::default()
    {
        return Err(exit::usage(
            "nothing to set: give --weight, --unfinished-max, --submit-rate, --language, --timezone, \
             --sms-sender or a --default-…",
        ));
    }
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::Create { name, settings } => create(&store, &name, &settings).await,
        Command::List { json } => list(&store, json).await,
        Command::Get { name, json } => get(&store, &name, json).await,
        Command::Set { name, settings } => set(&store, &name, &settings).await,
        Command::Disable { name, sure } => {
            sure.of(&format!("refuse all tokens of tenant `{name}`"))?;
            enable(&store, &name, false).await
        }
        Command::Enable { name } => enable(&store, &name, true).await,
        Command::Secret { command } => match command {
            Secret::Set { name, source, sure } => set_secret(&store, &name, source, sure).await,
            Secret::Rotate { name, source } => rotate_secret(&store, &name, source).await,
            Secret::Clear { name, sure } => {
                sure.of(&format!("take the webhook secret of tenant `{name}` away"))?;
                clear_secret(&store, &name).await
            }
        },
    }
}

/// That there is no such tenant.
pub(crate) fn no_tenant(name: impl std::fmt::Display) -> anyhow::Error {
    exit::not_found(format_args!(
        "there is no tenant `{name}`: `postroad tenants create {name}` makes one"
    ))
}

/// The id of a tenant.
pub(crate) async fn tenant_id(store: &Store, name: &str) -> anyhow::Result<i32> {
    let id = store.tenant_of_name(name).await?;
    id.ok_or_else(|| no_tenant(name))
}

/// What is set for a tenant.
pub(crate) async fn settings_of(store: &Store, name: &str) -> anyhow::Result<Arc<TenantSettings>> {
    let tenants = Tenants::new(store.clone(), &Changes::unwatched());
    let found = tenants.of(name).await?;
    found.ok_or_else(|| no_tenant(name))
}

/// The id of a tenant, where one is given.
pub(crate) async fn tenant_id_of(
    store: &Store,
    name: Option<&TenantName>,
) -> anyhow::Result<Option<i32>> {
    match name {
        Some(name) => tenant_id(store, name.as_str()).await.map(Some),
        None => Ok(None),
    }
}

async fn create(store: &Store, name: &TenantName, settings: &Settings) -> anyhow::Result<()> {
    if !store
        .create_tenant(name.as_str(), &settings.change())
        .await?
    {
        return Err(exit::conflict(format_args!(
            "there is a tenant `{name}` already"
        )));
    }
    note(format_args!("tenant `{name}` is there"));
    Ok(())
}

async fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let tenants = store.tenants(None).await?;
    if json {
        return output::json_lines(&tenants);
    }
    let mut table = Table::new([
        "TENANT",
        "WEIGHT",
        "UNFINISHED MAX",
        "SUBMIT RATE",
        "IN PIPE MAX",
        "RATE",
        "DEFAULTS",
        "SECRET",
        "DISABLED",
        "CREATED AT",
    ])
    .of_names()
    .right(1..=5);
    for tenant in &tenants {
        table.row([
            tenant.name.clone(),
            tenant.weight.to_string(),
            number_or(tenant.unfinished_max, "none"),
            number_or(tenant.submit_rate, "none"),
            number_or(tenant.in_pipe_max, "none"),
            number_or(tenant.rate_per_second, "none"),
            defaults(tenant),
            secret(tenant).to_owned(),
            output::moment_or(tenant.disabled_at, "no"),
            moment(tenant.created_at),
        ]);
    }
    output::table(&table)
}

/// What its jobs get that say nothing, in few words.
fn defaults(tenant: &TenantRow) -> String {
    let priority = tenant.default_priority.map(|n| format!("priority {n}"));
    let attempts = tenant.default_max_attempts;
    let attempts = attempts.map(|n| format!("attempts {n}"));
    let expiry = tenant.default_expires_after_seconds;
    let expiry = expiry.map(|seconds| format!("expiry {}", stretch(seconds)));
    let set: Vec<_> = [priority, attempts, expiry].into_iter().flatten().collect();
    match set.is_empty() {
        true => "none".to_owned(),
        false => set.join(", "),
    }
}

fn secret(tenant: &TenantRow) -> &'static str {
    match (tenant.has_webhook_secret, tenant.previous_secret_until) {
        (false, _) => "the workers'",
        (true, None) => "own",
        (true, Some(_)) => "own, two",
    }
}

async fn get(store: &Store, name: &TenantName, json: bool) -> anyhow::Result<()> {
    let tenants = store.tenants(Some(name.as_str())).await?;
    let Some(tenant) = tenants.first() else {
        return Err(no_tenant(name));
    };
    let ledger = store.ledger(Some(name.as_str())).await?;
    let account = ledger.accounts.first();
    if json {
        let mut value = serde_json::to_value(tenant)?;
        value["ledger"] = json!(account);
        return line(value);
    }
    let expires_after = tenant.default_expires_after_seconds.map(stretch);
    let mut lines = vec![
        ("tenant", tenant.name.clone()),
        ("weight", tenant.weight.to_string()),
        ("unfinished max", number_or(tenant.unfinished_max, "none")),
        ("submit rate", number_or(tenant.submit_rate, "none")),
        ("in pipe max", number_or(tenant.in_pipe_max, "none")),
        ("rate per second", number_or(tenant.rate_per_second, "none")),
        (
            "default priority",
            number_or(tenant.default_priority, "none"),
        ),
        (
            "default max attempts",
            number_or(tenant.default_max_attempts, "none"),
        ),
        ("default expires after", number_or(expires_after, "none")),
        ("language", number_or(tenant.language.as_deref(), "none")),
        ("time zone", number_or(tenant.timezone.as_deref(), "none")),
        (
            "sms sender",
            number_or(tenant.sms_sender.as_deref(), "none"),
        ),
        ("webhook secret", secret(tenant).to_owned()),
        ("disabled", output::moment_or(tenant.disabled_at, "no")),
        ("created at", moment(tenant.created_at)),
    ];
    if let Some(previous) = tenant.previous_secret_until {
        lines.push(("previous secret until", moment(previous)));
    }
    if let Some(account) = account {
        let jobs = [
            ("accepted", account.accepted),
            ("scheduled", account.scheduled),
            ("dispatched", account.dispatched),
            ("running", account.running),
            ("failed", account.failed),
            ("held", account.held),
            ("completed", account.completed),
            ("dead", account.dead),
            ("cancelled", account.cancelled),
            ("expired", account.expired),
        ];
        lines.extend(jobs.map(|(name, count)| (name, count.to_string())));
    }
    output::pairs(&lines)
}

async fn set(store: &Store, name: &TenantName, settings: &Settings) -> anyhow::Result<()> {
    if !store.set_tenant(name.as_str(), &settings.change()).await? {
        return Err(no_tenant(name));
    }
    note(format_args!("tenant `{name}` is set"));
    Ok(())
}

async fn enable(store: &Store, name: &TenantName, is_enabled: bool) -> anyhow::Result<()> {
    let now = if is_enabled { "enabled" } else { "disabled" };
    match store.enable_tenant(name.as_str(), is_enabled).await? {
        Changed::Done => note(format_args!("tenant `{name}` is {now}")),
        Changed::Already => note(format_args!("tenant `{name}` was {now} before")),
        Changed::NotThere => return Err(no_tenant(name)),
    }
    Ok(())
}

// === Secrets ===

const PREFIX: &str = "whsec_";
/// As Standard Webhooks advises; its libraries take from 24 to 64.
const SECRET_BYTES: usize = 32;
const SECRET_BYTES_ALLOWED: std::ops::RangeInclusive<usize> = 24..=64;
/// More than any secret has: a wrong file is not read to its end.
const FILE_BYTES_MAX: u64 = 1024;

/// A secret, and whether it was made here and has to be shown.
async fn secret_of(source: Source) -> anyhow::Result<(String, bool)> {
    let Some(path) = source.file else {
        let mut bytes = [0; SECRET_BYTES];
        rand::rng().fill(&mut bytes[..]);
        return Ok((format!("{PREFIX}{}", STANDARD.encode(bytes)), true));
    };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        let read = std::io::stdin()
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text);
        read.context("reading the secret from standard input")?;
    } else {
        let name = path.display();
        let file = std::fs::File::open(&path).with_context(|| format!("opening {name}"))?;
        let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
        read.with_context(|| format!("reading {name}"))?;
    }
    let secret = text.trim();
    check(secret).map_err(exit::usage)?;
    Ok((secret.to_owned(), false))
}

/// What is wrong with a secret, without a word of it.
fn check(secret: &str) -> Result<(), &'static str> {
    let Some(key) = secret.strip_prefix(PREFIX) else {
        return Err("a webhook secret begins with `whsec_`");
    };
    match STANDARD.decode(key) {
        Ok(bytes) if SECRET_BYTES_ALLOWED.contains(&bytes.len()) => Ok(()),
        Ok(_) => Err("a webhook secret has from 24 to 64 bytes"),
        Err(_) => Err("what follows `whsec_` must be base64"),
    }
}

async fn set_secret(
    store: &Store,
    name: &TenantName,
    source: Source,
    sure: Sure,
) -> anyhow::Result<()> {
    let tenants = store.tenants(Some(name.as_str())).await?;
    let Some(tenant) = tenants.first() else {
        return Err(no_tenant(name));
    };
    if tenant.has_webhook_secret {
        sure.of(&format!(
            "replace the webhook secret of tenant `{name}` at once (`rotate` keeps both for a day)"
        ))?;
    }
    let (secret, is_new) = secret_of(source).await?;
    if !store.set_webhook_secret(name.as_str(), &secret).await? {
        return Err(no_tenant(name));
    }
    note(format_args!(
        "the webhooks of tenant `{name}` are signed with this secret"
    ));
    show(&secret, is_new)
}

async fn rotate_secret(store: &Store, name: &TenantName, source: Source) -> anyhow::Result<()> {
    let (secret, is_new) = secret_of(source).await?;
    let rotated = store.rotate_webhook_secret(name.as_str(), &secret);
    match rotated.await? {
        Rotated::Done => {}
        Rotated::NotThere => return Err(no_tenant(name)),
        Rotated::Same => {
            return Err(exit::conflict(format_args!(
                "this secret signs the webhooks of tenant `{name}` already"
            )));
        }
        Rotated::NoSecret => {
            return Err(exit::conflict(format_args!(
                "tenant `{name}` has no secret of its own: `postroad tenants secret set {name}` makes one"
            )));
        }
    }
    note(format_args!(
        "the webhooks of tenant `{name}` are signed with this secret, and for 24 hours with the one before, too"
    ));
    show(&secret, is_new)
}

/// A secret that was made here is shown, once and nowhere else.
fn show(secret: &str, is_new: bool) -> anyhow::Result<()> {
    match is_new {
        true => line(secret),
        false => Ok(()),
    }
}

async fn clear_secret(store: &Store, name: &TenantName) -> anyhow::Result<()> {
    match store.clear_webhook_secret(name.as_str()).await? {
        Changed::Done => note(format_args!(
            "tenant `{name}` has no webhook secret of its own"
        )),
        Changed::Already => note(format_args!(
            "tenant `{name}` had no webhook secret of its own"
        )),
        Changed::NotThere => return Err(no_tenant(name)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_that_is_made_here_is_one_and_new() {
        let make = || secret_of(Source { file: None });
        let ((one, is_new), (other, _)) = (make().await.unwrap(), make().await.unwrap());
        assert!(is_new && one != other);
        assert_eq!(check(&one), Ok(()));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_it() {
        for bad in [
            "",
            "hunter2",
            "whsec_",
            "whsec_hunter2",
            "whsec_aHVudGVyMg==",
        ] {
            let error = check(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
