//! The real `postroad`, run as a shell would, on a database of the test's own; and in a terminal,
//! where it has one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad_common::config::Env;
use postroad_tests::harness::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::store_fixture::Room;

/// Longer than any command here takes.
pub(crate) const MOST: Duration = Duration::from_secs(60);

/// The servers' addresses, and other variables.
#[derive(Clone)]
pub(crate) struct Cli {
    env: BTreeMap<OsString, OsString>,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cli {
    /// On the database of a room, and on the broker that all tests share.
    pub(crate) fn of(room: &Room) -> Self {
        let env = Env::of_process();
        let amqp = env.text("AMQP_URL").expect("`make test` sets it");
        Self::at(room.database.url(), amqp)
    }

    /// On these servers.
    pub(crate) fn at(database_url: &str, amqp_url: &str) -> Self {
        Self {
            env: BTreeMap::new(),
        }
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url)
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
    }

    /// With a variable more, or another value of it.
    pub(crate) fn env(&self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut env = self.env.clone();
        env.insert(name.into(), value.as_ref().to_owned());
        Self { env }
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(program());
        command
            .args(args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        let child = self.command(args).spawn().unwrap();
        end(child).await
    }

    /// With something to read.
    pub(crate) async fn run_with(&self, args: &[&str], input: &str) -> Said {
        use tokio::io::AsyncWriteExt as _;
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Who does not read it has ended.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        end(child).await
    }

    /// That it ends well; what it wrote.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args).await;
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said.out
    }

    /// That it ends well, and writes one JSON object a line.
    pub(crate) async fn json(&self, args: &[&str]) -> Vec<Value> {
        self.ok(args).await.lines().map(object).collect()
    }

    /// That it ends with this code, says why in one line, and prints nothing.
    pub(crate) async fn refuses(&self, args: &[&str], code: i32) -> String {
        let said = self.run(args).await;
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
        assert_eq!(said.out, "", "{args:?}: {said:?}");
        assert!(!said.err.is_empty(), "{args:?} says nothing");
        said.err
    }

    /// In a terminal of this size, which types `keys` when it is asked.
    pub(crate) fn in_terminal(&self, args: &[&str], rows: u16, columns: u16) -> Terminal {
        Terminal::start(self.command(args), rows, columns)
    }
}

pub(crate) async fn end(child: Child) -> Said {
    let output = tokio::time::timeout(MOST, child.wait_with_output()).await;
    let output = output.expect("the command runs on and on").unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("standard output is text"),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert!(value.is_object(), "{line}");
    value
}

fn program() -> PathBuf {
    // target/<profile>/deps/it-0123456789abcdef
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("postroad");
    assert!(
        path.exists(),
        "{} does not exist: run `make test`",
        path.display()
    );
    path
}

/// A command in a terminal, as its user sees it.
pub(crate) struct Terminal {
    child: Child,
    master: std::fs::File,
    seen: Arc<Mutex<Vec<u8>>>,
}

/// Opening it must not make it the terminal of the test itself.
const O_NOCTTY: i32 = 0o400;

impl Terminal {
    fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(O_NOCTTY)
                .open(&name)
                .unwrap()
        };
        tcsetwinsize(&master, size).unwrap();
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn();
        // The command holds the other side open, and what is read ends with it.
        drop(command);
        let master = std::fs::File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, heard) = (master.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                heard.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self {
            child: child.unwrap(),
            master,
            seen,
        }
    }

    /// Everything that was written so far.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    pub(crate) async fn wait_for(&self, text: &str) {
        eventually(format_args!("the terminal shows `{text}`"), async || {
            let seen = self.seen();
            anyhow::ensure!(seen.contains(text), "it shows {seen}");
            Ok(())
        })
        .await
        .unwrap();
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    }

    /// Waits for the end; what was shown, and the code.
    pub(crate) async fn end(mut self) -> (String, Option<i32>) {
        let status: ExitStatus = tokio::time::timeout(MOST, self.child.wait())
            .await
            .expect("the command runs on and on")
            .unwrap();
        assert_eq!(status.signal(), None, "{}", self.seen());
        // What it wrote last may still be under way to the reader.
        tokio::time::sleep(Duration::from_millis(50)).await;
        (self.seen(), status.code())
    }
}
