//! Recurring schedules → a job for each tick, due when the tick was.
//!
//! Any number of schedulers run this at once: whoever locks the schedule's row first makes its
//! ticks, and a tick that has its row has its job. The clock is the database's.
//!
//! What if the process dies after …
//!
//! | step | then | repaired by |
//! |---|---|---|
//! | reading what is due | nothing has happened | whoever looks next |
//! | the commit, before the dispatcher is woken | ticks and jobs are there, and the schedule has moved on | the dispatcher's own look |

use std::time::Duration;

use postroad_common::schedule::Recurrence;
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{self, DueSchedule, Store};

/// Schedules per look.
const BATCH: i64 = 100;
/// The longest rest: a schedule that was just created may tick sooner than any that was there.
const REST_MAX: Duration = Duration::from_secs(1);
/// And the shortest.
const REST_MIN: Duration = Duration::from_millis(5);

/// The service.
pub struct Ticker {
    store: Store,
    dispatch: Nudge,
    rest: Duration,
}

impl Ticker {
    /// Ticks schedules; `dispatch` is woken for their jobs.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self {
            store,
            dispatch,
            rest: REST_MAX,
        }
    }

    async fn tick(&self, due: &DueSchedule) -> Result<(), store::Error> {
        let recurrence = match Recurrence::parse(&due.cron, &due.timezone) {
            Ok(recurrence) => recurrence,
            Err(invalid) => {
                // It was good when it was created: the zones of this program are others.
                tracing::error!(schedule = due.name, "schedule {}: {invalid}", due.name);
                return Ok(());
            }
        };
        let plan = recurrence.plan(due.next_at, due.now, due.misfire);
        if self.store.tick(due, &plan).await? > 0 {
            self.dispatch.wake();
        }
        Ok(())
    }
}

impl Service for Ticker {
    const NAME: &'static str = "ticker";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let due = self.store.due_schedules(BATCH).await?;
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
        let until = self.store.until_next_tick().await?;
        self.rest = until.unwrap_or(REST_MAX).clamp(REST_MIN, REST_MAX);
        Ok(Progress::more_if(due.len() as i64 == BATCH))
    }
}
