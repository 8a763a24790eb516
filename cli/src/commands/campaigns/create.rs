//! A draft, made of a document that is checked before anything is done.

use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use postroad_common::campaign::{Audience, Checked, SUBMISSION_BYTES_MAX, Submission};
use postroad_common::job::TenantName;
use postroad_common::store::{CampaignAction, Store};
use postroad_common::{audience, draft};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::upload::{Source, end, name_of, say_counts, upload};
use super::{How, Which};
use crate::commands::tenants::tenant_id;
use crate::exit;
use crate::output::{line, note};

const TENANT_DEFAULT: &str = "default";

#[derive(clap::Args)]
pub(super) struct Args {
    /// The document (`-`: standard input).
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose it is [default: as the document says, else `default`].
    #[arg(long)]
    tenant: Option<TenantName>,
    /// Send it to whom this audience picks; its rules are taken over as they are now.
    #[arg(long, value_name = "NAME", conflicts_with = "recipients")]
    audience: Option<String>,
    /// Upload these recipients at once (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    recipients: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Start it: when all recipients have been taken, though lines were refused, or at once for an audience.
    #[arg(long)]
    start: bool,
    /// The draft as one JSON object, with the fields of the API.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let is_stdin = |path: &Path| path.as_os_str() == "-";
    if is_stdin(&args.file) && args.recipients.as_deref().is_some_and(is_stdin) {
        return Err(exit::usage(
            "the document and the recipients cannot both be standard input",
        ));
    }
    let has_how = args.how.format.is_some() || args.how.rejects.is_some();
    if has_how && args.recipients.is_none() {
        return Err(exit::usage(
            "--format and --rejects are about --recipients, which is not given",
        ));
    }
    let (submission, mut checked) = document(&args.file).await?;
    checked.audience = audience_of(&args, checked.audience)?;
    let tenant = tenant_of(&args, &submission)?;
    let source = match &args.recipients {
        None => None,
        Some(path) => Some(Source::open(path, &args.how).await?),
    };
    let store = super::store().await?;
    let tenant = tenant_id(&store, &tenant).await?;
    let made = draft::create(&store, tenant, &submission, &checked).await;
    let id = made.map_err(|error| not_made(error, &checked))?;
    if !args.json {
        line(id)?;
    }
    if args.start && source.is_none() {
        return start(&store, id, args.json).await;
    }
    let counts = match source {
        None => None,
        Some(source) => Some(upload(&store, id, source, args.start).await.with_context(|| {
            format!("the draft {id} is made and has no recipients (`postroad campaigns upload {id} FILE`)")
        })?),
    };
    if args.json {
        line(serde_json::to_string(&super::find(&store, id).await?)?)?;
    }
    match counts {
        None => Ok(()),
        Some(counts) => {
            say_counts(&counts, |text| {
                note(text);
                Ok(())
            })?;
            end(id, &counts, args.start)
        }
    }
}

/// Starts a campaign for an audience.
async fn start(store: &Store, id: Uuid, json: bool) -> anyhow::Result<()> {
    let which = Which { id, json };
    let started = super::act(store, &which, CampaignAction::Start).await;
    started.with_context(|| format!("the draft {id} is made (`postroad campaigns start {id}`)"))
}

/// Whom it is for, of which only one may say.
fn audience_of(args: &Args, written: Option<Audience>) -> anyhow::Result<Option<Audience>> {
    let name = name_of(&args.file);
    let audience = match (&args.audience, written) {
        (Some(_), Some(_)) => {
            return Err(exit::usage(format_args!(
                "{name}: /audience: is given by --audience, too"
            )));
        }
        (None, Some(_)) if args.recipients.is_some() => {
            return Err(exit::usage(format_args!(
                "{name}: /audience: a campaign for an audience gets no --recipients"
            )));
        }
        (Some(given), None) if !audience::is_name(given) => {
            return Err(exit::usage(format_args!(
                "--audience: `{given}` is no name of an audience"
            )));
        }
        (Some(given), None) => Some(Audience::Named(given.clone())),
        (None, written) => written,
    };
    if args.start && audience.is_none() && args.recipients.is_none() {
        return Err(exit::usage(
            "--start needs recipients: --recipients FILE, or --audience NAME",
        ));
    }
    Ok(audience)
}

fn not_made(error: draft::Error, checked: &Checked) -> anyhow::Error {
    match (error, &checked.audience) {
        (draft::Error::NoAudience, Some(Audience::Named(name))) => {
            exit::not_found(format_args!("there is no audience `{name}` of this tenant"))
        }
        (error @ draft::Error::UnreadableRules(_), _) => exit::conflict(error),
        (error, _) => error.into(),
    }
}

fn tenant_of(args: &Args, submission: &Submission) -> anyhow::Result<String> {
    match (&args.tenant, &submission.tenant) {
        (Some(given), Some(written)) if given.as_str() != written => {
            Err(exit::usage(format_args!(
                "{}: /tenant: is another one than --tenant {given}",
                name_of(&args.file)
            )))
        }
        (Some(given), _) => Ok(given.to_string()),
        (None, Some(written)) => Ok(written.clone()),
        (None, None) => Ok(TENANT_DEFAULT.to_owned()),
    }
}

async fn document(path: &Path) -> anyhow::Result<(Submission, Checked)> {
    let name = name_of(path);
    // One byte more than may be read says that it is too long.
    let most = SUBMISSION_BYTES_MAX as u64 + 1;
    let mut json = Vec::new();
    if path.as_os_str() == "-" {
        let read = tokio::io::stdin().take(most).read_to_end(&mut json).await;
        read.context("reading standard input")?;
    } else {
        let file = tokio::fs::File::open(path).await;
        let file = file.with_context(|| format!("opening {name}"))?;
        let read = file.take(most).read_to_end(&mut json).await;
        read.with_context(|| format!("reading {name}"))?;
    }
    Submission::parse(&json, Timestamp::now()).map_err(|problems| {
        for problem in &problems {
            note(format_args!("{name}: {problem}"));
        }
        let things = match problems.len() {
            1 => "1 thing is wrong".to_owned(),
            n => format!("{n} things are wrong"),
        };
        exit::usage(format_args!("{things} with {name}: no campaign was made"))
    })
}
