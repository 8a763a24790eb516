//! The ledger: accepted is the sum over the states, per tenant, at every moment; and what is lost
//! or doubled behind its back shows, with its id.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use postroad_common::audit::{Audit, Check, Finding};
use postroad_common::broker::{self, Broker, DepthReader};
use postroad_common::config::Env;
use postroad_common::job::retry::Verdict;
use postroad_common::job::{JobId, NewJob};
use postroad_common::store::{
    Account, COMPLETE_IN_TRANSACTION, Ending, Fenced, Moved, Outcome, QueuePipe, Resolution, Ruling,
};
use postroad_migrations::migrate;
use postroad_tests::harness::database::TestDatabase;
use postroad_tests::harness::eventually::eventually;
use tokio::sync::watch;

use crate::store_fixture::{ALL, Room, failed, id, job, job_to_hold};

/// The account of a tenant, which must be balanced.
async fn balanced(room: &Room, tenant: &str) -> Account {
    let account = account(room, tenant).await;
    assert!(account.balanced, "{account:?}");
    assert_eq!(account.difference(), 0);
    account
}

async fn account(room: &Room, tenant: &str) -> Account {
    let mut ledger = room.store.ledger(Some(tenant)).await.unwrap();
    assert_eq!(ledger.accounts.len(), 1, "{ledger:?}");
    ledger.accounts.remove(0)
}

fn of_tenant(tenant: &str, job: NewJob) -> NewJob {
    NewJob {
        tenant: tenant.parse().unwrap(),
        ..job
    }
}

/// What an auditor finds, over the broker that the tests have.
fn audit(room: &Room) -> Audit {
    let mut env = Env::of_process();
    let broker = Broker::new(broker::Settings::read(&mut env), "test".to_owned());
    Audit::new(room.store.clone(), DepthReader::new(broker))
}

/// The only finding of a check.
fn only(findings: &[Finding], check: Check) -> &Finding {
    let mut of_check = findings.iter().filter(|finding| finding.check == check);
    let only = of_check.next();
    assert!(of_check.next().is_none(), "{findings:?}");
    only.unwrap_or_else(|| panic!("{check:?} is not among {findings:?}"))
}

// === What keeps it balanced ===

#[tokio::test]
async fn every_state_and_every_end_is_counted_for_its_tenant() {
    let room = Room::open().await;
    let neighbour = of_tenant("neighbour", job());
    room.enqueue(neighbour).await;
    let acme = |job| of_tenant("acme", job);

    let completed = room.running(acme(job())).await;
    room.finish(completed, Ending::Completed(None)).await;
    let dead = room.running(acme(job())).await;
    room.finish(dead, failed()).await;
    bury(&room, dead).await;
    let late_in_pipe = room.dispatched(acme(job())).await;
    let late = room.enqueue(acme(job())).await;
    let_expire(&room, &[late_in_pipe.id, late]).await;
    room.start(late_in_pipe).await;
    assert_eq!(room.store.expire(ALL).await.unwrap(), 1);
    for verdict in [Resolution::Completed, Resolution::Dead] {
        let held = held(&room, acme(job_to_hold())).await;
        let resolved = room.store.resolve(&[held.id], verdict).await.unwrap();
        assert_eq!(resolved, [held.id]);
    }
    let unfinished = balanced(&room, "acme").await;
    assert_eq!(unfinished.known(), 6, "{unfinished:?}");

    held(&room, acme(job_to_hold())).await;
    let failing = room.running(acme(job())).await;
    room.finish(failing, failed()).await;
    room.running(acme(job())).await;
    room.dispatched(acme(job())).await;
    room.enqueue(acme(job())).await;

    let expected = Account {
        tenant: "acme".to_owned(),
        accepted: 11,
        scheduled: 1,
        dispatched: 1,
        running: 1,
        failed: 1,
        held: 1,
        completed: 2,
        dead: 2,
        cancelled: 0,
        expired: 2,
        balanced: true,
        shed: 0,
    };
    assert_eq!(account(&room, "acme").await, expected);
    assert!(room.store.fold_ledger(ALL).await.unwrap() > 0);
    assert_eq!(room.store.fold_ledger(ALL).await.unwrap(), 0);
    assert_eq!(account(&room, "acme").await, expected);
    assert_eq!(balanced(&room, "neighbour").await.accepted, 1);
}

#[tokio::test]
async fn an_enqueue_that_rolls_back_is_not_counted() {
    let room = Room::open().await;
    let mut producer = room.database.client().await;
    let tx = producer.transaction().await.unwrap();
    let sql = "select postroad.enqueue('echo') from generate_series(1, 3)";
    tx.query(sql, &[]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(balanced(&room, "default").await.accepted, 0);

    let tx = producer.transaction().await.unwrap();
    tx.query(sql, &[]).await.unwrap();
    assert_eq!(balanced(&room, "default").await.accepted, 0);
    tx.commit().await.unwrap();
    assert_eq!(balanced(&room, "default").await.accepted, 3);
}

#[tokio::test]
async fn a_job_that_is_there_already_is_not_counted_again() {
    let room = Room::open().await;
    let sql = "select postroad.enqueue('echo', dedup_key => 'order-17')";
    for _ in 0..2 {
        room.execute(sql).await;
    }
    let keyed = |key: &str| NewJob {
        dedup_key: Some(key.to_owned()),
        ..job()
    };
    let batch = [
        keyed("order-17"),
        keyed("order-18"),
        keyed("order-18"),
        job(),
    ];
    room.enqueue_all(&batch).await;
    assert_eq!(balanced(&room, "default").await.accepted, 3);

    // The same batch once more, because its answer was lost.
    room.store.enqueue(&batch, true).await.unwrap();
    assert_eq!(balanced(&room, "default").await.accepted, 3);
}

#[tokio::test]
async fn a_handlers_own_transaction_finishes_its_job_in_the_ledger_too() {
    let room = Room::open().await;
    let running = room.running(job()).await;
    let (ids, fences) = (vec![*running.id.as_uuid()], vec![running.dispatch]);
    let results: Vec<Option<&str>> = vec![None];

    let mut handler = room.database.client().await;
    let tx = handler.transaction().await.unwrap();
    let gone = tx
        .query(COMPLETE_IN_TRANSACTION, &[&ids, &fences, &results])
        .await;
    assert_eq!(gone.unwrap().len(), 1);
    assert_eq!(balanced(&room, "default").await.running, 1);
    tx.commit().await.unwrap();

    assert_eq!(balanced(&room, "default").await.completed, 1);
}

/// Producers, a dispatcher, finishers and three folders at once; whoever looks sees a balance.
#[tokio::test]
async fn it_is_balanced_at_every_look_while_everybody_works() {
    const BATCHES: usize = 20;
    const BATCH: usize = 25;
    let room = Room::open().await;
    let (done, ended) = watch::channel(false);

    let producing = async {
        for n in 0..BATCHES {
            let tenant = format!("tenant-{}", n % 3);
            let jobs: Vec<_> = (0..BATCH).map(|_| of_tenant(&tenant, job())).collect();
            room.enqueue_all(&jobs).await;
        }
    };
    let finishing = async {
        let mut finished = 0;
        while finished < BATCHES * BATCH {
            let due = room.store.due_queues(&[]).await.unwrap();
            let Some(queue) = due.first() else { continue };
            let claims = room.claim(queue, 40).await;
            let fences: Vec<_> = claims.iter().map(crate::store_fixture::fence).collect();
            room.store.gate(room.worker, &fences).await.unwrap();
            let outcome = |job: &Fenced| Outcome {
                job: *job,
                ending: Ending::Completed(None),
            };
            let outcomes: Vec<_> = fences.iter().map(outcome).collect();
            let moved = room.store.finish(&outcomes).await.unwrap();
            assert!(moved.iter().all(|moved| *moved == Moved::Completed));
            finished += moved.len();
        }
        done.send_replace(true);
    };
    let folding = async || {
        while !*ended.borrow() {
            room.store.fold_ledger(7).await.unwrap();
        }
    };
    let looking = async {
        let mut looks = 0;
        while !*ended.borrow() {
            let ledger = room.store.ledger(None).await.unwrap();
            for account in &ledger.accounts {
                assert!(account.balanced, "look {looks}: {account:?}");
            }
            looks += 1;
        }
        looks
    };
    let folders = join_all((0..3).map(|_| folding()));
    let ((), (), _, looks) = tokio::join!(producing, finishing, folders, looking);

    assert!(looks > 10, "{looks} looks");
    while room.store.fold_ledger(ALL).await.unwrap() > 0 {}
    let completed = room.store.ledger(None).await.unwrap().accounts;
    let completed: i64 = completed.iter().map(|one| one.completed).sum();
    assert_eq!(completed as usize, BATCHES * BATCH);
    let sql = "select sum(accepted)::bigint from postroad.ledger_total";
    assert_eq!(room.value::<i64>(sql).await as usize, BATCHES * BATCH);
}

#[tokio::test]
async fn folders_at_once_fold_each_entry_once() {
    let room = Room::open().await;
    for _ in 0..60 {
        room.execute("select postroad.enqueue('echo')").await;
    }

    let folders = (0..6).map(|_| room.store.fold_ledger(10));
    let folded = try_join_all(folders).await.unwrap();

    let left: i64 = room
        .value("select count(*) from postroad.ledger_entry")
        .await;
    assert_eq!(folded.iter().sum::<i64>() + left, 60);
    assert_eq!(balanced(&room, "default").await.accepted, 60);
}

#[tokio::test]
async fn dropped_partitions_stay_counted() {
    let room = Room::open().await;
    for _ in 0..3 {
        let job = room.running(job()).await;
        room.finish(job, Ending::Completed(None)).await;
    }
    room.execute(
        "do $$ declare child text; begin
            for child in select p.child from postroad.partitions() p where parent = 'archive' loop
                execute format('drop table postroad.%I', child);
            end loop;
        end $$",
    )
    .await;

    let account = balanced(&room, "default").await;
    assert_eq!((account.accepted, account.completed), (3, 3));
}

#[tokio::test]
async fn jobs_that_their_queue_forgets_stay_counted() {
    let room = Room::open().await;
    let acme = |job| of_tenant("acme", job);
    let completed = room.running(acme(job())).await;
    room.finish(completed, Ending::Completed(None)).await;
    let dead = room.running(acme(job())).await;
    room.finish(dead, failed()).await;
    bury(&room, dead).await;
    let cancelled = room.enqueue(acme(job())).await;
    room.store.cancel(&[cancelled]).await.unwrap();
    room.enqueue(acme(job())).await;
    room.finished_days_ago(&[completed.id, dead.id, cancelled], 3)
        .await;
    let before = balanced(&room, "acme").await;
    assert_eq!(
        (before.completed, before.dead, before.cancelled),
        (1, 1, 1),
        "{before:?}"
    );

    room.execute("update postroad.queue set retention_days = 2")
        .await;
    assert_eq!(room.forget().await, 3);

    assert_eq!(balanced(&room, "acme").await, before);
    let left: i64 = room.value("select count(*) from postroad.archive").await;
    assert_eq!(left, 0);
}

/// The documented way back: out of the archive, into the live table under the old fence.
#[tokio::test]
async fn a_job_that_lives_again_is_dead_no_more_and_not_accepted_again() {
    let mut room = Room::open().await;
    let dead = room.running(job()).await;
    room.finish(dead, failed()).await;
    bury(&room, dead).await;
    assert_eq!(balanced(&room, "default").await.dead, 1);

    let tx = room.sql.transaction().await.unwrap();
    let sql = "with back as (
            delete from postroad.archive where id = $1 and state = 'dead' returning *)
        insert into postroad.job (id, dispatch, queue_id, kind_id, tenant_id, args)
        select id, greatest(dispatch, 1), queue_id, kind_id, tenant_id, args from back";
    tx.execute(sql, &[dead.id.as_uuid()]).await.unwrap();
    tx.commit().await.unwrap();

    let account = balanced(&room, "default").await;
    assert_eq!(
        (account.accepted, account.scheduled, account.dead),
        (1, 1, 0)
    );
    let again = room.claim_all().await[0];
    assert_eq!((again.id, again.dispatch), (dead.id, dead.dispatch + 1));
    room.start(again).await;
    room.finish(again, Ending::Completed(None)).await;
    assert_eq!(balanced(&room, "default").await.completed, 1);
}

#[tokio::test]
async fn a_database_of_the_first_version_opens_balanced() {
    let database = TestDatabase::create_empty().await;
    let mut client = database.client().await;
    let first = include_str!("../../migrations/sql/V1__core.sql");
    client
        .batch_execute(&format!("create schema postroad; {first}"))
        .await
        .unwrap();
    // Migrated by the program of that time: its history is the first line of today's.
    client
        .batch_execute(
            "create table postroad.schema_history (version int4 primary key, name varchar(255),
                applied_on varchar(255), checksum varchar(255));
             select postroad.enqueue('echo') from generate_series(1, 3);
             select postroad.enqueue('echo', tenant => 'acme');
             with gone as (
                 delete from postroad.job where id in (
                     select id from postroad.job where tenant_id = 1 limit 1) returning *)
             insert into postroad.archive (id, state, priority, attempt, dispatch, queue_id, kind_id,
                 tenant_id, run_at, created_at)
             select id, 'completed', priority, attempt, dispatch, queue_id, kind_id,
                 tenant_id, run_at, created_at from gone",
        )
        .await
        .unwrap();
    let today = TestDatabase::create().await;
    let of_today = today.client().await;
    let sql = "select name, applied_on, checksum from postroad.schema_history where version = 1";
    let row = of_today.query_one(sql, &[]).await.unwrap();
    let texts = [0, 1, 2].map(|n| row.get::<_, String>(n));
    let sql = "insert into postroad.schema_history values (1, $1, $2, $3)";
    client
        .execute(sql, &[&texts[0], &texts[1], &texts[2]])
        .await
        .unwrap();

    migrate(&mut client).await.unwrap();

    let ledger = database.store().ledger(None).await.unwrap();
    let seen = |one: &Account| {
        (
            one.tenant.clone(),
            one.accepted,
            one.completed,
            one.balanced,
        )
    };
    let seen: Vec<_> = ledger.accounts.iter().map(seen).collect();
    let expected = [
        ("acme".to_owned(), 1, 0, true),
        ("default".to_owned(), 3, 1, true),
    ];
    assert_eq!(seen, expected);
    client
        .batch_execute("select postroad.enqueue('echo', tenant => 'acme')")
        .await
        .unwrap();
    let ledger = database.store().ledger(Some("acme")).await.unwrap();
    assert_eq!(
        (ledger.accounts[0].accepted, ledger.accounts[0].balanced),
        (2, true)
    );
}

// === What does not ===

#[tokio::test]
async fn a_row_deleted_behind_its_back_is_an_alarm_with_the_ids_that_are_known() {
    let room = Room::open().await;
    let sql = "select postroad.enqueue('echo', dedup_key => 'order-17')";
    let lost = id(room.value(sql).await);
    room.enqueue_all(&[job(), job()]).await;
    let mut audit = audit(&room);
    assert!(!audit.look(None).await.unwrap().has_alarm());

    room.execute(&format!("delete from postroad.job where id = '{lost}'"))
        .await;

    let account = account(&room, "default").await;
    assert_eq!((account.balanced, account.difference()), (false, -1));
    for _ in 0..2 {
        let look = audit.look(None).await.unwrap();
        assert!(look.has_alarm());
        let alarm = only(&look.findings, Check::Conservation);
        assert_eq!((alarm.subject.as_str(), alarm.count), ("default", -1));
        assert_eq!(alarm.ids, [lost]);
    }
    room.store.fold_ledger(ALL).await.unwrap();
    assert!(!self::account(&room, "default").await.balanced);
}

/// Its dedup key outlives it, and so do its errors: that these name it says nothing.
#[tokio::test]
async fn a_job_that_its_queue_has_forgotten_is_not_taken_for_the_lost_one() {
    let room = Room::open().await;
    let five_days_ago = uuid::Timestamp::from_unix(
        uuid::NoContext,
        jiff::Timestamp::now().as_second() as u64 - 5 * 24 * 60 * 60,
        0,
    );
    let forgotten = NewJob {
        id: id(uuid::Uuid::new_v7(five_days_ago)),
        dedup_key: Some("order-16".to_owned()),
        ..job()
    };
    let forgotten = room.running(forgotten).await;
    room.finish(forgotten, failed()).await;
    bury(&room, forgotten).await;
    room.finished_days_ago(&[forgotten.id], 5).await;
    let sql = "select postroad.enqueue('echo', dedup_key => 'order-17')";
    let lost = id(room.value(sql).await);
    room.execute("update postroad.queue set retention_days = 4")
        .await;

    assert_eq!(room.forget().await, 1);
    assert!(!audit(&room).look(None).await.unwrap().has_alarm());
    room.execute(&format!("delete from postroad.job where id = '{lost}'"))
        .await;

    let named =
        "select count(*) from postroad.dedup d join postroad.attempt_error e using (job_id)";
    assert_eq!(room.value::<i64>(named).await, 1);
    for taken_away in [false, true] {
        if taken_away {
            room.execute("update postroad.queue set retention_days = null")
                .await;
        }
        let look = audit(&room).look(None).await.unwrap();
        let alarm = only(&look.findings, Check::Conservation);
        assert_eq!((alarm.count, alarm.ids.as_slice()), (-1, &[lost][..]));
    }
}

#[tokio::test]
async fn a_finished_row_deleted_behind_its_back_is_an_alarm() {
    let room = Room::open().await;
    let lost = room.running(job()).await;
    room.finish(lost, failed()).await;
    bury(&room, lost).await;
    room.execute("delete from postroad.archive").await;

    let look = audit(&room).look(None).await.unwrap();
    let alarm = only(&look.findings, Check::Conservation);
    assert_eq!((alarm.count, alarm.ids.as_slice()), (-1, &[lost.id][..]));
}

#[tokio::test]
async fn a_job_that_exists_twice_is_an_alarm_with_its_id() {
    let room = Room::open().await;
    let twice = room.running(job()).await;
    room.finish(twice, Ending::Completed(None)).await;
    let both = room.running(job()).await;
    room.execute("insert into postroad.archive select * from postroad.archive")
        .await;
    room.execute(&format!(
        "insert into postroad.archive
            (id, state, priority, attempt, dispatch, queue_id, kind_id, tenant_id, run_at, created_at)
         select id, 'completed', priority, attempt, dispatch, queue_id, kind_id, tenant_id, run_at,
            created_at from postroad.job where id = '{}'",
        both.id
    ))
    .await;

    let mut audit = audit(&room);
    for _ in 0..2 {
        let look = audit.look(None).await.unwrap();
        let doubled = only(&look.findings, Check::Doubled);
        assert_eq!(
            (doubled.count, doubled.ids.as_slice()),
            (2, &[twice.id, both.id][..])
        );
        let surplus = only(&look.findings, Check::Conservation);
        assert_eq!((surplus.count, &surplus.ids), (2, &doubled.ids));
    }
}

#[tokio::test]
async fn the_walk_finds_a_pair_wherever_it_is_and_does_not_tear_it() {
    let room = Room::open().await;
    let jobs: Vec<_> = (0..9).map(|_| job()).collect();
    let mut ids = room.enqueue_all(&jobs).await;
    ids.sort();
    let fences = room.claim_all().await;
    room.store.gate(room.worker, &fences).await.unwrap();
    let outcome = |job: Fenced| Outcome {
        job,
        ending: Ending::Completed(None),
    };
    let outcomes: Vec<_> = fences.into_iter().map(outcome).collect();
    room.store.finish(&outcomes).await.unwrap();
    for (n, doubled) in ids.iter().enumerate().take(6) {
        let copy = format!(
            "insert into postroad.archive select * from postroad.archive where id = '{doubled}'"
        );
        room.execute(&copy).await;

        let (mut from, mut found, mut steps) = (None, Vec::new(), 0);
        loop {
            let step = room.store.doubled(from, 3, &[]).await.unwrap();
            found.extend(step.ids);
            steps += 1;
            match step.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }

        found.dedup();
        assert!(found.contains(doubled), "pair {n}: {found:?}");
        assert!(steps > 3, "{steps} steps");
        let known = room.store.doubled(None, 1, &[*doubled]).await.unwrap();
        assert!(known.ids.contains(doubled));
        room.execute(&format!(
            "delete from postroad.archive where ctid in (
                select ctid from postroad.archive where id = '{doubled}' limit 1)"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_job_that_no_rescuer_takes_out_of_the_pipe_is_an_alarm_with_its_id() {
    let room = Room::open().await;
    let lost = room.dispatched(job()).await;
    let orphan = room.running(job()).await;
    room.dispatched(job()).await;
    let mut audit = audit(&room);
    room.execute(&format!(
        "update postroad.job set claimed_at = now() - interval '91 s' where id = '{}';
         update postroad.process set lost_at = now() - interval '31 s' where id = {}",
        lost.id, room.worker
    ))
    .await;
    let pipe = |queues: Vec<QueuePipe>| queues.into_iter().find(|one| one.queue == "default");
    let seen = pipe(room.store.pipe(Duration::from_secs(30)).await.unwrap()).unwrap();
    assert_eq!((seen.dispatched, seen.running), (2, 1));
    assert_eq!(
        seen.stuck, 0,
        "a scheduler that has just started is given time"
    );
    room.execute("update postroad.process set started_at = now() - interval '31 s'")
        .await;

    let first = audit.look(None).await.unwrap();
    assert!(!first.has_alarm(), "{:?}", first.findings);
    let audit = tokio::sync::Mutex::new(audit);
    let alarm = eventually("a later look confirms it", async || {
        let look = audit.lock().await.look(None).await?;
        anyhow::ensure!(look.has_alarm());
        Ok(only(&look.findings, Check::Stuck).clone())
    })
    .await
    .unwrap();

    assert_eq!((alarm.subject.as_str(), alarm.count), ("default", 2));
    assert_eq!(alarm.ids, [lost.id, orphan.id]);
    room.execute("update postroad.process set stopped_at = now() where role = 'scheduler'")
        .await;
    let look = audit.lock().await.look(None).await.unwrap();
    assert!(!look.has_alarm(), "without a scheduler nothing is expected");
}

#[tokio::test]
async fn a_tenant_that_nobody_knows_has_no_account() {
    let room = Room::open().await;
    let ledger = room.store.ledger(Some("nobody")).await.unwrap();
    assert!(ledger.accounts.is_empty());
    assert!(ledger.at > jiff::Timestamp::UNIX_EPOCH);
}

async fn bury(room: &Room, job: Fenced) {
    let verdict = Verdict::Dead("fatal");
    let ruled = room.store.rule(&[Ruling { job, verdict }]).await.unwrap();
    assert_eq!(ruled, 1);
}

async fn held(room: &Room, job: NewJob) -> Fenced {
    let job = room.running(job).await;
    let moved = room.finish(job, crate::store_fixture::unknown()).await;
    assert_eq!(moved, Moved::Held);
    job
}

/// Moves `expires_at` into the past: the clock is the database's and cannot be moved instead.
async fn let_expire(room: &Room, ids: &[JobId]) {
    let ids: Vec<_> = ids.iter().map(|id| *id.as_uuid()).collect();
    let sql = "update postroad.job set expires_at = now() - interval '1 s' where id = any($1)";
    room.sql.execute(sql, &[&ids]).await.unwrap();
}
