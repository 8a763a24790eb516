//! The metrics of the api. Labels are bounded: methods, routes as they are written in the code, and
//! statuses; never a tenant, a job or a path that somebody made up.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

const REQUEST_SECONDS: &str = "http_request_duration_seconds";
const ENQUEUED: &str = "postroad_jobs_enqueued_total";
const REJECTED: &str = "postroad_jobs_rejected_total";
const BATCH_SIZE: &str = "postroad_enqueue_batch_jobs";
const ANNOUNCEMENTS_READ: &str = "postroad_announcement_sets_read_total";
const BAD_TOKENS: &str = "postroad_bad_tokens_total";

/// Says what each metric means. Once, after the recorder is installed.
pub(crate) fn describe() {
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "time from the head of a request to the head of its answer, by method, route and status"
    );
    describe_counter!(
        ENQUEUED,
        Unit::Count,
        "jobs taken, by whether they were new or there before"
    );
    describe_counter!(REJECTED, Unit::Count, "jobs refused, by reason");
    describe_histogram!(
        BATCH_SIZE,
        Unit::Count,
        "jobs written to the database in one statement"
    );
    describe_counter!(
        ANNOUNCEMENTS_READ,
        Unit::Count,
        "sets of a tenant's announcements read from the database, as they were new or not kept any more"
    );
    describe_counter!(
        BAD_TOKENS,
        Unit::Count,
        "requests without a token that is good, by reason"
    );
}

pub(crate) fn request(method: &Method, route: &str, status: StatusCode, elapsed: Duration) {
    // A method is the client's to make up, too.
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "PATCH" | "PUT" | "DELETE" | "HEAD" | "OPTIONS") => known,
        _ => "other",
    };
    histogram!(
        REQUEST_SECONDS,
        "method" => method.to_owned(), "route" => route.to_owned(), "status" => status.as_str().to_owned()
    )
    .record(elapsed.as_secs_f64());
}

pub(crate) fn enqueued(new: u64, before: u64) {
    counter!(ENQUEUED, "was" => "new").increment(new);
    counter!(ENQUEUED, "was" => "there").increment(before);
}

pub(crate) fn rejected(reason: &'static str, jobs: u64) {
    counter!(REJECTED, "reason" => reason).increment(jobs);
}

pub(crate) fn batch(jobs: usize) {
    histogram!(BATCH_SIZE).record(jobs as f64);
}

pub(crate) fn announcements_read() {
    counter!(ANNOUNCEMENTS_READ).increment(1);
}

pub(crate) fn bad_token(reason: &'static str) {
    counter!(BAD_TOKENS, "reason" => reason).increment(1);
}
