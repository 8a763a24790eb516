//! `postroad announcements`: one thing for all whom rules pick, however many they are.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use jiff::Timestamp;
use postroad_common::audience::{Invalid, RULES_BYTES_MAX};
use postroad_common::job::TenantName;
use postroad_common::store::{Announced, AnnouncementRow, Corrected, Store};
use postroad_common::timeline::{CONTENT_BYTES_MAX, Content, Correction, Submission};
use uuid::Uuid;

use super::tenants::tenant_id;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note};
use crate::setup::Setup;

/// Makes, corrects and withdraws announcements: what timelines show to many.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
What an announcement says, for whom it is, and what it costs: docs/TIMELINE.md.

Examples:
  postroad announcements create prices.json
  postroad announcements list
  postroad announcements withdraw 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --yes";

#[derive(Subcommand)]
enum Command {
    /// Makes an announcement of a JSON document with the fields of `POST /v1/announcements`.
    #[command(after_long_help = r#"
Prints its id, alone on standard output. With a `dedup_key` it can be made again: it is the same.

Examples:
  postroad announcements create prices.json
  postroad announcements create prices.json --tenant acme
  generate-announcement | postroad announcements create -

The smallest document:
  {"content": {"messages": {"en": {"title": "New prices"}}}, "rules": {"all": true}}"#)]
    Create {
        /// The document (`-`: standard input).
        file: PathBuf,
        /// Whose it is.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
    },
    /// Lists announcements, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad announcements list
  postroad announcements list --tenant acme --all --json | jq -r .id")]
    List {
        /// Whose they are.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// Those too that have ended or were withdrawn.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one announcement.
    #[command(after_long_help = "\
Examples:
  postroad announcements show 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad announcements show 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --json | jq .content")]
    Show {
        #[command(flatten)]
        which: Which,
        /// One JSON object, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Corrects what an announcement says, or when it ends. Whoever has read it has read it.
    #[command(after_long_help = "\
Examples:
  postroad announcements change 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --content corrected.json
  postroad announcements change 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --ends-at 2030-05-01T00:00:00Z")]
    Change {
        #[command(flatten)]
        which: Which,
        /// A file with what it is to say, as a whole: the `content` of an announcement (`-`: standard input).
        #[arg(long, value_name = "FILE", required_unless_present = "ends_at")]
        content: Option<PathBuf>,
        /// When it is to end, later than now.
        #[arg(long, value_name = "TIME")]
        ends_at: Option<Timestamp>,
    },
    /// Withdraws an announcement: nobody sees it any more.
    #[command(after_long_help = "\
Examples:
  postroad announcements withdraw 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --yes")]
    Withdraw {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(clap::Args)]
struct Which {
    id: Uuid,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: TenantName,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        // What is wrong with a document is said before any server is asked.
        Command::Create { file, tenant } => {
            let most = RULES_BYTES_MAX + CONTENT_BYTES_MAX;
            let asked = Submission::parse(&bytes_of(&file, most)?);
            let asked = asked.map_err(|invalid| wrong(&file, &invalid))?;
            create(&store().await?, &tenant, &asked, &file).await
        }
        Command::Change {
            which,
            content,
            ends_at,
        } => {
            let content = content.as_deref().map(content_of).transpose()?;
            let to = Correction { content, ends_at };
            change(&store().await?, &which, &to).await
        }
        Command::List {
            tenant,
            all,
            limit,
            json,
        } => list(&store().await?, &tenant, all, limit, json).await,
        Command::Show { which, json } => {
            let (_, row) = find(&store().await?, &which).await?;
            show(&row, json)
        }
        Command::Withdraw { which, sure } => withdraw(&store().await?, &which, sure).await,
    }
}

async fn store() -> anyhow::Result<Store> {
    Setup::of_process()?.current_store().await
}

/// Twice as much as what is taken, as JSON may have spaces; of more than that, nobody needs to know
/// how much it is.
fn bytes_of(path: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let most = 2 * most as u64;
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(most).read_to_end(&mut bytes)
    } else {
        let file = std::fs::File::open(path);
        file.and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

fn wrong(path: &Path, invalid: &Invalid) -> anyhow::Error {
    exit::usage(format_args!("{}: {invalid}", path.display()))
}

fn content_of(path: &Path) -> anyhow::Result<Content> {
    let bytes = bytes_of(path, CONTENT_BYTES_MAX)?;
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| exit::usage(format_args!("{}: is not UTF-8", path.display())))?;
    Content::parse(text).map_err(|invalid| wrong(path, &invalid))
}

fn missing(which: &Which) -> anyhow::Error {
    let Which { id, tenant } = which;
    exit::not_found(format_args!(
        "there is no announcement {id} of tenant `{tenant}`"
    ))
}

async fn find(store: &Store, which: &Which) -> anyhow::Result<(i32, AnnouncementRow)> {
    let tenant = tenant_id(store, which.tenant.as_str()).await?;
    let row = store.announcement(tenant, which.id).await?;
    Ok((tenant, row.ok_or_else(|| missing(which))?))
}

async fn create(
    store: &Store,
    tenant: &TenantName,
    asked: &Submission,
    file: &Path,
) -> anyhow::Result<()> {
    let tenant = tenant_id(store, tenant.as_str()).await?;
    let row = match store.announce(tenant, asked).await? {
        Announced::Made(row) => {
            note(format_args!("announcement {} is {}", row.id, row.state));
            row
        }
        Announced::Before(row) => {
            note(format_args!("announcement {} was made before", row.id));
            row
        }
        Announced::KeyTaken => {
            return Err(exit::conflict(
                "the dedup_key stands for another announcement",
            ));
        }
        Announced::Full(why) => return Err(exit::conflict(why)),
        Announced::Invalid(invalid) => return Err(wrong(file, &invalid)),
    };
    line(row.id)
}

async fn list(
    store: &Store,
    tenant: &TenantName,
    all: bool,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let tenant = tenant_id(store, tenant.as_str()).await?;
    let rows = store.announcements(tenant, all, None, limit).await?;
    if json {
        return output::json_lines(&rows);
    }
    let mut table = Table::new(["ID", "STATE", "STARTS", "ENDS", "AUDIENCE", "BY", "TITLE"]);
    for row in &rows {
        table.row([
            row.id.to_string(),
            row.state.clone(),
            moment(row.starts_at),
            moment(row.ends_at),
            row.audience.clone().unwrap_or_else(|| "(rules)".to_owned()),
            row.created_by.clone(),
            title(row),
        ]);
    }
    output::table(&table)?;
    if rows.len() as i64 == limit {
        note(format_args!("the newest {limit}; for more: --limit"));
    }
    Ok(())
}

/// In the language for whoever reads no other.
fn title(row: &AnnouncementRow) -> String {
    #[derive(serde::Deserialize)]
    struct Titled {
        title: String,
    }
    let content = Content::of_kept(row.content.get());
    let message = content
        .as_ref()
        .and_then(|content| content.message_for(None));
    let titled = message.and_then(|(_, message)| serde_json::from_str(message.get()).ok());
    titled.map_or_else(String::new, |Titled { title }| title)
}

fn show(row: &AnnouncementRow, json: bool) -> anyhow::Result<()> {
    if json {
        return line(serde_json::to_string(row)?);
    }
    let none = || "(none)".to_owned();
    output::pairs(&[
        ("announcement", row.id.to_string()),
        ("tenant", row.tenant.clone()),
        ("state", row.state.clone()),
        ("content", row.content.get().to_owned()),
        ("rules", row.rules.get().to_owned()),
        ("audience", row.audience.clone().unwrap_or_else(none)),
        ("dedup key", row.dedup_key.clone().unwrap_or_else(none)),
        ("starts", moment(row.starts_at)),
        ("ends", moment(row.ends_at)),
        ("withdrawn", moment_or(row.withdrawn_at, "no")),
        ("by", row.created_by.clone()),
        ("created at", moment(row.created_at)),
        ("changed at", moment(row.updated_at)),
    ])
}

async fn change(store: &Store, which: &Which, to: &Correction) -> anyhow::Result<()> {
    let (tenant, row) = find(store, which).await?;
    match store.correct_announcement(tenant, row.id, to).await? {
        Corrected::Done(row) => {
            note(format_args!("announcement {} is changed", row.id));
            Ok(())
        }
        Corrected::Over => Err(over(row.id)),
        Corrected::NotThere => Err(missing(which)),
        Corrected::Full(why) => Err(exit::conflict(why)),
        Corrected::Invalid(invalid) => Err(exit::usage(invalid)),
    }
}

async fn withdraw(store: &Store, which: &Which, sure: Sure) -> anyhow::Result<()> {
    let (tenant, row) = find(store, which).await?;
    sure.of(&format!("withdraw announcement {}", row.id))?;
    if !store.withdraw_announcement(tenant, row.id).await? {
        return Err(over(row.id));
    }
    note(format_args!("announcement {} is withdrawn", row.id));
    Ok(())
}

fn over(id: Uuid) -> anyhow::Error {
    exit::conflict(format_args!("announcement {id} has ended or was withdrawn"))
}
