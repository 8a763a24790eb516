//! The schema of Postroad, as numbered forward-only migrations.
//!
//! The files are in `sql/`, embedded in the program. Several processes may migrate at once: they
//! queue at a lock. A migration that has been released is never edited; a change is a new file,
//! which must leave the programs of the version before it working (expand first, contract later).

use postroad_common::backoff::Backoff;
use postroad_common::failpoint;
use postroad_common::store::SCHEMA_VERSION;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

mod embedded {
    refinery::embed_migrations!("sql");
}

/// Held while migrating. The number means nothing; it only has to be always the same.
const LOCK: i64 = 0x706f_7374_726f_6164;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Taking the lock, or creating the schema that holds the history.
    #[error("preparing to migrate: {}", cause(.0))]
    Prepare(#[source] tokio_postgres::Error),
    /// A migration failed, or the history does not match the files.
    #[error("migrating: {}", cause(.0))]
    Migrate(#[source] refinery::Error),
    /// The roles could not be made.
    #[error("making roles: {}", cause(.0))]
    Roles(#[source] tokio_postgres::Error),
    /// The database has migrations that this program does not know.
    #[error(
        "the database has schema version {found}, newer than this program's {SCHEMA_VERSION}: \
         install the Postroad that migrated it"
    )]
    Newer {
        /// The version found.
        found: i32,
    },
}

fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The names of all migrations, oldest first.
pub fn names() -> Vec<String> {
    let runner = embedded::migrations::runner();
    // Embedded in the order of their file names, in which V10 comes before V2.
    let mut migrations: Vec<_> = runner.get_migrations().iter().collect();
    migrations.sort_by_key(|migration| migration.version());
    migrations.iter().map(ToString::to_string).collect()
}

/// A number that changes with any byte of any migration, and only then: it tells whether a database
/// that was migrated before still is what [`migrate`] would make of an empty one.
pub fn fingerprint() -> u64 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .fold(0, |all, one| all.rotate_left(1) ^ one.checksum())
}

/// Brings the database up to this program's schema; says which migrations that took.
///
/// `client` must be a session of its own, not one behind a transaction pooler: the lock is held by
/// the session.
pub async fn migrate(client: &mut Client) -> Result<Vec<String>, Error> {
    lock(client).await?;
    client
        .batch_execute("create schema if not exists postroad")
        .await
        .map_err(Error::Prepare)?;
    let result = migrate_locked(client).await;
    let release = format!("select pg_advisory_unlock({LOCK})");
    client
        .batch_execute(&release)
        .await
        .map_err(Error::Prepare)?;
    result
}

/// Waits until nobody else migrates; nobody else does until the session ends or gives it up.
pub async fn lock(client: &Client) -> Result<(), Error> {
    let lock =
        format!("set statement_timeout = 0; set lock_timeout = 0; select pg_advisory_lock({LOCK})");
    client.batch_execute(&lock).await.map_err(Error::Prepare)
}

async fn migrate_locked(client: &mut Client) -> Result<Vec<String>, Error> {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name("postroad.schema_history");
    let newest = newest_applied(client).await.map_err(Error::Prepare)?;
    if newest > SCHEMA_VERSION {
        return Err(Error::Newer { found: newest });
    }
    failpoint!("migrate.locked");
    let mut way = Way::default();
    loop {
        // Each migration is a transaction: what was applied before stays, and the next try begins with
        // the one that failed.
        let run = runner.run_async(client).await;
        if !way.is_given(run.as_ref().err().and_then(code_of)).await {
            run.map_err(Error::Migrate)?;
            break;
        }
    }
    failpoint!("migrate.applied");
    let mut applied: Vec<_> = runner.get_migrations().iter().collect();
    applied.retain(|migration| migration.version() > newest);
    applied.sort_by_key(|migration| migration.version());
    Ok(applied.iter().map(ToString::to_string).collect())
}

/// How often running programs, which lock tables in another order, may stand in the way.
const DEADLOCKS_MAX: usize = 10;

/// Gives way to running programs.
#[derive(Default)]
struct Way {
    backoff: Backoff,
    deadlocks: usize,
}

impl Way {
    /// Whether it failed for a deadlock and is to be tried again, now that those have had their time.
    async fn is_given(&mut self, failed: Option<&SqlState>) -> bool {
        if failed != Some(&SqlState::T_R_DEADLOCK_DETECTED) || self.deadlocks == DEADLOCKS_MAX {
            return false;
        }
        self.deadlocks += 1;
        tokio::time::sleep(self.backoff.next_wait()).await;
        true
    }
}

fn code_of(error: &refinery::Error) -> Option<&SqlState> {
    let refinery::error::Kind::Connection(_, cause) = error.kind() else {
        return None;
    };
    cause.downcast_ref::<tokio_postgres::Error>()?.code()
}

/// The group roles of the programs, what each may do, and which rows it may see.
const ROLES: &str = include_str!("../roles.sql");

/// Creates or updates the group roles that login users of the programs are members of.
///
/// `client` must own the schema and be allowed to create roles.
pub async fn grant_roles(client: &mut Client) -> Result<(), Error> {
    let mut way = Way::default();
    loop {
        // Where roles are new, many tables are locked that running programs lock in another order.
        let granted = grant_once(client).await;
        if !way
            .is_given(granted.as_ref().err().and_then(tokio_postgres::Error::code))
            .await
        {
            return granted.map_err(Error::Roles);
        }
    }
}

async fn grant_once(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let tx = client.transaction().await?;
    // Two at once would update the same rows of the catalogue, and one of them fail.
    tx.batch_execute(&format!("select pg_advisory_xact_lock({LOCK})"))
        .await?;
    tx.batch_execute(ROLES).await?;
    tx.commit().await
}

/// 0 in a database that was never migrated.
async fn newest_applied(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let history = "select to_regclass('postroad.schema_history') is not null";
    if !client.query_one(history, &[]).await?.get::<_, bool>(0) {
        return Ok(0);
    }
    let newest = "select coalesce(max(version), 0) from postroad.schema_history";
    Ok(client.query_one(newest, &[]).await?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_expect_the_newest_migration() {
        let newest = embedded::migrations::runner()
            .get_migrations()
            .iter()
            .map(|m| m.version())
            .max();
        assert_eq!(newest, Some(SCHEMA_VERSION));
    }
}
