//! What a queue's own retention forgets of the archive, and what it leaves.

use std::time::Duration;

use futures_util::future::try_join_all;
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{Account, DayToForget, Retried};
use serde_json::value::to_raw_value;
use tokio_postgres::types::ToSql;

use crate::store_fixture::{Room, job};

fn of_queue(queue: &str) -> NewJob {
    NewJob {
        queue: queue.parse().unwrap(),
        ..job()
    }
}

/// Some hundred rows of it fill some dozen blocks.
fn wide(queue: &str) -> NewJob {
    NewJob {
        args: to_raw_value(&"x".repeat(1000)).unwrap(),
        ..of_queue(queue)
    }
}

/// Jobs that were called off so many days ago.
async fn finished(room: &Room, jobs: &[NewJob], days_ago: i32) -> Vec<JobId> {
    let ids = room.enqueue_all(jobs).await;
    room.store.cancel(&ids).await.unwrap();
    room.finished_days_ago(&ids, days_ago).await;
    ids
}

/// As people set it; none: as long as the others.
async fn keep(room: &Room, queue: &str, days: Option<i32>) {
    let change = postroad_common::store::QueueChange {
        retention_days: Some(days),
        ..Default::default()
    };
    assert!(room.store.set_queue(queue, &change).await.unwrap());
}

/// How many days ago the finished jobs of a queue were finished that are still there.
async fn left(room: &Room, queue: &str) -> Vec<i32> {
    let sql = "select (now() at time zone 'UTC')::date - (a.finished_at at time zone 'UTC')::date
        from postroad.archive a join postroad.queue q on q.id = a.queue_id
        where q.name = $1 order by 1";
    let rows = room.sql.query(sql, &[&queue]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn account(room: &Room) -> Account {
    let ledger = room.store.ledger(Some("default")).await.unwrap();
    let account = ledger.accounts[0].clone();
    assert!(account.balanced, "{account:?}");
    account
}

async fn day(room: &Room) -> DayToForget {
    room.store.day_to_forget().await.unwrap().unwrap()
}

/// A day, three days ago, of which a queue's jobs are to be forgotten and others' are not.
async fn a_day_of(room: &Room, jobs: usize) -> Vec<JobId> {
    let both: Vec<_> = (0..2 * jobs)
        .map(|n| wide(["sms", "other"][n % 2]))
        .collect();
    let ids = finished(room, &both, 3).await;
    keep(room, "sms", Some(2)).await;
    ids.into_iter().step_by(2).collect()
}

#[tokio::test]
async fn only_jobs_of_the_queue_on_days_wholly_before_its_retention_are_forgotten() {
    let room = Room::open().await;
    for days_ago in [0, 2, 3, 4, 6] {
        for queue in ["sms", "other"] {
            finished(&room, &[of_queue(queue)], days_ago).await;
        }
    }
    let before = account(&room).await;
    assert!(room.store.day_to_forget().await.unwrap().is_none());

    keep(&room, "sms", Some(3)).await;
    assert_eq!(room.forget().await, 2);
    // The day that is three days ago still has its later hours within the retention.
    assert_eq!(left(&room, "sms").await, [0, 2, 3]);
    let is_noted = "select forgotten_before = (now() at time zone 'UTC')::date - 3
        from postroad.queue where name = 'sms'";
    assert!(room.value::<bool>(is_noted).await);

    // Longer brings nothing back, and has nothing walked twice.
    for days in [Some(5), None, Some(3)] {
        keep(&room, "sms", days).await;
        assert!(room.store.day_to_forget().await.unwrap().is_none());
    }
    keep(&room, "sms", Some(1)).await;
    assert_eq!(room.forget().await, 2);

    assert_eq!(left(&room, "sms").await, [0]);
    assert_eq!(left(&room, "other").await, [0, 2, 3, 4, 6]);
    assert_eq!(account(&room).await, before);
}

#[tokio::test]
async fn queues_that_forget_a_day_are_walked_together() {
    let room = Room::open().await;
    for queue in ["sms", "mail", "other"] {
        for days_ago in [3, 5] {
            finished(&room, &[of_queue(queue)], days_ago).await;
        }
    }
    keep(&room, "sms", Some(2)).await;
    assert_eq!(room.forget().await, 2);
    keep(&room, "mail", Some(4)).await;
    finished(&room, &[of_queue("sms")], 0).await;
    keep(&room, "other", Some(4)).await;

    assert_eq!(day(&room).await.queues.len(), 2);
    assert_eq!(room.forget().await, 2);

    assert_eq!(left(&room, "mail").await, [3]);
    assert_eq!(left(&room, "other").await, [3]);
    assert_eq!(left(&room, "sms").await, [0]);
}

#[tokio::test]
async fn a_walk_in_many_statements_may_end_anywhere_and_begin_again() {
    let room = Room::open().await;
    a_day_of(&room, 60).await;
    let (before, day) = (account(&room).await, day(&room).await);
    assert!(day.blocks > 10, "{day:?}");

    let mut forgotten = Vec::new();
    for block in 0..day.blocks / 2 {
        let step = room.store.forget_finished(&day, block..block + 1).await;
        forgotten.push(step.unwrap().unwrap());
        assert_eq!(account(&room).await, before);
    }
    assert!(
        forgotten.iter().all(|jobs| (1..8).contains(jobs)),
        "{forgotten:?}"
    );
    let half: i64 = forgotten.iter().sum();
    assert!((1..60).contains(&half), "{half}");

    // Another process, which knows nothing of that one's walk.
    assert_eq!(room.forget().await, 60 - half);
    assert!(left(&room, "sms").await.is_empty());
    assert_eq!(left(&room, "other").await, [3; 60]);
    assert_eq!(account(&room).await, before);
}

#[tokio::test]
async fn a_step_reads_its_blocks_and_no_others() {
    let mut room = Room::open().await;
    a_day_of(&room, 60).await;
    let day = day(&room).await;
    let read = "select array[seq_scan, seq_tup_read] from pg_stat_user_tables
        where relname = 'archive_' || to_char((now() at time zone 'UTC')::date - 3, 'YYYYMMDD')";
    room.execute("select pg_stat_force_next_flush()").await;
    let before: Vec<i64> = room.value(read).await;

    let step = room.store.forget_finished(&day, 3..5).await;
    assert!(step.unwrap().unwrap() > 0);

    room.settle_statistics().await;
    let after: Vec<i64> = room.value(read).await;
    let rows = after[1] - before[1];
    assert_eq!(after[0], before[0], "the day was read from end to end");
    assert!((1..=2 * 8).contains(&rows), "{rows} rows were read");
}

#[tokio::test]
async fn walkers_at_once_forget_each_job_once_and_leave_the_others() {
    let room = Room::open().await;
    a_day_of(&room, 60).await;
    let before = account(&room).await;

    let walker = async || {
        let (mut forgotten, mut next) = (0, 0);
        while let Some(day) = room.store.day_to_forget().await? {
            let step = room.store.forget_finished(&day, next..next + 1).await?;
            let Some(jobs) = step else {
                tokio::task::yield_now().await;
                continue;
            };
            (forgotten, next) = (forgotten + jobs, next + 1);
            if next >= day.blocks {
                room.store.note_forgotten(&day).await?;
            }
        }
        Ok::<i64, postroad_common::store::Error>(forgotten)
    };
    let forgotten = try_join_all((0..6).map(|_| walker())).await.unwrap();

    assert_eq!(forgotten.iter().sum::<i64>(), 60, "{forgotten:?}");
    assert!(left(&room, "sms").await.is_empty());
    assert_eq!(left(&room, "other").await, [3; 60]);
    assert_eq!(account(&room).await, before);
}

#[tokio::test]
async fn whoever_comes_second_does_not_wait() {
    let mut room = Room::open().await;
    a_day_of(&room, 5).await;
    let day = day(&room).await;
    let first = room.sql.transaction().await.unwrap();
    let sql = "select postroad.forget_finished($1, $2, 0, 1)";
    let forgotten = first.query_one(sql, &[&day.day, &day.queues]).await;
    assert!(forgotten.unwrap().get::<_, Option<i64>>(0) > Some(0));

    let second = room.store.forget_finished(&day, 0..day.blocks).await;

    assert_eq!(second.unwrap(), None);
    first.rollback().await.unwrap();
    assert_eq!(room.forget().await, 5);
}

#[tokio::test]
async fn a_job_that_is_being_retried_is_left_alone_and_lives() {
    let mut room = Room::open().await;
    let jobs = a_day_of(&room, 5).await;
    let before = account(&room).await;
    let day = day(&room).await;
    let retrying = room.sql.transaction().await.unwrap();
    let lock = "select from postroad.archive where id = $1 for update";
    let locked = retrying.query_one(lock, &[jobs[3].as_uuid()]).await;
    locked.unwrap();

    // In a session that would wait for ever.
    let session = room.database.client().await;
    let sql = "select postroad.forget_finished($1, $2, 0, $3)";
    let params: [&(dyn ToSql + Sync); 3] = [&day.day, &day.queues, &day.blocks];
    let step = session.query_one(sql, &params);
    let step = tokio::time::timeout(Duration::from_secs(60), step).await;
    let step = step.expect("nobody is waited for").unwrap();

    assert_eq!(step.get::<_, Option<i64>>(0), None);
    retrying.rollback().await.unwrap();
    let retried = room.store.retry(&[jobs[3]]).await.unwrap();
    assert_eq!(retried, [Retried::Done]);
    assert_eq!(room.forget().await, 4);
    assert_eq!(room.state(jobs[3]).await, "scheduled");
    let after = account(&room).await;
    assert_eq!(after.accepted, before.accepted);
    assert_eq!((after.scheduled, after.cancelled), (1, 9));
}

#[tokio::test]
async fn a_job_that_is_being_forgotten_is_not_retried_any_more() {
    let room = Room::open().await;
    let jobs = a_day_of(&room, 5).await;
    let before = account(&room).await;
    let day = day(&room).await;
    let store = room.store.clone();
    let mut other = room.database.client().await;
    let forgetting = other.transaction().await.unwrap();
    let sql = "select postroad.forget_finished($1, $2, 0, $3)";
    let forgotten = forgetting
        .query_one(sql, &[&day.day, &day.queues, &day.blocks])
        .await;
    assert_eq!(forgotten.unwrap().get::<_, Option<i64>>(0), Some(5));

    let retry = tokio::spawn(async move { store.retry(&jobs).await });
    room.somebody_waits().await;
    forgetting.commit().await.unwrap();

    assert_eq!(retry.await.unwrap().unwrap(), [Retried::Not; 5]);
    assert_eq!(account(&room).await, before);
}

#[tokio::test]
async fn jobs_that_are_retried_while_a_day_is_walked_live_or_are_gone() {
    let room = Room::open().await;
    let jobs = a_day_of(&room, 60).await;
    let before = account(&room).await;

    let forgetting = async {
        let (mut forgotten, mut next) = (0, 0);
        while let Some(day) = room.store.day_to_forget().await.unwrap() {
            let step = room.store.forget_finished(&day, next..next + 1).await;
            // None: one of the block is just being retried.
            let Some(jobs) = step.unwrap() else { continue };
            (forgotten, next) = (forgotten + jobs, next + 1);
            if next >= day.blocks {
                room.store.note_forgotten(&day).await.unwrap();
            }
        }
        forgotten as usize
    };
    let retrying = async {
        let mut done = Vec::new();
        for some in jobs.rchunks(3) {
            let retried = room.store.retry(some).await.unwrap();
            done.extend(retried.into_iter().filter(|one| *one == Retried::Done));
        }
        done.len()
    };
    let (forgotten, retried) = tokio::join!(forgetting, retrying);

    assert_eq!(forgotten + retried, 60, "{forgotten} and {retried}");
    let after = account(&room).await;
    assert_eq!(after.accepted, before.accepted);
    assert_eq!(after.scheduled as usize, retried);
    assert!(left(&room, "sms").await.is_empty());
}

#[tokio::test]
async fn nothing_is_forgotten_but_what_a_setting_says() {
    let room = Room::open().await;
    a_day_of(&room, 5).await;
    let before = account(&room).await;
    let of = day(&room).await;
    let days_later = |days: i32| DayToForget {
        day: of.day.saturating_add(jiff::Span::new().days(days)),
        ..of.clone()
    };
    let queues = |queues: Vec<i32>| DayToForget {
        queues,
        ..of.clone()
    };
    let other: i32 = room
        .value("select id from postroad.queue where name = 'other'")
        .await;
    let both = [of.queues.as_slice(), &[other]].concat();

    for refused in [
        days_later(1),
        days_later(3),
        days_later(-100),
        queues(vec![other]),
        queues(both),
        queues(vec![999]),
    ] {
        let step = room.store.forget_finished(&refused, 0..of.blocks).await;
        assert_eq!(step.unwrap(), None, "{refused:?}");
    }
    // The setting may have changed since the walk began.
    for days in [Some(3), None] {
        keep(&room, "sms", days).await;
        let step = room.store.forget_finished(&of, 0..of.blocks).await;
        assert_eq!(step.unwrap(), None, "{days:?}");
    }
    keep(&room, "sms", Some(2)).await;
    room.store.note_forgotten(&of).await.unwrap();
    let step = room.store.forget_finished(&of, 0..of.blocks).await;
    assert_eq!(
        step.unwrap(),
        None,
        "it is noted that there is nothing left"
    );
    assert_eq!(left(&room, "sms").await, [3; 5]);
    assert_eq!(account(&room).await, before);
}

#[tokio::test]
async fn what_is_noted_of_a_later_day_stays() {
    let room = Room::open().await;
    a_day_of(&room, 1).await;
    let earlier = day(&room).await;
    keep(&room, "sms", Some(1)).await;
    finished(&room, &[of_queue("sms")], 2).await;
    room.forget().await;
    let noted = "select (now() at time zone 'UTC')::date - forgotten_before
        from postroad.queue where name = 'sms'";
    assert_eq!(room.value::<i32>(noted).await, 1);

    // By one that has slept since its last block.
    room.store.note_forgotten(&earlier).await.unwrap();

    assert_eq!(room.value::<i32>(noted).await, 1);
}

#[tokio::test]
async fn a_scheduler_may_forget_and_nobody_else() {
    let room = Room::open().await;
    a_day_of(&room, 5).await;
    let day = day(&room).await;
    let mut owner = room.database.client().await;
    postroad_migrations::grant_roles(&mut owner).await.unwrap();
    let forget = "select postroad.forget_finished($1, $2, 0, 1000)";

    for role in ["postroad_worker", "postroad_api", "postroad_readonly"] {
        owner
            .batch_execute(&format!("set role {role}"))
            .await
            .unwrap();
        let refused = owner.query_one(forget, &[&day.day, &day.queues]).await;
        let refused = refused.expect_err(role);
        let code = refused.code().map(|code| code.code());
        assert_eq!(code, Some("42501"), "{role}: {refused:?}");
    }
    owner
        .batch_execute("set role postroad_scheduler")
        .await
        .unwrap();
    let look = "select count(*) from postroad.forgettable()";
    let days: i64 = owner.query_one(look, &[]).await.unwrap().get(0);
    assert_eq!(days, 1);
    // Not around the function: that would be a loss that the ledger does not see.
    let around = format!(
        "delete from postroad.archive_{}",
        day.day.strftime("%Y%m%d")
    );
    let refused = owner.execute(&around, &[]).await.expect_err(&around);
    let code = refused.code().map(|code| code.code());
    assert_eq!(code, Some("42501"), "{refused:?}");
    let forgotten = owner.query_one(forget, &[&day.day, &day.queues]).await;
    assert_eq!(forgotten.unwrap().get::<_, Option<i64>>(0), Some(5));
}
