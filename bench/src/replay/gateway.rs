//! A gateway that becomes a thousand times slower.
//!
//! What happened elsewhere: a bulk sender fetched due rows every minute. When the gateway slowed down,
//! the next tick fetched the rows that were still being sent, and every subscriber got an SMS a second
//! until the servers were switched off.
//!
//! What is played: all sends are due at once, three schedulers fetch them, the gateway slows down in the
//! middle and recovers, and meanwhile workers are killed and started again. The kind `sms` is held when
//! its worker is lost: what a killed worker had under way may or may not have arrived, and is not
//! repeated by itself.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use postroad_common::job::NewJob;
use postroad_common::store::{ProviderSettings, QueueChange};
use postroad_tests::harness::cluster::{Builder, Cluster, Id, many_sms};
use postroad_tests::simulator::{Behaviour, Latency, Record, Report};
use uuid::Uuid;

use super::unix_now;
use super::verdict::Verdict;
use super::watch::{Watch, per_second, until_done};
use crate::chart::Line;
use crate::ground::Ground;
use crate::picture::{Panel, Picture, thousands};

const SCHEDULERS: usize = 3;
const WORKERS: usize = 3;
const UNANSWERED: u16 = 100;
const FAST: Duration = Duration::from_millis(5);
/// Of all sends, in percent: when so many have arrived, the gateway slows down.
const SLOWS_AT: usize = 40;
/// Who has sent them.
const TENANT: &str = "default";
/// Jobs in one statement.
const STATEMENT: usize = 2000;

/// The size of the story.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    sends: usize,
    slow: Duration,
    slow_for: Duration,
    kills: u32,
    lease: &'static str,
}

/// What happened when, in seconds.
#[derive(Clone, Debug, Default)]
struct Events {
    slow_from: f64,
    slow_to: f64,
    kills: Vec<f64>,
    done: f64,
}

/// What there was to be found in the end.
struct Found {
    events: Events,
    /// Seconds at which a request with an effect came.
    arrivals: Vec<f64>,
    reached: HashSet<Uuid>,
    completed: HashSet<Uuid>,
    held: HashSet<Uuid>,
    /// In any other state.
    otherwise: usize,
    gateway: Report,
}

impl Plan {
    pub(crate) const WHOLE: Self = Self {
        sends: 200_000,
        slow: Duration::from_secs(5),
        slow_for: Duration::from_secs(45),
        kills: 4,
        lease: "5s",
    };
    pub(crate) const QUICK: Self = Self {
        sends: 3000,
        slow: Duration::from_secs(1),
        slow_for: Duration::from_secs(4),
        kills: 2,
        lease: "2s",
    };

    fn title(&self) -> String {
        format!(
            "{} SMS, and a gateway that slows down from {FAST:?} to {:?}",
            thousands(self.sends as f64),
            self.slow
        )
    }

    pub(crate) async fn play(&self, ground: &Ground, picture: &Path) -> anyhow::Result<Verdict> {
        eprintln!("{}", self.title());
        let mut cluster = self.set_up(ground).await?;
        let mut watch = Watch::new(&cluster, TENANT, Vec::new()).await?;
        let began = watch.began();
        let began_unix = unix_now() - began.elapsed().as_secs_f64();
        let events = watch.beside(self.happen(&mut cluster, began)).await?;
        let found = Found::of(&cluster, events, began_unix).await?;
        self.draw(&watch, &found, picture)?;
        let verdict = self.judge(&found);
        cluster.take_down().await?;
        Ok(verdict)
    }

    async fn set_up(&self, ground: &Ground) -> anyhow::Result<Cluster> {
        let programs = |builder: Builder| {
            let builder = builder.schedulers(SCHEDULERS).workers(WORKERS);
            builder.prefetch(UNANSWERED).lease(self.lease)
        };
        let cluster = ground.cluster(programs).await?;
        cluster.provider.set(behaviour(FAST))?;
        let settings = ProviderSettings {
            unanswered_max: Some(i32::from(UNANSWERED)),
            failure_max: Some(ProviderSettings::FAILURE_MAX_DEFAULT),
            ..ProviderSettings::default()
        };
        cluster.store.put_provider("gateway", &settings).await?;
        let change = QueueChange {
            provider: Some(Some("gateway".to_owned())),
            ..QueueChange::default()
        };
        ensure!(cluster.store.set_queue("default", &change).await?);
        Ok(cluster)
    }

    async fn happen(&self, cluster: &mut Cluster, began: Instant) -> anyhow::Result<Events> {
        let now = || began.elapsed().as_secs_f64();
        let mut events = Events::default();
        for from in (0..self.sends).step_by(STATEMENT) {
            let jobs: Vec<NewJob> = many_sms(STATEMENT.min(self.sends - from));
            cluster.store.enqueue(&jobs, false).await?;
        }
        let slows_at = u64::try_from(self.sends * SLOWS_AT / 100)?;
        until_done("enough have arrived", async || {
            let effects = cluster.provider.report().effects;
            Ok((effects >= slows_at, i64::try_from(effects)?))
        })
        .await?;

        cluster.provider.set(behaviour(self.slow))?;
        events.slow_from = now();
        let mut workers: Vec<Id> = (0..WORKERS).map(|nth| cluster.worker(nth)).collect();
        for _ in 0..self.kills {
            tokio::time::sleep(self.slow_for / (self.kills + 1)).await;
            cluster.kill(workers.remove(0)).await?;
            events.kills.push(now());
            workers.push(cluster.start_worker().await?);
        }
        let rest = events.slow_from + self.slow_for.as_secs_f64() - now();
        tokio::time::sleep(Duration::from_secs_f64(rest.max(0.0))).await;
        cluster.provider.set(behaviour(FAST))?;
        events.slow_to = now();
        all_ended(cluster).await?;
        events.done = now();
        Ok(events)
    }
}

fn behaviour(latency: Duration) -> Behaviour {
    Behaviour {
        latency: Latency::Fixed(latency),
        max_in_flight: Some(WORKERS as u64 * u64::from(UNANSWERED)),
        ..Behaviour::default()
    }
}

/// Waits until every job is completed or held.
async fn all_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let sql = "
        select coalesce(sum(accepted - completed - dead - cancelled - expired), 0)::bigint
                   - (select count(*) from postroad.job where stage = 3)
        from (select * from postroad.ledger_total union all select * from postroad.ledger_entry) e";
    until_done("every job has ended or is held", async || {
        let left: i64 = cluster.query(sql, &[]).await?[0].get(0);
        Ok((left == 0, left))
    })
    .await
}

impl Found {
    async fn of(cluster: &Cluster, events: Events, began: f64) -> anyhow::Result<Self> {
        let records = cluster.provider.records();
        let effects = || records.iter().filter(|record| record.effect);
        let key = |record: &Record| Uuid::parse_str(record.key.as_deref()?).ok();
        let rows = "select id, state::text from postroad.jobs";
        let (mut completed, mut held, mut otherwise) = (HashSet::new(), HashSet::new(), 0);
        for row in cluster.query(rows, &[]).await? {
            let id: Uuid = row.get(0);
            match row.get(1) {
                "completed" => _ = completed.insert(id),
                "held" => _ = held.insert(id),
                _ => otherwise += 1,
            }
        }
        Ok(Self {
            events,
            arrivals: effects().map(|record| record.t - began).collect(),
            reached: effects().filter_map(key).collect(),
            completed,
            held,
            otherwise,
            gateway: cluster.provider.report(),
        })
    }

    fn arrived_within(&self, from: f64, to: f64) -> usize {
        let within = self.arrivals.iter().filter(|at| (from..to).contains(*at));
        within.count()
    }
}

// === Curves, and what has to hold ===

impl Plan {
    fn draw(&self, watch: &Watch, found: &Found, file: &Path) -> anyhow::Result<()> {
        let until = watch.looks.last().map_or(0.0, |look| look.second);
        let line = |name: &str, points| Line {
            name: name.to_owned(),
            points,
        };
        let arrived = per_second(found.arrivals.iter().copied(), until);
        let picture = Picture {
            title: self.title(),
            panels: vec![
                Panel {
                    unit: "at the gateway, sends/s",
                    lines: vec![line("sends", arrived)],
                },
                Panel {
                    unit: "to be sent, jobs",
                    lines: vec![line(
                        "not ended",
                        watch.levels(|look| (look.bulk.unfinished() - look.held) as f64),
                    )],
                },
                Panel {
                    unit: "out of the schedule, jobs",
                    lines: vec![
                        line("in the pipe", watch.levels(|look| look.dispatched as f64)),
                        line("running", watch.levels(|look| look.running as f64)),
                        line("held", watch.levels(|look| look.held as f64)),
                    ],
                },
            ],
            span: (
                found.events.slow_from,
                found.events.slow_to,
                "the gateway is slow",
            ),
            marks: (
                found.events.kills.clone(),
                "a worker is killed, and another one started",
            ),
            until,
        };
        picture.write(file)
    }

    fn judge(&self, found: &Found) -> Verdict {
        let mut verdict = Verdict::of(self.title());
        self.judge_sums(found, &mut verdict);
        self.judge_gateway(found, &mut verdict);
        verdict
    }

    fn judge_sums(&self, found: &Found, verdict: &mut Verdict) {
        let Found {
            reached,
            completed,
            held,
            ..
        } = found;
        let held_and_sent = held.intersection(reached).count();
        verdict.figure("accepted", "", self.sends as f64);
        verdict.figure("completed", "", completed.len() as f64);
        verdict.figure("held", "", held.len() as f64);
        verdict.figure(
            "held, and had reached the gateway",
            "",
            held_and_sent as f64,
        );
        verdict.figure("reached the gateway", "", reached.len() as f64);
        verdict.check(
            "accepted = completed + held",
            self.sends == completed.len() + held.len() && found.otherwise == 0,
            format!(
                "{} = {} + {}, and {} in other states",
                thousands(self.sends as f64),
                thousands(completed.len() as f64),
                held.len(),
                found.otherwise
            ),
        );
        let lost = completed.difference(reached).count();
        verdict.check(
            "nothing is lost: what is completed has reached the gateway",
            lost == 0,
            format!("{lost} have not"),
        );
        let unknown = reached
            .iter()
            .filter(|id| !completed.contains(id) && !held.contains(id));
        let unknown = unknown.count();
        verdict.check(
            "what has reached the gateway is completed or held",
            unknown == 0,
            format!("{unknown} are neither"),
        );
        verdict.check(
            "nobody gets two",
            found.gateway.duplicates == 0 && found.gateway.without_key == 0,
            format!(
                "{} twice of {}",
                found.gateway.duplicates,
                thousands(found.gateway.effects as f64)
            ),
        );
        let hands = self.kills as usize * usize::from(UNANSWERED);
        verdict.check(
            "what is held is what killed workers had under way",
            held.len() <= hands,
            format!("{}, {hands} at most", held.len()),
        );
    }

    fn judge_gateway(&self, found: &Found, verdict: &mut Verdict) {
        let Events {
            slow_from,
            slow_to,
            kills,
            done,
        } = &found.events;
        let fast = found.arrived_within(1.0, *slow_from) as f64 / (slow_from - 1.0).max(0.001);
        let slow = found.arrived_within(*slow_from, *slow_to);
        verdict.figure("workers killed", "", kills.len() as f64);
        verdict.figure("sends while it is fast, at first", "sends/s", fast);
        verdict.figure(
            "sends while it is slow",
            "sends/s",
            slow as f64 / (slow_to - slow_from),
        );
        let after = found.arrived_within(*slow_to, *done) as f64 / (done - slow_to).max(0.001);
        verdict.figure("sends after that", "sends/s", after);
        verdict.figure("slow for", "s", slow_to - slow_from);
        verdict.figure("all of it took", "s", *done);
        // Each place once for each time that it takes, and what killed workers had.
        let places = WORKERS as f64 * f64::from(UNANSWERED);
        let rounds = (slow_to - slow_from) / self.slow.as_secs_f64() + 1.0;
        let most = places * rounds.ceil() + f64::from(self.kills) * f64::from(UNANSWERED);
        verdict.check(
            "a slow gateway gets no more than it answers",
            slow as f64 <= most,
            format!(
                "{} while it is slow, {} at most",
                thousands(slow as f64),
                thousands(most)
            ),
        );
        verdict.check(
            format!("never more than {UNANSWERED} unanswered for each worker"),
            found.gateway.violations == 0,
            format!(
                "{} at once at most, {} refused",
                found.gateway.peak_in_flight, found.gateway.violations
            ),
        );
    }
}
