//! Every place where a process may die between two systems, and what must hold afterwards.
//!
//! A job's *calls* are the effective requests that its provider may see. A death repeats an effect
//! only where its record was still to be written: a worker has other jobs under way wherever it
//! dies, a scheduler has none.

/// Which program dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `postroad-scheduler`.
    Scheduler,
    /// `postroad-worker`.
    Worker,
    /// `postroad migrate`.
    Migrate,
    /// `postroad enqueue`.
    Enqueue,
    /// `postroad-api`.
    Api,
}

/// What has to happen so that the point is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Jobs.
    Nothing,
    /// Attempts that fail.
    Failures,
    /// Failures whose dead letters are lost.
    LostLetters,
    /// Messages that the broker refuses.
    FullQueues,
    /// Destinations that take fewer calls than there are jobs.
    FullDestinations,
    /// Another worker that dies, or a scheduler.
    LostPrograms,
    /// Being asked to stop.
    Sigterm,
    /// Recurring schedules.
    Schedules,
    /// A campaign.
    Campaigns,
}

/// One crash point.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// As in `failpoint!`.
    pub name: &'static str,
    /// Who passes it.
    pub program: Program,
    /// When.
    pub needs: Needs,
    /// What has been done and what has not, when it dies here.
    pub says: &'static str,
    /// Whether an effect may have taken place, of this job or another, whose record dies with the
    /// process.
    pub may_repeat: bool,
}

const fn point(
    name: &'static str,
    program: Program,
    needs: Needs,
    says: &'static str,
    may_repeat: bool,
) -> Point {
    Point {
        name,
        program,
        needs,
        says,
        may_repeat,
    }
}

/// All of them, in the order of a job's life.
pub const POINTS: &[Point] = &[
    point(
        "migrate.locked",
        Program::Migrate,
        Needs::Nothing,
        "locked; nothing applied",
        false,
    ),
    point(
        "migrate.applied",
        Program::Migrate,
        Needs::Nothing,
        "schema applied; broker not told",
        false,
    ),
    point(
        "topology.queue_declared",
        Program::Migrate,
        Needs::Nothing,
        "some queues declared",
        false,
    ),
    point(
        "enqueue.committed",
        Program::Enqueue,
        Needs::Nothing,
        "a batch committed; its client not told",
        false,
    ),
    point(
        "api.committed",
        Program::Api,
        Needs::Nothing,
        "jobs committed; their clients not told",
        false,
    ),
    point(
        "ticker.before_commit",
        Program::Scheduler,
        Needs::Schedules,
        "a tick and its job written; not committed",
        false,
    ),
    point(
        "ticker.committed",
        Program::Scheduler,
        Needs::Schedules,
        "a tick and its job committed; the dispatcher not woken",
        false,
    ),
    point(
        "expander.before_commit",
        Program::Scheduler,
        Needs::Campaigns,
        "jobs of a campaign and how far it is written; not committed",
        false,
    ),
    point(
        "expander.committed",
        Program::Scheduler,
        Needs::Campaigns,
        "jobs of a campaign committed; the dispatcher not woken",
        false,
    ),
    point(
        "claim.before_commit",
        Program::Scheduler,
        Needs::Nothing,
        "jobs claimed and locked; not committed",
        false,
    ),
    point(
        "claim.committed",
        Program::Scheduler,
        Needs::Nothing,
        "jobs claimed; nothing published",
        false,
    ),
    point(
        "publisher.written",
        Program::Scheduler,
        Needs::Nothing,
        "messages written; no confirm seen",
        false,
    ),
    point(
        "publisher.one_confirmed",
        Program::Scheduler,
        Needs::Nothing,
        "a part of a batch confirmed",
        false,
    ),
    point(
        "dispatcher.answered",
        Program::Scheduler,
        Needs::Nothing,
        "all confirms seen; nothing follows from them",
        false,
    ),
    point(
        "dispatcher.before_release",
        Program::Scheduler,
        Needs::FullQueues,
        "refused by the broker; not released",
        false,
    ),
    point(
        "consumer.delivered",
        Program::Worker,
        Needs::Nothing,
        "delivered; not asked for at the gate",
        true,
    ),
    point(
        "releaser.before_release",
        Program::Worker,
        Needs::FullDestinations,
        "jobs to be sent back; nothing written",
        true,
    ),
    point(
        "releaser.committed",
        Program::Worker,
        Needs::FullDestinations,
        "jobs sent back and committed; not settled",
        true,
    ),
    point(
        "gate.before_asking",
        Program::Worker,
        Needs::Nothing,
        "a batch collected; the gate not asked",
        true,
    ),
    point(
        "gate.granted",
        Program::Worker,
        Needs::Nothing,
        "started in Postgres; not called",
        true,
    ),
    point(
        "executor.ended",
        Program::Worker,
        Needs::Nothing,
        "the provider has answered; nothing recorded",
        true,
    ),
    point(
        "finisher.between_statements",
        Program::Worker,
        Needs::Failures,
        "successes recorded; failures of the batch not",
        true,
    ),
    point(
        "finisher.committed",
        Program::Worker,
        Needs::Failures,
        "outcomes recorded; not settled",
        true,
    ),
    point(
        "settler.written",
        Program::Worker,
        Needs::Nothing,
        "acks written; perhaps not flushed",
        true,
    ),
    point(
        "dead_letters.received",
        Program::Scheduler,
        Needs::Failures,
        "letters received; nothing ruled",
        false,
    ),
    point(
        "dead_letters.ruled",
        Program::Scheduler,
        Needs::Failures,
        "ruled and committed; letters not acked",
        false,
    ),
    point(
        "dead_letters.before_ack",
        Program::Scheduler,
        Needs::Failures,
        "ruled, parked and confirmed; letters not acked",
        false,
    ),
    point(
        "retrier.decided",
        Program::Scheduler,
        Needs::LostLetters,
        "decided; nothing written",
        false,
    ),
    point(
        "retrier.between_statements",
        Program::Scheduler,
        Needs::Failures,
        "retries scheduled; burials not",
        false,
    ),
    point(
        "watcher.called_lost",
        Program::Scheduler,
        Needs::LostPrograms,
        "a program called lost; its jobs still its own",
        true,
    ),
    point(
        "rescuer.released",
        Program::Scheduler,
        Needs::LostPrograms,
        "lost claims released; lost runs not ended",
        true,
    ),
    point(
        "rescuer.ended",
        Program::Scheduler,
        Needs::LostPrograms,
        "lost runs ended; nobody woken",
        true,
    ),
    point(
        "membership.registered",
        Program::Worker,
        Needs::Nothing,
        "registered; does nothing yet",
        false,
    ),
    point(
        "membership.before_leaving",
        Program::Worker,
        Needs::Sigterm,
        "everything written; not signed off",
        false,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }

    #[test]
    fn every_failpoint_of_the_programs_has_its_row_and_every_row_its_failpoint() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        for package in ["api", "cli", "common", "migrations", "scheduler", "worker"] {
            sources(&root.join(package).join("src"), &mut files);
        }
        let mut found = BTreeSet::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            for rest in text.split("failpoint!(\"").skip(1) {
                found.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
        let rows: BTreeSet<String> = POINTS.iter().map(|point| point.name.to_owned()).collect();
        assert_eq!(found, rows);
        assert_eq!(rows.len(), POINTS.len(), "a point has two rows");
    }
}
