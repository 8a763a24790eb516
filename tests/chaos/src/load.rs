//! The client: hands jobs in at a steady rate, as many tenants would, and writes down what it was
//! told about each.
//!
//! | share | job |
//! |---|---|
//! | 45 % | a webhook (`retry`) |
//! | 35 % | a text message (`hold`) |
//! | 15 % | an `echo`: no provider |
//! | 5 % | a tick of a schedule, as a webhook, which two clients hand in at the same moment under one dedup key |
//!
//! Beside them, some tenants have a recurring schedule that ticks every second
//! ([`crate::schedules`]), and one has a campaign ([`crate::campaigns`]).
//!
//! One in ten is due one to three seconds later, one in thirty expires after two to six seconds.
//! Half of the batches, and of the ticks, come in SQL; the others over HTTP: most of them a line per
//! job, some of them a request per job.
//!
//! A client that gets no answer asks again under the same ids, as every client should; every
//! fourth gives up after the first time, so that some outcomes stay unknown to it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::join;
use jiff::{SignedDuration, Timestamp};
use postroad_common::job::{JobId, NewJob, RunAt};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::door::{Doors, NotTaken, Way};
use crate::history::{Answer, Lost, Submit, Tick};
use crate::observer::now;
use crate::{campaigns, schedules};

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Jobs a second.
    pub rate: u32,
    /// How many at the most; they stop earlier when they are told to.
    pub jobs_max: usize,
    /// Whose jobs they are.
    pub tenants: usize,
    /// All of them due at the same moment, this long after the start.
    pub herd_after: Option<Duration>,
    /// Whether none may expire, come later, or be a tick.
    pub is_plain: bool,
    /// Whether every job has a provider.
    pub no_echo: bool,
    /// Every job expires so long after it was handed in.
    pub all_expire_in: Option<Duration>,
    /// Whether the clients hand ticks in without their keys.
    pub has_keyless_ticks: bool,
    /// How many tenants have a recurring schedule; none in a herd.
    pub schedules: usize,
    /// Of a hundred batches, how many come over HTTP.
    pub http_percent: u32,
    /// Recipients of a campaign that is handed in at the beginning, and cancelled and resumed at the
    /// end; none in a herd.
    pub recipients: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rate: 200,
            jobs_max: 100_000,
            tenants: 4,
            herd_after: None,
            is_plain: false,
            no_echo: false,
            all_expire_in: None,
            has_keyless_ticks: false,
            schedules: 2,
            http_percent: 50,
            recipients: 300,
        }
    }
}

/// Jobs are handed in so often.
const BEAT: Duration = Duration::from_millis(50);
/// How often a client asks again that gets no answer.
const TRIES: usize = 20;
/// The campaign starts when what throughput is like has been seen.
const CAMPAIGN_AFTER: Duration = Duration::from_secs(8);
/// Between two of them.
const REST: Duration = Duration::from_millis(500);

/// A job, and what is to be remembered of it.
type Planned = (NewJob, Submit);

/// Hands jobs in until told to stop, or until there are enough of them.
pub async fn run(
    load: Load,
    seed: u64,
    doors: Doors,
    provider_url: String,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Submit>> {
    let schedules = match load.herd_after {
        Some(_) => Vec::new(),
        None => schedules::create(doors.store(), &provider_url, load.schedules).await?,
    };
    let campaigns = match load.herd_after {
        Some(_) => Vec::new(),
        None => {
            let after = if load.is_plain {
                Duration::ZERO
            } else {
                CAMPAIGN_AFTER
            };
            campaigns::create(doors.store(), &provider_url, load.recipients, after).await?
        }
    };
    let mut maker = Maker::new(load.clone(), seed, provider_url);
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let per_beat = (f64::from(load.rate) * BEAT.as_secs_f64()).max(1.0) as usize;
    let (mut clients, mut submits) = (JoinSet::new(), Vec::new());
    while maker.made < load.jobs_max {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick() => {}
        }
        let batch = maker.batch(per_beat.min(load.jobs_max - maker.made));
        let is_patient = maker.rng.random_range(0..4) > 0;
        let way = maker.way();
        let tick = maker.tick();
        clients.spawn(hand_in(doors.clone(), way, batch, is_patient));
        if let Some((one, other)) = tick {
            let doors = doors.clone();
            // Whose answer names the job: that of a batch does not.
            let way = match maker.way() {
                Way::Batch => Way::Singles,
                way => way,
            };
            clients.spawn(async move {
                let one = hand_in(doors.clone(), way, vec![one], true);
                let other = hand_in(doors, way, vec![other], true);
                let (one, other) = join(one, other).await;
                let mut both = one?;
                both.extend(other?);
                Ok(both)
            });
        }
        while let Some(done) = clients.try_join_next() {
            submits.extend(done.context("a client panicked")??);
        }
    }
    while let Some(done) = clients.join_next().await {
        submits.extend(done.context("a client panicked")??);
    }
    submits.extend(schedules::end(doors.store(), schedules).await?);
    submits.extend(campaigns::end(campaigns).await?);
    submits.sort_by(|one, other| one.t.total_cmp(&other.t));
    Ok(submits)
}

/// Hands a batch in, and says what became of it. Where an answer did not come, the same ids are
/// handed in again: the second time changes nothing if the first was heard.
async fn hand_in(
    doors: Doors,
    way: Way,
    batch: Vec<Planned>,
    is_patient: bool,
) -> anyhow::Result<Vec<Submit>> {
    let (mut jobs, mut submits): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    for submit in &mut submits {
        submit.over_http = way != Way::Sql;
    }
    // Which of the submits are still asked about.
    let mut open: Vec<usize> = (0..jobs.len()).collect();
    for nth in 0..TRIES {
        let answers = doors.hand_in(way, &jobs, nth > 0).await;
        let mut unheard = Vec::new();
        for ((job, index), answer) in jobs.into_iter().zip(open).zip(answers) {
            match answer {
                Ok(id) => submits[index].answer = Answer::Accepted(id),
                Err(NotTaken::Unheard) => unheard.push((job, index)),
                // Every job here is a good one.
                Err(NotTaken::Refused(why)) => bail!("a client was refused: {why}"),
            }
        }
        (jobs, open) = unheard.into_iter().unzip();
        if open.is_empty() || !is_patient {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    Ok(submits)
}

/// Makes jobs, in an order that the seed decides.
struct Maker {
    load: Load,
    rng: StdRng,
    provider_url: String,
    started: f64,
    made: usize,
    ticks: u64,
}

impl Maker {
    fn new(load: Load, seed: u64, provider_url: String) -> Self {
        Self {
            load,
            rng: StdRng::seed_from_u64(seed),
            provider_url,
            started: now(),
            made: 0,
            ticks: 0,
        }
    }

    fn way(&mut self) -> Way {
        let is_over_http = self.rng.random_range(0..100) < self.load.http_percent;
        match (is_over_http, self.rng.random_range(0..4)) {
            (false, _) => Way::Sql,
            (true, 0) => Way::Singles,
            (true, _) => Way::Batch,
        }
    }

    fn batch(&mut self, size: usize) -> Vec<Planned> {
        (0..size).map(|_| self.job()).collect()
    }

    fn job(&mut self) -> Planned {
        self.made += 1;
        let tenant = format!("tenant-{}", self.rng.random_range(0..self.load.tenants));
        let mut planned = match self.rng.random_range(0..100) {
            0..50 => self.webhook(&tenant),
            50..85 => text_message(&tenant),
            _ if self.load.no_echo => text_message(&tenant),
            _ => echo(&tenant),
        };
        planned.0.priority = Some(self.rng.random_range(0..4));
        if let Some(after) = self.load.herd_after {
            self.due_at(&mut planned, self.started + after.as_secs_f64());
        } else if !self.load.is_plain {
            if self.rng.random_range(0..10) == 0 {
                let wait = Duration::from_millis(self.rng.random_range(1000..3000));
                planned.0.run_at = RunAt::After(wait);
                planned.1.due += wait.as_secs_f64();
            }
            if self.rng.random_range(0..30) == 0 {
                let left = Duration::from_millis(self.rng.random_range(2000..6000));
                expire_in(&mut planned, left);
            }
        }
        if let Some(left) = self.load.all_expire_in {
            expire_in(&mut planned, left);
        }
        planned
    }

    fn due_at(&self, planned: &mut Planned, due: f64) {
        let at = Timestamp::from_microsecond((due * 1e6) as i64);
        planned.0.run_at = RunAt::At(at.expect("a time of this year"));
        planned.1.due = due;
    }

    /// One in two batches has a tick, that two clients hand in.
    fn tick(&mut self) -> Option<(Planned, Planned)> {
        if self.load.is_plain || self.load.herd_after.is_some() || self.rng.random_range(0..2) > 0 {
            return None;
        }
        let number = self.ticks;
        self.ticks += 1;
        let tenant = format!("tenant-{}", number as usize % self.load.tenants);
        let one = self.tick_of(&tenant, number);
        let other = self.tick_of(&tenant, number);
        Some((one, other))
    }

    fn tick_of(&self, tenant: &str, number: u64) -> Planned {
        let (mut job, mut submit) = self.webhook(tenant);
        let key = format!("every-beat/{number}");
        job.dedup_key = (!self.load.has_keyless_ticks).then(|| key.clone());
        submit.dedup_key = Some(key);
        submit.tick = Some(Tick {
            schedule: format!("{tenant}/every-beat"),
            number,
        });
        // Whichever of the two is first, the body is the tick's.
        let body = format!("{tenant} every-beat {number}");
        submit.body_sha256 = Some(sha256(&body));
        let url = format!("{}/webhook/{tenant}", self.provider_url);
        job.args = raw(&json!({"url": url, "body": body}));
        (job, submit)
    }

    fn webhook(&self, tenant: &str) -> Planned {
        let id = JobId::new();
        let body = format!("{tenant} {id}");
        let url = format!("{}/webhook/{tenant}", self.provider_url);
        let args = json!({"url": url, "body": body});
        planned(
            id,
            tenant,
            "webhook",
            args,
            Lost::Retry,
            Some(sha256(&body)),
        )
    }
}

fn expire_in(planned: &mut Planned, left: Duration) {
    let left = SignedDuration::try_from(left).expect("a load lasts minutes");
    let expires = Timestamp::now() + left;
    planned.0.expires_at = Some(expires);
    planned.1.expires = Some(expires.as_duration().as_secs_f64());
}

fn text_message(tenant: &str) -> Planned {
    let id = JobId::new();
    let args = json!({"to": "+33639980606", "text": format!("{tenant} {id}")});
    let hash = sha256(&args.to_string());
    planned(id, tenant, "sms", args, Lost::Hold, Some(hash))
}

/// A job that ends the process that runs it, as often as it may try.
pub fn poison(tenant: &str) -> (NewJob, Submit) {
    let (mut job, mut submit) =
        planned(JobId::new(), tenant, "abort", json!({}), Lost::Retry, None);
    job.max_attempts = Some(3);
    submit.answer = Answer::Accepted(submit.id);
    (job, submit)
}

fn echo(tenant: &str) -> Planned {
    let id = JobId::new();
    planned(id, tenant, "echo", json!({"n": 1}), Lost::Retry, None)
}

fn planned(
    id: JobId,
    tenant: &str,
    kind: &str,
    args: serde_json::Value,
    on_lost: Lost,
    body_sha256: Option<String>,
) -> Planned {
    let kind_name = kind.parse().expect("the kinds here are names");
    let mut job = NewJob::new(kind_name, raw(&args));
    job.id = id;
    job.tenant = tenant.parse().expect("the tenants here are names");
    let t = now();
    let submit = Submit {
        t,
        id: *id.as_uuid(),
        tenant: tenant.to_owned(),
        kind: kind.to_owned(),
        on_lost,
        due: t,
        expires: None,
        dedup_key: None,
        tick: None,
        body_sha256,
        over_http: false,
        resumed: Vec::new(),
        answer: Answer::Unknown,
    };
    (job, submit)
}

pub(crate) fn raw(value: &serde_json::Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).expect("a value is JSON")
}

/// In hexadecimal, as the provider records it.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
