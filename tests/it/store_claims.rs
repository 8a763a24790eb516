//! What the dispatcher takes into the pipe: only what is due, no more than the window, in turn.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use postroad_common::job::{JobId, NewJob, RunAt};
use postroad_common::store::{Cursor, Ending, Fenced, Outcome, TenantChange, Wanted};

use crate::store_fixture::{ALL, Room, fence, job};

#[tokio::test]
async fn a_job_is_not_claimed_before_it_is_due() {
    let room = Room::open().await;
    let due = room.enqueue(job()).await;
    let run_at = RunAt::After(Duration::from_secs(3600));
    let later = room.enqueue(NewJob { run_at, ..job() }).await;

    let queue = room.due_queue("default").await;
    let claims = room.claim(&queue, ALL).await;

    assert_eq!(
        claims.iter().map(|claim| claim.id).collect::<Vec<_>>(),
        [due]
    );
    assert_eq!(room.state(later).await, "scheduled");
    assert!(room.store.due_queues(&[]).await.unwrap().is_empty());
    assert!(room.claim(&queue, ALL).await.is_empty());
}

#[tokio::test]
async fn a_claim_carries_what_its_message_needs() {
    let room = Room::open().await;
    let id = room
        .enqueue(NewJob {
            kind: "webhook".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            traceparent: Some("00-aa-bb-01".to_owned()),
            ..job()
        })
        .await;

    let claims = room.claim(&room.due_queue("default").await, 1).await;

    let [claim] = claims.as_slice() else {
        panic!("{claims:?}")
    };
    assert_eq!(
        (claim.id, claim.dispatch, claim.attempts_before),
        (id, 1, 0)
    );
    assert_eq!((&*claim.kind, &*claim.tenant), ("webhook", "acme"));
    assert_eq!(claim.traceparent.as_deref(), Some("00-aa-bb-01"));
    assert_eq!(claim.args, r#"{"n":1}"#);
    let age: f64 = room
        .value(&format!(
            "select extract(epoch from now())::float8 - {}",
            claim.claimed_at
        ))
        .await;
    assert!((0.0..60.0).contains(&age), "{age}");
}

#[tokio::test]
async fn within_a_tenant_priority_goes_first_and_then_the_due_time() {
    let room = Room::open().await;
    let now = Timestamp::now();
    let due = |priority, minutes_ago: i64| NewJob {
        priority: Some(priority),
        run_at: RunAt::At(now - minutes_ago.minutes()),
        ..job()
    };
    let jobs = [
        due(3, 50),
        due(1, 10),
        due(0, 1),
        due(1, 40),
        due(0, 5),
        due(2, 30),
    ];
    let ids = room.enqueue_all(&jobs).await;

    let queue = room.due_queue("default").await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(room.claim(&queue, 2).await.iter().map(|claim| claim.id));
    }

    assert_eq!(order, [4, 2, 3, 1, 5, 0].map(|n: usize| ids[n]));
}

#[tokio::test]
async fn tenants_get_equal_shares_however_much_one_of_them_has() {
    let room = Room::open().await;
    let of_tenant = |n: usize| NewJob {
        tenant: format!("tenant-{n}").parse().unwrap(),
        ..job()
    };
    let small = (1..50).flat_map(|n| (0..10).map(move |_| n));
    let jobs: Vec<_> = std::iter::repeat_n(0, 10_000)
        .chain(small)
        .map(of_tenant)
        .collect();
    room.enqueue_all(&jobs).await;

    let claims = room.claim(&room.due_queue("default").await, 200).await;

    let mut shares: HashMap<&str, usize> = HashMap::new();
    for claim in &claims {
        *shares.entry(&claim.tenant).or_default() += 1;
    }
    assert_eq!(shares.len(), 50);
    assert!(shares.values().all(|share| *share == 4), "{shares:?}");
}

#[tokio::test]
async fn tenants_share_a_window_by_their_weights() {
    let room = Room::open().await;
    let of_tenant = |name: &str| NewJob {
        tenant: name.parse().unwrap(),
        ..job()
    };
    let jobs = (0..2000).map(|n| of_tenant(["heavy", "light"][n % 2]));
    let jobs: Vec<_> = jobs.collect();
    room.enqueue_all(&jobs).await;
    window(&room, 1000).await;
    let weight = TenantChange {
        weight: Some(3),
        ..TenantChange::default()
    };
    assert!(room.store.set_tenant("heavy", &weight).await.unwrap());

    // Ten at a time: a number that three and one do not divide.
    let (queue, mut shares) = (room.due_queue("default").await, HashMap::new());
    loop {
        let claims = room.claim(&queue, 10).await;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            *shares.entry(claim.tenant.to_string()).or_insert(0) += 1;
        }
    }

    let (heavy, light) = (shares["heavy"], shares["light"]);
    assert_eq!(heavy + light, 1000, "{shares:?}");
    assert!((700..=800).contains(&heavy), "{shares:?}");
}

#[tokio::test]
async fn what_small_tenants_leave_goes_to_the_large_one() {
    let room = Room::open().await;
    let of_tenant = |name: &str| NewJob {
        tenant: name.parse().unwrap(),
        ..job()
    };
    let mut jobs = vec![of_tenant("large"); 300];
    jobs.push(of_tenant("small"));
    for job in &mut jobs {
        job.id = JobId::new();
    }
    room.enqueue_all(&jobs).await;

    let queue = room.due_queue("default").await;
    let mut claimed = 0;
    for _ in 0..3 {
        claimed += room.claim(&queue, 200 - claimed as i64).await.len();
    }

    assert_eq!(claimed, 200);
}

#[tokio::test]
async fn the_window_is_filled_exactly_and_refilled_by_what_has_ended() {
    let room = Room::open().await;
    room.enqueue_all(&jobs(300)).await;
    window(&room, 100).await;
    let queue = room.due_queue("default").await;

    let claims = room.claim(&queue, ALL).await;
    assert_eq!(claims.len(), 100);
    assert_eq!(room.claim(&queue, ALL).await.len(), 0);

    let ended: Vec<_> = claims.iter().map(fence).take(30).collect();
    complete(&room, &ended).await;
    assert_eq!(room.claim(&queue, ALL).await.len(), 30);
    assert_eq!(room.claim(&queue, ALL).await.len(), 0);
}

#[tokio::test]
async fn claimers_at_once_share_the_window_and_no_job() {
    let room = Room::open().await;
    room.enqueue_all(&jobs(1000)).await;
    window(&room, 100).await;
    let queue = room.due_queue("default").await;
    let (mut claimed, nothing) = (HashSet::new(), Cursor::default());

    for round in 1..=8 {
        let claims = (0..8).map(|_| {
            room.store
                .claim(&queue, Wanted::up_to(40), room.scheduler, &nothing)
        });
        let claims = futures_util::future::try_join_all(claims).await.unwrap();
        for claim in claims.iter().flatten().flat_map(|claimed| &claimed.jobs) {
            assert!(claimed.insert(claim.id), "{} was claimed twice", claim.id);
        }
        let in_pipe: i64 = room
            .value("select count(*) from postroad.job where stage = 1")
            .await;
        assert!(in_pipe <= 100, "{in_pipe} after round {round}");
    }

    assert_eq!(claimed.len(), 100);
}

#[tokio::test]
async fn nothing_is_claimed_from_a_paused_queue() {
    let room = Room::open().await;
    room.enqueue(job()).await;
    let queue = room.due_queue("default").await;
    room.execute("update postroad.queue set paused_at = now()")
        .await;

    assert!(room.store.due_queues(&[]).await.unwrap().is_empty());
    assert!(room.claim(&queue, ALL).await.is_empty());

    room.execute("update postroad.queue set paused_at = null")
        .await;
    assert_eq!(room.claim(&queue, ALL).await.len(), 1);
}

/// A scheduler that is called goes by what it knew of the queue.
#[tokio::test]
async fn a_claim_says_how_the_queue_is_set_now() {
    let room = Room::open().await;
    room.enqueue(job()).await;
    let known = room.due_queue("default").await;
    let change = "update postroad.queue set window_size = 77, pipe_ttl = interval '90 s' where name = 'default'";
    room.sql.batch_execute(change).await.unwrap();
    let claimed = room
        .store
        .claim(
            &known,
            Wanted::up_to(ALL),
            room.scheduler,
            &Cursor::default(),
        )
        .await;
    let queue = claimed.unwrap().unwrap().queue;
    assert_eq!(
        (queue.id, queue.name, queue.window, queue.pipe_ttl),
        (known.id, known.name, 77, Duration::from_secs(90))
    );
}

#[tokio::test]
async fn a_window_with_too_little_room_waits_for_more() {
    let room = Room::open().await;
    room.enqueue_all(&jobs(200)).await;
    window(&room, 100).await;
    let queue = room.due_queue("default").await;
    assert_eq!(room.claim(&queue, 90).await.len(), 90);

    let nothing = Cursor::default();
    let claim = |credit_min| {
        room.store.claim(
            &queue,
            Wanted {
                credit_min,
                ..Wanted::up_to(ALL)
            },
            room.scheduler,
            &nothing,
        )
    };
    assert!(claim(11).await.unwrap().is_none());
    let claimed = claim(10).await.unwrap().unwrap();
    assert_eq!(
        (claimed.jobs.len(), claimed.is_backlog, claimed.in_pipe),
        (10, true, 90)
    );
}

/// Jobs of three tenants and all priorities, claimed as a scheduler does under backlog.
#[tokio::test]
async fn claims_that_go_on_where_the_last_one_came_to_find_every_job_once() {
    let room = Room::open().await;
    let an_hour_ago = Timestamp::now() - 1.hour();
    let one = |n: i64| NewJob {
        tenant: ["acme", "beta", "gamma"][n as usize % 3].parse().unwrap(),
        priority: Some((n % 4) as i16),
        // Many of them at the same time.
        run_at: RunAt::At(match n % 5 {
            0 => an_hour_ago,
            _ => an_hour_ago + (n * 37 % 600).seconds(),
        }),
        ..job()
    };
    room.enqueue_all(&(0..600).map(one).collect::<Vec<_>>())
        .await;
    let queue = room.due_queue("default").await;
    let (mut seen, mut cursor) = (HashSet::new(), Cursor::default());

    while let Some(claimed) = room
        .store
        .claim(&queue, Wanted::up_to(50), room.scheduler, &cursor)
        .await
        .unwrap()
    {
        assert!(claimed.jobs.iter().all(|claim| seen.insert(claim.id)));
        cursor.advance(claimed.reached);
    }

    assert_eq!(seen.len(), 600);
}

/// So there must be claims without a cursor now and then.
#[tokio::test]
async fn what_comes_late_with_an_earlier_time_is_behind_the_cursor() {
    let room = Room::open().await;
    let at = |seconds: i64| NewJob {
        run_at: RunAt::At(Timestamp::now() - seconds.seconds()),
        ..job()
    };
    room.enqueue_all(&[at(10), at(9)]).await;
    let queue = room.due_queue("default").await;
    let claim = async |cursor: &Cursor| {
        let claimed = room
            .store
            .claim(&queue, Wanted::up_to(ALL), room.scheduler, cursor);
        claimed.await.unwrap().unwrap()
    };
    let first = claim(&Cursor::default()).await;
    assert_eq!(first.jobs.len(), 2);
    let late = room.enqueue(at(60)).await;
    let of_another_tenant = NewJob {
        tenant: "other".parse().unwrap(),
        ..at(60)
    };
    let urgent = NewJob {
        priority: Some(0),
        ..at(60)
    };
    let found = [
        room.enqueue(of_another_tenant).await,
        room.enqueue(urgent).await,
    ];

    let second = claim(&first.reached).await;

    let ids: HashSet<_> = second.jobs.iter().map(|claim| claim.id).collect();
    assert_eq!(ids, HashSet::from(found));
    let third = claim(&Cursor::default()).await;
    assert_eq!(third.jobs[0].id, late);
}

#[tokio::test]
async fn a_queue_that_is_known_to_have_a_backlog_is_not_looked_at() {
    let room = Room::open().await;
    room.enqueue(job()).await;
    let queue = room.due_queue("default").await;
    room.claim(&queue, ALL).await;
    assert!(room.store.due_queues(&[]).await.unwrap().is_empty());
    let known = async || room.store.due_queues(&[queue.id]).await.unwrap();
    assert_eq!(known().await.len(), 1);
    room.execute("update postroad.queue set paused_at = now()")
        .await;
    assert!(known().await.is_empty(), "it is paused");
}

#[tokio::test]
async fn an_expired_job_is_not_claimed() {
    let room = Room::open().await;
    let now = Timestamp::now();
    let late = NewJob {
        run_at: RunAt::At(now - 2.hours()),
        expires_at: Some(now - 1.hour()),
        ..job()
    };
    let late = room.enqueue(late).await;
    let in_time = NewJob {
        expires_at: Some(now + 1.hour()),
        ..job()
    };
    let in_time = room.dispatched(in_time).await;

    assert_eq!(room.state(in_time.id).await, "dispatched");
    assert_eq!(room.state(late).await, "scheduled");
    assert_eq!(room.store.expire(ALL).await.unwrap(), 1);
    assert_eq!(room.state(late).await, "expired");
}

#[tokio::test]
async fn every_claim_raises_the_fence_by_one() {
    let room = Room::open().await;
    room.enqueue(job()).await;

    for dispatch in 1..=3 {
        let [claimed] = room.claim_all().await[..] else {
            panic!("one job is due")
        };
        assert_eq!(claimed.dispatch, dispatch);
        room.store
            .release(&[(claimed, Duration::ZERO)])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn only_an_unstarted_claim_of_the_same_fence_is_released() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;
    let release = async |dispatch| {
        let job = Fenced { dispatch, ..job };
        room.store.release(&[(job, Duration::ZERO)]).await.unwrap()
    };

    assert_eq!(release(0).await, []);
    assert_eq!(release(2).await, []);
    assert_eq!(room.state(job.id).await, "dispatched");
    room.start(job).await;
    assert_eq!(release(1).await, []);
    assert_eq!(room.state(job.id).await, "running");
}

#[tokio::test]
async fn a_released_job_keeps_its_time_or_waits_as_long_as_told_and_is_not_charged() {
    let room = Room::open().await;
    let at = Timestamp::now() - 5.minutes();
    let first = room
        .dispatched(NewJob {
            run_at: RunAt::At(at),
            ..job()
        })
        .await;
    let second = room.dispatched(job()).await;

    let told = [(first, Duration::ZERO), (second, Duration::from_secs(600))];
    let released = room.store.release(&told).await.unwrap();

    assert_eq!(
        HashSet::from_iter(released),
        HashSet::from([first.id, second.id])
    );
    let kept: Timestamp = room.look(first.id, "run_at").await;
    assert_eq!(kept.as_millisecond(), at.as_millisecond());
    let wait: f64 = room
        .look(second.id, "extract(epoch from run_at - now())::float8")
        .await;
    assert!((540.0..=600.0).contains(&wait), "{wait}");
    assert_eq!(room.look::<i32>(second.id, "attempt").await, 0);
}

/// Without statistics the planner thinks that the table is empty; nobody may pay for that.
#[tokio::test]
async fn a_million_jobs_in_the_future_cost_a_claim_nothing() {
    let mut room = Room::open().await;
    room.execute("alter table postroad.job set (autovacuum_enabled = false)")
        .await;
    let due = room.enqueue_all(&jobs(1000)).await;
    fill_the_future(&room).await;
    room.settle_statistics().await;
    let (seq_scans, entries_read) = scanned(&room).await;

    let queue = room.due_queue("default").await;
    let claims = room.claim(&queue, ALL).await;
    assert_eq!(claims.len(), due.len());
    let claims: Vec<_> = claims.iter().map(fence).collect();
    room.store.gate(room.worker, &claims).await.unwrap();
    complete(&room, &claims).await;
    room.settle_statistics().await;

    let (seq_scans_after, entries_read_after) = scanned(&room).await;
    assert_eq!(seq_scans_after, seq_scans);
    let read = entries_read_after - entries_read;
    assert!(
        (1000..20_000).contains(&read),
        "{read} index entries were read for 1,000 jobs"
    );
}

/// Three hundred thousand are as good as a million, and take a third of the time.
async fn fill_the_future(room: &Room) {
    room.execute(
        "insert into postroad.job (id, queue_id, kind_id, tenant_id, priority, run_at, args)
         select postroad.uuid_v7(), q.id, k.id, t.id, n % 4, now() + interval '1 day', '{}'
         from generate_series(1, 300000) n, postroad.queue q, postroad.kind k, postroad.tenant t
         where q.name = 'default' and k.name = 'echo' and t.name = 'default'",
    )
    .await;
}

/// How often the live table was read from end to end, and how many index entries were read.
async fn scanned(room: &Room) -> (i64, i64) {
    let sql = "select
        (select seq_scan from pg_stat_user_tables where relid = 'postroad.job'::regclass),
        (select sum(idx_tup_read)::bigint from pg_stat_user_indexes
         where relid = 'postroad.job'::regclass)";
    let row = room.sql.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

fn jobs(count: usize) -> Vec<NewJob> {
    std::iter::repeat_with(job).take(count).collect()
}

async fn window(room: &Room, size: i32) {
    let sql = format!("update postroad.queue set window_size = {size}");
    room.execute(&sql).await;
}

async fn complete(room: &Room, jobs: &[Fenced]) {
    room.store.gate(room.worker, jobs).await.unwrap();
    let ending = Ending::Completed(None);
    let outcome = |job: &Fenced| Outcome {
        job: *job,
        ending: ending.clone(),
    };
    let outcomes: Vec<_> = jobs.iter().map(outcome).collect();
    room.store.finish(&outcomes).await.unwrap();
}
