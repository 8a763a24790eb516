//! Which schema this program understands, and whether the database has it.

use super::{Error, Store};
use crate::config::ConfigError;

/// The newest migration that this program knows.
pub const SCHEMA_VERSION: i32 = 19;

/// The schema that the database has, seen from this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The one this program was made for.
    Current,
    /// An older one, or none (0).
    Older(i32),
    /// A newer one.
    Newer(i32),
}

impl SchemaState {
    /// Of a database whose newest migration is `version`; 0 for none.
    pub fn of_version(version: i32) -> Self {
        match version.cmp(&SCHEMA_VERSION) {
            std::cmp::Ordering::Equal => Self::Current,
            std::cmp::Ordering::Less => Self::Older(version),
            std::cmp::Ordering::Greater => Self::Newer(version),
        }
    }

    /// What the user has to do before this program can run.
    pub fn require_current(self) -> Result<(), ConfigError> {
        let what = match self {
            Self::Current => return Ok(()),
            Self::Older(0) => format!(
                "names a database without Postroad's schema (version {SCHEMA_VERSION} is needed): run `postroad migrate`"
            ),
            Self::Older(version) => format!(
                "names a database with schema version {version}, older than this program's {SCHEMA_VERSION}: run `postroad migrate`"
            ),
            Self::Newer(version) => format!(
                "names a database with schema version {version}, newer than this program's {SCHEMA_VERSION}: install the Postroad that ran `postroad migrate` there"
            ),
        };
        Err(ConfigError::of("DATABASE_URL", what))
    }
}

impl Store {
    /// Compares the database's schema with this program's.
    pub async fn schema_state(&self) -> Result<SchemaState, Error> {
        const SQL: &str = "select coalesce(max(version), 0) from postroad.schema_history";
        match self.query("reading the schema version", SQL, &[]).await {
            Ok(rows) => Ok(SchemaState::of_version(rows[0].get(0))),
            Err(error) if error.is_missing_relation() => Ok(SchemaState::Older(0)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_command_to_run() {
        let text = |version| {
            SchemaState::of_version(version)
                .require_current()
                .map_err(|e| e.to_string())
        };
        assert!(text(SCHEMA_VERSION).is_ok());
        assert!(text(0).unwrap_err().contains("run `postroad migrate`"));
        assert!(text(SCHEMA_VERSION + 1).unwrap_err().contains("newer"));
    }
}
