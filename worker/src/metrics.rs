//! The metrics of the worker. Labels are bounded: registered kinds and fixed words, never a job.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use postroad_common::store::Moved;

const ATTEMPTS: &str = "postroad_job_attempts_total";
const ATTEMPT_SECONDS: &str = "postroad_job_attempt_duration_seconds";
const LATENESS: &str = "postroad_job_lateness_seconds";
const OUTCOMES: &str = "postroad_outcomes_total";
const REFUSED: &str = "postroad_deliveries_refused_total";
const REJECTED: &str = "postroad_deliveries_rejected_total";
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

pub(crate) fn redelivered() {
    counter!(REDELIVERED).increment(1);
}
