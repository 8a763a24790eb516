//! The simulated provider, from outside: a program of its own, asked over HTTP.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postroad_common::job::JobId;
use serde::Deserialize;
use uuid::Uuid;

use crate::cluster::{Cluster, http_client};

const PROGRAM: &str = "postroad-simulator";
const UP_WITHIN: Duration = Duration::from_secs(10);
/// Ids per question.
const SEEN_AT_ONCE: usize = 10_000;

/// The way to the provider.
pub(super) struct SimulatorClient {
    url: String,
    record: PathBuf,
    client: reqwest::Client,
}

/// What the provider counted.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Counts {
    /// Messages that took effect.
    pub(super) effects: u64,
    /// Different ones among them.
    pub(super) delivered: u64,
    /// The rest.
    pub(super) duplicates: u64,
    /// All calls, with and without effect.
    requests: u64,
}

/// A call, as the provider wrote it down.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) id: Option<Uuid>,
    pub(super) effect: bool,
    pub(super) body_sha256: String,
    pub(super) webhook_timestamp: Option<String>,
    pub(super) webhook_signature: Option<String>,
}

impl SimulatorClient {
    pub(super) async fn start(cluster: &mut Cluster, flags: &str) -> anyhow::Result<Self> {
        let record = cluster.dir().join("provider.ndjson");
        remove(&record)?;
        let mut args: Vec<_> = ["--listen", "127.0.0.1:0", "--record"]
            .map(Into::into)
            .into();
        args.push(record.clone().into());
        args.extend(flags.split_whitespace().map(Into::into));
        remove(&cluster.dir().join("log").join(format!("{PROGRAM}.log")))?;
        let log = cluster.start_tool(PROGRAM, args)?;
        let url = first_line(&log).await?;
        Ok(Self {
            url,
            record,
            client: http_client()?,
        })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(super) async fn report(&self) -> anyhow::Result<Counts> {
        let answer = self
            .client
            .get(self.url("/report"))
            .send()
            .await?
            .error_for_status()?;
        serde_json::from_slice(&answer.bytes().await?).context("reading the provider's report")
    }

    /// Those of `ids` that took effect.
    pub(super) async fn seen(&self, ids: &[JobId]) -> anyhow::Result<HashSet<JobId>> {
        let mut seen = HashSet::new();
        for some in ids.chunks(SEEN_AT_ONCE) {
            let request = self
                .client
                .post(self.url("/seen"))
                .body(serde_json::to_vec(some)?);
            let answer = request
                .header("content-type", "application/json")
                .send()
                .await?;
            let bytes = answer.error_for_status()?.bytes().await?;
            seen.extend(serde_json::from_slice::<Vec<JobId>>(&bytes)?);
        }
        Ok(seen)
    }

    /// Every call so far, from the provider's own record, once it is all in the file.
    pub(super) async fn calls(&self) -> anyhow::Result<Vec<Call>> {
        let requests = self.report().await?.requests;
        let until = Instant::now() + UP_WITHIN;
        loop {
            let text = std::fs::read_to_string(&self.record).context("reading the record")?;
            let calls: Vec<Call> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if calls.len() as u64 >= requests {
                return Ok(calls);
            }
            if Instant::now() >= until {
                bail!("the provider recorded {} of {requests} calls", calls.len());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The simulator prints `listening=URL` when it is up.
async fn first_line(log: &Path) -> anyhow::Result<String> {
    let until = Instant::now() + UP_WITHIN;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(url) = text
            .lines()
            .find_map(|line| line.strip_prefix("listening="))
        {
            return Ok(url.to_owned());
        }
        if Instant::now() >= until {
            bail!("the simulated provider did not start: {text}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
