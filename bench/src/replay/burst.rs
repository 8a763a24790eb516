//! More than a million requests within a minute, for a provider that takes few at once.
//!
//! What happened elsewhere: a push service had to keep at most 100 requests unanswered for each
//! connection, and bursts beyond a million a minute filled its memory.
//!
//! What is played: ordinary tenants hand in messages all the time, one request each, some of them
//! one-time codes; then one tenant hands in its marketing, in batches. A worker stands for one
//! connection. The queue lets so many jobs wait and sheds what is more, lowest class first.
//!
//! Everything comes in by the API, and is counted where it arrives: by the provider. How late a message
//! is counts from the moment when it was to be handed in, whether the generator got to it or not.

mod curves;
mod found;
mod judge;

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use postroad_tests::harness::cluster::Builder;
use postroad_tests::simulator::{Behaviour, Latency};
use reqwest::Method;
use serde_json::{Value, json};

use self::found::{Class, Flood, Found};
use super::verdict::Verdict;
use super::watch::{Watch, until_done};
use super::{seconds, unix_now};
use crate::client::Client;
use crate::ground::{Ground, Site};
use crate::picture::thousands;
use crate::usage::peak_memory;

/// Tenants that hand in messages all the time, and of each five messages one is a code.
const TENANTS: u64 = 20;
const ONE_IS_A_CODE_OF: u64 = 5;
/// Who floods.
const FLOOD: &str = "flood";
const WORKERS: usize = 2;
const UNANSWERED: u16 = 100;
/// Jobs in the pipe: what a code finds before it, at most. Twice what is under way, so that a worker
/// has the next one in hand.
const WINDOW: usize = 2 * WORKERS * UNANSWERED as usize;
/// How long the provider takes at full speed.
const SERVICE: Duration = Duration::from_millis(200);
/// Requests of ordinary tenants under way, at most; and batches.
const CLIENTS: u64 = 8;
const BATCHES: usize = 4;
const IN_BATCH: u64 = 2500;

/// The size of the story.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Of ordinary tenants.
    per_minute: u64,
    before: Duration,
    burst: u64,
    burst_over: Duration,
    waiting_max: u64,
    after: Duration,
}

impl Plan {
    pub(crate) const WHOLE: Self = Self {
        per_minute: 5000,
        before: Duration::from_secs(20),
        burst: 1_500_000,
        burst_over: Duration::from_secs(60),
        waiting_max: 60_000,
        after: Duration::from_secs(10),
    };
    pub(crate) const QUICK: Self = Self {
        per_minute: 2000,
        before: Duration::from_secs(3),
        burst: 15_000,
        burst_over: Duration::from_secs(3),
        waiting_max: 2000,
        after: Duration::from_secs(1),
    };

    pub(crate) fn scaled(self, parts: u64) -> Self {
        Self {
            burst: self.burst / parts,
            waiting_max: (self.waiting_max / parts).max(1),
            ..self
        }
    }

    /// Plays it with a provider that is so many times slower, and draws it.
    pub(crate) async fn play(
        &self,
        ground: &Ground,
        slower: u32,
        picture: &Path,
    ) -> anyhow::Result<Verdict> {
        let service = SERVICE * slower;
        let pace = (WORKERS * usize::from(UNANSWERED)) as f64 / service.as_secs_f64();
        eprintln!(
            "{} jobs within {} for a provider that takes {pace:.0} a second",
            thousands(self.burst as f64),
            seconds(self.burst_over)
        );
        let site = self.set_up(ground, service).await?;
        let pids = programs(&site).into_iter().map(|(_, pid)| pid).collect();
        let mut watch = Watch::new(&site.cluster, FLOOD, pids).await?;
        let began = watch.began();
        let began_unix = unix_now() - began.elapsed().as_secs_f64();
        let is_over = Cell::new(false);
        let story = async {
            let ordinary = self.ordinary(&site, began, &is_over);
            let flood = self.flood(&site, began, &is_over);
            let told = try_join(ordinary, flood).await?;
            unfinished(&site, false, FLOOD).await?;
            Ok(told)
        };
        let (ordinary, flood) = watch.beside(story).await?;
        let found = Found::of(&site, ordinary, flood, began_unix).await?;
        self.draw(&watch, &found, pace, slower, picture)?;
        let verdict = self.judge(&watch, &found, pace, slower);
        site.cluster.take_down().await?;
        Ok(verdict)
    }

    async fn set_up(&self, ground: &Ground, service: Duration) -> anyhow::Result<Site> {
        let workers = |builder: Builder| builder.workers(WORKERS).prefetch(UNANSWERED);
        let site = ground.site_of(workers).await?;
        let in_flight = WORKERS * usize::from(UNANSWERED);
        site.cluster.provider.set(Behaviour {
            latency: Latency::Fixed(service),
            max_in_flight: Some(u64::try_from(in_flight)?),
            ..Behaviour::default()
        })?;
        let tenants = "
            select postroad.tenant_id(name) from unnest($1::text[]) name";
        let names: Vec<_> = (0..TENANTS).map(tenant).chain([FLOOD.to_owned()]).collect();
        site.cluster.query(tenants, &[&names]).await?;
        let provider = json!({"unanswered_max": UNANSWERED});
        set(&site, Method::PUT, "/v1/providers/push", &provider).await?;
        let queue = json!({
            "provider": "push", "window_size": WINDOW,
            "waiting_max": self.waiting_max, "on_full": "drop",
        });
        set(&site, Method::PATCH, "/v1/queues/default", &queue).await?;
        Ok(site)
    }

    /// Hands in the nth message of ordinary tenants when it is its time; how many it were of each class.
    async fn ordinary(
        &self,
        site: &Site,
        began: Instant,
        is_over: &Cell<bool>,
    ) -> anyhow::Result<[u64; 2]> {
        let handed_in = Cell::new([0; 2]);
        try_join_all((0..CLIENTS).map(|first| {
            let handed_in = &handed_in;
            async move {
                let mut client = Client::connect(&site.operator).await?;
                for n in (first..).step_by(usize::try_from(CLIENTS)?) {
                    let due = began + Duration::from_secs_f64(self.due(n));
                    tokio::time::sleep_until(due.into()).await;
                    if is_over.get() {
                        break;
                    }
                    let class = Class::of_nth(n);
                    let url = format!("{}/{}/{n}", site.cluster.provider.url(), class.name());
                    let job = json!({
                        "kind": "webhook", "tenant": tenant(n % TENANTS),
                        "priority": class as u8, "args": {"url": url, "body": "Your code is 123456"},
                    });
                    client.post("/v1/jobs", job.to_string().into()).await?;
                    let mut so_far = handed_in.get();
                    so_far[class as usize] += 1;
                    handed_in.set(so_far);
                }
                anyhow::Ok(())
            }
        }))
        .await?;
        Ok(handed_in.get())
    }

    /// When the nth message of ordinary tenants is to be handed in.
    fn due(&self, n: u64) -> f64 {
        n as f64 * 60.0 / self.per_minute as f64
    }

    /// The burst, and what follows until everybody is done.
    async fn flood(
        &self,
        site: &Site,
        began: Instant,
        is_over: &Cell<bool>,
    ) -> anyhow::Result<Flood> {
        tokio::time::sleep_until((began + self.before).into()).await;
        let memory_before = memory(site)?;
        let from = began.elapsed().as_secs_f64();
        let next = Cell::new(0);
        try_join_all((0..BATCHES).map(|_| self.batches(site, Instant::now(), &next))).await?;
        let to = began.elapsed().as_secs_f64();
        unfinished(site, true, FLOOD).await?;
        let done = began.elapsed().as_secs_f64();
        tokio::time::sleep(self.after).await;
        is_over.set(true);
        Ok(Flood {
            from,
            to,
            done,
            memory_before,
            memory_after: memory(site)?,
        })
    }

    fn marketing_line(provider: &str) -> String {
        let job = json!({
            "kind": "webhook", "tenant": FLOOD, "priority": Class::Marketing as u8,
            "args": {
                "url": format!("{provider}/{}", Class::Marketing.name()),
                "body": "Spring is here: everything at half its price until Sunday",
            },
        });
        format!("{job}\n")
    }

    /// Hands in one batch after the other, each when it is its time.
    async fn batches(&self, site: &Site, began: Instant, next: &Cell<u64>) -> anyhow::Result<()> {
        let line = Self::marketing_line(&site.cluster.provider.url());
        loop {
            let at = next.get();
            let jobs = IN_BATCH.min(self.burst - at);
            if jobs == 0 {
                return Ok(());
            }
            next.set(at + jobs);
            let share = at as f64 / self.burst as f64;
            let due = began + self.burst_over.mul_f64(share);
            tokio::time::sleep_until(due.into()).await;
            let body = Bytes::from(line.repeat(usize::try_from(jobs)?));
            let kind = "application/x-ndjson";
            let answer = site
                .operator
                .raw(Method::POST, "/v1/jobs/batch", kind, body)
                .await?;
            let counts = answer.lines().pop().context("an answer without a line")?;
            ensure!(counts["accepted"] == jobs, "{answer:?}");
        }
    }
}

fn tenant(nth: u64) -> String {
    format!("tenant-{nth}")
}

/// Waits until nothing is left of the jobs of this tenant, or of the others.
async fn unfinished(site: &Site, is_of_tenant: bool, tenant: &str) -> anyhow::Result<()> {
    let sql = "
        select coalesce(sum(e.accepted - e.completed - e.dead - e.cancelled - e.expired), 0)::bigint
        from (select * from postroad.ledger_total union all select * from postroad.ledger_entry) e
        join postroad.tenant t on t.id = e.tenant_id
        where (t.name = $1) = $2";
    until_done("nothing is left", async || {
        let rows = site.cluster.query(sql, &[&tenant, &is_of_tenant]).await?;
        let left: i64 = rows[0].get(0);
        Ok((left == 0, left))
    })
    .await
}

async fn set(site: &Site, method: Method, path: &str, to: &Value) -> anyhow::Result<()> {
    let answer = site.operator.call(method, path, to).await?;
    ensure!(answer.status.is_success(), "{path}: {answer:?}");
    Ok(())
}

/// Those whose memory is watched.
fn programs(site: &Site) -> [(&'static str, u32); 4] {
    let cluster = &site.cluster;
    [
        ("scheduler", cluster.scheduler(0)),
        ("first worker", cluster.worker(0)),
        ("second worker", cluster.worker(1)),
        ("api", site.api),
    ]
    .map(|(name, id)| (name, cluster.pid(id)))
}

/// The most that each had so far, in MB.
fn memory(site: &Site) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let peak = |(name, pid)| anyhow::Ok((name, peak_memory(pid)?));
    programs(site).into_iter().map(peak).collect()
}
