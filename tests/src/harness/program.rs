//! A scheduler, a worker or an api, and what a test may set of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::faults::clock::FakeClock;
use crate::proxy::Proxy;

/// A scheduler, a worker or an api to be started.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) name: &'static str,
    pub(super) env: BTreeMap<String, String>,
    pub(super) amqp: Option<SocketAddr>,
    pub(super) postgres: Option<SocketAddr>,
    pub(super) dir: Option<PathBuf>,
}

impl Program {
    /// A scheduler, configured as its cluster says.
    pub fn scheduler() -> Self {
        Self::of("postroad-scheduler")
    }

    /// A worker, configured as its cluster says.
    pub fn worker() -> Self {
        Self::of("postroad-worker")
    }

    /// An api, configured as its cluster says.
    pub fn api() -> Self {
        Self::of("postroad-api")
    }

    /// The worker of `worker/examples/greet.rs`, with a kind of its own.
    pub fn greeter() -> Self {
        Self::of("examples/greet")
    }

    /// A program of this name, configured as its cluster says.
    pub fn named(name: &'static str) -> Self {
        Self::of(name)
    }

    fn of(name: &'static str) -> Self {
        Self {
            name,
            env: BTreeMap::new(),
            amqp: None,
            postgres: None,
            dir: None,
        }
    }

    /// Lies in this directory, and not where the others of its cluster do.
    #[must_use]
    pub fn of_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Reads the time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: &FakeClock) -> Self {
        self.env.extend(clock.env());
        self
    }

    /// Reaches RabbitMQ through a proxy.
    #[must_use]
    pub fn amqp_through(mut self, proxy: &Proxy) -> Self {
        self.amqp = Some(proxy.addr());
        self
    }

    /// Reaches Postgres through a proxy.
    #[must_use]
    pub fn postgres_through(mut self, proxy: &Proxy) -> Self {
        self.postgres = Some(proxy.addr());
        self
    }
}
