//! Child programs that never outlive their owner.
//!
//! A program that is killed cannot clean up after itself, so three things stand in for it:
//!
//! - a **janitor** process waits for the end of a pipe that only the owner holds, and then stops
//!   what still runs (`registry.rs`, `janitor.sh`);
//! - a **record** in the directory lists what runs, for the next owner, in case the janitor was
//!   killed too;
//! - a **lock** on the directory tells a crashed owner from a live one.
//!
//! The races considered: a child is on the record before it runs its first instruction (see
//! [`gate`]), so there is no moment at which a killed owner leaves an unknown child. Pids are
//! compared with start times, so nobody who merely inherited a pid is signalled.
//!
//! Every child leads a process group of its own: Ctrl-C on the terminal reaches the owner only,
//! which then stops its children in the order it wants.

mod os;
mod registry;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

pub(crate) use self::os::ProcessId;
use self::registry::{Entry, Registry};
use crate::error::{Doing, Error};
use crate::user::User;

const TAIL_LINES: usize = 20;

/// A directory and the programs that run on its behalf. Clones share both.
///
/// When the last clone and the last [`Child`] are dropped, or the owner dies, whatever still
/// runs is stopped.
#[derive(Clone)]
pub struct Processes {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    registry: Mutex<Registry>,
    /// Held, not read: the lock ends with the owner, however the owner ends.
    _lock: File,
}

/// A program to run.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// What messages call it.
    pub name: String,
    /// The path of the executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables on top of the owner's environment.
    pub env: Vec<(OsString, OsString)>,
    /// The file that its stdout and stderr are appended to.
    pub log: PathBuf,
}

/// What servers need beyond a [`ChildSpec`].
pub(crate) struct Launch {
    /// Instead of the owner's user.
    pub(crate) user: Option<User>,
    /// Whether only the variables of the spec are seen, so that none of the owner's misleads it.
    pub(crate) env_clear: bool,
    /// What makes it stop cleanly.
    pub(crate) signal: Signal,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            user: None,
            env_clear: false,
            signal: Signal::TERM,
        }
    }
}

impl Processes {
    /// Takes the directory, creating it if need be, and stops what a crashed owner left there.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .doing(|| format!("resolve {}", dir.display()))?;
        let lock = lock(&dir)?;
        let registry = Registry::open(&dir).await?;
        let registry = Mutex::new(registry);
        Ok(Self {
            shared: Arc::new(Shared {
                dir,
                registry,
                _lock: lock,
            }),
        })
    }

    /// The directory, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Starts a program. Must be called within a tokio runtime.
    pub fn spawn(&self, spec: ChildSpec) -> Result<Child, Error> {
        self.launch(spec, Launch::default())
    }

    pub(crate) fn launch(&self, spec: ChildSpec, launch: Launch) -> Result<Child, Error> {
        let start = || format!("start {}", spec.name);
        fs::metadata(&spec.program).doing(|| format!("find {}", spec.program.display()))?;
        let log = append_to(&spec.log).doing(|| format!("open {}", spec.log.display()))?;
        let (gate, opener) = io::pipe().doing(start)?;

        let mut command = gate_before(&spec);
        command
            .process_group(0)
            .stdin(gate)
            .stderr(log.try_clone().doing(start)?)
            .stdout(log);
        if launch.env_clear {
            command.env_clear();
        }
        // Not where the owner happens to be: a crashed node leaves its dump in its directory.
        command.current_dir(self.dir());
        command.envs(spec.env.iter().map(|(name, value)| (name, value)));
        if let Some(user) = launch.user {
            command.uid(user.uid).gid(user.gid).current_dir("/");
        }
        let process = command.spawn().doing(start)?;

        let id = running_id(&process).doing(start)?;
        self.shared
            .registry()
            .add(Entry {
                id,
                signal: launch.signal,
            })
            .doing(start)?;
        open_gate(opener).doing(start)?;
        let shared = Arc::clone(&self.shared);
        Ok(Child {
            name: spec.name,
            log: spec.log,
            id,
            signal: launch.signal,
            process,
            shared,
        })
    }
}

impl Shared {
    /// A panic between two changes of the list cannot leave it half changed.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A supervised program. Dropping it does not stop it; the end of its [`Processes`] does.
pub struct Child {
    name: String,
    log: PathBuf,
    id: ProcessId,
    signal: Signal,
    process: tokio::process::Child,
    shared: Arc<Shared>,
}

impl Child {
    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.id.pid.as_raw_pid().unsigned_abs()
    }

    /// Waits until it ends. Safe to cancel and to call again.
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        let status = self
            .process
            .wait()
            .await
            .doing(|| format!("wait for {}", self.name))?;
        self.forget()?;
        Ok(status)
    }

    /// How it ended, if it did.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        let status = self
            .process
            .try_wait()
            .doing(|| format!("wait for {}", self.name))?;
        if status.is_some() {
            self.forget()?;
        }
        Ok(status)
    }

    /// Signals its whole process group. After its end this does nothing.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.id
            .signal_group(signal)
            .doing(|| format!("signal {}", self.name))
    }

    /// Kills it with all its descendants, and returns when none of them runs any more.
    pub async fn kill(&mut self) -> Result<ExitStatus, Error> {
        self.id
            .kill_family()
            .await
            .doing(|| format!("kill {}", self.name))?;
        self.wait().await
    }

    /// Stops it and all its descendants where they are, and returns when none of them moves.
    pub async fn pause(&self) -> Result<(), Error> {
        let paused = self.id.pause_family().await;
        paused.doing(|| format!("pause {}", self.name))
    }

    /// Lets them go on after [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<(), Error> {
        let resumed = self.id.resume_family().await;
        resumed.doing(|| format!("resume {}", self.name))
    }

    /// Kills one of its descendants, and returns when no process below it is one of before: for a
    /// parent that then ends the others by itself.
    pub(crate) async fn kill_member(&self, pid: u32) -> Result<(), Error> {
        let killed = self.id.kill_member(pid).await;
        killed.doing(|| format!("kill process {pid} of {}", self.name))
    }

    /// Asks it to stop, and kills it when it still runs after the grace.
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus, Error> {
        self.stop_with(self.signal, grace).await
    }

    pub(crate) async fn stop_with(
        &mut self,
        signal: Signal,
        grace: Duration,
    ) -> Result<ExitStatus, Error> {
        self.signal(signal)?;
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(ended) => ended,
            Err(_) => self.kill().await,
        }
    }

    /// The error for an end that nobody asked for.
    pub fn exited(&self, status: ExitStatus) -> Error {
        Error::Exited {
            name: self.name.clone(),
            status,
            log: self.log.clone(),
            tail: self.log_tail(),
        }
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn ended(&mut self) -> Error {
        match self.wait().await {
            Ok(status) => self.exited(status),
            Err(error) => error,
        }
    }

    pub(crate) fn not_ready(&self, waited: Duration) -> Error {
        Error::NotReady {
            name: self.name.clone(),
            waited,
            log: self.log.clone(),
            tail: self.log_tail(),
        }
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn forget(&self) -> Result<(), Error> {
        self.shared
            .registry()
            .remove(self.id)
            .doing(|| format!("unregister {}", self.name))
    }
}

/// Stops a process of an earlier owner that is known by something else than the record.
pub(crate) async fn stop_stray(id: ProcessId, signal: Signal) -> Result<(), Error> {
    registry::stop_all(&[Entry { id, signal }]).await
}

/// The last lines of a log, or nothing when it cannot be read.
pub(crate) fn tail(log: &Path) -> String {
    let Ok(file) = File::open(log) else {
        return String::new();
    };
    let mut last = VecDeque::new();
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        last.push_back(String::from_utf8_lossy(&line).into_owned());
        if last.len() > TAIL_LINES {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}

/// The program behind a shell that waits for one line on stdin and then becomes it.
///
/// The owner writes that line once the child is on the record. An owner that dies before leaves
/// a shell that reads the end of the pipe and goes away by itself.
fn gate_before(spec: &ChildSpec) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", r#"read -r _ && exec "$0" "$@" </dev/null"#]);
    command.arg(&spec.program).args(&spec.args);
    command
}

fn open_gate(mut opener: io::PipeWriter) -> io::Result<()> {
    opener.write_all(b"\n")
}

fn running_id(process: &tokio::process::Child) -> io::Result<ProcessId> {
    process
        .id()
        .and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
        .and_then(ProcessId::of)
        .ok_or_else(|| io::Error::other("it has no entry in /proc"))
}

fn append_to(log: &Path) -> io::Result<File> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(log)
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    let mut file = open().doing(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path)
                .unwrap_or_default()
                .trim()
                .to_owned();
            return Err(Error::InUse {
                dir: dir.to_owned(),
                owner,
            });
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).doing(|| format!("lock {}", path.display()));
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .doing(|| format!("write {}", path.display()))?;
    Ok(file)
}
