//! Single jobs → one statement for many of them.
//!
//! Batches form by themselves: while statements are under way, the next jobs collect. A job that
//! comes alone is written at once.
//!
//! What if the process dies after the commit and before the answer? The job is there, and the
//! client does not know: with a `dedup_key` or an `id` of its own it sends again, and finds it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad_common::backoff::Backoff;
use postroad_common::failpoint;
use postroad_common::job::NewJob;
use postroad_common::store::{self, Enqueued, Scope, Store};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::metrics;
use crate::problem::Problem;
use crate::waker::Waker;

/// Jobs per statement.
const BATCH: usize = 500;
/// Bytes of args per statement, about.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Statements under way at once.
const STATEMENTS: usize = 2;
/// Jobs that wait for a statement; more wait in their connections.
const WAITING: usize = 2000;
/// How long a database that went away is waited for, with the client.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a job.
pub(crate) type Answer = Result<Enqueued, Problem>;

/// Hands jobs to the database.
#[derive(Clone)]
pub(crate) struct Collector {
    asking: mpsc::Sender<Asking>,
}

struct Asking {
    scope: Scope,
    job: NewJob,
    /// The client chose the id, and may have sent it before.
    is_resend: bool,
    answer: oneshot::Sender<Answer>,
}

impl Collector {
    pub(crate) fn spawn(store: Store, waker: Waker) -> Self {
        let (asking, asked) = mpsc::channel(WAITING);
        tokio::spawn(collect(store, waker, asked));
        Self { asking }
    }

    /// Enqueues one job.
    pub(crate) async fn enqueue(&self, scope: Scope, job: NewJob, is_resend: bool) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asking = Asking {
            scope,
            job,
            is_resend,
            answer,
        };
        // Neither fails before the process is about to end.
        if self.asking.send(asking).await.is_err() {
            return Err(Problem::unavailable());
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Problem::unavailable()))
    }
}

async fn collect(store: Store, waker: Waker, mut asked: mpsc::Receiver<Asking>) {
    let room = Arc::new(Semaphore::new(STATEMENTS));
    loop {
        // Room first: whoever comes meanwhile is in this batch.
        let permit = room.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let mut batch = Vec::new();
        if asked.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let (store, waker) = (store.clone(), waker.clone());
        tokio::spawn(async move {
            for ((scope, is_resend), batch) in by_scope(batch) {
                write(&store.scoped(scope), is_resend, batch, &waker).await;
            }
            drop(permit);
        });
    }
}

/// One statement is about one tenant, or Postgres would not let it.
fn by_scope(batch: Vec<Asking>) -> HashMap<(Scope, bool), Vec<Asking>> {
    let mut groups: HashMap<_, Vec<Asking>> = HashMap::new();
    for asking in batch {
        let group = groups.entry((asking.scope, asking.is_resend));
        group.or_default().push(asking);
    }
    groups
}

async fn write(store: &Store, is_resend: bool, batch: Vec<Asking>, waker: &Waker) {
    let mut rest = batch;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|asking| {
            bytes += asking.job.args.get().len();
            bytes <= BATCH_BYTES
        });
        let fits = fits.count().max(1);
        let next = rest.split_off(fits);
        write_some(store, is_resend, std::mem::replace(&mut rest, next), waker).await;
    }
}

async fn write_some(store: &Store, is_resend: bool, batch: Vec<Asking>, waker: &Waker) {
    let (jobs, answers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|asking| (asking.job, asking.answer))
        .unzip();
    metrics::batch(jobs.len());
    match enqueue(store, &jobs, is_resend).await {
        Ok(enqueued) => {
            if jobs.iter().any(is_due) {
                waker.wake();
            }
            for (answer, enqueued) in answers.into_iter().zip(enqueued) {
                // Whoever does not wait any more needs no answer.
                drop(answer.send(Ok(enqueued)));
            }
        }
        // One job that cannot be taken must not be the end of the others.
        Err(error) if !error.is_transient() && jobs.len() > 1 => {
            for (job, answer) in jobs.into_iter().zip(answers) {
                let alone = enqueue(store, std::slice::from_ref(&job), is_resend).await;
                if alone.is_ok() && is_due(&job) {
                    waker.wake();
                }
                drop(answer.send(alone.map(|all| all[0]).map_err(Problem::from)));
            }
        }
        Err(error) => {
            for answer in answers {
                drop(answer.send(Err(Problem::from(&error))));
            }
        }
    }
}

/// Repeats what may have been committed although its answer was lost: the ids make it the same.
pub(crate) async fn enqueue(
    store: &Store,
    jobs: &[NewJob],
    mut is_resend: bool,
) -> Result<Vec<Enqueued>, store::Error> {
    let (until, mut backoff) = (Instant::now() + PATIENCE, Backoff::default());
    loop {
        match store.enqueue(jobs, is_resend).await {
            Err(error) if error.is_transient() && Instant::now() < until => {
                tracing::debug!("{error}: trying again");
                is_resend = true;
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Ok(enqueued) => {
                failpoint!("api.committed");
                return Ok(enqueued);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether a scheduler should hear of it at once.
pub(crate) fn is_due(job: &NewJob) -> bool {
    match job.run_at {
        postroad_common::job::RunAt::Now => true,
        postroad_common::job::RunAt::After(wait) => wait.is_zero(),
        postroad_common::job::RunAt::At(at) => at <= jiff::Timestamp::now(),
    }
}
