//! The store moves a job exactly where `JobState::next` says, and nowhere else: every state
//! against every event.
//!
//! Events come under the job's current fence, but for `Claimed`, which makes a new one; what is
//! said under an older fence is in the files of each transition.

use std::time::Duration;

use postroad_common::job::retry::Verdict;
use postroad_common::job::{JobEvent, JobState, NewJob, OnLost};
use postroad_common::store::{
    Cancelled, Ending, Fenced, Gate, GateVerdict, Moved, Outcome, Rescued, Resolution, Retried,
    Ruling,
};

use crate::store_fixture::{ALL, Room, failed, job, job_to_hold, unknown};

#[tokio::test]
async fn every_event_moves_a_job_as_the_state_machine_says() {
    check_all_pairs(OnLost::Retry).await;
}

#[tokio::test]
async fn every_event_moves_a_job_that_is_held_when_lost_as_the_state_machine_says() {
    check_all_pairs(OnLost::Hold).await;
}

#[tokio::test]
async fn a_lost_worker_fails_its_job_or_holds_it_as_the_job_says() {
    let room = Room::open().await;
    let to_retry = room.running(job()).await;
    let to_hold = room.running(job_to_hold()).await;
    room.call_lost(room.worker).await;

    let rescued = room.store.end_lost_runs(ALL).await.unwrap();

    assert_eq!(rescued, Rescued { failed: 1, held: 1 });
    assert_eq!(room.state(to_retry.id).await, "failed");
    assert_eq!(room.state(to_hold.id).await, "held");
    let again = room.store.end_lost_runs(ALL).await.unwrap();
    assert_eq!(again, Rescued::default());
}

#[tokio::test]
async fn the_kind_decides_for_jobs_that_do_not_say() {
    let room = Room::open().await;
    let of_kind = |kind: &str| NewJob {
        kind: kind.parse().unwrap(),
        ..job()
    };
    let sms = room.running(of_kind("sms")).await;
    let webhook = room.running(of_kind("webhook")).await;

    assert_eq!(room.finish(sms, unknown()).await, Moved::Held);
    assert_eq!(room.finish(webhook, unknown()).await, Moved::Failed);
}

#[tokio::test]
async fn a_job_of_a_lost_worker_moves_only_while_it_runs() {
    let mut room = Room::open().await;
    for state in JobState::ALL {
        if state == JobState::Running {
            continue;
        }
        room.worker = room.another_worker().await;
        let job = arrive_at(&room, state, in_queue_of(state)).await;
        room.call_lost(room.worker).await;

        let rescued = room.store.end_lost_runs(ALL).await.unwrap();

        assert_eq!(rescued, Rescued::default(), "{state}");
        assert_eq!(room.state(job.id).await, state.as_str());
    }
}

#[tokio::test]
async fn only_a_claim_that_was_never_started_is_swept_back() {
    let room = Room::open().await;
    for state in JobState::ALL {
        let job = arrive_at(&room, state, in_queue_of(state)).await;
        room.execute("update postroad.queue set pipe_ttl = interval '1 second'")
            .await;
        let long_ago = "update postroad.job set claimed_at = claimed_at - interval '1 hour'";
        room.execute(&format!("{long_ago} where claimed_at is not null"))
            .await;

        let released = room.store.release_unstarted(Duration::ZERO, ALL).await;

        let is_dispatched = state == JobState::Dispatched;
        assert_eq!(released.unwrap(), usize::from(is_dispatched), "{state}");
        let expected = if is_dispatched {
            "scheduled"
        } else {
            state.as_str()
        };
        assert_eq!(room.state(job.id).await, expected);
    }
}

/// Each state in a queue of its own: a claim then finds one job.
fn in_queue_of(state: JobState) -> NewJob {
    let queue = state.as_str().parse().unwrap();
    NewJob {
        queue,
        ..job_to_hold()
    }
}

async fn check_all_pairs(on_lost: OnLost) {
    let room = Room::open().await;
    let mut differences = Vec::new();
    for state in JobState::ALL {
        for event in JobEvent::ALL.into_iter().filter(|e| can_occur(*e, on_lost)) {
            let number = state as usize * 100 + event as usize;
            // A queue of its own: a claim then finds this job or none.
            let queue = format!("q{number}").parse().unwrap();
            let on_lost = Some(on_lost);
            let job = arrive_at(
                &room,
                state,
                NewJob {
                    queue,
                    on_lost,
                    ..job()
                },
            )
            .await;

            let moved = apply(&room, event, job).await;

            let found = room.state(job.id).await;
            let expected = state.next(event).unwrap_or(state);
            if found != expected.as_str() || moved != state.next(event).is_ok() {
                differences.push(format!(
                    "{state} by {event:?}: expected {expected}, found {found}, said moved: {moved}"
                ));
            }
        }
    }
    assert_eq!(differences, Vec::<String>::new());
}

/// An end that nobody can judge is one event for jobs to hold and another for jobs to retry.
fn can_occur(event: JobEvent, on_lost: OnLost) -> bool {
    match event {
        JobEvent::BecameUnclear => on_lost == OnLost::Hold,
        JobEvent::Interrupted => on_lost == OnLost::Retry,
        _ => true,
    }
}

/// Takes a new job to `state` on the shortest way through the store.
async fn arrive_at(room: &Room, state: JobState, new: NewJob) -> Fenced {
    let queue = new.queue.to_string();
    let id = room
        .enqueue(NewJob {
            on_lost: Some(OnLost::Hold),
            ..new.clone()
        })
        .await;
    let queue = room.due_queue(&queue).await;
    let claims = room.claim(&queue, ALL).await;
    assert_eq!((claims.len(), claims[0].id), (1, id));
    let job = Fenced {
        id,
        dispatch: claims[0].dispatch,
    };
    if !matches!(
        state,
        JobState::Dispatched | JobState::Expired | JobState::Cancelled
    ) {
        assert_eq!(room.start(job).await, GateVerdict::Start { attempt: 1 });
    }
    match state {
        // Back in the schedule, so that there is a fence under which something may be said.
        JobState::Scheduled => {
            room.finish(job, failed()).await;
            rule(room, job, Verdict::RetryAfter(Duration::ZERO)).await;
        }
        JobState::Dispatched | JobState::Running => {}
        JobState::Failed => drop(room.finish(job, failed()).await),
        JobState::Held => drop(room.finish(job, unknown()).await),
        JobState::Completed => drop(room.finish(job, Ending::Completed(None)).await),
        JobState::Dead => {
            room.finish(job, failed()).await;
            rule(room, job, Verdict::Dead("exhausted")).await;
        }
        JobState::Cancelled => assert!(cancel(room, job).await),
        JobState::Expired => {
            let_expire(room, job).await;
            assert_eq!(room.start(job).await, GateVerdict::Expired);
        }
    }
    let on_lost = new.on_lost.map(OnLost::as_str);
    let sql = "update postroad.job set on_lost = $2 where id = $1";
    room.sql
        .execute(sql, &[id.as_uuid(), &on_lost])
        .await
        .unwrap();
    assert_eq!(room.state(id).await, state.as_str());
    job
}

/// Lets `event` happen to a job, and says whether the store says that it moved it.
async fn apply(room: &Room, event: JobEvent, job: Fenced) -> bool {
    match event {
        JobEvent::Claimed => claim(room, job).await,
        JobEvent::Released => {
            let released = room.store.release(&[(job, Duration::ZERO)]).await.unwrap();
            released == [job.id]
        }
        JobEvent::Started => {
            let worker = room.another_worker().await;
            matches!(room.start_by(worker, job).await, GateVerdict::Start { .. })
        }
        JobEvent::Snoozed => end(room, job, Ending::Snoozed(Duration::ZERO)).await,
        JobEvent::Interrupted => end(room, job, Ending::Interrupted).await,
        JobEvent::Failed => end(room, job, failed()).await,
        JobEvent::Succeeded => end(room, job, Ending::Completed(None)).await,
        JobEvent::BecameUnclear => {
            let unclear = end(room, job, unknown()).await;
            // A worker that has to stop leaves such a job just as unclear.
            let interrupted = end(room, job, Ending::Interrupted).await;
            unclear || interrupted
        }
        JobEvent::RetryScheduled => rule(room, job, Verdict::RetryAfter(Duration::ZERO)).await,
        JobEvent::GivenUp => rule(room, job, Verdict::Dead("exhausted")).await,
        JobEvent::ResolvedCompleted => resolve(room, job, Resolution::Completed).await,
        JobEvent::ResolvedRetry => resolve(room, job, Resolution::Retry).await,
        JobEvent::ResolvedDead => resolve(room, job, Resolution::Dead).await,
        JobEvent::Cancelled => cancel(room, job).await,
        JobEvent::Revived => revive(room, job).await,
        JobEvent::Expired => {
            let_expire(room, job).await;
            let swept = room.store.expire(ALL).await.unwrap();
            let worker = room.another_worker().await;
            let has_expired = Gate::Judged(vec![GateVerdict::Expired]);
            swept == 1
                || room.start_by(worker, job).await == GateVerdict::Expired
                || room.store.gate_again(room.worker, &[job]).await.unwrap() == has_expired
        }
    }
}

async fn claim(room: &Room, job: Fenced) -> bool {
    let sql = "select q.name from postroad.jobs j join postroad.queue q on q.name = j.queue
        where j.id = $1";
    let row = room.sql.query_one(sql, &[job.id.as_uuid()]).await.unwrap();
    let due = room.store.due_queues(&[]).await.unwrap();
    match due.iter().find(|queue| queue.name == row.get::<_, &str>(0)) {
        Some(queue) => room.claim(queue, ALL).await.len() == 1,
        None => false,
    }
}

async fn cancel(room: &Room, job: Fenced) -> bool {
    room.store.cancel(&[job.id]).await.unwrap() == [Cancelled::Done]
}

/// Asked of a job that is not finished, it only makes it due at once.
async fn revive(room: &Room, job: Fenced) -> bool {
    let sql = "select exists (select from postroad.archive where id = $1)";
    let row = room.sql.query_one(sql, &[job.id.as_uuid()]).await.unwrap();
    row.get(0) && room.store.retry(&[job.id]).await.unwrap() == [Retried::Done]
}

async fn end(room: &Room, job: Fenced, ending: Ending) -> bool {
    let outcome = Outcome { job, ending };
    room.store.finish(&[outcome]).await.unwrap() != [Moved::Superseded]
}

async fn rule(room: &Room, job: Fenced, verdict: Verdict) -> bool {
    let ruled = room.store.rule(&[Ruling { job, verdict }]).await.unwrap();
    ruled == 1
}

async fn resolve(room: &Room, job: Fenced, to: Resolution) -> bool {
    room.store.resolve(&[job.id], to).await.unwrap() == [job.id]
}

/// Moves `expires_at` into the past: the clock is the database's and cannot be moved instead.
async fn let_expire(room: &Room, job: Fenced) {
    let sql = "update postroad.job set expires_at = now() - interval '1 s' where id = $1";
    room.sql.execute(sql, &[job.id.as_uuid()]).await.unwrap();
}
