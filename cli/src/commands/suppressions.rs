//! `postroad suppressions`: who is not to get anything any more. Addresses are compared in the form in
//! which campaigns have them.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use postroad_common::campaign::{ADDRESS_BYTES_MAX, suppressible};
use postroad_common::job::{KindName, TenantName};
use postroad_common::store::{SUPPRESSED_AT_ONCE, Store, Suppression};
use postroad_common::text::one_line;
use serde_json::json;
use tokio::io::{AsyncBufRead, BufReader};

use super::tenants::tenant_id;
use super::values::reason;
use crate::exit;
use crate::lines::{REJECTS_SHOWN, read_line};
use crate::output::{self, Table, line, moment, note};
use crate::setup::Setup;

/// Says who is not to get anything any more.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
No job of a campaign begins for a recipient that is suppressed, wherever it is by then.

Examples:
  postroad suppressions add +33639980606 --reason STOP
  postroad suppressions list
  postroad suppressions remove +33639980606";

#[derive(Subcommand)]
enum Command {
    /// Suppresses recipients: no job of a campaign for them begins from now on.
    #[command(after_long_help = "\
Phone numbers with their country's code. Prints how many were not suppressed before. A line of the
file that is no address is told with its number and left out, the others are taken, and the exit code
is 1.

Examples:
  postroad suppressions add +33639980606 ana@example.org --reason STOP
  postroad suppressions add +33639980606 --kind sms --tenant acme
  postroad suppressions add --file unsubscribed.txt
  export-unsubscribed | postroad suppressions add --file -")]
    Add(Add),
    /// Takes a recipient off the list.
    #[command(after_long_help = "\
Of every kind, and of one kind, are two entries: each is taken away as it was added.

Examples:
  postroad suppressions remove +33639980606
  postroad suppressions remove +33639980606 --kind sms --tenant acme")]
    Remove {
        recipient: String,
        /// The kind that it was suppressed for; otherwise every kind.
        #[arg(long)]
        kind: Option<KindName>,
        /// Whose recipient it is.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
    },
    /// Lists suppressed recipients by address, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad suppressions list
  postroad suppressions list --recipient '+33 6 39 98 06 06'
  postroad suppressions list --tenant acme --limit 100000 --json | jq -r .recipient")]
    List {
        /// Only this recipient.
        #[arg(long)]
        recipient: Option<String>,
        /// Whose recipients they are.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Add {
    /// Addresses, as campaigns have them.
    #[arg(value_name = "RECIPIENT", required_unless_present = "file")]
    recipients: Vec<String>,
    /// One address a line (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Jobs of this kind only; otherwise of every kind.
    #[arg(long)]
    kind: Option<KindName>,
    /// Why (at most 500 bytes).
    #[arg(long, default_value = "", hide_default_value = true, value_parser = reason)]
    reason: String,
    /// Whose recipients they are.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
    /// One JSON object, with the fields of the API.
    #[arg(long)]
    json: bool,
}

/// Suppressed recipients that are read at once.
const PAGE: i64 = 1000;
/// A line may be as long as the longest address, with blanks around it.
const LINE_BYTES_MAX: usize = 4 * ADDRESS_BYTES_MAX;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Add(add) => self::add(add).await,
        Command::Remove {
            recipient,
            kind,
            tenant,
        } => remove(&recipient, kind.as_ref(), &tenant).await,
        Command::List {
            recipient,
            tenant,
            limit,
            json,
        } => {
            let recipient = recipient.as_deref().map(address).transpose()?;
            list(recipient.as_deref(), &tenant, limit, json).await
        }
    }
}

/// An address of the command line in the form in which it is compared.
fn address(given: &str) -> anyhow::Result<String> {
    suppressible(given).map_err(|error| exit::usage(format_args!("`{}`: {error}", one_line(given))))
}

async fn store() -> anyhow::Result<Store> {
    Setup::of_process()?.current_store().await
}

/// Recipients on their way to the list.
struct Adding<'a> {
    store: Store,
    tenant: i32,
    kind: Option<&'a KindName>,
    reason: &'a str,
    batch: Vec<String>,
    added: i64,
    rejected: u64,
}

async fn add(add: Add) -> anyhow::Result<()> {
    let given = add.recipients.iter().map(|one| address(one));
    let given: Vec<String> = given.collect::<Result<_, _>>()?;
    let input: Option<Box<dyn AsyncBufRead + Unpin>> = match add.file.as_deref() {
        None => None,
        Some(path) if path.as_os_str() == "-" => Some(Box::new(BufReader::new(tokio::io::stdin()))),
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            let file = file.with_context(|| format!("opening {}", path.display()))?;
            Some(Box::new(BufReader::new(file)))
        }
    };
    let store = store().await?;
    let mut adding = Adding {
        tenant: tenant_id(&store, add.tenant.as_str()).await?,
        store,
        kind: add.kind.as_ref(),
        reason: &add.reason,
        batch: Vec::new(),
        added: 0,
        rejected: 0,
    };
    for recipient in given {
        adding.take(recipient).await?;
    }
    if let (Some(input), Some(path)) = (input, &add.file) {
        adding.read(input, path).await?;
    }
    adding.write().await?;
    let Adding {
        added, rejected, ..
    } = adding;
    match add.json {
        true => line(json!({ "added": added }))?,
        false => line(format_args!("added={added}\nrejected={rejected}"))?,
    }
    match rejected {
        0 => Ok(()),
        n => bail!("{n} lines were no addresses and were left out"),
    }
}

impl Adding<'_> {
    async fn read(
        &mut self,
        mut input: impl AsyncBufRead + Unpin,
        path: &Path,
    ) -> anyhow::Result<()> {
        let name = one_line(&path.display().to_string());
        let (mut text, mut number) = (Vec::new(), 0_u64);
        loop {
            let read = read_line(&mut input, &mut text, LINE_BYTES_MAX).await;
            let read =
                read.with_context(|| format!("reading {name}, {} are suppressed", self.added))?;
            let Some(_) = read else {
                return Ok(());
            };
            number += 1;
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let address = match std::str::from_utf8(&text) {
                Ok(address) => suppressible(address).map_err(|error| error.to_string()),
                Err(_) => Err("is not UTF-8".to_owned()),
            };
            match address {
                Ok(address) => self.take(address).await?,
                Err(what) => {
                    self.rejected += 1;
                    if self.rejected <= REJECTS_SHOWN {
                        note(format_args!("{name}:{number}: {what}"));
                    }
                }
            }
        }
    }

    async fn take(&mut self, recipient: String) -> anyhow::Result<()> {
        self.batch.push(recipient);
        match self.batch.len() {
            SUPPRESSED_AT_ONCE => self.write().await,
            _ => Ok(()),
        }
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let recipients: Vec<_> = batch.iter().map(String::as_str).collect();
        let kind = self.kind.map(KindName::as_str);
        let added = self
            .store
            .suppress(self.tenant, kind, &recipients, self.reason)
            .await
            .with_context(|| {
                format!(
                    "added={}, which stays; the same can be added again",
                    self.added
                )
            })?;
        self.added += added.ok_or_else(|| {
            exit::not_found(format_args!(
                "there is no kind `{}`",
                kind.unwrap_or_default()
            ))
        })?;
        Ok(())
    }
}

async fn remove(
    recipient: &str,
    kind: Option<&KindName>,
    tenant: &TenantName,
) -> anyhow::Result<()> {
    let recipient = address(recipient)?;
    let store = store().await?;
    let id = tenant_id(&store, tenant.as_str()).await?;
    let name = kind.map(KindName::as_str);
    if !store.unsuppress(id, name, &recipient).await? {
        let of = match name {
            Some(kind) => format!("for kind `{kind}`"),
            None => "for every kind".to_owned(),
        };
        return Err(exit::not_found(format_args!(
            "`{recipient}` of tenant `{tenant}` was not suppressed {of}"
        )));
    }
    note(format_args!("`{recipient}` is not suppressed any more"));
    Ok(())
}

async fn list(
    recipient: Option<&str>,
    tenant: &TenantName,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let store = store().await?;
    let tenant = tenant_id(&store, tenant.as_str()).await?;
    let mut table = Table::new(["RECIPIENT", "KIND", "SINCE", "REASON"]).of_names();
    let (mut left, mut after) = (limit, None::<(String, String)>);
    while left > 0 {
        let page = left.min(PAGE);
        let behind = after
            .as_ref()
            .map(|(one, kind)| (one.as_str(), kind.as_str()));
        let rows = store.suppressions(tenant, behind, recipient, page).await?;
        left -= rows.len() as i64;
        match json {
            true => output::json_lines(&rows)?,
            false => rows.iter().for_each(|row| push(&mut table, row)),
        }
        if (rows.len() as i64) < page {
            break;
        }
        let last = rows.into_iter().last();
        after = last.map(|row| (row.recipient, row.kind.unwrap_or_default()));
    }
    if json {
        return Ok(());
    }
    output::table(&table)?;
    if left == 0 {
        note(format_args!("the first {limit}; for more: --limit"));
    }
    Ok(())
}

fn push(table: &mut Table, row: &Suppression) {
    table.row([
        row.recipient.clone(),
        row.kind.clone().unwrap_or_else(|| "(any)".to_owned()),
        moment(row.created_at),
        row.reason.clone(),
    ]);
}
