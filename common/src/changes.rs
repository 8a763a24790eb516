//! Knows whether what was read before still holds, without asking for it again.
//!
//! One service per process looks four times a second for what has changed, of all tenants and all
//! topics together; a look that fails is made again. When Postgres calls out a change it looks at
//! once, but nothing depends on a call: one that is lost makes a change a quarter of a second late.
//!
//! Whoever reads takes a [`Mark`] *before* it reads. What it has read holds as long as no look that
//! ended after the mark was taken has found a change of it. So these come to nothing:
//!
//! - A read that began before a change and ends after it was found: its mark is older than the find.
//! - Transactions that commit in another order than they began: looks compare snapshots, not numbers
//!   (`store/changes.rs`).
//! - A look that fails, or takes its time: [`Changes::known_for`] says for how long nothing is known,
//!   and after [`TRUSTED`] nothing passes for fresh.
//! - A server that was started anew, or is another one: whatever was read before is old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::health::Health;
use crate::service::{Nudge, Progress, Service, spawn};
use crate::shutdown::Shutdown;
use crate::store::{self, Listener, Look, Seen, Store, Topic};

/// How long to rest between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// What was looked at longer ago than this may have changed: a change that is committed is in force
/// everywhere after no more than this, or what it changes is read again.
pub const TRUSTED: Duration = Duration::from_secs(1);
/// Changes that are remembered one by one. After more of them everything is read again.
const REMEMBERED_MAX: usize = 10_000;

/// What is known of changes. Clones know the same.
#[derive(Clone)]
pub struct Changes {
    known: Arc<Mutex<Known>>,
    moved: watch::Sender<()>,
}

/// When a read began, in looks. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

#[derive(Default)]
struct Known {
    /// Looks that have ended well.
    looks: u64,
    /// When the last of them began.
    at: Option<Instant>,
    /// What was read before this look is old, whatever it is.
    floor: u64,
    /// The last look that has found a change, of a topic and of a tenant in it.
    of_topic: HashMap<Topic, u64>,
    of_tenant: HashMap<(Topic, i32), u64>,
}

impl Changes {
    /// Looks from now on, for as long as the process runs, and sooner where `calls` hears something.
    /// Until the first look nothing is known.
    pub fn spawn(store: Store, mut calls: Listener, health: &Health, shutdown: &Shutdown) -> Self {
        let changes = Self::unwatched();
        let watcher = Watcher {
            store,
            changes: changes.clone(),
            seen: None,
        };
        let nudge = Nudge::default();
        let woken = nudge.clone();
        let _detached: JoinHandle<()> = tokio::spawn(async move {
            loop {
                calls.next().await;
                woken.wake();
            }
        });
        let _detached: JoinHandle<()> = spawn(watcher, nudge, health, shutdown);
        changes
    }

    /// For a process that is over before anything changes: nobody looks, so what it reads is fresh
    /// for [`TRUSTED`].
    pub fn unwatched() -> Self {
        Self {
            known: Arc::default(),
            moved: watch::Sender::default(),
        }
    }

    /// To be taken before a read.
    pub fn mark(&self) -> Mark {
        Mark(self.lock().looks)
    }

    /// Whether no change is known of what was read after this mark: of one tenant's, or of all of the
    /// topic.
    pub fn is_unchanged(&self, topic: Topic, tenant: Option<i32>, mark: Mark) -> bool {
        let known = self.lock();
        let last = match tenant {
            None => known.of_topic.get(&topic).copied(),
            Some(id) => {
                let last = |id| known.of_tenant.get(&(topic, id)).copied();
                last(id).max(last(0))
            }
        };
        mark.0 >= known.floor && last.is_none_or(|last| mark.0 >= last)
    }

    /// Up to how long ago everything that has changed is known. None: not at all.
    pub fn known_for(&self) -> Option<Duration> {
        self.lock().at.map(|at| at.elapsed())
    }

    /// Wakes at every look that has found something, whatever it is.
    pub fn nudged(&self) -> Nudge {
        let (nudge, mut moved) = (Nudge::default(), self.moved.subscribe());
        let woken = nudge.clone();
        let _detached: JoinHandle<()> = tokio::spawn(async move {
            while moved.changed().await.is_ok() {
                woken.wake();
            }
        });
        nudge
    }

    /// Takes in a look that began then.
    fn learn(&self, look: &Look, began: Instant) {
        let has_moved = self.lock().learn(look.changed.as_deref(), began);
        if has_moved {
            self.moved.send_replace(());
        }
    }

    /// As if a look had found this.
    #[cfg(test)]
    pub(crate) fn learn_of(&self, changed: Option<&[(Topic, i32)]>) {
        self.lock().learn(changed, Instant::now());
    }

    /// As if the last look, which has found nothing, had begun then.
    #[cfg(test)]
    pub(crate) fn learn_at(&self, began: Instant) {
        self.lock().learn(Some(&[]), began);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Says whether anything may have changed.
    fn learn(&mut self, changed: Option<&[(Topic, i32)]>, began: Instant) -> bool {
        self.looks += 1;
        self.at = Some(began);
        let look = self.looks;
        for (topic, tenant) in changed.unwrap_or_default() {
            let labels = ("of", topic.name());
            metrics::counter!("postroad_settings_changes_total", &[labels]).increment(1);
            self.of_topic.insert(*topic, look);
            self.of_tenant.insert((*topic, *tenant), look);
        }
        if changed.is_none() || self.of_tenant.len() > REMEMBERED_MAX {
            self.floor = look;
            self.of_topic.clear();
            self.of_tenant.clear();
        }
        changed.is_none_or(|changed| !changed.is_empty())
    }
}

struct Watcher {
    store: Store,
    changes: Changes,
    seen: Option<Seen>,
}

impl Service for Watcher {
    const NAME: &'static str = "changes";
    type Error = store::Error;

    fn period(&self) -> Duration {
        PERIOD
    }

    /// What is kept is of little use until Postgres has answered again.
    fn period_after_error(&self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let began = Instant::now();
        let look = self.store.look_for_changes(self.seen.as_ref()).await?;
        self.changes.learn(&look, began);
        self.seen = Some(look.seen);
        Ok(Progress::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_was_found_is_old_and_what_was_read_after_is_not() {
        let changes = Changes::unwatched();
        changes.learn_of(None);
        let before = changes.mark();
        changes.learn_of(Some(&[(Topic::Tenant, 7)]));
        let after = changes.mark();

        let holds = |topic, tenant, mark| changes.is_unchanged(topic, tenant, mark);
        assert!(!holds(Topic::Tenant, Some(7), before));
        assert!(holds(Topic::Tenant, Some(7), after));
        assert!(holds(Topic::Tenant, Some(8), before), "another tenant's");
        assert!(holds(Topic::Secret, Some(7), before), "another topic");
        assert!(!holds(Topic::Tenant, None, before), "all of the topic");

        changes.learn_of(Some(&[(Topic::Tenant, 0)]));
        assert!(!holds(Topic::Tenant, Some(8), after), "everybody's");
    }

    #[test]
    fn a_look_that_can_compare_nothing_makes_everything_old() {
        let changes = Changes::unwatched();
        assert_eq!(changes.known_for(), None);
        let mark = changes.mark();
        changes.learn_of(None);
        assert!(!changes.is_unchanged(Topic::Queue, None, mark));
        assert!(changes.is_unchanged(Topic::Queue, None, changes.mark()));
    }

    #[test]
    fn of_too_many_changes_none_is_missed_and_none_is_kept() {
        let changes = Changes::unwatched();
        let mark = changes.mark();
        let many: Vec<_> = (1..)
            .map(|id| (Topic::Tenant, id))
            .take(REMEMBERED_MAX + 1)
            .collect();
        changes.learn_of(Some(&many));
        assert!(changes.lock().of_tenant.is_empty());
        assert!(!changes.is_unchanged(Topic::Tenant, Some(1), mark));
        assert!(!changes.is_unchanged(Topic::Secret, Some(1), mark));
    }
}
