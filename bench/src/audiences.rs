//! Audiences of a million recipients: how fast they come in, are counted, and are gone through, and how
//! soon a campaign for them is accepted.

use std::time::Instant;

use anyhow::ensure;
use futures_util::stream;
use jiff::civil::{Date, date};
use postroad_common::audience::Rule;
use postroad_common::store::Store;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::Builder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::expansion;
use crate::ground::Ground;
use crate::table::Table;

const RECIPIENTS: usize = 1_000_000;
/// Lines that are made at once.
const CHUNK: usize = 1000;
/// Recipients that a campaign looks at in one statement.
const SCAN: i64 = 10_000;
const TODAY: Date = date(2026, 11, 1);

const LANGUAGES: [&str; 8] = ["en", "en-GB", "fr", "de", "es", "pt-BR", "ja", "zh-Hant-TW"];
const COUNTRIES: [&str; 12] = [
    "FR", "DE", "GB", "US", "ES", "BR", "JP", "TW", "SE", "IT", "NL", "PL",
];
const ZONES: [&str; 16] = [
    "Europe/Paris",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "Asia/Tokyo",
    "Asia/Taipei",
    "America/Sao_Paulo",
    "Europe/Stockholm",
    "Australia/Sydney",
    "Asia/Kolkata",
    "UTC",
    "Pacific/Auckland",
    "Africa/Cairo",
    "Europe/Madrid",
    "Europe/Rome",
];

/// The nth of a million who are all different, and always the same.
fn recipient(n: usize) -> Value {
    // Primes far apart: no two of these go together.
    let one_of = |list: &[&'static str], prime: usize| list[n * prime % list.len()];
    let birth = 1940 + n * 32_452_843 % 70;
    json!({
        "key": format!("user-{n}"),
        "addresses": {"sms": format!("+336{n:08}"), "push": format!("fcm:{n:032x}")},
        "language": one_of(&LANGUAGES, 7919),
        "country": one_of(&COUNTRIES, 104_729),
        "timezone": one_of(&ZONES, 15_485_863),
        "birth_date": (!n.is_multiple_of(10)).then(|| format!("{birth}-{:02}-{:02}", 1 + n % 12, 1 + n % 28)),
        "plan": match n % 100 { 0 => "enterprise", tens if tens % 10 == 0 => "pro", _ => "free" },
        "attributes": {
            "churned": n.is_multiple_of(5), "orders": n * 49_979_687 % 500,
            "spent": (n * 86_028_121 % 100_000) as f64 / 100.0,
            "segment": format!("segment-{}", n * 2_038_074_743 % 1000),
            "last_seen": format!("2024-{:02}-{:02}T{:02}:00:00Z", 1 + n % 12, 1 + n % 28, n % 24),
        },
    })
}

/// What is asked for: few by an index, few without one, and many.
pub(crate) fn questions() -> [(&'static str, Value); 6] {
    [
        ("all", json!({"all": true})),
        (
            "one in a thousand by an attribute",
            json!({"equals": {"attribute": "segment", "value": "segment-17"}}),
        ),
        ("two of twelve countries", json!({"country": ["FR", "DE"]})),
        (
            "one in fifty by a range of numbers",
            json!({"range": {"attribute": "orders", "min": 490}}),
        ),
        (
            "a third by a range of moments",
            json!({"range": {"attribute": "last_seen", "min": "2024-09-01"}}),
        ),
        (
            "a language, an age, and not churned",
            json!({"and": [{"language": ["en"]}, {"age": {"min": 30, "max": 40}},
                           {"not": {"equals": {"attribute": "churned", "value": true}}}]}),
        ),
    ]
}

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
        Permission::AudiencesRead,
        Permission::AudiencesWrite,
        Permission::CampaignsWrite,
    ];
    let api = site
        .cluster
        .client(site.api, Some("large"), &permissions)
        .await?;
    let count = RECIPIENTS / scale;
    let rates = vec![import(&api, count).await?];
    table.add(
        "recipients that come in over HTTP, one connection",
        "/s",
        rates,
    );
    let rates = vec![import(&api, count).await?];
    table.add("the same again, when nothing has changed", "/s", rates);
    let analyze = "vacuum analyze postroad.recipient";
    site.cluster.query(analyze, &[]).await?;

    for (name, rules) in questions() {
        let body = json!({"rules": rules, "date": TODAY});
        let mut waits = Vec::new();
        for _ in 0..runs {
            let asked = Instant::now();
            let answer = api.post("/v1/audiences/preview", &body).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1000.0);
            ensure!(answer.json()["count"].is_i64(), "{answer:?}");
        }
        table.add(format!("preview among {count}: {name}"), "ms", waits);
    }

    // No more of them: so many of one tenant may run.
    for (name, rules) in questions().into_iter().take(2) {
        let body = expansion::campaign(Some(&rules));
        let mut waits = Vec::new();
        for _ in 0..runs {
            let asked = Instant::now();
            let answer = api.post("/v1/campaigns?start=true", &body).await?;
            waits.push(asked.elapsed().as_secs_f64() * 1000.0);
            ensure!(answer.json()["state"] == "running", "{answer:?}");
        }
        let name = format!("a campaign is accepted and started for {count}: {name}");
        table.add(name, "ms", waits);
    }

    let sql = "select id from postroad.tenant where name = 'large'";
    let tenant: i32 = site.cluster.query(sql, &[]).await?[0].get(0);
    let store = &site.cluster.store;
    for (name, rules) in questions() {
        let rule = Rule::parse(&rules.to_string())?;
        for zone in [None, Some("Europe/Paris")] {
            let (mut totals, mut longest) = (Vec::new(), Vec::new());
            for _ in 0..runs {
                let (total, step) = go_through(store, tenant, &rule, zone).await?;
                totals.push(total);
                longest.push(step);
            }
            let of = zone.map_or(String::new(), |zone| format!(" in {zone}"));
            table.add(format!("going through {count}: {name}{of}"), "ms", totals);
            table.add(format!("its longest step of {SCAN}"), "ms", longest);
        }
    }
    let mut waits = Vec::new();
    for _ in 0..runs {
        let asked = Instant::now();
        ensure!(store.audience_zones(tenant).await?.len() == ZONES.len());
        waits.push(asked.elapsed().as_secs_f64() * 1000.0);
    }
    table.add(format!("time zones of {count}"), "ms", waits);
    site.cluster.take_down().await
}

/// Puts so many recipients; answers how many a second.
pub(crate) async fn import(api: &Api, count: usize) -> anyhow::Result<f64> {
    let chunk = move |first: usize| -> String {
        let lines = (first..(first + CHUNK).min(count)).map(|n| format!("{}\n", recipient(n)));
        lines.collect()
    };
    let chunks = (0..count).step_by(CHUNK);
    let chunks = stream::iter(chunks.map(move |first| Ok::<_, std::io::Error>(chunk(first))));
    let body = reqwest::Body::wrap_stream(chunks);
    let begun = Instant::now();
    let path = "/v1/recipients/batch";
    let answer = api
        .raw(Method::POST, path, "application/x-ndjson", body)
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let counts = answer.lines().pop().unwrap_or_default();
    ensure!(counts["accepted"] == count, "{answer:?}");
    Ok(count as f64 / seconds)
}

/// How long all steps took, and the longest of them, in milliseconds.
async fn go_through(
    store: &Store,
    tenant: i32,
    rule: &Rule,
    zone: Option<&str>,
) -> anyhow::Result<(f64, f64)> {
    let (begun, mut longest, mut after) = (Instant::now(), 0.0_f64, 0);
    loop {
        let step = Instant::now();
        let found = store
            .audience_members(tenant, rule, TODAY, zone, after, SCAN)
            .await?;
        longest = longest.max(step.elapsed().as_secs_f64() * 1000.0);
        if found.is_end {
            return Ok((begun.elapsed().as_secs_f64() * 1000.0, longest));
        }
        after = found.last_id;
    }
}
