//! What processes have cost: processor time and memory, by the operating system's own accounting.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context as _;

/// Clock ticks a second in `/proc/<pid>/stat`: `USER_HZ`, which Linux has fixed at 100 for programs.
const TICKS: f64 = 100.0;

/// Who is watched: a name, its process, and whether its children count, those that have ended too.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    pub(crate) with_children: bool,
}

/// Processor seconds so far, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(BTreeMap<&'static str, f64>);

impl Usage {
    pub(crate) fn of(watched: &[Watched]) -> anyhow::Result<Self> {
        let mut usage = BTreeMap::new();
        for one in watched {
            let of_it = match one.with_children {
                true => family(one.pid)?,
                false => Ticks::of(one.pid)?.own,
            };
            *usage.entry(one.name).or_default() += of_it / TICKS;
        }
        Ok(Self(usage))
    }

    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let spent = |(name, now): (&&'static str, &f64)| {
            let before = before.0.get(*name).copied().unwrap_or(0.0);
            (*name, now - before)
        };
        Self(self.0.iter().map(spent).collect())
    }

    pub(crate) fn by_name(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, seconds)| (*name, *seconds))
    }

    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }
}

/// The most memory that a process has ever had in the machine's, in MB.
pub(crate) fn peak_memory(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmHWM"))? * 1024.0 / 1e6)
}

/// That of a process and of its children that run: pages that they share count for each.
pub(crate) fn peak_memory_of_family(pid: u32) -> anyhow::Result<f64> {
    let own = peak_memory(pid)?;
    // One that ends meanwhile had little to do.
    let children = children_of(pid)?.into_iter();
    let of_children = children.filter_map(|(child, _)| peak_memory(child).ok());
    Ok(own + of_children.sum::<f64>())
}

/// Processor seconds that everybody on the machine has used so far, and those that the machine was
/// denied by its host.
pub(crate) fn of_machine() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let ticks = busy_ticks(&text).context("parsing /proc/stat")?;
    Ok(ticks / TICKS)
}

/// From the first line, `cpu user nice system idle iowait irq softirq steal …`; see proc(5).
fn busy_ticks(text: &str) -> Option<f64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let (idle, iowait) = (fields.get(3)?, fields.get(4)?);
    Some(fields.iter().take(8).sum::<f64>() - idle - iowait)
}

/// Processor seconds of this process so far.
pub(crate) fn of_self() -> anyhow::Result<f64> {
    Ok(Ticks::of(std::process::id())?.own / TICKS)
}

/// The times in `/proc/<pid>/stat`; see proc(5).
struct Ticks {
    parent: u32,
    own: f64,
    /// Of children that have ended and been waited for.
    ended: f64,
}

impl Ticks {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read(&path).with_context(|| format!("reading {path}"))?;
        Self::parse(&String::from_utf8_lossy(&text)).with_context(|| format!("parsing {path}"))
    }

    /// The name, the second field, may hold spaces and parentheses; nothing after it does.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |nth: usize| fields.get(nth)?.parse::<f64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: ticks(11)? + ticks(12)?,
            ended: ticks(13)? + ticks(14)?,
        })
    }
}

/// Ticks of a process, of its children that run, and of those that have ended.
fn family(pid: u32) -> anyhow::Result<f64> {
    let parent = Ticks::of(pid)?;
    // One that ends meanwhile is in the next look's `ended`.
    let children = children_of(pid)?.into_iter().map(|(_, child)| child.own);
    Ok(parent.own + parent.ended + children.sum::<f64>())
}

fn children_of(pid: u32) -> anyhow::Result<Vec<(u32, Ticks)>> {
    let everyone = fs::read_dir("/proc").context("reading /proc")?.flatten();
    let pids = everyone.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ticks = pids.filter_map(|child| Some((child, Ticks::of(child).ok()?)));
    Ok(ticks.filter(|(_, of)| of.parent == pid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_parentheses() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4 1 0 0 0 20 10 5 6 20 0 1 0 4711 1000 20";
        let ticks = Ticks::parse(line).expect("a well-formed line");
        assert_eq!((ticks.parent, ticks.own, ticks.ended), (3, 30.0, 11.0));
    }

    #[test]
    fn a_machine_is_busy_with_everything_but_waiting() {
        let text = "cpu  10 1 5 1000 100 2 3 4 50 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(text), Some(25.0));
    }
}
