//! `postroad campaigns`: one message for many. They are made and given their recipients here, steered
//! and watched; schedulers and workers do the work.

mod create;
mod show;
mod upload;
mod watch;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use postroad_common::campaign;
use postroad_common::draft::{SAMPLES, SAMPLES_MAX};
use postroad_common::job::TenantName;
use postroad_common::store::{Acted, CAMPAIGN_STATES, Campaign, CampaignAction, Store};
use uuid::Uuid;

use crate::ask::Sure;
use crate::exit;
use crate::output::{line, moment, note};
use crate::setup::Setup;

/// Makes campaigns, gives them recipients, steers and watches them.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
What a campaign says, and how recipients are given: docs/CAMPAIGNS.md.

Examples:
  postroad campaigns create spring.json --recipients customers.csv
  postroad campaigns create spring.json --audience active
  postroad campaigns preview 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad campaigns start 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad campaigns get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --watch
  postroad campaigns pause 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a   nothing more begins";

#[derive(Subcommand)]
enum Command {
    /// Makes a draft of a JSON document with the fields of `POST /v1/campaigns`.
    #[command(
        after_long_help = r#"Prints the draft's id, alone on standard output. Of a document that cannot be taken everything is told
that is wrong with it, as `FILE: POINTER: WHAT`, and the exit code is 2. With --recipients the exit
code is that of `postroad campaigns upload`. Who gets it is said by one upload or one audience: by
--audience, or by `audience` in the document.

Examples:
  postroad campaigns create spring.json
  postroad campaigns create spring.json --tenant acme --audience active --start
  postroad campaigns create spring.json --tenant acme --recipients customers.csv --start
  generate-campaign | postroad campaigns create -

The smallest document:
  {"name": "spring", "content": {"language": "en",
    "channels": {"sms": {"kind": "sms", "args": {"en": {"to": "{{ to }}", "text": "Hi"}}}}}}"#
    )]
    Create(Box<create::Args>),
    /// Sets the recipients of a draft, in CSV or NDJSON, instead of those that it has.
    #[command(after_long_help = "\
Prints counts. A line that is no recipient is told as `FILE:LINE: FIELD: WHAT` and left out, the
others are taken, and the exit code is 1. What breaks off leaves the draft as it was.

Examples:
  postroad campaigns upload 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a customers.csv
  postroad campaigns upload 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a customers.csv --rejects bad.ndjson --start
  generate-customers | postroad campaigns upload 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a - --format ndjson")]
    Upload {
        id: Uuid,
        /// The recipients (`-`: standard input).
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        how: How,
        /// Start the campaign when all has been taken, though lines were refused.
        #[arg(long)]
        start: bool,
        /// One JSON object, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Lists campaigns, newest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad campaigns list
  postroad campaigns list --state running --json | jq -r .id")]
    List {
        /// Only in this state.
        #[arg(long, value_parser = PossibleValuesParser::new(CAMPAIGN_STATES))]
        state: Option<String>,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<TenantName>,
        /// Only campaigns that are older than this one.
        #[arg(long, value_name = "ID")]
        before: Option<Uuid>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Shows one campaign, and where its recipients are.
    #[command(after_long_help = "\
Examples:
  postroad campaigns get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad campaigns get 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --watch --json | jq .progress.delivered")]
    Get {
        id: Uuid,
        /// Wait until it has ended, and nothing of it is under way any more.
        #[arg(long)]
        watch: bool,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Says what a campaign would do: how many, at what cost, and the first messages. Nothing is sent.
    #[command(after_long_help = "\
Examples:
  postroad campaigns preview 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad campaigns preview 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --samples 10 --json | jq '.samples[].args'")]
    Preview {
        id: Uuid,
        /// Messages to show, at most (1 to 10).
        #[arg(long, default_value_t = SAMPLES, value_parser = samples)]
        samples: usize,
        /// One JSON object, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Starts a draft that has recipients or an audience; or has it wait for approval, where it needs one.
    #[command(after_long_help = "\
Examples:
  postroad campaigns start 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Start(Which),
    /// Approves of a campaign that somebody else has made: it runs.
    #[command(after_long_help = "\
Examples:
  postroad campaigns approve 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Approve(Which),
    /// Starts nothing more of it from now on, also of what is in RabbitMQ. What runs ends.
    #[command(after_long_help = "\
Examples:
  postroad campaigns pause 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Pause(Which),
    /// Goes on: after a pause, or after it was cancelled, and then what was cancelled comes back first.
    #[command(after_long_help = "\
Examples:
  postroad campaigns resume 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a")]
    Resume(Which),
    /// Starts nothing more of it from now on, and cancels what has not begun.
    #[command(after_long_help = "\
Examples:
  postroad campaigns cancel 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a
  postroad campaigns cancel 0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a --yes --json | jq .progress")]
    Cancel {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(clap::Args)]
struct Which {
    id: Uuid,
    /// One JSON object, with the fields of the API.
    #[arg(long)]
    json: bool,
}

/// How recipients are read.
#[derive(clap::Args)]
struct How {
    /// What the file is [default: as its name ends: csv, tsv; ndjson, jsonl].
    #[arg(long)]
    format: Option<Format>,
    /// Write all lines that are refused there, as JSON objects with the fields of the API.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Ndjson,
}

impl From<Format> for campaign::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Csv => Self::Csv,
            Format::Ndjson => Self::Ndjson,
        }
    }
}

fn samples(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=SAMPLES_MAX).contains(number))
        .ok_or_else(|| format!("a whole number from 1 to {SAMPLES_MAX} is expected"))
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Create(new) => create::run(*new).await,
        Command::Upload {
            id,
            file,
            how,
            start,
            json,
        } => upload::run(id, &file, &how, start, json).await,
        Command::List {
            state,
            tenant,
            before,
            limit,
            json,
        } => {
            let tenant = tenant.as_ref();
            show::list(
                &store().await?,
                tenant,
                state.as_deref(),
                before,
                limit,
                json,
            )
            .await
        }
        Command::Get { id, watch, json } => get(&store().await?, id, watch, json).await,
        Command::Preview { id, samples, json } => {
            show::preview(&store().await?, id, samples, json).await
        }
        Command::Start(which) => act(&store().await?, &which, CampaignAction::Start).await,
        Command::Approve(which) => act(&store().await?, &which, CampaignAction::Approve).await,
        Command::Pause(which) => act(&store().await?, &which, CampaignAction::Pause).await,
        Command::Resume(which) => act(&store().await?, &which, CampaignAction::Resume).await,
        Command::Cancel { which, sure } => {
            let store = store().await?;
            let campaign = find(&store, which.id).await?;
            sure.of(&format!("cancel campaign `{}`", campaign.name))?;
            act(&store, &which, CampaignAction::Cancel).await
        }
    }
}

/// The store; not before a document or a file has been looked at.
async fn store() -> anyhow::Result<Store> {
    Setup::of_process()?.current_store().await
}

async fn get(store: &Store, id: Uuid, is_watched: bool, json: bool) -> anyhow::Result<()> {
    let mut campaign = find(store, id).await?;
    if is_watched {
        let Some(ended) = watch::follow(store, campaign).await? else {
            return Ok(());
        };
        campaign = ended;
    }
    show::one(&campaign, json)
}

fn none(id: Uuid) -> anyhow::Error {
    exit::not_found(format_args!("there is no campaign {id}"))
}

async fn find(store: &Store, id: Uuid) -> anyhow::Result<Campaign> {
    store.find_campaign(id).await?.ok_or_else(|| none(id))
}

async fn act(store: &Store, which: &Which, action: CampaignAction) -> anyhow::Result<()> {
    let id = which.id;
    let acted = store.act_on_campaign(id, action).await?;
    let campaign = find(store, id).await?;
    match acted {
        Acted::Done if which.json => line(serde_json::to_string(&campaign)?),
        Acted::Done => {
            note(state_of(&campaign));
            Ok(())
        }
        Acted::NotThere => Err(none(id)),
        Acted::OwnCampaign => Err(exit::conflict(format_args!(
            "campaign {id} was made by {}: somebody else has to approve of it",
            campaign.created_by
        ))),
        Acted::NotNow => Err(exit::conflict(why_not(action, &campaign))),
    }
}

/// What state it is in now, and what comes next.
fn state_of(campaign: &Campaign) -> String {
    let (id, state) = (campaign.id, &campaign.state);
    let is_later = |at: &Timestamp| *at > Timestamp::now();
    match (state.as_str(), campaign.start_at.filter(is_later)) {
        ("running", Some(at)) => format!("campaign {id} is running, and begins at {}", moment(at)),
        ("awaiting_approval", _) => format!(
            "campaign {id} is awaiting_approval: somebody else runs `postroad campaigns approve {id}`"
        ),
        _ => format!("campaign {id} is {state}"),
    }
}

/// Why something cannot be done to a campaign in its state.
fn why_not(action: CampaignAction, campaign: &Campaign) -> String {
    let id = campaign.id;
    let needs = match (action, campaign.state.as_str()) {
        (CampaignAction::Start, "draft") => {
            return format!(
                "campaign {id} has no recipients: `postroad campaigns upload {id} FILE` sets them"
            );
        }
        (CampaignAction::Resume, "paused" | "cancelled") => {
            return format!(
                "campaign {id} is {}, and cannot be gone on with: it was never started, or never approved \
                 of, or its recipients or the jobs that were cancelled are not kept any more",
                campaign.state
            );
        }
        (CampaignAction::Start, _) => "only a draft can be started",
        (CampaignAction::Approve, _) => "it does not wait for approval",
        (CampaignAction::Pause, _) => "only one that runs can be paused",
        (CampaignAction::Resume, _) => "only one that is paused or cancelled can be resumed",
        (CampaignAction::Cancel, _) => "it has ended",
    };
    format!("campaign {id} is {}: {needs}", campaign.state)
}
