//! What there is: the clock, the servers, the processes, the provider, and what was seen of them.

use std::time::Duration;

use postroad_common::broker::topology::{DEAD_QUEUE, work_queue};
use postroad_common::job::{KindName, KindPolicy, OnLost};
use postroad_common::store::Fenced;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::executor::{Bell, Slot, Task};
use super::model_broker::{ConnectionId, ModelBroker};
use super::model_store::{Job, Millis, ModelStore, seconds};
use super::plan::{EPOCH, Plan};
use super::{Bug, Chance, Figures};
use crate::history::{Backing, Call, Decision, Fault, History, Row, Submit};

/// A process of this run; zero is the world itself, which nobody kills.
pub(super) type ProcessNo = usize;

/// Clients, provider, operator and whoever breaks things.
pub(super) const OUTSIDE: ProcessNo = 0;

/// The longest wait for an answer of the database.
const CALL_TIMEOUT: Millis = 10_000;
/// Claims older than this were published or given back, where nothing is broken.
const CONFIRM_TAKES: Millis = 1_500;

/// A message: what of an envelope matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) job: Fenced,
    pub(super) kind: String,
    pub(super) args: String,
}

/// What becomes of a call to the database.
pub(super) enum Fate {
    Fine,
    NotReached { wait: Millis },
    AnswerLost { wait: Millis },
    Late { acts_after: Millis, wait: Millis },
}

#[derive(Debug)]
struct Process {
    is_running: bool,
    paused_until: Millis,
    database_away_until: Millis,
    connections: Vec<ConnectionId>,
}

type LateStatement = Box<dyn FnOnce(&mut ModelStore)>;

/// Everything.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Millis,
    pub(super) chance: Chance,
    pub(super) plan: Plan,
    pub(super) bug: Option<Bug>,
    pub(super) store: ModelStore,
    pub(super) broker: ModelBroker<Parcel>,
    pub(super) broker_away_until: Millis,
    pub(super) slots: Vec<Slot>,
    pub(super) spawned: Vec<(ProcessNo, Task)>,
    pub(super) current: usize,
    pub(super) late: Vec<(Millis, LateStatement)>,
    pub(super) has_killed: bool,
    pub(super) is_over: bool,
    pub(super) clients: usize,
    pub(super) figures: Figures,
    pub(super) violations: Vec<String>,
    pub(super) history: History,
    processes: Vec<Process>,
    /// From when on every job in the pipe must have a message behind it.
    calm_from: Millis,
    next_job: u64,
}

impl World {
    pub(super) fn of(seed: u64, bug: Option<Bug>) -> Self {
        let mut chance = Chance::of(seed);
        let plan = Plan::of(&mut chance);
        let mut store = ModelStore::new(EPOCH).with_bug(bug);
        for queue in &plan.queues {
            let window = chance.between(1, 20);
            let pipe_ttl = Duration::from_millis(plan.pipe_ttl.unsigned_abs());
            store.set_queue(queue, window, pipe_ttl);
        }
        let mut broker = ModelBroker::default();
        if chance.is(0.4) {
            broker.limit_length(1 + chance.below(4));
        }
        Self {
            seed,
            now: EPOCH,
            chance,
            plan,
            bug,
            store,
            broker,
            broker_away_until: 0,
            slots: Vec::new(),
            spawned: Vec::new(),
            current: 0,
            late: Vec::new(),
            has_killed: false,
            is_over: false,
            clients: 0,
            figures: Figures::default(),
            violations: Vec::new(),
            history: History::default(),
            processes: Vec::new(),
            calm_from: EPOCH,
            next_job: 0,
        }
    }

    pub(super) fn has_bug(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A new process, or the next life of one.
    pub(super) fn begin_process(&mut self) -> ProcessNo {
        self.processes.push(Process {
            is_running: true,
            paused_until: 0,
            database_away_until: 0,
            connections: Vec::new(),
        });
        self.processes.len() - 1
    }

    pub(super) fn is_running(&self, process: ProcessNo) -> bool {
        self.processes[process].is_running
    }

    /// Ends a process wherever it stands; its connections end with it.
    pub(super) fn kill(&mut self, process: ProcessNo) {
        self.processes[process].is_running = false;
        self.has_killed = true;
        for connection in std::mem::take(&mut self.processes[process].connections) {
            self.close(connection);
        }
    }

    pub(super) fn pause(&mut self, process: ProcessNo, until: Millis) {
        let paused_until = &mut self.processes[process].paused_until;
        *paused_until = until.max(*paused_until);
    }

    pub(super) fn cut_from_database(&mut self, process: ProcessNo, until: Millis) {
        self.processes[process].database_away_until = until;
    }

    /// The connections of a process.
    pub(super) fn connections_of(&self, process: ProcessNo) -> Vec<ConnectionId> {
        self.processes[process].connections.clone()
    }

    /// Opens a connection to the broker, if it is there.
    pub(super) fn connect(&mut self, process: ProcessNo) -> Option<ConnectionId> {
        if self.now < self.broker_away_until {
            return None;
        }
        let connection = self.broker.connect();
        self.processes[process].connections.push(connection);
        Some(connection)
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        self.broker.close(connection, self.now);
        self.ring_all();
    }

    /// Declares the queues of jobs, and those that everybody needs.
    pub(super) fn declare(&mut self) {
        let names: Vec<_> = self
            .plan
            .queues
            .iter()
            .map(|queue| work_queue(queue.as_str()))
            .collect();
        self.broker
            .declare(names.iter().map(String::as_str), self.now);
    }

    pub(super) fn ring(&mut self, bell: Bell) {
        let now = self.now;
        for slot in self.slots.iter_mut().filter(|slot| slot.bell == Some(bell)) {
            (slot.wake_at, slot.bell) = (now, None);
        }
    }

    /// A connection ended: everybody looks after their own.
    pub(super) fn ring_all(&mut self) {
        let now = self.now;
        for slot in self.slots.iter_mut().filter(|slot| slot.bell.is_some()) {
            (slot.wake_at, slot.bell) = (now, None);
        }
    }

    /// Chooses the task that goes on, and moves the clock to it. False: the end.
    pub(super) fn pick(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let goes_on_at = |slot: &Slot| slot.wake_at.max(self.processes[slot.owner].paused_until);
        let mut next = Millis::MAX;
        let mut able = 0;
        for slot in &self.slots {
            let at = goes_on_at(slot);
            next = next.min(at);
            able += usize::from(at <= self.now);
        }
        if next == Millis::MAX {
            return false;
        }
        if able == 0 {
            let now = next;
            able = self
                .slots
                .iter()
                .filter(|slot| goes_on_at(slot) <= now)
                .count();
            self.now = now;
        }
        let chosen = self.chance.below(able);
        let is_able = |(_, slot): &(usize, &Slot)| {
            slot.wake_at.max(self.processes[slot.owner].paused_until) <= self.now
        };
        let (current, _) = self
            .slots
            .iter()
            .enumerate()
            .filter(is_able)
            .nth(chosen)
            .expect("so many were just counted");
        self.current = current;
        self.slots[current].bell = None;
        self.store.set_now(self.now);
        self.act_late();
        true
    }

    fn act_late(&mut self) {
        while let Some(at) = self.late.iter().position(|(at, _)| *at <= self.now) {
            let (_, statement) = self.late.swap_remove(at);
            statement(&mut self.store);
        }
    }

    pub(super) fn act<T>(&mut self, act: impl FnOnce(&mut ModelStore) -> T) -> T {
        act(&mut self.store)
    }

    /// What becomes of this call.
    pub(super) fn fate(&mut self, process: ProcessNo, may_be_late: bool) -> Fate {
        if self.now < self.processes[process].database_away_until {
            self.figures.calls_failed += 1;
            // A refused connection says so; a cut wire says nothing for a while.
            let most = if self.chance.is(0.8) { 300 } else { 5_000 };
            let wait = self.chance.between(1, most);
            return Fate::NotReached { wait };
        }
        let is_broken = self.now >= self.plan.faults_from && self.now < self.plan.faults_until;
        if !is_broken || !self.chance.is(self.plan.trouble) {
            return Fate::Fine;
        }
        let wait = self.chance.between(1, 300);
        match self.chance.below(20) {
            0 if may_be_late => {
                let acts_after = self.chance.between(1, CALL_TIMEOUT + 3_000);
                self.fault(
                    "hold up a statement",
                    self.now + CALL_TIMEOUT,
                    true,
                    self.plan.lease + 5_000,
                );
                self.figures.answers_lost += 1;
                Fate::Late {
                    acts_after,
                    wait: CALL_TIMEOUT,
                }
            }
            0..=9 => {
                self.figures.calls_failed += 1;
                Fate::NotReached { wait }
            }
            _ => {
                self.figures.answers_lost += 1;
                Fate::AnswerLost { wait }
            }
        }
    }

    /// Notes that something is broken until then. For `shadow` after that a job in the pipe may
    /// still lack its message.
    pub(super) fn fault(&mut self, name: &str, until: Millis, parts: bool, shadow: Millis) {
        self.history.faults.push(Fault {
            from: seconds(self.now),
            until: seconds(until),
            name: name.to_owned(),
            parts_effect_from_record: parts,
        });
        self.not_calm_until(until + shadow);
    }

    /// A timer has to repair something until then.
    pub(super) fn not_calm_until(&mut self, until: Millis) {
        self.calm_from = self.calm_from.max(until);
    }

    /// After this long the rescuer has given back every claim that came to nothing.
    pub(super) fn rescue_takes(&self) -> Millis {
        self.plan.pipe_ttl + 15_000 + 3_000
    }

    /// Looks at both ends of the pipe, if it is calm.
    pub(super) fn look_at_backing(&mut self) {
        if self.now < self.calm_from {
            return;
        }
        let oldest = self.now - CONFIRM_TAKES;
        let is_counted =
            |job: &&Job| job.is_in_pipe() && job.claimed_at.is_some_and(|at| at <= oldest);
        let rows = self.store.jobs().filter(is_counted).count() as u64;
        // A dead letter on its way is behind its job, too.
        let dead = self
            .broker
            .depths(self.now)
            .into_iter()
            .find(|depth| depth.queue == DEAD_QUEUE);
        let dead = dead.map_or(0, |depth| depth.ready + depth.unacked);
        let messages = self.broker.work_messages(self.now) + dead;
        self.figures.looks += 1;
        self.history.backing.push(Backing {
            t: seconds(self.now),
            rows,
            messages,
        });
    }

    /// The id of one more job: the same in every run of the seed.
    pub(super) fn next_job_id(&mut self) -> Uuid {
        self.next_job += 1;
        Uuid::from_u64_pair(self.seed, self.next_job)
    }

    pub(super) fn submitted(&mut self, submit: Submit) {
        self.figures.jobs += 1;
        self.history.submits.push(submit);
    }

    pub(super) fn called(&mut self, id: Uuid, args: &str, effect: bool, answered: bool) {
        let tenant = args.split('"').nth(3).map(str::to_owned);
        self.figures.calls += 1;
        self.history.calls.push(Call {
            t: seconds(self.now),
            id: Some(id),
            tenant,
            body_sha256: sha256(args),
            effect,
            answered,
        });
    }

    pub(super) fn decided(&mut self, id: Uuid, retry: bool) {
        self.history.decisions.push(Decision {
            t: seconds(self.now),
            id,
            retry,
        });
    }

    /// Whether nothing is on its way any more.
    pub(super) fn is_drained(&mut self) -> bool {
        let depths = self.broker.depths(self.now);
        self.clients == 0
            && self.late.is_empty()
            && self.store.jobs().next().is_none()
            && depths
                .iter()
                .all(|depth| depth.may_hold || depth.ready + depth.unacked == 0)
    }

    /// The end: what was seen, and what only a model can see.
    pub(super) fn finish(mut self) -> (History, Vec<String>, Figures) {
        let mut history = self.history;
        history.submits.sort_by(|a, b| a.t.total_cmp(&b.t));
        history.moves = self.store.moves().to_vec();
        history.errors = self.store.errors().to_vec();
        let archived = self.store.archive().iter().map(|archived| &archived.job);
        let row = |job: &Job| Row {
            id: *job.id.as_uuid(),
            tenant: job.tenant.to_string(),
            kind: job.kind.to_string(),
            state: job.state,
            attempt: job.attempt,
            dispatch: job.dispatch,
        };
        history.rows = self.store.jobs().chain(archived).map(row).collect();
        history.queues = self.broker.depths(self.now);
        self.violations.extend_from_slice(self.store.violations());
        (history, self.violations, self.figures)
    }
}

/// As a history spells the digest of a body.
pub(super) fn sha256(body: &str) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        write!(hex, "{byte:02x}").expect("writing to a string does not fail");
    }
    hex
}

/// The kinds that exist here, and how they are tried.
pub(super) fn kinds() -> [(KindName, KindPolicy); 2] {
    let policy = |on_lost| KindPolicy {
        on_lost,
        max_attempts: 6,
        timeout: Duration::from_secs(8),
        backoff_base: Duration::from_millis(400),
        backoff_cap: Duration::from_secs(4),
    };
    [("webhook", OnLost::Retry), ("sms", OnLost::Hold)]
        .map(|(kind, on_lost)| (kind.parse().expect("is a name"), policy(on_lost)))
}
