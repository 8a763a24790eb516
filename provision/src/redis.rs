//! A private Redis, for what is measured beside Postroad: Postroad itself uses none.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Doing, Error};
use crate::files::remove_dir;
use crate::install::{Package, install};
use crate::port::{Reserved, with_free_ports};
use crate::process::{Child, ChildSpec, Processes};
use crate::ready::wait_until_ready;

const PACKAGE: Package = Package {
    name: "redis-server",
    files: &["/usr/bin/redis-server", "/usr/local/bin/redis-server"],
};
const GRACE: Duration = Duration::from_secs(10);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A running Redis that was empty when it started, with an append-only file as its documentation
/// has it for those who do not want to lose jobs: synced each second.
pub struct Redis {
    child: Child,
    dir: PathBuf,
    port: u16,
    _reserved: Reserved,
}

impl Redis {
    /// Starts one, after installing it if need be.
    pub async fn start(processes: &Processes) -> Result<Self, Error> {
        let program = install(PACKAGE, &processes.dir().join("log")).await?;
        let ((dir, port, child), reserved) = with_free_ports(async |[port]| {
            let dir = processes.dir().join(format!("redis-{port}"));
            remove_dir(&dir)?;
            fs::create_dir_all(&dir).doing(|| format!("create {}", dir.display()))?;
            let child = serve(processes, &program, &dir, port).await?;
            Ok((dir, port, child))
        })
        .await?;
        Ok(Self {
            child,
            dir,
            port,
            _reserved: reserved,
        })
    }

    /// `redis://127.0.0.1:<port>/0`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The pid of the server.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Stops it, and removes what it had.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.child.stop(GRACE).await?;
        remove_dir(&self.dir)
    }
}

async fn serve(
    processes: &Processes,
    program: &Path,
    dir: &Path,
    port: u16,
) -> Result<Child, Error> {
    let settings = [
        ("--port", port.to_string()),
        ("--bind", "127.0.0.1".to_owned()),
        ("--dir", dir.display().to_string()),
        ("--appendonly", "yes".to_owned()),
        ("--appendfsync", "everysec".to_owned()),
        // No snapshots beside it.
        ("--save", String::new()),
    ];
    let args = settings
        .into_iter()
        .flat_map(|(name, value)| [name.into(), value.into()]);
    let mut child = processes.spawn(ChildSpec {
        name: "Redis".to_owned(),
        program: program.to_owned(),
        args: args.collect(),
        env: Vec::new(),
        log: processes.dir().join("log/redis.log"),
    })?;
    wait_until_ready(&mut child, async || {
        let answer = tokio::time::timeout(PROBE_LIMIT, ping(port)).await;
        matches!(answer, Ok(Ok(true)))
    })
    .await?;
    Ok(child)
}

async fn ping(port: u16) -> std::io::Result<bool> {
    const PONG: &[u8] = b"+PONG\r\n";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; PONG.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == PONG)
}
