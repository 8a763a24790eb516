//! Campaigns, for people and programs.

use jiff::Timestamp;
use postroad_common::draft::{self, Sample};
use postroad_common::job::TenantName;
use postroad_common::store::{Campaign, Planned, Progress, Scope, Store};
use uuid::Uuid;

use super::none;
use crate::commands::tenants::tenant_id;
use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note, number_or};

/// Campaigns that are read at once: each is counted anew.
const PAGE: i64 = 100;

pub(super) async fn list(
    store: &Store,
    tenant: Option<&TenantName>,
    state: Option<&str>,
    mut before: Option<Uuid>,
    limit: i64,
    json: bool,
) -> anyhow::Result<()> {
    let store = match tenant {
        None => store.clone(),
        Some(name) => store.scoped(Scope::Tenant(tenant_id(store, name.as_str()).await?)),
    };
    let mut campaigns: Vec<Campaign> = Vec::new();
    loop {
        let left = limit - campaigns.len() as i64;
        let page = store.campaigns(state, before, left.min(PAGE)).await?;
        let is_last = (page.len() as i64) < left.min(PAGE);
        campaigns.extend(page);
        before = campaigns.last().map(|one| one.id);
        if is_last || campaigns.len() as i64 == limit {
            break;
        }
    }
    if json {
        return output::json_lines(&campaigns);
    }
    output::table(&table(&campaigns))?;
    if campaigns.len() as i64 == limit {
        note(format_args!(
            "the newest {limit}; for more: --limit, or --before with the last id"
        ));
    }
    Ok(())
}

fn table(campaigns: &[Campaign]) -> Table {
    let mut table = Table::new([
        "ID",
        "NAME",
        "STATE",
        "TENANT",
        "PLANNED",
        "LEFT",
        "DELIVERED",
        "DEAD",
        "CREATED AT",
        "ENDED AT",
        "BY",
    ])
    .right(4..=7);
    for campaign in campaigns {
        let progress = &campaign.progress;
        table.row([
            campaign.id.to_string(),
            campaign.name.clone(),
            campaign.state.clone(),
            campaign.tenant.clone(),
            planned_of(progress),
            left_of(progress),
            progress.delivered.to_string(),
            progress.dead.to_string(),
            moment(campaign.created_at),
            moment_or(campaign.ended_at, "-"),
            campaign.created_by.clone(),
        ]);
    }
    table
}

/// How many recipients there are, as far as anybody knows.
fn planned_of(progress: &Progress) -> String {
    match (progress.planned, progress.planned_is) {
        (Some(planned), Planned::Estimate) => format!("about {planned}"),
        (planned, _) => number_or(planned, "?"),
    }
}

/// How many have not got it yet.
fn left_of(progress: &Progress) -> String {
    let left = progress
        .not_made
        .map(|not_made| not_made + progress.unfinished());
    number_or(left, "?")
}

/// One campaign, for people or programs.
pub(super) fn one(campaign: &Campaign, json: bool) -> anyhow::Result<()> {
    if json {
        return line(serde_json::to_string(campaign)?);
    }
    let approval = match (campaign.needs_approval, &campaign.approved_by) {
        (_, Some(by)) => format!("by {by}"),
        (true, None) => "not yet".to_owned(),
        (false, None) => "not needed".to_owned(),
    };
    let progress = &campaign.progress;
    let whom = match (campaign.source, &campaign.audience) {
        ("audience", Some(name)) => format!("whom `{name}` picked when it was made"),
        ("audience", None) => "whom rules of its own pick".to_owned(),
        _ => "whoever was uploaded".to_owned(),
    };
    let mut lines = vec![
        ("campaign", campaign.id.to_string()),
        ("name", campaign.name.clone()),
        ("tenant", campaign.tenant.clone()),
        ("state", campaign.state.clone()),
        ("note", campaign.note.clone()),
        ("for", whom),
        ("not before", moment_or(campaign.start_at, "-")),
        ("expires at", moment_or(campaign.expires_at, "never")),
        (
            "rate per second",
            number_or(campaign.rate_per_second, "none"),
        ),
        ("canary", number_or(campaign.canary, "none")),
        (
            "canary passed at",
            moment_or(campaign.canary_passed_at, "-"),
        ),
        ("failures at most", number_or(campaign.failure_max, "any")),
        ("approval", approval),
        ("by", campaign.created_by.clone()),
        ("created at", moment(campaign.created_at)),
        ("started at", moment_or(campaign.started_at, "-")),
        ("ended at", moment_or(campaign.ended_at, "-")),
        ("planned", planned_of(progress)),
        ("not made", number_or(progress.not_made, "?")),
        ("duplicates", progress.duplicates.to_string()),
        ("rejected", progress.rejected.to_string()),
        ("scheduled", progress.scheduled.to_string()),
        ("in pipe", progress.in_pipe.to_string()),
        ("running", progress.running.to_string()),
        ("failed", progress.failed.to_string()),
        ("held", progress.held.to_string()),
        ("delivered", progress.delivered.to_string()),
        ("dead", progress.dead.to_string()),
        ("cancelled", progress.cancelled.to_string()),
        ("expired", progress.expired.to_string()),
        ("suppressed", progress.suppressed.to_string()),
    ];
    for one in &campaign.rejections {
        let example = one.example.as_ref();
        let example = example.map_or(String::new(), |key| format!(" (such as `{key}`)"));
        let why = format!("{} {}{example}", one.recipients, one.reason);
        lines.push(("rejected as", why));
    }
    output::pairs(&lines)
}

pub(super) async fn preview(
    store: &Store,
    id: Uuid,
    samples: usize,
    json: bool,
) -> anyhow::Result<()> {
    let texts = store.campaign_texts(id).await?.ok_or_else(|| none(id))?;
    let preview = draft::preview(store, id, &texts, samples, Timestamp::now()).await;
    let preview = preview.map_err(|error| match error {
        draft::Error::Store(error) => error.into(),
        error => exit::conflict(error),
    })?;
    if json {
        return line(serde_json::to_string(&preview)?);
    }
    let currency = preview.currency.as_deref().unwrap_or_default();
    let cost = preview.cost.map(|cost| format!("{cost} {currency}"));
    for warning in &preview.warnings {
        note(format_args!("warning: {}", warning.detail));
    }
    let too_many = "more than can be counted in five seconds";
    let mut lines = vec![
        ("recipients", number_or(preview.recipients, too_many)),
        ("cost", number_or(cost, "not known")),
    ];
    if let Some(without @ 1..) = preview.without_address {
        lines.push(("no address", without.to_string()));
    }
    for part in &preview.parts {
        let of = format!(
            "{} by {} in {}",
            part.recipients, part.channel, part.language
        );
        lines.push(("of these", of));
    }
    for (place, sample) in preview.samples.iter().enumerate() {
        push(&mut lines, place + 1, sample);
    }
    output::pairs(&lines)
}

fn push(lines: &mut Vec<(&'static str, String)>, number: usize, sample: &Sample) {
    lines.push(("message", number.to_string()));
    if let Some(key) = &sample.recipient {
        lines.push(("  recipient", key.clone()));
    }
    lines.extend([
        ("  to", sample.to.clone()),
        ("  channel", sample.channel.clone()),
        ("  language", sample.language.clone()),
    ]);
    if let Some(error) = &sample.error {
        lines.push(("  no message", error.clone()));
    }
    if let Some(args) = &sample.args {
        lines.extend([
            ("  kind", sample.kind.clone()),
            ("  queue", sample.queue.clone()),
            ("  args", args.get().to_owned()),
        ]);
    }
    if let Some(at) = sample.not_before {
        lines.push(("  not before", moment(at)));
    }
}
