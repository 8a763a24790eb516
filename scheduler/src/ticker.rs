//! Recurring schedules → a job for each tick, due when the tick was.
//!
//! Any number of schedulers run this at once: whoever locks the schedule's row first makes its
//! ticks, its version and its next tick say that nobody was there before, and the primary key of
//! the ticks stands behind both. The clock is the database's. What is due is computed outside of
//! the transaction, which therefore is one statement long.
//!
//! What if the process dies after …
//!
//! | step | then | repaired by |
//! |---|---|---|
//! | reading what is due | nothing has happened | whoever looks next |
//! | writing ticks and jobs, before the commit | nothing has happened, once Postgres has noticed that it is gone | whoever looks next |
//! | the commit, before the dispatcher is woken | ticks and jobs are there, and the schedule has moved on | the dispatcher's own look |
//! | a part of a long plan | that part is there, and the schedule is due for the rest | whoever looks next |

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use postroad_common::schedule::Recurrence;
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, DueSchedule, Store};
use rand::seq::SliceRandom as _;

use crate::metrics;

/// Schedules per look.
const BATCH: i64 = 100;
/// Jobs per transaction.
const JOBS: usize = 500;
/// And their args, in bytes.
const JOBS_BYTES: usize = 8 * 1024 * 1024;
/// The longest rest: a schedule that was just created may tick sooner than any that was there.
const REST_MAX: Duration = Duration::from_secs(1);
/// And the shortest: another scheduler is at a tick that is due.
const REST_MIN: Duration = Duration::from_millis(5);
/// A schedule that this program cannot tick is left alone so long: it must not keep the others
/// waiting, and another scheduler may know its zone.
const SET_ASIDE: Duration = Duration::from_secs(60);

/// The service.
pub struct Ticker {
    store: Store,
    dispatch: Nudge,
    rest: Duration,
    aside: BTreeSet<i64>,
    aside_since: Instant,
}

impl Ticker {
    /// Ticks schedules; `dispatch` is woken for their jobs.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self {
            store,
            dispatch,
            rest: REST_MAX,
            aside: BTreeSet::new(),
            aside_since: Instant::now(),
        }
    }

    async fn tick(&mut self, due: &DueSchedule) -> Result<(), store::Error> {
        let recurrence = match Recurrence::parse(&due.cron, &due.timezone) {
            Ok(recurrence) => recurrence,
            Err(invalid) => {
                // It was good when it was created: the zones of this program are others.
                self.set_aside(due, &invalid);
                return Ok(());
            }
        };
        let whole = recurrence.plan(due.next_at, due.now, due.misfire);
        let plan = whole.first((JOBS_BYTES / due.args_bytes.max(1)).clamp(1, JOBS));
        match self.store.tick(due, &plan).await {
            Ok(ticked) => {
                if ticked.jobs > 0 {
                    self.dispatch.wake();
                }
                metrics::ticked(&ticked);
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => self.set_aside(due, &error),
        }
        Ok(())
    }

    fn set_aside(&mut self, due: &DueSchedule, why: &dyn std::fmt::Display) {
        tracing::error!(
            schedule = due.name,
            "schedule {} cannot tick, and is looked at again in a minute: {why}",
            due.name
        );
        if self.aside.is_empty() {
            self.aside_since = Instant::now();
        }
        self.aside.insert(due.id);
    }
}

impl Service for Ticker {
    const NAME: &'static str = "ticker";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        if self.aside_since.elapsed() >= SET_ASIDE {
            self.aside.clear();
        }
        let aside: Vec<i64> = self.aside.iter().copied().collect();
        let mut due = self.store.due_schedules(BATCH, &aside).await?;
        // Several schedulers that wake for one tick begin at different schedules.
        due.shuffle(&mut rand::rng());
        let mut first_error = None;
        // One schedule's error is not another's.
        for schedule in &due {
            if let Err(error) = self.tick(schedule).await {
                first_error = first_error.or(Some(error));
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let aside: Vec<i64> = self.aside.iter().copied().collect();
        let until = self.store.until_next_tick(&aside).await?;
        self.rest = until.unwrap_or(REST_MAX).clamp(REST_MIN, REST_MAX);
        Ok(Progress::more_if(due.len() as i64 == BATCH))
    }
}
