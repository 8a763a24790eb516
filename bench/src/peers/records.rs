//! What programs write down: 16 bytes a job, its number and the second, as two doubles.
//!
//! A handler does this with one write and nothing else. It takes a microsecond or three, which
//! every peer pays.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::table::quantile;

const BYTES: usize = 16;
/// Handlers write to `started-PID`, the one who enqueues to `sent`.
const STARTED: &str = "started-";
const SENT: &str = "sent";

/// How many starts have been written down.
pub(super) fn count(dir: &Path) -> anyhow::Result<usize> {
    let mut bytes = 0;
    for file in started(dir)? {
        bytes += fs::metadata(&file)?.len();
    }
    Ok(usize::try_from(bytes)? / BYTES)
}

/// Starts a second, of the jobs that are numbered from 0 to `jobs`.
pub(super) fn rate(dir: &Path, jobs: usize) -> anyhow::Result<f64> {
    let starts = starts(dir)?;
    let of_backlog = starts.iter().filter(|(seq, _)| **seq < jobs as u64);
    let mut seconds: Vec<f64> = of_backlog.map(|(_, second)| *second).collect();
    ensure!(
        seconds.len() == jobs,
        "{} of {jobs} jobs have started, in {} starts",
        seconds.len(),
        count(dir)?
    );
    Ok(rate_of(&mut seconds))
}

/// Between the first and the last, so that nobody's way to the first one counts.
fn rate_of(seconds: &mut [f64]) -> f64 {
    let (first, last) = (quantile(seconds, 0.0), quantile(seconds, 1.0));
    (seconds.len() as f64 - 1.0) / (last - first)
}

/// Milliseconds from right before each job was enqueued to its start.
pub(super) fn waits(dir: &Path) -> anyhow::Result<Vec<f64>> {
    let starts = starts(dir)?;
    let sent = read(&dir.join(SENT))?;
    let wait = |(seq, sent): &(u64, f64)| {
        let started = starts.get(seq);
        let started = started.with_context(|| format!("job {seq} has not started"))?;
        Ok((started - sent) * 1000.0)
    };
    sent.iter().map(wait).collect()
}

/// The first start of each job.
fn starts(dir: &Path) -> anyhow::Result<HashMap<u64, f64>> {
    let mut starts = HashMap::new();
    for file in started(dir)? {
        for (seq, second) in read(&file)? {
            let first = starts.entry(seq).or_insert(second);
            *first = first.min(second);
        }
    }
    Ok(starts)
}

fn started(dir: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let is_of_starts = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(STARTED))
    };
    Ok(paths.filter(is_of_starts).collect())
}

/// One that is only half written is not there yet.
fn read(file: &Path) -> anyhow::Result<Vec<(u64, f64)>> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let (records, _) = bytes.as_chunks::<BYTES>();
    let double = |bytes: &[u8]| bytes.try_into().map_or(f64::NAN, f64::from_le_bytes);
    let record = |record: &[u8; BYTES]| (double(&record[..8]) as u64, double(&record[8..]));
    Ok(records.iter().map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, records: &[(f64, f64)]) {
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|(seq, second)| [seq.to_le_bytes(), second.to_le_bytes()].concat())
            .collect();
        fs::write(dir.join(name), bytes).expect("a file");
    }

    #[test]
    fn the_rate_is_from_the_first_start_to_the_last_over_all_processes() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), "started-1", &[(0.0, 100.0), (2.0, 101.0)]);
        // One of the jobs that come after the backlog does not count.
        write(dir.path(), "started-2", &[(1.0, 100.5), (3.0, 109.0)]);
        assert_eq!(rate(dir.path(), 3).expect("three have started"), 2.0);
    }

    #[test]
    fn a_job_that_is_missing_is_not_made_up_for_by_one_that_started_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), "started-1", &[(0.0, 100.0), (0.0, 101.0)]);
        assert_eq!(count(dir.path()).expect("a count"), 2);
        let error = rate(dir.path(), 2).expect_err("one is missing");
        assert_eq!(error.to_string(), "1 of 2 jobs have started, in 2 starts");
    }

    #[test]
    fn waits_are_from_the_enqueue_to_the_first_start() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), "sent", &[(7.0, 100.0)]);
        write(dir.path(), "started-1", &[(7.0, 100.5), (7.0, 101.0)]);
        assert_eq!(waits(dir.path()).expect("it has started"), [500.0]);
    }
}
