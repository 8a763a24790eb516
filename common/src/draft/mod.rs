//! Drafts of campaigns: made, given their recipients, and looked at before anything is sent. What the
//! API and the command line do alike about them; neither HTTP nor files are known here.

mod intake;
mod preview;

pub use intake::{Counts, Intake, PIECE, RECIPIENTS_MAX, RefusedLine};
pub use preview::{Part, Preview, SAMPLES, SAMPLES_MAX, Sample, preview};

use uuid::Uuid;

use crate::audience::{self, Rule};
use crate::campaign::{Audience, Checked, Content, Submission};
use crate::store::{self, CampaignAudience, CampaignTexts, NewCampaign, Store};

/// What of a draft cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of an upload can be read.
    #[error("the upload {0}")]
    Unreadable(String),
    /// An upload has more recipients than a campaign may have.
    #[error("a campaign may have {RECIPIENTS_MAX} recipients")]
    TooMany,
    /// The campaign has been started, or has ended.
    #[error("the campaign is {0}: recipients are those of a draft")]
    NoDraft(String),
    /// Its recipients come from elsewhere.
    #[error("the campaign is for an audience: it gets no other recipients")]
    HasAudience,
    /// The tenant has no audience of this name.
    #[error("there is no such audience")]
    NoAudience,
    /// What a newer version has kept may say more than this one understands.
    #[error("the rules of this audience cannot be read: {0}")]
    UnreadableRules(audience::Invalid),
    /// What it says cannot be read by this program.
    #[error("its content was made by a newer version")]
    NewerContent,
    /// What was to be written never was.
    #[error("the recipients could not be kept")]
    NotKept,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes a draft for a tenant of what was submitted, and answers its id. An audience is looked up now:
/// what becomes of it later is not the campaign's.
pub async fn create(
    store: &Store,
    tenant: i32,
    submission: &Submission,
    checked: &Checked,
) -> Result<Uuid, Error> {
    let (rule, audience_name) = match &checked.audience {
        None => (None, None),
        Some(Audience::Rules(rule)) => (Some(rule.clone()), None),
        Some(Audience::Named(name)) => {
            let row = store.audience(tenant, name).await?;
            let row = row.ok_or(Error::NoAudience)?;
            let rule = Rule::parse(row.rules.get()).map_err(Error::UnreadableRules)?;
            (Some(rule), Some(name.as_str()))
        }
    };
    let channels = checked.content.channels();
    let queues: Vec<_> = channels.iter().map(|one| one.queue.as_str()).collect();
    let kinds: Vec<_> = channels.iter().map(|one| one.kind.as_str()).collect();
    let new = NewCampaign {
        name: submission.name.as_deref().unwrap_or_default(),
        content: &checked.content_text,
        queues: &queues,
        kinds: &kinds,
        reach: &checked.reach,
        region: submission.region.as_deref(),
        start_at: submission.start_at,
        expires_at: submission.expires_at,
        rate_per_second: submission.rate_per_second,
        canary_share: submission.canary_share,
        failure_max: submission.failure_max,
        needs_approval: submission.needs_approval,
        audience: rule.as_ref().map(|rule| CampaignAudience {
            rules: rule.json(),
            name: audience_name,
        }),
    };
    Ok(store.create_campaign(tenant, &new).await?)
}

fn content_of(texts: &CampaignTexts) -> Result<Content, Error> {
    Content::parse(texts.content.as_bytes()).map_err(|_| Error::NewerContent)
}
