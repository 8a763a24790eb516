//! `postroad recipients`: whom a tenant may write to.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use indicatif::ProgressBar;
use postroad_common::audience::{Recipient, RecipientInput};
use postroad_common::backoff::Backoff;
use postroad_common::job::TenantName;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{self, RecipientRow, Store, Upserted};
use tokio::io::{AsyncBufRead, BufReader};

use super::tenants::tenant_id;
use crate::ask::Sure;
use crate::exit;
use crate::lines::{REJECTS_SHOWN, read_line};
use crate::output::{self, Table, line, moment, note, number_or};
use crate::setup::Setup;

/// Imports, shows and forgets recipients.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Whom a tenant may write to, by the tenant's own keys; docs/AUDIENCES.md says what is known of each.

Examples:
  postroad recipients import --tenant acme users.ndjson
  postroad recipients show --tenant acme user-17
  postroad recipients list --tenant acme";

#[derive(Subcommand)]
enum Command {
    /// Creates or replaces a recipient for each line of a file or of standard input.
    #[command(
        after_long_help = r#"Prints counts. A line that is no recipient is reported with its number and left out, the others
are taken, and the exit code is 1. Of several lines with one key the last counts. What was broken
off can be imported again: what is as it should be is not written.

Examples:
  postroad recipients import users.ndjson
  export-users | postroad recipients import --tenant acme -

A line of the file, of which only the key is required:
  {"key":"user-17","addresses":{"sms":"+33639980606"},"language":"fr","country":"FR",
   "timezone":"Europe/Paris","birth_date":"1990-02-28","plan":"pro","attributes":{"orders":3}}"#
    )]
    Import {
        /// One JSON object a line (`-`: standard input).
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Whose they are.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
    },
    /// Shows one recipient.
    #[command(after_long_help = "\
Examples:
  postroad recipients show user-17
  postroad recipients show --tenant acme user-17 --json | jq .attributes")]
    Show {
        #[command(flatten)]
        which: Which,
        /// One JSON object, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Lists recipients by key, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad recipients list
  postroad recipients list --tenant acme --limit 100000 --json > users.ndjson
  postroad recipients list --tenant acme --after user-17")]
    List {
        /// Whose they are.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// After the one of this key.
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Forgets a recipient.
    #[command(after_long_help = "\
Jobs that are made for it go on.

Examples:
  postroad recipients delete user-17 --yes")]
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(clap::Args)]
struct Which {
    /// What the tenant calls it.
    #[arg(value_name = "KEY")]
    key: String,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
}

/// Recipients per statement.
const BATCH: usize = 1000;
/// And the bytes of their lines, at most.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A line may be as long as a body of the API.
const LINE_BYTES_MAX: usize = 272 * 1024;
/// How long a database that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows of a listing that are read at once.
const PAGE: i64 = 1000;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let store = Setup::of_process()?.current_store().await?;
    match args.command {
        Command::Import { file, tenant } => import(store, &file, &tenant).await,
        Command::Show { which, json } => show(&store, &which, json).await,
        Command::List {
            tenant,
            after,
            limit,
            json,
        } => list(&store, &tenant, after, limit, json).await,
        Command::Delete { which, sure } => delete(&store, &which, sure).await,
    }
}

async fn import(store: Store, path: &Path, tenant: &TenantName) -> anyhow::Result<()> {
    let tenant = tenant_id(&store, tenant.as_str()).await?;
    let mut import = Import {
        store,
        tenant,
        stop: Shutdown::on_signals(PATIENCE).context("listening for signals")?,
        progress: output::bar(None, "recipients"),
        counts: Counts::default(),
    };
    let ended = if path.as_os_str() == "-" {
        import.read(BufReader::new(tokio::io::stdin())).await
    } else {
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("opening {}", path.display()))?;
        import.read(BufReader::with_capacity(1 << 20, file)).await
    };
    import.progress.finish_and_clear();
    let counts = import.counts;
    let taken = format!("everything up to line {} is taken", counts.taken);
    let is_complete = match ended {
        Err(error) if counts.line > 0 => return Err(error.context(taken)),
        ended => ended?,
    };
    let Counts {
        put: Upserted {
            created,
            updated,
            unchanged,
        },
        rejected,
        ..
    } = counts;
    line(format_args!(
        "created={created}\nupdated={updated}\nunchanged={unchanged}\nrejected={rejected}"
    ))?;
    if !is_complete {
        bail!("interrupted: {taken}; import the whole again, which costs little");
    }
    if rejected > 0 {
        bail!("{rejected} lines were no recipients and were left out");
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    put: Upserted,
    rejected: u64,
    /// Lines that were read.
    line: u64,
    /// The line up to which everything that is a recipient is one in the database.
    taken: u64,
}

/// A stream of lines on its way to the database.
struct Import {
    store: Store,
    tenant: i32,
    stop: Shutdown,
    progress: ProgressBar,
    counts: Counts,
}

impl Import {
    /// Puts a recipient for each line; whether that was all of them, or somebody has interrupted it.
    async fn read(&mut self, mut input: impl AsyncBufRead + Unpin) -> anyhow::Result<bool> {
        let (mut batch, mut bytes, mut line) = (Vec::with_capacity(BATCH), 0, Vec::new());
        let (quiesce, mut is_interrupted) = (self.stop.quiesce.clone(), false);
        loop {
            let read = tokio::select! {
                biased;
                () = quiesce.cancelled() => {
                    is_interrupted = true;
                    None
                }
                read = read_line(&mut input, &mut line, LINE_BYTES_MAX) => {
                    read.context("reading recipients")?
                }
            };
            if let Some(length) = read {
                self.counts.line += 1;
                if let Some(recipient) = self.recipient(&line, length) {
                    bytes += line.len();
                    batch.push(recipient);
                }
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES || read.is_none() {
                self.put(&batch).await?;
                batch.clear();
                bytes = 0;
            }
            if read.is_none() {
                return Ok(!is_interrupted);
            }
        }
    }

    fn recipient(&mut self, line: &[u8], length: usize) -> Option<Recipient> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let read = match length > LINE_BYTES_MAX {
            true => Err(format!("longer than {LINE_BYTES_MAX} bytes")),
            false => RecipientInput::parse(line)
                .and_then(|input| input.into_recipient(None))
                .map_err(|error| error.to_string()),
        };
        if let Err(error) = &read {
            let number = self.counts.line;
            self.counts.rejected += 1;
            if self.counts.rejected <= REJECTS_SHOWN {
                self.progress
                    .suspend(|| note(format_args!("line {number}: {error}")));
            }
        }
        read.ok()
    }

    async fn put(&mut self, batch: &[Recipient]) -> anyhow::Result<()> {
        if !batch.is_empty() {
            let put = tokio::select! {
                put = put(&self.store, self.tenant, batch) => put?,
                () = self.stop.cancel.cancelled() => bail!("stopped at once"),
            };
            let sum = &mut self.counts.put;
            sum.created += put.created;
            sum.updated += put.updated;
            sum.unchanged += put.unchanged;
            self.progress
                .set_position(sum.created + sum.updated + sum.unchanged);
        }
        self.counts.taken = self.counts.line;
        Ok(())
    }
}

/// Puts a batch, again and again while the database is away: twice is as good as once.
async fn put(store: &Store, tenant: i32, batch: &[Recipient]) -> Result<Upserted, store::Error> {
    let (until, mut backoff) = (Instant::now() + PATIENCE, Backoff::default());
    loop {
        match store.put_recipients(tenant, batch).await {
            Err(error) if error.is_transient() && Instant::now() < until => {
                tracing::warn!("{error}: trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            result => return result,
        }
    }
}

fn missing(which: &Which) -> anyhow::Error {
    let Which { key, tenant } = which;
    exit::not_found(format_args!(
        "there is no recipient `{key}` of tenant `{tenant}`"
    ))
}

async fn find(store: &Store, which: &Which) -> anyhow::Result<(i32, RecipientRow)> {
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    let row = store.recipient_by_key(tenant, &which.key).await?;
    Ok((tenant, row.ok_or_else(|| missing(which))?))
}

async fn show(store: &Store, which: &Which, json: bool) -> anyhow::Result<()> {
    let (_, row) = find(store, which).await?;
    if json {
        return line(serde_json::to_string(&row)?);
    }
    let one = &row.recipient;
    let mut lines = vec![
        ("recipient", one.key.clone()),
        ("tenant", row.tenant.clone()),
    ];
    for (channel, address) in &one.addresses {
        lines.push(("address", format!("{channel}  {address}")));
    }
    lines.extend([
        ("language", number_or(one.language.as_ref(), "-")),
        ("country", number_or(one.country.as_ref(), "-")),
        ("time zone", number_or(one.timezone.as_ref(), "-")),
        ("birth date", number_or(one.birth_date, "-")),
        ("plan", number_or(one.plan.as_ref(), "-")),
    ]);
    for (name, value) in &one.attributes {
        lines.push(("attribute", format!("{name}  {value}")));
    }
    lines.extend([
        ("created at", moment(row.created_at)),
        ("changed at", moment(row.updated_at)),
    ]);
    output::pairs(&lines)
}

async fn list(
    store: &Store,
    tenant: &TenantName,
    mut after: Option<String>,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let tenant = tenant_id(store, tenant.as_str()).await?;
    let mut table = Table::new([
        "RECIPIENT",
        "LANGUAGE",
        "COUNTRY",
        "ZONE",
        "PLAN",
        "CHANNELS",
        "ATTRIBUTES",
        "CHANGED AT",
    ])
    .of_names()
    .right([6]);
    let mut left = limit;
    while left > 0 {
        let page = left.min(PAGE);
        let rows = store.recipients(tenant, after.as_deref(), page).await?;
        left -= rows.len() as i64;
        match json {
            true => output::json_lines(&rows)?,
            false => rows.iter().for_each(|row| push(&mut table, row)),
        }
        if (rows.len() as i64) < page {
            break;
        }
        after = rows.last().map(|row| row.recipient.key.clone());
    }
    if json {
        return Ok(());
    }
    output::table(&table)?;
    if left == 0 {
        note(format_args!(
            "the first {limit}; for more: --limit, or --after"
        ));
    }
    Ok(())
}

fn push(table: &mut Table, row: &RecipientRow) {
    let one = &row.recipient;
    let channels: Vec<_> = one.addresses.keys().map(String::as_str).collect();
    table.row([
        one.key.clone(),
        number_or(one.language.as_ref(), "-"),
        number_or(one.country.as_ref(), "-"),
        number_or(one.timezone.as_ref(), "-"),
        number_or(one.plan.as_ref(), "-"),
        channels.join(","),
        one.attributes.len().to_string(),
        moment(row.updated_at),
    ]);
}

async fn delete(store: &Store, which: &Which, sure: Sure) -> anyhow::Result<()> {
    let (tenant, _) = find(store, which).await?;
    let Which { key, tenant: name } = which;
    sure.of(&format!("forget recipient `{key}` of tenant `{name}`"))?;
    if !store.delete_recipient(tenant, key).await? {
        return Err(missing(which));
    }
    note(format_args!("recipient `{key}` is gone"));
    Ok(())
}
