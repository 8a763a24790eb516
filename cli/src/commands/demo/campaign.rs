//! A campaign of millions over the API: uploaded in one request, cancelled in the middle, resumed, and
//! its sums compared with what the provider has counted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::simulator::SimulatorClient;
use crate::cluster::http_client;
use crate::output::{self, Line};

/// Lines of the upload in a piece.
const PIECE: u64 = 1000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long the campaign may stand still before something is wrong. Longer than any lease.
const STALL: Duration = Duration::from_secs(120);

/// The API, and what it is asked about.
pub(super) struct CampaignDemo<'a> {
    pub(super) api: &'a str,
    pub(super) token: &'a str,
    pub(super) simulator: &'a SimulatorClient,
    pub(super) line: &'a Line,
    /// Recipients that are uploaded.
    pub(super) recipients: u64,
    /// Messages that arrive before the demo ends.
    pub(super) drained: u64,
}

/// Where the recipients of the campaign are, as the API says.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Progress {
    planned: u64,
    not_made: u64,
    duplicates: u64,
    rejected: u64,
    scheduled: u64,
    in_pipe: u64,
    running: u64,
    failed: u64,
    held: u64,
    delivered: u64,
    dead: u64,
    cancelled: u64,
    expired: u64,
    suppressed: u64,
}

impl Progress {
    fn under_way(&self) -> u64 {
        self.scheduled + self.in_pipe + self.running + self.failed
    }

    fn all(&self) -> u64 {
        self.not_made
            + self.duplicates
            + self.rejected
            + self.under_way()
            + self.held
            + self.delivered
            + self.dead
            + self.cancelled
            + self.expired
            + self.suppressed
    }
}

/// The figures of the demo.
pub(super) struct CampaignReport {
    progress: Progress,
    accept_time: Duration,
    drain_time: Duration,
    /// How long the API took to answer that everything is stopped.
    cancel_time: Duration,
    /// What the provider heard after that answer.
    after_cancel: u64,
    arrived: u64,
    duplicates: u64,
}

impl CampaignReport {
    /// To standard output, one `key=value` a line.
    pub(super) fn print(&self) {
        let Progress {
            planned,
            not_made,
            delivered,
            dead,
            held,
            cancelled,
            expired,
            suppressed,
            ..
        } = self.progress;
        let drain = self.drain_time.as_secs_f64();
        let text = format!(
            "accepted={planned}\ndelivered={delivered}\nnot_made={not_made}\ndead={dead}\nheld={held}\n\
             cancelled={cancelled}\nexpired={expired}\nsuppressed={suppressed}\nsum={}\nlost={}\n\
             duplicates={}\naccept_seconds={:.2}\ncancel_seconds={:.3}\nafter_cancel={}\n\
             drain_seconds={drain:.2}\njobs_per_second={:.0}\n",
            self.progress.all(),
            self.lost(),
            self.duplicates,
            self.accept_time.as_secs_f64(),
            self.cancel_time.as_secs_f64(),
            self.after_cancel,
            delivered as f64 / drain,
        );
        // Everything has to be stopped, whether anybody reads this or not.
        drop(output::print(&text));
    }

    /// Delivered by the books, and not with the provider.
    fn lost(&self) -> u64 {
        self.progress.delivered.saturating_sub(self.arrived)
    }

    /// Fails when anything was lost or arrived twice, or when the sums are not all.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        let (all, planned) = (self.progress.all(), self.progress.planned);
        ensure!(all == planned, "the parts are {all}, and not {planned}");
        match (self.lost(), self.duplicates) {
            (0, 0) => Ok(()),
            (lost, duplicates) => bail!("{lost} lost, {duplicates} arrived twice"),
        }
    }
}

impl CampaignDemo<'_> {
    pub(super) async fn run(&self) -> anyhow::Result<CampaignReport> {
        let campaign = self.create().await?;
        let started = Instant::now();
        self.upload(&campaign).await?;
        let accept_time = started.elapsed();
        self.line.say(&format!(
            "{} recipients accepted in {:.1} s; sending",
            self.recipients,
            accept_time.as_secs_f64()
        ));

        let started = Instant::now();
        self.until_delivered(&campaign, self.drained / 2).await?;
        let cancelling = Instant::now();
        self.act(&campaign, "cancel").await?;
        let cancel_time = cancelling.elapsed();
        let before = self.simulator.report().await?.effects;
        let halfway = self.until_settled(&campaign).await?;
        let after_cancel = self.simulator.report().await?.effects - before;
        self.line.say(&format!(
            "cancelled in {:.0} ms: {} delivered, {} called off, {} never made; the provider heard {after_cancel} more, which ran",
            cancel_time.as_secs_f64() * 1000.0,
            halfway.delivered,
            halfway.cancelled,
            halfway.not_made
        ));

        self.act(&campaign, "resume").await?;
        self.until_delivered(&campaign, self.drained).await?;
        if self.drained < self.recipients {
            self.act(&campaign, "cancel").await?;
        }
        let progress = self.until_settled(&campaign).await?;
        let drain_time = started.elapsed();
        let counts = self.simulator.report().await?;
        Ok(CampaignReport {
            progress,
            accept_time,
            drain_time,
            cancel_time,
            after_cancel,
            arrived: counts.delivered,
            duplicates: counts.duplicates,
        })
    }

    /// Makes the draft; answers its path.
    async fn create(&self) -> anyhow::Result<String> {
        let body = json!({
            "name": "postroad demo",
            "content": {
                "channels": {"sms": {
                    "kind": "sms",
                    "queue": "sms",
                    // Numbers with a country code that nobody has are taken as they are.
                    "address": "text",
                    "args": {
                        "en": {"to": "{{to}}", "text": "Hello {{name}}! Your parcel arrives today."},
                        "fr": {"to": "{{to}}", "text": "Bonjour {{name}} ! Votre colis arrive aujourd'hui."},
                    },
                }},
                "language": "en",
                "variables": {"name": {"default": "friend"}},
            },
        });
        let made = self.ask(Method::POST, "/v1/campaigns", Some(&body)).await?;
        let id = made["id"].as_str().context("the API names no campaign")?;
        Ok(format!("/v1/campaigns/{id}"))
    }

    /// In one request, made as it is sent: neither here nor there are they ever all in memory.
    async fn upload(&self, campaign: &str) -> anyhow::Result<()> {
        let (recipients, line) = (self.recipients, self.line);
        let pieces = stream::unfold(0, move |from| async move {
            if from >= recipients {
                return None;
            }
            let until = (from + PIECE).min(recipients);
            Some((Ok::<_, std::convert::Infallible>(piece(from, until)), until))
        });
        line.show("uploading recipients".to_owned());
        let url = format!("{}{campaign}/recipients?start=true", self.api);
        let request = http_client()?
            .put(url)
            .bearer_auth(self.token)
            .header(header::CONTENT_TYPE, "text/csv")
            .body(Body::wrap_stream(pieces));
        let answer = request.send().await.context("uploading recipients")?;
        let (status, text) = (answer.status(), answer.text().await?);
        let last = text.lines().last().unwrap_or_default();
        let counts: Value = serde_json::from_str(last).unwrap_or_default();
        ensure!(
            status.is_success() && counts["complete"] == true,
            "the upload was not taken: {status} {last}"
        );
        ensure!(counts["accepted"] == recipients, "{last}");
        Ok(())
    }

    async fn act(&self, campaign: &str, action: &str) -> anyhow::Result<()> {
        self.ask(Method::POST, &format!("{campaign}/{action}"), None)
            .await
            .map(drop)
    }

    async fn progress(&self, campaign: &str) -> anyhow::Result<Progress> {
        let answer = self.ask(Method::GET, campaign, None).await?;
        serde_json::from_value(answer["progress"].clone()).context("reading the progress")
    }

    async fn until_delivered(&self, campaign: &str, count: u64) -> anyhow::Result<()> {
        let is_there = |progress: &Progress| progress.delivered >= count;
        self.until(campaign, is_there).await.map(drop)
    }

    /// Until nothing of it is under way.
    async fn until_settled(&self, campaign: &str) -> anyhow::Result<Progress> {
        self.until(campaign, |progress| progress.under_way() == 0)
            .await
    }

    async fn until(
        &self,
        campaign: &str,
        is_reached: impl Fn(&Progress) -> bool,
    ) -> anyhow::Result<Progress> {
        let (mut moved_at, mut before) = (Instant::now(), None);
        loop {
            let progress = self.progress(campaign).await?;
            if is_reached(&progress) {
                return Ok(progress);
            }
            let now = (progress.delivered, progress.under_way());
            if before != Some(now) {
                (before, moved_at) = (Some(now), Instant::now());
            }
            if moved_at.elapsed() > STALL {
                bail!(
                    "the campaign has stood still for {STALL:?}: {progress:?}; the logs are kept"
                );
            }
            self.line.show(format!(
                "not made {}  waiting {}  in the pipe {}  delivered {}",
                progress.not_made,
                progress.scheduled,
                progress.in_pipe + progress.running,
                progress.delivered
            ));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let what = format!("{method} {path}");
        let mut request = http_client()?
            .request(method, format!("{}{path}", self.api))
            .bearer_auth(self.token);
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await.with_context(|| what.clone())?;
        let (status, bytes): (StatusCode, Bytes) = (answer.status(), answer.bytes().await?);
        let text = String::from_utf8_lossy(&bytes);
        ensure!(status.is_success(), "{what}: {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("{what}: {text}"))
    }
}

/// Lines of the upload, the header before the first.
fn piece(from: u64, until: u64) -> Bytes {
    let mut text = String::new();
    if from == 0 {
        text += "to,name,language\n";
    }
    for n in from..until {
        let language = if n.is_multiple_of(3) { "fr" } else { "en" };
        text += &format!("+999{n:09},person {n},{language}\n");
    }
    text.into()
}
