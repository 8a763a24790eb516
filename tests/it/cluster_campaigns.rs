//! Campaigns from an upload to the provider, with the real programs: everybody gets it once, whatever
//! dies, and the sums add up at every look.

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster, Id, Program, eventually};
use postroad_tests::simulator::{Behaviour, Latency, Report};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// A cluster with an api, and a client for one tenant.
struct Room {
    cluster: Cluster,
    api: Api,
    program: Id,
}

impl Room {
    async fn open(builder: Builder) -> anyhow::Result<Self> {
        let mut cluster = builder.start().await?;
        let program = cluster.start(Program::api()).await?;
        let api = cluster
            .client(program, Some("acme"), &Permission::ALL)
            .await?;
        Ok(Self {
            cluster,
            api,
            program,
        })
    }

    /// A draft for text messages, with what else is given.
    async fn draft(&self, more: Value) -> anyhow::Result<String> {
        let mut body = json!({
            "name": "spring",
            "content": {
                "channels": {"sms": {"kind": "sms", "cost": 0.045, "args": {
                    "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                    "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
                }}},
                "language": "en",
                "variables": {"name": {"default": "friend"}},
                "currency": "EUR",
            },
        });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        let made = self.api.post("/v1/campaigns", &body).await?;
        ensure!(made.status == StatusCode::CREATED, "{made:?}");
        let id = made.json()["id"]
            .as_str()
            .context("it has an id")?
            .to_owned();
        Ok(format!("/v1/campaigns/{id}"))
    }

    async fn upload(&self, path: &str, csv: String) -> anyhow::Result<Vec<Value>> {
        let path = format!("{path}/recipients?start=true");
        let answer = self.api.raw(Method::PUT, &path, "text/csv", csv).await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        Ok(answer.lines())
    }

    async fn act(&self, path: &str, action: &str) -> anyhow::Result<Value> {
        let done = self
            .api
            .post(&format!("{path}/{action}"), &json!({}))
            .await?;
        ensure!(done.status == StatusCode::OK, "{done:?}");
        Ok(done.json())
    }

    /// The campaign now; its parts must be its recipients.
    async fn look(&self, path: &str) -> anyhow::Result<Value> {
        let campaign = self.api.get(path).await?.json();
        let progress = campaign["progress"]
            .as_object()
            .context("it has progress")?;
        let all: i64 = progress.values().filter_map(Value::as_i64).sum();
        let planned = campaign["progress"]["planned"]
            .as_i64()
            .context("planned")?;
        ensure!(
            all == 2 * planned,
            "its parts are not its recipients: {campaign}"
        );
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

    async fn until_delivered(&self, path: &str, count: i64) -> anyhow::Result<()> {
        eventually(format_args!("{count} are delivered"), async || {
            let campaign = self.look(path).await?;
            let delivered = campaign["progress"]["delivered"].as_i64();
            ensure!(delivered >= Some(count), "{campaign}");
            Ok(())
        })
        .await
    }
}

/// A CSV of so many numbers that are there for fiction: 10,000 at most.
fn numbers(count: usize) -> String {
    let line = |n: usize| {
        let language = if n.is_multiple_of(3) { "fr" } else { "en" };
        format!("+3363998{n:04},person {n},{language}\n")
    };
    let lines: String = (0..count).map(line).collect();
    format!("to,name,language\n{lines}")
}

fn of(campaign: &Value, part: &str) -> i64 {
    campaign["progress"][part].as_i64().unwrap_or(-1)
}

#[tokio::test]
async fn everybody_gets_it_once_and_bad_lines_are_told() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let draft = room.draft(json!({})).await?;
    let mut csv = numbers(2500);
    csv += "not a number,x,en\n";
    // Twice, in other words: the same number.
    csv += "+33 6 39 98 00 01,again,en\n";

    let lines = room.upload(&draft, csv).await?;
    let [bad, end] = &lines[..] else {
        anyhow::bail!("{lines:?}");
    };
    assert_eq!((&bad["line"], &bad["field"]), (&json!(2502), &json!("to")));
    assert_eq!(end["accepted"], 2501, "{end}");
    assert_eq!(
        (&end["rejected"], &end["complete"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(end["state"], "running");

    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "planned"), 2501);
    assert_eq!(of(&campaign, "delivered"), 2500);
    assert_eq!(of(&campaign, "duplicates"), 1);
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (2500, 0),
        "{report:?}"
    );
    room.cluster.finish().await
}

/// No job is there before there is room for it.
#[tokio::test]
async fn jobs_are_made_as_room_becomes_free() -> anyhow::Result<()> {
    const WINDOW: i64 = 100;
    let room = Room::open(Cluster::builder()).await?;
    room.cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let sql = "update postroad.queue set window_size = 100 where name = 'default'";
    room.cluster.query(sql, &[]).await?;
    let draft = room.draft(json!({})).await?;
    room.upload(&draft, numbers(3000)).await?;
    eventually("the room is used", async || {
        let campaign = room.look(&draft).await?;
        ensure!(
            of(&campaign, "not_made") <= 3000 - 2 * WINDOW + 10,
            "{campaign}"
        );
        Ok(())
    })
    .await?;
    let rows = room
        .cluster
        .query("select count(*) from postroad.job", &[])
        .await?;
    assert!(rows[0].get::<_, i64>(0) <= 2 * WINDOW);

    room.cluster.provider.set(Behaviour::default())?;
    room.cluster.provider.release();
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 3000);
    room.cluster.finish().await
}

/// Two schedulers, one of which is always about to die.
#[tokio::test]
async fn schedulers_that_die_in_the_middle_make_nobody_two_jobs_or_none() -> anyhow::Result<()> {
    let mut room = Room::open(Cluster::builder().schedulers(2).lease("2s")).await?;
    let draft = room.draft(json!({})).await?;
    room.upload(&draft, numbers(8000)).await?;
    for part in 1..=4 {
        room.until_delivered(&draft, part * 1200).await?;
        let victim = room.cluster.scheduler(usize::try_from(part % 2)?);
        room.cluster.kill(victim).await.ok();
        room.cluster.start_scheduler().await?;
    }
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 8000, "{campaign}");
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (8000, 0),
        "{report:?}"
    );
    room.cluster.finish().await
}

/// Held in the middle: the provider answers nobody, so everything stands somewhere on the way.
async fn in_the_middle(more: Value) -> anyhow::Result<(Room, String)> {
    let builder = Cluster::builder().workers(0);
    let mut room = Room::open(builder).await?;
    room.cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let worker = Program::worker().env("POSTROAD_PREFETCH", 5);
    room.cluster.start(worker).await?;
    let draft = room.draft(more).await?;
    room.upload(&draft, numbers(6000)).await?;
    let held = |report: &Report| report.held == 5;
    room.cluster.provider.wait_for(held).await?;
    eventually("the pipe is full", async || {
        let campaign = room.look(&draft).await?;
        ensure!(of(&campaign, "in_pipe") == 1995, "{campaign}");
        Ok(())
    })
    .await?;
    Ok((room, draft))
}

/// The provider answers, and a worker with the usual places helps: five of them are for the middle.
async fn let_go(room: &mut Room) -> anyhow::Result<()> {
    room.cluster.provider.set(Behaviour::default())?;
    room.cluster.provider.release();
    room.cluster.start(Program::worker()).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_is_at_once_and_what_was_paused_goes_on() -> anyhow::Result<()> {
    let (mut room, draft) = in_the_middle(json!({})).await?;
    let paused = room.act(&draft, "pause").await?;
    assert_eq!(paused["state"], "paused");
    let_go(&mut room).await?;
    eventually("the pipe is empty", async || {
        let campaign = room.look(&draft).await?;
        ensure!(
            of(&campaign, "in_pipe") + of(&campaign, "running") == 0,
            "{campaign}"
        );
        Ok(())
    })
    .await?;
    assert_eq!(room.cluster.provider.report().requests, 5, "those that ran");

    room.act(&draft, "resume").await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 6000, "{campaign}");
    assert_eq!(room.cluster.provider.report().duplicates, 0);
    room.cluster.finish().await
}

#[tokio::test]
async fn what_is_cancelled_is_over_and_comes_back_when_it_is_resumed() -> anyhow::Result<()> {
    let (mut room, draft) = in_the_middle(json!({})).await?;
    let cancelled = room.act(&draft, "cancel").await?;
    assert_eq!(cancelled["state"], "cancelled");
    let_go(&mut room).await?;
    let campaign = eventually("all that was made has ended", async || {
        let campaign = room.look(&draft).await?;
        let unfinished = ["scheduled", "in_pipe", "running", "failed"];
        let left: i64 = unfinished.iter().map(|part| of(&campaign, part)).sum();
        ensure!(left == 0, "{campaign}");
        Ok(campaign)
    })
    .await?;
    assert_eq!(of(&campaign, "delivered"), 5);
    assert_eq!(of(&campaign, "cancelled") + of(&campaign, "not_made"), 5995);
    assert!(of(&campaign, "cancelled") >= 1995, "{campaign}");
    assert_eq!(room.cluster.provider.report().requests, 5);

    room.act(&draft, "resume").await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 6000, "{campaign}");
    let report = room.cluster.provider.report();
    assert_eq!(
        (report.delivered, report.duplicates),
        (6000, 0),
        "{report:?}"
    );
    room.cluster.finish().await
}

#[tokio::test]
async fn whoever_unsubscribes_gets_nothing_though_it_is_in_the_pipe() -> anyhow::Result<()> {
    let (mut room, draft) = in_the_middle(json!({})).await?;
    // Spread over those that run, that are in RabbitMQ, and that have no job yet.
    let some: Vec<String> = (0..6).map(|n| format!("+33 6 39 98 {n} 5 00")).collect();
    let body = json!({"recipients": some, "reason": "STOP"});
    let done = room.api.post("/v1/suppressions", &body).await?;
    assert_eq!(done.json(), json!({"added": 6}), "{done:?}");
    let_go(&mut room).await?;

    let campaign = room.until(&draft, "finished").await?;

    assert_eq!(of(&campaign, "suppressed"), 6, "{campaign}");
    assert_eq!(of(&campaign, "delivered"), 5994);
    assert_eq!(room.cluster.provider.report().delivered, 5994);
    let listed = room.api.get("/v1/suppressions?limit=4").await?.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(4));
    room.cluster.finish().await
}

#[tokio::test]
async fn a_canary_that_fails_stops_the_rest() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    room.cluster
        .query(
            "update postroad.kind set max_attempts = 1, overridden_at = now() where name = 'sms'",
            &[],
        )
        .await?;
    room.cluster.provider.set(Behaviour {
        rate_500: 1.0,
        ..Behaviour::default()
    })?;
    let draft = room
        .draft(json!({"canary_share": 0.02, "failure_max": 0.5}))
        .await?;
    room.upload(&draft, numbers(1000)).await?;

    let campaign = room.until(&draft, "paused").await?;

    assert_eq!(campaign["note"], "20 of the first 20 failed");
    assert_eq!(
        (of(&campaign, "dead"), of(&campaign, "not_made")),
        (20, 980)
    );
    assert_eq!(room.cluster.provider.report().requests, 20);

    // Whoever resumes it has seen that.
    room.cluster.provider.set(Behaviour::default())?;
    room.act(&draft, "resume").await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(
        (of(&campaign, "dead"), of(&campaign, "delivered")),
        (20, 980)
    );
    room.cluster.finish().await
}

#[tokio::test]
async fn a_canary_that_goes_well_is_followed_by_the_rest() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let draft = room
        .draft(json!({"canary_share": 0.1, "failure_max": 0.1}))
        .await?;
    room.upload(&draft, numbers(300)).await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(
        (&campaign["canary"], of(&campaign, "delivered")),
        (&json!(30), 300)
    );
    assert!(campaign["canary_passed_at"].is_string(), "{campaign}");
    room.cluster.finish().await
}

#[tokio::test]
async fn a_canary_that_reaches_nobody_stops_the_rest() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let pause = "insert into postroad.queue (name, paused_at) values ('default', now())
        on conflict (name) do update set paused_at = now()";
    room.cluster.query(pause, &[]).await?;
    let draft = room
        .draft(json!({"canary_share": 0.1, "failure_max": 0.5}))
        .await?;
    room.upload(&draft, numbers(50)).await?;
    let jobs = "select id::text from postroad.job where campaign_id is not null";
    let made = eventually("the canary is made", async || {
        let made = room.cluster.query(jobs, &[]).await?;
        ensure!(made.len() == 5, "{made:?}");
        Ok(made)
    })
    .await?;
    for job in made {
        let cancel = format!("/v1/jobs/{}/cancel", job.get::<_, &str>(0));
        let answer = room.api.post(&cancel, &json!({})).await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
    }

    let campaign = room.until(&draft, "paused").await?;

    assert_eq!(campaign["note"], "none of the first 5 was reached");
    assert_eq!(
        (of(&campaign, "cancelled"), of(&campaign, "not_made")),
        (5, 45)
    );
    let go_on = "update postroad.queue set paused_at = null";
    room.cluster.query(go_on, &[]).await?;
    room.act(&draft, "resume").await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 45);
    room.cluster.finish().await
}

/// The first five want nothing any more: five others are in the canary. And one that is everybody keeps
/// nobody back.
#[tokio::test]
async fn a_canary_is_of_those_who_may_be_reached() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let some: Vec<String> = (0..5).map(|n| format!("+3363998{n:04}")).collect();
    let body = json!({"recipients": some, "reason": "STOP"});
    room.api.post("/v1/suppressions", &body).await?;
    let more = json!({"canary_share": 0.1, "failure_max": 0.5});
    let draft = room.draft(more.clone()).await?;
    room.upload(&draft, numbers(50)).await?;

    let campaign = room.until(&draft, "finished").await?;

    assert!(campaign["canary_passed_at"].is_string(), "{campaign}");
    assert_eq!(
        (of(&campaign, "suppressed"), of(&campaign, "delivered")),
        (5, 45)
    );
    let everybody = room.draft(more).await?;
    room.upload(&everybody, numbers(1)).await?;
    let campaign = room.until(&everybody, "finished").await?;
    assert_eq!(of(&campaign, "suppressed"), 1);
    room.cluster.finish().await
}

#[tokio::test]
async fn a_rate_holds_over_a_campaign() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder().schedulers(2)).await?;
    let draft = room.draft(json!({"rate_per_second": 100})).await?;
    room.upload(&draft, numbers(350)).await?;
    room.until(&draft, "finished").await?;
    let took = "select extract(epoch from max(created_at) - min(created_at))::float8 from postroad.archive";
    let took: f64 = room.cluster.query(took, &[]).await?[0].get(0);
    // What has dripped into the bucket before is one second's worth at most.
    assert!(took > 2.0, "made within {took} s");
    room.cluster.finish().await
}

#[tokio::test]
async fn somebody_else_must_approve_where_that_is_asked_for() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let draft = room.draft(json!({"needs_approval": true})).await?;
    let lines = room.upload(&draft, numbers(10)).await?;
    assert_eq!(lines[0]["state"], "awaiting_approval", "{lines:?}");

    let own = room
        .api
        .post(&format!("{draft}/approve"), &json!({}))
        .await?;
    assert_eq!(own.status, StatusCode::CONFLICT, "{own:?}");
    assert!(own.text.contains("somebody else"), "{own:?}");
    let second = room
        .cluster
        .client(room.program, Some("acme"), &Permission::ALL)
        .await?;
    let approved = second.post(&format!("{draft}/approve"), &json!({})).await?;
    assert_eq!(approved.status, StatusCode::OK, "{approved:?}");

    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 10);
    assert_ne!(campaign["approved_by"], campaign["created_by"]);
    room.cluster.finish().await
}

/// Whoever sleeps is not made a job of; others get it now.
#[tokio::test]
async fn recipients_are_reached_in_their_own_time() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let (from, until) = (now.saturating_sub(2.hours()), now.saturating_add(2.hours()));
    let hours = json!({
        "from": from.strftime("%H:%M").to_string(), "until": until.strftime("%H:%M").to_string(),
    });
    let quiet = json!({"quiet_hours": hours, "timezone": "UTC"});
    let draft = room.draft(quiet).await?;
    // Where it is twelve hours later, nobody sleeps.
    let csv = "to,timezone\n+33639980001,UTC\n+33639980002,Etc/GMT-12\n+33639980003,\n";
    let lines = room.upload(&draft, csv.to_owned()).await?;
    assert_eq!(lines[0]["accepted"], 3, "{lines:?}");

    room.until_delivered(&draft, 1).await?;

    let campaign = room.look(&draft).await?;
    assert_eq!(
        (of(&campaign, "not_made"), of(&campaign, "delivered")),
        (2, 1)
    );
    let sql = "select extract(epoch from due_at - now())::bigint from postroad.campaign";
    let rows = room.cluster.query(sql, &[]).await?;
    let wait = SignedDuration::from_secs(rows[0].get(0));
    assert!((100..=121).contains(&wait.as_mins()), "{wait}");
    let act = room.act(&draft, "cancel").await?;
    assert_eq!(act["state"], "cancelled");
    room.cluster.finish().await
}

#[tokio::test]
async fn what_is_not_begun_in_time_expires_with_its_campaign() -> anyhow::Result<()> {
    let mut room = Room::open(Cluster::builder().workers(0)).await?;
    let at = Timestamp::now() + SignedDuration::from_secs(2);
    let draft = room.draft(json!({"expires_at": at.to_string()})).await?;
    room.upload(&draft, numbers(6000)).await?;

    let campaign = room.until(&draft, "expired").await?;

    let not_made = of(&campaign, "not_made");
    assert!(not_made > 0, "{campaign}");
    room.cluster.start_worker().await?;
    eventually("what was made has expired", async || {
        let campaign = room.look(&draft).await?;
        ensure!(of(&campaign, "expired") == 6000 - not_made, "{campaign}");
        Ok(())
    })
    .await?;
    assert_eq!(room.cluster.provider.report().requests, 0);
    room.cluster.finish().await
}

/// Whoever's evening has come makes room for those whose day it is.
#[tokio::test]
async fn a_zone_that_has_closed_keeps_no_other_waiting() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder().workers(0)).await?;
    let sql = "update postroad.queue set window_size = 50 where name = 'default'";
    room.cluster.query(sql, &[]).await?;
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let (from, until) = (now.saturating_sub(2.hours()), now.saturating_add(2.hours()));
    let hours = json!({
        "from": from.strftime("%H:%M").to_string(), "until": until.strftime("%H:%M").to_string(),
    });
    let window = json!({"send_window": hours, "timezone": "UTC"});
    let draft = room.draft(window).await?;
    let line = |n: usize| {
        let zone = if n < 150 {
            "Africa/Abidjan"
        } else {
            "Africa/Dakar"
        };
        format!("+3363998{n:04},{zone}\n")
    };
    let lines: String = (0..300).map(line).collect();
    room.upload(&draft, format!("to,timezone\n{lines}")).await?;
    eventually("the room is used", async || {
        let campaign = room.look(&draft).await?;
        ensure!(of(&campaign, "not_made") == 200, "{campaign}");
        Ok(())
    })
    .await?;

    // As if the day of one of them were over, and the other's not.
    let sql = "update postroad.job set stage = 0, claimed_at = null, claimed_by = null,
            run_at = now() + interval '12 hours', closes_at = now() + interval '20 hours'";
    room.cluster.query(sql, &[]).await?;

    eventually("others are made", async || {
        let campaign = room.look(&draft).await?;
        // A handful of free places is not worth a step.
        ensure!(of(&campaign, "not_made") <= 105, "{campaign}");
        Ok(())
    })
    .await?;
    room.act(&draft, "cancel").await?;
    room.cluster.take_down().await
}

/// Somebody else's cancelling stop is not undone by the next thousand recipients.
#[tokio::test]
async fn a_stop_that_cancels_pauses_the_campaigns_that_it_names() -> anyhow::Result<()> {
    let (mut room, draft) = in_the_middle(json!({})).await?;
    let operator = room
        .cluster
        .client(room.program, None, &Permission::ALL)
        .await?;
    let stop = json!({"mode": "cancel", "tenant": "acme", "kind": "sms"});
    let made = operator.post("/v1/stops", &stop).await?;
    ensure!(made.status == StatusCode::CREATED, "{made:?}");

    let campaign = room.until(&draft, "paused").await?;

    assert_eq!(campaign["note"], "a stop cancels what it is about");
    let_go(&mut room).await?;
    eventually("nothing is left of it", async || {
        let campaign = room.look(&draft).await?;
        let left: i64 = ["scheduled", "in_pipe", "running"]
            .iter()
            .map(|part| of(&campaign, part))
            .sum();
        ensure!(left == 0, "{campaign}");
        Ok(())
    })
    .await?;
    let cancelled = of(&room.look(&draft).await?, "cancelled");
    assert!(cancelled >= 1995, "{cancelled}");

    // The rest can be gone on with; what the stop has cancelled stays so.
    room.act(&draft, "resume").await?;
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "cancelled"), cancelled, "{campaign}");
    assert_eq!(of(&campaign, "delivered"), 6000 - cancelled);
    room.cluster.finish().await
}

/// A step that fails is tried again later, and others have their turn meanwhile.
#[tokio::test]
async fn a_campaign_that_cannot_be_made_keeps_no_other_waiting() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let broken = room.draft(json!({})).await?;
    let content = r#"{"channels":{"sms":{"kind":"no-such-kind","args":{"en":{"to":"{{to}}"}}}},"language":"en"}"#;
    let sql = "update postroad.campaign set content = $1::text::json";
    room.cluster.query(sql, &[&content]).await?;
    room.upload(&broken, "to\n+33639980001\n".to_owned())
        .await?;
    let draft = room.draft(json!({})).await?;
    room.upload(&draft, numbers(100)).await?;

    let campaign = room.until(&draft, "finished").await?;

    assert_eq!(of(&campaign, "delivered"), 100);
    let campaign = room.look(&broken).await?;
    assert!(
        campaign["note"]
            .as_str()
            .is_some_and(|note| note.contains("kind_id")),
        "{campaign}"
    );
    room.act(&broken, "cancel").await?;
    room.cluster.finish().await
}

/// A text channel's address may be somebody's number all the same, in whatever way it is written.
#[tokio::test]
async fn whoever_unsubscribes_is_known_by_any_spelling_and_channel() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let content = json!({
        "channels": {"any": {"kind": "echo", "args": {"en": {"to": "{{to}}"}}}}, "language": "en",
    });
    let draft = room.draft(json!({"content": content})).await?;
    let body = json!({"recipients": ["+33639980001", "Ana@example.com", "user-7"]});
    room.api.post("/v1/suppressions", &body).await?;
    let csv = "to\n+33 6 39 98 00 01\nAna@EXAMPLE.com\nuser-7\nuser-8\n";
    room.upload(&draft, csv.to_owned()).await?;

    let campaign = room.until(&draft, "finished").await?;

    assert_eq!(
        (of(&campaign, "suppressed"), of(&campaign, "delivered")),
        (3, 1)
    );
    room.cluster.finish().await
}

/// Whoever cancels and goes on has not asked for fewer safety nets.
#[tokio::test]
async fn a_campaign_that_was_cancelled_keeps_its_canary_and_its_limit() -> anyhow::Result<()> {
    let room = Room::open(Cluster::builder()).await?;
    let draft = room
        .draft(json!({"canary_share": 0.1, "failure_max": 0.05}))
        .await?;
    let path = format!("{draft}/recipients");
    room.api
        .raw(Method::PUT, &path, "text/csv", numbers(100))
        .await?;
    room.act(&draft, "cancel").await?;
    let resumed = room.act(&draft, "resume").await?;
    assert_eq!(
        (&resumed["canary"], &resumed["failure_max"]),
        (&json!(10), &json!(0.05))
    );
    let campaign = room.until(&draft, "finished").await?;
    assert_eq!(of(&campaign, "delivered"), 100);
    room.cluster.finish().await
}
