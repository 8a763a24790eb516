//! Timelines: what an announcement to a million recipients writes, and how many looks a second one
//! process of the API answers while hundreds of announcements are shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster};
use serde_json::{Value, json};

use crate::audiences;
use crate::client::Client;
use crate::ground::Ground;
use crate::table::{Table, quantile};
use crate::usage::Usage;

const RECIPIENTS: usize = 1_000_000;
/// Announcements that are shown at once.
const SHOWN: usize = 500;
/// Connections that are kept alive, each with one look under way.
const CLIENTS: usize = 32;
/// How long looks are made.
const LOOKS: Duration = Duration::from_secs(10);
/// Items on a page, as an app asks for them.
const PAGE: usize = 20;
/// Every so many recipients have entries of their own, and have read half of what there is.
const EVERY: usize = 10;

/// Five entries for one recipient in ten, and a mark in the middle of all announcements.
const FILL: &str = "
    with tenant as (select id from postroad.tenant where name = 'large'),
    entries as (
        insert into postroad.timeline_entry (tenant_id, recipient, id, created_at, ends_at, message)
        select tenant.id, 'user-' || n, gen_random_uuid(), now() - m * interval '1 day',
               now() + interval '30 days', json_build_object('title', 'Your order is on its way',
                   'body', 'It was handed over to the carrier.', 'url', '/orders/' || n)
        from tenant, generate_series(0, $1::int - 1, $2::int) n, generate_series(1, 5) m)
    insert into postroad.timeline_reader (tenant_id, recipient, read_to, read_to_id)
    select tenant.id, 'user-' || n, middle.starts_at, middle.id
    from tenant, generate_series(0, $1::int - 1, $2::int) n,
         (select starts_at, id from postroad.announcement order by id limit 1 offset $3::bigint) middle";

pub(crate) async fn measure(
    ground: &Ground,
    scale: usize,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let site = ground
        .site_of(|builder: Builder| builder.workers(0).schedulers(0))
        .await?;
    let permissions = [
        Permission::AudiencesWrite,
        Permission::AnnouncementsWrite,
        Permission::TimelineRead,
    ];
    let cluster = &site.cluster;
    let api = cluster
        .client(site.api, Some("large"), &permissions)
        .await?;
    let count = RECIPIENTS / scale;
    audiences::import(&api, count).await?;
    cluster
        .query("vacuum analyze postroad.recipient", &[])
        .await?;

    let (mut waits, mut rows, mut bytes) = (vec![], vec![], vec![]);
    for n in 0..SHOWN {
        let before = written(cluster).await?;
        let asked = Instant::now();
        announce(&api, n).await?;
        waits.push(asked.elapsed().as_secs_f64() * 1000.0);
        let after = written(cluster).await?;
        let is_another_set = after.set != before.set;
        rows.push(after.rows - before.rows + f64::from(u8::from(is_another_set)));
        bytes.push(after.bytes - before.bytes);
    }
    let of = format!("an announcement to {count} recipients");
    table.add(
        format!("{of}: answer"),
        "ms",
        vec![quantile(&mut waits, 0.5)],
    );
    table.add(
        "  rows written or changed, at most",
        "rows",
        vec![quantile(&mut rows, 1.0)],
    );
    table.add(
        "  write-ahead log, median",
        "bytes",
        vec![quantile(&mut bytes, 0.5)],
    );

    let (all, every) = (i32::try_from(count)?, i32::try_from(EVERY)?);
    let middle = i64::try_from(SHOWN / 2)?;
    cluster.query(FILL, &[&all, &every, &middle]).await?;
    cluster
        .query("vacuum analyze postroad.timeline_entry", &[])
        .await?;
    cluster
        .query("vacuum analyze postroad.timeline_reader", &[])
        .await?;
    looks(&api, count, Duration::from_secs(1)).await?;
    let (mut rates, mut p50, mut p99) = (vec![], vec![], vec![]);
    let mut costs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let watched = ground.watched(cluster);
    for _ in 0..runs {
        let before = Usage::of(&watched)?;
        let mut waits = looks(&api, count, LOOKS).await?;
        for (name, seconds) in Usage::of(&watched)?.since(&before).by_name() {
            let micros = seconds * 1e6 / waits.len() as f64;
            costs.entry(name).or_default().push(micros);
        }
        rates.push(waits.len() as f64 / LOOKS.as_secs_f64());
        p50.push(quantile(&mut waits, 0.5));
        p99.push(quantile(&mut waits, 0.99));
    }
    let of = format!("GET /v1/timeline, {SHOWN} announcements shown, {CLIENTS} connections");
    table.add(of, "/s", rates);
    table.add("  answer, median", "ms", p50);
    table.add("  answer, p99", "ms", p99);
    for (name, micros) in costs.into_iter().filter(|(name, _)| *name != "rabbitmq") {
        table.add(format!("  processor time of {name} for each"), "µs", micros);
    }
    site.cluster.take_down().await
}

/// The nth of hundreds: one in ten is for everybody, the others each for some.
async fn announce(api: &Api, n: usize) -> anyhow::Result<()> {
    let questions = audiences::questions();
    let rules = match n % 10 {
        0 => json!({"all": true}),
        one => questions[one % questions.len()].1.clone(),
    };
    let of = |language: &str| json!({"title": format!("{language}: what is new ({n})"), "body": "Some lines of text. ".repeat(10), "url": format!("/news/{n}")});
    let messages: Value = ["en", "fr", "de"]
        .map(|tag| (tag.to_owned(), of(tag)))
        .into_iter()
        .collect();
    let body = json!({"content": {"language": "en", "messages": messages}, "rules": rules});
    let made = api.post("/v1/announcements", &body).await?;
    ensure!(made.status.as_u16() == 201, "{made:?}");
    Ok(())
}

/// What was written so far.
struct Written {
    /// In everything that an announcement may touch, but for the set's one row.
    rows: f64,
    /// The version of the set: another one is a row that was changed.
    set: i64,
    /// Of the write-ahead log.
    bytes: f64,
}

async fn written(cluster: &Cluster) -> anyhow::Result<Written> {
    let sql = "
        select ((select count(*) from postroad.announcement)
              + (select count(*) from postroad.audit_log)
              + (select count(*) from (select from postroad.timeline_entry limit 1000000) e)
              + (select count(*) from (select from postroad.timeline_reader limit 1000000) r))::float8,
               coalesce((select max(version) from postroad.announcement_set), 0),
               (pg_current_wal_insert_lsn() - '0/0')::float8";
    let rows = cluster.query(sql, &[]).await?;
    Ok(Written {
        rows: rows[0].get(0),
        set: rows[0].get(1),
        bytes: rows[0].get(2),
    })
}

/// Looks of all connections for so long; how long each waited, in milliseconds.
async fn looks(api: &Api, count: usize, time: Duration) -> anyhow::Result<Vec<f64>> {
    let end = Instant::now() + time;
    let waits = try_join_all((0..CLIENTS).map(|client| async move {
        let mut waits = Vec::new();
        let mut connection = Client::connect(api).await?;
        let mut n = client;
        while Instant::now() < end {
            // A prime, so that everybody comes by.
            n = (n + 15_485_863) % count;
            let asked = Instant::now();
            let path = format!("/v1/timeline/user-{n}?limit={PAGE}");
            connection.get(&path).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::Ok(waits)
    }))
    .await?;
    Ok(waits.concat())
}
