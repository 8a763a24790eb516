//! The figures of the whole path, each beside what bounds it in the same run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use postroad_common::job::{NewJob, RunAt};
use postroad_tests::harness::cluster::job;
use serde_json::json;

use crate::chart::{self, Bar, Line};
use crate::drain::{self, Backlog, Drained};
use crate::ground::Ground;
use crate::raw;
use crate::table::{Table, median, quantile};
use crate::{latency, provider, steady};

/// Jobs in a run.
pub(crate) const DRAINED: usize = 300_000;
const ENQUEUED: usize = 300_000;
const AT_ONCE: i64 = 50_000;
const IDLE: usize = 200;
const CALLED: usize = 10_000;

/// Where the figures go that no column holds.
pub(crate) struct Charts<'a> {
    pub(crate) dir: &'a Path,
    /// Whether what Postgres did is printed.
    pub(crate) with_statements: bool,
}

fn args() -> serde_json::Value {
    json!({"to": "+33639980606", "text": "x".repeat(67)})
}

pub(crate) async fn limits(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        let bare = ground.bare().await?;
        rates.push(raw::broker::rate(&bare, DRAINED / scale).await?);
        bare.take_down().await?;
    }
    table.add("limit: a message through RabbitMQ, bare", "msg/s", rates);
    Ok(())
}

/// Rows of jobs, by statement and by `COPY`.
pub(crate) async fn enqueue(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    const LIMIT: &str = "COPY into the table of jobs, one connection";
    let (mut ours, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let site = ground.bare().await?;
        copied.push(raw::copy::rate(&site, ENQUEUED / scale, &args()).await?);
        site.take_down().await?;
        let site = ground.bare().await?;
        ours.push(enqueued(&site.store, ENQUEUED / scale).await?);
        site.take_down().await?;
    }
    table.add(format!("limit: {LIMIT}"), "jobs/s", copied.clone());
    table.add_beside(
        "bulk enqueue, one connection",
        "jobs/s",
        ours,
        LIMIT,
        &copied,
    );
    Ok(())
}

async fn enqueued(store: &postroad_common::store::Store, jobs: usize) -> anyhow::Result<f64> {
    const STATEMENT: usize = 2000;
    let one = job("echo", &args());
    let some = || {
        let mut job = NewJob::new(one.kind.clone(), one.args.clone());
        job.run_at = RunAt::After(Duration::from_secs(3600));
        job
    };
    let started = Instant::now();
    for _ in 0..jobs / STATEMENT {
        let jobs: Vec<_> = (0..STATEMENT).map(|_| some()).collect();
        store.enqueue(&jobs, false).await?;
    }
    Ok((jobs / STATEMENT * STATEMENT) as f64 / started.elapsed().as_secs_f64())
}

/// The drain one by one and bundled, beside the prototype; says how fast the latter was.
pub(crate) async fn drain(
    ground: &Ground,
    charts: &Charts<'_>,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<f64> {
    const LIMIT: &str = "the prototype";
    let jobs = DRAINED / scale;
    let backlog = Backlog::of(i64::try_from(jobs)?);
    let (mut bare, mut bare_cpu) = (Vec::new(), Vec::new());
    let (mut ours, mut bundled) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let site = ground.bare().await?;
        let outcome = raw::prototype::run(&site, ground.servers(), jobs, &args()).await?;
        bare.push(outcome.jobs_per_second);
        bare_cpu.push(outcome.cpu_per_1000);
        site.take_down().await?;
        ours.push(drain::run(ground, &backlog).await?);
        bundled.push(drain::run(ground, &backlog.clone().bundled()).await?);
    }
    table.add(
        "limit: the whole path, bare prototype",
        "jobs/s",
        bare.clone(),
    );
    for (name, runs) in [("drain", &ours), ("drain, bundled", &bundled)] {
        table.add_beside(name, "jobs/s", rates(runs), LIMIT, &bare);
        let cpu = runs.iter().map(Drained::cpu).collect();
        let all = "  CPU per 1,000 jobs, all processes";
        table.add_beside(all, "s", cpu, LIMIT, &bare_cpu);
        by_name(
            runs,
            |one| &one.cpu_per_1000,
            |name, runs| {
                table.add(format!("  CPU per 1,000 jobs, {name}"), "s", runs);
            },
        );
        by_name(
            runs,
            |one| &one.peak_memory,
            |name, runs| {
                table.add(format!("  memory of the {name}, peak"), "MB", runs);
            },
        );
        if charts.with_statements {
            println!("{name}:");
            print_statements(runs);
        }
    }
    draw(charts.dir, &ours, &bundled)?;
    Ok(median(&rates(&bundled)))
}

pub(crate) fn rates(runs: &[Drained]) -> Vec<f64> {
    runs.iter().map(|run| run.jobs_per_second).collect()
}

pub(crate) fn print_statements(runs: &[Drained]) {
    for run in runs {
        let (vacuums, analyzes) = run.housekeeping;
        let cpu = run.cpu_per_1000.iter();
        let cpu: Vec<_> = cpu
            .map(|(name, seconds)| format!("{name} {seconds:.4} s"))
            .collect();
        println!(
            "{:.0} jobs/s; per 1,000: {}; autovacuum has vacuumed {vacuums} and analyzed {analyzes} times",
            run.jobs_per_second,
            cpu.join(", ")
        );
    }
    for statement in runs.last().into_iter().flat_map(|run| &run.statements) {
        let drain::Statement {
            calls,
            rows,
            planning,
            execution,
            text,
        } = statement;
        println!("{planning:6.2} + {execution:6.2} µs per job, {calls} calls, {rows} rows: {text}");
    }
}

fn by_name(
    runs: &[Drained],
    figures: impl Fn(&Drained) -> &Vec<(&'static str, f64)>,
    mut add: impl FnMut(&str, Vec<f64>),
) {
    let Some(first) = runs.first() else { return };
    for (nth, (name, _)) in figures(first).iter().enumerate() {
        let of_name = runs.iter().filter_map(|run| figures(run).get(nth));
        add(name, of_name.map(|(_, value)| *value).collect());
    }
}

fn draw(dir: &Path, one_by_one: &[Drained], bundled: &[Drained]) -> anyhow::Result<()> {
    let runs: Vec<_> = [("one by one", one_by_one), ("bundled", bundled)]
        .into_iter()
        .flat_map(|(how, runs)| {
            runs.iter()
                .enumerate()
                .map(move |(nth, run)| (how, nth, run))
        })
        .collect();
    let line = |(how, nth, run): &(&str, usize, &Drained)| Line {
        name: format!("{how}, run {}", nth + 1),
        points: run
            .timeline
            .iter()
            .enumerate()
            .map(|(tenth, jobs)| (tenth as f64 / 10.0, *jobs as f64 * 10.0))
            .collect(),
    };
    let lines: Vec<_> = runs.iter().map(line).collect();
    let title = "A backlog is drained: jobs that ended, by the second";
    chart::lines(&dir.join("drain.svg"), title, "seconds", "jobs/s", &lines)?;
    let (_, _, first) = runs.first().context("a drain without a run")?;
    let parts: Vec<_> = first.cpu_per_1000.iter().map(|(name, _)| *name).collect();
    let bar = |(how, nth, run): &(&str, usize, &Drained)| Bar {
        name: format!("{how}, run {}", nth + 1),
        values: run
            .cpu_per_1000
            .iter()
            .map(|(_, seconds)| seconds * 1000.0)
            .collect(),
    };
    let bars: Vec<_> = runs.iter().map(bar).collect();
    let title = "Where the processors' time goes";
    chart::bars(&dir.join("cpu.svg"), title, "µs per job", &parts, &bars)
}

pub(crate) async fn at_once(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let jobs = AT_ONCE / i64::try_from(scale)?;
    let (mut first, mut middle, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let started = drain::at_once(ground, jobs).await?;
        first.push(started.first);
        middle.push(started.median);
        last.push(started.last);
    }
    table.add(
        format!("{jobs} jobs due at one moment: the last starts after"),
        "s",
        last,
    );
    table.add("  half of them have started after", "s", middle);
    table.add("  the first starts after", "s", first);
    Ok(())
}

pub(crate) async fn idle(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let (mut api, mut sql, mut begun) = <(Quantiles, Quantiles, Quantiles)>::default();
    for _ in 0..runs {
        let waits = latency::run(ground, IDLE / scale.min(4)).await?;
        api.note(waits.api);
        sql.note(waits.sql);
        begun.note(waits.api_begun);
    }
    for (what, quantiles) in [
        ("from commit to start when idle, by the API", api),
        ("from commit to start when idle, by SQL", sql),
        (
            "from the beginning of the API's transaction to start",
            begun,
        ),
    ] {
        table.add(format!("{what}: p50"), "ms", quantiles.p50);
        table.add("  p99", "ms", quantiles.p99);
    }
    Ok(())
}

/// Of each run.
#[derive(Default)]
struct Quantiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Quantiles {
    fn note(&mut self, mut waits: Vec<f64>) {
        self.p50.push(quantile(&mut waits, 0.5));
        self.p99.push(quantile(&mut waits, 0.99));
    }
}

pub(crate) async fn slow_provider(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..runs {
        rates.push(provider::rate(ground, CALLED / scale.min(4)).await?);
    }
    let limits = vec![provider::limit(); rates.len()];
    let name = "webhooks to a provider that takes 50 ms, 100 at once";
    table.add_beside(name, "calls/s", rates, "what is possible", &limits);
    Ok(())
}

/// At half of what the drain came to.
pub(crate) async fn half_load(
    ground: &Ground,
    charts: &Charts<'_>,
    drained: f64,
    lasting: Duration,
    table: &mut Table,
) -> anyhow::Result<()> {
    let steady = steady::run(ground, drained / 2.0, lasting).await?;
    table.add("half load", "jobs/s", vec![steady.jobs_per_second]);
    table.add("  WAL per job", "bytes", vec![steady.wal_bytes_per_job]);
    let (early, late) = steady.looks.split_at(steady.looks.len() / 2);
    for (when, looks) in [("first half", early), ("second half", late)] {
        let most = |figure: fn(&steady::Look) -> f64| looks.iter().map(figure).fold(0.0, f64::max);
        table.add(
            format!("  start after commit, p99, {when}"),
            "ms",
            vec![most(|look| look.late_p99_ms)],
        );
        table.add(
            format!("  table of jobs, {when}"),
            "MB",
            vec![most(|look| look.table_mb)],
        );
        table.add(
            format!("  its indexes, {when}"),
            "MB",
            vec![most(|look| look.index_mb)],
        );
        table.add(
            format!("  dead rows, {when}"),
            "rows",
            vec![most(|look| look.dead_tuples as f64)],
        );
    }
    let line = |name: &str, figure: fn(&steady::Look) -> f64| Line {
        name: name.to_owned(),
        points: steady
            .looks
            .iter()
            .map(|look| (look.second as f64, figure(look)))
            .collect(),
    };
    let sizes = [
        line("table of unfinished jobs, MB", |look| look.table_mb),
        line("its indexes, MB", |look| look.index_mb),
        line("memory of the scheduler, MB", |look| look.scheduler_mb),
        line("memory of the worker, MB", |look| look.worker_mb),
    ];
    chart::lines(
        &charts.dir.join("half-load-sizes.svg"),
        "Half load: what could grow",
        "seconds",
        "MB",
        &sizes,
    )?;
    let waits = [
        line("p99", |look| look.late_p99_ms),
        line("p50", |look| look.late_p50_ms),
    ];
    chart::lines(
        &charts.dir.join("half-load-waits.svg"),
        "Half load: from commit to start",
        "seconds",
        "ms",
        &waits,
    )
}

/// The first database of new servers is slower: files, caches, just-in-time code.
pub(crate) async fn warm_up(ground: &Ground) -> anyhow::Result<()> {
    drain::run(ground, &Backlog::of(20_000)).await.map(drop)
}
