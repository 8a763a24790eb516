//! At what pace work enters the pipe: rates, bounds of tenants and providers, whose turn it is, breakers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use postroad_common::job::retry::Verdict;
use postroad_common::job::{NewJob, RunAt};
use postroad_common::store::{
    BreakerOf, BreakerState, Cursor, Deleted, DueQueue, GateVerdict, NewProcess, NewStop,
    ProviderSettings, Role, Ruling, ShortPipe, StopMode, StopScope, TenantChange, Wanted,
};

use crate::store_fixture::{ALL, AN_HOUR, Room, failed, fence, job};

fn of_tenant(name: &str) -> NewJob {
    NewJob {
        tenant: name.parse().unwrap(),
        ..job()
    }
}

fn in_queue(name: &str) -> NewJob {
    NewJob {
        queue: name.parse().unwrap(),
        ..job()
    }
}

fn many(count: usize, make: impl Fn() -> NewJob) -> Vec<NewJob> {
    std::iter::repeat_with(make).take(count).collect()
}

impl Room {
    /// With a provider `gateway` for some queues.
    async fn with_provider(settings: ProviderSettings, queues: &[&str]) -> Self {
        let room = Self::open().await;
        assert!(room.store.put_provider("gateway", &settings).await.unwrap());
        for queue in queues {
            room.execute(&format!("select postroad.queue_id('{queue}')"))
                .await;
        }
        let queues = queues.join("','");
        room.execute(&format!(
            "update postroad.queue set provider_id = (select id from postroad.provider)
             where name in ('{queues}')"
        ))
        .await;
        room
    }

    async fn breaker_of(&self, tenant: Option<&str>) -> BreakerOf {
        BreakerOf {
            provider: self.value("select id from postroad.provider").await,
            tenant: tenant.map(str::to_owned),
        }
    }

    /// Buckets are as full as they can be.
    async fn fill_buckets(&self) {
        self.execute(
            "update postroad.queue set rate_at = rate_at - interval '1 hour';
             update postroad.provider set rate_at = rate_at - interval '1 hour';
             update postroad.tenant_bucket set rate_at = rate_at - interval '1 hour'",
        )
        .await;
    }

    /// How many jobs of each tenant a claim takes.
    async fn shares(&self, queue: &DueQueue, limit: i64) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for claim in self.claim(queue, limit).await {
            *shares.entry(claim.tenant.to_string()).or_default() += 1;
        }
        shares
    }
}

fn limits(rate: Option<i32>, unanswered: Option<i32>) -> ProviderSettings {
    ProviderSettings {
        unanswered_max: unanswered,
        rate_per_second: rate,
        failure_max: Some(0.5),
        ..ProviderSettings::default()
    }
}

#[tokio::test]
async fn a_rate_saves_up_half_a_second_and_no_more() {
    let room = Room::open().await;
    room.enqueue_all(&many(100, job)).await;
    room.execute("update postroad.queue set rate_per_second = 40")
        .await;
    room.fill_buckets().await;
    let queue = room.due_queue("default").await;
    assert_eq!(room.claim(&queue, ALL).await.len(), 20);
}

/// One of them has had all that there is: the others wait for the next.
#[tokio::test]
async fn queues_of_a_provider_share_its_rate() {
    let room = Room::with_provider(limits(Some(40), None), &["one", "two"]).await;
    let jobs = [many(50, || in_queue("one")), many(50, || in_queue("two"))].concat();
    room.enqueue_all(&jobs).await;
    room.fill_buckets().await;
    let (one, two) = (room.due_queue("one").await, room.due_queue("two").await);
    let started = std::time::Instant::now();
    let claims = [&one, &two].map(|queue| room.claim(queue, ALL));
    let claimed: usize = futures_util::future::join_all(claims)
        .await
        .iter()
        .map(Vec::len)
        .sum();
    // And what drips in while they are at it.
    let most = 20.0 + 40.0 * started.elapsed().as_secs_f64() + 1.0;
    assert!(
        (20.0..=most).contains(&(claimed as f64)),
        "{claimed} of {most}"
    );
}

#[tokio::test]
async fn a_providers_pipe_holds_what_its_workers_may_have_under_way_twice() {
    let room = Room::with_provider(limits(None, Some(10)), &["one", "two"]).await;
    let jobs = [many(50, || in_queue("one")), many(50, || in_queue("two"))].concat();
    room.enqueue_all(&jobs).await;
    let (one, two) = (room.due_queue("one").await, room.due_queue("two").await);
    assert_eq!(room.claim(&one, 15).await.len(), 15);
    assert_eq!(room.claim(&two, ALL).await.len(), 5);
    assert_eq!(room.claim(&two, ALL).await.len(), 0);

    for _ in 0..3 {
        let process = NewProcess {
            role: Role::Worker,
            host: "test".to_owned(),
            pid: 1,
            version: "0",
            queues: vec!["one".to_owned(), "two".to_owned(), "other".to_owned()],
            lease: AN_HOUR,
            prefetch: Some(100),
        };
        room.store.register(&process).await.unwrap();
    }
    assert_eq!(room.claim(&two, ALL).await.len(), 40, "three workers now");
}

#[tokio::test]
async fn a_tenant_has_no_more_in_a_queues_pipe_than_it_may() {
    let room = Room::open().await;
    let jobs = [
        many(100, || of_tenant("bounded")),
        many(30, || of_tenant("free")),
    ]
    .concat();
    room.enqueue_all(&jobs).await;
    let bound = TenantChange {
        in_pipe_max: Some(Some(7)),
        ..TenantChange::default()
    };
    assert!(room.store.set_tenant("bounded", &bound).await.unwrap());
    let queue = room.due_queue("default").await;

    let (mut bounded, mut free) = (0, 0);
    for _ in 0..4 {
        let shares = room.shares(&queue, 20).await;
        bounded += shares.get("bounded").unwrap_or(&0);
        free += shares.get("free").unwrap_or(&0);
    }

    assert_eq!((bounded, free), (7, 30));
}

/// Two queues are claimed from at once, again and again: the bucket is one.
#[tokio::test]
async fn a_tenants_rate_is_that_of_all_its_queues() {
    let room = Room::open().await;
    let of = |queue: &'static str| {
        many(200, move || NewJob {
            queue: queue.parse().unwrap(),
            ..of_tenant("acme")
        })
    };
    room.enqueue_all(&[of("one"), of("two")].concat()).await;
    let rate = TenantChange {
        rate_per_second: Some(Some(100)),
        ..TenantChange::default()
    };
    assert!(room.store.set_tenant("acme", &rate).await.unwrap());
    room.fill_buckets().await;
    let (one, two) = (room.due_queue("one").await, room.due_queue("two").await);
    let started = std::time::Instant::now();

    let (mut claimed, mut last, mut ran_over) = (0, Duration::ZERO, false);
    let dripped = |after: Duration| 50.0 + 100.0 * after.as_secs_f64();
    // Until something is taken, what drips in is lost.
    let mut first = None;
    // More than the bucket held: so some of what dripped in is among them.
    while claimed < 85 {
        let claims = [&one, &two].map(|queue| room.claim(queue, 20));
        let claims = futures_util::future::join_all(claims).await;
        claimed += claims.iter().map(Vec::len).sum::<usize>();
        let first = *first.get_or_insert_with(|| started.elapsed());
        // A claim gets nothing while another one is at the bucket: this one is alone.
        let began = started.elapsed();
        let alone = room.claim(&one, 20).await.len();
        claimed += alone;
        let most = dripped(started.elapsed()) + 1.0;
        assert!(claimed as f64 <= most, "{claimed} of {most}");
        // And into one that is full again.
        ran_over |= started.elapsed() - last > Duration::from_millis(400);
        last = began;
        let least = dripped(began - first) - 2.0;
        let took_all = alone < 20 && !ran_over;
        assert!(
            !took_all || claimed as f64 >= least,
            "{claimed}, not {least}"
        );
        assert!(began < Duration::from_secs(30), "{claimed} after {began:?}");
    }
}

/// More tenants than one claim serves: nobody is passed over, and nobody is served twice before all
/// others were.
#[tokio::test]
async fn of_many_tenants_every_one_has_its_turn() {
    let room = Room::open().await;
    let jobs: Vec<_> = (0..40)
        .flat_map(|_| (0..200).map(|n| of_tenant(&format!("t{n:03}"))))
        .collect();
    room.execute("update postroad.queue set window_size = 100000")
        .await;
    room.enqueue_all(&jobs).await;
    let queue = room.due_queue("default").await;
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();

    // 3,200 jobs are sixteen of each; the batches end in the middle of somebody's turn.
    let mut left = 3200;
    while left > 0 {
        for (tenant, jobs) in room.shares(&queue, left.min(777)).await {
            *shares.entry(tenant).or_default() += jobs;
            left -= jobs as i64;
        }
    }

    assert_eq!(shares.len(), 200);
    assert!(shares.values().all(|jobs| *jobs == 16), "{shares:?}");
}

/// As many tenants as one claim serves have nothing but jobs that are expired, or that somebody else is
/// at: they keep nobody back who comes after them.
#[tokio::test]
async fn tenants_of_whom_nothing_can_be_claimed_keep_nobody_back() {
    let room = Room::open().await;
    for (name, count) in [("expired", 70), ("locked", 70), ("well", 1)] {
        let of = |n| of_tenant(&format!("{name}-{n}"));
        let jobs: Vec<_> = (0..count).map(of).collect();
        room.enqueue_all(&jobs).await;
    }
    let of = "tenant_id in (select id from postroad.tenant where name like";
    room.execute(&format!(
        "update postroad.job set run_at = now() - interval '2 s', expires_at = now() - interval '1 s'
         where {of} 'expired-%')"
    ))
    .await;
    let queue = room.due_queue("default").await;
    let mut other = room.database.client().await;
    let open = other.transaction().await.unwrap();
    let lock = format!("select from postroad.job where {of} 'locked-%') for update");
    assert_eq!(open.query(&lock, &[]).await.unwrap().len(), 70);

    let mut claimed = Vec::new();
    for _ in 0..4 {
        claimed.extend(room.claim(&queue, ALL).await);
    }

    let tenants: Vec<_> = claimed.iter().map(|claim| &*claim.tenant).collect();
    assert_eq!(tenants, ["well-0"]);
}

/// Claims of one job, as where the pipe is full: what a weight is worth does not depend on their size.
#[tokio::test]
async fn weights_hold_for_claims_of_one() {
    let room = Room::open().await;
    let jobs = [
        many(60, || of_tenant("heavy")),
        many(60, || of_tenant("light")),
    ]
    .concat();
    room.enqueue_all(&jobs).await;
    let weight = TenantChange {
        weight: Some(3),
        ..TenantChange::default()
    };
    assert!(room.store.set_tenant("heavy", &weight).await.unwrap());
    let (queue, mut heavy) = (room.due_queue("default").await, 0);
    for _ in 0..40 {
        heavy += room.shares(&queue, 1).await.get("heavy").unwrap_or(&0);
    }
    assert_eq!(heavy, 30);
}

/// What fails costs a few jobs; then they stay where they are, until a few may try.
#[tokio::test]
async fn a_breaker_that_is_open_keeps_jobs_in_postgres_and_those_of_others_go_on() {
    let room = Room::with_provider(limits(None, None), &["default"]).await;
    let jobs = [
        many(30, || of_tenant("acme")),
        many(30, || of_tenant("beta")),
    ]
    .concat();
    room.enqueue_all(&jobs).await;
    let queue = room.due_queue("default").await;
    let before = room.claim(&queue, 10).await;
    let acme = room.breaker_of(Some("acme")).await;

    let rest = room.store.trip_breaker(&acme, "timeouts").await.unwrap();
    assert_eq!(rest, Some(Duration::from_secs(5)));
    let again = room.store.trip_breaker(&acme, "timeouts").await.unwrap();
    assert_eq!(again, None, "it is open");
    assert!(
        !room.store.close_breaker(&acme).await.unwrap(),
        "it is open"
    );

    // What was in the pipe goes back, and is not charged.
    for claim in &before {
        let is_acme = &*claim.tenant == "acme";
        let verdict = room.start(fence(claim)).await;
        assert_eq!(verdict == GateVerdict::Broken, is_acme, "{verdict:?}");
        if is_acme {
            assert_eq!(room.state(claim.id).await, "scheduled");
            assert_eq!(room.look::<i32>(claim.id, "attempt").await, 0);
        }
    }
    let shares = room.shares(&queue, ALL).await;
    assert_eq!(shares, BTreeMap::from([("beta".to_owned(), 25)]));

    // It has rested: a few try, and no more until somebody has seen how they end.
    room.execute("update postroad.breaker set probe_at = now()")
        .await;
    let probed = room.store.probed_breakers(&[acme.provider]).await.unwrap();
    assert_eq!(probed, std::slice::from_ref(&acme));
    assert_eq!(room.shares(&queue, ALL).await["acme"], 5);
    assert_eq!(room.claim(&queue, ALL).await.len(), 0);
    let rest = room.store.trip_breaker(&acme, "again").await.unwrap();
    assert_eq!(rest, Some(Duration::from_secs(10)));

    room.execute("update postroad.breaker set probe_at = now()")
        .await;
    assert!(room.store.close_breaker(&acme).await.unwrap());
    assert_eq!(room.shares(&queue, ALL).await["acme"], 25);
}

/// Its tenant has no jobs any more, or none of them says anything of the provider.
#[tokio::test]
async fn a_breaker_that_is_half_open_for_long_and_of_which_nothing_is_seen_is_closed() {
    let room = Room::with_provider(limits(None, None), &["default"]).await;
    room.execute("select postroad.tenant_id(name) from unnest(array['acme', 'beta']) name")
        .await;
    let (acme, beta) = (
        room.breaker_of(Some("acme")).await,
        room.breaker_of(Some("beta")).await,
    );
    for of in [&acme, &beta] {
        assert!(
            room.store
                .trip_breaker(of, "timeouts")
                .await
                .unwrap()
                .is_some()
        );
    }
    let later = |tenant, wait| {
        format!(
            "update postroad.breaker set probe_at = now() - interval '{wait}'
             where tenant_id = postroad.tenant_id('{tenant}')"
        )
    };
    room.execute(&later("acme", "61 minutes")).await;
    room.execute(&later("beta", "59 minutes")).await;
    let closed = room.store.close_unseen_breakers(&[acme.provider]).await;
    assert_eq!(closed.unwrap(), 1);
    let left = room.store.probed_breakers(&[acme.provider]).await.unwrap();
    assert_eq!(left, [beta]);
}

#[tokio::test]
async fn a_breaker_of_all_tenants_keeps_every_queue_of_its_provider_back() {
    let room = Room::with_provider(limits(None, None), &["one", "two"]).await;
    let jobs = ["one", "two", "other"].map(|queue| many(20, || in_queue(queue)));
    room.enqueue_all(&jobs.concat()).await;
    let everybody = room.breaker_of(None).await;
    room.store.trip_breaker(&everybody, "down").await.unwrap();

    let mut claimed = Vec::new();
    for name in ["one", "two", "other"] {
        let queue = room.due_queue(name).await;
        claimed.push(room.claim(&queue, ALL).await.len());
    }
    assert_eq!(claimed, [0, 0, 20]);

    room.execute("update postroad.breaker set probe_at = now()")
        .await;
    let (one, two) = (room.due_queue("one").await, room.due_queue("two").await);
    let tried = room.claim(&one, ALL).await.len() + room.claim(&two, ALL).await.len();
    assert_eq!(tried, 5);
    let shown = room.store.providers(Some("gateway")).await.unwrap();
    let breaker = &shown[0].breakers[0];
    assert_eq!(
        (breaker.tenant.as_deref(), breaker.state, &*breaker.reason),
        (None, BreakerState::HalfOpen, "down")
    );
    assert_eq!(room.store.close_breakers("gateway", None).await.unwrap(), 1);
    assert_eq!(room.claim(&one, ALL).await.len(), 15);
}

#[tokio::test]
async fn a_stop_by_provider_holds_all_its_queues() {
    let room = Room::with_provider(limits(None, None), &["one"]).await;
    let jobs = ["one", "other"].map(|queue| many(10, || in_queue(queue)));
    room.enqueue_all(&jobs.concat()).await;
    let (one, other) = (room.due_queue("one").await, room.due_queue("other").await);
    let in_pipe = room.claim(&one, 4).await;
    let scope = StopScope {
        provider: Some("gateway".to_owned()),
        ..StopScope::default()
    };
    let new = NewStop {
        scope: &scope,
        mode: StopMode::Pause,
        reason: "",
    };
    let stop = room.store.create_stop(&new).await.unwrap().unwrap();
    assert_eq!(stop.provider.as_deref(), Some("gateway"));
    let named = stop.named.unwrap();
    assert_eq!((named.waiting, named.in_pipe), (6, 4));

    assert_eq!(room.claim(&one, ALL).await.len(), 0);
    assert_eq!(room.claim(&other, ALL).await.len(), 10);
    for claim in &in_pipe {
        assert_eq!(room.start(fence(claim)).await, GateVerdict::Stopped);
    }
    assert_eq!(
        room.store.delete_provider("gateway").await.unwrap(),
        Deleted::InUse
    );
    assert!(room.store.lift_stop(stop.id).await.unwrap());
    assert_eq!(room.claim(&one, ALL).await.len(), 6);
}

/// A thousand that fail together come back at the pace that the budget gives.
#[tokio::test]
async fn retries_of_a_provider_are_spread_over_the_time_that_its_budget_needs() {
    let budget = ProviderSettings {
        retries_per_second: Some(50),
        ..ProviderSettings::default()
    };
    let room = Room::with_provider(budget, &["default"]).await;
    room.enqueue_all(&many(1000, job)).await;
    let jobs = room.claim_all().await;
    room.store.gate(room.worker, &jobs).await.unwrap();
    let ended: Vec<_> = jobs
        .iter()
        .map(|job| postroad_common::store::Outcome {
            job: *job,
            ending: failed(),
        })
        .collect();
    room.store.finish(&ended).await.unwrap();

    let began: Timestamp = room.value("select clock_timestamp()").await;
    for half in jobs.chunks(500) {
        let ruling = |job: &_| Ruling {
            job: *job,
            verdict: Verdict::RetryAfter(Duration::from_secs(1)),
        };
        let rulings: Vec<_> = half.iter().map(ruling).collect();
        assert_eq!(room.store.rule(&rulings).await.unwrap(), 500);
    }

    let first: Timestamp = room.value("select min(run_at) from postroad.job").await;
    assert!(
        first >= began + Duration::from_secs(1),
        "none before its own time"
    );
    let in_ten = "select count(*) from postroad.job
        where run_at between $2::timestamptz + $1 * interval '1 s'
                         and $2::timestamptz + ($1 + 10) * interval '1 s'";
    // The first half over ten seconds, and the second behind them.
    for (from, least, most) in [(0.0, 470, 510), (10.0, 470, 510), (21.0, 0, 0)] {
        let row = room.sql.query_one(in_ten, &[&from, &first]).await.unwrap();
        let jobs: i64 = row.get(0);
        assert!((least..=most).contains(&jobs), "{jobs} from {from} s on");
    }
}

/// A scheduler may stand still in the middle of a claim.
#[tokio::test]
async fn a_provider_whose_other_queue_is_claimed_from_keeps_nobody_waiting() {
    let room = Room::with_provider(limits(Some(1000), None), &["one", "two"]).await;
    let jobs = ["one", "two"].map(|queue| many(10, || in_queue(queue)));
    room.enqueue_all(&jobs.concat()).await;
    room.fill_buckets().await;
    let two = room.due_queue("two").await;
    let mut other = room.database.client().await;
    let open = other.transaction().await.unwrap();
    open.batch_execute(
        "update postroad.provider set rate_tokens = 3, rate_per_second = 1, rate_at = now()",
    )
    .await
    .unwrap();
    let nothing = Cursor::default();
    let claim = room
        .store
        .claim(&two, Wanted::up_to(ALL), room.scheduler, &nothing);
    assert!(claim.await.unwrap().is_none());
    open.commit().await.unwrap();
    // A bucket holds one at least, and not the three that were written.
    assert_eq!(room.claim(&two, ALL).await.len(), 1);
}

/// Due jobs of a tenant, for so long.
fn due_for(tenant: &str, count: usize, seconds: i64) -> Vec<NewJob> {
    let run_at = RunAt::At(Timestamp::now() - SignedDuration::from_secs(seconds));
    let one = || NewJob {
        tenant: tenant.parse().unwrap(),
        run_at,
        ..job()
    };
    std::iter::repeat_with(one).take(count).collect()
}

/// A room whose worker has ten places in `default`.
async fn room_with_places() -> Room {
    let room = Room::open().await;
    let set = "update postroad.process set prefetch = 10, queues = '{default}', reads_bundles = true where role = 'worker'";
    room.sql.execute(set, &[]).await.unwrap();
    room
}

/// A short pipe of ten places holds fifteen.
const SHORT: ShortPipe = ShortPipe {
    slack: Duration::from_millis(50),
    pace: 100.0,
};

/// How many were claimed, and whether tenants wait for each other. None: there was no room.
async fn claimed(room: &Room, limit: i64, short: Option<ShortPipe>) -> Option<(usize, bool)> {
    let queue = room.due_queue("default").await;
    let wanted = Wanted {
        short,
        ..Wanted::up_to(limit)
    };
    let nothing = Cursor::default();
    let claim = room.store.claim(&queue, wanted, room.scheduler, &nothing);
    let claimed = claim.await.unwrap()?;
    Some((claimed.jobs.len(), claimed.is_shared))
}

#[tokio::test]
async fn the_pipe_of_a_queue_in_which_tenants_wait_for_each_other_has_room_for_what_runs() {
    let room = room_with_places().await;
    room.enqueue_all(&due_for("flood", 100, 10)).await;
    let claim = async |limit| claimed(&room, limit, Some(SHORT)).await;
    assert_eq!(claim(20).await, Some((20, false)), "it is alone");
    room.enqueue_all(&due_for("light", 1, 0)).await;
    let full = claimed(&room, 2, None).await;
    assert_eq!(full, Some((2, false)), "nobody asks for a short pipe");
    room.enqueue_all(&due_for("light", 1, 0)).await;
    assert_eq!(claim(2).await, Some((2, true)));
    let claimed_at = async |when: &str| {
        let moved = format!("update postroad.job set claimed_at = now() {when} where stage = 1");
        room.sql.execute(&moved, &[]).await.unwrap();
    };
    // However long this takes.
    let shared = "update postroad.queue set shared_until = now() + interval '1 h'";
    room.sql.execute(shared, &[]).await.unwrap();
    claimed_at("+ interval '1 h'").await;
    assert_eq!(claim(20).await, None, "24 of 15");
    claimed_at("- interval '1 s'").await;
    assert_eq!(claim(20).await, Some((15, true)), "nobody starts those");
    claimed_at("+ interval '1 h'").await;
    assert_eq!(claim(20).await, None, "but these may be started");
    let full = claimed(&room, 10, None).await;
    assert_eq!(full, Some((10, false)), "the window has room");

    let over = "update postroad.queue set shared_until = now() returning id";
    room.sql.execute(over, &[]).await.unwrap();
    assert_eq!(claim(20).await, Some((20, false)));
}

#[tokio::test]
async fn a_queue_is_shared_when_one_tenant_has_a_backlog_and_another_has_none() {
    let is_shared =
        async |one: (usize, i64), other: (usize, i64), in_pipe: usize, bound: Option<i32>| {
            let room = room_with_places().await;
            if in_pipe > 0 {
                room.enqueue_all(&due_for("before", in_pipe, 0)).await;
                claimed(&room, ALL, None).await.unwrap();
            }
            room.enqueue_all(&due_for("one", one.0, one.1)).await;
            room.enqueue_all(&due_for("other", other.0, other.1)).await;
            let bounded = "update postroad.tenant set in_pipe_max = $1 where name = 'other'";
            room.sql.execute(bounded, &[&bound]).await.unwrap();
            claimed(&room, 2, Some(SHORT)).await.unwrap().1
        };
    let (light, flood) = ((1, 0), (50, 60));
    assert!(is_shared(light, flood, 10, None).await);
    assert!(
        is_shared((50, 0), flood, 10, None).await,
        "it has just begun"
    );
    assert!(!is_shared(light, light, 10, None).await);
    assert!(!is_shared((50, 90), flood, 10, None).await, "two backlogs");
    assert!(!is_shared((1, 5), flood, 10, None).await, "late itself");
    assert!(
        !is_shared(light, flood, 2, None).await,
        "most places are empty"
    );
    assert!(
        !is_shared(light, flood, 10, Some(1)).await,
        "by its own bound"
    );
    assert!(
        is_shared(light, flood, 10, Some(500)).await,
        "bounded by nothing"
    );
}
