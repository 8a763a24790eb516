//! Full queues, as the store sheds them.

use std::time::Duration;

use postroad_common::job::NewJob;
use postroad_common::store::{Buffer, OnFull, QueueChange, Waiting};

use crate::store_fixture::{ALL, Room, job};

fn of(tenant: &str, priority: i16) -> NewJob {
    NewJob {
        tenant: tenant.parse().unwrap(),
        priority: Some(priority),
        ..job()
    }
}

impl Room {
    async fn with_buffer(waiting_max: i32, on_full: OnFull) -> Self {
        let room = Self::open().await;
        room.execute("select postroad.queue_id('default')").await;
        let change = QueueChange {
            waiting_max: Some(Some(waiting_max)),
            on_full: Some(on_full),
            ..QueueChange::default()
        };
        assert!(room.store.set_queue("default", &change).await.unwrap());
        room
    }

    async fn buffer(&self) -> Buffer {
        self.store.buffers().await.unwrap().remove(0)
    }
}

#[tokio::test]
async fn the_oldest_of_whom_is_named_are_shed_and_the_ledger_says_so() {
    let room = Room::with_buffer(5, OnFull::Drop).await;
    let acme = room
        .enqueue_all(&[of("acme", 2), of("acme", 2), of("acme", 2)])
        .await;
    let other = room.enqueue(of("acme", 1)).await;
    let beta = room.enqueue(of("beta", 2)).await;
    let buffer = room.buffer().await;
    let waiting = room.store.waiting(buffer.queue_id).await.unwrap();
    let mut jobs: Vec<_> = waiting.iter().map(|one| (one.priority, one.jobs)).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, [(1, 1), (2, 1), (2, 3)]);
    let most = waiting.iter().max_by_key(|one| one.jobs).unwrap();

    let victims = [Waiting { jobs: 2, ..*most }];
    let shed = room.store.drop_waiting(buffer.queue_id, &victims);
    assert_eq!(shed.await.unwrap(), 2);

    for (n, id) in acme.iter().enumerate() {
        let expected = if n < 2 { "cancelled" } else { "scheduled" };
        assert_eq!(room.state(*id).await, expected, "{n}");
    }
    for id in [other, beta] {
        assert_eq!(room.state(id).await, "scheduled");
    }
    let ledger = room.store.ledger(Some("acme")).await.unwrap();
    let account = &ledger.accounts[0];
    assert_eq!((account.cancelled, account.shed), (2, 2));
    assert!(account.balanced);
    assert_eq!(room.look::<String>(acme[0], "reason").await, "shed");
    // Also when it is folded.
    room.store.fold_ledger(ALL).await.unwrap();
    let ledger = room.store.ledger(Some("acme")).await.unwrap();
    assert_eq!(ledger.accounts[0].shed, 2);
}

#[tokio::test]
async fn what_is_deferred_is_due_later_and_not_finished() {
    let room = Room::with_buffer(1, OnFull::Defer).await;
    let ids = room.enqueue_all(&[of("acme", 1), of("acme", 1)]).await;
    let buffer = room.buffer().await;
    let waiting = room.store.waiting(buffer.queue_id).await.unwrap();
    let victims = [Waiting {
        jobs: 1,
        ..waiting[0]
    }];
    let delay = Duration::from_secs(60);
    let deferred = room.store.defer_waiting(buffer.queue_id, &victims, delay);
    assert_eq!(deferred.await.unwrap(), 1);
    let wait: f64 = room
        .look(ids[0], "extract(epoch from run_at - now())::float8")
        .await;
    assert!((55.0..=120.0).contains(&wait), "{wait}");
    let claimed = room.claim_all().await;
    assert_eq!(
        claimed.iter().map(|job| job.id).collect::<Vec<_>>(),
        [ids[1]]
    );
}

#[tokio::test]
async fn of_each_key_the_newest_is_kept() {
    let room = Room::with_buffer(1, OnFull::Coalesce).await;
    let with_key = |tenant, key: Option<&str>| NewJob {
        coalesce_key: key.map(str::to_owned),
        ..of(tenant, 1)
    };
    let jobs = [
        with_key("acme", Some("score")),
        with_key("acme", None),
        with_key("acme", Some("news")),
        with_key("acme", Some("score")),
        with_key("beta", Some("score")),
        with_key("acme", Some("score")),
    ];
    let ids = room.enqueue_all(&jobs).await;
    let buffer = room.buffer().await;
    let coalesce = async |limit| {
        let shed = room.store.coalesce_waiting(buffer.queue_id, limit);
        shed.await.unwrap()
    };
    assert_eq!(
        (coalesce(1).await, coalesce(ALL).await, coalesce(ALL).await),
        (1, 1, 0)
    );
    let mut states = Vec::new();
    for id in ids {
        states.push(room.state(id).await == "cancelled");
    }
    assert_eq!(states, [true, false, false, true, false, false]);
}

#[tokio::test]
async fn one_scheduler_at_a_time_sheds_and_another_one_when_it_is_gone() {
    let room = Room::with_buffer(1, OnFull::Drop).await;
    let id = room.buffer().await.queue_id;
    let begin = async |seconds| {
        let time = Duration::from_secs(seconds);
        room.store.begin_shedding(id, time).await.unwrap()
    };
    assert!(begin(20).await);
    assert!(!begin(20).await);
    room.store.end_shedding(id).await.unwrap();
    assert!(begin(0).await);
    assert!(begin(20).await, "the one before is over");
}

/// In the caller's own transaction, too: that is what it has asked for.
#[tokio::test]
async fn nothing_comes_into_a_queue_that_rejects_and_is_full() {
    let room = Room::with_buffer(1, OnFull::Reject).await;
    let buffer = room.buffer().await;
    let enqueue = async || room.sql.query("select postroad.enqueue('echo')", &[]).await;
    assert!(enqueue().await.is_ok());
    assert!(room.store.set_full(buffer.queue_id, true).await.unwrap());
    assert!(!room.store.set_full(buffer.queue_id, true).await.unwrap());
    assert_eq!(room.store.full_queues().await.unwrap(), ["default"]);
    let refused = enqueue().await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "53400");
    assert!(
        refused.message().contains("\"default\" is full"),
        "{refused}"
    );

    let change = QueueChange {
        on_full: Some(OnFull::Drop),
        ..QueueChange::default()
    };
    assert!(room.store.set_queue("default", &change).await.unwrap());
    assert!(room.buffer().await.is_full, "a scheduler opens it");
    assert!(room.store.set_full(buffer.queue_id, false).await.unwrap());
    assert!(!room.store.set_full(buffer.queue_id, true).await.unwrap());
    assert!(enqueue().await.is_ok());
}
