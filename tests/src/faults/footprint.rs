//! What a process takes of the machine, to see what it never gives back.

use std::fs;

use anyhow::Context as _;

/// What a process holds at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Memory that is in the machine's, not only promised.
    pub rss_bytes: u64,
    /// Open files, sockets included.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
}

impl Footprint {
    /// That of a process that runs; see proc(5).
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.and_then(|rest| rest.split_whitespace().next());
            let number = digits.and_then(|digits| digits.parse::<u64>().ok());
            number.with_context(|| format!("{path} has no {name}"))
        };
        let path = format!("/proc/{pid}/fd");
        let fds = fs::read_dir(&path).with_context(|| format!("reading {path}"))?;
        Ok(Self {
            rss_bytes: number("VmRSS:")? * 1024,
            fds: fds.count(),
            threads: usize::try_from(number("Threads:")?)?,
        })
    }
}
