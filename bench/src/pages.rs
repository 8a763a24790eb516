//! Lists, with millions of finished jobs in the table.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::Builder;

use crate::ground::Ground;
use crate::table::{Table, quantile};

const FINISHED: i64 = 5_000_000;
/// Rows per statement.
const CHUNK: i64 = 500_000;
/// Pages that are turned, one after the other.
const DEPTH: usize = 50;

/// Finished jobs of a hundred tenants, three kinds and four queues, of the last ten days; one in
/// fifty did not end well, and one in a million expired.
const FILL: &str = "
    insert into postroad.archive (id, state, priority, attempt, dispatch, queue_id, kind_id, tenant_id,
        run_at, created_at, started_at, finished_at, reason, args)
    select
        (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7000' || '8000'
            || lpad(to_hex(n), 12, '0'))::uuid,
        state, 1, 1, 1,
        (select id from postroad.queue where name = 'q' || n % 4),
        (select id from postroad.kind where name = 'k' || n % 3),
        (select id from postroad.tenant where name = 't' || n % 100),
        at, at, at, at,
        case when state <> 'completed' then 'exhausted' end,
        case when state <> 'completed' then '{}'::json end
    from (
        select n, now() - (5000000 - n) * interval '170 ms' as at,
            case when n % 1000000 = 17 then 'expired' when n % 50 = 0 then 'dead'
                 else 'completed' end::postroad.job_state as state
        from generate_series($1::bigint, $2::bigint) n) one";

/// The partitions of the days before yesterday: there was no Postroad then to make them.
const LONG_AGO: &str = "
    do $$
    declare day date;
    begin
        for day in select (now() at time zone 'UTC')::date - n from generate_series(2, 12) n loop
            execute format('create table postroad.archive_%s partition of postroad.archive
                for values from (%L) to (%L)',
                to_char(day, 'YYYYMMDD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
        end loop;
    end $$";

/// What people ask for, and what is hard: a tenant without dead jobs, a state that is rare.
const QUESTIONS: [&str; 9] = [
    "",
    "&state=completed",
    "&state=dead",
    "&state=expired",
    "&state=held",
    "&kind=k1",
    "&queue=q2&state=dead",
    "&tenant=t7",
    "&tenant=t7&kind=k2&state=dead",
];

pub(crate) async fn measure(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    // Nobody prunes the days of long ago.
    let nobody = |builder: Builder| builder.workers(0).schedulers(0);
    let site = ground.site_of(nobody).await?;
    let count = FINISHED / i64::try_from(scale)?;
    let names = "
        select postroad.tenant_id('t' || n), postroad.queue_id('q' || n % 4), postroad.kind_id('k' || n % 3)
        from generate_series(0, 99) n";
    site.cluster.query(names, &[]).await?;
    site.cluster.query(LONG_AGO, &[]).await?;
    for from in (1..=count).step_by(usize::try_from(CHUNK)?) {
        let to = (from + CHUNK - 1).min(count);
        site.cluster.query(FILL, &[&from, &to]).await?;
        eprintln!("{to} finished jobs");
    }
    site.cluster
        .query("vacuum analyze postroad.archive", &[])
        .await?;

    let tenants = site
        .cluster
        .client(site.api, Some("t42"), &[Permission::JobsRead])
        .await?;
    for limit in [50, 200] {
        let (mut medians, mut longest) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let mut waits = Vec::new();
            for question in QUESTIONS {
                let mut of_question = turn_pages(&site.operator, question, limit).await?;
                if !question.contains("tenant") {
                    of_question.extend(turn_pages(&tenants, question, limit).await?);
                }
                waits.extend(&of_question);
                let (median, longest) = (
                    quantile(&mut of_question, 0.5),
                    quantile(&mut of_question, 1.0),
                );
                eprintln!("limit={limit}{question}: {median:.1} ms, longest {longest:.1}");
            }
            medians.push(quantile(&mut waits, 0.5));
            longest.push(quantile(&mut waits, 1.0));
        }
        let of = format!("pages of {limit}, {count} finished jobs");
        table.add(format!("{of}: median"), "ms", medians);
        table.add(format!("{of}: longest"), "ms", longest);
    }
    site.cluster.take_down().await
}

/// From the first page on; how long each took, in milliseconds.
async fn turn_pages(api: &Api, question: &str, limit: usize) -> anyhow::Result<Vec<f64>> {
    let mut waits = Vec::new();
    let mut cursor = String::new();
    for _ in 0..DEPTH {
        let path = format!("/v1/jobs?limit={limit}{question}{cursor}");
        let asked = Instant::now();
        let answer = api.get(&path).await?;
        let wait = asked.elapsed().as_secs_f64() * 1000.0;
        ensure!(answer.status == 200, "{answer:?}");
        waits.push(wait);
        let page = answer.json();
        page["items"].as_array().context("a page without items")?;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    Ok(waits)
}
