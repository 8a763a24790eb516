//! What people change is written down in the transaction of the change: neither is there alone.

use jiff::Timestamp;
use postroad_common::job::JobId;
use postroad_common::store::{
    Actor, Cancelled, Error, Fenced, KindChange, NewRedrive, NewSchedule, NewToken, QueueChange,
    RedriveFilter, Resolution, Store, TenantChange,
};
use postroad_common::token::{Permission, Token};
use uuid::Uuid;

use crate::store_fixture::{ALL, Room, every_second, failed, job, job_to_hold, unknown};

/// Every change, in an order in which each finds what it is about.
const CHANGES: &[&str] = &[
    "job.cancel",
    "job.retry",
    "job.resolve",
    "queue.set",
    "queue.pause",
    "queue.resume",
    "kind.set",
    "kind.reset",
    "tenant.create",
    "tenant.set",
    "tenant.disable",
    "tenant.enable",
    "tenant.secret.set",
    "tenant.secret.rotate",
    "tenant.secret.clear",
    "token.create",
    "token.revoke",
    "schedule.create",
    "schedule.change",
    "schedule.pause",
    "schedule.resume",
    "schedule.run",
    "schedule.delete",
    "dead_letters.redrive",
    "operation.stop",
];

struct Stage {
    room: Room,
    /// On behalf of somebody.
    store: Store,
    tenant: i32,
    waiting: JobId,
    running: Fenced,
    held: JobId,
    token: Token,
}

impl Stage {
    async fn set() -> Self {
        let room = Room::open().await;
        let held = room.running(job_to_hold()).await;
        room.finish(held, unknown()).await;
        let running = room.running(job()).await;
        let waiting = room.enqueue(job()).await;
        let actor = Actor {
            name: "cli:somebody@somewhere".to_owned(),
            request_id: Some("a-request".to_owned()),
        };
        let tenant = "select id from postroad.tenant where name = 'default'";
        Self {
            store: room.store.acting(actor),
            tenant: room.value(tenant).await,
            waiting,
            running,
            held: held.id,
            token: Token::generate(),
            room,
        }
    }

    async fn change(&self, action: &str) -> Result<(), Error> {
        let (store, tenant) = (&self.store, self.tenant);
        let seen = async || store.schedules(Some(tenant), Some("s"), None, 1).await;
        match action {
            "job.cancel" => {
                store.cancel(&[self.waiting, self.running.id]).await?;
            }
            "job.retry" => {
                store.retry(&[self.waiting]).await?;
            }
            "job.resolve" => {
                store.resolve(&[self.held], Resolution::Dead).await?;
            }
            "queue.set" => {
                store.set_queue("default", &window()).await?;
            }
            "queue.pause" => {
                store.pause_queue("default", true).await?;
            }
            "queue.resume" => {
                store.pause_queue("default", false).await?;
            }
            "kind.set" => {
                store.set_kind("echo", &attempts()).await?;
            }
            "kind.reset" => {
                store.reset_kind("echo").await?;
            }
            "tenant.create" => {
                store
                    .create_tenant("acme", &TenantChange::default())
                    .await?;
            }
            "tenant.set" => {
                store.set_tenant("acme", &weight()).await?;
            }
            "tenant.disable" => {
                store.enable_tenant("acme", false).await?;
            }
            "tenant.enable" => {
                store.enable_tenant("acme", true).await?;
            }
            "tenant.secret.set" => {
                store.set_webhook_secret("acme", "whsec_one").await?;
            }
            "tenant.secret.rotate" => {
                store.rotate_webhook_secret("acme", "whsec_two").await?;
            }
            "tenant.secret.clear" => {
                store.clear_webhook_secret("acme").await?;
            }
            "token.create" => {
                store.create_token(&self.new_token()).await?;
            }
            "token.revoke" => {
                store.revoke_token(self.token.id()).await?;
            }
            "schedule.create" => {
                store.create_schedule(tenant, &hourly()).await?;
            }
            "schedule.change" => {
                let version = seen().await?[0].version;
                store.replace_schedule(tenant, version, &hourly()).await?;
            }
            "schedule.pause" => {
                store.pause_schedule(tenant, "s").await?;
            }
            "schedule.resume" => {
                let seen = &seen().await?[0];
                store
                    .resume_schedule(tenant, seen, hourly().next_at)
                    .await?;
            }
            "schedule.run" => {
                store.run_schedule(tenant, "s", JobId::new(), None).await?;
            }
            "schedule.delete" => {
                store.delete_schedule(tenant, "s").await?;
            }
            "dead_letters.redrive" => {
                let redrive = NewRedrive {
                    filter: &RedriveFilter::default(),
                    limit: None,
                };
                store.begin_redrive(&redrive, Some(tenant)).await?;
            }
            "operation.stop" => {
                let operations = store.operations(None, 1).await?;
                store.stop_operation(operations[0].id).await?;
            }
            _ => panic!("{action} is no change"),
        }
        Ok(())
    }

    fn new_token(&self) -> NewToken<'_> {
        NewToken {
            token: &self.token,
            tenant: Some("default"),
            name: "a token",
            scopes: &[Permission::JobsRead],
            expires_in: None,
        }
    }

    /// Everything that changes are made to.
    async fn everything(&self) -> String {
        let tables = [
            "job",
            "archive",
            "queue",
            "kind",
            "tenant",
            "tenant_secret",
            "token",
            "schedule",
            "operation",
        ];
        let mut all = String::new();
        for table in tables {
            let sql = format!(
                "select coalesce(string_agg(t::text, E'\\n' order by t::text), '') from postroad.{table} t"
            );
            all += &self.room.value::<String>(&sql).await;
        }
        all
    }

    /// Every action, and whose it is said to be.
    async fn noted(&self) -> Vec<(String, Option<i32>)> {
        let sql = "select action, tenant_id from postroad.audit_log
                   where actor = 'cli:somebody@somewhere' and request_id = 'a-request' order by id";
        let rows = self.room.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

fn window() -> QueueChange {
    QueueChange {
        window_size: Some(77),
        ..QueueChange::default()
    }
}

fn attempts() -> KindChange {
    KindChange {
        max_attempts: Some(7),
        ..KindChange::default()
    }
}

fn weight() -> TenantChange {
    TenantChange {
        weight: Some(7),
        ..TenantChange::default()
    }
}

fn hourly() -> NewSchedule {
    NewSchedule {
        cron: "@hourly".to_owned(),
        misfire: "skip".to_owned(),
        next_at: Some(Timestamp::from_second(2_000_000_000).unwrap()),
        ..every_second("s")
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_written_down_is_not_made_and_one_that_can_is_one_row() {
    let stage = Stage::set().await;
    for action in CHANGES {
        let (before, noted) = (stage.everything().await, stage.noted().await.len());
        stage
            .room
            .execute("alter table postroad.audit_log add constraint closed check (false) not valid")
            .await;
        let refused = stage.change(action).await;
        assert!(refused.is_err(), "{action} is made");
        assert_eq!(stage.everything().await, before, "{action}");

        stage
            .room
            .execute("alter table postroad.audit_log drop constraint closed")
            .await;
        stage.change(action).await.unwrap();
        assert_ne!(stage.everything().await, before, "{action}");
        let rows = stage.noted().await.split_off(noted);
        let jobs = if *action == "job.cancel" { 2 } else { 1 };
        assert_eq!(rows.len(), jobs, "{action}: {rows:?}");
        // Queues and kinds are everybody's.
        let is_shared = action.starts_with("queue.") || action.starts_with("kind.");
        for (noted, tenant) in &rows {
            assert_eq!((&**noted, tenant.is_none()), (*action, is_shared));
        }
    }
}

#[tokio::test]
async fn what_changes_nothing_is_not_written_down() {
    let stage = Stage::set().await;
    let store = &stage.store;
    store.pause_queue("default", false).await.unwrap();
    store.pause_queue("unknown", true).await.unwrap();
    store.reset_kind("unknown").await.unwrap();
    store.retry(&[stage.held]).await.unwrap();
    store.cancel(&[stage.held]).await.unwrap();
    // Somebody else has asked for it already.
    stage.room.store.cancel(&[stage.running.id]).await.unwrap();
    let asked_again = store.cancel(&[stage.running.id]).await;
    assert_eq!(asked_again.unwrap(), [Cancelled::Asked]);
    let undecided = store.resolve(&[stage.waiting], Resolution::Dead).await;
    assert_eq!(undecided.unwrap(), []);
    assert!(!store.set_queue("unknown", &window()).await.unwrap());
    assert!(!store.set_tenant("unknown", &weight()).await.unwrap());
    store.enable_tenant("default", true).await.unwrap();
    store.clear_webhook_secret("default").await.unwrap();
    store.revoke_token("00000000").await.unwrap();
    store.pause_schedule(stage.tenant, "s").await.unwrap();
    assert!(
        !store
            .run_schedule(stage.tenant, "s", JobId::new(), None)
            .await
            .unwrap()
    );
    assert!(!store.delete_schedule(stage.tenant, "s").await.unwrap());
    assert!(!store.stop_operation(Uuid::now_v7()).await.unwrap());
    assert_eq!(stage.noted().await, []);
}

#[tokio::test]
async fn what_programs_do_by_themselves_is_nobodys_change() {
    let stage = Stage::set().await;
    stage.store.cancel(&[stage.running.id]).await.unwrap();
    stage.room.finish(stage.running, failed()).await;
    let cancelled = stage.room.store.finish_cancelling(ALL).await;
    assert_eq!(cancelled.unwrap(), 1);
    let all = "select count(*) from postroad.audit_log";
    assert_eq!(stage.room.value::<i64>(all).await, 1);
}

/// A role that was given every right there is, too: what it may is not what keeps the log.
#[tokio::test]
async fn the_log_only_grows_whoever_asks() {
    let stage = Stage::set().await;
    stage.change("queue.pause").await.unwrap();
    let mut owner = stage.room.database.client().await;
    postroad_migrations::grant_roles(&mut owner).await.unwrap();
    let log = "select string_agg(l::text, E'\n' order by id) from postroad.audit_log l";
    let before: String = stage.room.value(log).await;

    for (role, granted) in [
        ("none", ""),
        ("postroad_api", ""),
        (
            "postroad_api",
            "grant all on postroad.audit_log to postroad_api",
        ),
    ] {
        stage.room.execute(granted).await;
        for sql in [
            "update postroad.audit_log set actor = 'nobody'",
            "update postroad.audit_log set actor = actor where false",
            "delete from postroad.audit_log",
            "truncate postroad.audit_log",
        ] {
            let enter = format!("set role {role}; set postroad.tenant = '*'");
            owner.batch_execute(&enter).await.unwrap();
            let refused = owner.execute(sql, &[]).await.expect_err(sql);
            let code = refused.code().map(|code| code.code());
            assert_eq!(code, Some("42501"), "{role}: {sql}: {refused:?}");
        }
        assert_eq!(stage.room.value::<String>(log).await, before, "{role}");
    }

    // It grows.
    stage.change("queue.resume").await.unwrap();
    assert_eq!(stage.noted().await.len(), 2);
}
