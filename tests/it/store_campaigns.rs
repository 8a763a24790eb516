//! Campaigns in the database that are cancelled and resumed: what was cancelled with them comes back,
//! all of it and nothing else, whoever is at it meanwhile.

use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use postroad_common::audience::Rule;
use postroad_common::job::JobId;
use postroad_common::job::retry::Verdict;
use postroad_common::store::{
    Acted, AudienceMember, CampaignAction, Expand, Expanding, Made, Moved, NewCampaign, NewChunk,
    Outlets, Ruling, Turn,
};
use postroad_tests::harness::eventually::eventually;
use uuid::Uuid;

use crate::store_fixture::{Room, failed, job, job_to_hold, unknown};

const CONTENT: &str =
    r#"{"channels": {"sms": {"kind": "echo", "args": {"en": {}}}}, "language": "en"}"#;

/// A campaign that runs, of which no job has been made.
async fn running(room: &Room) -> Uuid {
    room.add_names().await;
    let tenant = room.store.tenant_of_name("default").await.unwrap().unwrap();
    let new = NewCampaign {
        name: "a test",
        content: CONTENT,
        queues: &["default"],
        kinds: &["echo"],
        reach: "{}",
        region: None,
        start_at: None,
        expires_at: None,
        rate_per_second: None,
        canary_share: None,
        failure_max: None,
        needs_approval: false,
        audience: None,
    };
    let id = room.store.create_campaign(tenant, &new).await.unwrap();
    let chunk = NewChunk {
        zone: String::new(),
        n: 0,
        recipients: 1,
        body: r#"{"to": "somebody"}"#.to_owned(),
    };
    let upload = Uuid::now_v7();
    let store = &room.store;
    assert!(store.add_chunks(id, upload, &[chunk]).await.unwrap());
    assert!(store.finish_upload(id, upload, 1, "[]").await.unwrap());
    act(room, id, CampaignAction::Start).await;
    id
}

async fn act(room: &Room, id: Uuid, action: CampaignAction) {
    let acted = room.store.act_on_campaign(id, action).await.unwrap();
    assert_eq!(acted, Acted::Done, "{action:?}");
}

/// As if these jobs had been made of its recipients.
async fn adopt(room: &Room, campaign: Uuid, jobs: &[JobId]) {
    let ids: Vec<_> = jobs.iter().map(|id| *id.as_uuid()).collect();
    let sql = "update postroad.job
        set campaign_id = (select id from postroad.campaign where public_id = $1)
        where id = any($2)";
    let adopted = room.sql.execute(sql, &[&campaign, &ids]).await.unwrap();
    assert_eq!(adopted as usize, ids.len());
}

/// Does all that there is to do now for stops that cancel: a pass for each.
async fn sweep(room: &Room) {
    room.execute("update postroad.stop set pass_after = null")
        .await;
    let sql = "select count(*) from postroad.stop where lifted_at is null";
    for _ in 0..room.value::<i64>(sql).await {
        while room.store.sweep_cancelled(100).await.unwrap().has_more {}
    }
}

/// Stops of a campaign that are in force.
async fn stops(room: &Room, campaign: Uuid) -> i64 {
    let sql = "select count(*) from postroad.stop s
        join postroad.campaign c on c.id = s.campaign_id
        where c.public_id = $1 and s.lifted_at is null";
    room.sql.query_one(sql, &[&campaign]).await.unwrap().get(0)
}

/// Waits until a cancel of this campaign is over.
async fn until_over(room: &Room, campaign: Uuid) {
    eventually("the cancel is over", async || {
        sweep(room).await;
        ensure!(stops(room, campaign).await == 0, "it is in force");
        Ok(())
    })
    .await
    .unwrap();
}

async fn reason(room: &Room, job: JobId) -> String {
    assert_eq!(room.state(job).await, "cancelled");
    room.look(job, "reason").await
}

/// Without a look at the stops after the wait, the campaign would run, and all its jobs be cancelled.
#[tokio::test]
async fn a_resume_that_waits_for_a_cancel_leaves_nothing_of_it_in_force() {
    let room = Room::open().await;
    let campaign = running(&room).await;
    act(&room, campaign, CampaignAction::Pause).await;
    let mut holder = room.database.client().await;
    let hold = holder.transaction().await.unwrap();
    let lock = "select from postroad.campaign for no key update";
    hold.execute(lock, &[]).await.unwrap();

    let cancel = async {
        act(&room, campaign, CampaignAction::Cancel).await;
    };
    let resume = async {
        room.so_many_wait(1).await;
        act(&room, campaign, CampaignAction::Resume).await;
    };
    let release = async {
        room.so_many_wait(2).await;
        hold.commit().await.unwrap();
    };
    tokio::join!(cancel, resume, release);

    let state: String = room.value("select state from postroad.campaign").await;
    assert_eq!((&state[..], stops(&room, campaign).await), ("running", 0));
}

/// A held job of a campaign whose cancel is over. Its worker was called lost, comes back, and says that
/// there was no effect: a reason to try again, were it not for the cancel. What the retrier says then.
async fn failed_after_the_cancel(room: &Room, campaign: Uuid) -> Ruling {
    let held = room.running(job_to_hold()).await;
    adopt(room, campaign, &[held.id]).await;
    assert_eq!(room.finish(held, unknown()).await, Moved::Held);
    act(room, campaign, CampaignAction::Cancel).await;
    until_over(room, campaign).await;
    assert_eq!(room.finish(held, failed()).await, Moved::Failed);
    Ruling {
        job: held,
        verdict: Verdict::RetryAfter(Duration::ZERO),
    }
}

#[tokio::test]
async fn what_is_held_and_fails_after_all_is_not_tried_again() {
    let room = Room::open().await;
    let campaign = running(&room).await;
    let ruling = failed_after_the_cancel(&room, campaign).await;

    assert_eq!(room.store.rule(&[ruling]).await.unwrap(), 1);
    assert_eq!(reason(&room, ruling.job.id).await, "campaign cancelled");

    act(&room, campaign, CampaignAction::Resume).await;
    let back = room.store.expand_campaign(&mut Reviving).await.unwrap();
    assert_eq!(back, Some(1));
}

/// A ruling that waits for a resume is one for a campaign that runs: what it cancelled then, nobody would
/// bring back.
#[tokio::test]
async fn what_fails_while_its_campaign_is_resumed_is_tried_again() {
    let room = Room::open().await;
    let campaign = running(&room).await;
    let ruling = failed_after_the_cancel(&room, campaign).await;
    let mut holder = room.database.client().await;
    let hold = holder.transaction().await.unwrap();
    let resume = "update postroad.campaign set state = 'running', revives = true";
    hold.execute(resume, &[]).await.unwrap();

    let rule = async { room.store.rule(&[ruling]).await.unwrap() };
    let release = async {
        room.somebody_waits().await;
        hold.commit().await.unwrap();
    };
    let (ruled, ()) = tokio::join!(rule, release);

    let state = room.state(ruling.job.id).await;
    assert_eq!((ruled, &state[..]), (1, "scheduled"));
}

#[tokio::test]
async fn what_a_person_has_called_off_is_not_the_campaigns_to_bring_back() {
    let room = Room::open().await;
    let campaign = running(&room).await;
    let called_off = room.running(job()).await;
    let waiting = room.enqueue(job()).await;
    adopt(&room, campaign, &[called_off.id, waiting]).await;
    room.store.cancel(&[called_off.id]).await.unwrap();
    act(&room, campaign, CampaignAction::Cancel).await;
    assert_eq!(room.finish(called_off, failed()).await, Moved::Failed);

    sweep(&room).await;
    assert_eq!(reason(&room, waiting).await, "campaign cancelled");
    let other = reason(&room, called_off.id).await;
    assert_eq!(other, "cancelled while it ran");

    act(&room, campaign, CampaignAction::Resume).await;
    room.store.expand_campaign(&mut Reviving).await.unwrap();
    assert_eq!(room.state(waiting).await, "scheduled");
    assert_eq!(room.state(called_off.id).await, "cancelled");
}

/// A campaign that was cancelled, and two jobs with it.
async fn two_cancelled(room: &Room) -> (Uuid, Vec<JobId>) {
    let campaign = running(room).await;
    let jobs = room.enqueue_all(&[job(), job()]).await;
    adopt(room, campaign, &jobs).await;
    act(room, campaign, CampaignAction::Cancel).await;
    sweep(room).await;
    (campaign, jobs)
}

/// Somebody was about to bring a job back alone, and then did not.
#[tokio::test]
async fn what_somebody_has_locked_comes_back_when_it_is_let_go() {
    let room = Room::open().await;
    let (campaign, jobs) = two_cancelled(&room).await;
    let mut holder = room.database.client().await;
    let hold = holder.transaction().await.unwrap();
    let lock = "select from postroad.archive where id = $1 for update";
    hold.execute(lock, &[jobs[0].as_uuid()]).await.unwrap();

    act(&room, campaign, CampaignAction::Resume).await;
    let back = room.store.expand_campaign(&mut Reviving).await.unwrap();
    assert_eq!(back, Some(1));
    hold.rollback().await.unwrap();
    eventually("the other one is back", async || {
        room.store.expand_campaign(&mut Reviving).await?;
        let revives: bool = room.value("select revives from postroad.campaign").await;
        ensure!(!revives, "something is left");
        Ok(())
    })
    .await
    .unwrap();

    for job in jobs {
        assert_eq!(room.state(job).await, "scheduled");
    }
}

#[tokio::test]
async fn what_is_forgotten_cannot_be_gone_on_with() {
    let room = Room::open().await;
    let (campaign, jobs) = two_cancelled(&room).await;
    let three_days_ago =
        "update postroad.campaign set cancelled_since = now() - 3 * interval '24 hours'";
    room.execute(three_days_ago).await;
    let resume = async || {
        let resume = CampaignAction::Resume;
        room.store.act_on_campaign(campaign, resume).await.unwrap()
    };
    assert_eq!(resume().await, Acted::NotNow, "the day is gone");

    room.finished_days_ago(&jobs, 3).await;
    let keep = |days: &str| format!("update postroad.queue set retention_days = {days}");
    room.execute(&keep("2")).await;
    assert_eq!(resume().await, Acted::NotNow, "its queue's jobs are going");

    // What has not come back yet is from the first cancel, whatever was done since.
    room.execute(&keep("3")).await;
    assert_eq!(resume().await, Acted::Done);
    act(&room, campaign, CampaignAction::Cancel).await;
    room.execute(&keep("2")).await;
    assert_eq!(
        resume().await,
        Acted::NotNow,
        "though it was cancelled today"
    );
    room.execute(&keep("null")).await;
    assert_eq!(resume().await, Acted::Done);
    let back = room.store.expand_campaign(&mut Reviving).await.unwrap();
    assert_eq!(back, Some(2));
}

/// For steps that bring back what was cancelled, and make nothing new.
struct Reviving;

impl Expand for Reviving {
    fn outlets(&mut self, _: &Expanding) -> Result<Outlets, String> {
        Ok(Outlets {
            queues: vec!["default".to_owned()],
            kinds: vec!["echo".to_owned()],
        })
    }

    fn turn(&mut self, _: &Expanding, _: &[String]) -> Turn {
        panic!("nothing new is made")
    }

    fn rule(&mut self, _: &Expanding) -> Option<&Rule> {
        None
    }

    fn children(&mut self, _: &Expanding, _: &str, _: usize, _: usize) -> Made {
        panic!("nothing new is made")
    }

    fn children_of(&mut self, _: &Expanding, _: &[AudienceMember]) -> Made {
        panic!("nothing new is made")
    }

    fn reach(&mut self, _: &Expanding, _: &str) -> (Timestamp, Option<Timestamp>) {
        panic!("nobody has hours here")
    }
}
