//! What can go wrong while servers are provisioned, and whose turn it is then.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// A failure of provisioning or of a supervised program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something that this user may not add. The message says what to run.
    #[error("{0}")]
    Machine(String),

    /// Another live process owns the directory.
    #[error("{} is already in use by process {owner}", dir.display())]
    InUse {
        /// The directory both wanted.
        dir: PathBuf,
        /// The pid that the owner wrote into its lock file.
        owner: String,
    },

    /// The operating system refused an operation.
    #[error("{doing}")]
    Io {
        /// What was being done to what.
        doing: String,
        /// The refusal.
        source: io::Error,
    },

    /// A helper program such as `initdb` or `apt-get` failed.
    #[error("{program} failed with {status}; its last lines were:\n{tail}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        tail: String,
    },

    /// A server was told to do something, and did not say that it had.
    #[error("{server} was told to do something and answered: {said}")]
    Refused {
        /// The server.
        server: String,
        /// What came back instead.
        said: String,
    },

    /// A supervised program ended although nobody stopped it.
    #[error("{name} ended with {status}; the last lines of {} were:\n{tail}", log.display())]
    Exited {
        /// The program.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Where it logs.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },

    /// A server runs but does not answer.
    #[error("{name} was not ready after {waited:?}; the last lines of {} were:\n{tail}", log.display())]
    NotReady {
        /// The server.
        name: String,
        /// How long it was given.
        waited: Duration,
        /// Where it logs.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
}

impl Error {
    /// Whether a person has to change the machine or the configuration before a retry makes sense.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Machine(_))
    }

    /// The exit code for a program that ends with this error: 78 (`EX_CONFIG`) or 1.
    pub fn exit_code(&self) -> u8 {
        if self.is_config() { 78 } else { 1 }
    }
}

/// Names the operation behind an [`io::Error`].
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            doing: what(),
            source: error.into(),
        })
    }
}
