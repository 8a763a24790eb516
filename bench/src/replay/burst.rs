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

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use postroad_tests::harness::cluster::Builder;
use postroad_tests::simulator::{Behaviour, Latency, Record, Report};
use reqwest::Method;
use serde_json::{Value, json};

use super::verdict::Verdict;
use super::watch::{Watch, per_second, until_done};
use super::{seconds, unix_now};
use crate::chart::Line;
use crate::client::Client;
use crate::ground::{Ground, Site};
use crate::picture::{Panel, Picture, thousands};
use crate::table::quantile;
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
/// A code that takes longer is no use to whoever waits for it.
const ON_TIME: f64 = 5.0;
/// By how much a program may grow in a burst: buffers that were never full before.
const GROWTH_MAX: f64 = 32.0;
/// What comes in for so long may be in the buffer beyond what may wait: it is looked at a few times a second,
/// and worked off in steps.
const SHED_WITHIN: f64 = 5.0;
/// A burst that takes longer than this share of its time was not played in real time.
const LATE_SHARE: f64 = 1.1;

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

/// The class of a message, and its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Code = 0,
    Transactional = 1,
    Marketing = 2,
}

impl Class {
    const ALL: [Self; 3] = [Self::Code, Self::Transactional, Self::Marketing];

    /// Of messages of ordinary tenants; each tenant has some of both.
    fn of_nth(n: u64) -> Self {
        match (n / TENANTS).is_multiple_of(ONE_IS_A_CODE_OF) {
            true => Self::Code,
            false => Self::Transactional,
        }
    }

    /// In the path under which the provider gets it.
    fn name(self) -> &'static str {
        match self {
            Self::Code => "codes",
            Self::Transactional => "transactional",
            Self::Marketing => "marketing",
        }
    }
}

/// When the burst was, and what the programs had of the machine before it and after all.
struct Flood {
    from: f64,
    to: f64,
    done: f64,
    memory_before: Vec<(&'static str, f64)>,
    memory_after: Vec<(&'static str, f64)>,
}

/// A message that the provider got.
struct Arrival {
    class: Class,
    /// Which of the ordinary tenants' messages.
    nth: Option<u64>,
    second: f64,
}

impl Arrival {
    fn of(record: &Record, began: f64) -> anyhow::Result<Self> {
        let mut parts = record.path.trim_start_matches('/').split('/');
        let name = parts.next();
        let class = Class::ALL
            .into_iter()
            .find(|class| Some(class.name()) == name);
        Ok(Self {
            class: class.with_context(|| format!("nobody sends to {}", record.path))?,
            nth: parts.next().map(str::parse).transpose()?,
            second: record.t - began,
        })
    }
}

/// Where jobs of a class are, by Postgres and by the provider.
#[derive(Clone, Copy, Debug, Default)]
struct Whereabouts {
    accepted: u64,
    completed: u64,
    shed: u64,
    /// Ended in any other way.
    otherwise: u64,
    /// In the table of unfinished jobs.
    waiting: u64,
    delivered: u64,
}

/// What there was to be found in the end.
struct Found {
    flood: Flood,
    classes: HashMap<Class, Whereabouts>,
    arrivals: Vec<Arrival>,
    provider: Report,
    /// By the scheduler's counter.
    shed_counted: u64,
    unbalanced: Vec<String>,
}

impl Found {
    async fn of(site: &Site, ordinary: [u64; 2], flood: Flood, began: f64) -> anyhow::Result<Self> {
        let cluster = &site.cluster;
        let sql = "
            select priority, count(*) filter (where state = 'completed'),
                   count(*) filter (where state = 'cancelled' and reason = 'shed'),
                   count(*) filter (where state <> 'completed' and (state <> 'cancelled' or reason is distinct from 'shed')),
                   count(*) filter (where state is null)
            from (select priority, state, reason from postroad.archive
                  union all
                  select priority, null, null from postroad.job) every
            group by 1";
        let marketing = flood_accepted(site).await?;
        let accepted = [ordinary[0], ordinary[1], marketing];
        let mut classes: HashMap<_, _> = HashMap::new();
        for class in Class::ALL {
            let accepted = accepted[class as usize];
            let empty = Whereabouts {
                accepted,
                ..Whereabouts::default()
            };
            classes.insert(class, empty);
        }
        for row in cluster.query(sql, &[]).await? {
            let priority = row.get::<_, i16>(0);
            let class = Class::ALL
                .into_iter()
                .find(|class| *class as i16 == priority);
            let class = class.with_context(|| format!("nobody has priority {priority}"))?;
            let of = classes.entry(class).or_default();
            let count = |nth| anyhow::Ok(u64::try_from(row.get::<_, i64>(nth))?);
            (of.completed, of.shed) = (count(1)?, count(2)?);
            (of.otherwise, of.waiting) = (count(3)?, count(4)?);
        }
        let records = cluster.provider.records();
        let effects = records.iter().filter(|record| record.effect);
        let arrivals: Vec<_> = effects
            .map(|record| Arrival::of(record, began))
            .collect::<Result<_, _>>()?;
        for arrival in &arrivals {
            classes.entry(arrival.class).or_default().delivered += 1;
        }
        let ledger = cluster.store.ledger(None).await?;
        let unbalanced = ledger.accounts.into_iter().filter(|one| !one.balanced);
        let shed = cluster.counted(cluster.scheduler(0), "postroad_jobs_shed_total");
        Ok(Self {
            flood,
            classes,
            arrivals,
            provider: cluster.provider.report(),
            shed_counted: shed.await?.unwrap_or(0),
            unbalanced: unbalanced.map(|one| one.tenant).collect(),
        })
    }

    fn of_class(&self, class: Class) -> Whereabouts {
        self.classes.get(&class).copied().unwrap_or_default()
    }

    /// How late each message of a class was that was to be handed in within this time, in seconds.
    fn lateness(&self, plan: &Plan, class: Class, from: f64, to: f64) -> Vec<f64> {
        let of_class = self.arrivals.iter().filter(|one| one.class == class);
        let late = |one: &Arrival| {
            let due = plan.due(one.nth?);
            (from..to).contains(&due).then_some(one.second - due)
        };
        of_class.filter_map(late).collect()
    }
}

/// What the API has accepted of the flood, by the ledger.
async fn flood_accepted(site: &Site) -> anyhow::Result<u64> {
    let ledger = site.cluster.store.ledger(Some(FLOOD)).await?;
    let account = ledger.accounts.first().context("nothing of the flood")?;
    Ok(u64::try_from(account.accepted)?)
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

// === Curves ===

impl Plan {
    fn title(&self, pace: f64, slower: u32) -> String {
        let speed = if slower == 1 {
            ""
        } else {
            ", at half its speed"
        };
        format!(
            "{} requests within {} for a provider that takes {pace:.0} a second{speed}",
            thousands(self.burst as f64),
            seconds(self.burst_over)
        )
    }

    fn draw(
        &self,
        watch: &Watch,
        found: &Found,
        pace: f64,
        slower: u32,
        file: &Path,
    ) -> anyhow::Result<()> {
        let until = watch.looks.last().map_or(0.0, |look| look.second);
        let line = |name: &str, points| Line {
            name: name.to_owned(),
            points,
        };
        let flat = |name: &str, level| line(name, vec![(0.0, level), (until, level)]);
        let arrived = |name: &str, is_meant: fn(Class) -> bool| {
            let meant = found.arrivals.iter().filter(|one| is_meant(one.class));
            line(name, per_second(meant.map(|one| one.second), until))
        };
        let worst = |class: Class| {
            let mut points: Vec<(f64, f64)> = Vec::new();
            for second in 0..until as usize {
                let from = second as f64;
                let late = found.lateness(self, class, from, from + 1.0);
                let longest = late.into_iter().fold(None, |most: Option<f64>, one| {
                    Some(most.map_or(one, |most| most.max(one)))
                });
                points.extend(longest.map(|longest| (from + 0.5, longest * 1000.0)));
            }
            points
        };
        let memory = found.flood.memory_before.iter().enumerate();
        let memory =
            memory.map(|(nth, (name, _))| line(name, watch.levels(|look| look.memory[nth])));
        let picture = Picture {
            title: self.title(pace, slower),
            panels: vec![
                Panel {
                    unit: "in and shed, jobs/s",
                    lines: vec![
                        line(
                            "handed in",
                            watch.rates(|look| look.bulk.accepted + look.others.accepted),
                        ),
                        line(
                            "shed",
                            watch.rates(|look| look.bulk.shed + look.others.shed),
                        ),
                    ],
                },
                Panel {
                    unit: "at the provider, requests/s",
                    lines: vec![
                        arrived("all", |_| true),
                        arrived("codes and transactional", |class| class != Class::Marketing),
                        flat("what it takes", pace),
                    ],
                },
                Panel {
                    unit: "buffered, jobs",
                    lines: vec![
                        line(
                            "marketing",
                            watch.levels(|look| look.bulk.unfinished() as f64),
                        ),
                        line(
                            "codes and transactional",
                            watch.levels(|look| look.others.unfinished() as f64),
                        ),
                        flat("may wait", self.waiting_max as f64),
                    ],
                },
                Panel {
                    unit: "the latest of a second, ms",
                    lines: vec![
                        line("transactional", worst(Class::Transactional)),
                        line("codes", worst(Class::Code)),
                    ],
                },
                Panel {
                    unit: "memory, MB",
                    lines: memory.collect(),
                },
            ],
            span: (found.flood.from, found.flood.to, "the burst"),
            marks: (Vec::new(), ""),
            until,
        };
        picture.write(file)
    }
}

// === What has to hold ===

impl Plan {
    fn judge(&self, watch: &Watch, found: &Found, pace: f64, slower: u32) -> Verdict {
        let mut verdict = Verdict::of(self.title(pace, slower));
        self.judge_sums(found, &mut verdict);
        self.judge_buffer(watch, found, pace, &mut verdict);
        self.judge_lateness(found, &mut verdict);
        self.judge_memory(found, &mut verdict);
        verdict
    }

    /// Each class adds up, and is where it should be.
    fn judge_sums(&self, found: &Found, verdict: &mut Verdict) {
        for class in Class::ALL {
            let of = found.of_class(class);
            let name = class.name();
            verdict.figure(format!("{name}: accepted"), "", of.accepted as f64);
            verdict.figure(format!("{name}: delivered"), "", of.delivered as f64);
            verdict.figure(format!("{name}: shed"), "", of.shed as f64);
            let sum = of.delivered + of.shed + of.waiting;
            let holds = of.accepted == sum
                && of.completed == of.delivered
                && of.waiting == 0
                && of.otherwise == 0;
            verdict.check(
                format!("{name}: accepted = delivered + shed + waiting, which is 0"),
                holds,
                format!(
                    "{} = {} + {} + {}",
                    thousands(of.accepted as f64),
                    thousands(of.delivered as f64),
                    thousands(of.shed as f64),
                    of.waiting
                ),
            );
        }
        let important = [Class::Code, Class::Transactional];
        let shed: u64 = important
            .map(|class| found.of_class(class).shed)
            .iter()
            .sum();
        verdict.check(
            "no code and nothing transactional is shed",
            shed == 0,
            format!("{shed}"),
        );
        let marketing = found.of_class(Class::Marketing);
        verdict.check(
            "what is shed is booked: archive and the scheduler's counter agree",
            marketing.shed == found.shed_counted,
            format!(
                "{} and {}",
                thousands(marketing.shed as f64),
                thousands(found.shed_counted as f64)
            ),
        );
        verdict.check(
            "the ledger of every tenant is balanced",
            found.unbalanced.is_empty(),
            match found.unbalanced.as_slice() {
                [] => "every".to_owned(),
                some => format!("not of {}", some.join(", ")),
            },
        );
        let provider = &found.provider;
        verdict.check(
            "nobody gets two",
            provider.duplicates == 0 && provider.without_key == 0,
            format!(
                "{} twice of {}",
                provider.duplicates,
                thousands(provider.effects as f64)
            ),
        );
        verdict.check(
            format!("never more than {UNANSWERED} unanswered for each worker"),
            provider.violations == 0,
            format!(
                "{} at once at most, {} refused",
                provider.peak_in_flight, provider.violations
            ),
        );
    }

    /// What was shed is what there was no room for: not more, and not less.
    fn judge_buffer(&self, watch: &Watch, found: &Found, pace: f64, verdict: &mut Verdict) {
        let took = found.flood.to - found.flood.from;
        verdict.figure("the burst took", "s", took);
        verdict.figure("handed in meanwhile", "jobs/s", self.burst as f64 / took);
        verdict.figure(
            "until the last of it had arrived",
            "s",
            found.flood.done - found.flood.from,
        );
        let planned = self.burst_over.as_secs_f64();
        if took > planned * LATE_SHARE {
            verdict.figure(
                "not in real time: slower than planned by a factor of",
                "",
                took / planned,
            );
        }
        let shed = found.of_class(Class::Marketing).shed;
        let most_shed = self.burst.saturating_sub(self.waiting_max);
        verdict.check(
            format!(
                "nothing is shed for which there was room ({})",
                thousands(self.waiting_max as f64)
            ),
            shed <= most_shed,
            format!(
                "{} shed, {} at most",
                thousands(shed as f64),
                thousands(most_shed as f64)
            ),
        );
        let line = Self::marketing_line("http://127.0.0.1:65535");
        let size = self.burst as f64 * line.len() as f64 / 1e6;
        verdict.figure("size of the burst, as it comes in", "MB", size);
        let in_pipe = watch.most(|look| (look.dispatched + look.running) as f64);
        verdict.check(
            format!("no more than {WINDOW} are in the pipe, running ones included"),
            in_pipe <= WINDOW as f64,
            format!("{} at most", thousands(in_pipe)),
        );
        let most = watch.most(|look| look.bulk.unfinished() as f64);
        verdict.figure("buffered at once, most", "jobs", most);
        let come_in = SHED_WITHIN * self.burst as f64 / took;
        let bound = self.waiting_max as f64 + WINDOW as f64 + come_in;
        verdict.check(
            "the buffer is bounded",
            most <= bound,
            format!("{} at most, bound {}", thousands(most), thousands(bound)),
        );
        let of_burst = (found.flood.from + 1.0)..found.flood.done - 1.0;
        let arrived = found
            .arrivals
            .iter()
            .filter(|one| of_burst.contains(&one.second))
            .count();
        let rate = arrived as f64 / (of_burst.end - of_burst.start).max(0.001);
        verdict.figure("to the provider meanwhile", "requests/s", rate);
        verdict.figure("of what it takes", "%", 100.0 * rate / pace);
    }

    /// Ordinary tenants do not notice.
    fn judge_lateness(&self, found: &Found, verdict: &mut Verdict) {
        let Flood { from, done, .. } = found.flood;
        for class in [Class::Code, Class::Transactional] {
            let name = class.name();
            let mut before = found.lateness(self, class, 0.0, from);
            let mut meanwhile = found.lateness(self, class, from, done);
            for (when, late) in [("before", &mut before), ("meanwhile", &mut meanwhile)] {
                for (share, of) in [
                    (0.5, "median"),
                    (0.95, "p95"),
                    (0.99, "p99"),
                    (1.0, "latest"),
                ] {
                    let late = 1000.0 * quantile(late, share);
                    verdict.figure(format!("{name} {when}: {of}"), "ms", late);
                }
            }
            let (share, of) = match class {
                Class::Code => (1.0, "every one"),
                _ => (0.99, "99 %"),
            };
            let late = quantile(&mut meanwhile, share);
            verdict.check(
                format!("{name}: {of} within {ON_TIME:.0} s while it lasts"),
                late <= ON_TIME,
                format!("{late:.2} s"),
            );
        }
    }

    /// The burst is in Postgres, and in no program.
    fn judge_memory(&self, found: &Found, verdict: &mut Verdict) {
        let pairs = found
            .flood
            .memory_before
            .iter()
            .zip(&found.flood.memory_after);
        for ((name, before), (_, after)) in pairs {
            verdict.figure(format!("memory of the {name}, peak before"), "MB", *before);
            verdict.figure(format!("memory of the {name}, peak of all"), "MB", *after);
            verdict.check(
                format!("the {name} does not grow with the burst (by {GROWTH_MAX:.0} MB at most)"),
                after - before <= GROWTH_MAX,
                format!("{before:.0} MB before, {after:.0} MB at most"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_has_some_codes_and_mostly_others() {
        let round = TENANTS * ONE_IS_A_CODE_OF;
        for tenant in 0..TENANTS {
            let of_tenant = (0..round).filter(|n| n % TENANTS == tenant);
            let codes = of_tenant.filter(|n| Class::of_nth(*n) == Class::Code);
            assert_eq!(codes.count(), 1, "tenant {tenant}");
        }
    }

    #[test]
    fn a_message_is_recognized_where_it_arrives() {
        let arrival = |path: &str| {
            let record = json!({
                "t": 17.5, "path": path, "id": null, "key": null, "attempt": 1, "body_sha256": "",
                "bytes": 0, "status": 200, "effect": true,
            });
            let record: Record = serde_json::from_value(record).expect("a record");
            Arrival::of(&record, 10.0)
        };
        let code = arrival("/codes/17").expect("a message");
        assert_eq!(
            (code.class, code.nth, code.second),
            (Class::Code, Some(17), 7.5)
        );
        let marketing = arrival("/marketing").expect("a message");
        assert_eq!((marketing.class, marketing.nth), (Class::Marketing, None));
        assert!(arrival("/elsewhere").is_err());
    }
}
