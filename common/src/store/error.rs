//! What can go wrong with the database, by what it means for the caller.

use deadpool_postgres::{HookError, PoolError};
use tokio_postgres::error::SqlState;

use super::session;
use crate::config::ConfigError;
use crate::job::InvalidJob;

/// A call to the store that did not succeed. The innermost cause is in the text, so `source` does
/// not repeat it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be had.
    #[error("connecting to Postgres: {}", root(.0))]
    Connect(PoolError),
    /// The database refused or broke off a statement.
    #[error("{operation}: {}", root(.cause))]
    Query {
        /// What was being done.
        operation: &'static str,
        /// What the driver said.
        cause: tokio_postgres::Error,
    },
    /// The database did not answer in time; whether it acted is not known.
    #[error("{operation}: Postgres did not answer in time")]
    Timeout {
        /// What was being done.
        operation: &'static str,
    },
    /// A job that may not be enqueued.
    #[error("job {index}: {source}")]
    InvalidJob {
        /// Its place in the batch, from 0.
        index: usize,
        /// Which field, and what it must be.
        source: InvalidJob,
    },
    /// The store cannot be used as configured.
    #[error("{0}")]
    Configuration(String),
}

impl Error {
    /// Why the pool gave no connection.
    pub(super) fn of_pool(error: PoolError) -> Self {
        match error {
            PoolError::PostCreateHook(HookError::Message(why)) if why == session::NOT_TOLD => {
                Self::Configuration(why.into_owned())
            }
            PoolError::Backend(refusal) if names_startup_parameter(&refusal) => {
                Self::Configuration(format!("{} ({})", session::NOT_TOLD, root(&refusal)))
            }
            other => Self::Connect(other),
        }
    }

    /// What is wrong with the configuration, if trying again cannot help: a refused password, an
    /// unknown user or database, TLS where there is none.
    pub fn as_config_error(&self) -> Option<ConfigError> {
        if let Self::Configuration(what) = self {
            return Some(ConfigError::of(
                "DATABASE_URL",
                format_args!("cannot be used: {what}"),
            ));
        }
        let error = self.driver_error()?;
        let code = error.code()?;
        let hint = if *code == SqlState::INVALID_PASSWORD
            || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        {
            "was refused by Postgres: check user and password"
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            "names a database that does not exist: create it, or correct the name"
        } else {
            return None;
        };
        Some(ConfigError::of(
            "DATABASE_URL",
            format_args!("{hint} ({})", root(error)),
        ))
    }

    /// Whether the same call may succeed later: the database was away, or was busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(_) => self.as_config_error().is_none(),
            Self::Query { cause, .. } => match cause.code() {
                // No answer at all: the connection broke.
                None => true,
                // Classes 08, 40, 53, 55, 57: connection, rollback, resources, locks, operator.
                // https://www.postgresql.org/docs/current/errcodes-appendix.html
                Some(code) => ["08", "40", "53", "55", "57"].contains(&&code.code()[..2]),
            },
            Self::InvalidJob { .. } | Self::Configuration(_) => false,
        }
    }

    /// What there may be no more of, if that is what was refused.
    pub fn limit(&self) -> Option<String> {
        let refusal = self.driver_error()?.as_db_error()?;
        (*refusal.code() == SqlState::PROGRAM_LIMIT_EXCEEDED).then(|| refusal.message().to_owned())
    }

    /// What the schema says against a value that got as far as the database: it is the caller's.
    pub fn refused_value(&self) -> Option<String> {
        let refusal = self.driver_error()?.as_db_error()?;
        // Classes 22 and 23: data exceptions and violated constraints.
        ["22", "23"]
            .contains(&&refusal.code().code()[..2])
            .then(|| match refusal.constraint() {
                Some(constraint) => format!("the rule `{constraint}` does not allow it"),
                None => refusal.message().to_owned(),
            })
    }

    /// Whether another row has this name already.
    pub fn is_taken(&self) -> bool {
        let code = self.driver_error().and_then(|error| error.code());
        code == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// Whether this is what Postgres said.
    pub(super) fn has_code(&self, code: &SqlState) -> bool {
        self.driver_error().and_then(|error| error.code()) == Some(code)
    }

    /// Whether the schema is not there at all.
    pub(super) fn is_missing_relation(&self) -> bool {
        let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
        self.driver_error()
            .and_then(|e| e.code())
            .is_some_and(|code| missing.contains(code))
    }

    fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Connect(
                PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)),
            ) => Some(error),
            Self::Query { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// A pooler that knows no `options` says so with the class of a broken connection, which it uses
/// for everything; only the text tells.
fn names_startup_parameter(error: &tokio_postgres::Error) -> bool {
    let refusal = error.as_db_error();
    refusal.is_some_and(|refusal| refusal.message().contains("startup parameter"))
}

/// The innermost cause: the drivers' outer texts say little ("db error").
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
