//! Schedules on real schedulers: every tick is seen to once, whoever is down, and one schedule's
//! trouble is not another's.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use postroad_common::schedule::Recurrence;
use postroad_common::store::{NewSchedule, ScheduleChange, ScheduleRow};
use postroad_tests::harness::cluster::{Cluster, eventually};
use serde_json::json;
use serde_json::value::to_raw_value;

/// Creates a schedule of the tenant `default`; its tenant.
async fn create(cluster: &Cluster, name: &str, cron: &str, misfire: &str) -> anyhow::Result<i32> {
    let store = &cluster.store;
    let tenant = store.tenant_of_name("default").await?.context("a tenant")?;
    let recurrence = Recurrence::parse(cron, "UTC")?;
    let new = NewSchedule {
        name: name.to_owned(),
        cron: cron.to_owned(),
        timezone: "UTC".to_owned(),
        misfire: misfire.to_owned(),
        catch_up_max: 300,
        queue: "default".to_owned(),
        kind: "echo".to_owned(),
        args: to_raw_value(&json!({"filler": "x".repeat(100_000)}))?,
        priority: 1,
        max_attempts: None,
        on_lost: None,
        expires_after: None,
        is_paused: false,
        next_at: recurrence.next_after(store.now().await?),
    };
    ensure!(
        store.create_schedule(tenant, &new).await?,
        "the name is taken"
    );
    Ok(tenant)
}

async fn row(cluster: &Cluster, tenant: i32, name: &str) -> anyhow::Result<ScheduleRow> {
    let rows = cluster
        .store
        .schedules(Some(tenant), Some(name), None, 1)
        .await?;
    rows.into_iter().next().context("the schedule is gone")
}

/// When its jobs were due that there are, oldest first, and how many ticks have none.
async fn ticks(cluster: &Cluster, name: &str) -> anyhow::Result<(Vec<Timestamp>, usize)> {
    let sql = "select t.tick_at, j.run_at
        from postroad.schedule_tick t join postroad.schedule s on s.id = t.schedule_id
        left join postroad.jobs j on j.id = t.job_id
        where s.name = $1 order by t.tick_at";
    let rows = cluster.query(sql, &[&name]).await?;
    let mut made = Vec::new();
    for row in &rows {
        if let Some(run_at) = row.get::<_, Option<Timestamp>>(1) {
            ensure!(
                run_at == row.get::<_, Timestamp>(0),
                "a job is due at its tick"
            );
            made.push(run_at);
        }
    }
    let without = rows.len() - made.len();
    Ok((made, without))
}

/// Waits until the schedule has moved past this moment.
async fn wait_past(
    cluster: &Cluster,
    tenant: i32,
    name: &str,
    at: Timestamp,
) -> anyhow::Result<()> {
    eventually("the schedule has moved on", async || {
        let next = row(cluster, tenant, name).await?.next_at;
        ensure!(
            next.is_some_and(|next| next > at),
            "{name} ticks next at {next:?}"
        );
        Ok(())
    })
    .await
}

/// Waits until the database's clock shows this.
async fn wait_until(cluster: &Cluster, at: Timestamp) -> anyhow::Result<()> {
    eventually("it is that time", async || {
        ensure!(cluster.store.now().await? >= at);
        Ok(())
    })
    .await
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn seconds_without_a_scheduler_are_made_up_for_by_every_policy() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(2).workers(0).start().await?;
    let policies = ["skip", "run_once", "catch_up"];
    let mut tenant = 0;
    for policy in policies {
        tenant = create(&cluster, policy, "* * * * * *", policy).await?;
    }
    wait_past(
        &cluster,
        tenant,
        "catch_up",
        cluster.store.now().await? + SECOND,
    )
    .await?;
    cluster.kill_all("postroad-scheduler").await?;
    let down = cluster.store.now().await?;
    wait_until(&cluster, down + 5 * SECOND).await?;
    cluster.start_scheduler().await?;
    let up = cluster.store.now().await? + SECOND;

    for policy in policies {
        wait_past(&cluster, tenant, policy, up).await?;
        cluster.store.pause_schedule(tenant, policy).await?;
        let (made, without) = ticks(&cluster, policy).await?;
        assert_eq!(without, 0, "{policy}");
        assert!(made.len() >= 7, "{policy}: {made:?}");
        let is_next = |two: &[Timestamp]| two[1] == two[0] + SECOND;
        assert!(made.windows(2).all(is_next), "{policy}: {made:?}");
    }
    cluster.take_down().await
}

#[tokio::test]
async fn hours_without_a_scheduler_are_what_the_policy_says() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    // A minute that is neither this one nor the next.
    let minute = (cluster.store.now().await? + 1800 * SECOND)
        .strftime("%M")
        .to_string();
    let mut tenant = 0;
    for policy in ["skip", "run_once", "catch_up"] {
        tenant = create(&cluster, policy, &format!("{minute} * * * *"), policy).await?;
    }
    tenant = create(&cluster, "long", "* * * * *", "catch_up")
        .await
        .unwrap_or(tenant);
    let away = "update postroad.schedule set next_at = next_at - interval '10 hours'";
    cluster.query(away, &[]).await?;
    let now = cluster.store.now().await?;
    cluster.start_scheduler().await?;
    cluster.start_scheduler().await?;

    for (policy, jobs, without) in [("skip", 0, 10), ("run_once", 1, 9), ("catch_up", 10, 0)] {
        wait_past(&cluster, tenant, policy, now).await?;
        let (made, passed_over) = ticks(&cluster, policy).await?;
        assert_eq!((made.len(), passed_over), (jobs, without), "{policy}");
    }
    // Of 600 minutes the newest 300, in parts of some eighty that fit a statement, and those of
    // this minute; of the others the newest hundred are written down.
    wait_past(&cluster, tenant, "long", now).await?;
    let (made, passed_over) = ticks(&cluster, "long").await?;
    assert!((300..=303).contains(&made.len()), "{} jobs", made.len());
    assert!(
        (99..=101).contains(&passed_over),
        "{passed_over} passed over"
    );
    let is_next = |two: &[Timestamp]| two[1] == two[0] + 60 * SECOND;
    assert!(made.windows(2).all(is_next), "{made:?}");
    cluster.take_down().await
}

#[tokio::test]
async fn what_is_missed_while_it_is_paused_is_not_made_up_for() -> anyhow::Result<()> {
    let cluster = Cluster::builder().schedulers(2).workers(0).start().await?;
    let tenant = create(&cluster, "s", "* * * * * *", "catch_up").await?;
    wait_past(&cluster, tenant, "s", cluster.store.now().await?).await?;

    let paused = cluster.store.pause_schedule(tenant, "s").await?;
    assert_eq!(paused, ScheduleChange::Applied);
    let seen = row(&cluster, tenant, "s").await?;
    let from = seen.next_at.context("it ticks on")?;
    wait_until(&cluster, from + 2 * SECOND).await?;
    let recurrence = Recurrence::parse(&seen.cron, &seen.timezone)?;
    let first = recurrence.next_after(cluster.store.now().await?);
    let resumed = cluster.store.resume_schedule(tenant, &seen, first).await?;
    assert_eq!(resumed, ScheduleChange::Applied);
    let first = first.context("it ticks on")?;
    wait_past(&cluster, tenant, "s", first + SECOND).await?;

    let (made, without) = ticks(&cluster, "s").await?;
    let between: Vec<_> = made
        .iter()
        .filter(|tick| (from..first).contains(*tick))
        .collect();
    assert!(between.is_empty() && without == 0, "{between:?}");
    assert!(made.contains(&first), "{made:?}");
    cluster.take_down().await
}

#[tokio::test]
async fn a_schedule_that_nobody_can_read_keeps_no_other_from_ticking() -> anyhow::Result<()> {
    let cluster = Cluster::builder().schedulers(1).workers(0).start().await?;
    let tenant = create(&cluster, "good", "* * * * * *", "skip").await?;
    create(&cluster, "bad", "* * * * * *", "skip").await?;
    // As a scheduler with an older list of zones would see it.
    let strange = "update postroad.schedule set timezone = 'Mars/Olympus', version = version + 1
                   where name = 'bad'";
    cluster.query(strange, &[]).await?;
    let scheduler = cluster.scheduler(0);
    cluster
        .wait_for_log(scheduler, "schedule bad cannot tick", 1)
        .await?;
    let now = cluster.store.now().await?;

    wait_past(&cluster, tenant, "good", now + 3 * SECOND).await?;

    let said = cluster
        .log(scheduler)
        .matches("schedule bad cannot tick")
        .count();
    assert_eq!(said, 1, "it is looked at again in a minute");
    let is_ready = cluster.readyz(scheduler).await?;
    assert!(is_ready.0, "{is_ready:?}");
    cluster.take_down().await
}

#[tokio::test]
async fn the_expression_changes_under_four_schedulers_and_no_tick_is_of_both() -> anyhow::Result<()>
{
    let cluster = Cluster::builder().schedulers(4).workers(0).start().await?;
    let tenant = create(&cluster, "s", "* * * * * *", "skip").await?;
    let mut even = true;
    for _ in 0..6 {
        let (cron, next) = match even {
            true => ("*/2 * * * * *", 2),
            false => ("* * * * * *", 1),
        };
        even = !even;
        let seen = row(&cluster, tenant, "s").await?;
        wait_past(&cluster, tenant, "s", seen.next_at.context("it ticks on")?).await?;
        let recurrence = Recurrence::parse(cron, "UTC")?;
        let changed = NewSchedule {
            name: "s".to_owned(),
            cron: cron.to_owned(),
            timezone: "UTC".to_owned(),
            misfire: "skip".to_owned(),
            catch_up_max: 1,
            queue: "default".to_owned(),
            kind: "echo".to_owned(),
            args: to_raw_value(&next)?,
            priority: 1,
            max_attempts: None,
            on_lost: None,
            expires_after: None,
            is_paused: false,
            next_at: recurrence.next_after(cluster.store.now().await?),
        };
        // Ticks made meanwhile do not stand in its way.
        let replaced = cluster
            .store
            .replace_schedule(tenant, seen.version, &changed);
        ensure!(replaced.await? == ScheduleChange::Applied);
    }
    cluster.store.pause_schedule(tenant, "s").await?;

    let sql = "select count(*), count(distinct t.tick_at),
                      count(*) filter (where j.args::text = '2' and extract(second from t.tick_at)::int % 2 = 1)
               from postroad.schedule_tick t join postroad.jobs j on j.id = t.job_id";
    let seen = &cluster.query(sql, &[]).await?[0];
    let (jobs, distinct, odd): (i64, i64, i64) = (seen.get(0), seen.get(1), seen.get(2));
    assert_eq!((jobs, odd), (distinct, 0));
    let all: i64 = cluster
        .query("select count(*) from postroad.jobs", &[])
        .await?[0]
        .get(0);
    assert_eq!(all, jobs, "every job has its tick");
    cluster.take_down().await
}
