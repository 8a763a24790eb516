//! Who runs right now, told to the two that act on it later: the janitor, a process that stops
//! everything when this one is gone, and a file, for the next owner of the directory when the
//! janitor was killed too.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::os::{ProcessId, wait_for_end};
use crate::error::{Doing, Error};

const JANITOR: &str = include_str!("janitor.sh");

/// As long as the janitor waits before it kills.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A process group that must not outlive its owner.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) id: ProcessId,
    /// What makes it stop cleanly.
    pub(super) signal: Signal,
}

impl Entry {
    fn line(&self) -> String {
        format!(
            "{} {} {}",
            self.id.pid.as_raw_pid(),
            self.id.started,
            self.signal.as_raw()
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let pid = Pid::from_raw(fields.next()?.parse().ok()?)?;
        let started = fields.next()?.parse().ok()?;
        let signal = Signal::from_named_raw(fields.next()?.parse().ok()?)?;
        Some(Self {
            id: ProcessId { pid, started },
            signal,
        })
    }
}

pub(super) struct Registry {
    entries: Vec<Entry>,
    record: PathBuf,
    janitor: ChildStdin,
}

impl Registry {
    /// Stops what an earlier owner left, then starts with nobody.
    pub(super) async fn open(dir: &Path) -> Result<Self, Error> {
        let record = dir.join("processes");
        stop_left_over(&record).await?;
        let janitor = start_janitor().doing(|| "start the janitor process".to_owned())?;
        let registry = Self {
            entries: Vec::new(),
            record,
            janitor,
        };
        registry
            .write_record()
            .doing(|| format!("write {}", registry.record.display()))?;
        Ok(registry)
    }

    pub(super) fn add(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        self.write_record()?;
        self.tell(&format!("add {}\n", entry.line()))
    }

    pub(super) fn remove(&mut self, id: ProcessId) -> io::Result<()> {
        self.entries.retain(|entry| entry.id != id);
        self.write_record()?;
        self.tell(&format!("del {}\n", id.pid.as_raw_pid()))
    }

    /// A janitor that somebody killed is replaced; the new one hears of everybody.
    fn tell(&mut self, line: &str) -> io::Result<()> {
        if self.janitor.write_all(line.as_bytes()).is_ok() {
            return Ok(());
        }
        self.janitor = start_janitor()?;
        for entry in &self.entries {
            self.janitor
                .write_all(format!("add {}\n", entry.line()).as_bytes())?;
        }
        Ok(())
    }

    /// By rename: a crash leaves the old list or the new one, never half of one.
    fn write_record(&self) -> io::Result<()> {
        let lines: Vec<String> = self.entries.iter().map(Entry::line).collect();
        let new = self.record.with_extension("new");
        fs::write(&new, lines.join("\n"))?;
        fs::rename(&new, &self.record)
    }
}

/// In a group of its own, out of reach of Ctrl-C, and with none of the owner's outputs, which
/// would keep `postroad … | tail` waiting.
fn start_janitor() -> io::Result<ChildStdin> {
    let mut janitor = Command::new("/bin/sh")
        .args(["-c", JANITOR, "postroad-janitor"])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    janitor
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("the janitor has no stdin"))
}

async fn stop_left_over(record: &Path) -> Result<(), Error> {
    let text = match fs::read_to_string(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.doing(|| format!("read {}", record.display()))?,
    };
    let entries: Vec<Entry> = text.lines().filter_map(Entry::parse).collect();
    stop_all(&entries).await
}

/// Asks them all, waits, and kills those that did not hear.
pub(super) async fn stop_all(entries: &[Entry]) -> Result<(), Error> {
    let stop = || "stop a process that an earlier run left over".to_owned();
    for entry in entries {
        entry.id.signal_group(entry.signal).doing(stop)?;
    }
    let ids: Vec<ProcessId> = entries.iter().map(|entry| entry.id).collect();
    if !wait_for_end(&ids, STOP_LIMIT).await {
        for id in ids {
            id.kill_family().await.doing(stop)?;
        }
    }
    Ok(())
}
