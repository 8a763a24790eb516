//! What people did: one row for each change, in the transaction of the change itself, so that neither
//! is there without the other. Nobody can change or delete it.

use deadpool_postgres::GenericClient as _;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::jobs::is_any_finished;
use super::{Error, Store};
use crate::job::JobId;

/// Who acts through a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `token:<id>` or `cli:<user>@<host>`.
    pub name: String,
    /// The id of the request, if it came in one.
    pub request_id: Option<String>,
}

/// A statement that changes what people may change.
pub(super) struct Change<'a> {
    /// What it is for, as errors call it.
    pub operation: &'static str,
    pub sql: &'static str,
    pub params: &'a [&'a (dyn ToSql + Sync)],
    /// What the audit log calls it, such as `queue.pause`.
    pub action: &'static str,
    /// With what: numbers and names, never a secret.
    pub detail: Value,
}

/// A statement that locks what a change is about, for as long as the change takes. The change, a
/// statement after it, sees what those have done whom it waited for.
pub(super) struct Lock<'a> {
    pub sql: &'static str,
    pub params: &'a [&'a (dyn ToSql + Sync)],
}

/// What a change was made to: whose it is (none: it concerns all tenants), and its id or name.
pub(super) type Target = (Option<i32>, String);

const NOTE: &str = "
    insert into postroad.audit_log (actor, tenant_id, action, target, request_id, detail)
    select $1, n.tenant_id, $2, n.target, $3, $4::text::jsonb
    from unnest($5::int[], $6::text[]) n(tenant_id, target)";

impl Store {
    /// The same connections, on behalf of somebody: every change is written down as theirs. A store
    /// without an actor is a program's own, whose changes nobody has asked for.
    #[must_use]
    pub fn acting(&self, actor: Actor) -> Self {
        Self {
            actor: Some(actor),
            ..self.clone()
        }
    }

    /// Makes a change, and writes down what it was made to, which is told from the rows it answers.
    pub(super) async fn change(
        &self,
        change: Change<'_>,
        targets: impl FnOnce(&[Row]) -> Vec<Target>,
    ) -> Result<Vec<Row>, Error> {
        if self.actor.is_none() {
            return self
                .query(change.operation, change.sql, change.params)
                .await;
        }
        self.change_in_transaction(None, change, None, targets)
            .await
    }

    /// The same for a change of several tables that hang together, of which a statement that waited
    /// for one row would see the others as they were before.
    pub(super) async fn change_locked(
        &self,
        lock: Lock<'_>,
        change: Change<'_>,
        targets: impl FnOnce(&[Row]) -> Vec<Target>,
    ) -> Result<Vec<Row>, Error> {
        self.change_in_transaction(Some(lock), change, None, targets)
            .await
    }

    /// The same for a change that inserts a job, and may have inserted it before: it is not made, and
    /// no row is answered, if the job is finished by now (see `insert_unless_finished`).
    pub(super) async fn change_unless_finished(
        &self,
        change: Change<'_>,
        job: Option<JobId>,
        targets: impl FnOnce(&[Row]) -> Vec<Target>,
    ) -> Result<Vec<Row>, Error> {
        match job {
            None => self.change(change, targets).await,
            job => self.change_in_transaction(None, change, job, targets).await,
        }
    }

    async fn change_in_transaction(
        &self,
        lock: Option<Lock<'_>>,
        change: Change<'_>,
        job: Option<JobId>,
        targets: impl FnOnce(&[Row]) -> Vec<Target>,
    ) -> Result<Vec<Row>, Error> {
        let Change {
            operation,
            sql,
            params,
            action,
            detail,
        } = change;
        self.with_connection(operation, async |connection| {
            let transaction = self.begin(connection).await?;
            if let Some(Lock { sql, params }) = lock {
                let statement = transaction.prepare_cached(sql).await?;
                transaction.execute(&statement, params).await?;
            }
            let statement = transaction.prepare_cached(sql).await?;
            let rows = transaction.query(&statement, params).await?;
            let inserted = job.filter(|_| !rows.is_empty()).map(|job| *job.as_uuid());
            if is_any_finished(&transaction, inserted.as_slice()).await? {
                transaction.rollback().await?;
                return Ok(Vec::new());
            }
            let (tenants, targets): (Vec<_>, Vec<_>) = targets(&rows).into_iter().unzip();
            if let (Some(actor), false) = (&self.actor, targets.is_empty()) {
                let note = transaction.prepare_cached(NOTE).await?;
                let detail = as_jsonb(&detail);
                transaction
                    .execute(
                        &note,
                        &[
                            &actor.name,
                            &action,
                            &actor.request_id,
                            &detail,
                            &tenants,
                            &targets,
                        ],
                    )
                    .await?;
            }
            transaction.commit().await?;
            Ok(rows)
        })
        .await
    }

    /// Writes down what was done by other means than a statement of this store.
    pub async fn note(
        &self,
        action: &'static str,
        target: &str,
        detail: Value,
    ) -> Result<(), Error> {
        let Some(actor) = &self.actor else {
            return Ok(());
        };
        let (tenants, targets) = ([None::<i32>], [target]);
        let params: [&(dyn ToSql + Sync); 6] = [
            &actor.name,
            &action,
            &actor.request_id,
            &as_jsonb(&detail),
            &&tenants[..],
            &&targets[..],
        ];
        self.query("writing the audit log", NOTE, &params)
            .await
            .map(drop)
    }
}

/// jsonb knows no NUL.
fn as_jsonb(detail: &Value) -> String {
    detail.to_string().replace("\\u0000", "\\ufffd")
}

/// The jobs that were changed: each row is a job's id and its tenant in these columns.
pub(super) fn jobs(id: usize, tenant: usize) -> impl FnOnce(&[Row]) -> Vec<Target> {
    move |rows| rows.iter().map(|row| job(row, id, tenant)).collect()
}

/// The job in this row.
pub(super) fn job(row: &Row, id: usize, tenant: usize) -> Target {
    let id: Uuid = row.get(id);
    (Some(row.get(tenant)), id.to_string())
}

/// The one thing that was changed, if any row says so.
pub(super) fn one(tenant: Option<i32>, target: &str) -> impl FnOnce(&[Row]) -> Vec<Target> {
    let target = (tenant, target.to_owned());
    |rows| match rows {
        [] => Vec::new(),
        _ => vec![target],
    }
}

/// The one thing that was changed, if the first row says so in its first column; it is of the tenant
/// in the second.
pub(super) fn if_so(target: &str) -> impl FnOnce(&[Row]) -> Vec<Target> {
    let target = target.to_owned();
    |rows| match rows.first() {
        Some(row) if row.get(0) => vec![(row.get(1), target)],
        _ => Vec::new(),
    }
}

/// What came of a change that may have been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is so now.
    Done,
    /// It was so before; nothing was written.
    Already,
    /// There is nothing of this name.
    NotThere,
}

impl Changed {
    /// Of one row that says whether something was changed, or none where there is nothing.
    pub(super) fn of(rows: &[Row]) -> Self {
        match rows.first().map(|row| row.get(0)) {
            Some(true) => Self::Done,
            Some(false) => Self::Already,
            None => Self::NotThere,
        }
    }
}
