//! Campaigns: how many jobs a second are made of an uploaded list, and of an audience.
//!
//! By one scheduler while nothing is dispatched, and with room for all of them: what is measured is
//! reading recipients, rendering, and inserting.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::audiences::import;
use crate::ground::Ground;
use crate::table::Table;

/// Few enough that what is on the way, which each step counts, is as much as it may be at work.
const RECIPIENTS: usize = 20_000;
/// Before the scheduler has come to a campaign.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom they are for; none: an upload.
fn sources() -> [(&'static str, Option<Value>); 3] {
    [
        ("an uploaded list", None),
        ("an audience of all", Some(json!({"all": true}))),
        (
            "an audience of one in five",
            Some(json!({"equals": {"attribute": "churned", "value": true}})),
        ),
    ]
}

pub(crate) async fn measure(ground: &Ground, runs: usize, table: &mut Table) -> anyhow::Result<()> {
    let site = ground
        .site_of(|builder: Builder| builder.workers(0).schedulers(1))
        .await?;
    let permissions = [
        Permission::AudiencesRead,
        Permission::AudiencesWrite,
        Permission::CampaignsRead,
        Permission::CampaignsWrite,
    ];
    let api = site
        .cluster
        .client(site.api, Some("large"), &permissions)
        .await?;
    let sql =
        "update postroad.queue set paused_at = now(), window_size = 20000 where name = 'default'";
    site.cluster.query(sql, &[]).await?;
    import(&api, RECIPIENTS).await?;
    site.cluster
        .query("vacuum analyze postroad.recipient", &[])
        .await?;
    for (name, audience) in sources() {
        let mut rates = Vec::new();
        for _ in 0..runs {
            rates.push(expand(&site.cluster, &api, audience.as_ref()).await?);
        }
        table.add(format!("jobs made of {name} of {RECIPIENTS}"), "/s", rates);
    }
    site.cluster.take_down().await
}

/// Jobs a second, from the beginning of the first step to that of the last.
async fn expand(cluster: &Cluster, api: &Api, audience: Option<&Value>) -> anyhow::Result<f64> {
    let made = api.post("/v1/campaigns", &campaign(audience)).await?;
    ensure!(made.status == StatusCode::CREATED, "{made:?}");
    let id = made.json()["id"].as_str().context("an id")?.to_owned();
    let path = format!("/v1/campaigns/{id}");
    match audience {
        None => upload(api, &path).await?,
        Some(_) => drop(api.post(&format!("{path}/start"), &json!({})).await?),
    }
    let all_made = tokio::time::timeout(PATIENCE, async {
        eventually("all jobs are made", async || {
            let campaign = api.get(&path).await?.json();
            ensure!(campaign["progress"]["planned_is"] == "exact", "{campaign}");
            ensure!(campaign["progress"]["not_made"] == 0, "{campaign}");
            Ok(())
        })
        .await
    });
    all_made.await??;
    let sql = "
        with step as (
            select j.run_at, count(*) as jobs from postroad.job j
            join postroad.campaign c on c.id = j.campaign_id
            where c.public_id = $1::text::uuid group by 1)
        select (sum(jobs) filter (where run_at < (select max(run_at) from step)))::float8
               / extract(epoch from max(run_at) - min(run_at))::float8
        from step";
    let rows = cluster.query(sql, &[&id]).await?;
    let rate: Option<f64> = rows[0].get(0);
    rate.context("a single step says nothing: more recipients are needed")
}

pub(crate) fn campaign(audience: Option<&Value>) -> Value {
    json!({
        "name": "bench",
        "audience": audience,
        "content": {
            "channels": {"sms": {"kind": "sms", "args": {
                "en": {"to": "{{to}}", "text": "Hi {{segment}}, 20 % off until Sunday"},
                "fr": {"to": "{{to}}", "text": "Bonjour {{segment}}, -20 % jusqu’à dimanche"},
            }}},
            "language": "en",
            "variables": {"segment": {"default": "there"}},
        },
    })
}

async fn upload(api: &Api, path: &str) -> anyhow::Result<()> {
    let line = |n: usize| {
        let language = if n.is_multiple_of(8) { "fr" } else { "en" };
        format!("+336{n:08},segment-{},{language}\n", n % 1000)
    };
    let lines: String = (0..RECIPIENTS).map(line).collect();
    let csv = format!("to,segment,language\n{lines}");
    let path = format!("{path}/recipients?start=true");
    let answer = api.raw(Method::PUT, &path, "text/csv", csv).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    Ok(())
}
