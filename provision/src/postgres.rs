//! A private Postgres: one cluster, one superuser `postroad`, one database `postroad`.
//!
//! It listens on a loopback port and on no socket file, and speaks to nobody without the
//! password, which is kept beside the data. `fsync` stays on: what the tests say about a crash
//! has to be true.
//!
//! As root the server runs as the system user `postgres`. Where that user cannot reach the
//! directory, for instance below `/root`, the data lives under `/var/tmp` and a link stands in
//! its place.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Options;
use crate::error::{Doing, Error};
use crate::files::{new_password, private_dir, remove_dir, write_private};
use crate::install::PostgresBinaries;
use crate::port::{Reserved, with_free_ports};
use crate::process::{Child, ChildSpec, Launch, ProcessId, Processes, stop_stray};
use crate::ready::wait_until_ready;
use crate::user::User;

const GRACE: Duration = Duration::from_secs(20);

/// How a running Postgres is made to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are closed, and everything is written out.
    Fast,
    /// Like a crash: the next start recovers from the write-ahead log.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// A running Postgres.
pub struct Postgres {
    cluster: Cluster,
    processes: Processes,
    port: u16,
    url: String,
    child: Child,
    /// For restarts.
    _reserved: Reserved,
}

impl Postgres {
    pub(crate) async fn start(
        processes: &Processes,
        binaries: &PostgresBinaries,
        options: &Options,
    ) -> Result<Self, Error> {
        let progress = options.progress.as_ref();
        let cluster = Cluster::open(processes.dir(), binaries, options).await?;
        let ((port, child), reserved) = with_free_ports(async |[port]| {
            progress(&format!(
                "starting Postgres {} on 127.0.0.1:{port}",
                binaries.major
            ));
            Ok((port, cluster.serve(processes, port).await?))
        })
        .await?;
        let url = format!(
            "postgres://postroad:{}@127.0.0.1:{port}/postroad",
            cluster.password
        );
        Ok(Self {
            cluster,
            processes: processes.clone(),
            port,
            url,
            child,
            _reserved: reserved,
        })
    }

    /// `postgres://postroad:<password>@127.0.0.1:<port>/postroad`, the same after every restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The pid of the postmaster.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Stops it and starts it again, on the same port and data.
    pub async fn restart(&mut self, shutdown: Shutdown) -> Result<(), Error> {
        self.child.stop_with(shutdown.signal(), GRACE).await?;
        self.start_again().await
    }

    /// Kills the server with all its backends.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().await?;
        Ok(())
    }

    /// Starts it after [`kill`](Self::kill) or a crash, on the same port and data.
    pub async fn start_again(&mut self) -> Result<(), Error> {
        self.child = self.cluster.serve(&self.processes, self.port).await?;
        Ok(())
    }

    /// Stops the server with all its backends in the middle of whatever they do: connections stay
    /// open, and nobody answers.
    pub async fn pause(&self) -> Result<(), Error> {
        self.child.pause().await
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<(), Error> {
        self.child.resume().await
    }

    /// Kills one backend, as the kernel does when memory runs out. The postmaster then ends all
    /// others and recovers, as after a crash; when this returns, no session of before is left.
    pub async fn kill_backend(&self, pid: u32) -> Result<(), Error> {
        self.child.kill_member(pid).await
    }

    /// Waits until it ends by itself, and says how.
    pub async fn exited(&mut self) -> Error {
        self.child.ended().await
    }

    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        self.child.stop(GRACE).await?;
        Ok(())
    }
}

/// The data on disk, and what it takes to serve it.
struct Cluster {
    bin: PathBuf,
    /// Holds the data directory and the password; belongs to the user that Postgres runs as.
    home: PathBuf,
    log: PathBuf,
    user: Option<User>,
    password: String,
    /// See [`Options::postgres`].
    settings: Vec<(String, String)>,
}

impl Cluster {
    async fn open(
        dir: &Path,
        binaries: &PostgresBinaries,
        options: &Options,
    ) -> Result<Self, Error> {
        let user = User::for_postgres()?;
        let home = home(dir, user).await?;
        let log = dir.join("log/postgres.log");
        let mut cluster = Self {
            bin: binaries.dir.clone(),
            home,
            log,
            user,
            password: String::new(),
            settings: options.postgres.clone(),
        };
        cluster.stop_stray().await?;
        match fs::read_to_string(cluster.password_file()) {
            Ok(password) if !options.fresh && cluster.data().is_dir() => {
                cluster.check_version(binaries.major)?;
                cluster.password = password;
            }
            _ => {
                (options.progress)(&format!("creating a Postgres {} cluster", binaries.major));
                cluster.password = new_password();
                cluster.create().await?;
            }
        }
        Ok(cluster)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn password_file(&self) -> PathBuf {
        self.home.join("password")
    }

    /// A postmaster that no record knows, and the file of one whose pid now is someone else's,
    /// which would keep ours from starting. The file of a dead postmaster is left to Postgres,
    /// which also looks for backends that outlived it.
    async fn stop_stray(&self) -> Result<(), Error> {
        let file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let pid = text
            .lines()
            .next()
            .and_then(|line| Pid::from_raw(line.parse().ok()?));
        let Some(process) = pid
            .and_then(ProcessId::of)
            .filter(|process| process.is_alive())
        else {
            return Ok(());
        };
        let its_dir = fs::read_link(format!("/proc/{}/cwd", process.pid.as_raw_pid()));
        if its_dir.is_ok_and(|its_dir| its_dir == self.data()) {
            return stop_stray(process, Shutdown::Fast.signal()).await;
        }
        fs::remove_file(&file).doing(|| format!("remove {}", file.display()))
    }

    fn check_version(&self, installed: u32) -> Result<(), Error> {
        let file = self.data().join("PG_VERSION");
        let text = fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
        if text.trim() == installed.to_string() {
            return Ok(());
        }
        Err(Error::Machine(format!(
            "{} was made by Postgres {}, but {installed} is installed; remove the directory to \
             start with an empty one",
            self.home.display(),
            text.trim()
        )))
    }

    /// Under another name until it is whole, so that an interrupted one is not taken for it.
    async fn create(&self) -> Result<(), Error> {
        let unfinished = self.home.join("data.new");
        remove_dir(&self.data())?;
        remove_dir(&unfinished)?;
        write_private(&self.password_file(), &self.password, self.user)?;

        let mut initdb = self.tool("initdb");
        initdb
            .arg("--pgdata")
            .arg(&unfinished)
            .arg("--pwfile")
            .arg(self.password_file());
        initdb.args([
            "--username=postroad",
            "--auth-local=reject",
            "--auth-host=scram-sha-256",
        ]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        run(initdb, "initdb", "").await?;

        let mut single = self.tool("postgres");
        single.arg("--single").arg("-D").arg(&unfinished).args([
            "-c",
            "exit_on_error=on",
            "postgres",
        ]);
        run(single, "postgres --single", "CREATE DATABASE postroad\n").await?;

        let data = self.data();
        fs::rename(&unfinished, &data).doing(|| format!("create {}", data.display()))
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(&self.home)
            .env_clear()
            .env("LC_ALL", "C.UTF-8");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    async fn serve(&self, processes: &Processes, port: u16) -> Result<Child, Error> {
        let launch = Launch {
            user: self.user,
            env_clear: true,
            signal: Shutdown::Fast.signal(),
        };
        let mut server = processes.launch(self.spec(port), launch)?;
        let pid = server.pid();
        wait_until_ready(&mut server, async || self.is_ready(pid)).await?;
        Ok(server)
    }

    fn spec(&self, port: u16) -> ChildSpec {
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
            // Queue tables turn over within seconds; a minute between looks is too long.
            "autovacuum_naptime=10s".to_owned(),
            "cluster_name=postroad".to_owned(),
        ];
        let own = self.settings.iter();
        let own = own.map(|(name, value)| format!("{name}={value}"));
        let mut args = vec![OsString::from("-D"), self.data().into()];
        args.extend(
            settings
                .into_iter()
                .chain(own)
                .flat_map(|setting| ["-c".into(), setting.into()]),
        );
        ChildSpec {
            name: "Postgres".to_owned(),
            program: self.bin.join("postgres"),
            args,
            env: vec![("LC_ALL".into(), "C.UTF-8".into())],
            log: self.log.clone(),
        }
    }

    /// As `pg_ctl` knows it: from the file of the postmaster, so that no other server that
    /// listens on the port is taken for ours. Line 1 is the pid, line 8 the state.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.first().is_some_and(|line| *line == pid.to_string())
            && lines.get(7).is_some_and(|state| state.trim() == "ready")
    }
}

/// The directory for the data: `postgres` below ours, or what a link there says.
async fn home(dir: &Path, user: Option<User>) -> Result<PathBuf, Error> {
    let home = dir.join("postgres");
    if let Ok(elsewhere) = fs::read_link(&home) {
        private_dir(&elsewhere, user)?;
        return Ok(elsewhere);
    }
    private_dir(&home, user)?;
    let Some(user) = user else { return Ok(home) };
    if can_enter(&home, user).await? {
        return Ok(home);
    }
    let elsewhere = PathBuf::from(format!("/var/tmp/postroad-{}", instance(dir)));
    private_dir(&elsewhere, Some(user))?;
    fs::remove_dir(&home)
        .and_then(|()| symlink(&elsewhere, &home))
        .doing(|| format!("link {} to {}", home.display(), elsewhere.display()))?;
    Ok(elsewhere)
}

/// Tried rather than read from modes, which do not tell the whole truth (ACLs, namespaces).
async fn can_enter(dir: &Path, user: User) -> Result<bool, Error> {
    let status = Command::new("/bin/sh")
        .args(["-c", r#"cd "$0""#])
        .arg(dir)
        .current_dir("/")
        .uid(user.uid)
        .gid(user.gid)
        .stderr(Stdio::null())
        .status()
        .await
        .doing(|| format!("look whether Postgres can enter {}", dir.display()))?;
    Ok(status.success())
}

/// A short name for the directory: FNV-1a, which unlike the standard hasher never changes.
pub(crate) fn instance(dir: &Path) -> String {
    let bytes = dir.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Runs a tool to its end with some input; what it printed is in the error.
async fn run(mut command: Command, program: &str, input: &str) -> Result<(), Error> {
    let run = || format!("run {program}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().doing(run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that fails early closes its input; its status says more than the broken pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.doing(run)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(Error::Failed {
        program: program.to_owned(),
        status: output.status,
        tail: String::from_utf8_lossy(&printed).into_owned(),
    })
}
