//! Schedulers and workers: they register, they beat, they are watched, they stop.

use std::time::Duration;

use jiff::Timestamp;
use postroad_common::job::{KindName, KindPolicy, QueueName};
use postroad_common::store::{ProcessId, WatchedProcess};

use super::{ModelStore, Process};

impl ModelStore {
    /// Introduces a process.
    pub fn register(&mut self, lease: Duration) -> ProcessId {
        let number = i64::try_from(self.processes.len()).unwrap_or(i64::MAX - 1);
        let id = ProcessId::from(number + 1);
        let process = Process {
            seen_at: self.now,
            lease,
            is_stopped: false,
            is_lost: false,
        };
        self.processes.insert(id, process);
        id
    }

    /// Writes the policies of the kinds that a worker runs.
    pub fn register_kinds(&mut self, kinds: &[(KindName, KindPolicy)]) {
        self.kinds.extend(kinds.iter().cloned());
    }

    /// Makes sure that the queues exist.
    pub fn register_queues(&mut self, names: &[QueueName]) {
        for name in names {
            self.queue_mut(name);
        }
    }

    /// Says that a process is alive. False: it was called lost, or has stopped.
    pub fn beat(&mut self, id: ProcessId) -> bool {
        let now = self.now;
        match self.processes.get_mut(&id) {
            Some(process) if !process.is_lost && !process.is_stopped => {
                process.seen_at = now;
                true
            }
            _ => false,
        }
    }

    /// Says that a process ends.
    pub fn stop(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.is_stopped = true;
        }
    }

    /// The processes that have neither stopped nor been called lost.
    pub fn watched_processes(&self) -> Vec<WatchedProcess> {
        let is_watched =
            |(_, process): &(&ProcessId, &Process)| !process.is_stopped && !process.is_lost;
        let watched = |(id, process): (&ProcessId, &Process)| WatchedProcess {
            id: *id,
            seen_at: Timestamp::from_millisecond(process.seen_at)
                .expect("the model's clock stays near the present"),
            lease: process.lease,
        };
        self.processes
            .iter()
            .filter(is_watched)
            .map(watched)
            .collect()
    }

    /// Calls a process lost, unless it has been heard of since it was read.
    pub fn call_lost(&mut self, watched: &WatchedProcess) -> bool {
        match self.processes.get_mut(&watched.id) {
            Some(process)
                if process.seen_at == watched.seen_at.as_millisecond()
                    && !process.is_lost
                    && !process.is_stopped =>
            {
                process.is_lost = true;
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_alive(&self, id: ProcessId) -> bool {
        let process = self.processes.get(&id);
        process.is_some_and(|process| !process.is_lost && !process.is_stopped)
    }

    pub(super) fn is_called_lost(&self, id: ProcessId) -> bool {
        self.processes
            .get(&id)
            .is_some_and(|process| process.is_lost)
    }
}
