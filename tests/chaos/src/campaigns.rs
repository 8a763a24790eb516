//! Campaigns of the clients: one that is handed in whole and one for an audience, cancelled and
//! resumed, and every recipient a job that a client was promised.
//!
//! Which job a recipient gets is known before there is one: its id comes of the campaign and the
//! recipient. So each is a submit like any other, and the checker asks of it what it asks of all.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use postroad_common::audience;
use postroad_common::campaign::{Common, Content, Member, Members, Recipient, child_id};
use postroad_common::store::{
    Acted, Campaign, CampaignAction, CampaignAudience, NewCampaign, NewChunk, Progress, Scope,
    Store,
};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::history::{Answer, Lost, Resume, Submit};
use crate::load::sha256;
use crate::observer::now;
use crate::schedules::{patiently, tenant_id};

/// Recipients in a chunk: few, so that there are several.
const CHUNK: usize = 50;
/// How long a campaign may take, whatever is broken meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_millis(100);

/// A campaign that runs.
pub struct Sending {
    store: Store,
    id: Uuid,
    tenant: String,
    submits: Vec<Submit>,
}

/// Hands campaigns of so many recipients in, half of them by an upload and half by an audience, for the
/// first tenant, to start after a while: what they send must not be taken for the pace of the other
/// clients before a fault.
pub async fn create(
    store: &Store,
    url: &str,
    recipients: usize,
    starts_after: Duration,
) -> anyhow::Result<Vec<Sending>> {
    if recipients == 0 {
        return Ok(Vec::new());
    }
    let tenant = "tenant-0".to_owned();
    let number = patiently(|| tenant_id(store, &tenant)).await?;
    let store = store.scoped(Scope::Tenant(number));
    let text = content(url, &tenant);
    let content = Content::parse(text.as_bytes())
        .map_err(|problems| anyhow::anyhow!("the content is wrong: {problems:?}"))?;
    let t = now();
    let starts = patiently(|| store.now()).await? + SignedDuration::try_from(starts_after)?;
    let members: Vec<_> = (0..recipients / 2).map(member).collect();
    patiently(|| store.put_recipients(number, &members)).await?;
    let uploaded: Vec<_> = (recipients / 2..recipients).map(recipient).collect();
    let mut sendings = Vec::new();
    for is_for_audience in [false, true] {
        let id = make(&store, number, &text, starts, is_for_audience).await?;
        let campaign = find(&store, id).await?;
        let submits = match is_for_audience {
            true => submits_of_members(&content, &campaign, &members, t)?,
            false => uploaded
                .iter()
                .map(|one| submit(&content, &campaign, one, &one.key(&content), t))
                .collect::<anyhow::Result<_>>()?,
        };
        if !is_for_audience {
            upload(&store, id, &uploaded).await?;
        }
        act(&store, id, CampaignAction::Start, "running").await?;
        sendings.push(Sending {
            store: store.clone(),
            id,
            tenant: tenant.clone(),
            submits,
        });
    }
    Ok(sendings)
}

/// Calls each off and goes on at once, if it has not ended before; and waits for their end.
pub async fn end(mut sendings: Vec<Sending>) -> anyhow::Result<Vec<Submit>> {
    for sending in &mut sendings {
        sending.cancel().await?;
        sending.resume().await?;
    }
    until_made(sendings).await
}

/// Waits until everybody has a job: what was handed in with these campaigns.
pub async fn until_made(sendings: Vec<Sending>) -> anyhow::Result<Vec<Submit>> {
    let mut submits = Vec::new();
    for sending in sendings {
        // What is cancelled will come back.
        let is_made = |now: &Progress| now.not_made == Some(0) && now.cancelled == 0;
        sending.until("everybody has a job", is_made).await?;
        submits.extend(sending.submits);
    }
    Ok(submits)
}

impl Sending {
    /// Calls it off, unless it has ended.
    pub async fn cancel(&self) -> anyhow::Result<()> {
        act(&self.store, self.id, CampaignAction::Cancel, "cancelled").await
    }

    /// Goes on with it, unless it has ended.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let asked = now();
        act(&self.store, self.id, CampaignAction::Resume, "running").await?;
        let answered = now();
        for submit in &mut self.submits {
            submit.resumed.push(Resume { asked, answered });
        }
        Ok(())
    }

    /// How far it is; its parts must be its recipients.
    pub async fn progress(&self) -> anyhow::Result<Progress> {
        let campaign = find(&self.store, self.id).await?;
        let progress = campaign.progress;
        ensure!(
            progress
                .planned
                .is_none_or(|planned| planned == progress.known()),
            "the parts of a campaign of {} are not its recipients: {progress:?}",
            self.tenant
        );
        Ok(progress)
    }

    /// The jobs that its recipients have or will get.
    pub fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.submits.iter().map(|submit| submit.id)
    }

    /// Waits until it has come so far.
    pub async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&Progress) -> bool,
    ) -> anyhow::Result<Progress> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let progress = self.progress().await?;
            if is_so(&progress) {
                return Ok(progress);
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}: {progress:?}"
            );
            tokio::time::sleep(REST).await;
        }
    }
}

fn content(url: &str, tenant: &str) -> String {
    let url = format!("{url}/webhook/{tenant}");
    json!({
        "channels": {
            "sms": {"kind": "sms", "args": {"en": {"to": "{{to}}", "text": "{{campaign}} {{to}}"}}},
            "hook": {"kind": "webhook", "address": "text", "args": {
                "en": {"url": url, "body": "{{campaign}} {{to}}"},
            }},
        },
        "channel": "sms",
        "language": "en",
    })
    .to_string()
}

fn recipient(n: usize) -> Recipient {
    Recipient {
        to: format!("+3363998{n:04}"),
        channel: n.is_multiple_of(2).then(|| "hook".to_owned()),
        language: None,
        timezone: None,
        variables: Vec::new(),
    }
}

/// The nth of the tenant's recipients.
fn member(n: usize) -> audience::Recipient {
    audience::Recipient {
        key: format!("user-{n}"),
        addresses: [("sms".to_owned(), format!("+3363998{n:04}"))].into(),
        ..audience::Recipient::default()
    }
}

fn submits_of_members(
    content: &Content,
    campaign: &Campaign,
    members: &[audience::Recipient],
    t: f64,
) -> anyhow::Result<Vec<Submit>> {
    let mut read = Members::new(content, None);
    let submit = |one: &audience::Recipient| {
        let member = Member {
            key: &one.key,
            addresses: &one.addresses,
            language: None,
            timezone: None,
            attributes: &one.attributes,
        };
        let recipient = read.recipient(&member)?;
        submit(content, campaign, &recipient, &member.identity(), t)
    };
    members.iter().map(submit).collect()
}

fn submit(
    content: &Content,
    campaign: &Campaign,
    recipient: &Recipient,
    key: &[u8],
    t: f64,
) -> anyhow::Result<Submit> {
    let name = campaign.id.to_string();
    let common = Common {
        campaign: &name,
        timezone: "UTC",
    };
    let message = content.render(recipient, common)?;
    let id = child_id(campaign.id, key, campaign.created_at);
    let kind = message.channel.kind.to_string();
    let args: serde_json::Value = serde_json::from_str(message.args.get())?;
    // What the provider gets: of a webhook its body, of a text message all args.
    let (on_lost, body) = match kind.as_str() {
        "webhook" => (
            Lost::Retry,
            args["body"].as_str().context("a body")?.to_owned(),
        ),
        _ => (Lost::Hold, message.args.get().to_owned()),
    };
    Ok(Submit {
        t,
        id,
        tenant: campaign.tenant.clone(),
        kind,
        on_lost,
        due: t,
        expires: None,
        dedup_key: None,
        tick: None,
        body_sha256: Some(sha256(&body)),
        over_http: false,
        resumed: Vec::new(),
        answer: Answer::Accepted(id),
    })
}

async fn make(
    store: &Store,
    tenant: i32,
    content: &str,
    starts: Timestamp,
    is_for_audience: bool,
) -> anyhow::Result<Uuid> {
    let new = NewCampaign {
        name: "chaos",
        content,
        queues: &["default"],
        kinds: &["sms", "webhook"],
        reach: "{}",
        region: None,
        start_at: Some(starts),
        expires_at: None,
        rate_per_second: None,
        canary_share: None,
        failure_max: None,
        needs_approval: false,
        audience: is_for_audience.then_some(CampaignAudience {
            rules: r#"{"all":true}"#,
            name: None,
        }),
    };
    // A draft whose answer was lost is one that nobody starts.
    patiently(|| store.create_campaign(tenant, &new)).await
}

async fn upload(store: &Store, id: Uuid, recipients: &[Recipient]) -> anyhow::Result<()> {
    let chunk = |(n, some): (usize, &[Recipient])| -> anyhow::Result<NewChunk> {
        let lines: Result<Vec<_>, _> = some.iter().map(serde_json::to_string).collect();
        Ok(NewChunk {
            zone: String::new(),
            n: i32::try_from(n)?,
            recipients: i32::try_from(some.len())?,
            body: lines?.join("\n"),
        })
    };
    let chunks = recipients.chunks(CHUNK).enumerate().map(chunk);
    let chunks = chunks.collect::<anyhow::Result<Vec<_>>>()?;
    let count = i64::try_from(recipients.len())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Of an upload of which nobody knows whether it was taken, another one is made.
        let upload = Uuid::now_v7();
        let added = store.add_chunks(id, upload, &chunks).await;
        let finished = match added {
            Ok(true) => store.finish_upload(id, upload, count, "[]").await,
            other => other,
        };
        match finished {
            Ok(true) => return Ok(()),
            Ok(false) => anyhow::bail!("the campaign is no draft"),
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(REST).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Until it is so, whether an answer was lost or not; a campaign that has ended stays so.
async fn act(store: &Store, id: Uuid, action: CampaignAction, state: &str) -> anyhow::Result<()> {
    let acted = patiently(|| store.act_on_campaign(id, action)).await?;
    if acted == Acted::Done {
        return Ok(());
    }
    let now = find(store, id).await?.state;
    ensure!(
        now == state || now == "finished",
        "it is {now}, and not {state}"
    );
    Ok(())
}

async fn find(store: &Store, id: Uuid) -> anyhow::Result<Campaign> {
    let found = patiently(|| store.find_campaign(id)).await?;
    found.context("the campaign is gone")
}
