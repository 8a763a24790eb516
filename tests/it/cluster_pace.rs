//! Providers against running programs: what one takes at once, and what becomes of its jobs when it is
//! down.

use std::collections::BTreeMap;

use anyhow::ensure;
use postroad_common::job::NewJob;
use postroad_common::store::ProviderSettings;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use postroad_tests::simulator::{Behaviour, Latency, Report};

/// A provider for these queues.
async fn with_provider(
    cluster: &Cluster,
    settings: ProviderSettings,
    queues: &[&str],
) -> anyhow::Result<()> {
    cluster.store.put_provider("gateway", &settings).await?;
    cluster.store.register_queues(queues).await?;
    let sql = "update postroad.queue set provider_id = (select id from postroad.provider)
               where name = any($1) returning id";
    let set = cluster.query(sql, &[&queues]).await?;
    ensure!(set.len() == queues.len());
    Ok(())
}

/// Two workers with two queues each: what is unanswered at the provider is what it takes from one
/// worker, twice. It is more than a worker would begin with if nobody had said so, and nobody answers
/// yet: a limit that learns from answers would not grow.
#[tokio::test]
async fn a_worker_has_no_more_unanswered_than_a_provider_takes_whatever_queues_they_came_from()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let settings = ProviderSettings {
        unanswered_max: Some(30),
        ..ProviderSettings::default()
    };
    with_provider(&cluster, settings, &["one", "two"]).await?;
    let behaviour = |latency| Behaviour {
        latency,
        max_in_flight: Some(60),
        ..Behaviour::default()
    };
    cluster.provider.set(behaviour(Latency::Hold))?;
    for _ in 0..2 {
        cluster
            .start(Program::worker().env("POSTROAD_QUEUES", "one,two"))
            .await?;
    }
    let in_queue = |n: usize, job: NewJob| NewJob {
        queue: ["one", "two"][n % 2].parse().expect("a name"),
        ..job
    };
    let jobs = many_sms(300).into_iter().enumerate();
    let jobs: Vec<_> = jobs.map(|(n, job)| in_queue(n, job)).collect();
    cluster.enqueue(&jobs).await?;

    cluster
        .provider
        .wait_for(|report: &Report| report.held == 60)
        .await?;
    eventually("the pipe holds as many again", async || {
        let census = cluster.store.census().await?;
        ensure!(
            (census.dispatched, census.running) == (60, 60),
            "{census:?}"
        );
        Ok(())
    })
    .await?;

    let millis = std::time::Duration::from_millis(5);
    cluster.provider.set(behaviour(Latency::Fixed(millis)))?;
    cluster.provider.release();
    cluster.wait_for("completed", 300).await?;
    let report = cluster.provider.report();
    assert_eq!((report.violations, report.peak_in_flight), (0, 60));
    cluster.finish().await
}

/// What its rate gives in a moment is a job or two: one queue must not take it every time.
#[tokio::test]
async fn queues_of_a_provider_share_a_low_rate() -> anyhow::Result<()> {
    let cluster = Cluster::builder().queues("one,two").start().await?;
    let settings = ProviderSettings {
        rate_per_second: Some(100),
        ..ProviderSettings::default()
    };
    with_provider(&cluster, settings, &["one", "two"]).await?;
    let in_queue = |queue: &str| {
        let mut jobs = many_sms(200);
        for job in &mut jobs {
            job.queue = queue.parse().expect("a name");
        }
        jobs
    };
    cluster
        .enqueue(&[in_queue("one"), in_queue("two")].concat())
        .await?;

    let ended = eventually("sixty have gone through", async || {
        let sql = "select q.name, count(*) from postroad.archive a
                   join postroad.queue q on q.id = a.queue_id group by 1";
        let rows = cluster.query(sql, &[]).await?;
        let ended: BTreeMap<String, i64> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        ensure!(ended.values().sum::<i64>() >= 60, "{ended:?}");
        Ok(ended)
    })
    .await?;
    let each = ["one", "two"].map(|queue| ended.get(queue).copied().unwrap_or(0));
    assert!(each.iter().all(|jobs| *jobs >= 6), "{ended:?}");

    let free = "update postroad.provider set rate_per_second = null returning id";
    cluster.query(free, &[]).await?;
    cluster.wait_for("completed", 400).await?;
    cluster.finish().await
}

/// A window of one tenant's jobs is ahead of another one's first job, and not of those that come after it
/// has drained, whichever scheduler claims them.
#[tokio::test]
async fn a_flood_has_hardly_more_in_the_pipe_than_runs_while_another_tenant_has_jobs()
-> anyhow::Result<()> {
    const FLOOD: usize = 8000;
    const PLACES: i64 = 10;
    const LOOKED_AT: std::time::Duration = std::time::Duration::from_secs(2);
    let builder = Cluster::builder().schedulers(2).workers(0);
    let mut cluster = builder.env("POSTROAD_SHARED_PIPE", "5ms").start().await?;
    let of = |tenant: &str, jobs: Vec<NewJob>| {
        let tenant: postroad_common::job::TenantName = tenant.parse().expect("a name");
        let of_tenant = |job| NewJob {
            tenant: tenant.clone(),
            ..job
        };
        jobs.into_iter().map(of_tenant).collect::<Vec<_>>()
    };
    let millis = std::time::Duration::from_millis(20);
    cluster.provider.set(Behaviour {
        latency: Latency::Fixed(millis),
        ..Behaviour::default()
    })?;
    let worker = Program::worker().env("POSTROAD_PREFETCH", PLACES);
    cluster.start(worker).await?;
    cluster.enqueue(&of("flood", many_sms(FLOOD))).await?;
    let in_pipe = async || {
        let census = cluster.store.census().await?;
        anyhow::Ok(census.dispatched + census.running)
    };
    let is_long = async || {
        let in_pipe = in_pipe().await?;
        ensure!(in_pipe > 20 * PLACES, "{in_pipe}");
        Ok(())
    };
    eventually("the window is full", is_long).await?;

    let light = std::cell::Cell::new(0);
    let one_more = async || {
        light.set(light.get() + 1);
        cluster.enqueue(&of("light", many_sms(1))).await
    };
    eventually("the pipe is short", async || {
        one_more().await?;
        let in_pipe = in_pipe().await?;
        // Of the 2,000 that there were: where looking takes long, the pipe holds more.
        ensure!(in_pipe <= 10 * PLACES, "{in_pipe}");
        Ok(())
    })
    .await?;
    let mut looks = Vec::new();
    // As long as a job takes: each look is at another pipe.
    let mut beat = tokio::time::interval(millis);
    let started = std::time::Instant::now();
    while started.elapsed() < LOOKED_AT {
        beat.tick().await;
        one_more().await?;
        looks.push(in_pipe().await?);
    }
    looks.sort_unstable();
    let median = looks[looks.len() / 2];
    ensure!(median <= 10 * PLACES, "it stays short: {looks:?}");
    eventually("and not for longer than that", is_long).await?;
    let all = i64::try_from(FLOOD + light.get())?;
    cluster.wait_for("completed", all).await?;
    cluster.finish().await
}

/// A few hundred jobs meet a provider that is down: some of them find out, and the rest wait in Postgres.
#[tokio::test]
async fn jobs_of_a_provider_that_is_down_wait_in_postgres_until_one_goes_through()
-> anyhow::Result<()> {
    const JOBS: usize = 500;
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let settings = ProviderSettings {
        failure_max: Some(0.5),
        ..ProviderSettings::default()
    };
    with_provider(&cluster, settings, &["default"]).await?;
    let quick = "update postroad.kind set backoff_base = '100 ms', backoff_cap = '1 s',
                        overridden_at = now() where name = 'sms' returning id";
    cluster.query(quick, &[]).await?;
    cluster.provider.set(Behaviour {
        rate_500: 1.0,
        ..Behaviour::default()
    })?;
    for _ in 0..2 {
        let worker = Program::worker().env("POSTROAD_PREFETCH", 20);
        cluster.start(worker).await?;
    }
    cluster.enqueue(&many_sms(JOBS)).await?;

    eventually("the breaker is open, and the pipe empty", async || {
        let providers = cluster.store.providers(None).await?;
        ensure!(providers[0].breakers.len() == 1, "{providers:?}");
        let census = cluster.store.census().await?;
        ensure!(census.dispatched + census.running == 0, "{census:?}");
        Ok(())
    })
    .await?;
    let requests = cluster.provider.report().requests;
    assert!(requests < JOBS as u64 / 2, "{requests} found out");

    // It tries again, finds it down as before, and rests for longer.
    let due = "update postroad.breaker set probe_at = now() returning trips";
    cluster.query(due, &[]).await?;
    eventually("it was opened again", async || {
        let trips = cluster
            .query("select trips from postroad.breaker", &[])
            .await?;
        ensure!(trips.len() == 1 && trips[0].get::<_, i32>(0) > 1);
        Ok(())
    })
    .await?;
    assert!(cluster.provider.report().requests < JOBS as u64 / 2);

    cluster.provider.set(Behaviour::default())?;
    cluster.query(due, &[]).await?;
    cluster.wait_for("completed", JOBS as i64).await?;
    let left = cluster
        .query("select from postroad.breaker", &[])
        .await?
        .len();
    assert_eq!(left, 0, "it is closed");
    cluster.finish().await
}
