//! What a look at the ledger, the pipe and the broker's queues means.
//!
//! | check | is wrong when | seen |
//! |---|---|---|
//! | conservation | a tenant's accepted jobs are not the sum over the states | at once: a look is one snapshot |
//! | doubled | a job exists twice | at once, among the youngest; later, wherever it is |
//! | stuck | a job is in the pipe and no rescuer takes it out | in two looks, [`CONFIRM`] apart |
//! | stale copies | more messages wait than jobs are dispatched | for [`PATIENCE`] |
//! | dead letters | nobody drains `postroad.dead` | for [`PATIENCE`] |
//! | parked | somebody published what nobody can read | at once |
//!
//! The first three are alarms: a job is lost, doubled, or not moving. The others are notices: the
//! gate refuses a stale copy, and dead letters and parked messages wait for somebody.
//!
//! Reading is one function, [`Audit::look`], and judging another, without I/O or a clock.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::broker::topology::{DEAD_QUEUE, PARKED_QUEUE, work_queue};
use crate::broker::{self, Depth, DepthReader};
use crate::job::JobId;
use crate::store::{self, Ledger, QueuePipe, Store};

/// After a rescuer should have taken a job out of the pipe, how much longer it may be there: twice
/// the slack that the rescuer itself gives a message.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// A job is stuck when two looks so far apart find it so: between them every rescuer has run.
pub const CONFIRM: Duration = Duration::from_secs(2);
/// How long a queue may look wrong: the broker and Postgres are never asked at the same moment.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Finished jobs per step of the search for doubled ones. Ten times as many while a tenant has more
/// jobs than were accepted, for then there is something to find.
const STEP: i64 = 2000;
/// Keys and errors that are searched for the ids of missing jobs.
const NAMED_MAX: i64 = 10_000;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Accepted is the sum over the states.
    Conservation,
    /// No job exists twice.
    Doubled,
    /// Whatever is in the pipe leaves it.
    Stuck,
    /// Every message has a job that waits for it.
    StaleCopies,
    /// Dead letters are drained.
    DeadLetters,
    /// Every message can be read.
    Parked,
}

impl Check {
    /// Its name in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conservation => "conservation",
            Self::Doubled => "doubled",
            Self::Stuck => "stuck",
            Self::StaleCopies => "stale_copies",
            Self::DeadLetters => "dead_letters",
            Self::Parked => "parked",
        }
    }

    /// Whether somebody has to act, because a job is lost, doubled, or not moving.
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::Conservation | Self::Doubled | Self::Stuck)
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub check: Check,
    /// Whether it is an alarm, or only a notice.
    pub is_alarm: bool,
    /// The tenant or the queue; empty where it is about all of them.
    pub subject: String,
    /// How many jobs or messages; negative where jobs are lost.
    pub count: i64,
    /// Their ids, as far as they are known; the first twenty.
    pub ids: Vec<JobId>,
}

impl Finding {
    fn new(check: Check, subject: &str, count: i64, ids: Vec<JobId>) -> Self {
        Self {
            check,
            is_alarm: check.is_alarm(),
            subject: subject.to_owned(),
            count,
            ids,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, count, .. } = self;
        match self.check {
            Check::Conservation if *count < 0 => {
                write!(f, "tenant {subject}: {} accepted jobs are nowhere", -count)?;
            }
            Check::Conservation => {
                write!(f, "tenant {subject}: {count} jobs more than were accepted")?;
            }
            Check::Doubled => write!(f, "{count} jobs exist twice")?,
            Check::Stuck => write!(
                f,
                "queue {subject}: {count} jobs should have left the pipe and are not rescued"
            )?,
            Check::StaleCopies => write!(
                f,
                "queue {subject}: {count} messages wait for no job; the gate will refuse them"
            )?,
            Check::DeadLetters => write!(f, "{count} dead letters wait in {subject}")?,
            Check::Parked => write!(f, "{count} messages that nobody can read wait in {subject}")?,
        }
        if !self.ids.is_empty() {
            let ids: Vec<_> = self.ids.iter().map(ToString::to_string).collect();
            write!(f, ": {}", ids.join(" "))?;
        }
        Ok(())
    }
}

/// A queue on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLook {
    /// In Postgres.
    pub pipe: QueuePipe,
    /// In RabbitMQ; none where nobody can say.
    pub depth: Option<Depth>,
}

/// One look at everything.
#[derive(Debug)]
pub struct Look {
    /// The ledger.
    pub ledger: Ledger,
    /// Every queue.
    pub queues: Vec<QueueLook>,
    /// Messages in `postroad.dead`.
    pub dead_letters: Option<u32>,
    /// Messages in `postroad.parked`.
    pub parked: Option<u32>,
    /// How long Postgres was kept busy for it.
    pub took: Duration,
    /// Why RabbitMQ could not be asked.
    pub broker_error: Option<broker::Error>,
    /// What is wrong, alarms first.
    pub findings: Vec<Finding>,
}

impl Look {
    /// Whether an alarm stands. An account that is not balanced is one.
    pub fn has_alarm(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_alarm)
    }
}

/// Looks again and again, and remembers what it takes to judge.
pub struct Audit {
    store: Store,
    depths: DepthReader,
    memory: Memory,
    walk_from: Option<JobId>,
    doubled: Vec<JobId>,
    missing: HashMap<String, (i64, Vec<JobId>)>,
}

impl Audit {
    /// Over these servers.
    pub fn new(store: Store, depths: DepthReader) -> Self {
        Self {
            store,
            depths,
            memory: Memory::default(),
            walk_from: None,
            doubled: Vec::new(),
            missing: HashMap::new(),
        }
    }

    /// Looks at the ledger of one tenant, or of all, and at everything else. A broker that does
    /// not answer leaves its part of the look empty.
    pub async fn look(&mut self, tenant: Option<&str>) -> Result<Look, store::Error> {
        let started = Instant::now();
        let ledger = self.store.ledger(tenant).await?;
        let pipe = self.store.pipe(STUCK_AFTER).await?;
        self.find_missing(&ledger).await?;
        self.find_doubled(&ledger).await?;
        let took = started.elapsed();

        let mut names = vec![DEAD_QUEUE.to_owned(), PARKED_QUEUE.to_owned()];
        names.extend(pipe.iter().map(|queue| work_queue(&queue.queue)));
        let (depths, broker_error) = match self.depths.read(&names).await {
            Ok(depths) => (depths, None),
            Err(error) => (vec![None; names.len()], Some(error)),
        };
        let ready = |depth: &Option<Depth>| depth.map(|depth| depth.ready);
        let mut look = Look {
            ledger,
            dead_letters: ready(&depths[0]),
            parked: ready(&depths[1]),
            queues: pipe
                .into_iter()
                .zip(depths.into_iter().skip(2))
                .map(|(pipe, depth)| QueueLook { pipe, depth })
                .collect(),
            took,
            broker_error,
            findings: Vec::new(),
        };
        look.findings = self
            .memory
            .judge(&look, &self.doubled, &self.missing, Instant::now());
        Ok(look)
    }

    /// Searches for the jobs of tenants that lack some, once per change of the difference.
    async fn find_missing(&mut self, ledger: &Ledger) -> Result<(), store::Error> {
        let before = std::mem::take(&mut self.missing);
        for account in ledger.accounts.iter().filter(|one| one.difference() < 0) {
            let (tenant, difference) = (&account.tenant, account.difference());
            let ids = match before.get(tenant) {
                Some((same, ids)) if *same == difference => ids.clone(),
                _ => self.store.missing(tenant, NAMED_MAX).await?,
            };
            self.missing.insert(tenant.clone(), (difference, ids));
        }
        Ok(())
    }

    async fn find_doubled(&mut self, ledger: &Ledger) -> Result<(), store::Error> {
        let has_surplus = ledger.accounts.iter().any(|one| one.difference() > 0);
        let step = if has_surplus { 10 * STEP } else { STEP };
        let found = self
            .store
            .doubled(self.walk_from, step, &self.doubled)
            .await?;
        self.doubled = found.ids;
        self.walk_from = found.next;
        Ok(())
    }
}

/// What was wrong in the looks before this one.
#[derive(Debug, Default)]
struct Memory {
    /// Since when each stuck job is seen to be stuck.
    stuck: HashMap<JobId, Instant>,
    /// Since when a queue holds too much, and the least that it was too much by.
    excess: HashMap<(Check, String), (Instant, i64)>,
}

impl Memory {
    fn judge(
        &mut self,
        look: &Look,
        doubled: &[JobId],
        missing: &HashMap<String, (i64, Vec<JobId>)>,
        now: Instant,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for account in look.ledger.accounts.iter().filter(|one| !one.balanced) {
            let ids = match missing.get(&account.tenant) {
                Some((_, ids)) => ids.clone(),
                None => doubled.to_vec(),
            };
            let (tenant, difference) = (&account.tenant, account.difference());
            findings.push(Finding::new(Check::Conservation, tenant, difference, ids));
        }
        if !doubled.is_empty() {
            let count = doubled.len() as i64;
            findings.push(Finding::new(Check::Doubled, "", count, doubled.to_vec()));
        }
        findings.extend(self.stuck(&look.queues, now));
        findings.extend(self.excesses(look, now));
        if let Some(parked @ 1..) = look.parked {
            let count = i64::from(parked);
            findings.push(Finding::new(Check::Parked, PARKED_QUEUE, count, Vec::new()));
        }
        findings
    }

    fn stuck(&mut self, queues: &[QueueLook], now: Instant) -> Vec<Finding> {
        let before = std::mem::take(&mut self.stuck);
        let mut findings = Vec::new();
        for QueueLook { pipe, .. } in queues {
            let mut confirmed = Vec::new();
            for id in &pipe.stuck_ids {
                let since = *before.get(id).unwrap_or(&now);
                self.stuck.insert(*id, since);
                if now - since >= CONFIRM {
                    confirmed.push(*id);
                }
            }
            if !confirmed.is_empty() {
                findings.push(Finding::new(
                    Check::Stuck,
                    &pipe.queue,
                    pipe.stuck,
                    confirmed,
                ));
            }
        }
        findings
    }

    fn excesses(&mut self, look: &Look, now: Instant) -> Vec<Finding> {
        let before = std::mem::take(&mut self.excess);
        let dead = (
            Check::DeadLetters,
            DEAD_QUEUE,
            look.dead_letters.map(i64::from),
        );
        let copies = look.queues.iter().map(|QueueLook { pipe, depth }| {
            let ready = depth.map(|depth| i64::from(depth.ready));
            let excess = ready.map(|ready| ready - pipe.dispatched);
            (Check::StaleCopies, pipe.queue.as_str(), excess)
        });
        let mut findings = Vec::new();
        for (check, name, excess) in std::iter::once(dead).chain(copies) {
            let Some(excess @ 1..) = excess else { continue };
            let key = (check, name.to_owned());
            let (since, least) = *before.get(&key).unwrap_or(&(now, excess));
            let least = least.min(excess);
            if now - since >= PATIENCE {
                findings.push(Finding::new(check, name, least, Vec::new()));
            }
            self.excess.insert(key, (since, least));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Account;

    fn look(accounts: Vec<Account>, queues: Vec<QueueLook>) -> Look {
        Look {
            ledger: Ledger {
                at: jiff::Timestamp::UNIX_EPOCH,
                accounts,
            },
            queues,
            dead_letters: Some(0),
            parked: Some(0),
            took: Duration::ZERO,
            broker_error: None,
            findings: Vec::new(),
        }
    }

    fn judge(memory: &mut Memory, look: &Look, now: Instant) -> Vec<(Check, i64)> {
        let findings = memory.judge(look, &[], &HashMap::new(), now);
        findings.iter().map(|one| (one.check, one.count)).collect()
    }

    fn queue(dispatched: i64, stuck_ids: Vec<JobId>, ready: u32) -> QueueLook {
        QueueLook {
            pipe: QueuePipe {
                queue: "sms".to_owned(),
                dispatched,
                running: 0,
                stuck: stuck_ids.len() as i64,
                stuck_ids,
            },
            depth: Some(Depth {
                ready,
                consumers: 1,
            }),
        }
    }

    #[test]
    fn what_was_accepted_and_is_nowhere_is_an_alarm_at_once() {
        let account = Account {
            tenant: "acme".to_owned(),
            accepted: 3,
            completed: 1,
            held: 1,
            ..Account::default()
        };
        let findings = judge(
            &mut Memory::default(),
            &look(vec![account], Vec::new()),
            Instant::now(),
        );
        assert_eq!(findings, [(Check::Conservation, -1)]);
    }

    #[test]
    fn a_job_is_stuck_when_two_looks_apart_find_it_so() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let (one, other) = (JobId::new(), JobId::new());
        let mut at = |seconds, id| {
            let look = look(Vec::new(), vec![queue(1, vec![id], 1)]);
            judge(&mut memory, &look, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, one), []);
        assert_eq!(at(1, one), []);
        assert_eq!(at(2, one), [(Check::Stuck, 1)]);
        assert_eq!(at(7, other), [], "another job begins anew");
        assert_eq!(at(12, other), [(Check::Stuck, 1)]);
    }

    #[test]
    fn messages_without_jobs_are_reported_once_they_stay() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut at = |seconds, ready| {
            let look = look(Vec::new(), vec![queue(10, Vec::new(), ready)]);
            judge(&mut memory, &look, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, 40), []);
        assert_eq!(at(30, 13), []);
        assert_eq!(
            at(60, 25),
            [(Check::StaleCopies, 3)],
            "the least of all looks"
        );
        assert_eq!(at(65, 10), []);
        assert_eq!(at(70, 11), [], "the time begins anew");
    }

    #[test]
    fn a_broker_that_does_not_answer_is_no_finding() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let mut blind = look(Vec::new(), vec![queue(0, Vec::new(), 9)]);
        blind.queues[0].depth = None;
        (blind.parked, blind.dead_letters) = (None, None);
        assert_eq!(judge(&mut memory, &blind, now), []);
    }

    #[test]
    fn dead_letters_may_wait_a_little_and_parked_messages_are_told_at_once() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut waiting = look(Vec::new(), Vec::new());
        (waiting.parked, waiting.dead_letters) = (Some(2), Some(5));
        assert_eq!(judge(&mut memory, &waiting, start), [(Check::Parked, 2)]);
        let later = judge(&mut memory, &waiting, start + PATIENCE);
        assert_eq!(later, [(Check::DeadLetters, 5), (Check::Parked, 2)]);
    }

    #[test]
    fn a_finding_says_what_and_which() {
        let id = JobId::new();
        let finding = Finding::new(Check::Conservation, "acme", -1, vec![id]);
        let text = finding.to_string();
        assert_eq!(
            text,
            format!("tenant acme: 1 accepted jobs are nowhere: {id}")
        );
        let check = serde_json::to_value(finding.check).unwrap();
        assert_eq!(check, Check::Conservation.as_str());
    }
}
