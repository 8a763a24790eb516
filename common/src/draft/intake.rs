//! Recipients on their way into a draft: any number, in constant memory.
//!
//! What can be read is kept in chunks of a thousand recipients of one time zone, written while the next
//! ones are read. What cannot is told by line.
//!
//! What if it breaks off, or the process dies? Nothing of it is the campaign's before the last line has
//! been read and kept: the upload is thrown away, at once or by a scheduler's pruner, and is sent again
//! from the beginning.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::preview::Part;
use super::{Error, content_of};
use crate::campaign::{Content, Format, Line, Reader, Recipient};
use crate::store::{self, CampaignAction, CampaignTexts, NewChunk, Store};

/// Bytes that are read as lines at once.
pub const PIECE: usize = 64 * 1024;
/// Recipients of one campaign.
pub const RECIPIENTS_MAX: u64 = 10_000_000;
/// Recipients in a chunk, at most.
const CHUNK: usize = 1000;
/// Recipients that wait for their chunk to be full, over all zones; then the largest go as they are.
const WAITING_MAX: usize = 20_000;
/// And the bytes of those: there may be six hundred zones.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a chunk from which on it is full.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks in a statement.
const CHUNKS: usize = 8;

/// A line that is no recipient, with the fields of the API.
#[derive(Debug, Serialize)]
pub struct RefusedLine {
    /// Its number, from 1; the header of a CSV is line 1.
    pub line: u64,
    /// The column or member; empty where it is the whole line.
    pub field: String,
    /// What is wrong.
    pub error: String,
}

/// How an upload ended, with the fields of the API.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// Lines that are recipients of the campaign now. Zero if `complete` is false.
    pub accepted: u64,
    /// Lines that were refused.
    pub rejected: u64,
    /// Columns that the content does not know: they were passed over.
    pub ignored_columns: Vec<String>,
    /// Whether all was read and kept. False: nothing was.
    pub complete: bool,
    /// The campaign's state now, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// An upload that is being read.
pub struct Intake {
    reader: Reader,
    content: Content,
    kept: Kept,
    counts: Counts,
}

impl Intake {
    /// The recipients of a draft, instead of those that it has.
    pub fn new(
        store: Store,
        id: Uuid,
        texts: &CampaignTexts,
        format: Format,
    ) -> Result<Self, Error> {
        if texts.state != "draft" {
            return Err(Error::NoDraft(texts.state.clone()));
        }
        if texts.audience.is_some() {
            return Err(Error::HasAudience);
        }
        let content = content_of(texts)?;
        let region = texts.region.as_deref();
        let region = region.and_then(|region| region.parse().ok());
        Ok(Self {
            reader: Reader::new(format, &content, region),
            kept: Kept::new(store, id, texts.reach != "{}"),
            content,
            counts: Counts::default(),
        })
    }

    /// Reads the next bytes, cut anywhere, into `lines`; at most [`PIECE`] of them, for little memory.
    pub fn read(&mut self, piece: &[u8], lines: &mut Vec<Line>) -> Result<(), Error> {
        let read = self.reader.feed(piece, lines);
        read.map_err(|refused| Error::Unreadable(refused.what))
    }

    /// Reads what is left when there are no more bytes.
    pub fn read_rest(&mut self, lines: &mut Vec<Line>) -> Result<(), Error> {
        let read = self.reader.finish(lines);
        read.map_err(|refused| Error::Unreadable(refused.what))
    }

    /// Keeps a recipient; what is none is answered.
    pub async fn keep(&mut self, line: Line) -> Result<Option<RefusedLine>, Error> {
        let recipient = match line.recipient {
            Ok(recipient) => recipient,
            Err(error) => {
                self.counts.rejected += 1;
                return Ok(Some(RefusedLine {
                    line: line.number,
                    field: error.field,
                    error: error.what,
                }));
            }
        };
        self.counts.accepted += 1;
        if self.counts.accepted > RECIPIENTS_MAX {
            return Err(Error::TooMany);
        }
        self.kept.keep(&self.content, &recipient).await?;
        Ok(None)
    }

    /// Lines that were taken so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted
    }

    /// Makes all of it the campaign's, and starts that if it is to be. A draft without recipients
    /// stays one.
    pub async fn finish(&mut self, is_started: bool) -> Result<(), Error> {
        let recipients = self.counts.accepted;
        self.counts.state = self.kept.finish(recipients, is_started).await?;
        self.counts.complete = true;
        Ok(())
    }

    /// Throws away what did not come to its end.
    pub async fn drop_all(&mut self) {
        self.kept.drop_all().await;
        self.counts.accepted = 0;
    }

    /// What has come of it.
    pub fn into_counts(self) -> Counts {
        Counts {
            ignored_columns: self.reader.ignored_columns().to_vec(),
            ..self.counts
        }
    }
}

/// Recipients on their way into the database.
struct Kept {
    store: Store,
    campaign: Uuid,
    upload: Uuid,
    has_zones: bool,
    zones: HashMap<String, Zone>,
    waiting: usize,
    waiting_bytes: usize,
    full: Vec<NewChunk>,
    under_way: Option<JoinHandle<Result<bool, store::Error>>>,
    counts: BTreeMap<(String, String), u64>,
}

/// Recipients of one zone that have no chunk yet.
#[derive(Default)]
struct Zone {
    body: String,
    recipients: usize,
    chunks: i32,
}

impl Kept {
    fn new(store: Store, campaign: Uuid, has_zones: bool) -> Self {
        Self {
            store,
            campaign,
            upload: Uuid::now_v7(),
            has_zones,
            zones: HashMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            full: Vec::new(),
            under_way: None,
            counts: BTreeMap::new(),
        }
    }

    async fn keep(&mut self, content: &Content, recipient: &Recipient) -> Result<(), Error> {
        self.count(content, recipient);
        let zone = match self.has_zones {
            true => recipient.timezone.as_deref().unwrap_or_default(),
            false => "",
        };
        if !self.zones.contains_key(zone) {
            self.zones.insert(zone.to_owned(), Zone::default());
        }
        let Some(waiting) = self.zones.get_mut(zone) else {
            return Ok(());
        };
        let before = waiting.body.len();
        waiting.body += &serde_json::to_string(recipient).unwrap_or_default();
        waiting.body.push('\n');
        waiting.recipients += 1;
        self.waiting += 1;
        self.waiting_bytes += waiting.body.len() - before;
        if waiting.recipients == CHUNK || waiting.body.len() >= CHUNK_BYTES {
            let zone = zone.to_owned();
            self.fill(&zone).await?;
        } else if self.waiting >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
            let largest = self.zones.iter().max_by_key(|(_, zone)| zone.body.len());
            if let Some(zone) = largest.map(|(name, _)| name.clone()) {
                self.fill(&zone).await?;
            }
        }
        Ok(())
    }

    fn count(&mut self, content: &Content, recipient: &Recipient) {
        let Some(channel) = content.channel_of(recipient) else {
            return;
        };
        let language = channel.language_of(recipient.language.as_deref(), content.language());
        let part = (channel.name.to_string(), language.to_string());
        *self.counts.entry(part).or_default() += 1;
    }

    /// Makes a chunk of what waits for one.
    async fn fill(&mut self, name: &str) -> Result<(), Error> {
        let Some(zone) = self.zones.get_mut(name) else {
            return Ok(());
        };
        if zone.recipients == 0 {
            return Ok(());
        }
        self.waiting -= zone.recipients;
        self.waiting_bytes -= zone.body.len();
        let recipients = std::mem::take(&mut zone.recipients);
        self.full.push(NewChunk {
            zone: name.to_owned(),
            n: zone.chunks,
            recipients: i32::try_from(recipients).unwrap_or(i32::MAX),
            body: std::mem::take(&mut zone.body),
        });
        zone.chunks += 1;
        if self.full.len() >= CHUNKS {
            self.write().await?;
        }
        Ok(())
    }

    /// Writes what is full, while more is read.
    async fn write(&mut self) -> Result<(), Error> {
        self.written().await?;
        let chunks = std::mem::take(&mut self.full);
        let (store, campaign, upload) = (self.store.clone(), self.campaign, self.upload);
        self.under_way = Some(tokio::spawn(async move {
            store.add_chunks(campaign, upload, &chunks).await
        }));
        Ok(())
    }

    /// Waits for what is being written.
    async fn written(&mut self) -> Result<(), Error> {
        let Some(writing) = self.under_way.take() else {
            return Ok(());
        };
        let written = writing.await.map_err(|_| Error::NotKept)??;
        match written {
            true => Ok(()),
            false => Err(no_draft()),
        }
    }

    /// Makes all of it the campaign's; answers with its state, if that is known.
    async fn finish(&mut self, recipients: u64, is_started: bool) -> Result<Option<String>, Error> {
        let zones: Vec<String> = self.zones.keys().cloned().collect();
        for zone in zones {
            self.fill(&zone).await?;
        }
        self.write().await?;
        self.written().await?;
        let parts = self.counts.iter();
        let parts: Vec<Part> = parts
            .map(|((channel, language), recipients)| Part {
                channel: channel.clone(),
                language: language.clone(),
                recipients: *recipients,
            })
            .collect();
        let counts = serde_json::to_string(&parts).unwrap_or_default();
        let recipients = i64::try_from(recipients).unwrap_or(i64::MAX);
        let finished = self
            .store
            .finish_upload(self.campaign, self.upload, recipients, &counts)
            .await?;
        if !finished {
            return Err(no_draft());
        }
        // From here on it is the campaign's: whoever is told otherwise makes another one of it.
        Ok(self.state_after(is_started).await.unwrap_or_else(|error| {
            tracing::warn!(
                "{error}: the state of a campaign whose recipients were taken is not known"
            );
            None
        }))
    }

    async fn state_after(&self, is_started: bool) -> Result<Option<String>, store::Error> {
        if is_started {
            self.store
                .act_on_campaign(self.campaign, CampaignAction::Start)
                .await?;
        }
        let texts = self.store.campaign_texts(self.campaign).await?;
        Ok(texts.map(|texts| texts.state))
    }

    /// What is there of it will never be used. If this fails, a pruner does it.
    async fn drop_all(&mut self) {
        drop(self.written().await);
        if let Err(error) = self.store.drop_upload(self.campaign, self.upload).await {
            tracing::warn!("{error}: left to the pruner");
        }
    }
}

fn no_draft() -> Error {
    Error::NoDraft("no draft any more".to_owned())
}
