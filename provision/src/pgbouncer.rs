//! A private PgBouncer before a Postgres, to try what a pooler does to its clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::Error;
use crate::files::write_private;
use crate::install::{Package, install};
use crate::port::{Reserved, with_free_ports};
use crate::process::{Child, ChildSpec, Processes};
use crate::ready::wait_until_ready;
use crate::user::is_root;

const PACKAGE: Package = Package {
    name: "pgbouncer",
    files: &["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"],
};
const GRACE: Duration = Duration::from_secs(5);

/// For how long a client keeps its connection to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Until it disconnects.
    Session,
    /// Until its transaction ends.
    Transaction,
}

/// A running PgBouncer.
pub struct PgBouncer {
    child: Child,
    url: String,
    _reserved: Reserved,
}

impl PgBouncer {
    /// Puts one before the Postgres at `database_url`, which has to look like
    /// [`Postgres::url`](crate::Postgres::url).
    ///
    /// Clients that send a startup parameter that it does not know are refused, but for those of
    /// `ignored`, which it drops.
    pub async fn start(
        processes: &Processes,
        database_url: &str,
        mode: PoolMode,
        ignored: &[&str],
    ) -> Result<Self, Error> {
        let program = install(PACKAGE, &processes.dir().join("log")).await?;
        let upstream = Upstream::parse(database_url).ok_or_else(|| {
            Error::Machine("PgBouncer needs a URL with user, password, IP and port".to_owned())
        })?;
        let ((port, child), reserved) = with_free_ports(async |[port]| {
            let files = Files::of(processes.dir(), port);
            files.write(&upstream, mode, ignored)?;
            Ok((port, serve(processes, &program, &files).await?))
        })
        .await?;
        let Upstream {
            user,
            password,
            database,
            ..
        } = upstream;
        Ok(Self {
            child,
            url: format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}"),
            _reserved: reserved,
        })
    }

    /// How clients reach the same database through it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.child.stop(GRACE).await?;
        Ok(())
    }
}

/// The parts of the URL of a Postgres.
struct Upstream<'a> {
    user: &'a str,
    password: &'a str,
    address: SocketAddr,
    database: &'a str,
}

impl<'a> Upstream<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (login, place) = url.strip_prefix("postgres://")?.split_once('@')?;
        let (user, password) = login.split_once(':')?;
        let (address, database) = place.split_once('/')?;
        Some(Self {
            user,
            password,
            address: address.parse().ok()?,
            database,
        })
    }
}

/// Named for the port, so that there may be several in one directory.
struct Files {
    config: PathBuf,
    users: PathBuf,
    log: PathBuf,
    port: u16,
}

impl Files {
    fn of(dir: &Path, port: u16) -> Self {
        Self {
            config: dir.join(format!("pgbouncer-{port}.ini")),
            users: dir.join(format!("pgbouncer-{port}.users")),
            log: dir.join(format!("log/pgbouncer-{port}.log")),
            port,
        }
    }

    fn write(
        &self,
        upstream: &Upstream<'_>,
        mode: PoolMode,
        ignored: &[&str],
    ) -> Result<(), Error> {
        let Upstream {
            user,
            password,
            address,
            ..
        } = upstream;
        let users = format!("\"{user}\" \"{password}\"\n");
        write_private(&self.users, &users, None)?;
        let mode = match mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
        };
        // It reads its files before it becomes that user, and refuses to stay root.
        let run_as = if is_root() { "user = postgres\n" } else { "" };
        let config = format!(
            "[databases]\n\
             * = host={} port={}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {}\n\
             unix_socket_dir =\n\
             auth_type = scram-sha-256\n\
             auth_file = {}\n\
             pool_mode = {mode}\n\
             default_pool_size = 10\n\
             ignore_startup_parameters = {}\n\
             {run_as}",
            address.ip(),
            address.port(),
            self.port,
            self.users.display(),
            ignored.join(", "),
        );
        write_private(&self.config, &config, None)
    }
}

async fn serve(processes: &Processes, program: &Path, files: &Files) -> Result<Child, Error> {
    let mut child = processes.spawn(ChildSpec {
        name: "PgBouncer".to_owned(),
        program: program.to_owned(),
        args: vec![files.config.clone().into()],
        env: Vec::new(),
        log: files.log.clone(),
    })?;
    let address = (Ipv4Addr::LOCALHOST, files.port);
    wait_until_ready(&mut child, async || {
        TcpStream::connect(address).await.is_ok()
    })
    .await?;
    Ok(child)
}
