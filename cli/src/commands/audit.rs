//! `postroad audit`: what people changed, and who they were.

use clap::Subcommand;
use jiff::Timestamp;
use postroad_common::job::TenantName;
use postroad_common::store::{AuditFilter, Store};

use super::tenants::tenant_id_of;
use super::values::since;
use crate::output::{self, Table, moment, note};
use crate::setup::Setup;

/// Looks at what people changed, by whom.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Every change by the API or the command line is one row, which nobody can change or delete.

Examples:
  postroad audit list
  postroad audit list --action queue --since 1d";

#[derive(Subcommand)]
enum Command {
    /// Lists changes, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad audit list --tenant acme
  postroad audit list --actor token:4fK2mZ9a --limit 500
  postroad audit list --action token.revoke --json | jq -r .target
  postroad audit list --json --limit 100000 >> audit.ndjson")]
    List {
        /// Only by this one: `token:<id>` or `cli:<user>@<host>`.
        #[arg(long)]
        actor: Option<String>,
        /// Only this action, such as `queue.pause`, or all that begin with it, such as `queue`.
        #[arg(long)]
        action: Option<String>,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<TenantName>,
        /// Since this moment (RFC 3339), or so long ago, such as 2h.
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Timestamp>,
        /// Only changes with a smaller number than this.
        #[arg(long, value_name = "NUMBER")]
        before: Option<i64>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Command::List {
        actor,
        action,
        tenant,
        since,
        before,
        limit,
        json,
    } = args.command;
    let store = Setup::of_process()?.current_store().await?;
    tenant_id_of(&store, tenant.as_ref()).await?;
    let filter = AuditFilter {
        actor,
        action,
        tenant: tenant.map(|tenant| tenant.to_string()),
        since,
        before,
        limit,
    };
    list(&store, &filter, json).await
}

async fn list(store: &Store, filter: &AuditFilter, json: bool) -> anyhow::Result<()> {
    let rows = store.audit_rows(filter).await?;
    if json {
        return output::json_lines(&rows);
    }
    let mut table = Table::new([
        "NUMBER", "AT", "ACTOR", "ACTION", "TARGET", "TENANT", "DETAIL",
    ]);
    for row in &rows {
        let detail = row.detail.as_ref().map_or("", |detail| detail.get());
        table.row([
            row.id.to_string(),
            moment(row.at),
            row.actor.clone(),
            row.action.clone(),
            row.target.clone(),
            row.tenant.clone().unwrap_or_default(),
            detail.to_owned(),
        ]);
    }
    output::table(&table)?;
    if rows.len() as i64 == filter.limit {
        note(format_args!(
            "the newest {} changes; for more: --limit, or --before with the last number",
            filter.limit
        ));
    }
    Ok(())
}
