//! The metrics of the worker. Labels are bounded: registered kinds and fixed words, never a job.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use postroad_common::job::ProviderFailure;
use postroad_common::store::Moved;

const ATTEMPTS: &str = "postroad_job_attempts_total";
const ATTEMPT_SECONDS: &str = "postroad_job_attempt_duration_seconds";
const LATENESS: &str = "postroad_job_lateness_seconds";
const OUTCOMES: &str = "postroad_outcomes_total";
const REFUSED: &str = "postroad_deliveries_refused_total";
const REJECTED: &str = "postroad_deliveries_rejected_total";
const PROVIDER_FAILURES: &str = "postroad_provider_failures_total";
const PUT_OFF: &str = "postroad_jobs_put_off_total";
const DESTINATIONS: &str = "postroad_destinations";
const REDELIVERED: &str = "postroad_redelivered_total";
const BREAKERS: &str = "postroad_breakers_moved_total";

/// Says what each metric means. Once, after the recorder is installed.
pub(crate) fn describe() {
    describe_counter!(
        ATTEMPTS,
        Unit::Count,
        "attempts, by kind and how they ended"
    );
    describe_histogram!(
        ATTEMPT_SECONDS,
        Unit::Seconds,
        "duration of attempts, by kind"
    );
    describe_histogram!(
        LATENESS,
        Unit::Seconds,
        "how long jobs had been due when an attempt started"
    );
    describe_counter!(OUTCOMES, Unit::Count, "where outcomes left their jobs");
    describe_counter!(
        REFUSED,
        Unit::Count,
        "deliveries the start gate refused, by reason"
    );
    describe_counter!(
        REJECTED,
        Unit::Count,
        "deliveries rejected unread, by reason"
    );
    describe_counter!(
        PROVIDER_FAILURES,
        Unit::Count,
        "attempts that failed by their provider, by kind and how"
    );
    describe_counter!(
        PUT_OFF,
        Unit::Count,
        "jobs sent back to the schedule because their destination takes no more, by reason"
    );
    describe_gauge!(
        DESTINATIONS,
        "destinations that are known, that jobs were put off for, and that asked for a pause"
    );
    describe_counter!(
        REDELIVERED,
        Unit::Count,
        "deliveries the broker had made before"
    );
    describe_counter!(
        BREAKERS,
        Unit::Count,
        "breakers that this worker has opened or closed"
    );
}

pub(crate) fn attempt(kind: &str, ended: &'static str, late: Duration, took: Duration) {
    counter!(ATTEMPTS, "kind" => kind.to_owned(), "outcome" => ended).increment(1);
    histogram!(ATTEMPT_SECONDS, "kind" => kind.to_owned()).record(took.as_secs_f64());
    histogram!(LATENESS).record(late.as_secs_f64());
}

pub(crate) fn moved(moved: Moved) {
    let state = match moved {
        Moved::Completed => "completed",
        Moved::Failed => "failed",
        Moved::Held => "held",
        Moved::Scheduled => "scheduled",
        Moved::Superseded => "superseded",
    };
    counter!(OUTCOMES, "state" => state).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

pub(crate) fn rejected(reason: &'static str) {
    counter!(REJECTED, "reason" => reason).increment(1);
}

pub(crate) fn breaker(what: &'static str) {
    counter!(BREAKERS, "what" => what).increment(1);
}

pub(crate) fn provider_failed(kind: &str, failure: ProviderFailure) {
    counter!(PROVIDER_FAILURES, "kind" => kind.to_owned(), "failure" => failure.as_str())
        .increment(1);
}

pub(crate) fn put_off(reason: &'static str) {
    counter!(PUT_OFF, "reason" => reason).increment(1);
}

pub(crate) fn destinations(state: &'static str, count: usize) {
    gauge!(DESTINATIONS, "state" => state).set(count as f64);
}

pub(crate) fn redelivered() {
    counter!(REDELIVERED).increment(1);
}
