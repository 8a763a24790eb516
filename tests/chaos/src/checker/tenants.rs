//! Nothing of one tenant's is ever seen under another's name.

use uuid::Uuid;

use super::ledger::{Body, Job, Ledger};
use super::{Figure, Report};
use crate::history::Submit;

pub(super) fn check(ledger: &Ledger<'_>, report: &mut Report) {
    for (id, job) in &ledger.jobs {
        if let Some(submit) = job.submit {
            find_cross_tenant(id, job, submit, ledger, report);
        }
    }
}

fn find_cross_tenant(
    id: &Uuid,
    job: &Job<'_>,
    submit: &Submit,
    ledger: &Ledger<'_>,
    report: &mut Report,
) {
    let own = &submit.tenant;
    for call in &job.calls {
        let t = call.t;
        if let Some(other) = call.tenant.as_ref().filter(|tenant| *tenant != own) {
            report.add(Figure::CrossTenant, || {
                format!("{id}: {own}'s, but {other}'s address was called at {t:.3}")
            });
        } else if ledger.body(submit, call) == Body::Foreign {
            report.add(Figure::CrossTenant, || {
                format!("{id}: {own}'s, but called at {t:.3} with another tenant's body")
            });
        }
    }
    for row in job.rows.iter().filter(|row| row.tenant != *own) {
        report.add(Figure::CrossTenant, || {
            format!("{id}: {own}'s, but its row is {}'s", row.tenant)
        });
    }
}
