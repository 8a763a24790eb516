//! The start gate: a delivery starts its job at most once, and only in time.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use postroad_common::job::{JobId, NewJob, RunAt};
use postroad_common::store::{Fenced, Gate, GateVerdict, Moved};
use serde_json::value::to_raw_value;

use crate::store_fixture::{ALL, Room, failed, job, unknown};

const FIRST: GateVerdict = GateVerdict::Start { attempt: 1 };

#[tokio::test]
async fn a_delivery_starts_its_job_and_names_the_worker() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;

    assert_eq!(room.start(job).await, FIRST);

    assert_eq!(room.state(job.id).await, "running");
    let worker: i64 = room.look(job.id, "worker_id").await;
    assert_eq!(worker.to_string(), room.worker.to_string());
    assert!(
        room.look::<bool>(job.id, "started_at between created_at and now()")
            .await
    );
}

#[tokio::test]
async fn a_second_worker_is_refused() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    let other = room.another_worker().await;

    assert_eq!(room.start_by(other, job).await, GateVerdict::Refused);

    let worker: i64 = room.look(job.id, "worker_id").await;
    assert_eq!(worker.to_string(), room.worker.to_string());
}

#[tokio::test]
async fn of_workers_at_once_one_starts_the_job() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;
    let mut workers = Vec::new();
    for _ in 0..8 {
        workers.push(room.another_worker().await);
    }

    let verdicts = workers.iter().map(|worker| room.start_by(*worker, job));
    let verdicts = futures_util::future::join_all(verdicts).await;

    let count = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
    assert_eq!((count(FIRST), count(GateVerdict::Refused)), (1, 7));
}

#[tokio::test]
async fn a_worker_that_lost_the_answer_asks_again_and_is_charged_once() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    let started_at: Timestamp = room.look(job.id, "started_at").await;

    let answer = room.store.gate_again(room.worker, &[job]).await.unwrap();

    assert_eq!(answer, Gate::Judged(vec![FIRST]));
    assert_eq!(room.look::<i32>(job.id, "attempt").await, 1);
    assert_eq!(
        room.look::<Timestamp>(job.id, "started_at").await,
        started_at
    );
}

#[tokio::test]
async fn a_job_that_ran_and_lost_its_outcome_is_not_started_again_by_its_own_worker() {
    let room = Room::open().await;
    let job = room.running(job()).await;

    assert_eq!(room.start(job).await, GateVerdict::Refused);
    assert_eq!(room.state(job.id).await, "running");
}

#[tokio::test]
async fn an_ended_attempt_is_not_started_again_by_its_delivery() {
    let room = Room::open().await;
    let job = room.running(job()).await;
    assert_eq!(room.finish(job, failed()).await, Moved::Failed);

    assert_eq!(room.start(job).await, GateVerdict::Refused);
}

#[tokio::test]
async fn an_older_or_unknown_fence_is_refused() {
    let room = Room::open().await;
    let old = room.dispatched(job()).await;
    room.store
        .release(&[(old, Default::default())])
        .await
        .unwrap();
    let [new] = room.claim_all().await[..] else {
        panic!("one job is due")
    };
    let ahead = Fenced {
        dispatch: new.dispatch + 1,
        ..new
    };
    let unknown = Fenced {
        id: JobId::new(),
        dispatch: 1,
    };

    for refused in [old, ahead, unknown] {
        assert_eq!(
            room.start(refused).await,
            GateVerdict::Refused,
            "{refused:?}"
        );
    }
    assert_eq!(room.start(new).await, FIRST);
}

#[tokio::test]
async fn verdicts_come_in_the_order_asked() {
    let room = Room::open().await;
    let late = room.dispatched(in_an_hour()).await;
    let_expire(&room).await;
    let [a, b] = [room.dispatched(job()).await, room.dispatched(job()).await];
    let stale = Fenced { dispatch: 0, ..a };

    let verdicts = room
        .store
        .gate(room.worker, &[b, stale, late, a])
        .await
        .unwrap();

    let expected = vec![FIRST, GateVerdict::Refused, GateVerdict::Expired, FIRST];
    assert_eq!(verdicts, Gate::Judged(expected));
}

#[tokio::test]
async fn a_worker_that_was_called_lost_starts_nothing() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;
    let late = room.dispatched(in_an_hour()).await;
    let_expire(&room).await;
    room.call_lost(room.worker).await;

    let verdicts = room.store.gate(room.worker, &[job, late]).await.unwrap();

    assert_eq!(verdicts, Gate::WorkerIsLost);
    assert_eq!(room.state(job.id).await, "dispatched");
    assert_eq!(room.state(late.id).await, "dispatched");
    assert!(!room.store.beat(room.worker).await.unwrap());
}

#[tokio::test]
async fn a_worker_that_signed_off_or_never_registered_starts_nothing() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;
    room.store.stop(room.worker).await.unwrap();

    for worker in [room.worker, 1_000_000.into()] {
        let verdicts = room.store.gate(worker, &[job]).await.unwrap();
        assert_eq!(verdicts, Gate::WorkerIsLost);
    }
    assert_eq!(room.state(job.id).await, "dispatched");
}

#[tokio::test]
async fn a_job_whose_time_has_passed_is_archived_instead_of_started() {
    let room = Room::open().await;
    let job = room.dispatched(in_an_hour()).await;
    let_expire(&room).await;

    assert_eq!(room.start(job).await, GateVerdict::Expired);

    assert_eq!(room.state(job.id).await, "expired");
    assert_eq!(
        room.look::<String>(job.id, "reason").await,
        "expired in the pipe"
    );
    assert_eq!(room.look::<i32>(job.id, "attempt").await, 0);
    assert_eq!(
        room.look::<String>(job.id, "args::text").await,
        r#"{"n":1}"#
    );
    assert_eq!(room.start(job).await, GateVerdict::Refused);
}

#[tokio::test]
async fn a_started_job_does_not_expire() {
    let room = Room::open().await;
    let job = room.running(in_an_hour()).await;
    let_expire(&room).await;

    assert_eq!(room.start(job).await, GateVerdict::Refused);
    assert_eq!(room.store.expire(ALL).await.unwrap(), 0);
    assert_eq!(room.state(job.id).await, "running");
}

/// Found by a simulated life: the answer was lost, and the job's time passed before the next one.
#[tokio::test]
async fn a_job_whose_worker_never_heard_that_it_may_start_expires_when_it_asks_again() {
    let room = Room::open().await;
    let job = room.running(in_an_hour()).await;
    let_expire(&room).await;
    let stranger = room.another_worker().await;

    let of_stranger = room.store.gate_again(stranger, &[job]).await.unwrap();
    let answer = room.store.gate_again(room.worker, &[job]).await.unwrap();

    assert_eq!(of_stranger, Gate::Judged(vec![GateVerdict::Refused]));
    assert_eq!(answer, Gate::Judged(vec![GateVerdict::Expired]));
    assert_eq!(room.state(job.id).await, "expired");
}

#[tokio::test]
async fn what_was_gated_and_never_run_is_given_back_uncharged() {
    let room = Room::open().await;
    let never_run = room.running(job()).await;
    let ran = room.running(job()).await;
    let held = room.running(crate::store_fixture::job_to_hold()).await;
    room.finish(held, unknown()).await;
    let other = room.another_worker().await;
    let of_other = room.dispatched(job()).await;
    room.start_by(other, of_other).await;

    let unanswered = [never_run, held, of_other];
    let released = room
        .store
        .release_never_run(room.worker, &unanswered)
        .await
        .unwrap();
    assert_eq!(released, 1);

    assert_eq!(room.state(never_run.id).await, "scheduled");
    assert_eq!(room.look::<i32>(never_run.id, "attempt").await, 0);
    assert_eq!(room.state(held.id).await, "held");
    assert_eq!(room.state(of_other.id).await, "running");
    assert_eq!(room.state(ran.id).await, "running");
}

#[tokio::test]
async fn the_gate_says_how_late_each_job_starts() {
    let room = Room::open().await;
    let minutes = |n: i64| NewJob {
        run_at: RunAt::At(Timestamp::now() - n.minutes()),
        ..job()
    };
    let [long_due, back_dated, stale] = [
        room.dispatched(minutes(10)).await,
        room.dispatched(minutes(10)).await,
        room.dispatched(job()).await,
    ];
    // As if it had been there when it became due.
    let sql = "update postroad.job set created_at = run_at where id = $1";
    let updated = room.sql.execute(sql, &[long_due.id.as_uuid()]).await;
    assert_eq!(updated.unwrap(), 1);
    let stale = Fenced {
        dispatch: 0,
        ..stale
    };

    let mut late = Vec::new();
    let asked = [stale, back_dated, long_due].map(|job| (job, Duration::ZERO));
    let gate = room
        .store
        .ask_gate(room.worker, &asked, false, |by| late.push(by));

    let expected = vec![GateVerdict::Refused, FIRST, FIRST];
    assert_eq!(gate.await.unwrap(), Gate::Judged(expected));
    let [stale, back_dated, long_due] = late[..] else {
        panic!("one for each: {late:?}")
    };
    assert_eq!(stale, Duration::ZERO);
    assert!(back_dated < Duration::from_secs(60), "{back_dated:?}");
    assert!((600..700).contains(&long_due.as_secs()), "{long_due:?}");
}

/// It was made in time, and waited too long in the pipe.
#[tokio::test]
async fn a_job_whose_recipient_may_not_be_reached_any_more_waits_and_is_not_charged() {
    let room = Room::open().await;
    let late = room.dispatched(job()).await;
    let in_time = room.dispatched(job()).await;
    let sql = "update postroad.job set zone = 'UTC', closes_at = now() + $2 * interval '1 s' where id = $1";
    for (job, seconds) in [(late, -1.0), (in_time, 60.0)] {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [job.id.as_uuid(), &seconds];
        room.sql.execute(sql, &params).await.unwrap();
    }

    assert_eq!(room.start(in_time).await, FIRST);
    assert_eq!(room.start(late).await, GateVerdict::Closed);

    assert_eq!(room.state(late.id).await, "scheduled");
    assert_eq!(room.look::<i32>(late.id, "attempt").await, 0);
    let waits = "select run_at > now() from postroad.job where stage = 0";
    assert!(
        room.value::<bool>(waits).await,
        "until somebody has looked when again"
    );
    assert_eq!(
        room.start(late).await,
        GateVerdict::Refused,
        "its message is done with"
    );
}

/// An update that stays on its page (HOT) writes no index; that is what `fillfactor` is for.
///
/// Each batch takes every tenth job, so it fits the room that the pages keep, and what it left
/// dead is vacuumed away: pruning by the next batch depends on what else the server is doing.
#[tokio::test]
async fn the_gate_writes_no_index() {
    let mut room = Room::open().await;
    let args = to_raw_value(&"x".repeat(298)).unwrap();
    let with_args = || NewJob {
        args: args.clone(),
        ..job()
    };
    let jobs: Vec<_> = std::iter::repeat_with(with_args).take(1000).collect();
    room.enqueue_all(&jobs).await;
    let mut claims = room.claim_all().await;
    claims.sort();
    room.execute("vacuum postroad.job").await;
    room.settle_statistics().await;
    let (updates, hot) = updates(&room).await;

    for first in 0..10 {
        let batch: Vec<_> = claims.iter().skip(first).step_by(10).copied().collect();
        room.store.gate(room.worker, &batch).await.unwrap();
        room.execute("vacuum postroad.job").await;
    }

    room.settle_statistics().await;
    let (updates_after, hot_after) = self::updates(&room).await;
    let (updates, hot) = (updates_after - updates, hot_after - hot);
    assert_eq!(updates, 1000);
    assert!(hot >= 900, "{hot} of {updates}");
}

async fn updates(room: &Room) -> (i64, i64) {
    let sql = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
        where relid = 'postroad.job'::regclass";
    let row = room.sql.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

fn in_an_hour() -> NewJob {
    let expires_at = Some(Timestamp::now() + 1.hour());
    NewJob {
        expires_at,
        ..job()
    }
}

/// Moves every `expires_at` into the past: the clock is the database's and cannot be moved.
async fn let_expire(room: &Room) {
    let sql = "update postroad.job set expires_at = now() - interval '1 s'
        where expires_at is not null";
    room.execute(sql).await;
}
