//! The ledger is folded, and compared with what is there: accepted = the sum over all states.
//!
//! Any number of auditors run at once: they share the folding, and each looks for itself, so that
//! an alarm does not depend on one of them. What a look may cost is bounded by `REST_PER_LOOK`.
//! An alarm is for people: it is logged, once for each change, and counted. It does not make the
//! scheduler unready, because nothing would be better without it.
//!
//! What if the process dies after …
//!
//! | step | then | repaired by |
//! |---|---|---|
//! | taking entries, before the totals are written | nothing: it is one statement | – |
//! | a fold | the totals have what the entries had | – |
//! | a look, before its alarm is logged | other auditors see the same; so does the next start | any auditor |

use std::time::Duration;

use postroad_common::audit::{Audit, Finding, Look};
use postroad_common::broker::DepthReader;
use postroad_common::service::{Progress, Service};
use postroad_common::store::{self, Store};

use crate::{metrics, of_tests};

const PERIOD: Duration = Duration::from_secs(5);
/// A look counts every unfinished job, so its cost grows with the backlog. The rest grows with it:
/// looking takes at most a fiftieth of one connection's time, which is one processor's.
const REST_PER_LOOK: u32 = 50;
/// After a look that failed, by a timeout if the worst comes.
const FAILED_REST: Duration = Duration::from_secs(60);
/// After a look that succeeded: one that waited for a cut wire tells nothing of what looking costs.
const LOOK_REST_MAX: Duration = Duration::from_secs(120);
/// Entries per statement.
const BATCH: i64 = 20_000;

/// The service.
pub struct Auditor {
    store: Store,
    audit: Audit,
    rest: Duration,
    /// What the last look found.
    standing: Vec<Finding>,
    /// Why the last look saw nothing, or not all: told once.
    blind: Option<String>,
}

impl Auditor {
    /// Over `store`, with depths from the broker.
    pub fn new(store: Store, depths: DepthReader) -> Self {
        Self {
            audit: Audit::new(store.clone(), depths),
            store,
            rest: PERIOD,
            standing: Vec::new(),
            blind: None,
        }
    }

    /// A look that fails is a look less; the ledger is kept all the same.
    async fn look(&mut self) {
        let blind = match self.audit.look(None).await {
            Ok(look) => {
                self.rest = (look.took * REST_PER_LOOK).clamp(PERIOD, LOOK_REST_MAX);
                self.report(&look);
                look.broker_error.map(|error| error.to_string())
            }
            Err(error) => {
                // It may have cost all the time that a statement has.
                self.rest = FAILED_REST;
                Some(error.to_string())
            }
        };
        // A test does not wait for as long as a slow first look, or one that failed, asks for.
        self.rest = of_tests::rest("POSTROAD_TEST_AUDIT_REST").unwrap_or(self.rest);
        if blind != self.blind {
            match &blind {
                Some(why) => tracing::warn!("the ledger cannot be compared: {why}"),
                None => tracing::info!("the ledger is compared again"),
            }
            self.blind = blind;
        }
    }

    fn report(&mut self, look: &Look) {
        let accounts = look.ledger.accounts.iter();
        metrics::ledger_imbalance(accounts.map(|one| one.difference().unsigned_abs()).sum());
        for finding in &look.findings {
            match standing(&self.standing, finding) {
                Some(before) if !finding.is_alarm || before == finding => {}
                Some(_) => tracing::error!("ledger: {finding}"),
                None if finding.is_alarm => {
                    metrics::ledger_alarm(finding.check.as_str());
                    tracing::error!("ledger: {finding}");
                }
                None => tracing::warn!("ledger: {finding}"),
            }
        }
        for gone in &self.standing {
            if standing(&look.findings, gone).is_none() {
                tracing::info!("ledger: no longer so: {gone}");
            }
        }
        self.standing.clone_from(&look.findings);
    }
}

/// The finding of the same check about the same tenant or queue.
fn standing<'a>(findings: &'a [Finding], like: &Finding) -> Option<&'a Finding> {
    findings
        .iter()
        .find(|finding| finding.check == like.check && finding.subject == like.subject)
}

impl Service for Auditor {
    const NAME: &'static str = "auditor";
    type Error = store::Error;

    fn period(&self) -> Duration {
        self.rest
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        let folded = self.store.fold_ledger(BATCH).await?;
        let of_campaigns = self.store.fold_campaigns(BATCH).await?;
        if folded.max(of_campaigns) == BATCH {
            return Ok(Progress::More);
        }
        self.look().await;
        Ok(Progress::Idle)
    }
}
