//! The ways by which clients hand jobs in: SQL, and HTTP in two kinds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use postroad_common::job::{NewJob, RunAt};
use postroad_common::store::Store;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::Id;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// How long a client waits for an answer over HTTP.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How a batch is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `postroad.enqueue`, in one statement.
    Sql,
    /// A request with a line per job.
    Batch,
    /// A request per job, all at once.
    Singles,
}

/// Why a client was not told that its job is taken.
#[derive(Clone, Debug)]
pub enum NotTaken {
    /// Nobody told it: it may have been taken.
    Unheard,
    /// It was not, and never will be: why.
    Refused(String),
}

/// What became of one job that was handed in: the id of the job that stands for it, which is
/// another's where a key was seen before.
pub type Taken = Result<Uuid, NotTaken>;

/// What clients know of a cluster.
#[derive(Clone)]
pub struct Doors {
    store: Store,
    apis: Arc<Mutex<Vec<(Id, Api)>>>,
    asked: Arc<AtomicUsize>,
}

impl Doors {
    /// Without an api yet.
    pub fn of(store: Store) -> Self {
        Self {
            store,
            apis: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// The database, for what is not handing in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// There is an api that clients may ask.
    pub fn open(&self, id: Id, api: Api) {
        self.with_apis(|apis| apis.push((id, api)));
    }

    /// It is there no longer.
    pub fn close(&self, id: Id) {
        self.with_apis(|apis| apis.retain(|(open, _)| *open != id));
    }

    /// Hands jobs in, and says what became of each. `is_again`: they may have been taken before.
    pub async fn hand_in(&self, way: Way, jobs: &[NewJob], is_again: bool) -> Vec<Taken> {
        let all = |taken: Result<Vec<Uuid>, NotTaken>| match taken {
            Ok(ids) => ids.into_iter().map(Ok).collect(),
            Err(why) => vec![Err(why); jobs.len()],
        };
        match way {
            Way::Sql => all(self.in_sql(jobs, is_again).await),
            Way::Batch => all(match self.next_api() {
                Some(api) => batch(&api, jobs).await,
                None => Err(NotTaken::Unheard),
            }),
            Way::Singles => {
                let ask = async |job| match self.next_api() {
                    Some(api) => single(&api, job).await,
                    None => Err(NotTaken::Unheard),
                };
                join_all(jobs.iter().map(ask)).await
            }
        }
    }

    async fn in_sql(&self, jobs: &[NewJob], is_again: bool) -> Result<Vec<Uuid>, NotTaken> {
        match self.store.enqueue(jobs, is_again).await {
            Ok(enqueued) => Ok(enqueued.iter().map(|job| *job.id.as_uuid()).collect()),
            Err(error) if error.is_transient() => Err(NotTaken::Unheard),
            Err(error) => Err(NotTaken::Refused(error.to_string())),
        }
    }

    /// In turn, so that all of them have something in hand.
    fn next_api(&self) -> Option<Api> {
        let nth = self.asked.fetch_add(1, Ordering::Relaxed);
        self.with_apis(|apis| {
            let (_, api) = apis.get(nth % apis.len().max(1))?;
            Some(api.clone())
        })
    }

    fn with_apis<T>(&self, look: impl FnOnce(&mut Vec<(Id, Api)>) -> T) -> T {
        look(&mut self.apis.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn single(api: &Api, job: &NewJob) -> Result<Uuid, NotTaken> {
    let body = submission(job).to_string();
    let answer = ask(api, "/v1/jobs", "application/json", body).await?;
    let id = || -> anyhow::Result<Uuid> {
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["id"].as_str().context("no id")?.parse()?)
    };
    id().map_err(|error| NotTaken::Refused(format!("{error:#}: {answer}")))
}

async fn batch(api: &Api, jobs: &[NewJob]) -> Result<Vec<Uuid>, NotTaken> {
    let mut body = String::new();
    for job in jobs {
        body += &submission(job).to_string();
        body.push('\n');
    }
    let answer = ask(api, "/v1/jobs/batch", "application/x-ndjson", body).await?;
    let is_whole = || -> anyhow::Result<bool> {
        let counts: Value = serde_json::from_str(answer.lines().last().context("no answer")?)?;
        let count = |name: &str| counts[name].as_u64().context("no count");
        ensure!(count("rejected")? == 0, "a line was refused");
        if counts["complete"] == false {
            // Whatever else it broke off for is a mistake of somebody's.
            ensure!(counts["error"]["status"] == 503, "it broke off");
            return Ok(false);
        }
        let taken = count("accepted")? + count("duplicates")?;
        if taken != jobs.len() as u64 {
            bail!("{taken} of {} jobs are accounted for", jobs.len());
        }
        Ok(true)
    };
    match is_whole() {
        Ok(true) => Ok(jobs.iter().map(|job| *job.id.as_uuid()).collect()),
        Ok(false) => Err(NotTaken::Unheard),
        Err(error) => Err(NotTaken::Refused(format!("{error:#}: {answer}"))),
    }
}

/// What is no answer, or one that says that the server cannot say now, says nothing of the jobs. A
/// 500 is a mistake, and so is a refusal: every job here is a good one.
async fn ask(api: &Api, path: &str, kind: &str, body: String) -> Result<String, NotTaken> {
    let asking = api.raw(Method::POST, path, kind, body);
    match tokio::time::timeout(ANSWER_MAX, asking).await {
        Ok(Ok(answer)) if answer.status.is_success() => Ok(answer.text),
        Ok(Ok(answer)) if answer.status != StatusCode::SERVICE_UNAVAILABLE => {
            let text = format!("{}: {}", answer.status, answer.text);
            Err(NotTaken::Refused(text))
        }
        _ => Err(NotTaken::Unheard),
    }
}

/// A job as the API takes it.
fn submission(job: &NewJob) -> Value {
    let mut body = json!({
        "id": job.id.as_uuid(),
        "tenant": job.tenant.as_str(),
        "queue": job.queue.as_str(),
        "kind": job.kind.as_str(),
        "args": job.args,
        "priority": job.priority,
        "expires_at": job.expires_at,
        "dedup_key": job.dedup_key,
        "max_attempts": job.max_attempts,
        "on_lost": job.on_lost.map(|on_lost| on_lost.as_str()),
    });
    match job.run_at {
        RunAt::Now => {}
        RunAt::After(wait) => body["delay"] = format!("{}ms", wait.as_millis()).into(),
        RunAt::At(at) => body["run_at"] = at.to_string().into(),
    }
    body
}
