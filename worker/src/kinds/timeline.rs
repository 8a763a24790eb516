//! `timeline`: something for one recipient to find in the product itself.
//!
//! The effect is a row of the same database, with the job's id in its key: made again, it is the
//! same. Rows that are asked for while a statement is under way go into the next one together.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use postroad_common::audience::{self, Invalid, KEY_BYTES_MAX, Recipient};
use postroad_common::store::{self, NewEntry, Store};
use postroad_common::timeline::{Message, MessageInput};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::read_object;
use crate::{Done, Handler, JobContext, JobError};

/// Rows in a statement.
const BATCH: usize = 500;
/// Connections of a worker for this kind.
const CONNECTIONS_MAX: usize = 2;

/// The handler of `timeline`.
#[derive(Debug)]
pub struct Timeline {
    rows: mpsc::Sender<Row>,
}

/// A row to be made, and who waits for it.
struct Row {
    entry: NewEntry,
    made: oneshot::Sender<Result<(), Arc<store::Error>>>,
}

/// What a `timeline` job is given, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct TimelineArgs {
    recipient: String,
    language: Option<String>,
    ends_at: Option<Timestamp>,
    message: Message,
}

/// Beside what is shown: to whom, in which language, and until when.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    recipient: String,
    title: Option<String>,
    body: Option<String>,
    url: Option<String>,
    data: Option<Map<String, Value>>,
    language: Option<String>,
    ends_at: Option<String>,
}

/// Args that are nothing to be shown. What is wrong is said without repeating them: errors are logged.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEntry {
    /// Not the fields that it has.
    #[error(transparent)]
    Shape(#[from] serde_json::Error),
    /// Nobody can be called so.
    #[error("recipient: not 1 to {KEY_BYTES_MAX} bytes without characters of control")]
    Recipient,
    /// Not the shape of BCP 47.
    #[error("language: not a tag such as fr or fr-CA")]
    Language,
    /// Not a moment.
    #[error("ends_at: not a time such as 2027-05-01T00:00:00Z")]
    EndsAt,
    /// A part of the message cannot be taken.
    #[error("{0}")]
    Message(Invalid),
}

impl TryFrom<Box<RawValue>> for TimelineArgs {
    type Error = InvalidEntry;

    fn try_from(json: Box<RawValue>) -> Result<Self, InvalidEntry> {
        let fields: Fields = read_object(&json, "an object with `recipient` and `title`")?;
        if !Recipient::is_key(&fields.recipient) {
            return Err(InvalidEntry::Recipient);
        }
        // Empty is what a template leaves of a variable that is.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let language = given(fields.language);
        let language = language.map(|tag| audience::language(&tag)).transpose();
        let ends_at = given(fields.ends_at).map(|at| at.parse::<Timestamp>());
        let ends_at = ends_at.transpose().map_err(|_| InvalidEntry::EndsAt)?;
        let message = MessageInput {
            title: fields.title,
            body: fields.body,
            url: given(fields.url),
            data: fields.data,
        };
        Ok(Self {
            recipient: fields.recipient,
            language: language.map_err(|_| InvalidEntry::Language)?,
            // Postgres knows no time before 4713 BC.
            ends_at: ends_at.map(|at| at.max(Timestamp::UNIX_EPOCH)),
            message: message.into_message().map_err(InvalidEntry::Message)?,
        })
    }
}

impl Timeline {
    /// Writes to this database, over connections of its own, which are made when the first job comes.
    pub fn new(database: &store::Settings) -> anyhow::Result<Self> {
        let settings = database.clone().with_connections(CONNECTIONS_MAX);
        let store = Store::new(settings).context("the kind timeline")?;
        let (rows, asked) = mpsc::channel(BATCH);
        // Ends with the handler.
        drop(tokio::spawn(write(store, asked)));
        Ok(Self { rows })
    }
}

impl Handler for Timeline {
    const KIND: &'static str = "timeline";
    type Args = TimelineArgs;

    async fn run(&self, job: JobContext, args: TimelineArgs) -> Result<Done, JobError> {
        let entry = NewEntry {
            id: *job.id.as_uuid(),
            tenant: job.tenant,
            recipient: args.recipient,
            language: args.language,
            ends_at: args.ends_at,
            message: args.message,
        };
        let (made, answer) = oneshot::channel();
        let gone = || JobError::retry(anyhow!("the worker is about to end"));
        let sent = self.rows.send(Row { entry, made }).await;
        sent.map_err(|_| gone())?;
        // An error leaves it open whether the row is there: making it again is no harm.
        let made = answer.await.map_err(|_| gone())?;
        made.map_err(|error| JobError::retry(anyhow!("{error}")))?;
        Ok(Done::empty())
    }
}

async fn write(store: Store, mut asked: mpsc::Receiver<Row>) {
    let mut rows = Vec::with_capacity(BATCH);
    while asked.recv_many(&mut rows, BATCH).await > 0 {
        let (entries, waiting): (Vec<_>, Vec<_>) =
            rows.drain(..).map(|row| (row.entry, row.made)).unzip();
        let made = store.put_entries(&entries).await;
        let made = made.map(drop).map_err(Arc::new);
        for one in waiting {
            // Whoever does not wait any more was cut off, and its job is made again.
            drop(one.send(made.clone()));
        }
    }
}
