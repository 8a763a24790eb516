//! What a campaign would do, and has not done.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Error, content_of};
use crate::campaign::{Common, Content, Reach, Reachable, Recipient};
use crate::store::CampaignTexts;

/// Messages that a preview shows, at most.
pub const SAMPLES_MAX: usize = 10;
/// And unless it is asked for others.
pub const SAMPLES: usize = 3;

/// What a campaign would do, with the fields of the API.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// Recipients that were handed in and could be read.
    pub recipients: i64,
    /// By channel and language.
    pub parts: Vec<Part>,
    /// What they cost by the `cost` of their channels; none where one of them has none.
    pub cost: Option<String>,
    /// Of what that is.
    pub currency: Option<String>,
    /// The first of them as they would go.
    pub samples: Vec<Sample>,
}

/// Recipients of one channel and language.
#[derive(Debug, Deserialize, Serialize)]
pub struct Part {
    /// The channel.
    pub channel: String,
    /// The language that they get it in.
    pub language: String,
    /// How many.
    pub recipients: u64,
}

/// One message as it would go.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// To whom.
    pub to: String,
    /// On which channel.
    pub channel: String,
    /// In which language.
    pub language: String,
    /// The kind of its job; empty where there is no message.
    pub kind: String,
    /// The queue of its job; empty where there is no message.
    pub queue: String,
    /// The job's args.
    pub args: Option<Box<RawValue>>,
    /// When the recipient may be reached next, if not now.
    pub not_before: Option<Timestamp>,
    /// Why there is no message.
    pub error: Option<String>,
}

/// What a campaign would do if it were started now, with so many messages.
pub fn preview(
    id: Uuid,
    texts: &CampaignTexts,
    samples: usize,
    now: Timestamp,
) -> Result<Preview, Error> {
    let content = content_of(texts)?;
    let counts = texts.counts.as_deref().unwrap_or("[]");
    let parts: Vec<Part> = serde_json::from_str(counts).unwrap_or_default();
    let cost = parts.iter().try_fold(0_u128, |sum, part| {
        let micros = content.channel(&part.channel)?.cost_micros?;
        Some(sum + u128::from(micros) * u128::from(part.recipients))
    });
    let reach = Reachable::parse(texts.reach.as_bytes()).ok();
    let reach = reach.filter(|_| texts.reach != "{}");
    let lines = texts.first_chunk.as_deref().unwrap_or_default().lines();
    let recipients = lines.filter_map(|line| serde_json::from_str(line).ok());
    Ok(Preview {
        recipients: texts.planned,
        parts,
        cost: cost.map(|micros| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)),
        currency: content.currency().map(str::to_owned),
        samples: recipients
            .take(samples)
            .map(|recipient| sample(id, &content, reach.as_ref(), &recipient, now))
            .collect(),
    })
}

fn sample(
    id: Uuid,
    content: &Content,
    reach: Option<&Reachable>,
    recipient: &Recipient,
    now: Timestamp,
) -> Sample {
    let campaign = id.to_string();
    let timezone = reach.and_then(|reach| reach.zone().iana_name());
    let common = Common {
        campaign: &campaign,
        timezone: timezone.unwrap_or("UTC"),
    };
    let zone = recipient.timezone.as_deref();
    let zone = zone.and_then(|zone| TimeZone::get(zone).ok());
    let not_before = match reach.map(|reach| reach.at(zone.as_ref(), now)) {
        Some(Reach::Closed { opens_at }) => Some(opens_at),
        _ => None,
    };
    let to = recipient.to.clone();
    match content.render(recipient, common) {
        Ok(message) => Sample {
            to,
            channel: message.channel.name.to_string(),
            language: message.language.to_string(),
            kind: message.channel.kind.to_string(),
            queue: message.channel.queue.to_string(),
            args: Some(message.args),
            not_before,
            error: None,
        },
        Err(error) => Sample {
            to,
            channel: error.channel,
            language: error.language,
            kind: String::new(),
            queue: String::new(),
            args: None,
            not_before,
            error: Some(error.what),
        },
    }
}
