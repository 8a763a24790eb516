//! What the pruner does, any number of times, by any number of schedulers at once.

use std::time::Duration;

use postroad_common::job::NewJob;
use postroad_common::store::{Ending, Moved, Outcome, PARTITION_DAYS_AHEAD, ProcessId};

use crate::store_fixture::{Room, job};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Both partitioned tables.
const PARENTS: i64 = 2;

#[tokio::test]
async fn partitions_are_made_for_yesterday_and_a_week_ahead() {
    let room = Room::open().await;
    let sql = "select count(*) from postroad.partitions()
        where day between (now() at time zone 'UTC')::date - 1
                      and (now() at time zone 'UTC')::date + 7";
    assert_eq!(room.value::<i64>(sql).await, PARENTS * 9);
    assert_eq!(PARTITION_DAYS_AHEAD, 7);

    assert_eq!(room.store.make_partitions().await.unwrap(), 0);
}

#[tokio::test]
async fn pruners_at_once_make_each_partition_once() {
    let room = Room::open().await;
    drop_days_ahead(&room).await;

    let pruners = (0..8).map(|_| room.store.make_partitions());
    let made = futures_util::future::try_join_all(pruners).await.unwrap();

    assert_eq!(made.iter().sum::<i32>() as i64, PARENTS * 6);
    assert_eq!(made.iter().filter(|n| **n > 0).count(), 1);
}

#[tokio::test]
async fn jobs_can_finish_while_partitions_are_made() {
    let mut room = Room::open().await;
    drop_days_ahead(&room).await;
    let job = room.running(job()).await;
    let tx = room.sql.transaction().await.unwrap();
    let sql = "select postroad.make_partitions(7)";
    assert_eq!(tx.query_one(sql, &[]).await.unwrap().get::<_, i32>(0), 12);

    let ending = Ending::Completed(None);
    let moved = room.store.finish(&[Outcome { job, ending }]).await;

    assert_eq!(moved.unwrap(), [Moved::Completed]);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn only_partitions_wholly_before_the_retention_are_dropped() {
    let room = Room::open().await;
    for days_ago in [40, 31, 30, 29] {
        room.add_archive_day(days_ago).await;
    }
    let count = "select count(*) from postroad.partitions()";
    let before: i64 = room.value(count).await;

    // The day that is 30 days ago still has its later hours within the retention.
    assert_eq!(room.store.drop_partitions(30 * DAY).await.unwrap(), 2);

    assert_eq!(room.value::<i64>(count).await, before - 2);
    let oldest =
        "select min(day) = (now() at time zone 'UTC')::date - 30 from postroad.partitions()";
    assert!(room.value::<bool>(oldest).await);
    assert_eq!(room.store.drop_partitions(30 * DAY).await.unwrap(), 0);
}

#[tokio::test]
async fn pruners_at_once_drop_partitions_without_an_error() {
    let room = Room::open().await;
    for days_ago in 40..50 {
        room.add_archive_day(days_ago).await;
    }

    let pruners = (0..8).map(|_| room.store.drop_partitions(30 * DAY));
    futures_util::future::try_join_all(pruners).await.unwrap();

    let sql = "select count(*) from postroad.partitions() where day < now() - interval '30 days'";
    assert_eq!(room.value::<i64>(sql).await, 0);
}

#[tokio::test]
async fn an_expired_key_is_pruned_once_its_job_is_finished() {
    let room = Room::open().await;
    let keyed = |key: &str| NewJob {
        dedup_key: Some(key.to_owned()),
        ..job()
    };
    let unfinished = room.running(keyed("unfinished")).await;
    let finished = room.running(keyed("finished")).await;
    room.finish(finished, Ending::Completed(None)).await;
    room.execute("update postroad.dedup set expires_at = now() - interval '1 s'")
        .await;
    let living = room.running(keyed("living")).await;
    room.finish(living, Ending::Completed(None)).await;

    assert_eq!(room.store.prune_dedup(100).await.unwrap(), 1);

    let keys = "select string_agg(key, ' ' order by key) from postroad.dedup";
    assert_eq!(room.value::<String>(keys).await, "living unfinished");
    room.finish(unfinished, Ending::Completed(None)).await;
    assert_eq!(room.store.prune_dedup(100).await.unwrap(), 1);
    assert_eq!(room.value::<String>(keys).await, "living");
}

#[tokio::test]
async fn keys_are_pruned_by_the_batch_and_by_many_at_once() {
    let room = Room::open().await;
    room.execute(
        "insert into postroad.dedup (tenant_id, kind_id, key, job_id, expires_at)
         select 1, 1, n, gen_random_uuid(), now() - interval '1 s' from generate_series(1, 100) n",
    )
    .await;

    assert_eq!(room.store.prune_dedup(30).await.unwrap(), 30);
    let pruners = (0..8).map(|_| room.store.prune_dedup(10));
    let pruned = futures_util::future::try_join_all(pruners).await.unwrap();

    let left: i64 = room.value("select count(*) from postroad.dedup").await;
    assert_eq!(left as usize, 70 - pruned.iter().sum::<usize>());
}

#[tokio::test]
async fn a_process_is_forgotten_a_day_after_it_ended_unless_a_job_names_it() {
    let room = Room::open().await;
    let named = room.another_worker().await;
    let unnamed = room.another_worker().await;
    let recent = room.another_worker().await;
    let lost = room.another_worker().await;
    let job = room.dispatched(job()).await;
    room.start_by(named, job).await;
    for worker in [named, unnamed, recent] {
        room.store.stop(worker).await.unwrap();
    }
    room.call_lost(lost).await;
    room.execute(&format!(
        "update postroad.process
         set stopped_at = stopped_at - interval '25 hours', lost_at = lost_at - interval '25 hours'
         where id <> {recent}"
    ))
    .await;

    assert_eq!(room.store.prune_processes().await.unwrap(), 2);

    let left = "select array_agg(id order by id) from postroad.process";
    let mut expected = [room.scheduler, room.worker, named, recent];
    expected.sort();
    let left: Vec<i64> = room.value(left).await;
    let left: Vec<ProcessId> = left.into_iter().map(ProcessId::from).collect();
    assert_eq!(left, expected);
    room.finish(job, Ending::Completed(None)).await;
    assert_eq!(room.store.prune_processes().await.unwrap(), 1);
}

/// As if the last pruner had run six days ago.
async fn drop_days_ahead(room: &Room) {
    room.execute(
        "do $$ declare child text; begin
            for child in select p.child from postroad.partitions() p
                where day > (now() at time zone 'UTC')::date + 1 loop
                execute format('drop table postroad.%I', child);
            end loop;
        end $$",
    )
    .await;
}

#[tokio::test]
async fn timelines_forget_what_has_ended_and_nothing_that_is_shown() {
    let room = Room::open().await;
    let fill = "
        insert into postroad.timeline_entry (tenant_id, recipient, id, created_at, ends_at, message)
        select 1, 'r' || n, gen_random_uuid(), now() - interval '9 days',
               now() + case when n <= 3 then interval '-1 second' else interval '1 hour' end, '{}'
        from generate_series(1, 5) n;
        insert into postroad.timeline_reader (tenant_id, recipient, marked_on)
        select 1, 'r' || n, current_date - case when n <= 2 then 369 else 366 end
        from generate_series(1, 4) n;
        insert into postroad.announcement
            (id, tenant_id, fingerprint, content, rules, starts_at, ends_at, withdrawn_at, created_by)
        select gen_random_uuid(), 1, '', '{}', '{}', now() - interval '99 days', now() + ends,
               now() + withdrawn, 'test'
        from (values (interval '-31 days', null::interval), ('-29 days', null), ('1 day', '-31 days'),
                     ('1 day', '-29 days'), ('1 day', null)) a(ends, withdrawn)";
    room.sql.batch_execute(fill).await.unwrap();

    let store = &room.store;
    let keep = 30 * DAY;
    for (entries, readers, announcements) in [(2, 2, 2), (1, 0, 0), (0, 0, 0)] {
        assert_eq!(store.prune_entries(2).await.unwrap(), entries);
        assert_eq!(store.prune_readers(2).await.unwrap(), readers);
        assert_eq!(
            store.prune_announcements(keep, 2).await.unwrap(),
            announcements
        );
    }
    let left = "
        select (select count(*) from postroad.timeline_entry where ends_at > now())
             + (select count(*) from postroad.timeline_reader)
             + (select count(*) from postroad.announcement)";
    assert_eq!(room.value::<i64>(left).await, 2 + 2 + 3);
}
