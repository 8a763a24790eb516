//! What `/proc` knows: who runs, since when, and whose child it is.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(20);

/// How long the kernel may take to do what a signal says; a process that waits for its disk hears
/// of nothing.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);

/// How long a postmaster may take to end its backends.
const FAMILY_END_LIMIT: Duration = Duration::from_secs(30);

/// A process for good: pids come back, but never with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: Pid,
    /// Clock ticks since boot.
    pub(crate) started: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        Stat::read(pid).map(|stat| Self {
            pid,
            started: stat.started,
        })
    }

    /// Whether it runs. A zombie does not: in a container nobody may ever reap it.
    pub(crate) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_dead())
    }

    /// Signals its process group, of which it is the leader. A process that is gone is no error.
    pub(crate) fn signal_group(self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        gone_is_fine(kill_process_group(self.pid, signal))
    }

    /// Kills it and all its descendants, also those that left its group, as Postgres backends do.
    ///
    /// It is stopped first, so that it cannot start another child while its children are counted.
    pub(crate) async fn kill_family(self) -> io::Result<()> {
        self.signal_group(Signal::STOP)?;
        let family = family_of(self);
        for member in &family {
            gone_is_fine(kill_process(member.pid, Signal::KILL))?;
        }
        self.signal_group(Signal::KILL)?;
        wait_for_end(&family, SIGNAL_LIMIT).await;
        Ok(())
    }

    /// Stops it and all its descendants, in whatever groups they are.
    ///
    /// A child that was forked while its parent was being stopped is found by the next look.
    pub(crate) async fn pause_family(self) -> io::Result<()> {
        signal_until(Signal::STOP, || {
            let mut moving = family_of(self);
            moving.retain(|member| member.moves());
            moving
        })
        .await
    }

    /// Lets it and all its descendants go on, children first: a parent that wakes finds them so.
    pub(crate) async fn resume_family(self) -> io::Result<()> {
        signal_until(Signal::CONT, || {
            let mut stopped = family_of(self);
            stopped.retain(|member| member.is_stopped());
            stopped.reverse();
            stopped
        })
        .await
    }

    /// Kills one descendant, and waits until all that there were have ended.
    pub(crate) async fn kill_member(self, pid: u32) -> io::Result<()> {
        let mut members = family_of(self);
        members.retain(|member| *member != self);
        let is_it = |member: &&Self| member.pid.as_raw_pid().unsigned_abs() == pid;
        let member = members.iter().find(is_it);
        let member = member.ok_or_else(|| io::Error::other("it is none of its processes"))?;
        gone_is_fine(kill_process(member.pid, Signal::KILL))?;
        if wait_for_end(&members, FAMILY_END_LIMIT).await {
            return Ok(());
        }
        let what = format!("others still run after {FAMILY_END_LIMIT:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }

    fn moves(self) -> bool {
        self.is_alive() && !self.is_stopped()
    }

    fn is_stopped(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.is_stopped())
    }
}

/// Signals whomever a look finds, until it finds nobody.
async fn signal_until(signal: Signal, look: impl Fn() -> Vec<ProcessId>) -> io::Result<()> {
    let deadline = Instant::now() + SIGNAL_LIMIT;
    loop {
        let found = look();
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = format!("{found:?} did not hear {signal:?} within {SIGNAL_LIMIT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        for process in found {
            gone_is_fine(kill_process(process.pid, signal))?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until none of them runs; says whether that came true within the limit.
pub(crate) async fn wait_for_end(processes: &[ProcessId], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while processes.iter().any(|process| process.is_alive()) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

fn gone_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn family_of(root: ProcessId) -> Vec<ProcessId> {
    let everyone = everyone();
    let mut family: Vec<ProcessId> = root.is_alive().then_some(root).into_iter().collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        let children = everyone
            .iter()
            .filter(|(_, stat)| stat.parent == parent.pid.as_raw_pid());
        family.extend(children.map(|(pid, stat)| ProcessId {
            pid: *pid,
            started: stat.started,
        }));
        next += 1;
    }
    family
}

fn everyone() -> Vec<(Pid, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter_map(|pid| Some((pid, Stat::read(pid)?)))
        .collect()
}

/// The fields of `/proc/<pid>/stat` that matter here; see proc(5).
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Self> {
        let text = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// The name, the second field, may hold spaces and parentheses; nothing after it does.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4 1 0 0 0 2 1 0 0 20 0 1 0 4711 1000 20";
        let stat = Stat::parse(line).expect("a well-formed line");
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 3, 4711));
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let this = ProcessId::of(rustix::process::getpid()).expect("this process runs");
        assert!(this.is_alive());
        assert!(
            !ProcessId {
                started: this.started + 1,
                ..this
            }
            .is_alive()
        );
    }
}
