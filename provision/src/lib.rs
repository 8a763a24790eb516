//! Private Postgres and RabbitMQ servers for development, the demo and the tests.
//!
//! Both run as child processes from the system's programs, on free loopback ports, with their
//! data in one directory: beside servers that already run, and as often as there are
//! directories. They stop with their owner, however it ends.
//!
//! ```no_run
//! # async fn example() -> Result<(), postroad_provision::Error> {
//! use postroad_provision::{Options, Servers};
//!
//! let servers = Servers::start(Options::new(".postroad/dev")).await?;
//! println!("{}\n{}", servers.database_url(), servers.amqp_url());
//! servers.stop().await?;
//! # Ok(()) }
//! ```
//!
//! This crate speaks no SQL and no AMQP, and knows no Postroad program: those are a
//! [`ChildSpec`] each.

mod error;
mod files;
mod install;
mod pgbouncer;
mod port;
mod postgres;
mod process;
mod rabbitmq;
mod ready;
mod redis;
mod user;

use std::path::PathBuf;
use std::sync::Arc;

pub use rustix::process::Signal;

use self::error::Doing;
pub use self::error::Error;
pub use self::install::{Package, install};
pub use self::pgbouncer::{PgBouncer, PoolMode};
pub use self::postgres::{Postgres, Shutdown};
pub use self::process::{Child, ChildSpec, Processes};
pub use self::rabbitmq::{Control, RabbitMq};
pub use self::redis::Redis;

/// Where the servers live, and how they start.
#[derive(Clone)]
pub struct Options {
    /// Data, logs and passwords; created if need be. One owner at a time.
    pub dir: PathBuf,
    /// Whether to start with empty servers instead of the data of the last run.
    pub fresh: bool,
    /// Settings of Postgres beyond our own, as `postgresql.conf` spells them.
    pub postgres: Vec<(String, String)>,
    /// Variables of the application `rabbit` beyond our own, as Erlang terms.
    pub rabbitmq: Vec<(String, String)>,
    /// Called with one line for each step that takes time.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// Keeps data, and says nothing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            fresh: false,
            postgres: Vec::new(),
            rabbitmq: Vec::new(),
            progress: Arc::new(|_| {}),
        }
    }
}

/// A Postgres and a RabbitMQ that run and answer.
///
/// Dropping them stops them too, but in the background and only when no clone of their
/// [`Processes`] is left.
pub struct Servers {
    postgres: Postgres,
    rabbitmq: RabbitMq,
    processes: Processes,
}

impl Servers {
    /// Starts both, after installing what the machine lacks and stopping what a crash left over.
    ///
    /// May be dropped halfway: what was started by then is stopped.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let processes = Processes::open(&options.dir).await?;
        let log_dir = processes.dir().join("log");
        files::remove_dir(&log_dir)?;
        let binaries = install::servers(&log_dir, options.progress.as_ref()).await?;
        let (postgres, rabbitmq) = tokio::join!(
            Postgres::start(&processes, &binaries.postgres, &options),
            RabbitMq::start(&processes, &binaries.rabbitmq, &options),
        );
        match (postgres, rabbitmq) {
            (Ok(postgres), Ok(rabbitmq)) => Ok(Self {
                postgres,
                rabbitmq,
                processes,
            }),
            (Ok(mut postgres), Err(error)) => {
                postgres.stop().await?;
                Err(error)
            }
            (Err(error), Ok(mut rabbitmq)) => {
                rabbitmq.stop().await?;
                Err(error)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// See [`Postgres::url`].
    pub fn database_url(&self) -> &str {
        self.postgres.url()
    }

    /// See [`RabbitMq::amqp_url`].
    pub fn amqp_url(&self) -> &str {
        self.rabbitmq.amqp_url()
    }

    /// See [`RabbitMq::management_url`].
    pub fn management_url(&self) -> &str {
        self.rabbitmq.management_url()
    }

    /// The database server, to be broken on purpose.
    pub fn postgres(&mut self) -> &mut Postgres {
        &mut self.postgres
    }

    /// The broker, to be broken on purpose.
    pub fn rabbitmq(&mut self) -> &mut RabbitMq {
        &mut self.rabbitmq
    }

    /// For more programs in the same directory, with the same end.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Waits until either ends by itself, and says which and how.
    pub async fn exited(&mut self) -> Error {
        tokio::select! {
            error = self.postgres.exited() => error,
            error = self.rabbitmq.exited() => error,
        }
    }

    /// Stops both at once, and returns when neither runs any more.
    pub async fn stop(mut self) -> Result<(), Error> {
        let (postgres, rabbitmq) = tokio::join!(self.postgres.stop(), self.rabbitmq.stop());
        postgres.and(rabbitmq)
    }
}

/// Has this process told to stop (SIGTERM) when its parent dies, for instance a killed `make`.
///
/// Call it on the main thread: the order is the calling thread's and ends with it.
pub fn stop_with_parent() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .doing(|| "ask for a signal when the parent dies".to_owned())
}
