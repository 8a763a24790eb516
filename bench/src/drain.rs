//! A backlog through everything: claimed, published, confirmed, delivered, started, run, finished,
//! archived, acked. The kind does nothing, so what is measured is Postroad.

use anyhow::ensure;
use postroad_tests::harness::cluster::{Builder, Cluster, Id};
use postroad_tests::harness::eventually::eventually;

use crate::ground::Ground;
use crate::usage::{Usage, peak_memory};

/// What is drained, and among what.
#[derive(Clone, Debug)]
pub(crate) struct Backlog {
    pub(crate) jobs: i64,
    /// Tenants that the jobs belong to, in turn.
    pub(crate) tenants: i64,
    /// About how many bytes of args each has.
    pub(crate) args_bytes: i32,
    /// Jobs that are due in a year, in the same table.
    pub(crate) later: i64,
    pub(crate) statistics: Statistics,
    pub(crate) setup: Setup,
}

/// How a queue and its programs are set: one scheduler and one worker, as users would start them on
/// such a machine for jobs that take no time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) prefetch: u16,
    pub(crate) window: i32,
    /// Jobs in one message, at most.
    pub(crate) bundle: usize,
}

impl Setup {
    /// One job in each message: a worker needs many of them in hand.
    pub(crate) const ONE_BY_ONE: Self = Self {
        prefetch: 1000,
        window: 4000,
        bundle: 1,
    };
    /// Several: as many fit as the window has room for beside each place.
    pub(crate) const BUNDLED: Self = Self {
        prefetch: 600,
        window: 12_000,
        bundle: 50,
    };

    fn programs(self, builder: Builder) -> Builder {
        let builder = builder.workers(1).prefetch(self.prefetch);
        builder.env("POSTROAD_BUNDLE", self.bundle)
    }
}

/// What Postgres knows of the table of jobs when the drain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// What is in it.
    Fresh,
    /// That it was empty.
    OfEmpty,
    /// Nothing.
    None,
}

impl Backlog {
    pub(crate) fn of(jobs: i64) -> Self {
        Self {
            jobs,
            tenants: 1,
            args_bytes: 100,
            later: 0,
            statistics: Statistics::Fresh,
            setup: Setup::ONE_BY_ONE,
        }
    }

    pub(crate) fn bundled(self) -> Self {
        Self {
            setup: Setup::BUNDLED,
            ..self
        }
    }
}

/// What a drain came to.
#[derive(Clone, Debug)]
pub(crate) struct Drained {
    /// From the moment that lets the first job go to the last one's end.
    pub(crate) jobs_per_second: f64,
    /// Processor seconds per 1,000 jobs, of servers and programs.
    pub(crate) cpu_per_1000: Vec<(&'static str, f64)>,
    /// MB, the most that each program had.
    pub(crate) peak_memory: Vec<(&'static str, f64)>,
    /// Jobs that ended in each tenth of a second.
    pub(crate) timeline: Vec<i64>,
    /// What Postgres spent its time on.
    pub(crate) statements: Vec<Statement>,
    /// How often Postgres, by itself, has vacuumed and analyzed the table of jobs since it was made.
    pub(crate) housekeeping: (i64, i64),
}

/// One statement during a drain.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) calls: i64,
    pub(crate) rows: i64,
    /// Microseconds per job of the drain.
    pub(crate) planning: f64,
    pub(crate) execution: f64,
    pub(crate) text: String,
}

impl Drained {
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_per_1000.iter().map(|(_, seconds)| seconds).sum()
    }
}

const LOAD: &str = "
    insert into postroad.job (id, queue_id, kind_id, tenant_id, run_at, args)
    select postroad.uuid_v7(), q.id, k.id, t.ids[1 + n % array_length(t.ids, 1)],
           clock_timestamp() + $2::float8 * interval '1 second', args.text
    from generate_series(1, $1::bigint) n,
         (select id from postroad.queue where name = 'default') q,
         (select id from postroad.kind where name = 'echo') k,
         (select array_agg(id) as ids from postroad.tenant) t,
         (select json_build_object('to', '+33639980606', 'text', repeat('x', greatest($3 - 33, 1))) as text) args";

/// Loads jobs that are due in so many seconds.
pub(crate) async fn load(
    cluster: &Cluster,
    jobs: i64,
    due_in: f64,
    args_bytes: i32,
) -> anyhow::Result<()> {
    // In pieces: one transaction of millions of rows would hold back vacuum.
    const PIECE: i64 = 100_000;
    for from in (0..jobs).step_by(PIECE as usize) {
        let piece = PIECE.min(jobs - from);
        cluster.query(LOAD, &[&piece, &due_in, &args_bytes]).await?;
    }
    Ok(())
}

/// A cluster whose queue is `default`, and `tenants`.
pub(crate) async fn cluster(
    ground: &Ground,
    tenants: i64,
    setup: Setup,
) -> anyhow::Result<Cluster> {
    let cluster = ground.cluster(|builder| setup.programs(builder)).await?;
    let names = "select postroad.queue_id('default'), postroad.kind_id('echo'), postroad.tenant_id('t' || n)
        from generate_series(1, $1::bigint) n";
    cluster.query(names, &[&tenants]).await?;
    cluster
        .query(
            "update postroad.queue set window_size = $1",
            &[&setup.window],
        )
        .await?;
    Ok(cluster)
}

/// Loads a backlog into a new database, then lets it go.
pub(crate) async fn run(ground: &Ground, backlog: &Backlog) -> anyhow::Result<Drained> {
    let cluster = cluster(ground, backlog.tenants, backlog.setup).await?;
    if backlog.statistics == Statistics::OfEmpty {
        cluster.query("analyze postroad.job", &[]).await?;
    }
    pause(&cluster, true).await?;
    load(&cluster, backlog.later, 365.0 * 86400.0, backlog.args_bytes).await?;
    load(&cluster, backlog.jobs, 0.0, backlog.args_bytes).await?;
    if backlog.statistics == Statistics::Fresh {
        cluster.query("vacuum analyze postroad.job", &[]).await?;
    }
    // What loading has left to be written is not the drain's to write.
    cluster.query("checkpoint", &[]).await?;
    cluster
        .query("create extension if not exists pg_stat_statements", &[])
        .await?;
    cluster
        .query("select pg_stat_statements_reset()", &[])
        .await?;
    let watched = ground.watched(&cluster);
    let before = Usage::of(&watched)?;
    pause(&cluster, false).await?;
    all_done(&cluster, backlog.jobs).await?;
    let usage = Usage::of(&watched)?.since(&before);
    let drained = report(&cluster, backlog.jobs, &usage).await?;
    cluster.take_down().await?;
    Ok(drained)
}

pub(crate) async fn pause(cluster: &Cluster, is_paused: bool) -> anyhow::Result<()> {
    let sql = "update postroad.queue set paused_at = case when $1 then now() end,
        -- When it was let go, for the report: nothing uses the bucket of a queue without a rate.
        rate_at = clock_timestamp()";
    cluster.query(sql, &[&is_paused]).await.map(drop)
}

/// Waits until so many jobs are in the archive. Looks at the ledger's view of it: counting the
/// archive itself again and again would be load.
pub(crate) async fn all_done(cluster: &Cluster, jobs: i64) -> anyhow::Result<()> {
    let sql = "select coalesce(sum(completed), 0)::bigint from (
        select completed from postroad.ledger_total union all
        select completed from postroad.ledger_entry) noted";
    let mut before = -1;
    loop {
        let looked = eventually("jobs go on ending", async || {
            let completed: i64 = cluster.query(sql, &[]).await?[0].get(0);
            ensure!(completed > before, "{completed} have ended");
            Ok(completed)
        });
        before = looked.await?;
        if before >= jobs {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

const STATEMENTS: &str = "
    select calls, rows, total_plan_time * 1000 / $1::bigint, total_exec_time * 1000 / $1::bigint,
           left(regexp_replace(query, '\\s+', ' ', 'g'), 90)
    from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
    order by total_plan_time + total_exec_time desc limit 12";
const HOUSEKEEPING: &str = "
    select autovacuum_count, autoanalyze_count from pg_stat_user_tables
    where relid = 'postroad.job'::regclass";
const REPORT: &str = "
    select count(*) filter (where state = 'completed'),
           extract(epoch from max(finished_at) - (select rate_at from postroad.queue where name = 'default'))::float8
    from postroad.archive";
const TIMELINE: &str = "
    select tenth, count(a.finished_at)
    from (select rate_at as began from postroad.queue where name = 'default') q,
         lateral (select floor(extract(epoch from finished_at - q.began) * 10)::bigint as tenth, finished_at
                  from postroad.archive) a
    group by 1 order by 1";

async fn report(cluster: &Cluster, jobs: i64, usage: &Usage) -> anyhow::Result<Drained> {
    let rows = cluster.query(REPORT, &[]).await?;
    let (completed, seconds): (i64, f64) = (rows[0].get(0), rows[0].get(1));
    ensure!(
        completed == jobs,
        "{completed} of {jobs} jobs are completed"
    );
    let mut timeline = Vec::new();
    for row in cluster.query(TIMELINE, &[]).await? {
        let tenth = usize::try_from(row.get::<_, i64>(0))?;
        timeline.resize(tenth + 1, 0);
        timeline[tenth] = row.get(1);
    }
    let statement = |row: &tokio_postgres::Row| Statement {
        calls: row.get(0),
        rows: row.get(1),
        planning: row.get(2),
        execution: row.get(3),
        text: row.get(4),
    };
    let statements = cluster.query(STATEMENTS, &[&jobs]).await?;
    let statements = statements.iter().map(statement).collect();
    let counts = cluster.query(HOUSEKEEPING, &[]).await?;
    let per_1000 = 1000.0 / jobs as f64;
    let peak = |name, id: Id| anyhow::Ok((name, peak_memory(cluster.pid(id))?));
    Ok(Drained {
        jobs_per_second: jobs as f64 / seconds,
        cpu_per_1000: usage
            .by_name()
            .map(|(name, seconds)| (name, seconds * per_1000))
            .collect(),
        peak_memory: vec![
            peak("scheduler", cluster.scheduler(0))?,
            peak("worker", cluster.worker(0))?,
        ],
        timeline,
        statements,
        housekeeping: (counts[0].get(0), counts[0].get(1)),
    })
}

/// When jobs that are all due at one moment have started, in seconds after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtOnce {
    pub(crate) first: f64,
    pub(crate) median: f64,
    pub(crate) last: f64,
}

pub(crate) async fn at_once(ground: &Ground, jobs: i64) -> anyhow::Result<AtOnce> {
    let cluster = cluster(ground, 1, Setup::BUNDLED).await?;
    load(&cluster, jobs, 3600.0, 100).await?;
    // All of them at one moment that has not come yet.
    let due = "update postroad.job set run_at = now() + interval '5 seconds'";
    cluster.query(due, &[]).await?;
    cluster.query("vacuum analyze postroad.job", &[]).await?;
    cluster.query("checkpoint", &[]).await?;
    all_done(&cluster, jobs).await?;
    let sql = "select min(late), percentile_cont(0.5) within group (order by late), max(late)
        from (select extract(epoch from started_at - run_at)::float8 as late from postroad.archive) started";
    let row = &cluster.query(sql, &[]).await?[0];
    let at_once = AtOnce {
        first: row.get(0),
        median: row.get(1),
        last: row.get(2),
    };
    cluster.take_down().await?;
    Ok(at_once)
}
