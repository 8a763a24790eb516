//! Schedules and their ticks in the database: one tick, one job, whoever else is at it.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;
use postroad_common::job::JobId;
use postroad_common::schedule::{Plan, Recurrence};
use postroad_common::store::{
    DueSchedule, Ending, NewSchedule, ScheduleChange, ScheduleRow, Scope, Ticked,
};
use serde_json::value::to_raw_value;

use crate::store_fixture::{Room, every_second};

impl Room {
    async fn tenant(&self, name: &str) -> i32 {
        let sql = format!(
            "with made as (insert into postroad.tenant (name) values ('{name}')
                           on conflict (name) do nothing returning id)
             select id from made union select id from postroad.tenant where name = '{name}'"
        );
        self.value(&sql).await
    }

    /// A schedule of the tenant `default` that is due, and its tenant.
    async fn due(&self, new: &NewSchedule) -> (i32, DueSchedule) {
        let tenant = self.tenant("default").await;
        assert!(self.store.create_schedule(tenant, new).await.unwrap());
        let due = self.store.due_schedules(10, &[]).await.unwrap();
        (
            tenant,
            due.into_iter().find(|due| due.name == new.name).unwrap(),
        )
    }

    async fn schedule(&self, tenant: i32, name: &str) -> ScheduleRow {
        let rows = self
            .store
            .schedules(Some(tenant), Some(name), None, 10)
            .await;
        rows.unwrap().remove(0)
    }

    async fn replace(&self, tenant: i32, new: &NewSchedule) {
        let seen = self.schedule(tenant, &new.name).await.version;
        let replaced = self.store.replace_schedule(tenant, seen, new).await;
        assert_eq!(replaced.unwrap(), ScheduleChange::Applied);
    }

    async fn jobs(&self) -> i64 {
        self.value("select count(*) from postroad.jobs").await
    }
}

/// One job for the tick that is due.
fn plan(due: &DueSchedule) -> Plan {
    Plan {
        ticks: vec![due.next_at],
        next: Some(due.next_at + Duration::from_secs(1)),
        ..Plan::default()
    }
}

const NOTHING: Ticked = Ticked {
    jobs: 0,
    passed_over: 0,
};

#[tokio::test]
async fn of_schedulers_at_once_one_makes_the_tick() {
    let room = Room::open().await;
    let (tenant, due) = room.due(&every_second("s")).await;
    let plan = plan(&due);

    let all = try_join_all((0..8).map(|_| room.store.tick(&due, &plan))).await;

    let made: i64 = all.unwrap().iter().map(|ticked| ticked.jobs).sum();
    assert_eq!((made, room.jobs().await), (1, 1));
    let row = room.schedule(tenant, "s").await;
    assert_eq!((row.last_at, row.next_at), (Some(due.next_at), plan.next));
    let ticks = room
        .store
        .schedule_ticks(tenant, "s", None, 10)
        .await
        .unwrap();
    assert_eq!((ticks.len(), ticks[0].tick_at), (1, due.next_at));
    let run_at: Timestamp = room.look(ticks[0].job_id.unwrap(), "run_at").await;
    assert_eq!(run_at, due.next_at, "so that its lateness shows");
}

#[tokio::test]
async fn a_tick_that_has_its_row_gets_no_second_job_even_if_the_schedule_goes_back() {
    let room = Room::open().await;
    let (_, due) = room.due(&every_second("s")).await;
    assert_eq!(room.store.tick(&due, &plan(&due)).await.unwrap().jobs, 1);
    let back = "update postroad.schedule set next_at = next_at - interval '1 second'";
    room.execute(back).await;

    assert_eq!(room.store.tick(&due, &plan(&due)).await.unwrap(), NOTHING);
    assert_eq!(room.jobs().await, 1);
}

#[tokio::test]
async fn a_tick_that_was_computed_before_a_change_is_not_made() {
    let room = Room::open().await;
    let tenant = room.tenant("default").await;
    for name in ["changed", "paused", "resumed", "deleted"] {
        room.due(&every_second(name)).await;
    }
    let due = room.store.due_schedules(10, &[]).await.unwrap();

    let changed = NewSchedule {
        cron: "0 0 1 1 *".to_owned(),
        ..every_second("changed")
    };
    room.replace(tenant, &changed).await;
    for name in ["paused", "resumed"] {
        let done = room.store.pause_schedule(tenant, name).await.unwrap();
        assert_eq!(done, ScheduleChange::Applied);
    }
    let seen = room.schedule(tenant, "resumed").await;
    let done = room
        .store
        .resume_schedule(tenant, &seen, seen.next_at)
        .await;
    assert_eq!(done.unwrap(), ScheduleChange::Applied);
    assert!(room.store.delete_schedule(tenant, "deleted").await.unwrap());

    assert_eq!(due.len(), 4);
    for one in &due {
        let made = room.store.tick(one, &plan(one)).await.unwrap();
        assert_eq!(made, NOTHING, "{}", one.name);
    }
    assert_eq!(room.jobs().await, 0);
}

#[tokio::test]
async fn a_change_keeps_a_tick_that_is_due_unless_it_is_about_when_it_ticks() {
    let room = Room::open().await;
    let (tenant, due) = room.due(&every_second("s")).await;
    let later = Some(Timestamp::from_second(2_000_000_000).unwrap());

    let other_args = NewSchedule {
        args: to_raw_value(&2).unwrap(),
        next_at: later,
        ..every_second("s")
    };
    room.replace(tenant, &other_args).await;
    assert_eq!(room.schedule(tenant, "s").await.next_at, Some(due.next_at));
    let again = room.store.due_schedules(10, &[]).await.unwrap().remove(0);
    assert_eq!(
        room.store.tick(&again, &plan(&again)).await.unwrap().jobs,
        1
    );

    let other_zone = NewSchedule {
        timezone: "Europe/Stockholm".to_owned(),
        next_at: later,
        ..every_second("s")
    };
    room.replace(tenant, &other_zone).await;
    assert_eq!(room.schedule(tenant, "s").await.next_at, later);
}

#[tokio::test]
async fn a_change_of_what_its_maker_has_not_seen_is_refused() {
    let room = Room::open().await;
    let (tenant, _) = room.due(&every_second("s")).await;
    let seen = room.schedule(tenant, "s").await;
    room.store.pause_schedule(tenant, "s").await.unwrap();

    let by_then = NewSchedule {
        priority: 3,
        ..every_second("s")
    };
    let replaced = room
        .store
        .replace_schedule(tenant, seen.version, &by_then)
        .await;
    assert_eq!(replaced.unwrap(), ScheduleChange::Superseded);
    let now = room.schedule(tenant, "s").await;
    assert!(now.paused_at.is_some() && now.priority == seen.priority);
    room.replace(tenant, &by_then).await;
    assert_eq!(room.schedule(tenant, "s").await.priority, 3);
}

#[tokio::test]
async fn a_tick_that_is_passed_over_has_its_row_and_no_job() {
    let room = Room::open().await;
    let (tenant, due) = room.due(&every_second("s")).await;
    let second = |n| due.next_at + Duration::from_secs(n);
    let plan = Plan {
        passed_over: vec![second(0), second(1)],
        ticks: Vec::new(),
        next: Some(second(2)),
    };

    let made = room.store.tick(&due, &plan).await.unwrap();

    assert_eq!((made.jobs, made.passed_over, room.jobs().await), (0, 2, 0));
    let ticks = room
        .store
        .schedule_ticks(tenant, "s", None, 10)
        .await
        .unwrap();
    assert!(ticks.iter().all(|tick| tick.job_id.is_none()), "{ticks:?}");
    let row = room.schedule(tenant, "s").await;
    assert_eq!((row.last_at, row.next_at), (None, plan.next));
    let before = room
        .store
        .schedule_ticks(tenant, "s", Some(second(1)), 10)
        .await;
    assert_eq!(before.unwrap().len(), 1);
}

#[tokio::test]
async fn a_job_is_what_its_schedule_says_and_expires_after_its_tick() {
    let room = Room::open().await;
    let new = NewSchedule {
        queue: "slow".to_owned(),
        priority: 3,
        max_attempts: Some(7),
        on_lost: Some("hold".to_owned()),
        expires_after: Some(Duration::from_secs(90)),
        ..every_second("s")
    };
    let (_, due) = room.due(&new).await;
    room.store.tick(&due, &plan(&due)).await.unwrap();

    let sql =
        "select q.name || ' ' || j.priority || ' ' || j.max_attempts || ' ' || j.on_lost || ' ' ||
                      extract(epoch from j.expires_at - j.run_at)::int || ' ' || j.args
               from postroad.job j join postroad.queue q on q.id = j.queue_id";
    assert_eq!(room.value::<String>(sql).await, "slow 3 7 hold 90 1");
}

#[tokio::test]
async fn a_name_is_one_tenants_and_one_schedules() {
    let room = Room::open().await;
    let (tenant, other) = (room.tenant("default").await, room.tenant("acme").await);
    let new = every_second("s");

    let made = join_all((0..4).map(|_| room.store.create_schedule(tenant, &new))).await;
    let made = made
        .into_iter()
        .filter(|made| *made.as_ref().unwrap())
        .count();
    assert_eq!(made, 1);
    assert!(room.store.create_schedule(other, &new).await.unwrap());

    let unknown = every_second("unknown");
    let replaced = room.store.replace_schedule(tenant, 1, &unknown).await;
    assert_eq!(replaced.unwrap(), ScheduleChange::Superseded);
    assert!(!room.store.delete_schedule(tenant, "unknown").await.unwrap());
    assert!(room.store.delete_schedule(other, "s").await.unwrap());
    assert_eq!(room.schedule(tenant, "s").await.tenant, "default");
}

#[tokio::test]
async fn pages_leave_no_schedule_out_although_tenants_use_the_same_names() {
    let room = Room::open().await;
    for tenant in ["a", "b", "c"] {
        let id = room.tenant(tenant).await;
        for name in ["one", "two"] {
            room.store
                .create_schedule(id, &every_second(name))
                .await
                .unwrap();
        }
    }
    let (mut seen, mut after) = (Vec::new(), None::<(String, String)>);
    loop {
        let from = after
            .as_ref()
            .map(|(name, tenant)| (name.as_str(), tenant.as_str()));
        let page = room.store.schedules(None, None, from, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.name.clone(), last.tenant.clone()));
        seen.extend(
            page.iter()
                .map(|row| format!("{}/{}", row.name, row.tenant)),
        );
    }
    assert_eq!(seen, ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c"]);

    let acme = room.store.scoped(Scope::Tenant(room.tenant("b").await));
    let own = acme.schedules(None, None, None, 10).await.unwrap();
    assert!(
        own.len() == 2 && own.iter().all(|row| row.tenant == "b"),
        "{own:?}"
    );
}

#[tokio::test]
async fn pausing_and_resuming_say_what_they_found() {
    let room = Room::open().await;
    let tenant = room.tenant("default").await;
    room.store
        .create_schedule(tenant, &every_second("s"))
        .await
        .unwrap();
    let pause = async || room.store.pause_schedule(tenant, "s").await.unwrap();

    assert_eq!(pause().await, ScheduleChange::Applied);
    assert_eq!(pause().await, ScheduleChange::AlreadyDone);
    let none = room.store.pause_schedule(tenant, "none").await.unwrap();
    assert_eq!(none, ScheduleChange::NotFound);
    assert!(room.store.due_schedules(10, &[]).await.unwrap().is_empty());
    assert_eq!(room.store.until_next_tick(&[]).await.unwrap(), None);

    let seen = room.schedule(tenant, "s").await;
    let next = Recurrence::parse(&seen.cron, &seen.timezone).unwrap();
    let next = next.next_after(room.store.now().await.unwrap());
    let resume = async || {
        room.store
            .resume_schedule(tenant, &seen, next)
            .await
            .unwrap()
    };
    assert_eq!(resume().await, ScheduleChange::Applied);
    // By somebody who still sees it paused.
    assert_eq!(resume().await, ScheduleChange::Superseded);
    let row = room.schedule(tenant, "s").await;
    assert_eq!((row.next_at, row.paused_at), (next, None));
    let again = room
        .store
        .resume_schedule(tenant, &row, next)
        .await
        .unwrap();
    assert_eq!(again, ScheduleChange::AlreadyDone);
}

#[tokio::test]
async fn a_job_that_somebody_asks_for_is_no_tick() {
    let room = Room::open().await;
    let tenant = room.tenant("default").await;
    room.store
        .create_schedule(tenant, &every_second("s"))
        .await
        .unwrap();
    room.store.pause_schedule(tenant, "s").await.unwrap();

    let id = JobId::new();
    let run = async || {
        room.store
            .run_schedule(tenant, "s", id, None)
            .await
            .unwrap()
    };
    assert!(run().await);
    assert!(!run().await, "whoever has lost the answer asks again");
    assert_eq!(room.state(id).await, "scheduled");
    let claimed = room.claim_all().await[0];
    room.start(claimed).await;
    room.finish(claimed, Ending::Completed(None)).await;
    assert!(!run().await, "also when the job is finished");
    assert_eq!(room.jobs().await, 1);
    let ticks: i64 = room
        .value("select count(*) from postroad.schedule_tick")
        .await;
    assert_eq!(ticks, 0);
    let none = room
        .store
        .run_schedule(tenant, "none", JobId::new(), None)
        .await;
    assert!(!none.unwrap());
}

#[tokio::test]
async fn a_schedule_that_is_set_aside_is_not_due() {
    let room = Room::open().await;
    let (_, due) = room.due(&every_second("s")).await;
    assert!(
        room.store
            .due_schedules(10, &[due.id])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(room.store.until_next_tick(&[due.id]).await.unwrap(), None);
    let until = room.store.until_next_tick(&[]).await.unwrap();
    assert_eq!(until, Some(Duration::ZERO));
}

#[tokio::test]
async fn ticks_are_forgotten_after_the_retention_and_their_jobs_are_not() {
    let room = Room::open().await;
    let (tenant, due) = room.due(&every_second("s")).await;
    room.store.tick(&due, &plan(&due)).await.unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(room.store.prune_ticks(day, 100).await.unwrap(), 0);

    room.execute("update postroad.schedule_tick set made_at = now() - interval '25 hours'")
        .await;
    let pruned = try_join_all((0..4).map(|_| room.store.prune_ticks(day, 100)))
        .await
        .unwrap();

    assert_eq!(pruned.iter().sum::<usize>(), 1);
    assert!(
        room.store
            .schedule_ticks(tenant, "s", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(room.jobs().await, 1);
}
