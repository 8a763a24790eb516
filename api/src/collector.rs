//! Single jobs → one statement for many of them.
//!
//! Batches form by themselves: while statements are under way, the next jobs collect. A job that
//! comes alone is written at once. Each tenant has a lane of its own and few statements at once:
//! whoever waits for a lock, such as that of a dedup key in somebody's open transaction, keeps
//! nobody else waiting.
//!
//! What if the process dies after the commit and before the answer? The job is there, and the
//! client does not know: with a `dedup_key` or an `id` of its own it sends again, and finds it.

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
/// Jobs on their way to their lane.
const ARRIVING: usize = 1000;
/// Waiting jobs of one tenant before those are looked for whose clients have gone. So there wait at
/// most twice as many as there are open requests, and these.
const SWEPT_AT: usize = 1000;
/// How long a database that went away is waited for, with the client.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

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

/// The jobs of one tenant that wait, and how many of its statements are under way. (An operator's
/// are a lane, too, whosever they are.)
#[derive(Default)]
struct Lane {
    /// Jobs that are new, and those that may have been sent before: not of one statement.
    waiting: [VecDeque<Asking>; 2],
    /// Which of the two is next.
    next: usize,
    under_way: usize,
    /// How many have to wait for the next look at whose clients have gone.
    swept_at: usize,
    /// Whether it is among those that a statement could be begun for.
    is_ready: bool,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whoever has gone meanwhile, without an answer, was never promised anything.
    fn forget_gone(&mut self) {
        for waiting in &mut self.waiting {
            waiting.retain(|asking| !asking.answer.is_closed());
        }
    }

    /// The jobs of the next statement, and whether they may have been sent before.
    fn next_batch(&mut self) -> (bool, Vec<Asking>) {
        if self.waiting[self.next].is_empty() {
            self.next = 1 - self.next;
        }
        let (nth, mut batch) = (self.next, Vec::new());
        while batch.len() < BATCH {
            match self.waiting[nth].pop_front() {
                Some(asking) if asking.answer.is_closed() => {}
                Some(asking) => batch.push(asking),
                None => break,
            }
        }
        self.next = 1 - nth;
        self.swept_at = self.swept_at.min(2 * self.len());
        (nth == 1, batch)
    }
}

struct Lanes {
    store: Store,
    waker: Waker,
    /// Those with jobs or statements.
    lanes: HashMap<Scope, Lane>,
    /// Those with jobs that a statement could be begun for, each once, the longest waiting first.
    ready: VecDeque<Scope>,
    statements: JoinSet<()>,
    of: HashMap<task::Id, Scope>,
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
        let scope = asking.scope;
        let lane = self.lanes.entry(scope).or_default();
        if lane.len() >= lane.swept_at.max(SWEPT_AT) {
            lane.forget_gone();
            lane.swept_at = 2 * lane.len();
        }
        lane.waiting[usize::from(asking.is_resend)].push_back(asking);
        self.settle(scope);
    }

    /// Puts a lane among the ready ones if it belongs there, or away if nothing is in it.
    fn settle(&mut self, scope: Scope) {
        let Some(lane) = self.lanes.get_mut(&scope) else {
            return;
        };
        if lane.is_ready {
            return;
        }
        match (lane.is_empty(), lane.under_way) {
            (true, 0) => drop(self.lanes.remove(&scope)),
            (false, under_way) if under_way < STATEMENTS_OF_ONE => {
                lane.is_ready = true;
                self.ready.push_back(scope);
            }
            _ => {}
        }
    }

    fn ended(&mut self, statement: task::Id) {
        let Some(scope) = self.of.remove(&statement) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&scope) {
            lane.under_way -= 1;
        }
        self.settle(scope);
    }

    fn begin(&mut self) {
        while self.statements.len() < STATEMENTS {
            let Some(scope) = self.ready.pop_front() else {
                return;
            };
            let Some(lane) = self.lanes.get_mut(&scope) else {
                continue;
            };
            lane.is_ready = false;
            let (is_resend, batch) = lane.next_batch();
            if !batch.is_empty() {
                lane.under_way += 1;
                let (store, waker) = (self.store.scoped(scope), self.waker.clone());
                let statement = async move { write(&store, is_resend, batch, &waker).await };
                self.of.insert(self.statements.spawn(statement).id(), scope);
            }
            self.settle(scope);
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
            waker.wake_for(&jobs);
            for (answer, enqueued) in answers.into_iter().zip(enqueued) {
                // Whoever does not wait any more needs no answer.
                drop(answer.send(Ok(enqueued)));
            }
        }
        // One job that cannot be taken must not be the end of the others.
        Err(error) if !error.is_transient() && jobs.len() > 1 => {
            for (job, answer) in jobs.into_iter().zip(answers) {
                let alone = enqueue(store, std::slice::from_ref(&job), is_resend).await;
                if alone.is_ok() {
                    waker.wake_for([&job]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(is_resend: bool) -> (Asking, oneshot::Receiver<Answer>) {
        let args = serde_json::value::to_raw_value(&1).expect("a number is JSON");
        let job = NewJob::new("echo".parse().expect("a name"), args);
        let (answer, answered) = oneshot::channel();
        let scope = Scope::Tenant(1);
        let asking = Asking {
            scope,
            job,
            is_resend,
            answer,
        };
        (asking, answered)
    }

    /// A lane in which these wait, and who waits for their answers.
    fn lane(resends: &[bool]) -> (Lane, Vec<oneshot::Receiver<Answer>>) {
        let mut lane = Lane::default();
        let wait = |is_resend: &bool| {
            let (asking, answered) = asking(*is_resend);
            lane.waiting[usize::from(*is_resend)].push_back(asking);
            answered
        };
        let answers = resends.iter().map(wait).collect();
        (lane, answers)
    }

    #[test]
    fn new_jobs_and_resent_ones_take_turns_and_are_no_statement_together() {
        let (mut lane, _answers) = lane(&[true, false, true]);
        let mut sizes = Vec::new();
        while !lane.is_empty() {
            let (is_resend, batch) = lane.next_batch();
            assert!(batch.iter().all(|asking| asking.is_resend == is_resend));
            sizes.push((is_resend, batch.len()));
        }
        assert_eq!(sizes, [(false, 1), (true, 2)]);
    }

    #[test]
    fn a_job_whose_client_has_gone_is_not_written() {
        let (mut lane, mut answers) = lane(&[false, false, false]);
        answers.remove(1);
        assert_eq!(lane.next_batch().1.len(), 2);
        let (mut lane, answers) = self::lane(&[false, true]);
        drop(answers);
        lane.forget_gone();
        assert!(lane.is_empty());
    }

    #[test]
    fn a_statement_is_of_a_bounded_number_of_jobs() {
        let (mut lane, _answers) = lane(&[false; BATCH + 1]);
        assert_eq!(lane.next_batch().1.len(), BATCH);
        assert_eq!(lane.next_batch().1.len(), 1);
    }
}
