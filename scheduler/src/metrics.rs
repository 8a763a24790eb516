//! The metrics of the scheduler. Labels are bounded: queue names and fixed words, never a job.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const CLAIMED: &str = "postroad_jobs_claimed_total";
const RELEASED: &str = "postroad_jobs_released_total";
const PUBLISH_SECONDS: &str = "postroad_publish_confirm_seconds";
const DEAD_LETTERS: &str = "postroad_dead_letters_total";
const PARKED: &str = "postroad_parked_total";
const RULED: &str = "postroad_failed_jobs_ruled_total";
const LOST_PROCESSES: &str = "postroad_processes_lost_total";
const RESCUED: &str = "postroad_jobs_rescued_total";
const EXPIRED: &str = "postroad_jobs_expired_total";
const LEDGER_IMBALANCE: &str = "postroad_ledger_imbalance";
const LEDGER_ALARMS: &str = "postroad_ledger_alarms_total";

/// Says what each metric means. Once, after the recorder is installed.
pub fn describe() {
    describe_counter!(CLAIMED, Unit::Count, "jobs taken into the pipe");
    describe_counter!(
        RELEASED,
        Unit::Count,
        "claims given back because their message did not arrive, by reason"
    );
    describe_histogram!(
        PUBLISH_SECONDS,
        Unit::Seconds,
        "time from writing a batch to its last confirm"
    );
    describe_counter!(
        DEAD_LETTERS,
        Unit::Count,
        "dead letters taken, by the broker's reason"
    );
    describe_counter!(
        PARKED,
        Unit::Count,
        "messages parked because nobody can read them, by reason"
    );
    describe_counter!(RULED, Unit::Count, "failed jobs ruled on, by verdict");
    describe_counter!(LOST_PROCESSES, Unit::Count, "processes called lost");
    describe_counter!(RESCUED, Unit::Count, "jobs rescued, by what they were");
    describe_counter!(
        EXPIRED,
        Unit::Count,
        "jobs that expired before they were dispatched"
    );
    describe_gauge!(
        LEDGER_IMBALANCE,
        Unit::Count,
        "jobs accepted and nowhere, or known and never accepted, over all tenants"
    );
    describe_counter!(
        LEDGER_ALARMS,
        Unit::Count,
        "alarms that the auditor has raised, by check"
    );
}

pub(crate) fn claimed(queue: &str, jobs: usize) {
    counter!(CLAIMED, "queue" => queue.to_owned()).increment(jobs as u64);
}

pub(crate) fn released(reason: &'static str, jobs: usize) {
    counter!(RELEASED, "reason" => reason).increment(jobs as u64);
}

pub(crate) fn publish_seconds(seconds: f64) {
    histogram!(PUBLISH_SECONDS).record(seconds);
}

pub(crate) fn dead_letter(reason: &'static str) {
    counter!(DEAD_LETTERS, "reason" => reason).increment(1);
}

pub(crate) fn parked(reason: &'static str) {
    counter!(PARKED, "reason" => reason).increment(1);
}

pub(crate) fn ruled(verdict: &'static str) {
    counter!(RULED, "verdict" => verdict).increment(1);
}

pub(crate) fn process_lost() {
    counter!(LOST_PROCESSES).increment(1);
}

pub(crate) fn rescued(what: &'static str, jobs: usize) {
    counter!(RESCUED, "what" => what).increment(jobs as u64);
}

pub(crate) fn expired(jobs: usize) {
    counter!(EXPIRED).increment(jobs as u64);
}

pub(crate) fn ledger_imbalance(jobs: u64) {
    gauge!(LEDGER_IMBALANCE).set(jobs as f64);
}

pub(crate) fn ledger_alarm(check: &'static str) {
    counter!(LEDGER_ALARMS, "check" => check).increment(1);
}
