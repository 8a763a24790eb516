//! `postroad audiences`: rules that pick some of a tenant's recipients.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use postroad_common::audience::{self, RULES_BYTES_MAX, Rule};
use postroad_common::job::TenantName;
use postroad_common::store::{AudienceRow, PutAudience, Store};
use serde_json::json;

use super::tenants::tenant_id;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, note};
use crate::setup::Setup;

/// Keeps rules that pick recipients, and shows whom they pick.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = r#"Rules are JSON; docs/AUDIENCES.md has all conditions, and what a missing value means.

Examples:
  postroad audiences preview --rules '{"country":["FR","DE"]}'
  postroad audiences set vips --rules '{"and":[{"plan":["pro"]},{"age":{"min":18}}]}'
  postroad audiences list"#;

#[derive(Subcommand)]
enum Command {
    /// Creates an audience, or gives it other rules.
    #[command(after_long_help = r#"
Examples:
  postroad audiences set french --rules '{"language":["fr"]}'
  postroad audiences set vips --tenant acme --file vips.json
  echo '{"all":true}' | postroad audiences set everybody --file -"#)]
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        rules: Rules,
    },
    /// Lists audiences by name, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad audiences list
  postroad audiences list --tenant acme --json | jq -c '[.name, .rules]'")]
    List {
        /// Whose they are.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// At most so many.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows the rules of one audience.
    #[command(after_long_help = "\
Examples:
  postroad audiences show vips
  postroad audiences show --tenant acme vips --json | jq .rules")]
    Show {
        #[command(flatten)]
        which: Which,
        /// One JSON object, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Deletes an audience. Its recipients stay.
    #[command(after_long_help = "Examples:\n  postroad audiences delete vips --yes")]
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        sure: Sure,
    },
    /// Counts whom an audience picks, or rules that are not kept, and shows some of them.
    #[command(after_long_help = r#"
Examples:
  postroad audiences preview vips
  postroad audiences preview vips --recipient user-17
  postroad audiences preview --tenant acme --rules '{"age":{"min":18,"max":25}}' --date 2030-01-01"#)]
    Preview(Preview),
}

#[derive(clap::Args)]
struct Preview {
    /// The audience.
    #[arg(
        value_name = "AUDIENCE",
        conflicts_with = "Rules",
        required_unless_present = "Rules"
    )]
    name: Option<String>,
    #[command(flatten)]
    rules: Option<Rules>,
    /// Whose recipients.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
    /// Whether it picks the recipient of this key, too.
    #[arg(long, value_name = "KEY")]
    recipient: Option<String>,
    /// The day on which ages are meant [default: today in UTC].
    #[arg(long, value_parser = day)]
    date: Option<Date>,
    /// One JSON object, with the fields of the API.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct Rules {
    /// The rules, as JSON.
    #[arg(long, value_name = "JSON")]
    rules: Option<String>,
    /// A file with the rules (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Which {
    /// Its name.
    #[arg(value_name = "AUDIENCE", value_parser = name)]
    name: String,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
}

fn name(text: &str) -> Result<String, &'static str> {
    match audience::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "must be 1 to 63 of a-z 0-9 . _ - and start with a letter or digit, and not `preview`",
        ),
    }
}

fn day(text: &str) -> Result<Date, &'static str> {
    audience::day_of(text).ok_or("must be a date such as 2024-02-29")
}

impl Rules {
    fn read(&self) -> anyhow::Result<Rule> {
        let (text, from) = match (&self.rules, &self.file) {
            (Some(text), _) => (text.clone(), "--rules".to_owned()),
            (None, Some(path)) => (text_of(path)?, path.display().to_string()),
            (None, None) => return Err(exit::usage("give --rules or --file")),
        };
        Rule::parse(&text).map_err(|invalid| exit::usage(format_args!("{from}: {invalid}")))
    }
}

/// No more than rules may have, and a byte to see that there is more.
fn text_of(path: &Path) -> anyhow::Result<String> {
    let most = RULES_BYTES_MAX as u64 + 1;
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(most).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(most).read_to_string(&mut text))
    };
    read.with_context(|| format!("reading {}", path.display()))?;
    Ok(text)
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // What is wrong with what was typed is said before anybody is asked.
    let given = match &args.command {
        Command::Set { rules, .. } => Some(rules.read()?),
        Command::Preview(Preview {
            rules: Some(rules), ..
        }) => Some(rules.read()?),
        _ => None,
    };
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::Set { which, .. } => {
            let rule = given.context("clap asks for rules")?;
            set(&store, &which, &rule).await
        }
        Command::List {
            tenant,
            limit,
            json,
        } => list(&store, &tenant, limit, json).await,
        Command::Show { which, json } => show(&store, &which, json).await,
        Command::Delete { which, sure } => delete(&store, &which, sure).await,
        Command::Preview(asked) => preview(&store, asked, given).await,
    }
}

fn missing(name: &str, tenant: &TenantName) -> anyhow::Error {
    exit::not_found(format_args!(
        "there is no audience `{name}` of tenant `{tenant}`"
    ))
}

async fn find(
    store: &Store,
    name: &str,
    tenant: &TenantName,
) -> anyhow::Result<(i32, AudienceRow)> {
    let id = tenant_id(store, tenant.as_str()).await?;
    let row = match audience::is_name(name) {
        true => store.audience(id, name).await?,
        false => None,
    };
    Ok((id, row.ok_or_else(|| missing(name, tenant))?))
}

async fn set(store: &Store, which: &Which, rule: &Rule) -> anyhow::Result<()> {
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    let name = &which.name;
    let put = store.put_audience(tenant, name, rule).await?;
    warn(rule);
    note(match put {
        PutAudience::Created => format!("audience `{name}` is there"),
        PutAudience::Replaced => format!("audience `{name}` has other rules now"),
        PutAudience::Same => format!("audience `{name}` had these rules before"),
    });
    Ok(())
}

fn warn(rule: &Rule) {
    for warning in rule.warnings() {
        note(format_args!("warning: {}", warning.detail));
    }
}

async fn list(store: &Store, tenant: &TenantName, limit: i64, json: bool) -> anyhow::Result<()> {
    let tenant = tenant_id(store, tenant.as_str()).await?;
    let rows = store.audiences(tenant, None, limit).await?;
    if json {
        return output::json_lines(&rows);
    }
    let mut table = Table::new(["AUDIENCE", "VERSION", "CHANGED AT", "RULES"])
        .of_names()
        .right([1]);
    for row in &rows {
        table.row([
            row.name.clone(),
            row.version.to_string(),
            moment(row.updated_at),
            row.rules.get().to_owned(),
        ]);
    }
    output::table(&table)?;
    if rows.len() as i64 == limit {
        note(format_args!("the first {limit}; for more: --limit"));
    }
    Ok(())
}

async fn show(store: &Store, which: &Which, json: bool) -> anyhow::Result<()> {
    let (_, row) = find(store, &which.name, &which.tenant).await?;
    if json {
        return line(serde_json::to_string(&row)?);
    }
    output::pairs(&[
        ("audience", row.name),
        ("tenant", row.tenant),
        ("rules", row.rules.get().to_owned()),
        ("version", row.version.to_string()),
        ("created at", moment(row.created_at)),
        ("changed at", moment(row.updated_at)),
    ])
}

async fn delete(store: &Store, which: &Which, sure: Sure) -> anyhow::Result<()> {
    let Which { name, tenant } = which;
    let (id, _) = find(store, name, tenant).await?;
    sure.of(&format!("delete audience `{name}` of tenant `{tenant}`"))?;
    if !store.delete_audience(id, name).await? {
        return Err(missing(name, tenant));
    }
    note(format_args!("audience `{name}` is gone"));
    Ok(())
}

/// Keys that are shown.
const SAMPLE: i64 = 10;

async fn preview(store: &Store, asked: Preview, given: Option<Rule>) -> anyhow::Result<()> {
    let (tenant, rule) = match (&asked.name, given) {
        (_, Some(rule)) => (tenant_id(store, asked.tenant.as_str()).await?, rule),
        (name, None) => {
            let name = name.as_deref().context("clap asks for a name or rules")?;
            let (tenant, row) = find(store, name, &asked.tenant).await?;
            let rule = Rule::parse(row.rules.get());
            (
                tenant,
                rule.with_context(|| format!("the rules of `{name}`"))?,
            )
        }
    };
    let date = match asked.date {
        Some(date) => date,
        None => store.now().await?.to_zoned(TimeZone::UTC).date(),
    };
    let matches = match &asked.recipient {
        None => None,
        Some(key) => {
            let row = store.recipient_by_key(tenant, key).await?;
            let row = row.ok_or_else(|| {
                let tenant = &asked.tenant;
                exit::not_found(format_args!(
                    "there is no recipient `{key}` of tenant `{tenant}`"
                ))
            })?;
            Some(rule.matches(&row.recipient, date))
        }
    };
    let count = store.count_audience(tenant, &rule, date).await?;
    let sample = match count {
        Some(1..) => store.sample_audience(tenant, &rule, date, SAMPLE).await?,
        Some(_) => Some(Vec::new()),
        None => None,
    };
    if asked.json {
        return line(json!({
            "count": count, "sample": sample, "warnings": rule.warnings(), "matches": matches,
            "date": date,
        }));
    }
    warn(&rule);
    let mut lines = vec![
        (
            "recipients",
            output::number_or(count, "more than can be counted in five seconds"),
        ),
        ("on", date.to_string()),
    ];
    for key in sample.unwrap_or_default() {
        lines.push(("such as", key));
    }
    if let (Some(key), Some(is_picked)) = (asked.recipient, matches) {
        let answer = if is_picked {
            "is one of them"
        } else {
            "is not one of them"
        };
        lines.push(("asked for", format!("{key} {answer}")));
    }
    output::pairs(&lines)
}
