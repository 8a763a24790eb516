//! Talking to the node behind its back: Erlang, evaluated on it.
//!
//! `erl_call` comes with Erlang and takes some ten milliseconds, where `rabbitmqctl` starts a
//! virtual machine of its own and takes seconds.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Doing, Error};
use crate::install::{on_path, server_path};

const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A node with much to do sometimes turns a connection away; one that is down does so every time.
const CONNECTS: usize = 4;
const REST: Duration = Duration::from_millis(250);

/// A way to a node that stays good when the node is restarted.
#[derive(Clone)]
pub struct Control {
    /// Where the cookie is.
    pub(super) home: PathBuf,
    /// The node's port for other nodes.
    pub(super) dist: u16,
}

impl Control {
    /// Evaluates one Erlang expression on the node, and returns what it comes to, which has to be
    /// text: a string, a binary, or nested lists of them.
    pub async fn eval(&self, expression: &str) -> Result<String, Error> {
        // Without the end of the line, erl_call reads nothing.
        let whole = format!(
            "try begin {expression} end of Value -> io:put_chars([\"ok \", Value]) \
             catch Class:Reason -> io:format(\"failed ~0tp\", [{{Class, Reason}}]) end.\n"
        );
        let output = tokio::time::timeout(ANSWER_LIMIT, self.call(&whole)).await;
        let output = output.map_err(|_| refused(format!("nothing within {ANSWER_LIMIT:?}")))??;
        let printed = String::from_utf8_lossy(&output.stdout);
        match printed.strip_prefix("ok ") {
            Some(answer) => Ok(answer.to_owned()),
            None => {
                let complaint = String::from_utf8_lossy(&output.stderr);
                Err(refused(format!("{printed}{complaint}")))
            }
        }
    }

    /// What is evaluated is so once: whoever was turned away has not begun.
    async fn call(&self, whole: &str) -> Result<Output, Error> {
        for _ in 1..CONNECTS {
            let output = self.call_once(whole).await?;
            if output.stdout.is_empty() && contains(&output.stderr, "failed to connect to node") {
                tokio::time::sleep(REST).await;
                continue;
            }
            return Ok(output);
        }
        self.call_once(whole).await
    }

    async fn call_once(&self, whole: &str) -> Result<Output, Error> {
        let run = || "run erl_call".to_owned();
        let mut child = Command::new(erl_call()?)
            .arg("-address")
            .arg(format!("localhost:{}", self.dist))
            .args(["-fetch_stdout", "-no_result_term", "-e"])
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", server_path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(run)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that cannot connect does not read; what it prints says more than the broken pipe.
            let _ = stdin.write_all(whole.as_bytes()).await;
        }
        child.wait_with_output().await.doing(run)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.dist)
    }
}

fn contains(said: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(said).contains(text)
}

fn refused(said: String) -> Error {
    Error::Refused {
        server: "RabbitMQ".to_owned(),
        said,
    }
}

/// Debian has it on the path, others beside Erlang's own programs.
fn erl_call() -> Result<PathBuf, Error> {
    on_path(&server_path(), "erl_call")
        .or_else(|| on_path(OsStr::new("/usr/lib/erlang/bin"), "erl_call"))
        .ok_or_else(|| Error::Machine("no erl_call; it is a part of Erlang".to_owned()))
}
