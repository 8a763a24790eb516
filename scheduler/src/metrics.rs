//! The metrics of the scheduler. Labels are bounded: queue names and fixed words, never a job.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use postroad_common::store::{QueueGauges, Ticked};

const CLAIMED: &str = "postroad_jobs_claimed_total";
const MESSAGES: &str = "postroad_messages_published_total";
const RELEASED: &str = "postroad_jobs_released_total";
const PUBLISH_SECONDS: &str = "postroad_publish_confirm_seconds";
const DEAD_LETTERS: &str = "postroad_dead_letters_total";
const PARKED: &str = "postroad_parked_total";
const RULED: &str = "postroad_failed_jobs_ruled_total";
const LOST_PROCESSES: &str = "postroad_processes_lost_total";
const RESCUED: &str = "postroad_jobs_rescued_total";
const EXPIRED: &str = "postroad_jobs_expired_total";
const EXPANDED: &str = "postroad_campaign_jobs_total";
const STOPPED: &str = "postroad_jobs_stopped_total";
const STOPS: &str = "postroad_stops";
const BREAKERS: &str = "postroad_breakers";
const SHED: &str = "postroad_jobs_shed_total";
const TICKS: &str = "postroad_schedule_ticks_total";
const LEDGER_IMBALANCE: &str = "postroad_ledger_imbalance";
const LEDGER_ALARMS: &str = "postroad_ledger_alarms_total";
const JOBS: &str = "postroad_jobs";
const OLDEST_DUE: &str = "postroad_oldest_due_seconds";
const QUEUE_PAUSED: &str = "postroad_queue_paused";
const PROCESSES: &str = "postroad_processes";

/// Says what each metric means. Once, after the recorder is installed.
pub fn describe() {
    describe_counter!(CLAIMED, Unit::Count, "jobs taken into the pipe");
    describe_counter!(
        MESSAGES,
        Unit::Count,
        "messages that carry claimed jobs: under backlog one carries several"
    );
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
    describe_counter!(
        EXPANDED,
        Unit::Count,
        "jobs made of recipients of campaigns"
    );
    describe_counter!(
        STOPPED,
        Unit::Count,
        "jobs that stops were about, by what this scheduler did: set aside at a claim, released, cancelled"
    );
    describe_gauge!(STOPS, Unit::Count, "stops that are in force, by mode");
    describe_counter!(
        SHED,
        Unit::Count,
        "jobs that a full queue has dropped, coalesced or deferred, by priority"
    );
    describe_gauge!(
        BREAKERS,
        Unit::Count,
        "breakers that are not closed, by state"
    );
    describe_counter!(
        TICKS,
        Unit::Count,
        "ticks of recurring schedules, by whether a job was made or the misfire policy passed over it"
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
    describe_gauge!(
        JOBS,
        Unit::Count,
        "unfinished jobs, by queue and state; due ones are counted up to 10000"
    );
    describe_gauge!(
        OLDEST_DUE,
        Unit::Seconds,
        "how long the oldest due job of a queue has been due"
    );
    describe_gauge!(QUEUE_PAUSED, Unit::Count, "1 for a queue that is paused");
    describe_gauge!(
        PROCESSES,
        Unit::Count,
        "processes heard of within their lease, by role"
    );
    begin_at_zero();
}

/// What alerts wait for exists before it happens: a counter that is first seen at 1 has not grown.
fn begin_at_zero() {
    process_lost_by(0);
    ticked(&Ticked::default());
    for reason in ["rejected", "expired", "delivery_limit", "other"] {
        dead_letters(reason, 0);
    }
    for reason in ["message_id", "version", "dispatch", "kind", "body"] {
        parked_by(reason, 0);
    }
    expanded(0);
    for what in ["set_aside", "released", "cancelled"] {
        stopped(what, 0);
    }
    for verdict in ["retry", "dead"] {
        ruled_by(verdict, 0);
    }
    for what in ["claim", "failed", "held"] {
        rescued(what, 0);
    }
    for check in ["conservation", "doubled", "stuck"] {
        ledger_alarms(check, 0);
    }
    for reason in [
        "returned",
        "nacked",
        "unknown",
        "dead_lettered",
        "refused_by_worker",
    ] {
        released(reason, 0);
    }
}

pub(crate) fn ticked(ticked: &Ticked) {
    let counts = [("made", ticked.jobs), ("passed_over", ticked.passed_over)];
    for (outcome, count) in counts {
        let count = u64::try_from(count).unwrap_or(0);
        counter!(TICKS, "outcome" => outcome).increment(count);
    }
}

pub(crate) fn claimed(queue: &str, jobs: usize) {
    counter!(CLAIMED, "queue" => queue.to_owned()).increment(jobs as u64);
}

pub(crate) fn messages(queue: &str, messages: usize) {
    counter!(MESSAGES, "queue" => queue.to_owned()).increment(messages as u64);
}

pub(crate) fn released(reason: &'static str, jobs: usize) {
    counter!(RELEASED, "reason" => reason).increment(jobs as u64);
}

pub(crate) fn publish_seconds(seconds: f64) {
    histogram!(PUBLISH_SECONDS).record(seconds);
}

pub(crate) fn dead_letter(reason: &'static str) {
    dead_letters(reason, 1);
}

fn dead_letters(reason: &'static str, count: u64) {
    counter!(DEAD_LETTERS, "reason" => reason).increment(count);
}

pub(crate) fn parked(reason: &'static str) {
    parked_by(reason, 1);
}

fn parked_by(reason: &'static str, count: u64) {
    counter!(PARKED, "reason" => reason).increment(count);
}

pub(crate) fn ruled(verdict: &'static str) {
    ruled_by(verdict, 1);
}

fn ruled_by(verdict: &'static str, count: u64) {
    counter!(RULED, "verdict" => verdict).increment(count);
}

pub(crate) fn process_lost() {
    process_lost_by(1);
}

fn process_lost_by(count: u64) {
    counter!(LOST_PROCESSES).increment(count);
}

pub(crate) fn rescued(what: &'static str, jobs: usize) {
    counter!(RESCUED, "what" => what).increment(jobs as u64);
}

pub(crate) fn expired(jobs: usize) {
    counter!(EXPIRED).increment(jobs as u64);
}

pub(crate) fn expanded(jobs: i64) {
    counter!(EXPANDED).increment(u64::try_from(jobs).unwrap_or(0));
}

pub(crate) fn stopped(what: &'static str, jobs: usize) {
    counter!(STOPPED, "what" => what).increment(jobs as u64);
}

pub(crate) fn stops(mode: &'static str, count: i64) {
    gauge!(STOPS, "mode" => mode).set(count as f64);
}

pub(crate) fn shed(queue: &str, what: &'static str, priority: Option<i16>, jobs: u64) {
    let priority = match priority {
        Some(0) => "0",
        Some(1) => "1",
        Some(2) => "2",
        Some(_) => "3",
        None => "any",
    };
    counter!(SHED, "queue" => queue.to_owned(), "what" => what, "priority" => priority)
        .increment(jobs);
}

pub(crate) fn breakers(state: &'static str, count: i64) {
    gauge!(BREAKERS, "state" => state).set(count as f64);
}

pub(crate) fn ledger_imbalance(jobs: u64) {
    gauge!(LEDGER_IMBALANCE).set(jobs as f64);
}

pub(crate) fn ledger_alarm(check: &'static str) {
    ledger_alarms(check, 1);
}

fn ledger_alarms(check: &'static str, count: u64) {
    counter!(LEDGER_ALARMS, "check" => check).increment(count);
}

pub(crate) fn queue(at: &QueueGauges) {
    let states = [
        ("due", at.due),
        ("dispatched", at.dispatched),
        ("running", at.running),
        ("failed", at.failed),
        ("held", at.held),
        ("stopped", at.stopped),
    ];
    for (state, jobs) in states {
        gauge!(JOBS, "queue" => at.queue.clone(), "state" => state).set(jobs as f64);
    }
    gauge!(OLDEST_DUE, "queue" => at.queue.clone()).set(at.oldest_due_seconds);
    gauge!(QUEUE_PAUSED, "queue" => at.queue.clone()).set(f64::from(u8::from(at.is_paused)));
}

pub(crate) fn processes(role: &str, count: i64) {
    gauge!(PROCESSES, "role" => role.to_owned()).set(count as f64);
}
