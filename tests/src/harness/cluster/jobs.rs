//! The jobs of a cluster: handed in, looked at, waited for.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{JobFilter, JobRow};
use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::super::endpoints::connect;
use super::super::eventually::eventually;
use super::Cluster;

impl Cluster {
    /// Enqueues jobs, and says their ids.
    pub async fn enqueue(&self, jobs: &[NewJob]) -> anyhow::Result<Vec<JobId>> {
        self.store.enqueue(jobs, false).await?;
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        self.accepted.lock().await.extend(&ids);
        Ok(ids)
    }

    /// A job that posts to the provider.
    pub fn webhook(&self) -> NewJob {
        job(
            "webhook",
            &json!({"url": format!("{}/webhook", self.provider.url()), "body": "hi"}),
        )
    }

    /// A job, wherever it is.
    pub async fn job(&self, id: JobId) -> anyhow::Result<JobRow> {
        let filter = JobFilter {
            ids: Some(vec![*id.as_uuid()]),
            limit: 2,
            ..JobFilter::default()
        };
        let mut rows = self.store.jobs(&filter).await?;
        ensure!(rows.len() == 1, "job {id} exists {} times", rows.len());
        Ok(rows.remove(0))
    }

    /// How many jobs are in which state.
    pub async fn states(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let sql = "select state::text, count(*) from postroad.jobs group by 1";
        let rows = self.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Waits until so many jobs are in this state.
    pub async fn wait_for(&self, state: &str, count: i64) -> anyhow::Result<()> {
        eventually(format_args!("{count} jobs are {state}"), async || {
            let states = self.states().await?;
            let found = states.get(state).copied().unwrap_or(0);
            ensure!(found == count, "jobs are {states:?}");
            Ok(())
        })
        .await
    }

    /// Waits until a job is in this state, and returns it.
    pub async fn wait_for_job(&self, id: JobId, state: &str) -> anyhow::Result<JobRow> {
        eventually(format_args!("job {id} is {state}"), async || {
            let job = self.job(id).await?;
            ensure!(job.state == state, "it is {job:?}");
            Ok(job)
        })
        .await
    }

    /// Waits until workers have so many messages of the queue `default` in hand. A worker that forgot
    /// one would never ack it.
    pub async fn wait_for_unacked(&self, count: u64) -> anyhow::Result<()> {
        eventually(format_args!("{count} messages are in hand"), async || {
            let unacked = self.vhost().unacked("default").await?;
            ensure!(unacked == count, "{unacked} are");
            Ok(())
        })
        .await
    }

    /// Runs a statement in the test's own session.
    pub async fn query(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Vec<Row>> {
        let mut session = self.sql.lock().await;
        let client = match session.take().filter(|client| !client.is_closed()) {
            Some(client) => session.insert(client),
            None => session.insert(connect(&self.site.database_url).await?),
        };
        let rows = client.query(sql, params).await;
        rows.with_context(|| format!("running {sql}"))
    }

    /// A session of the test's own, for transactions.
    pub async fn session(&self) -> anyhow::Result<Client> {
        connect(&self.site.database_url).await
    }

    /// How long messages of the queues that there are may wait in RabbitMQ.
    pub async fn set_pipe_ttl(&self, ttl: &str) -> anyhow::Result<()> {
        let sql = "update postroad.queue set pipe_ttl = $1::text::interval";
        self.query(sql, &[&ttl]).await.map(drop)
    }

    /// How long a kind rests before its second attempt; workers set it when they start.
    pub async fn set_backoff(&self, kind: &str, base: &str) -> anyhow::Result<()> {
        let sql = "update postroad.kind set backoff_base = $2::text::interval where name = $1";
        self.query(sql, &[&kind, &base]).await.map(drop)
    }
}

/// A job of a kind, with these args.
pub fn job(kind: &str, args: &Value) -> NewJob {
    let kind = kind.parse().expect("a test's kinds have names");
    let args = serde_json::value::to_raw_value(args).expect("a value is JSON");
    NewJob::new(kind, args)
}

/// A text message.
pub fn sms() -> NewJob {
    job("sms", &json!({"to": "+33639980606", "text": "hi"}))
}

/// So many text messages.
pub fn many_sms(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| sms()).collect()
}
