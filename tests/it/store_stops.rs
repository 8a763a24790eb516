//! Stops in the database: what they name does not begin, comes back when they are lifted, and is
//! cancelled where they say so; nothing else is touched.

use std::time::Duration;

use postroad_common::job::{JobState, NewJob, RunAt};
use postroad_common::store::{
    Cursor, Ending, Fenced, Gate, GateVerdict, JobQuery, Missing, Moved, Named, NewStop, Stop,
    StopMode, StopScope, Stopped, Swept, Wanted,
};
use postroad_tests::harness::eventually::eventually;

use crate::store_fixture::{ALL, Room, failed, job};

const FIRST: GateVerdict = GateVerdict::Start { attempt: 1 };

fn of_kind(kind: &str) -> StopScope {
    StopScope {
        kind: Some(kind.to_owned()),
        ..StopScope::default()
    }
}

fn of_queue(queue: &str) -> StopScope {
    StopScope {
        queue: Some(queue.to_owned()),
        ..StopScope::default()
    }
}

async fn of_tenant(room: &Room, name: &str) -> StopScope {
    StopScope {
        tenant: room.store.tenant_of_name(name).await.unwrap(),
        ..StopScope::default()
    }
}

async fn stop(room: &Room, scope: &StopScope, mode: StopMode) -> Stop {
    let new = NewStop {
        scope,
        mode,
        reason: "a test",
    };
    room.store.create_stop(&new).await.unwrap().unwrap()
}

fn tenants(name: &str) -> NewJob {
    NewJob {
        tenant: name.parse().unwrap(),
        ..job()
    }
}

fn webhook() -> NewJob {
    NewJob {
        kind: "webhook".parse().unwrap(),
        ..job()
    }
}

fn many(jobs: usize, one: impl Fn() -> NewJob) -> Vec<NewJob> {
    std::iter::repeat_with(one).take(jobs).collect()
}

/// Does what schedulers do for stops until nothing is left to be done.
async fn sweep(room: &Room) -> (usize, usize) {
    let (mut released, mut cancelled, mut last) = (0, 0, None);
    loop {
        let (back, next) = room.store.release_set_aside(last, 100).await.unwrap();
        last = next.filter(|_| back.has_more);
        let gone = room.store.sweep_cancelled(100).await.unwrap();
        released += back.released;
        cancelled += gone.cancelled;
        if !back.has_more && !gone.has_more {
            return (released, cancelled);
        }
    }
}

#[tokio::test]
async fn a_claim_sets_aside_what_is_stopped_and_takes_what_is_behind() {
    let room = Room::open().await;
    let stopped = room.enqueue_all(&many(30, webhook)).await;
    let free = room.enqueue_all(&many(3, job)).await;
    let it = stop(&room, &of_kind("webhook"), StopMode::Pause).await;
    assert_eq!(
        it.named,
        Some(Named {
            waiting: 30,
            in_pipe: 0,
            too_late: 0
        })
    );
    let queue = room.due_queue("default").await;

    let mut claimed = Vec::new();
    // Ten at a time: what is stopped uses up a claim, and is not met again.
    while let Some(met) = room
        .store
        .claim(
            &queue,
            Wanted::up_to(10),
            room.scheduler,
            &Cursor::default(),
        )
        .await
        .unwrap()
    {
        assert!(met.set_aside + met.jobs.len() <= 10, "{met:?}");
        claimed.extend(met.jobs.iter().map(|job| job.id));
    }

    assert_eq!(claimed.len(), 3);
    assert!(free.iter().all(|id| claimed.contains(id)));
    for id in &stopped {
        assert_eq!(room.state(*id).await, "scheduled");
    }
    let it = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(
        it.stopped,
        Stopped {
            waiting: 30,
            in_pipe: 0,
            prefetched: 0
        }
    );
    assert_eq!(it.named, Some(Named::default()));

    assert!(room.store.lift_stop(it.id).await.unwrap());
    assert!(!room.store.lift_stop(it.id).await.unwrap(), "it is over");
    assert_eq!(sweep(&room).await, (30, 0));
    assert_eq!(room.claim(&queue, ALL).await.len(), 30);
}

#[tokio::test]
async fn a_tenant_that_is_stopped_as_a_whole_costs_claims_nothing() {
    let room = Room::open().await;
    room.enqueue_all(&many(20, || tenants("acme"))).await;
    room.enqueue_all(&many(20, || tenants("other"))).await;
    let scope = of_tenant(&room, "acme").await;
    let it = stop(&room, &scope, StopMode::Pause).await;
    let queue = room.due_queue("default").await;

    let claims = room.claim(&queue, ALL).await;

    assert_eq!(claims.len(), 20);
    assert!(claims.iter().all(|claim| &*claim.tenant == "other"));
    let aside: i64 = room
        .value("select count(*) from postroad.job where stage = 4")
        .await;
    assert_eq!(aside, 0, "nothing is written for what is passed over");
    room.store.lift_stop(it.id).await.unwrap();
    assert_eq!(room.claim(&queue, ALL).await.len(), 20);
}

#[tokio::test]
async fn a_queue_that_is_stopped_is_not_claimed_from() {
    let room = Room::open().await;
    room.enqueue(job()).await;
    let it = stop(&room, &of_queue("default"), StopMode::Pause).await;
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());
    room.store.lift_stop(it.id).await.unwrap();
    assert_eq!(room.claim(&queue, ALL).await.len(), 1);
}

#[tokio::test]
async fn everything_that_is_given_must_fit() {
    let room = Room::open().await;
    let hit = room.enqueue(tenants("acme")).await;
    let misses = [
        tenants("other"),
        NewJob {
            kind: "webhook".parse().unwrap(),
            ..tenants("acme")
        },
    ];
    room.enqueue_all(&misses).await;
    let scope = StopScope {
        kind: Some("echo".to_owned()),
        queue: Some("default".to_owned()),
        ..of_tenant(&room, "acme").await
    };
    stop(&room, &scope, StopMode::Pause).await;
    let queue = room.due_queue("default").await;

    let claims = room.claim(&queue, ALL).await;

    assert_eq!(claims.len(), 2);
    assert!(claims.iter().all(|claim| claim.id != hit));
}

#[tokio::test]
async fn the_gate_stops_what_is_in_the_pipe_and_says_where_it_was() {
    let room = Room::open().await;
    let [in_pipe, prefetched, free] = [webhook(), webhook(), job()].map(|job| (job, ()));
    let mut fences = Vec::new();
    for (job, ()) in [in_pipe, prefetched, free] {
        fences.push(room.dispatched(job).await);
    }
    let it = stop(&room, &of_kind("webhook"), StopMode::Pause).await;
    assert_eq!(
        it.named,
        Some(Named {
            waiting: 0,
            in_pipe: 2,
            too_late: 0
        })
    );

    let asked = [
        (fences[0], Duration::ZERO),
        (fences[1], Duration::from_secs(60)),
        (fences[2], Duration::from_secs(60)),
    ];
    let gate = room
        .store
        .ask_gate(room.worker, &asked, false, |_| ())
        .await;

    let expected = vec![GateVerdict::Stopped, GateVerdict::Stopped, FIRST];
    assert_eq!(gate.unwrap(), Gate::Judged(expected));
    let seen = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(
        seen.stopped,
        Stopped {
            waiting: 0,
            in_pipe: 1,
            prefetched: 1
        }
    );
    for job in &fences[..2] {
        assert_eq!(room.state(job.id).await, "scheduled");
        assert_eq!(room.look::<i32>(job.id, "attempt").await, 0);
    }

    // A copy of the message that comes late meets a job that is not in the pipe.
    assert_eq!(room.start(fences[0]).await, GateVerdict::Refused);
    room.store.lift_stop(it.id).await.unwrap();
    assert_eq!(sweep(&room).await, (2, 0));
    assert_eq!(
        room.start(fences[0]).await,
        GateVerdict::Refused,
        "its fence is old"
    );
    let again = room.claim_all().await;
    assert_eq!(again.len(), 2);
    for job in again {
        assert_eq!(room.start(job).await, FIRST);
    }
}

/// The worker that has not heard its answer asks again, and by then there is a stop.
#[tokio::test]
async fn a_start_that_was_never_heard_is_stopped_and_not_charged() {
    let room = Room::open().await;
    let unheard = room.running(job()).await;
    stop(&room, &of_kind("echo"), StopMode::Pause).await;

    let again = room.store.gate_again(room.worker, &[unheard]).await;

    assert_eq!(again.unwrap(), Gate::Judged(vec![GateVerdict::Stopped]));
    assert_eq!(room.look::<i32>(unheard.id, "attempt").await, 0);
    assert_eq!(room.state(unheard.id).await, "scheduled");
}

#[tokio::test]
async fn what_runs_goes_on_and_is_not_tried_again() {
    let room = Room::open().await;
    let running = room.running(job()).await;
    let it = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    assert_eq!(
        it.named,
        Some(Named {
            waiting: 0,
            in_pipe: 0,
            too_late: 1
        })
    );

    assert_eq!(room.finish(running, failed()).await, Moved::Failed);
    room.execute(
        "update postroad.job set stage = 0, ended_at = null, claimed_at = null, claimed_by = null,
            started_at = null, worker_id = null, run_at = now()",
    )
    .await;
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());
    assert_eq!(room.state(running.id).await, "scheduled");
    // Late evidence that it had succeeded after all is as good for one that is set aside.
    let late = room.finish(running, Ending::Completed(None)).await;
    assert_eq!(late, Moved::Completed);
}

/// A job that nobody has started cannot have succeeded, set aside or not.
#[tokio::test]
async fn nobody_completes_what_was_set_aside_before_it_ran() {
    let room = Room::open().await;
    let job = room.dispatched(job()).await;
    stop(&room, &of_kind("echo"), StopMode::Pause).await;
    assert_eq!(room.start(job).await, GateVerdict::Stopped);
    let moved = room.finish(job, Ending::Completed(None)).await;
    assert_eq!(moved, Moved::Superseded);
}

#[tokio::test]
async fn cancelling_takes_what_was_accepted_before_and_nothing_else() {
    let room = Room::open().await;
    let later = || NewJob {
        run_at: RunAt::After(Duration::from_secs(3600)),
        ..webhook()
    };
    let waiting = room.enqueue_all(&many(250, later)).await;
    let others = room.enqueue_all(&many(250, job)).await;
    let in_pipe = room.dispatched(webhook()).await;
    let running = room.running(webhook()).await;
    let it = stop(&room, &of_kind("webhook"), StopMode::Cancel).await;
    assert_eq!(
        it.named,
        Some(Named {
            waiting: 250,
            in_pipe: 1,
            too_late: 1
        })
    );
    let after = room.enqueue(webhook()).await;

    sweep(&room).await;
    assert_eq!(room.start(in_pipe).await, GateVerdict::Stopped);
    assert_eq!(room.finish(running, failed()).await, Moved::Failed);
    until_lifted(&room, &it).await;

    for id in waiting.iter().chain([&in_pipe.id, &running.id]) {
        assert_eq!(room.state(*id).await, "cancelled");
        assert_eq!(room.look::<String>(*id, "reason").await, "stopped");
    }
    for id in others.iter().chain([&after]) {
        assert_ne!(room.state(*id).await, "cancelled");
    }
    let account: (bool, i64) = {
        let sql = "select balanced, cancelled from postroad.ledger where tenant = 'default'";
        let row = room.sql.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(account, (true, 252));
    let seen = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(seen.stopped.all(), 252, "{seen:?}");
}

#[tokio::test]
async fn what_is_retried_while_it_is_being_cancelled_is_cancelled_again() {
    let room = Room::open().await;
    let later = NewJob {
        run_at: RunAt::After(Duration::from_secs(3600)),
        ..webhook()
    };
    let waiting = room.enqueue(later).await;
    // As long as this one runs, the stop is in force.
    let running = room.running(webhook()).await;
    let it = stop(&room, &of_kind("webhook"), StopMode::Cancel).await;
    sweep(&room).await;
    assert_eq!(room.state(waiting).await, "cancelled");

    room.store.retry(&[waiting]).await.unwrap();
    assert_eq!(room.state(waiting).await, "scheduled");
    assert_eq!(room.finish(running, failed()).await, Moved::Failed);
    until_lifted(&room, &it).await;

    assert_eq!(room.state(waiting).await, "cancelled");
    room.store.retry(&[waiting]).await.unwrap();
    sweep(&room).await;
    assert_eq!(room.state(waiting).await, "scheduled", "the stop is over");
}

async fn until_lifted(room: &Room, it: &Stop) {
    eventually("nothing is left to be cancelled", async || {
        sweep(room).await;
        let now = room.store.find_stop(it.id).await?;
        anyhow::ensure!(
            now.as_ref().is_some_and(|one| one.lifted_at.is_some()),
            "{now:?}"
        );
        Ok(())
    })
    .await
    .unwrap();
}

/// A job that is committed after the stop, by a transaction that began before it.
#[tokio::test]
async fn a_cancelling_stop_waits_for_jobs_that_are_not_committed_yet() {
    let mut room = Room::open().await;
    room.add_names().await;
    let enqueueing = room.sql.transaction().await.unwrap();
    let sql = "select postroad.enqueue(kind => 'echo')";
    let late: uuid::Uuid = enqueueing.query_one(sql, &[]).await.unwrap().get(0);
    let it = room
        .store
        .create_stop(&NewStop {
            scope: &of_kind("echo"),
            mode: StopMode::Cancel,
            reason: "",
        })
        .await
        .unwrap()
        .unwrap();
    for _ in 0..3 {
        room.store.sweep_cancelled(100).await.unwrap();
    }
    let now = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(
        now.lifted_at, None,
        "somebody may still commit a job of before"
    );

    enqueueing.commit().await.unwrap();
    until_lifted(&room, &it).await;

    assert_eq!(room.state(late.into()).await, "cancelled");
}

/// One that has begun and has written nothing has no number yet by which it would be missed.
#[tokio::test]
async fn a_cancelling_stop_waits_for_transactions_that_have_only_begun() {
    let room = Room::open().await;
    room.add_names().await;
    let mut session = room.database.client().await;
    let begun = session.transaction().await.unwrap();
    begun.query_one("select now()", &[]).await.unwrap();
    let it = stop(&room, &of_kind("echo"), StopMode::Cancel).await;
    let sql = "select postroad.enqueue(kind => 'echo')";
    let late: uuid::Uuid = begun.query_one(sql, &[]).await.unwrap().get(0);
    for _ in 0..3 {
        room.store.sweep_cancelled(100).await.unwrap();
    }
    let now = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(now.lifted_at, None);

    begun.commit().await.unwrap();
    until_lifted(&room, &it).await;

    assert_eq!(room.state(late.into()).await, "cancelled");
}

#[tokio::test]
async fn what_one_stop_has_set_aside_counts_for_the_one_that_cancels_it() {
    let room = Room::open().await;
    room.enqueue_all(&many(10, job)).await;
    stop(&room, &of_kind("echo"), StopMode::Pause).await;
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());

    let it = stop(&room, &of_kind("echo"), StopMode::Cancel).await;

    assert_eq!(it.named.unwrap_or_default().waiting, 10);
    until_lifted(&room, &it).await;
    let seen = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(seen.stopped.waiting, 10);
}

#[tokio::test]
async fn the_same_pause_twice_is_one_stop_and_there_are_not_any_number() {
    let room = Room::open().await;
    let scope = of_tenant(&room, "default").await;
    let store = room
        .store
        .scoped(postroad_common::store::Scope::Tenant(scope.tenant.unwrap()));
    let mut ids = Vec::new();
    for n in 0..22 {
        let queue = format!("queue-{}", n / 2);
        room.enqueue(NewJob {
            queue: queue.parse().unwrap(),
            ..job()
        })
        .await;
        let scope = of_queue(&queue);
        let new = NewStop {
            scope: &scope,
            mode: StopMode::Pause,
            reason: "",
        };
        ids.push(store.create_stop(&new).await.unwrap().unwrap().id);
    }
    assert!(ids.chunks(2).all(|pair| pair[0] == pair[1]));

    let mut refused = 0;
    for _ in 0..20 {
        let kind = of_kind("echo");
        let new = NewStop {
            scope: &kind,
            mode: StopMode::Cancel,
            reason: "",
        };
        match store.create_stop(&new).await.unwrap() {
            Ok(_) => {}
            Err(missing) => {
                assert_eq!(missing, Missing::Room);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 11, "twenty of one's own, of which eleven pause");
}

/// What waits is scheduled, also for whoever lists it.
#[tokio::test]
async fn what_is_set_aside_is_listed_as_scheduled() {
    let room = Room::open().await;
    let id = room.enqueue(job()).await;
    stop(&room, &of_kind("echo"), StopMode::Pause).await;
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());
    let query = JobQuery {
        state: Some(JobState::Scheduled),
        limit: 10,
        ..JobQuery::default()
    };
    let page = room.store.job_page(&query).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn what_stops_have_met_is_added_up_and_stays_the_same() {
    let room = Room::open().await;
    let it = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    room.execute(&format!(
        "insert into postroad.stop_catch (stop_id, place, jobs)
         select '{0}'::uuid, 'waiting', 2 from generate_series(1, 700)
         union all select '{0}'::uuid, 'pipe', 3 from generate_series(1, 10)",
        it.id
    ))
    .await;

    room.store.fold_catches().await.unwrap();

    let rows: i64 = room.value("select count(*) from postroad.stop_catch").await;
    assert_eq!(rows, 2);
    let seen = room.store.find_stop(it.id).await.unwrap().unwrap();
    let expected = Stopped {
        waiting: 1400,
        in_pipe: 30,
        prefetched: 0,
    };
    assert_eq!(seen.stopped, expected);
}

#[tokio::test]
async fn of_two_stops_the_one_that_is_left_keeps_the_job() {
    let room = Room::open().await;
    let id = room.enqueue(tenants("acme")).await;
    let first = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    let scope = StopScope {
        queue: Some("default".to_owned()),
        ..of_tenant(&room, "acme").await
    };
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());
    let second = stop(&room, &scope, StopMode::Pause).await;

    room.store.lift_stop(first.id).await.unwrap();
    assert_eq!(sweep(&room).await, (0, 0));
    let by: uuid::Uuid = room
        .value("select stopped_by from postroad.job where stage = 4")
        .await;
    assert_eq!(by, second.id);
    room.store.lift_stop(second.id).await.unwrap();
    assert_eq!(sweep(&room).await, (1, 0));
    assert_eq!(room.claim(&queue, ALL).await[0].id, id);
}

#[tokio::test]
async fn a_paused_job_can_still_be_cancelled_expire_and_be_hurried() {
    let room = Room::open().await;
    let ids = room.enqueue_all(&many(3, job)).await;
    let it = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    let queue = room.due_queue("default").await;
    assert!(room.claim(&queue, ALL).await.is_empty());

    room.store.cancel(&ids[..1]).await.unwrap();
    assert_eq!(room.state(ids[0]).await, "cancelled");
    let sql = "update postroad.job set expires_at = now() where id = $1";
    room.sql.execute(sql, &[ids[1].as_uuid()]).await.unwrap();
    assert_eq!(room.store.expire(10).await.unwrap(), 1);
    assert_eq!(room.state(ids[1]).await, "expired");
    room.store.retry(&ids[2..]).await.unwrap();
    assert_eq!(room.state(ids[2]).await, "scheduled");
    assert!(
        room.claim(&queue, ALL).await.is_empty(),
        "it is stopped all the same"
    );
    room.store.lift_stop(it.id).await.unwrap();
    assert_eq!(sweep(&room).await, (1, 0));
    let balanced: bool = room
        .value("select bool_and(balanced) from postroad.ledger")
        .await;
    assert!(balanced);
}

#[tokio::test]
async fn sweepers_at_once_cancel_each_job_once() {
    let room = Room::open().await;
    room.enqueue_all(&many(2000, job)).await;
    let it = stop(&room, &of_kind("echo"), StopMode::Cancel).await;

    let sweepers = (0..4).map(async |_| {
        let mut cancelled = 0;
        loop {
            let Swept {
                cancelled: some,
                has_more,
                ..
            } = room.store.sweep_cancelled(100).await.unwrap();
            cancelled += some;
            // The others have its row: this one has nothing to do.
            if some == 0 && !has_more {
                return cancelled;
            }
        }
    });
    let done: usize = futures_util::future::join_all(sweepers).await.iter().sum();
    let (_, rest) = sweep(&room).await;
    until_lifted(&room, &it).await;

    let cancelled: i64 = room
        .value("select count(*) from postroad.archive where state = 'cancelled'")
        .await;
    assert_eq!(cancelled, 2000);
    assert!(done + rest <= 2000, "{done} and {rest}");
    let seen = room.store.find_stop(it.id).await.unwrap().unwrap();
    assert_eq!(seen.stopped.waiting, 2000);
}

#[tokio::test]
async fn a_stop_for_what_is_not_there_is_refused() {
    let room = Room::open().await;
    for (scope, missing) in [
        (of_queue("no-such"), Missing::Queue),
        (of_kind("no-such"), Missing::Kind),
    ] {
        let new = NewStop {
            scope: &scope,
            mode: StopMode::Pause,
            reason: "",
        };
        let made = room.store.create_stop(&new).await.unwrap();
        assert_eq!(made.err(), Some(missing));
    }
    assert!(room.store.stops(true, None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn stops_that_are_long_over_are_forgotten() {
    let room = Room::open().await;
    let old = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    let young = stop(&room, &of_kind("webhook"), StopMode::Pause).await;
    let active = stop(&room, &of_kind("sms"), StopMode::Pause).await;
    for id in [old.id, young.id] {
        room.store.lift_stop(id).await.unwrap();
    }
    room.execute(&format!(
        "update postroad.stop set lifted_at = now() - interval '8 days' where id = '{}'",
        old.id
    ))
    .await;

    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(room.store.prune_stops(week).await.unwrap(), 1);

    let left = room.store.stops(true, None, 10).await.unwrap();
    let left: Vec<_> = left.iter().map(|stop| stop.id).collect();
    assert_eq!(left, [active.id, young.id]);
}

/// The fence is what a claim raises: what a stop does to a job must not be taken for one.
#[tokio::test]
async fn a_job_that_was_set_aside_keeps_its_fence_until_it_is_claimed() {
    let room = Room::open().await;
    let before = room.dispatched(job()).await;
    let it = stop(&room, &of_kind("echo"), StopMode::Pause).await;
    assert_eq!(room.start(before).await, GateVerdict::Stopped);
    room.store.lift_stop(it.id).await.unwrap();
    sweep(&room).await;
    let after = room.claim_all().await;
    let expected = Fenced {
        dispatch: before.dispatch + 1,
        ..before
    };
    assert_eq!(after, [expected]);
}
