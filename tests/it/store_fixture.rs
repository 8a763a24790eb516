//! A store to itself, and the shortest ways to jobs in the states that tests begin with.

use std::time::Duration;

use jiff::Timestamp;
use postroad_common::job::{JobId, NewJob, OnLost};
use postroad_common::store::{
    Claim, Cursor, DueQueue, Ending, Fenced, Gate, GateVerdict, Moved, NewProcess, NewSchedule,
    Outcome, ProcessId, Role, Store, Wanted, WatchedProcess,
};
use postroad_tests::harness::database::TestDatabase;
use postroad_tests::harness::eventually::eventually;
use serde_json::value::to_raw_value;
use tokio_postgres::Client;
use uuid::Uuid;

/// More than any test has.
pub(crate) const ALL: i64 = 1_000_000;

/// A database with a scheduler and a worker registered.
pub(crate) struct Room {
    pub(crate) store: Store,
    pub(crate) sql: Client,
    pub(crate) scheduler: ProcessId,
    pub(crate) worker: ProcessId,
    pub(crate) database: TestDatabase,
}

impl Room {
    pub(crate) async fn open() -> Self {
        let database = TestDatabase::create().await;
        let store = database.store();
        Self {
            sql: database.client().await,
            scheduler: register(&store, Role::Scheduler, LEASE).await,
            worker: register(&store, Role::Worker, LEASE).await,
            store,
            database,
        }
    }

    /// A further worker.
    pub(crate) async fn another_worker(&self) -> ProcessId {
        register(&self.store, Role::Worker, LEASE).await
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> JobId {
        self.enqueue_all(&[job]).await[0]
    }

    pub(crate) async fn enqueue_all(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let enqueued = self.store.enqueue(jobs, false).await.unwrap();
        enqueued.iter().map(|one| one.id).collect()
    }

    /// The queue as the dispatcher sees it; it must have due jobs.
    pub(crate) async fn due_queue(&self, name: &str) -> DueQueue {
        let mut due = self.store.due_queues(&[]).await.unwrap().into_iter();
        due.find(|queue| queue.name == name).unwrap()
    }

    /// Claims up to `limit` jobs of a queue.
    pub(crate) async fn claim(&self, queue: &DueQueue, limit: i64) -> Vec<Claim> {
        let claims = self
            .store
            .claim(
                queue,
                Wanted::up_to(limit),
                self.scheduler,
                &Cursor::default(),
            )
            .await;
        claims
            .unwrap()
            .map_or_else(Vec::new, |claimed| claimed.jobs)
    }

    /// Claims all that is due in the default queue.
    pub(crate) async fn claim_all(&self) -> Vec<Fenced> {
        let queue = self.due_queue("default").await;
        let claims = self.claim(&queue, ALL).await;
        claims.iter().map(fence).collect()
    }

    /// Enqueues a job and claims it.
    pub(crate) async fn dispatched(&self, job: NewJob) -> Fenced {
        let id = self.enqueue(job).await;
        let claims = self.claim_all().await;
        claims.into_iter().find(|claim| claim.id == id).unwrap()
    }

    /// Enqueues a job, claims it and starts it.
    pub(crate) async fn running(&self, job: NewJob) -> Fenced {
        let job = self.dispatched(job).await;
        assert_eq!(self.start(job).await, GateVerdict::Start { attempt: 1 });
        job
    }

    /// What the gate says to the worker about one job.
    pub(crate) async fn start(&self, job: Fenced) -> GateVerdict {
        self.start_by(self.worker, job).await
    }

    pub(crate) async fn start_by(&self, worker: ProcessId, job: Fenced) -> GateVerdict {
        match self.store.gate(worker, &[job]).await.unwrap() {
            Gate::Judged(verdicts) => verdicts[0],
            Gate::WorkerIsLost => panic!("worker {worker} is not lost"),
        }
    }

    /// Ends one attempt.
    pub(crate) async fn finish(&self, job: Fenced, ending: Ending) -> Moved {
        let outcome = Outcome { job, ending };
        self.store.finish(&[outcome]).await.unwrap()[0]
    }

    /// What a rescuer does about a worker it has not heard of.
    pub(crate) async fn call_lost(&self, process: ProcessId) {
        let watched = self.store.watched_processes().await.unwrap();
        let is_process = |one: &&WatchedProcess| one.id == process;
        let seen = watched.iter().find(is_process).unwrap();
        assert!(self.store.call_lost(seen).await.unwrap());
    }

    /// The state that people see.
    pub(crate) async fn state(&self, id: JobId) -> String {
        self.look(id, "state::text").await
    }

    /// One column of what people see of a job.
    pub(crate) async fn look<T>(&self, id: JobId, column: &str) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let sql = format!("select {column} from postroad.jobs where id = $1");
        let row = self.sql.query_one(&sql, &[id.as_uuid()]).await.unwrap();
        row.get(0)
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap();
    }

    /// The first column of the only row.
    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// A partition of the archive for a day that is over, unless it is there.
    pub(crate) async fn add_archive_day(&self, days_ago: i32) {
        self.execute(&format!(
            "do $$ declare day date := (now() at time zone 'UTC')::date - {days_ago}; begin
                execute format(
                    'create table if not exists postroad.%I partition of postroad.archive
                        for values from (%L) to (%L)',
                    'archive_' || to_char(day, 'YYYYMMDD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
            end $$"
        ))
        .await;
    }

    /// As if these jobs had been finished so many days before. An update is nothing to the ledger.
    pub(crate) async fn finished_days_ago(&self, ids: &[JobId], days_ago: i32) {
        self.add_archive_day(days_ago).await;
        let ids: Vec<_> = ids.iter().map(|id| *id.as_uuid()).collect();
        let sql = "update postroad.archive
            set finished_at = finished_at - $2 * interval '24 hours' where id = any($1)";
        let days_ago = f64::from(days_ago);
        let moved = self.sql.execute(sql, &[&ids, &days_ago]).await;
        assert_eq!(moved.unwrap() as usize, ids.len());
    }

    /// Forgets all that there is to forget, as a pruner does that is alone; says how many jobs.
    pub(crate) async fn forget(&self) -> i64 {
        let mut forgotten = 0;
        while let Some(day) = self.store.day_to_forget().await.unwrap() {
            let step = self.store.forget_finished(&day, 0..day.blocks).await;
            forgotten += step.unwrap().expect("nobody else is at it");
            self.store.note_forgotten(&day).await.unwrap();
        }
        forgotten
    }

    /// Adds the names that jobs have by default: who enqueues first otherwise waits for those, and
    /// not for what the test is about.
    pub(crate) async fn add_names(&self) {
        self.execute(
            "insert into postroad.queue (name) values ('default') on conflict do nothing;
             insert into postroad.tenant (name) values ('default') on conflict do nothing",
        )
        .await;
    }

    /// Waits until some session of this database waits for another one.
    pub(crate) async fn somebody_waits(&self) {
        self.so_many_wait(1).await;
    }

    /// The same for so many of them, or more.
    pub(crate) async fn so_many_wait(&self, count: i64) {
        eventually("sessions wait for locks", async || {
            let sql = "select count(*) from pg_stat_activity
                where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
            let waiting = self.value::<i64>(sql).await;
            anyhow::ensure!(waiting >= count, "{waiting} wait, not {count}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Makes the statistics of all that the store did so far visible, which a session only
    /// promises when it ends, and goes on with a new store.
    pub(crate) async fn settle_statistics(&mut self) {
        self.store = self.database.store();
        eventually("the old store's sessions end", async || {
            let sql = "select count(*) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
            match self.value::<i64>(sql).await {
                0 => Ok(()),
                n => anyhow::bail!("{n} are left"),
            }
        })
        .await
        .unwrap();
    }
}

const LEASE: Duration = Duration::from_secs(30);
/// The lease of a process that never beats, where schedulers watch.
pub(crate) const AN_HOUR: Duration = Duration::from_secs(3600);

/// Introduces a process that is not there.
pub(crate) async fn register(store: &Store, role: Role, lease: Duration) -> ProcessId {
    let process = NewProcess {
        role,
        host: "test".to_owned(),
        pid: 1,
        version: "0",
        queues: Vec::new(),
        lease,
        prefetch: None,
    };
    store.register(&process).await.unwrap()
}

/// A job whose worker's loss means another attempt, due now.
pub(crate) fn job() -> NewJob {
    let args = to_raw_value(&serde_json::json!({ "n": 1 })).unwrap();
    NewJob::new("echo".parse().unwrap(), args)
}

/// A job whose worker's loss means a decision, due now.
pub(crate) fn job_to_hold() -> NewJob {
    NewJob {
        on_lost: Some(OnLost::Hold),
        ..job()
    }
}

/// A schedule that has been due for years.
pub(crate) fn every_second(name: &str) -> NewSchedule {
    NewSchedule {
        name: name.to_owned(),
        cron: "* * * * * *".to_owned(),
        timezone: "UTC".to_owned(),
        misfire: "run_once".to_owned(),
        catch_up_max: 100,
        queue: "default".to_owned(),
        kind: "echo".to_owned(),
        args: to_raw_value(&1).unwrap(),
        priority: 1,
        max_attempts: None,
        on_lost: None,
        expires_after: None,
        is_paused: false,
        next_at: Some(Timestamp::from_second(1_700_000_000).unwrap()),
    }
}

pub(crate) fn fence(claim: &Claim) -> Fenced {
    Fenced {
        id: claim.id,
        dispatch: claim.dispatch,
    }
}

pub(crate) fn failed() -> Ending {
    Ending::Failed {
        fatal: false,
        retry_after: None,
        code: "refused",
        message: "the other side refused".to_owned(),
    }
}

pub(crate) fn unknown() -> Ending {
    Ending::Unknown {
        code: "no_answer",
        message: "the other side did not answer".to_owned(),
    }
}

/// An id that SQL answered.
pub(crate) fn id(uuid: Uuid) -> JobId {
    uuid.into()
}
