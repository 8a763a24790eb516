//! At what pace work enters the pipe: a tenant beside another one's flood, rates that are held, and
//! ten thousand tenants.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use postroad_common::job::NewJob;
use postroad_common::store::{
    Cursor, DueQueue, NewProcess, ProcessId, ProviderSettings, Role, Store, Wanted,
};
use postroad_tests::harness::cluster::{Cluster, job};
use serde_json::json;

use crate::drain::{self, Backlog};
use crate::ground::Ground;
use crate::table::Table;

/// Due jobs of the tenant that floods.
const FLOOD: i64 = 1_000_000;
/// What the pipe holds while tenants share it (`POSTROAD_SHARED_PIPE`), beside a job for each place: as much
/// as the window allows, and hardly more than runs.
const PIPES: [Option<&str>; 2] = [None, Some("5ms")];
/// How long the other one is looked at, without it and beside it, and how often it has a job.
const LOOKED_AT: Duration = Duration::from_secs(20);
const GAP: Duration = Duration::from_millis(20);

/// How long rates are counted, after a moment in which they settle.
const COUNTED: u32 = 60;
const SETTLED: u32 = 2;
const RATES: [u32; 2] = [1000, 50];

const TENANTS: i64 = 10_000;
const DRAINED: i64 = 200_000;
/// Claims and looks that are timed.
const TIMED: usize = 15;

pub(crate) async fn measure(
    ground: &Ground,
    is_quick: bool,
    table: &mut Table,
) -> anyhow::Result<()> {
    let scale = if is_quick { 10 } else { 1 };
    for pipe in PIPES {
        fairness(ground, pipe, scale, table).await?;
    }
    rates(ground, COUNTED / scale, table).await?;
    // A look has the first of these.
    let some = if is_quick { 1 } else { 2 };
    let kinds = [("only jobs of later but one", true), ("due jobs", false)];
    for (name, later) in kinds.into_iter().take(some) {
        let tenants = TENANTS / i64::from(scale);
        let times = times(ground, tenants, later).await?;
        table.add(
            format!("a look, {tenants} tenants with {name}"),
            "ms",
            times.looks,
        );
        table.add("  a claim of 1,000", "ms", times.claims);
    }
    if !is_quick {
        many_tenants(ground, table).await?;
    }
    Ok(())
}

/// How late one tenant's jobs start, without and beside another one's flood: what is ahead of them is
/// what the other has in the pipe.
async fn fairness(
    ground: &Ground,
    pipe: Option<&str>,
    scale: u32,
    table: &mut Table,
) -> anyhow::Result<()> {
    let cluster = ground
        .cluster(|builder| match pipe {
            Some(pipe) => builder.workers(1).env("POSTROAD_SHARED_PIPE", pipe),
            None => builder.workers(1),
        })
        .await?;
    let names = "select postroad.queue_id('default'), postroad.kind_id('echo'), postroad.tenant_id('flood')";
    cluster.query(names, &[]).await?;
    // The first job of a queue waits until RabbitMQ has it.
    let first = job("echo", &json!({"n": 0}));
    cluster.store.enqueue(&[first], false).await?;
    cluster.wait_for("completed", 1).await?;
    let lasting = LOOKED_AT / scale;
    trickle(&cluster, "alone", lasting).await?;
    drain::pause(&cluster, true).await?;
    load(&cluster, "flood", FLOOD / i64::from(scale)).await?;
    cluster.query("vacuum analyze postroad.job", &[]).await?;
    drain::pause(&cluster, false).await?;
    trickle(&cluster, "beside", lasting).await?;
    let (alone, beside) = (
        late(&cluster, "alone").await?,
        late(&cluster, "beside").await?,
    );
    let flood = "select count(*) / extract(epoch from max(a.started_at) - min(a.started_at))::float8
        from postroad.archive a join postroad.tenant t on t.id = a.tenant_id where t.name = 'flood'";
    let flood = cluster.query(flood, &[]).await?[0].get(0);
    cluster.take_down().await?;
    let limit = "the same without the flood";
    let pipe = pipe.map_or("", |_| ", in a short pipe");
    let name = format!("beside another tenant's flood{pipe}: from due to start, p50");
    table.add_beside(name, "ms", vec![beside[0]], limit, &[alone[0]]);
    table.add_beside("  p95", "ms", vec![beside[1]], limit, &[alone[1]]);
    table.add("  the flood, meanwhile", "jobs/s", vec![flood]);
    Ok(())
}

/// Due jobs of one tenant.
async fn load(cluster: &Cluster, tenant: &str, jobs: i64) -> anyhow::Result<()> {
    let sql = "insert into postroad.job (id, queue_id, kind_id, tenant_id, run_at, args)
        select postroad.uuid_v7(), q.id, k.id, t.id, now(), '{\"to\":\"+33639980606\",\"text\":\"hi\"}'
        from generate_series(1, $2::bigint), postroad.queue q, postroad.kind k, postroad.tenant t
        where q.name = 'default' and k.name = 'echo' and t.name = $1";
    cluster.query(sql, &[&tenant, &jobs]).await.map(drop)
}

/// A job of this tenant at an even pace.
async fn trickle(cluster: &Cluster, tenant: &str, lasting: Duration) -> anyhow::Result<()> {
    let one = job("echo", &json!({"n": 1}));
    let mut beat = tokio::time::interval(GAP);
    let started = Instant::now();
    while started.elapsed() < lasting {
        beat.tick().await;
        let job = NewJob {
            tenant: tenant.parse()?,
            ..NewJob::new(one.kind.clone(), one.args.clone())
        };
        cluster.store.enqueue(&[job], false).await?;
    }
    Ok(())
}

/// Milliseconds from due to start, p50 and p95, of the jobs of a tenant that have ended.
async fn late(cluster: &Cluster, tenant: &str) -> anyhow::Result<Vec<f64>> {
    let sql = "select percentile_cont(array[0.5, 0.95]) within group
            (order by extract(epoch from a.started_at - a.run_at)::float8 * 1000)
        from postroad.archive a join postroad.tenant t on t.id = a.tenant_id where t.name = $1";
    Ok(cluster.query(sql, &[&tenant]).await?[0].get(0))
}

/// Rates of a queue, of a provider with two queues and of a tenant in two queues, all at once, with two
/// schedulers: what has started, and the most of it in any second.
async fn rates(ground: &Ground, seconds: u32, table: &mut Table) -> anyhow::Result<()> {
    let queues: Vec<String> = RATES
        .iter()
        .flat_map(|rate| {
            [
                format!("queue-{rate}"),
                format!("a-{rate}"),
                format!("b-{rate}"),
            ]
        })
        .chain(["c".to_owned(), "d".to_owned()])
        .collect();
    let names = queues.join(",");
    let cluster = ground
        .cluster(|builder| {
            builder
                .workers(1)
                .schedulers(2)
                .prefetch(200)
                .queues(&names)
        })
        .await?;
    cluster.query(MAKE, &[&queues]).await?;
    for rate in RATES {
        let settings = ProviderSettings {
            rate_per_second: Some(i32::try_from(rate)?),
            ..ProviderSettings::default()
        };
        cluster
            .store
            .put_provider(&format!("provider-{rate}"), &settings)
            .await?;
        // More than can be started before it is over.
        let jobs = i64::from(rate * (seconds + 3 * SETTLED));
        cluster.query(SET_UP, &[&rate.to_string(), &jobs]).await?;
    }
    cluster.query("vacuum analyze postroad.job", &[]).await?;
    let free = "update postroad.queue set paused_at = null";
    cluster.query(free, &[]).await?;
    tokio::time::sleep(Duration::from_secs(u64::from(seconds + 2 * SETTLED))).await;
    let counted = [&f64::from(SETTLED), &f64::from(seconds)];
    for row in cluster.query(HELD, &[counted[0], counted[1]]).await? {
        let (what, rate): (String, f64) = (row.get(0), row.get(1));
        let name = format!("the rate of a {what}, two schedulers, {seconds} s");
        table.add_beside(name, "jobs/s", vec![row.get(2)], "what is set", &[rate]);
        table.add_beside(
            "  the most in a second",
            "jobs",
            vec![row.get(3)],
            "what is set",
            &[rate],
        );
    }
    cluster.take_down().await
}

const MAKE: &str = "
    insert into postroad.queue (name, paused_at) select name, now() from unnest($1::text[]) name
    on conflict (name) do update set paused_at = now()";

/// Queues, providers and tenants of one rate ($1), each with enough jobs ($2) in its queues.
const SET_UP: &str = "
    with rated as (
        update postroad.queue q
        set rate_per_second = case when q.name = 'queue-' || $1 then $1::text::int end,
            provider_id = case when q.name <> 'queue-' || $1
                               then (select id from postroad.provider where name = 'provider-' || $1) end
        where q.name in ('queue-' || $1, 'a-' || $1, 'b-' || $1)
        returning q.id),
    tenant as (
        insert into postroad.tenant (name, rate_per_second) values ('tenant-' || $1, $1::text::int)
        returning id),
    places as (
        select id as queue_id, postroad.tenant_id('free') as tenant_id from rated
        union all
        select q.id, t.id from postroad.queue q, tenant t where q.name in ('c', 'd'))
    insert into postroad.job (id, queue_id, kind_id, tenant_id, run_at, args)
    select postroad.uuid_v7(), p.queue_id, postroad.kind_id('echo'), p.tenant_id, now(), '{}'
    from places p, generate_series(1, $2::bigint)";

const HELD: &str = "
    with started as (
        select case when t.name <> 'free' then 'tenant' when v.id is not null then 'provider'
                    else 'queue' end as what,
               coalesce(t.rate_per_second, v.rate_per_second, q.rate_per_second) as rate, a.started_at as at
        from postroad.archive a
        join postroad.queue q on q.id = a.queue_id
        join postroad.tenant t on t.id = a.tenant_id
        left join postroad.provider v on v.id = q.provider_id),
    counted as (
        select s.*, count(*) over (partition by what, rate order by at
                                   range between current row and '1 s' following) as in_a_second
        from started s, (select min(at) + $1 * interval '1 s' as since from started) first
        where s.at >= since and s.at < since + $2 * interval '1 s')
    select what, rate::float8, count(*)::float8 / $2, max(in_a_second)::float8
    from counted group by what, rate order by what, rate desc";

/// Milliseconds.
struct Times {
    looks: Vec<f64>,
    claims: Vec<f64>,
}

/// What one look and one claim cost where there are so many tenants.
async fn times(ground: &Ground, tenants: i64, is_later: bool) -> anyhow::Result<Times> {
    const EACH: i64 = 20;
    let cluster = ground.bare().await?;
    let names = "select postroad.queue_id('default'), postroad.kind_id('echo'), postroad.tenant_id('t' || n)
        from generate_series(1, $1::bigint) n";
    cluster.query(names, &[&tenants]).await?;
    let due_in = if is_later { 86_400.0 } else { 0.0 };
    drain::load(&cluster, tenants * EACH, due_in, 100).await?;
    if is_later {
        load(&cluster, "t1", 1000 * i64::try_from(TIMED)?).await?;
    }
    let window = "update postroad.queue set window_size = 100000";
    cluster.query(window, &[]).await?;
    cluster.query("vacuum analyze postroad.job", &[]).await?;
    let store = &cluster.store;
    let claimer = scheduler(store).await?;
    let mut times = Times {
        looks: Vec::new(),
        claims: Vec::new(),
    };
    for _ in 0..TIMED {
        let started = Instant::now();
        let queue = store.due_queues(&[]).await?.pop().context("a due queue")?;
        times.looks.push(millis(started));
        let started = Instant::now();
        claim(store, &queue, claimer).await?;
        times.claims.push(millis(started));
    }
    cluster.take_down().await?;
    Ok(times)
}

async fn claim(store: &Store, queue: &DueQueue, claimer: ProcessId) -> anyhow::Result<()> {
    let nothing = Cursor::default();
    let claimed = store
        .claim(queue, Wanted::up_to(1000), claimer, &nothing)
        .await?;
    claimed.context("nothing was claimed").map(drop)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

async fn scheduler(store: &Store) -> anyhow::Result<ProcessId> {
    let process = NewProcess {
        role: Role::Scheduler,
        host: "bench".to_owned(),
        pid: 1,
        version: "0",
        queues: Vec::new(),
        lease: Duration::from_secs(3600),
        prefetch: None,
    };
    Ok(store.register(&process).await?)
}

async fn many_tenants(ground: &Ground, table: &mut Table) -> anyhow::Result<()> {
    let one = Backlog::of(DRAINED).bundled();
    let many = Backlog {
        tenants: TENANTS,
        ..one.clone()
    };
    let one = drain::run(ground, &one).await?.jobs_per_second;
    let many = drain::run(ground, &many).await?.jobs_per_second;
    let name = "drain, of 10,000 tenants";
    table.add_beside(name, "jobs/s", vec![many], "the drain of one", &[one]);
    Ok(())
}
