//! One line for each request, in an append-only file.
//!
//! One thread writes; the requests hand their records to it through a bounded queue, and a request
//! is answered only once its record is in the queue.
//! It flushes when the queue is empty, so a quiet file is a complete one, and a busy one is
//! written in large pieces.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::http::request;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// Records that may wait for the disk; when it is full, requests wait too.
const RECORDS_QUEUED_MAX: usize = 8 * 1024;

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 256 * 1024;

/// One request as it reached the provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When its head had been read, in Unix seconds.
    pub t: f64,
    /// The path it was sent to.
    pub path: String,
    /// Header `webhook-id`.
    pub id: Option<String>,
    /// Header `idempotency-key`.
    pub key: Option<String>,
    /// Header `postroad-attempt`.
    pub attempt: Option<u32>,
    /// SHA-256 of the body, in hexadecimal; of nothing where the body was above the limit.
    pub body_sha256: String,
    /// Size of the body; 0 where it was above the limit.
    pub bytes: usize,
    /// How the provider decided to answer; whether the client waited for it is not known yet.
    pub status: Status,
    /// Whether the provider did what the request asks for.
    pub effect: bool,
    /// Header `webhook-timestamp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_timestamp: Option<String>,
    /// Header `webhook-signature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_signature: Option<String>,
    /// Header `postroad-sms-sender`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sms_sender: Option<String>,
    /// The body itself; only in memory, and only with [`Config::keep_bodies`](super::Config).
    #[serde(skip)]
    pub body: Option<Bytes>,
}

/// How a request was answered, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The connection was reset.
    Reset,
    /// The answer broke off in mid-body.
    Half,
    /// This HTTP status.
    #[serde(untagged)]
    Code(u16),
}

impl Record {
    /// What a request says of itself; how it ends is not decided yet.
    pub(super) fn of(head: &request::Parts, body: &Bytes, t: f64) -> Self {
        let text = |name| header(&head.headers, name);
        Self {
            t,
            path: head.uri.path().to_owned(),
            id: text("webhook-id"),
            key: text("idempotency-key"),
            attempt: text("postroad-attempt").and_then(|attempt| attempt.parse().ok()),
            body_sha256: hex(&Sha256::digest(body)),
            bytes: body.len(),
            status: Status::Code(0),
            effect: false,
            webhook_timestamp: text("webhook-timestamp"),
            sms_sender: text("postroad-sms-sender"),
            webhook_signature: text("webhook-signature"),
            body: None,
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// The writing end of the file. The thread ends when every sender is dropped.
pub(super) fn open(path: &Path) -> anyhow::Result<(mpsc::Sender<Record>, Writer)> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the record file {}", path.display()))?;
    let (sender, records) = mpsc::channel(RECORDS_QUEUED_MAX);
    let thread = thread::Builder::new()
        .name("records".to_owned())
        .spawn(move || write(file, records))
        .context("starting the thread that writes records")?;
    Ok((sender, Writer { thread }))
}

/// The thread that writes.
pub(super) struct Writer {
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Waits until everything is in the file; blocks.
    pub(super) fn join(self) -> anyhow::Result<()> {
        self.thread.join().expect("writing records does not panic")
    }
}

fn write(file: File, mut records: mpsc::Receiver<Record>) -> anyhow::Result<()> {
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
    while let Some(record) = records.blocking_recv() {
        write_line(&mut file, &record)?;
        while let Ok(record) = records.try_recv() {
            write_line(&mut file, &record)?;
        }
        file.flush().context("writing to the record file")?;
    }
    Ok(())
}

fn write_line(file: &mut BufWriter<File>, record: &Record) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *file, record).context("writing to the record file")?;
    file.write_all(b"\n").context("writing to the record file")
}
