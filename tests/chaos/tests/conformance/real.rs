//! The room with a database in it.

use std::time::Duration;

use postroad_chaos::sim::model_store::Millis;
use postroad_common::job::{JobId, NewJob, QueueName};
use postroad_common::store::{
    Cursor, DueQueue, Fenced, NewProcess, Outcome, ProcessId, Resolution, Role, Ruling, Store,
    Wanted,
};
use postroad_tests::harness::database::TestDatabase;
use tokio_postgres::Client;

use crate::doors::{
    ALL, Claiming, Door, LEASE, told_claim, told_enqueued, told_failed, told_ids, told_queues,
};

/// The real store, on a database of its own.
pub(crate) struct Real {
    store: Store,
    sql: Client,
    _database: TestDatabase,
}

impl Real {
    pub(crate) async fn open() -> Self {
        let database = TestDatabase::create().await;
        let sql = database.client().await;
        sql.batch_execute(MINUTES).await.unwrap();
        Self {
            store: database.store(),
            sql,
            _database: database,
        }
    }

    /// As the migrations left it, but for the names that are known by now.
    pub(crate) async fn empty(&self) {
        let sql = "truncate postroad.job, postroad.dedup, postroad.archive, postroad.attempt_error;
            truncate postroad.process restart identity;
            update postroad.queue set window_size = 2000, paused_at = null";
        self.sql.batch_execute(sql).await.unwrap();
    }

    /// The database's clock.
    pub(crate) async fn now(&self) -> Millis {
        let sql = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn queue(&self, name: &QueueName) -> DueQueue {
        let sql = "select id from postroad.queue where name = $1";
        let row = self.sql.query_one(sql, &[&name.as_str()]).await.unwrap();
        DueQueue {
            id: row.get(0),
            name: name.to_string(),
            window: 0,
            pipe_ttl: Duration::ZERO,
        }
    }
}

impl Door for Real {
    async fn enqueue(&mut self, jobs: &[NewJob], is_resend: bool) -> String {
        told_enqueued(&self.store.enqueue(jobs, is_resend).await.unwrap())
    }

    async fn due_queues(&mut self) -> String {
        told_queues(&self.store.due_queues(&[]).await.unwrap())
    }

    async fn claim(&mut self, claiming: &Claiming) -> Vec<String> {
        let Claiming {
            queue,
            limit,
            credit_min,
            claimer,
            ..
        } = claiming;
        let queue = self.queue(queue).await;
        let wanted = Wanted {
            credit_min: *credit_min,
            ..Wanted::up_to(*limit)
        };
        let claims = self
            .store
            .claim(&queue, wanted, *claimer, &Cursor::default())
            .await;
        let jobs = claims
            .unwrap()
            .map_or_else(Vec::new, |claimed| claimed.jobs);
        jobs.iter().map(told_claim).collect()
    }

    async fn release(&mut self, jobs: &[(Fenced, Duration)]) -> String {
        told_ids(self.store.release(jobs).await.unwrap())
    }

    async fn gate(&mut self, worker: ProcessId, jobs: &[Fenced], is_again: bool) -> String {
        let answer = match is_again {
            false => self.store.gate(worker, jobs).await,
            true => self.store.gate_again(worker, jobs).await,
        };
        format!("{:?}", answer.unwrap())
    }

    async fn finish(&mut self, outcomes: &[Outcome]) -> String {
        format!("{:?}", self.store.finish(outcomes).await.unwrap())
    }

    async fn release_never_run(&mut self, worker: ProcessId, jobs: &[Fenced]) -> String {
        let released = self.store.release_never_run(worker, jobs).await;
        format!("{:?}", released.unwrap())
    }

    async fn register(&mut self, role: Role) -> ProcessId {
        let process = NewProcess {
            role,
            host: "conformance".to_owned(),
            pid: 1,
            version: "0",
            queues: Vec::new(),
            lease: LEASE,
            prefetch: None,
        };
        self.store.register(&process).await.unwrap()
    }

    async fn beat(&mut self, process: ProcessId) -> String {
        format!("{:?}", self.store.beat(process).await.unwrap())
    }

    async fn stop(&mut self, process: ProcessId) -> String {
        format!("{:?}", self.store.stop(process).await.unwrap())
    }

    async fn watched(&mut self) -> String {
        let mut watched = self.store.watched_processes().await.unwrap();
        watched.sort_by_key(|process| process.id);
        format!(
            "{:?}",
            watched
                .iter()
                .map(|one| (one.id, one.lease))
                .collect::<Vec<_>>()
        )
    }

    async fn call_lost(&mut self, process: ProcessId, has_beaten: bool) -> String {
        let watched = self.store.watched_processes().await.unwrap();
        let Some(seen) = watched.iter().find(|one| one.id == process) else {
            return "not watched".to_owned();
        };
        if has_beaten {
            self.store.beat(process).await.unwrap();
        }
        format!("{:?}", self.store.call_lost(seen).await.unwrap())
    }

    async fn release_unstarted(&mut self, slack: Duration) -> String {
        let released = self.store.release_unstarted(slack, ALL as i64).await;
        format!("{:?}", released.unwrap())
    }

    async fn end_lost_runs(&mut self) -> String {
        format!("{:?}", self.store.end_lost_runs(ALL as i64).await.unwrap())
    }

    async fn failed_of(&mut self, jobs: &[Fenced]) -> String {
        told_failed(self.store.failed_of(jobs).await.unwrap())
    }

    async fn failed_long_ago(&mut self, age: Duration) -> String {
        told_failed(self.store.failed_long_ago(age, ALL as i64).await.unwrap())
    }

    async fn rule(&mut self, rulings: &[Ruling]) -> String {
        format!("{:?}", self.store.rule(rulings).await.unwrap())
    }

    async fn note_errors(&mut self, jobs: &[JobId]) -> String {
        format!(
            "{:?}",
            self.store
                .note_errors(jobs, "refused", "text")
                .await
                .unwrap()
        )
    }

    async fn expire(&mut self) -> String {
        format!("{:?}", self.store.expire(ALL as i64).await.unwrap())
    }

    async fn resolve(&mut self, jobs: &[JobId], to: Resolution) -> String {
        told_ids(self.store.resolve(jobs, to).await.unwrap())
    }

    async fn census(&mut self) -> String {
        format!("{:?}", self.store.census().await.unwrap())
    }

    async fn age(&mut self, by: Duration) {
        let sql = format!(
            "update postroad.job set
                run_at = run_at - {0}, expires_at = expires_at - {0}, claimed_at = claimed_at - {0},
                started_at = started_at - {0}, ended_at = ended_at - {0};
             update postroad.dedup set expires_at = expires_at - {0}",
            format_args!("interval '{} s'", by.as_secs())
        );
        self.sql.batch_execute(&sql).await.unwrap();
    }

    async fn set_queue(&mut self, queue: &QueueName, window: i64, is_paused: bool) {
        self.store.register_queues(&[queue.as_str()]).await.unwrap();
        let sql = "update postroad.queue
            set window_size = $2, paused_at = case when $3 then now() end where name = $1";
        let window = i32::try_from(window).unwrap();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&queue.as_str(), &window, &is_paused];
        self.sql.execute(sql, &params).await.unwrap();
    }

    async fn rows(&mut self) -> Vec<String> {
        let found = self.sql.query(ROWS, &[]).await.unwrap();
        let mut rows: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        rows.sort();
        rows
    }
}

/// Every row that the model has, too.
const ROWS: &str = "
    select format('%s is %s, fence %s, attempt %s, of %s, on %s, fatal %s, retry after %s, '
                  'priority %s, at %s, until %s, claimed %s, started %s, ended %s',
                  id, postroad.live_state(stage, started_at), dispatch, attempt,
                  coalesce(claimed_by::text, '-'), coalesce(worker_id::text, '-'), fatal,
                  coalesce(extract(epoch from retry_after)::bigint::text, '-'), priority,
                  minutes(run_at), minutes(expires_at), minutes(claimed_at), minutes(started_at),
                  minutes(ended_at))
    from postroad.job
    union all
    select format('%s is %s, fence %s, attempt %s, reason %s', id, state, dispatch, attempt,
                  coalesce(reason, '-'))
    from postroad.archive
    union all
    select format('error of %s, attempt %s: %s', job_id, attempt, code) from postroad.attempt_error
    union all
    select format('process %s, lost %s, stopped %s', id, lost_at is not null,
                  stopped_at is not null)
    from postroad.process";

/// How far from now, in whole minutes.
const MINUTES: &str = "
    create function minutes(at timestamptz) returns text language sql as $$
        select coalesce(round(extract(epoch from at - now()) / 60)::bigint::text, '-')
    $$";
