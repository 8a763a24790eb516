//! Campaigns for audiences with the real programs: everybody who is picked gets it once, whatever dies
//! and whatever becomes of recipients and rules meanwhile, and the sums add up at every look.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster, Program, eventually};
use postroad_tests::simulator::{Behaviour, Latency};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const ZONES: [&str; 4] = [
    "Africa/Abidjan",
    "Africa/Dakar",
    "America/Bogota",
    "Asia/Tokyo",
];
/// Hours that never end, so that each zone has its turn by itself.
const ALWAYS: &str = r#"{"from": "00:00", "until": "24:00"}"#;

struct Room {
    cluster: Cluster,
    api: Api,
}

impl Room {
    async fn open(builder: Builder) -> anyhow::Result<Self> {
        let mut cluster = builder.start().await?;
        let program = cluster.start(Program::api()).await?;
        let api = cluster
            .client(program, Some("acme"), &Permission::ALL)
            .await?;
        Ok(Self { cluster, api })
    }

    /// Steps of few jobs: there is never more room.
    async fn narrow(&self, window: i32) -> anyhow::Result<()> {
        let sql = "update postroad.queue set window_size = $1 where name = 'default'";
        self.cluster.query(sql, &[&window]).await.map(drop)
    }

    async fn put(&self, recipients: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        let lines: String = recipients.map(|one| format!("{one}\n")).collect();
        let kind = "application/x-ndjson";
        let path = "/v1/recipients/batch";
        let put = self.api.raw(Method::POST, path, kind, lines).await?;
        ensure!(put.status == StatusCode::OK, "{put:?}");
        Ok(())
    }

    async fn set(&self, audience: &str, rules: Value) -> anyhow::Result<()> {
        let path = format!("/v1/audiences/{audience}");
        let body = json!({"rules": rules});
        let put = self.api.call(Method::PUT, &path, &body).await?;
        ensure!(put.status.is_success(), "{put:?}");
        Ok(())
    }

    /// A campaign that is made, accepted and started in one request.
    async fn send(&self, audience: Value, more: Value) -> anyhow::Result<String> {
        let mut body = json!({
            "name": "spring",
            "audience": audience,
            "content": {
                "channels": {"sms": {"kind": "sms", "args": {
                    "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                }}},
                "language": "en",
                "variables": {"name": {"default": "friend"}},
            },
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let made = self.api.post("/v1/campaigns?start=true", &body).await?;
        ensure!(made.status == StatusCode::CREATED, "{made:?}");
        let campaign = made.json();
        ensure!(campaign["state"] == "running", "{campaign}");
        let id = campaign["id"].as_str().context("it has an id")?;
        Ok(format!("/v1/campaigns/{id}"))
    }

    async fn act(&self, path: &str, action: &str) -> anyhow::Result<Value> {
        let path = format!("{path}/{action}");
        let done = self.api.post(&path, &json!({})).await?;
        ensure!(done.status == StatusCode::OK, "{done:?}");
        Ok(done.json())
    }

    /// The campaign now; its parts must be its recipients, as far as those are known.
    async fn look(&self, path: &str) -> anyhow::Result<Value> {
        let campaign = self.api.get(path).await?.json();
        let progress = campaign["progress"].as_object().context("progress")?;
        let all: i64 = progress.values().filter_map(Value::as_i64).sum();
        let planned = &campaign["progress"]["planned"];
        match campaign["progress"]["planned_is"].as_str() {
            Some("exact" | "estimate") => {
                let planned = planned.as_i64().context("planned")?;
                ensure!(all == 2 * planned, "its parts are not all: {campaign}");
            }
            Some("unknown") => ensure!(planned.is_null(), "{campaign}"),
            _ => anyhow::bail!("{campaign}"),
        }
        Ok(campaign)
    }

    async fn until(&self, path: &str, state: &str) -> anyhow::Result<Value> {
        eventually(format_args!("the campaign is {state}"), async || {
            let campaign = self.look(path).await?;
            ensure!(campaign["state"] == state, "{campaign}");
            Ok(campaign)
        })
        .await
    }
}

fn of(campaign: &Value, part: &str) -> i64 {
    campaign["progress"][part].as_i64().unwrap_or(-1)
}

/// The nth: all their numbers are there for fiction.
fn recipient(n: usize) -> Value {
    json!({
        "key": format!("user-{n:04}"), "addresses": {"sms": format!("+3363998{n:04}")},
        "timezone": ZONES[n % ZONES.len()], "country": if n.is_multiple_of(10) { "DE" } else { "FR" },
        "attributes": {"name": format!("person {n}")},
    })
}

fn hours() -> Value {
    let always: Value = serde_json::from_str(ALWAYS).unwrap_or_default();
    json!({"send_window": always, "timezone": "UTC"})
}

#[tokio::test]
async fn everybody_who_is_picked_gets_it_once_and_who_cannot_be_reached_is_told()
-> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    room.put((0..400).map(recipient)).await?;
    // Of France, too, and not to be reached.
    let odd = [
        json!({"key": "odd-1", "country": "FR", "addresses": {"push": "x"}}),
        json!({"key": "odd-2", "country": "FR"}),
        json!({"key": "odd-3", "country": "FR", "addresses": {"sms": "+336"}}),
        json!({"key": "odd-4", "country": "FR", "addresses": {"sms": "+33639981111"},
               "attributes": {"name": ["Ana"]}}),
    ];
    room.put(odd.into_iter()).await?;
    // Another tenant's are nobody's business.
    let suppressed = json!({"recipients": ["+33 6 39 98 00 01", "+33639980002"]});
    room.api.post("/v1/suppressions", &suppressed).await?;
    room.set("french", json!({"country": ["FR"]})).await?;

    let path = room.send(json!("french"), hours()).await?;
    let campaign = room.until(&path, "finished").await?;

    assert_eq!(
        (&campaign["source"], &campaign["audience"]),
        (&json!("audience"), &json!("french"))
    );
    assert_eq!(campaign["progress"]["planned_is"], "exact");
    assert_eq!(of(&campaign, "planned"), 364, "{campaign}");
    assert_eq!(of(&campaign, "delivered"), 358, "{campaign}");
    assert_eq!(
        (of(&campaign, "rejected"), of(&campaign, "suppressed")),
        (4, 2)
    );
    let reasons = campaign["rejections"].as_array().context("reasons")?;
    let reasons: BTreeSet<_> = reasons
        .iter()
        .map(|one| {
            (
                one["reason"].as_str().unwrap_or_default(),
                one["recipients"].as_i64(),
            )
        })
        .collect();
    assert_eq!(
        reasons,
        BTreeSet::from([
            ("name: must be a text, a number or a bool", Some(1)),
            ("to: has no address for `sms`", Some(2)),
            ("to: has too few digits", Some(1)),
        ])
    );
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (358, 0),
        "{report:?}"
    );
    room.cluster.finish().await
}

/// One dies with everything of a step done and nothing of it committed, one right after the commit.
#[tokio::test]
async fn schedulers_that_die_in_the_middle_of_an_audience_skip_nobody() -> anyhow::Result<()> {
    let mut room = Room::open(Cluster::builder().schedulers(0)).await?;
    room.narrow(40).await?;
    room.put((0..600).map(recipient)).await?;
    let path = room.send(json!({"all": true}), hours()).await?;
    let mut dying = Vec::new();
    for plan in [
        "expander.before_commit:abort@4",
        "expander.committed:abort@3",
    ] {
        let program = Program::scheduler().env("POSTROAD_FAILPOINT", plan);
        dying.push(room.cluster.spawn(program)?);
    }
    for id in dying {
        room.cluster.wait(id).await?;
    }
    let campaign = room.look(&path).await?;
    assert!(of(&campaign, "not_made") > 100, "{campaign}");
    for _ in 0..2 {
        room.cluster.start_scheduler().await?;
    }

    let campaign = room.until(&path, "finished").await?;

    assert_eq!(
        (of(&campaign, "planned"), of(&campaign, "delivered")),
        (600, 600),
        "{campaign}"
    );
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (600, 0),
        "{report:?}"
    );
    room.cluster.finish().await
}

/// While half of it is made: cancelled, rules changed, recipients put, changed, moved and deleted; and
/// then it goes on.
#[tokio::test]
async fn what_changes_while_it_runs_gives_nobody_two_and_the_rest_what_was_meant()
-> anyhow::Result<()> {
    let room = Room::open(Cluster::builder().schedulers(2)).await?;
    room.cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    room.narrow(50).await?;
    let zones = ["Africa/Abidjan", "Africa/Dakar"];
    let of_zone = |n: usize, zone: usize| {
        let mut one = recipient(n);
        one["timezone"] = json!(zones[zone % 2]);
        one
    };
    room.put((0..400).map(|n| of_zone(n, n))).await?;
    room.set("active", json!({"country": ["FR", "DE"]})).await?;
    let path = room.send(json!("active"), hours()).await?;
    eventually("the room is used", async || {
        let campaign = room.look(&path).await?;
        ensure!(of(&campaign, "not_made") == 300, "{campaign}");
        ensure!(
            campaign["progress"]["planned_is"] == "estimate",
            "{campaign}"
        );
        Ok(())
    })
    .await?;

    room.set("active", json!({"country": ["SE"]})).await?;
    let sql = "select right(recipient, 4)::bigint from postroad.job order by 1";
    let rows = room.cluster.query(sql, &[]).await?;
    let made: Vec<usize> = rows
        .iter()
        .map(|row| row.get::<_, i64>(0) as usize)
        .collect();
    let [deleted, .., moved] = made[..] else {
        anyhow::bail!("{made:?}");
    };
    let (unmet, other, late) = (390, 399, 500);
    // One that has its job, and one whose turn has not been: each is somebody new.
    for n in [deleted, unmet] {
        let path = format!("/v1/recipients/user-{n:04}");
        let gone = room.api.request(Method::DELETE, &path);
        let gone = room.api.send(gone).await?;
        ensure!(gone.status == StatusCode::NO_CONTENT, "{gone:?}");
        room.put([of_zone(n, n)].into_iter()).await?;
    }
    room.put([of_zone(late, late)].into_iter()).await?;
    // Of those that have a job, the last: in the other zone it is met again, under another number.
    let mut again = of_zone(moved, moved + 1);
    again["addresses"]["sms"] = json!("+33639980999");
    room.put([again].into_iter()).await?;
    // Has another number by the time of its turn.
    let mut changed = of_zone(other, other);
    changed["addresses"]["sms"] = json!("+33639980998");
    room.put([changed].into_iter()).await?;
    let cancelled = room.act(&path, "cancel").await?;
    assert_eq!(cancelled["state"], "cancelled");
    room.cluster.provider.set(Behaviour::default())?;
    room.cluster.provider.release();
    eventually("all that was made has ended", async || {
        let campaign = room.look(&path).await?;
        let ended = of(&campaign, "cancelled") + of(&campaign, "delivered");
        ensure!(ended == 100, "{campaign}");
        Ok(())
    })
    .await?;

    room.act(&path, "resume").await?;
    let campaign = room.until(&path, "finished").await?;

    assert_eq!(campaign["progress"]["planned_is"], "exact");
    assert_eq!(of(&campaign, "delivered"), 399, "{campaign}");
    assert_eq!(of(&campaign, "duplicates"), 1, "who has moved: {campaign}");
    assert_eq!(of(&campaign, "planned"), 400);
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (399, 0),
        "{report:?}"
    );
    let sql = "select recipient from postroad.archive";
    let rows = room.cluster.query(sql, &[]).await?;
    let reached: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(reached.len(), 399);
    for (n, is_reached) in [
        (deleted, true),
        (unmet, false),
        (late, false),
        (moved, true),
        (999, false),
        (other, false),
        (998, true),
    ] {
        let number = format!("+3363998{n:04}");
        assert_eq!(reached.contains(&number), is_reached, "{number}");
    }
    room.cluster.finish().await
}

#[tokio::test]
async fn an_audience_of_nobody_a_canary_and_rules_of_a_newer_version_each_come_to_a_clear_end()
-> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    // Before the tenant has any recipient, and when none of them is meant.
    for rules in [json!({"all": true}), json!({"country": ["SE"]})] {
        let path = room.send(rules, json!({"canary_share": 0.5})).await?;
        let campaign = room.until(&path, "finished").await?;
        assert_eq!(campaign["note"], "nobody is in its audience");
        assert_eq!(of(&campaign, "planned"), 0, "{campaign}");
        room.put((0..50).map(recipient)).await?;
    }

    let first = json!({"canary_share": 0.1, "failure_max": 0.0});
    let path = room.send(json!({"all": true}), first).await?;
    let campaign = room.until(&path, "finished").await?;
    assert_eq!(
        (&campaign["canary"], of(&campaign, "delivered")),
        (&json!(5), 50),
        "{campaign}"
    );
    assert!(campaign["canary_passed_at"].is_string(), "{campaign}");

    // What this version cannot read is nothing to guess about.
    let later = json!({"start_at": "2199-01-01T00:00:00Z"});
    let path = room.send(json!({"all": true}), later).await?;
    let sql = "update postroad.campaign set audience = '{\"moon\":1}', due_at = now()
        where state = 'running'";
    room.cluster.query(sql, &[]).await?;
    let campaign = room.until(&path, "paused").await?;
    let note = campaign["note"].as_str().unwrap_or_default();
    assert!(
        note.starts_with("its audience cannot be read"),
        "{campaign}"
    );
    room.act(&path, "cancel").await?;
    room.cluster.finish().await
}
