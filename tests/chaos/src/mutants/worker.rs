//! A worker that does one thing after the other, and one of them wrong.

use std::time::Duration;

use anyhow::Context as _;
use postroad_common::broker::{Broker, Connection, Delivery, Settle, Subscription, topology};
use postroad_common::health::Health;
use postroad_common::job::JobId;
use postroad_common::membership::Membership;
use postroad_common::message::Envelope;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Ending, Fenced, Gate, GateVerdict, NewProcess, Outcome, Role, Store};
use serde_json::Value;

use super::Bug;

const QUEUE: &str = "default";
const PREFETCH: u16 = 20;

pub(super) struct Worker {
    bug: Bug,
    store: Store,
    broker: Broker,
    membership: Membership,
    gateway: String,
    http: reqwest::Client,
    shutdown: Shutdown,
    /// The args of the last job, for the next one.
    last_body: Option<String>,
}

impl Worker {
    pub(super) async fn join(
        bug: Bug,
        store: Store,
        broker: Broker,
        gateway: String,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let process = NewProcess {
            role: Role::Worker,
            host: "here".to_owned(),
            pid: std::process::id(),
            version: "rogue",
            queues: vec![QUEUE.to_owned()],
            lease: Duration::from_secs(60),
            prefetch: None,
        };
        let membership = Membership::join(store.clone(), process, &Health::new(), shutdown).await?;
        Ok(Self {
            bug,
            store,
            broker,
            membership,
            gateway,
            http: reqwest::Client::new(),
            shutdown: shutdown.clone(),
            last_body: None,
        })
    }

    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let (mut connection, mut lane) = self.consume().await?;
        if self.bug == Bug::StaleAck {
            (connection, lane) = self.ack_stale(connection, lane).await?;
        }
        loop {
            let delivery = tokio::select! {
                delivery = lane.next() => delivery?,
                () = self.shutdown.quiesce.cancelled() => break,
            };
            if self.bug == Bug::AckBeforeCommit {
                // Each on its own, so that more than one is under way.
                self.settle(&lane, delivery.tag).await;
                let worker = self.twin();
                tokio::spawn(async move { worker.handle(&delivery).await });
                continue;
            }
            self.handle_mut(&delivery).await?;
            if self.bug == Bug::GateOff {
                // As the broker does when an ack is lost.
                self.handle_mut(&delivery).await?;
            }
            if self.bug != Bug::NeverAck {
                self.settle(&lane, delivery.tag).await;
            }
        }
        lane.settler().flush().await;
        connection.close().await?;
        Ok(())
    }

    async fn consume(&self) -> anyhow::Result<(Connection, Subscription)> {
        let connection = self.broker.connect("rogue").await?;
        topology::declare(&connection, &[QUEUE.to_owned()]).await?;
        let queue = topology::work_queue(QUEUE);
        let lane = Subscription::open(&connection, &queue, PREFETCH, "rogue").await?;
        Ok((connection, lane))
    }

    async fn settle(&self, lane: &Subscription, tag: u64) {
        lane.settler().settle(vec![(tag, Settle::Ack)]).await;
    }

    /// Loses its connection with deliveries in hand, and acks them over the next one.
    async fn ack_stale(
        &self,
        connection: Connection,
        mut lane: Subscription,
    ) -> anyhow::Result<(Connection, Subscription)> {
        let mut tags = Vec::new();
        while tags.len() < 5 {
            tags.push(lane.next().await?.tag);
        }
        connection.close().await?;
        let (connection, mut lane) = self.consume().await?;
        for _ in &tags {
            drop(lane.next().await?);
        }
        let stale = tags.into_iter().map(|tag| (tag, Settle::Ack)).collect();
        lane.settler().settle(stale).await;
        Ok((connection, lane))
    }

    fn twin(&self) -> Self {
        Self {
            bug: self.bug,
            store: self.store.clone(),
            broker: self.broker.clone(),
            membership: self.membership.clone(),
            gateway: self.gateway.clone(),
            http: self.http.clone(),
            shutdown: self.shutdown.clone(),
            last_body: None,
        }
    }

    async fn handle(mut self, delivery: &Delivery) -> anyhow::Result<()> {
        self.handle_mut(delivery).await
    }

    async fn handle_mut(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        // One job in each: a worker that says no prefetch gets no bundles.
        let envelope = delivery.message.clone().into_jobs()?.remove(0);
        let job = Fenced {
            id: envelope.id,
            dispatch: envelope.dispatch,
        };
        if self.bug == Bug::RunExpired {
            let due = Duration::from_secs(5);
            tokio::time::sleep(due).await;
        }
        if !self.may_start(job).await? {
            return Ok(());
        }
        let ending = match self.bug {
            Bug::CompleteWithoutCall => Ending::Completed(None),
            _ => self.call(&envelope).await?,
        };
        self.record(job, ending).await
    }

    async fn may_start(&self, job: Fenced) -> anyhow::Result<bool> {
        let id = self.membership.last_id();
        let verdict = match self.store.gate(id, &[job]).await? {
            Gate::Judged(verdicts) => verdicts.first().copied(),
            Gate::WorkerIsLost => None,
        };
        Ok(match verdict {
            Some(GateVerdict::Start { .. }) => true,
            Some(GateVerdict::Expired) => self.bug == Bug::RunExpired,
            _ => self.bug == Bug::GateOff,
        })
    }

    async fn call(&mut self, envelope: &Envelope) -> anyhow::Result<Ending> {
        let (url, mut body) = self.request(envelope)?;
        if self.bug == Bug::TenantsMixed {
            body = self.last_body.replace(body.clone()).unwrap_or(body);
        }
        let key = match self.bug {
            Bug::UnknownId => JobId::new(),
            _ => envelope.id,
        };
        if self.bug == Bug::CallTwice {
            self.post(&url, key, body.clone()).await.ok();
        }
        Ok(match self.post(&url, key, body).await {
            Ok(status) if status.is_success() => Ending::Completed(None),
            Ok(status) => failed(status.to_string()),
            Err(error) if self.bug == Bug::HoldRetried => failed(error.to_string()),
            Err(error) => Ending::Unknown {
                code: "unknown",
                message: error.to_string(),
            },
        })
    }

    fn request(&self, envelope: &Envelope) -> anyhow::Result<(String, String)> {
        let text = String::from_utf8(envelope.body.clone())?;
        if envelope.kind == "sms" {
            return Ok((self.gateway.clone(), text));
        }
        let args: Value = serde_json::from_str(&text)?;
        let field = |name: &str| args[name].as_str().map(str::to_owned);
        let (url, body) = field("url")
            .zip(field("body"))
            .context("a webhook has both")?;
        Ok((url, body))
    }

    async fn post(
        &self,
        url: &str,
        key: JobId,
        body: String,
    ) -> reqwest::Result<reqwest::StatusCode> {
        let request = self
            .http
            .post(url)
            .header("idempotency-key", key.to_string())
            .body(body);
        Ok(request.send().await?.status())
    }

    async fn record(&self, job: Fenced, ending: Ending) -> anyhow::Result<()> {
        match (self.bug, &ending) {
            (Bug::FailureDropped, Ending::Failed { .. }) => {
                return self
                    .sql("delete from postroad.job where id = $1", job.id)
                    .await;
            }
            (Bug::AttemptNotCharged, _) => {
                let sql = "update postroad.job set attempt = attempt - 1 where id = $1";
                self.sql(sql, job.id).await?;
            }
            (Bug::FenceIgnored, _) => {
                // Somebody else has claimed and started it meanwhile.
                let sql = "update postroad.job set dispatch = dispatch + 2 where id = $1";
                self.sql(sql, job.id).await?;
                let newest = Fenced {
                    dispatch: job.dispatch + 2,
                    ..job
                };
                return self.finish(newest, ending).await;
            }
            _ => {}
        }
        self.finish(job, ending).await
    }

    async fn finish(&self, job: Fenced, ending: Ending) -> anyhow::Result<()> {
        self.store.finish(&[Outcome { job, ending }]).await?;
        Ok(())
    }

    async fn sql(&self, sql: &str, id: JobId) -> anyhow::Result<()> {
        let connection = self.store.own_connection().await?;
        connection.execute(sql, &[id.as_uuid()]).await?;
        Ok(())
    }
}

fn failed(message: String) -> Ending {
    Ending::Failed {
        fatal: false,
        retry_after: None,
        code: "failed",
        message,
    }
}
