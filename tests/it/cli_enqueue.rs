//! `postroad enqueue --file`, interrupted: it says how far it came, and how to go on from there.

use std::path::Path;
use std::process::Stdio;

use postroad_common::config::Env;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio_postgres::Client;

use crate::cli_fixture::{Cli, MOST, Said, end};
use crate::store_fixture::Room;

const LINES: usize = 3500;

/// So many jobs, each with its line in its args; that of line 1500 has a key that others may hold.
fn jobs(count: usize) -> String {
    let job = |line| match line {
        1500 => json!({"kind": "echo", "args": line, "dedup_key": "held"}),
        _ => json!({"kind": "echo", "args": line}),
    };
    (1..=count).map(|line| format!("{}\n", job(line))).collect()
}

/// A command that can be interrupted, and tells when it has heard of it.
struct Running {
    child: Child,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    fn start(room: &Room, file: &str, stdin: Stdio) -> Self {
        let cli = Cli::of(room).env("POSTROAD_LOG", "info");
        let mut command = cli.command(&["enqueue", "--file", file]);
        let mut child = command.stdin(stdin).spawn().unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            err,
            said: String::new(),
        }
    }

    async fn interrupt(&mut self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
        self.wait_until_it_says("finishing what is held").await;
    }

    async fn wait_until_it_says(&mut self, text: &str) {
        let saying = async {
            while !self.said.contains(text) {
                let read = self.err.read_line(&mut self.said).await.unwrap();
                assert_ne!(read, 0, "it has ended: {}", self.said);
            }
        };
        let said = tokio::time::timeout(MOST, saying).await;
        said.unwrap_or_else(|_| panic!("it never says `{text}`"));
    }

    async fn end(mut self) -> Said {
        let rest = self.err.read_to_string(&mut self.said);
        let rest = tokio::time::timeout(MOST, rest).await;
        rest.expect("the command runs on and on").unwrap();
        Said {
            err: self.said,
            ..end(self.child).await
        }
    }
}

/// A file that the command has taken a thousand lines of, while its next statement waits.
struct Stage {
    room: Room,
    path: String,
    /// Holds what is waited for, in a transaction.
    holder: Client,
    running: Running,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let (room, dir) = (Room::open().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("the jobs.ndjson");
        std::fs::write(&path, jobs(LINES)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let holder = room.database.client().await;
        let hold = "begin; select postroad.enqueue('echo', dedup_key => 'held')";
        holder.batch_execute(hold).await.unwrap();
        let running = Running::start(&room, &path, Stdio::null());
        room.somebody_waits().await;
        assert_eq!(taken(&room).await, (1000, 1000));
        Self {
            room,
            path,
            holder,
            running,
            _dir: dir,
        }
    }
}

/// How many jobs there are, and of how many lines.
async fn taken(room: &Room) -> (i64, i64) {
    let sql = "select count(*), count(distinct args::text) from postroad.job";
    let row = room.sql.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Runs a line of a shell that knows where `postroad` is.
async fn shell(room: &Room, line: &str) -> std::process::Output {
    let test = std::env::current_exe().unwrap();
    let programs = test.parent().and_then(Path::parent).unwrap().display();
    let amqp = Env::of_process();
    Command::new("sh")
        .args(["-c", line])
        .env("PATH", format!("{programs}:/usr/bin:/bin"))
        .env("DATABASE_URL", room.database.url())
        .env("AMQP_URL", amqp.text("AMQP_URL").unwrap())
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_read_is_taken_and_the_line_that_it_ends_with_goes_on_from_there() {
    let mut stage = Stage::set().await;
    stage.running.interrupt().await;
    stage.holder.batch_execute("rollback").await.unwrap();

    let said = stage.running.end().await;

    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.out, "enqueued=2000\nduplicates=0\nrejected=0\n");
    assert_eq!(taken(&stage.room).await, (2000, 2000));
    let way_on = format!(
        "everything up to line 2000 is taken; go on with `tail -n +2001 '{}' | postroad enqueue --file -`",
        stage.path
    );
    assert!(said.err.contains(&way_on), "{said:?}");
    let line = way_on.split('`').nth(1).unwrap();
    let output = shell(&stage.room, line).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(taken(&stage.room).await, (3500, 3500));
}

#[tokio::test]
async fn a_second_interrupt_does_not_wait_and_says_what_is_not_known() {
    let mut stage = Stage::set().await;
    stage.running.interrupt().await;
    // It has heard of the first one, and waits for the database.
    stage.running.interrupt().await;

    let said = stage.running.end().await;

    assert_eq!((said.code, &*said.out), (Some(1), ""), "{said:?}");
    let known = "up to line 1000 is taken, and nobody knows of lines 1001 to 2000; go on with `tail -n +1001 ";
    assert!(said.err.contains(known), "{said:?}");
}

#[tokio::test]
async fn what_was_read_from_an_open_pipe_is_taken() {
    let room = Room::open().await;
    let mut running = Running::start(&room, "-", Stdio::piped());
    let mut pipe = running.child.stdin.take().unwrap();
    let lines = jobs(1499) + "this is no job\n";
    pipe.write_all(lines.as_bytes()).await.unwrap();
    // It has read them all, and waits for as many as make a statement.
    running.wait_until_it_says("line 1500: ").await;

    running.interrupt().await;
    let said = running.end().await;

    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.out, "enqueued=1499\nduplicates=0\nrejected=1\n");
    assert_eq!(taken(&room).await, (1499, 1499));
    let way_on = "everything up to line 1500 is taken; go on with line 1501 of what was read";
    assert!(said.err.contains(way_on), "{said:?}");
    drop(pipe);
}
