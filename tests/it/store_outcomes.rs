//! How attempts end, what is remembered of them, and what follows a failed one.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use postroad_common::job::retry::{Verdict, decide};
use postroad_common::job::{JobId, KindPolicy, NewJob, OnLost};
use postroad_common::store::{
    COMPLETE_IN_TRANSACTION, Ending, FailedJob, Fenced, GateVerdict, Moved, Outcome, Resolution,
    Ruling,
};
use tokio_postgres::Transaction;

use crate::store_fixture::{ALL, Room, failed, job, job_to_hold, unknown};

#[tokio::test]
async fn a_completed_job_keeps_its_result_and_not_its_args() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    let result = Some(r#"{"sent" : true}"#.to_owned());

    assert_eq!(
        room.finish(job, Ending::Completed(result)).await,
        Moved::Completed
    );

    let sql = "select state::text, result, args is null, attempt, worker_id is not null,
                  started_at is not null, finished_at >= started_at
               from postroad.jobs where id = $1";
    let row = room.sql.query_one(sql, &[job.id.as_uuid()]).await.unwrap();
    assert_eq!(
        (row.get(0), row.get(1)),
        ("completed", r#"{"sent" : true}"#)
    );
    assert_eq!(row.get::<_, i32>(3), 1);
    assert!([2, 4, 5, 6].into_iter().all(|n| row.get(n)), "{row:?}");
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        0
    );
}

#[tokio::test]
async fn an_outcome_that_is_written_twice_counts_once() {
    let room = Room::open().await;
    for ending in [
        Ending::Completed(None),
        failed(),
        unknown(),
        Ending::Interrupted,
    ] {
        let job = room.running(job_to_hold()).await;

        assert_ne!(room.finish(job, ending.clone()).await, Moved::Superseded);
        let state = room.state(job.id).await;
        assert_eq!(
            room.finish(job, ending.clone()).await,
            Moved::Superseded,
            "{ending:?}"
        );
        assert_eq!(room.state(job.id).await, state);
        assert!(errors_of(&room, job.id).await.len() <= 1);
    }
}

#[tokio::test]
async fn a_batch_of_outcomes_is_answered_in_its_order() {
    let room = Room::open().await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(room.running(job_to_hold()).await);
    }
    let stale = Fenced {
        dispatch: 7,
        ..jobs[5]
    };
    let ends = [
        (jobs[3], unknown(), Moved::Held),
        (jobs[1], Ending::Completed(None), Moved::Completed),
        (jobs[4], Ending::Snoozed(Duration::ZERO), Moved::Scheduled),
        (stale, Ending::Completed(None), Moved::Superseded),
        (jobs[0], failed(), Moved::Failed),
        (jobs[2], Ending::Completed(None), Moved::Completed),
    ];
    let outcome = |(job, ending, _): &(Fenced, Ending, Moved)| Outcome {
        job: *job,
        ending: ending.clone(),
    };

    let moved = room
        .store
        .finish(&ends.each_ref().map(outcome))
        .await
        .unwrap();

    assert_eq!(moved, ends.map(|(.., moved)| moved));
    assert_eq!(room.state(jobs[5].id).await, "running");
}

#[tokio::test]
async fn a_success_that_comes_after_the_rescue_is_taken_while_nobody_has_the_job() {
    let room = Room::open().await;
    let failed = room.running(job()).await;
    let held = room.running(job_to_hold()).await;
    let retried = room.running(job()).await;
    room.call_lost(room.worker).await;
    room.store.end_lost_runs(ALL).await.unwrap();
    rule(&room, retried, Verdict::RetryAfter(Duration::ZERO)).await;
    assert_eq!(room.state(retried.id).await, "scheduled");

    for late in [failed, held, retried] {
        let state = room.state(late.id).await;
        let moved = room.finish(late, Ending::Completed(None)).await;
        assert_eq!(moved, Moved::Completed, "{state}");
        assert_eq!(room.state(late.id).await, "completed");
    }
}

#[tokio::test]
async fn a_success_that_comes_after_another_claim_is_refused() {
    let room = Room::open().await;
    let late = room.running(job()).await;
    room.call_lost(room.worker).await;
    room.store.end_lost_runs(ALL).await.unwrap();
    rule(&room, late, Verdict::RetryAfter(Duration::ZERO)).await;
    let [claimed] = room.claim_all().await[..] else {
        panic!("one job is due")
    };

    assert_eq!(
        room.finish(late, Ending::Completed(None)).await,
        Moved::Superseded
    );
    assert_eq!(room.finish(late, failed()).await, Moved::Superseded);
    assert_eq!(room.state(late.id).await, "dispatched");
    let worker = room.another_worker().await;
    let start = room.start_by(worker, claimed).await;
    assert_eq!(start, GateVerdict::Start { attempt: 2 });
    assert_eq!(
        room.finish(late, Ending::Completed(None)).await,
        Moved::Superseded
    );
    assert_eq!(room.state(late.id).await, "running");
}

/// Whoever says so has not asked the gate.
#[tokio::test]
async fn a_success_of_a_job_that_never_started_is_refused() {
    let room = Room::open().await;
    let new = room.enqueue(job()).await;
    let unclaimed = Fenced {
        id: new,
        dispatch: 0,
    };
    assert_eq!(
        room.finish(unclaimed, Ending::Completed(None)).await,
        Moved::Superseded
    );
    assert_eq!(room.state(new).await, "scheduled");
}

#[tokio::test]
async fn a_late_failure_ends_the_hold_and_a_late_doubt_does_not() {
    let room = Room::open().await;
    let job = room.running(job_to_hold()).await;
    room.call_lost(room.worker).await;
    room.store.end_lost_runs(ALL).await.unwrap();

    for doubt in [
        unknown(),
        Ending::Interrupted,
        Ending::Snoozed(Duration::ZERO),
    ] {
        assert_eq!(room.finish(job, doubt).await, Moved::Superseded);
        assert_eq!(room.state(job.id).await, "held");
    }
    assert_eq!(room.finish(job, failed()).await, Moved::Failed);
    assert_eq!(room.state(job.id).await, "failed");
    assert_eq!(errors_of(&room, job.id).await, ["worker_lost", "refused"]);
}

#[tokio::test]
async fn error_texts_are_stored_without_nul_and_clipped() {
    let room = Room::open().await;
    for (given, stored) in [
        ("a\0b".to_owned(), "a\u{fffd}b".to_owned()),
        ("x".repeat(10_000), "x".repeat(4096)),
        ("ä".repeat(5_000), "ä".repeat(2048)),
        (
            format!("x{}", "ä".repeat(5_000)),
            format!("x{}", "ä".repeat(2047)),
        ),
        (String::new(), String::new()),
    ] {
        let job = room.running(job()).await;
        let ending = Ending::Failed {
            fatal: false,
            retry_after: None,
            code: "refused",
            message: given,
        };
        assert_eq!(room.finish(job, ending).await, Moved::Failed);
        let sql = "select message from postroad.attempt_error where job_id = $1";
        let row = room.sql.query_one(sql, &[job.id.as_uuid()]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), stored);
    }
}

#[tokio::test]
async fn a_snoozed_job_comes_back_when_told_and_is_not_charged() {
    let room = Room::open().await;
    let job = room.running(job()).await;

    let snoozed = room
        .finish(job, Ending::Snoozed(Duration::from_secs(600)))
        .await;

    assert_eq!(snoozed, Moved::Scheduled);
    assert_eq!(room.look::<i32>(job.id, "attempt").await, 0);
    assert!((540.0..=600.0).contains(&wait(&room, job.id).await));
    assert!(errors_of(&room, job.id).await.is_empty());
}

#[tokio::test]
async fn an_interrupted_job_is_due_at_once_and_is_not_charged() {
    let room = Room::open().await;
    let job = room.running(job()).await;

    assert_eq!(
        room.finish(job, Ending::Interrupted).await,
        Moved::Scheduled
    );

    assert_eq!(room.look::<i32>(job.id, "attempt").await, 0);
    assert_eq!(errors_of(&room, job.id).await, ["interrupted"]);
    let [claimed] = room.claim_all().await[..] else {
        panic!("it is due")
    };
    assert_eq!(room.start(claimed).await, GateVerdict::Start { attempt: 1 });
}

#[tokio::test]
async fn every_attempt_that_did_not_work_is_remembered() {
    let room = Room::open().await;
    let mut job = room.running(job()).await;
    for attempt in 1..=3 {
        room.finish(job, failed()).await;
        rule(&room, job, Verdict::RetryAfter(Duration::ZERO)).await;
        job = room.claim_all().await[0];
        let start = room.start(job).await;
        assert_eq!(
            start,
            GateVerdict::Start {
                attempt: attempt + 1
            }
        );
    }

    let sql = "select string_agg(format('%s %s %s', attempt, code, message), ', ' order by attempt)
               from postroad.attempt_error where worker_id is not null";
    let text = "1 refused the other side refused, 2 refused the other side refused, \
                3 refused the other side refused";
    assert_eq!(room.value::<String>(sql).await, text);
}

#[tokio::test]
async fn the_retrier_reads_the_policy_of_the_kind_and_what_the_attempt_said() {
    let room = Room::open().await;
    let policy = KindPolicy {
        on_lost: OnLost::Retry,
        max_attempts: 7,
        backoff_base: Duration::from_millis(1500),
        backoff_cap: Duration::from_secs(90),
        ..KindPolicy::default()
    };
    room.store
        .register_kinds(&[("echo".parse().unwrap(), policy)])
        .await
        .unwrap();
    let expires_at = Some(Timestamp::now() + 1.hour());
    let job = room
        .running(NewJob {
            expires_at,
            ..job()
        })
        .await;
    room.finish(job, told_to_wait(Duration::from_millis(2500)))
        .await;

    let read = failed_job(&room, job).await;

    assert_eq!(read.job, job);
    assert_eq!((read.failed.attempt, read.failed.max_attempts), (1, 7));
    assert_eq!(read.failed.retry_after, Some(Duration::from_millis(2500)));
    assert_eq!(read.failed.backoff_base, Duration::from_millis(1500));
    assert_eq!(read.failed.backoff_cap, Duration::from_secs(90));
    let left = read.failed.expires_in.unwrap().as_secs();
    assert!(
        (3540..=3600).contains(&left) && !read.failed.fatal,
        "{read:?}"
    );
}

#[tokio::test]
async fn a_retry_waits_as_long_as_ruled_and_forgets_the_failure() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    room.finish(job, told_to_wait(Duration::from_secs(600)))
        .await;

    let verdict = decide(&failed_job(&room, job).await.failed, 0.0);
    assert_eq!(verdict, Verdict::RetryAfter(Duration::from_secs(600)));
    rule(&room, job, verdict).await;

    assert_eq!(room.state(job.id).await, "scheduled");
    assert!((540.0..=600.0).contains(&wait(&room, job.id).await));
    assert_eq!(room.look::<i32>(job.id, "attempt").await, 1);
    let sql = "select retry_after is null and not fatal from postroad.job";
    assert!(room.value::<bool>(sql).await);
}

#[tokio::test]
async fn an_exhausted_or_fatal_job_is_dead_with_its_args_and_its_reason() {
    let room = Room::open().await;
    let last = NewJob {
        max_attempts: Some(1),
        ..job()
    };
    let exhausted = room.running(last).await;
    room.finish(exhausted, failed()).await;
    let fatal = room.running(job()).await;
    let ending = Ending::Failed {
        fatal: true,
        retry_after: None,
        code: "gone",
        message: "gone".to_owned(),
    };
    room.finish(fatal, ending).await;

    for (job, reason) in [(exhausted, "attempts exhausted"), (fatal, "fatal")] {
        let verdict = decide(&failed_job(&room, job).await.failed, 0.0);
        rule(&room, job, verdict).await;
        assert_eq!(room.state(job.id).await, "dead");
        assert_eq!(room.look::<String>(job.id, "reason").await, reason);
        assert_eq!(
            room.look::<String>(job.id, "args::text").await,
            r#"{"n":1}"#
        );
    }
}

#[tokio::test]
async fn of_two_rulings_the_first_counts() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    room.finish(job, failed()).await;
    let ruling = |verdict| [Ruling { job, verdict }];
    let retry = ruling(Verdict::RetryAfter(Duration::ZERO));

    assert_eq!(room.store.rule(&retry).await.unwrap(), 1);
    assert_eq!(room.store.rule(&retry).await.unwrap(), 0);
    assert_eq!(
        room.store
            .rule(&ruling(Verdict::Dead("late")))
            .await
            .unwrap(),
        0
    );
    assert!(room.store.failed_of(&[job]).await.unwrap().is_empty());
    assert_eq!(room.state(job.id).await, "scheduled");
}

#[tokio::test]
async fn failures_whose_dead_letter_was_lost_are_found_by_their_age() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    room.finish(job, failed()).await;
    let minute = Duration::from_secs(60);

    assert!(
        room.store
            .failed_long_ago(minute, ALL)
            .await
            .unwrap()
            .is_empty()
    );
    room.execute("update postroad.job set ended_at = ended_at - interval '2 minutes'")
        .await;
    let found = room.store.failed_long_ago(minute, ALL).await.unwrap();
    assert_eq!(found.iter().map(|one| one.job).collect::<Vec<_>>(), [job]);
}

#[tokio::test]
async fn held_jobs_are_resolved_and_others_are_left_alone() {
    let room = Room::open().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let job = room.running(job_to_hold()).await;
        room.finish(job, unknown()).await;
        held.push(job.id);
    }
    let running = room.running(job_to_hold()).await.id;

    for (id, to, state) in [
        (held[0], Resolution::Completed, "completed"),
        (held[1], Resolution::Retry, "scheduled"),
        (held[2], Resolution::Dead, "dead"),
    ] {
        let asked = [id, running, JobId::new()];
        assert_eq!(room.store.resolve(&asked, to).await.unwrap(), [id]);
        assert_eq!(room.state(id).await, state);
    }
    assert_eq!(room.state(running).await, "running");
    assert!(
        room.look::<Option<String>>(held[0], "args::text")
            .await
            .is_none()
    );
    assert_eq!(
        room.look::<String>(held[2], "args::text").await,
        r#"{"n":1}"#
    );
    assert_eq!(room.look::<i32>(held[1], "attempt").await, 1);
}

#[tokio::test]
async fn of_people_who_resolve_a_job_at_once_one_decides() {
    let room = Room::open().await;
    let job = room.running(job_to_hold()).await;
    room.finish(job, unknown()).await;
    let to = [Resolution::Completed, Resolution::Retry, Resolution::Dead];

    let ids = [job.id];
    let answers = to
        .iter()
        .cycle()
        .take(6)
        .map(|to| room.store.resolve(&ids, *to));
    let answers = futures_util::future::try_join_all(answers).await.unwrap();

    assert_eq!(answers.iter().flatten().count(), 1);
}

#[tokio::test]
async fn a_job_completes_with_its_handlers_transaction() {
    let mut room = Room::open().await;
    let job = room.running(job()).await;

    let tx = room.sql.transaction().await.unwrap();
    assert_eq!(complete_in(&tx, job).await, 1);
    tx.rollback().await.unwrap();
    assert_eq!(room.state(job.id).await, "running");

    let tx = room.sql.transaction().await.unwrap();
    assert_eq!(complete_in(&tx, job).await, 1);
    tx.commit().await.unwrap();
    assert_eq!(room.state(job.id).await, "completed");
    assert_eq!(room.look::<String>(job.id, "result").await, "1");

    let tx = room.sql.transaction().await.unwrap();
    assert_eq!(complete_in(&tx, job).await, 0);
}

/// The rescuer passes over a job whose handler is about to commit, and the commit then stands.
#[tokio::test]
async fn a_transaction_under_way_cannot_be_rescued_away() {
    let mut room = Room::open().await;
    let job = room.running(job()).await;
    room.call_lost(room.worker).await;

    let tx = room.sql.transaction().await.unwrap();
    assert_eq!(complete_in(&tx, job).await, 1);
    let rescued = room.store.end_lost_runs(ALL).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!((rescued.failed, rescued.held), (0, 0));
    assert_eq!(room.state(job.id).await, "completed");
}

#[tokio::test]
async fn the_ledger_balances_while_everything_happens_at_once() {
    let room = Room::open().await;
    let jobs: Vec<_> = std::iter::repeat_with(job_to_hold).take(300).collect();
    let accepted: HashSet<_> = room.enqueue_all(&jobs).await.into_iter().collect();
    let claims = room.claim_all().await;
    let ends = [
        Ending::Completed(None),
        failed(),
        unknown(),
        Ending::Interrupted,
    ];
    let started: Vec<_> = claims.iter().copied().take(240).collect();
    room.store.gate(room.worker, &started).await.unwrap();

    let writers = ends.iter().map(|ending| {
        let outcome = |job: &Fenced| Outcome {
            job: *job,
            ending: ending.clone(),
        };
        let outcomes: Vec<_> = started.iter().map(outcome).collect();
        async { room.store.finish(&{ outcomes }).await }
    });
    let moved = futures_util::future::try_join_all(writers).await.unwrap();

    let won = moved
        .iter()
        .flatten()
        .filter(|one| **one != Moved::Superseded)
        .count();
    // A success or a failure may follow a doubt, so a job can be moved twice, but never lost.
    assert!((240..=480).contains(&won), "{won}");
    let rows = room
        .sql
        .query("select id from postroad.jobs", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), accepted.len());
    let found: HashSet<JobId> = rows
        .iter()
        .map(|row| row.get::<_, uuid::Uuid>(0).into())
        .collect();
    assert_eq!(found, accepted);
}

/// What the attempts of a job said, oldest first.
async fn errors_of(room: &Room, job: JobId) -> Vec<String> {
    let sql = "select code from postroad.attempt_error where job_id = $1 order by at";
    let rows = room.sql.query(sql, &[job.as_uuid()]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Seconds until a job is due.
async fn wait(room: &Room, job: JobId) -> f64 {
    room.look(job, "extract(epoch from run_at - now())::float8")
        .await
}

fn told_to_wait(retry_after: Duration) -> Ending {
    Ending::Failed {
        fatal: false,
        retry_after: Some(retry_after),
        code: "busy",
        message: "come back later".to_owned(),
    }
}

async fn failed_job(room: &Room, job: Fenced) -> FailedJob {
    let found = room.store.failed_of(&[job]).await.unwrap();
    assert_eq!(found.len(), 1);
    found[0]
}

async fn rule(room: &Room, job: Fenced, verdict: Verdict) {
    let ruled = room.store.rule(&[Ruling { job, verdict }]).await.unwrap();
    assert_eq!(ruled, 1);
}

/// As a handler does it; says how many jobs it completed.
async fn complete_in(tx: &Transaction<'_>, job: Fenced) -> usize {
    let (ids, dispatches) = (vec![*job.id.as_uuid()], vec![job.dispatch]);
    let results = vec![Some("1")];
    tx.query(COMPLETE_IN_TRANSACTION, &[&ids, &dispatches, &results])
        .await
        .unwrap()
        .len()
}
