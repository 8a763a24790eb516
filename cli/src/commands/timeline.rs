//! `postroad timeline`: what one recipient is shown, as the API answers it.

use clap::Subcommand;
use postroad_common::audience::Recipient;
use postroad_common::job::TenantName;
use postroad_common::store::Store;
use postroad_common::timeline::{Asked, Source, UNREAD_MAX, page};

use super::tenants::tenant_id;
use crate::exit;
use crate::output::{self, Table, moment, note};
use crate::setup::Setup;

/// Shows what a recipient is shown.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  postroad timeline show user-17
  postroad timeline show user-17 --tenant acme --unread";

#[derive(Subcommand)]
enum Command {
    /// Shows announcements and entries for one recipient, newest first. Marks nothing as read.
    #[command(after_long_help = "\
A recipient that was never put is shown what is for everybody.

Examples:
  postroad timeline show user-17
  postroad timeline show user-17 --tenant acme --unread --json | jq -r .message.title")]
    Show {
        /// The recipient's key.
        recipient: String,
        /// Whose it is.
        #[arg(long, default_value = "default")]
        tenant: TenantName,
        /// Only what it has not read.
        #[arg(long)]
        unread: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Command::Show {
        recipient,
        tenant,
        unread,
        limit,
        json,
    } = args.command;
    if !Recipient::is_key(&recipient) {
        return Err(exit::usage(
            "a recipient's key has 1 to 255 bytes, and no characters of control",
        ));
    }
    let asked = Asked {
        limit: limit as usize,
        before: None,
        is_unread: unread,
    };
    let store = Setup::of_process()?.current_store().await?;
    let tenant = tenant_id(&store, tenant.as_str()).await?;
    show(&store, tenant, &recipient, asked, json).await
}

async fn show(
    store: &Store,
    tenant: i32,
    recipient: &str,
    asked: Asked,
    json: bool,
) -> anyhow::Result<()> {
    let glance = store.glance(tenant, recipient, asked).await?;
    let announcements = store.shown_announcements(tenant).await?;
    let page = page(&glance, &announcements, asked);
    if json {
        return output::json_lines(&page.items);
    }
    let mut table = Table::new([
        "ID", "FROM", "SINCE", "UNTIL", "READ", "LANGUAGE", "MESSAGE",
    ]);
    for item in &page.items {
        let from = match item.source {
            Source::Announcement => "announcement",
            Source::Personal => "personal",
        };
        table.row([
            item.id.to_string(),
            from.to_owned(),
            moment(item.at),
            moment(item.ends_at),
            if item.read { "yes" } else { "no" }.to_owned(),
            item.language.unwrap_or("(none)").to_owned(),
            item.message.get().to_owned(),
        ]);
    }
    output::table(&table)?;
    match page.unread {
        UNREAD_MAX => note(format_args!("unread: {UNREAD_MAX} or more")),
        unread => note(format_args!("unread: {unread}")),
    }
    if page.next.is_some() {
        note(format_args!(
            "the newest {}; for more: --limit",
            asked.limit
        ));
    }
    Ok(())
}
