//! Single jobs → one statement for many of them.
//!
//! Batches form by themselves: while statements are under way, the next jobs collect. A job that
//! comes alone is written at once. Each tenant has a lane of its own and few statements at once:
//! whoever waits for a lock, such as that of a dedup key in somebody's open transaction, keeps
//! nobody else waiting.
//!
//! What if the process dies after the commit and before the answer? The job is there, and the
//! client does not know: with a `dedup_key` or an `id` of its own it sends again, and finds it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use postroad_common::backoff::Backoff;
use postroad_common::failpoint;
use postroad_common::job::NewJob;
use postroad_common::store::{self, Enqueued, Scope, Store};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};

use crate::metrics;
use crate::problem::Problem;
use crate::waker::Waker;

/// Jobs per statement.
const BATCH: usize = 500;
/// Bytes of args per statement, about.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Statements under way at once, for all tenants: fewer than there are connections to the database.
const STATEMENTS: usize = 8;
/// And for one of them. More would only make each of them smaller.
const STATEMENTS_OF_ONE: usize = 2;
/// Jobs on their way to their lane. In the lanes there are no more than open requests.
const ARRIVING: usize = 1000;
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
        let (asking, asked) = mpsc::channel(ARRIVING);
        tokio::spawn(Lanes::new(store, waker).run(asked));
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

/// What can be one statement: it is about one tenant, or Postgres would not let it.
type Key = (Scope, bool);

/// The jobs of one tenant that wait, and how many of its statements are under way.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Asking>,
    under_way: usize,
}

struct Lanes {
    store: Store,
    waker: Waker,
    /// Those with jobs or statements.
    lanes: HashMap<Key, Lane>,
    /// Those with jobs that a statement could be begun for, each once, the longest waiting first.
    ready: VecDeque<Key>,
    statements: JoinSet<()>,
    of: HashMap<task::Id, Key>,
}

impl Lanes {
    fn new(store: Store, waker: Waker) -> Self {
        Self {
            store,
            waker,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            statements: JoinSet::new(),
            of: HashMap::new(),
        }
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Asking>) {
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                count = asked.recv_many(&mut arrived, ARRIVING) => match count {
                    // The process is about to end.
                    0 => break,
                    _ => arrived.drain(..).for_each(|asking| self.enter(asking)),
                },
                Some(ended) = self.statements.join_next_with_id() => {
                    self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
            }
            self.begin();
        }
        while self.statements.join_next().await.is_some() {}
    }

    fn enter(&mut self, asking: Asking) {
        let key = (asking.scope, asking.is_resend);
        let lane = self.lanes.entry(key).or_default();
        if lane.waiting.is_empty() && lane.under_way < STATEMENTS_OF_ONE {
            self.ready.push_back(key);
        }
        lane.waiting.push_back(asking);
    }

    fn ended(&mut self, statement: task::Id) {
        let Some(key) = self.of.remove(&statement) else {
            return;
        };
        let Entry::Occupied(mut lane) = self.lanes.entry(key) else {
            return;
        };
        let was_full = lane.get().under_way == STATEMENTS_OF_ONE;
        lane.get_mut().under_way -= 1;
        match (lane.get().waiting.is_empty(), lane.get().under_way) {
            (true, 0) => drop(lane.remove()),
            (false, _) if was_full => self.ready.push_back(key),
            _ => {}
        }
    }

    fn begin(&mut self) {
        while self.statements.len() < STATEMENTS {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            let batch: Vec<_> = (0..BATCH).map_while(|_| lane.waiting.pop_front()).collect();
            lane.under_way += 1;
            if !lane.waiting.is_empty() && lane.under_way < STATEMENTS_OF_ONE {
                self.ready.push_back(key);
            }
            let (scope, is_resend) = key;
            let (store, waker) = (self.store.scoped(scope), self.waker.clone());
            let statement = async move { write(&store, is_resend, batch, &waker).await };
            self.of.insert(self.statements.spawn(statement).id(), key);
        }
    }
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
