//! What a campaign would do, and has not done.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Error, content_of};
use crate::audience::{Rule, Warning};
use crate::campaign::{Common, Content, Member, Members, Reach, Reachable, Recipient};
use crate::store::{CampaignTexts, RecipientRow, Store};

/// Messages that a preview shows, at most.
pub const SAMPLES_MAX: usize = 10;
/// And unless it is asked for others.
pub const SAMPLES: usize = 3;

/// What a campaign would do, with the fields of the API.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// Recipients that were handed in and could be read, or that its audience picks now. None: counting
    /// them takes too long.
    pub recipients: Option<i64>,
    /// Those of its audience without an address on the channel, who get nothing. None: as `recipients`.
    pub without_address: Option<i64>,
    /// The others by channel and language.
    pub parts: Vec<Part>,
    /// What they cost by the `cost` of their channels; none where one of them has none.
    pub cost: Option<String>,
    /// Of what that is.
    pub currency: Option<String>,
    /// The first of them as they would go; of an audience, some.
    pub samples: Vec<Sample>,
    /// The rules of its audience. None: recipients are uploaded.
    pub rules: Option<Box<RawValue>>,
    /// What is odd about them.
    pub warnings: Vec<Warning>,
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
    /// The key of a recipient of an audience.
    pub recipient: Option<String>,
    /// To whom; empty where there is no address.
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
pub async fn preview(
    store: &Store,
    id: Uuid,
    texts: &CampaignTexts,
    samples: usize,
    now: Timestamp,
) -> Result<Preview, Error> {
    let content = content_of(texts)?;
    let looker = Looker {
        name: id.to_string(),
        reach: Reachable::parse(texts.reach.as_bytes())
            .ok()
            .filter(|_| texts.reach != "{}"),
        content: &content,
        now,
    };
    match &texts.audience {
        None => Ok(looker.of_upload(texts, samples)),
        Some(rules) => looker.of_audience(store, texts, rules, samples).await,
    }
}

/// A campaign that is looked at.
struct Looker<'a> {
    name: String,
    content: &'a Content,
    reach: Option<Reachable>,
    now: Timestamp,
}

impl Looker<'_> {
    fn of_upload(&self, texts: &CampaignTexts, samples: usize) -> Preview {
        let counts = texts.counts.as_deref().unwrap_or("[]");
        let parts: Vec<Part> = serde_json::from_str(counts).unwrap_or_default();
        let lines = texts.first_chunk.as_deref().unwrap_or_default().lines();
        let recipients = lines.filter_map(|line| serde_json::from_str(line).ok());
        Preview {
            recipients: Some(texts.planned),
            without_address: Some(0),
            cost: self.cost(&parts),
            parts,
            currency: self.content.currency().map(str::to_owned),
            samples: recipients
                .take(samples)
                .map(|recipient| self.sample(&recipient))
                .collect(),
            rules: None,
            warnings: Vec::new(),
        }
    }

    /// As its audience is now.
    async fn of_audience(
        &self,
        store: &Store,
        texts: &CampaignTexts,
        rules: &str,
        samples: usize,
    ) -> Result<Preview, Error> {
        let rule = Rule::parse(rules).map_err(|_| Error::NewerContent)?;
        let tenant = texts.tenant;
        // By the database's clock.
        let today = store.now().await?.to_zoned(TimeZone::UTC).date();
        let channel = self.content.default_channel();
        let found = store
            .audience_parts(tenant, &rule, today, &channel.name)
            .await?;
        let keys = match &found {
            Some(parts) if !parts.is_empty() => {
                store
                    .sample_audience(tenant, &rule, today, samples as i64)
                    .await?
            }
            _ => None,
        };
        let region = texts.region.as_deref();
        let mut members = Members::new(self.content, region.and_then(|region| region.parse().ok()));
        let mut shown = Vec::new();
        for key in keys.unwrap_or_default() {
            // Whoever was deleted just now is none.
            if let Some(row) = store.recipient_by_key(tenant, &key).await? {
                shown.push(self.sample_of(&mut members, &row));
            }
        }
        let all = found.as_ref().map(|parts| parts.iter());
        let without = all.clone().map(|parts| {
            let without = parts.filter(|part| !part.has_address);
            without.map(|part| part.recipients).sum()
        });
        let mut counts = BTreeMap::<&str, u64>::new();
        for part in all
            .clone()
            .into_iter()
            .flatten()
            .filter(|part| part.has_address)
        {
            let language = channel.language_of(part.language.as_deref(), self.content.language());
            let count = u64::try_from(part.recipients).unwrap_or_default();
            *counts.entry(language.as_str()).or_default() += count;
        }
        let parts = counts.into_iter().map(|(language, recipients)| Part {
            channel: channel.name.to_string(),
            language: language.to_owned(),
            recipients,
        });
        let parts: Vec<_> = parts.collect();
        let warnings = rule.warnings().into_iter();
        Ok(Preview {
            recipients: all.map(|parts| parts.map(|part| part.recipients).sum()),
            without_address: without,
            cost: found.as_ref().and_then(|_| self.cost(&parts)),
            parts,
            currency: self.content.currency().map(str::to_owned),
            samples: shown,
            rules: RawValue::from_string(rule.json().to_owned()).ok(),
            warnings: warnings.map(|warning| warning.within("/rules")).collect(),
        })
    }

    fn cost(&self, parts: &[Part]) -> Option<String> {
        let cost = parts.iter().try_fold(0_u128, |sum, part| {
            let micros = self.content.channel(&part.channel)?.cost_micros?;
            Some(sum + u128::from(micros) * u128::from(part.recipients))
        });
        cost.map(|micros| format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000))
    }

    fn sample_of(&self, members: &mut Members, row: &RecipientRow) -> Sample {
        let of = &row.recipient;
        let member = Member {
            key: &of.key,
            addresses: &of.addresses,
            language: of.language.as_deref(),
            timezone: of.timezone.as_deref(),
            attributes: &of.attributes,
        };
        let channel = self.content.default_channel();
        let sample = match members.recipient(&member) {
            Ok(recipient) => self.sample(&recipient),
            Err(error) => Sample {
                recipient: None,
                to: of
                    .addresses
                    .get(&*channel.name)
                    .cloned()
                    .unwrap_or_default(),
                channel: channel.name.to_string(),
                language: channel
                    .language_of(member.language, self.content.language())
                    .to_string(),
                kind: String::new(),
                queue: String::new(),
                args: None,
                not_before: None,
                error: Some(error.to_string()),
            },
        };
        Sample {
            recipient: Some(of.key.clone()),
            ..sample
        }
    }

    fn sample(&self, recipient: &Recipient) -> Sample {
        let timezone = self.reach.as_ref();
        let timezone = timezone.and_then(|reach| reach.zone().iana_name());
        let common = Common {
            campaign: &self.name,
            timezone: timezone.unwrap_or("UTC"),
        };
        let zone = recipient.timezone.as_deref();
        let zone = zone.and_then(|zone| TimeZone::get(zone).ok());
        let reach = self.reach.as_ref();
        let not_before = match reach.map(|reach| reach.at(zone.as_ref(), self.now)) {
            Some(Reach::Closed { opens_at }) => Some(opens_at),
            _ => None,
        };
        let to = recipient.to.clone();
        match self.content.render(recipient, common) {
            Ok(message) => Sample {
                recipient: None,
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
                recipient: None,
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
}
