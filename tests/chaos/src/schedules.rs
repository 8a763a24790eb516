//! Recurring schedules of the clients, every second, and what came of them.
//!
//! The ticks that must be there are counted here, by nothing but whole seconds: from the first one
//! after the schedule was created to the last one before it was paused. Which jobs there are, and
//! when each was due, says a trigger of the observer's own; Postroad's record of its ticks is not
//! looked at. All of them catch up whatever was missed, so a tick without a job is a missed one
//! however long nobody was there.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use postroad_common::schedule::CATCH_UP_MAX;
use postroad_common::store::{Error, NewSchedule, ScheduleRow, Store, TenantChange};
use postroad_tests::harness::cluster::Cluster;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::history::{Answer, Lost, Submit, Tick};
use crate::load::{raw, sha256};
use crate::observer::now;

/// How long a server may be away from a client.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two questions.
const REST: Duration = Duration::from_millis(200);

/// What the observer saw of jobs with such a body.
const BIRTHS: &str = "
    select id, extract(epoch from due)::float8, body from chaos.birth order by due, id";

/// A schedule that ticks.
pub struct Ticking {
    tenant: String,
    tenant_id: i32,
    name: String,
    created: f64,
    first: u64,
}

/// Creates a schedule for each of the first so many tenants.
pub async fn create(
    store: &Store,
    provider_url: &str,
    count: usize,
) -> anyhow::Result<Vec<Ticking>> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let tenant = format!("tenant-{number}");
        all.push(create_one(store, provider_url, tenant).await?);
    }
    Ok(all)
}

async fn create_one(store: &Store, url: &str, tenant: String) -> anyhow::Result<Ticking> {
    let tenant_id = patiently(|| tenant_id(store, &tenant)).await?;
    let name = format!("every-second-{}", Uuid::new_v4().simple());
    let body = body_of(&tenant, &name);
    let created = now();
    let first = patiently(|| store.now()).await?.as_second() + 1;
    let new = NewSchedule {
        name: name.clone(),
        cron: "* * * * * *".to_owned(),
        timezone: "UTC".to_owned(),
        misfire: "catch_up".to_owned(),
        catch_up_max: CATCH_UP_MAX,
        queue: "default".to_owned(),
        kind: "webhook".to_owned(),
        args: raw(&json!({"url": format!("{url}/webhook/{tenant}"), "body": body})),
        priority: 1,
        max_attempts: None,
        on_lost: Some("retry".to_owned()),
        expires_after: None,
        is_paused: false,
        next_at: Some(Timestamp::from_second(first).context("a second of this year")?),
    };
    // False: an earlier call was heard, and its answer was not.
    patiently(|| store.create_schedule(tenant_id, &new)).await?;
    Ok(Ticking {
        tenant,
        tenant_id,
        name,
        created,
        first: u64::try_from(first).context("a second of this century")?,
    })
}

pub(crate) async fn tenant_id(store: &Store, name: &str) -> Result<i32, Error> {
    loop {
        if let Some(id) = store.tenant_of_name(name).await? {
            return Ok(id);
        }
        store.create_tenant(name, &TenantChange::default()).await?;
    }
}

/// Ends them, each between two ticks. Every tick that there must be, as if a client had handed it
/// in: under an id of its own, until it is known which job was made for it.
pub async fn end(store: &Store, all: Vec<Ticking>) -> anyhow::Result<Vec<Submit>> {
    let mut submits = Vec::new();
    for one in all {
        let ended = end_one(store, &one).await;
        let next = ended.with_context(|| format!("ending schedule {}", one.name))?;
        submits.extend((one.first..next).map(|second| one.submit(second)));
    }
    Ok(submits)
}

/// The first second for which there must be no job.
async fn end_one(store: &Store, one: &Ticking) -> anyhow::Result<u64> {
    let stop = patiently(|| store.now()).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = look(store, one).await?;
        if row.next_at.is_some_and(|next| next > stop) {
            break;
        }
        if Instant::now() >= deadline {
            bail!(
                "nobody makes its ticks: {:?} is not past {stop}",
                row.next_at
            );
        }
        tokio::time::sleep(REST).await;
    }
    patiently(|| store.pause_schedule(one.tenant_id, &one.name)).await?;
    let next = look(store, one).await?.next_at.context("it never ends")?;
    u64::try_from(next.as_second()).context("a second of this century")
}

async fn look(store: &Store, one: &Ticking) -> anyhow::Result<ScheduleRow> {
    let (tenant, name) = (Some(one.tenant_id), Some(one.name.as_str()));
    let rows = patiently(|| store.schedules(tenant, name, None, 1)).await?;
    rows.into_iter().next().context("the schedule is gone")
}

/// Asks again until somebody answers.
pub(crate) async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(REST).await;
            }
            answer => return Ok(answer?),
        }
    }
}

impl Ticking {
    fn submit(&self, second: u64) -> Submit {
        let id = Uuid::new_v4();
        Submit {
            t: self.created,
            id,
            answer: Answer::Accepted(id),
            ..submit(&self.tenant, &self.name, second)
        }
    }
}

/// A tick that nobody may make, unless it is known otherwise.
fn submit(tenant: &str, name: &str, second: u64) -> Submit {
    Submit {
        t: second as f64,
        id: Uuid::nil(),
        tenant: tenant.to_owned(),
        kind: "webhook".to_owned(),
        on_lost: Lost::Retry,
        due: second as f64,
        expires: None,
        dedup_key: None,
        tick: Some(Tick {
            schedule: format!("{tenant}/{name}"),
            number: second,
        }),
        body_sha256: Some(sha256(&body_of(tenant, name))),
        over_http: false,
        resumed: Vec::new(),
        answer: Answer::Refused,
    }
}

fn body_of(tenant: &str, name: &str) -> String {
    format!("schedule {tenant}/{name}")
}

/// A job of a schedule, as the observer saw it come to be.
#[derive(Clone, Debug)]
pub struct Birth {
    id: Uuid,
    due: f64,
    body: String,
}

/// All of them.
pub async fn births(cluster: &Cluster) -> anyhow::Result<Vec<Birth>> {
    let rows = cluster.query(BIRTHS, &[]).await?;
    let birth = |row: &tokio_postgres::Row| Birth {
        id: row.get(0),
        due: row.get(1),
        body: row.get(2),
    };
    Ok(rows.iter().map(birth).collect())
}

/// Gives each tick the job that was made for it. A second job for a tick is a second submit of it,
/// and a job for no tick that there must be is one whose client was told no.
pub fn name_jobs(submits: &mut Vec<Submit>, births: &[Birth]) {
    let mut open: HashMap<Tick, usize> = HashMap::new();
    for (index, submit) in submits.iter().enumerate() {
        if let Some(tick) = &submit.tick {
            open.entry(tick.clone()).or_insert(index);
        }
    }
    let mut named = HashSet::new();
    for birth in births {
        let Some((tenant, name)) = whose(&birth.body) else {
            continue;
        };
        let second = birth.due as u64;
        let tick = Tick {
            schedule: format!("{tenant}/{name}"),
            number: second,
        };
        let is_whole = (birth.due - second as f64).abs() < 1e-6;
        let wanted = open.get(&tick).filter(|_| is_whole);
        match wanted {
            Some(index) if named.insert(*index) => {
                submits[*index].id = birth.id;
                submits[*index].answer = Answer::Accepted(birth.id);
            }
            Some(index) => {
                let again = Submit {
                    id: birth.id,
                    answer: Answer::Accepted(birth.id),
                    ..submits[*index].clone()
                };
                submits.push(again);
            }
            None => submits.push(Submit {
                id: birth.id,
                due: birth.due,
                ..submit(tenant, name, second)
            }),
        }
    }
}

fn whose(body: &str) -> Option<(&str, &str)> {
    body.strip_prefix("schedule ")?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(id: u128, due: f64) -> Birth {
        Birth {
            id: Uuid::from_u128(id),
            due,
            body: body_of("tenant-0", "s"),
        }
    }

    #[test]
    fn a_tick_has_its_job_and_every_other_job_shows() {
        let ticking = Ticking {
            tenant: "tenant-0".to_owned(),
            tenant_id: 1,
            name: "s".to_owned(),
            created: 99.5,
            first: 100,
        };
        let mut submits: Vec<_> = (100..103).map(|second| ticking.submit(second)).collect();
        let births = [
            birth(1, 100.0),
            birth(2, 101.0),
            birth(3, 101.0),
            birth(4, 103.0),
        ];

        name_jobs(&mut submits, &births);

        let of = |id| {
            submits
                .iter()
                .find(|submit| submit.id == Uuid::from_u128(id))
                .unwrap()
        };
        assert_eq!(submits.len(), 5);
        assert_eq!(of(1).answer, Answer::Accepted(Uuid::from_u128(1)));
        assert_eq!((of(2).due, &of(2).tick), (101.0, &of(3).tick));
        assert_eq!(of(4).answer, Answer::Refused);
        let missed = submits.iter().find(|submit| submit.due == 102.0).unwrap();
        assert_eq!(
            missed.answer,
            Answer::Accepted(missed.id),
            "accepted, and without a job"
        );
    }
}
