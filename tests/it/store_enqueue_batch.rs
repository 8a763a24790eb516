//! `Store::enqueue`: thousands of jobs a call, with dedup, and safe to send again.

use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{Ending, Enqueued, Error, Moved};

use crate::store_fixture::{Room, job};

#[tokio::test]
async fn a_batch_is_answered_in_its_order() {
    let room = Room::open().await;
    let jobs: Vec<_> = (0..5000)
        .map(|n| NewJob {
            tenant: format!("tenant-{}", n % 7).parse().unwrap(),
            queue: format!("queue-{}", n % 3).parse().unwrap(),
            dedup_key: (n % 2 == 0).then(|| format!("key-{n}")),
            ..job()
        })
        .collect();

    let enqueued = room.store.enqueue(&jobs, false).await.unwrap();

    let found: Vec<_> = enqueued.iter().map(|one| (one.id, one.is_new)).collect();
    let expected: Vec<_> = jobs.iter().map(|job| (job.id, true)).collect();
    assert_eq!(found, expected);
    assert!(enqueued.iter().all(|one| one.inserted.is_some()));
    assert_eq!(count(&room).await, 5000);
    let tenant: String = room.look(jobs[8].id, "tenant").await;
    assert_eq!(tenant, "tenant-1");
}

#[tokio::test]
async fn of_jobs_with_one_key_in_a_batch_the_first_stands_for_all() {
    let room = Room::open().await;
    let jobs = [keyed("a"), keyed("b"), keyed("a"), job(), keyed("a")];

    let enqueued = room.store.enqueue(&jobs, false).await.unwrap();

    let firsts = [0, 1, 0, 3, 0].map(|n: usize| jobs[n].id);
    assert_eq!(ids(&enqueued), firsts);
    assert_eq!(news(&enqueued), [true, true, false, true, false]);
    assert_eq!(count(&room).await, 3);
}

#[tokio::test]
async fn a_key_that_is_known_answers_with_its_job() {
    let room = Room::open().await;
    let first = room.enqueue(keyed("a")).await;
    let other_tenant = NewJob {
        tenant: "other".parse().unwrap(),
        ..keyed("a")
    };
    let other_kind = NewJob {
        kind: "other".parse().unwrap(),
        ..keyed("a")
    };
    let jobs = [keyed("b"), keyed("a"), other_tenant, other_kind];

    let enqueued = room.store.enqueue(&jobs, false).await.unwrap();

    assert_eq!(ids(&enqueued), [jobs[0].id, first, jobs[2].id, jobs[3].id]);
    assert_eq!(news(&enqueued), [true, false, true, true]);
}

#[tokio::test]
async fn a_key_of_sql_callers_and_of_batches_is_one_key() {
    let room = Room::open().await;
    let first = room.enqueue(keyed("a")).await;

    let sql = "select postroad.enqueue('echo', dedup_key => 'a')";
    assert_eq!(room.value::<uuid::Uuid>(sql).await, *first.as_uuid());
}

#[tokio::test]
async fn one_bad_job_keeps_the_whole_batch_out_and_is_named() {
    let room = Room::open().await;
    let jobs = [
        job(),
        NewJob {
            priority: Some(4),
            ..job()
        },
    ];

    let error = room.store.enqueue(&jobs, false).await.unwrap_err();

    assert!(
        matches!(error, Error::InvalidJob { index: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("priority"), "{error}");
    assert_eq!(count(&room).await, 0);
}

#[tokio::test]
async fn batches_at_once_with_the_same_keys_in_opposite_order_make_one_job_per_key() {
    let room = Room::open().await;
    let keys = 0..500;
    let forth = || {
        keys.clone()
            .map(|n| keyed(&n.to_string()))
            .collect::<Vec<_>>()
    };
    let back = || keys.clone().rev().map(|n| keyed(&n.to_string())).collect();
    let batches = [forth(), back(), forth(), back(), forth(), back()];

    let answers = batches.iter().map(|batch| room.store.enqueue(batch, false));
    let answers = futures_util::future::try_join_all(answers).await.unwrap();

    assert_eq!(count(&room).await, 500);
    let winners = answers.iter().flatten().filter(|one| one.is_new).count();
    assert_eq!(winners, 500);
    for (n, answer) in answers.iter().enumerate() {
        let mut ids = ids(answer);
        if n % 2 == 1 {
            ids.reverse();
        }
        assert_eq!(ids, self::ids(&answers[0]), "batch {n}");
    }
}

#[tokio::test]
async fn a_batch_that_waited_for_a_key_answers_with_the_job_that_got_it() {
    let room = Room::open().await;
    room.add_names().await;
    room.execute("begin").await;
    let sql = "select postroad.enqueue('echo', dedup_key => 'a')";
    let first: uuid::Uuid = room.value(sql).await;
    let second = enqueue_elsewhere(&room, keyed("a"));
    room.somebody_waits().await;
    room.execute("commit").await;

    let enqueued = second.await.unwrap();
    assert_eq!((*enqueued.id.as_uuid(), enqueued.is_new), (first, false));
    assert_eq!(count(&room).await, 1);
}

/// The key row that the batch saw when it began names a job that is long gone.
#[tokio::test]
async fn a_batch_that_waited_for_an_expired_key_answers_with_the_job_that_got_it() {
    let room = Room::open().await;
    let old = room.running(keyed("a")).await;
    room.finish(old, Ending::Completed(None)).await;
    room.execute("update postroad.dedup set expires_at = now() - interval '1 s'")
        .await;
    room.execute("begin").await;
    let sql = "select postroad.enqueue('echo', dedup_key => 'a')";
    let first: uuid::Uuid = room.value(sql).await;
    let second = enqueue_elsewhere(&room, keyed("a"));
    room.somebody_waits().await;
    room.execute("commit").await;

    let enqueued = second.await.unwrap();
    assert_eq!((*enqueued.id.as_uuid(), enqueued.is_new), (first, false));
    assert_eq!(count(&room).await, 1);
}

#[tokio::test]
async fn an_expired_key_of_a_finished_job_is_taken_over() {
    let room = Room::open().await;
    let old = room.running(keyed("a")).await;
    room.execute("update postroad.dedup set expires_at = now() - interval '1 s'")
        .await;

    assert_eq!(room.enqueue(keyed("a")).await, old.id, "unfinished");
    room.finish(old, Ending::Completed(None)).await;
    let new = keyed("a");
    assert_eq!(room.enqueue(new.clone()).await, new.id, "finished");
}

#[tokio::test]
async fn a_batch_sent_again_is_the_same_batch() {
    let room = Room::open().await;
    let jobs = [job(), keyed("a"), job()];
    room.store.enqueue(&jobs, false).await.unwrap();

    for is_resend in [false, true] {
        let again = room.store.enqueue(&jobs, is_resend).await.unwrap();
        assert_eq!(ids(&again), jobs.each_ref().map(|job| job.id));
        assert_eq!(news(&again), [false; 3]);
    }
    assert_eq!(count(&room).await, 3);
}

#[tokio::test]
async fn a_batch_sent_again_does_not_run_what_has_finished_since() {
    let room = Room::open().await;
    let jobs = [job(), keyed("a"), job()];
    room.store.enqueue(&jobs, false).await.unwrap();
    for job in room
        .claim_all()
        .await
        .into_iter()
        .filter(|one| one.id != jobs[2].id)
    {
        room.start(job).await;
        room.finish(job, Ending::Completed(None)).await;
    }

    let again = room.store.enqueue(&jobs, true).await.unwrap();

    assert_eq!(ids(&again), jobs.each_ref().map(|job| job.id));
    assert_eq!(news(&again), [false; 3]);
    assert_eq!(count(&room).await, 1);
    assert_eq!(room.state(jobs[0].id).await, "completed");
}

/// A statement sees the archive as it was when it began, and live jobs as they are: this one begins
/// while a job runs, waits, and inserts when the job is finished.
#[tokio::test]
async fn a_batch_sent_again_does_not_run_what_finishes_meanwhile() {
    for more in [None, Some(keyed("a"))] {
        let room = Room::open().await;
        let (waits_for, runs) = (job(), job());
        let running = room.running(runs.clone()).await;
        let elsewhere = room.database.client().await;
        let insert = format!(
            "begin;
             insert into postroad.job (id, queue_id, kind_id, tenant_id, args, run_at)
             select '{}', queue_id, kind_id, tenant_id, args, run_at from postroad.job",
            waits_for.id
        );
        elsewhere.batch_execute(&insert).await.unwrap();

        assert!(waits_for.id < runs.id, "it is inserted first");
        let mut jobs = vec![waits_for, runs.clone()];
        jobs.extend(more);
        let store = room.store.clone();
        let again = tokio::spawn(async move { store.enqueue(&jobs, true).await });
        room.somebody_waits().await;
        let moved = room.finish(running, Ending::Completed(None)).await;
        assert_eq!(moved, Moved::Completed);
        elsewhere.batch_execute("rollback").await.unwrap();

        let again = again.await.unwrap().unwrap();
        assert_eq!(news(&again), [true, false, true][..again.len()]);
        assert_eq!(room.state(runs.id).await, "completed");
        let ledger = room.store.ledger(None).await.unwrap();
        let is_balanced = ledger.accounts.iter().all(|account| account.balanced);
        assert!(is_balanced, "{ledger:?}");
    }
}

#[tokio::test]
async fn two_jobs_of_one_id_in_a_batch_that_is_sent_again_are_one_and_hold_nobody_up() {
    let room = Room::open().await;
    let first = room.running(keyed("a")).await;
    room.finish(first, Ending::Completed(None)).await;
    let one = job();
    // The key stands for a job that is finished, as keys do for a day.
    let other = NewJob {
        id: one.id,
        ..keyed("a")
    };
    let again = room.store.enqueue(&[one.clone(), other], true).await;
    let again = again.unwrap();
    assert_eq!(ids(&again), [one.id, first.id]);
    assert_eq!(news(&again), [true, false]);
}

fn keyed(key: &str) -> NewJob {
    NewJob {
        dedup_key: Some(key.to_owned()),
        ..job()
    }
}

fn ids(enqueued: &[Enqueued]) -> Vec<JobId> {
    enqueued.iter().map(|one| one.id).collect()
}

fn news(enqueued: &[Enqueued]) -> Vec<bool> {
    enqueued.iter().map(|one| one.is_new).collect()
}

/// Unfinished jobs.
async fn count(room: &Room) -> i64 {
    room.value("select count(*) from postroad.job").await
}

fn enqueue_elsewhere(room: &Room, job: NewJob) -> tokio::task::JoinHandle<Enqueued> {
    let store = room.store.clone();
    tokio::spawn(async move { store.enqueue(&[job], false).await.unwrap()[0] })
}
