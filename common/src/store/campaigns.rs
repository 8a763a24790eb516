//! Campaigns, as people make, watch and steer them. What makes jobs of them is [`super::expansion`].
//!
//! Pausing, cancelling and resuming are one row and one stop each, whatever the size: claims and the
//! gate hold to the stop from the moment that it is committed (see [`super::stops`]).

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{Change, Lock, if_so};
use super::expansion::{Rejection, Rejections};
use super::{Error, Store};

/// The states that there are, in the order in which campaigns come to them.
pub const CAMPAIGN_STATES: [&str; 7] = [
    "draft",
    "awaiting_approval",
    "running",
    "paused",
    "cancelled",
    "expired",
    "finished",
];

/// A campaign to be made: a draft, without recipients.
#[derive(Clone, Copy, Debug)]
pub struct NewCampaign<'a> {
    /// What people call it.
    pub name: &'a str,
    /// What it says, as JSON that has been checked.
    pub content: &'a str,
    /// The queues that it names.
    pub queues: &'a [&'a str],
    /// The kinds that it names.
    pub kinds: &'a [&'a str],
    /// When recipients may be reached, as JSON that has been checked.
    pub reach: &'a str,
    /// The region of phone numbers that say none.
    pub region: Option<&'a str>,
    /// Not before then.
    pub start_at: Option<Timestamp>,
    /// From then on it is pointless.
    pub expires_at: Option<Timestamp>,
    /// Recipients a second, at most.
    pub rate_per_second: Option<i32>,
    /// The share of recipients that is made first.
    pub canary_share: Option<f64>,
    /// It is paused when a larger share of what has ended is dead.
    pub failure_max: Option<f64>,
    /// Whether somebody else must approve of it before it runs.
    pub needs_approval: bool,
    /// Whom it is for. None: recipients are uploaded.
    pub audience: Option<CampaignAudience<'a>>,
}

/// Whom a campaign is for.
#[derive(Clone, Copy, Debug)]
pub struct CampaignAudience<'a> {
    /// The rules, as JSON that has been checked.
    pub rules: &'a str,
    /// The audience that has them, if there is one.
    pub name: Option<&'a str>,
}

/// A campaign and how far it is.
#[derive(Clone, Debug, Serialize)]
pub struct Campaign {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// What people call it.
    pub name: String,
    /// `draft`, `awaiting_approval`, `running`, `paused`, `cancelled`, `expired` or `finished`.
    pub state: String,
    /// Why it is paused.
    pub note: String,
    /// Not before then.
    pub start_at: Option<Timestamp>,
    /// From then on it is pointless.
    pub expires_at: Option<Timestamp>,
    /// Recipients a second, at most.
    pub rate_per_second: Option<i32>,
    /// Recipients that are made first.
    pub canary: Option<i64>,
    /// When those had ended well enough for the rest to follow.
    pub canary_passed_at: Option<Timestamp>,
    /// It is paused when a larger share of what has ended is dead.
    pub failure_max: Option<f64>,
    /// Whether somebody else must approve of it before it runs.
    pub needs_approval: bool,
    /// Who has.
    pub approved_by: Option<String>,
    /// `upload` or `audience`: where its recipients come from.
    pub source: &'static str,
    /// The audience whose rules it has. None: they were given with it, or recipients are uploaded.
    pub audience: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// When it began to run.
    pub started_at: Option<Timestamp>,
    /// When it came to its end.
    pub ended_at: Option<Timestamp>,
    /// Where its recipients are.
    pub progress: Progress,
    /// Why no job could be made of those that were rejected.
    pub rejections: Vec<Rejection>,
}

/// How much is known of how many recipients a campaign has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Planned {
    /// All are counted: they were uploaded, or its audience has been gone through.
    Exact,
    /// So many its audience picked when it began; or more, if it has met more by now.
    Estimate,
    /// Nobody knows before its audience has been gone through.
    #[default]
    Unknown,
}

/// Where the recipients of a campaign are, at one moment. `planned` is the sum of the others, where it
/// is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Recipients that were handed in and could be read, or that its audience picks.
    pub planned: Option<i64>,
    /// How much that says.
    pub planned_is: Planned,
    /// No job has been made of them. None ever will, if the campaign has ended. None: as `planned`.
    pub not_made: Option<i64>,
    /// Were there before in the same campaign, and get nothing twice.
    pub duplicates: i64,
    /// Could not be made a job of.
    pub rejected: i64,
    /// Wait for room in the pipe, for their time, or for another attempt.
    pub scheduled: i64,
    /// On their way to a worker.
    pub in_pipe: i64,
    /// Under way.
    pub running: i64,
    /// Have failed, and go on soon.
    pub failed: i64,
    /// Wait for a decision.
    pub held: i64,
    /// Have got it.
    pub delivered: i64,
    /// Given up.
    pub dead: i64,
    /// Called off.
    pub cancelled: i64,
    /// Not begun in time.
    pub expired: i64,
    /// Were not to get anything any more.
    pub suppressed: i64,
}

impl Progress {
    /// What all parts add up to.
    pub fn known(&self) -> i64 {
        self.not_made.unwrap_or_default()
            + self.duplicates
            + self.rejected
            + self.unfinished()
            + self.delivered
            + self.dead
            + self.cancelled
            + self.expired
            + self.suppressed
    }

    /// Recipients whose jobs have not come to their end.
    pub fn unfinished(&self) -> i64 {
        self.scheduled + self.in_pipe + self.running + self.failed + self.held
    }
}

/// What can be done to a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignAction {
    /// Let it run, or have it wait for approval.
    Start,
    /// Approve of it, for somebody who has not made it.
    Approve,
    /// Start nothing more.
    Pause,
    /// Go on: after a pause, or after it was cancelled, with what was cancelled.
    Resume,
    /// Start nothing more, and cancel what waits.
    Cancel,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done,
    /// Its state does not allow it, or it has neither recipients nor an audience.
    NotNow,
    /// It was made by whoever wants to approve of it.
    OwnCampaign,
    /// There is none of this id.
    NotThere,
}

const CREATE: &str = "
    insert into postroad.campaign
        (public_id, tenant_id, name, content, reach, region, start_at, expires_at, rate_per_second,
         canary_share, failure_max, needs_approval, created_by, audience, audience_name)
    values ($1, $2, $3, $4::text::json, $5::text::json, $6, $7, $8, $9, $10, $11, $12, $13,
            $14::text::json, $15)";

/// What the parts of a campaign come to: what is finished by its accounts, which are written in the
/// transactions that finish it, and what is not by the rows that there are.
macro_rules! progress_of_c {
    () => {
        "left join lateral (
            select coalesce(sum(made), 0)::bigint as made, coalesce(sum(completed), 0)::bigint as completed,
                   coalesce(sum(dead), 0)::bigint as dead, coalesce(sum(cancelled), 0)::bigint as cancelled,
                   coalesce(sum(expired), 0)::bigint as expired,
                   coalesce(sum(suppressed), 0)::bigint as suppressed,
                   coalesce(sum(duplicates), 0)::bigint as duplicates,
                   coalesce(sum(rejected), 0)::bigint as rejected
            from (select made, completed, dead, cancelled, expired, suppressed, duplicates, rejected
                  from postroad.campaign_total where campaign_id = c.id
                  union all
                  select made, completed, dead, cancelled, expired, suppressed, duplicates, rejected
                  from postroad.campaign_entry where campaign_id = c.id) noted) noted on true
        left join lateral (
            select count(*) filter (where j.stage in (0, 4)) as scheduled,
                   count(*) filter (where j.stage = 1 and j.started_at is null) as in_pipe,
                   count(*) filter (where j.stage = 1 and j.started_at is not null) as running,
                   count(*) filter (where j.stage = 2) as failed,
                   count(*) filter (where j.stage = 3) as held
            from postroad.job j where j.campaign_id = c.id) live on true"
    };
}
pub(super) use progress_of_c;

const CAMPAIGNS: &str = concat!(
    "
    select c.public_id, t.name, c.name, c.state, c.note, c.start_at, c.expires_at, c.rate_per_second,
           c.canary, c.canary_passed_at, c.failure_max, c.needs_approval, c.approved_by, c.created_by,
           c.created_at, c.started_at, c.ended_at,
           c.planned, noted.made, noted.duplicates, noted.rejected, live.scheduled, live.in_pipe,
           live.running, live.failed, live.held, noted.completed, noted.dead, noted.cancelled,
           noted.expired, noted.suppressed, c.audience is not null, c.audience_name, c.estimate,
           c.gone_through_at is not null, c.rejections::text
    from postroad.campaign c
    join postroad.tenant t on t.id = c.tenant_id
    ",
    progress_of_c!(),
    "
    where ($1::int is null or c.tenant_id = $1) and ($2::uuid is null or c.public_id = $2)
      and ($3::uuid is null or c.public_id < $3) and ($4::text is null or c.state = $4)
    order by c.public_id desc limit $5"
);

const TEXTS: &str = "
    select c.content::text, c.reach::text, c.region, c.state, c.planned, c.counts::text,
           (select k.body from postroad.campaign_chunk k
            where k.campaign_id = c.id and k.upload = c.upload order by k.zone, k.n limit 1),
           c.tenant_id, c.audience::text
    from postroad.campaign c
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2)";

/// $3: who acts; $4: whether as an operator. Not more of a tenant run at once than two hundred. How many
/// a canary of an audience is, its first step says.
const START: &str = "
    update postroad.campaign c
    set state = case when c.needs_approval then 'awaiting_approval' else 'running' end,
        started_at = case when not c.needs_approval then now() end,
        canary = case when c.canary_share is not null and c.audience is null
                 then greatest(ceil(c.canary_share * c.planned), 1) end,
        due_at = greatest(coalesce(c.start_at, now()), now())
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2) and c.state = 'draft'
      and (c.planned > 0 or c.audience is not null) and $3::text is not null and $4::bool is not null
      and (select count(*) from postroad.campaign o
           where o.tenant_id = c.tenant_id and o.state = 'running') < 200
    returning true, c.tenant_id";

const APPROVE: &str = "
    update postroad.campaign c
    set state = 'running', approved_by = $3, started_at = now(),
        due_at = greatest(coalesce(c.start_at, now()), now())
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2) and c.state = 'awaiting_approval'
      and c.created_by <> $3 and $4::bool is not null
    returning true, c.tenant_id";

/// The stops of a campaign that is gone on with, or cancelled.
macro_rules! lift_stops_of_moved {
    () => {
        "lifted as (
            update postroad.stop s set lifted_at = now() from moved
            where s.campaign_id = moved.id and s.lifted_at is null)"
    };
}

/// A stop for the campaign that was moved.
macro_rules! stop_moved {
    ($mode:literal) => {
        concat!(
            "stopped as (
                insert into postroad.stop
                    (id, tenant_id, campaign_id, mode, reason, actor, is_operators)
                select gen_random_uuid(), moved.tenant_id, moved.id, '",
            $mode,
            "', 'campaign', $3, $4 from moved)"
        )
    };
}
pub(super) use stop_moved;

const PAUSE: &str = concat!(
    "
    with moved as (
        update postroad.campaign c
        set state = 'paused', note = 'asked for', paused_by = 'person', is_operators = $4
        where c.public_id = $1 and ($2::int is null or c.tenant_id = $2) and c.state = 'running'
        returning c.id, c.tenant_id),
    ",
    stop_moved!("pause"),
    " select true, tenant_id from moved"
);

/// Whoever goes on has seen why it was paused, and that alone is not looked at any more. Recipients that
/// were thrown away meanwhile cannot be gone on with, nor an audience of which nobody knows any more how
/// far it was gone through; nor what was cancelled, if the archive's day has been dropped since, or the
/// finished jobs of one of its queues.
const RESUME: &str = concat!(
    "
    with moved as (
        update postroad.campaign c
        set state = 'running', note = '', paused_by = '', is_operators = false, ended_at = null,
            due_at = greatest(coalesce(c.start_at, now()), now()), rest = '0', failures = 0,
            revives = c.revives or c.state = 'cancelled',
            cancelled_since = coalesce(c.cancelled_since, c.ended_at),
            started_at = coalesce(c.started_at, now()),
            canary = coalesce(c.canary, case when c.canary_share is not null and c.audience is null
                              then greatest(ceil(c.canary_share * c.planned), 1) end),
            failure_max = case when c.paused_by <> 'failures' then c.failure_max end,
            canary_passed_at = coalesce(c.canary_passed_at,
                                        case when c.paused_by = 'canary' then now() end)
        where c.public_id = $1 and ($2::int is null or (c.tenant_id = $2 and not c.is_operators))
          and c.state in ('paused', 'cancelled') and $3::text is not null
          and $4::bool is not null and (not c.needs_approval or c.approved_by is not null)
          and case when c.audience is null
              then c.planned > 0 and c.planned = (
                  select coalesce(sum(k.recipients - k.taken), 0) from postroad.campaign_chunk k
                  where k.campaign_id = c.id and k.upload = c.upload)
                + (select coalesce(sum(made + duplicates + rejected), 0)
                   from (select made, duplicates, rejected from postroad.campaign_total
                         where campaign_id = c.id
                         union all
                         select made, duplicates, rejected from postroad.campaign_entry
                         where campaign_id = c.id) noted)
              else c.last_recipient is null or c.gone_through_at is not null
                or exists (select from postroad.campaign_cursor k where k.campaign_id = c.id) end
          and (c.state = 'paused'
               or (select coalesce(sum(cancelled), 0)
                   from (select cancelled from postroad.campaign_total where campaign_id = c.id
                         union all
                         select cancelled from postroad.campaign_entry where campaign_id = c.id) noted) = 0
               or exists (
                   select from (
                       select (coalesce(c.cancelled_since, c.ended_at, now()) at time zone 'UTC')::date) since(day)
                   where exists (select from postroad.partitions() p
                                 where p.parent = 'archive' and p.day <= since.day)
                     and not exists (
                         select from json_each(c.content->'channels') channel(name, one)
                         join postroad.queue q on q.name = coalesce(one->>'queue', 'default')
                         where since.day < greatest(
                             q.forgotten_before, (now() at time zone 'UTC')::date - q.retention_days))))
        returning c.id, c.tenant_id),
    ",
    lift_stops_of_moved!(),
    " select true, tenant_id from moved"
);

const CANCEL: &str = concat!(
    "
    with moved as (
        update postroad.campaign c
        set state = 'cancelled', note = '', paused_by = '', ended_at = now(),
            cancelled_since = case when c.revives then coalesce(c.cancelled_since, now()) else now() end,
            is_operators = $4 or c.is_operators
        where c.public_id = $1 and ($2::int is null or c.tenant_id = $2)
          and c.state in ('draft', 'awaiting_approval', 'running', 'paused')
        returning c.id, c.tenant_id),
    ",
    lift_stops_of_moved!(),
    ", ",
    stop_moved!("cancel"),
    " select true, tenant_id from moved"
);

/// Of several actions at once, each sees the stops that the one before it has made. Without it a resume
/// that waited for a cancel would go on with the campaign, and leave the stop that cancels its jobs.
const LOCK: &str = "
    select from postroad.campaign c
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2)
    for no key update";

const STATE: &str = "
    select c.state, c.created_by from postroad.campaign c
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2)";

/// Drafts that nobody has gone on with for a month.
const PRUNE_DRAFTS: &str = "
    delete from postroad.campaign c
    where c.state = 'draft' and c.created_at < now() - interval '30 days'
      and not exists (select from postroad.stop s where s.campaign_id = c.id)
    returning c.id";

impl Store {
    /// Makes a draft for a tenant, and answers its id.
    pub async fn create_campaign(&self, tenant: i32, new: &NewCampaign<'_>) -> Result<Uuid, Error> {
        self.ensure_names(new.queues, new.kinds, &[]).await?;
        let id = Uuid::now_v7();
        let actor = self.actor_name();
        let change = Change {
            operation: "making a campaign",
            sql: CREATE,
            params: &[
                &id,
                &tenant,
                &new.name,
                &new.content,
                &new.reach,
                &new.region,
                &new.start_at,
                &new.expires_at,
                &new.rate_per_second,
                &new.canary_share,
                &new.failure_max,
                &new.needs_approval,
                &actor,
                &new.audience.map(|audience| audience.rules),
                &new.audience.and_then(|audience| audience.name),
            ],
            action: "campaign.create",
            detail: json!({"name": new.name}),
        };
        let target = (Some(tenant), id.to_string());
        self.change(change, |_| vec![target]).await?;
        Ok(id)
    }

    /// The newest campaigns that are older than `before`, in this state if one is given.
    pub async fn campaigns(
        &self,
        state: Option<&str>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Campaign>, Error> {
        self.read_campaigns(None, state, before, limit).await
    }

    /// One campaign.
    pub async fn find_campaign(&self, id: Uuid) -> Result<Option<Campaign>, Error> {
        let found = self.read_campaigns(Some(id), None, None, 1).await?;
        Ok(found.into_iter().next())
    }

    async fn read_campaigns(
        &self,
        id: Option<Uuid>,
        state: Option<&str>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Campaign>, Error> {
        let tenant = self.tenant_id();
        let params: [&(dyn ToSql + Sync); 5] = [&tenant, &id, &before, &state, &limit];
        let rows = self.query("reading campaigns", CAMPAIGNS, &params).await?;
        Ok(rows.iter().map(campaign).collect())
    }

    /// What a campaign says, when its recipients may be reached, the region of its phone numbers, and
    /// its state.
    pub async fn campaign_texts(&self, id: Uuid) -> Result<Option<CampaignTexts>, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&id, &self.tenant_id()];
        let rows = self.query("reading a campaign", TEXTS, &params).await?;
        Ok(rows.first().map(|row| CampaignTexts {
            content: row.get(0),
            reach: row.get(1),
            region: row.get(2),
            state: row.get(3),
            planned: row.get(4),
            counts: row.get(5),
            first_chunk: row.get(6),
            tenant: row.get(7),
            audience: row.get(8),
        }))
    }

    /// Does something to a campaign.
    pub async fn act_on_campaign(&self, id: Uuid, action: CampaignAction) -> Result<Acted, Error> {
        let (sql, name) = match action {
            CampaignAction::Start => (START, "campaign.start"),
            CampaignAction::Approve => (APPROVE, "campaign.approve"),
            CampaignAction::Pause => (PAUSE, "campaign.pause"),
            CampaignAction::Resume => (RESUME, "campaign.resume"),
            CampaignAction::Cancel => (CANCEL, "campaign.cancel"),
        };
        let actor = self.actor_name();
        let change = Change {
            operation: "steering a campaign",
            sql,
            params: &[&id, &self.tenant_id(), &actor, &self.own_tenant().is_none()],
            action: name,
            detail: json!({}),
        };
        let one: [&(dyn ToSql + Sync); 2] = [&id, &self.tenant_id()];
        let lock = Lock {
            sql: LOCK,
            params: &one,
        };
        let rows = self
            .change_locked(lock, change, if_so(&id.to_string()))
            .await?;
        if !rows.is_empty() {
            return Ok(Acted::Done);
        }
        let found = self.query("reading a campaign", STATE, &one).await?;
        Ok(match found.first() {
            None => Acted::NotThere,
            Some(row)
                if action == CampaignAction::Approve
                    && row.get::<_, &str>(0) == "awaiting_approval"
                    && row.get::<_, &str>(1) == actor =>
            {
                Acted::OwnCampaign
            }
            Some(_) => Acted::NotNow,
        })
    }

    /// Deletes drafts that are a month old.
    pub async fn prune_drafts(&self) -> Result<usize, Error> {
        Ok(self.query("pruning drafts", PRUNE_DRAFTS, &[]).await?.len())
    }

    /// Who acts, to be written into a row.
    pub(super) fn actor_name(&self) -> &str {
        self.actor.as_ref().map_or("postroad", |actor| &actor.name)
    }
}

/// What is needed to read recipients and to make jobs of them.
#[derive(Clone, Debug)]
pub struct CampaignTexts {
    /// What it says, as JSON.
    pub content: String,
    /// When recipients may be reached, as JSON.
    pub reach: String,
    /// The region of phone numbers that say none.
    pub region: Option<String>,
    /// Its state.
    pub state: String,
    /// How many recipients it has.
    pub planned: i64,
    /// By channel and language, as JSON.
    pub counts: Option<String>,
    /// The first of those that have no job yet.
    pub first_chunk: Option<String>,
    /// Whose it is.
    pub tenant: i32,
    /// The rules of whom it is for, as JSON. None: recipients are uploaded.
    pub audience: Option<String>,
}

fn campaign(row: &Row) -> Campaign {
    let count = |column| row.get::<_, i64>(column);
    let (duplicates, rejected) = (count(19), count(20));
    let met = count(18) + duplicates + rejected;
    let (is_for_audience, is_gone_through) = (row.get(31), row.get(34));
    let estimate: Option<i64> = row.get(33);
    let (planned, planned_is) = match (is_for_audience, is_gone_through, estimate) {
        (false, ..) | (true, true, _) => (Some(count(17)), Planned::Exact),
        (true, false, Some(estimate)) => (Some(estimate.max(met)), Planned::Estimate),
        (true, false, None) => (None, Planned::Unknown),
    };
    Campaign {
        id: row.get(0),
        tenant: row.get(1),
        name: row.get(2),
        state: row.get(3),
        note: row.get(4),
        start_at: row.get(5),
        expires_at: row.get(6),
        rate_per_second: row.get(7),
        canary: row.get(8),
        canary_passed_at: row.get(9),
        failure_max: row.get(10),
        needs_approval: row.get(11),
        approved_by: row.get(12),
        source: if is_for_audience {
            "audience"
        } else {
            "upload"
        },
        audience: row.get(32),
        created_by: row.get(13),
        created_at: row.get(14),
        started_at: row.get(15),
        ended_at: row.get(16),
        progress: Progress {
            planned,
            planned_is,
            not_made: planned.map(|planned| planned - met),
            duplicates,
            rejected,
            scheduled: count(21),
            in_pipe: count(22),
            running: count(23),
            failed: count(24),
            held: count(25),
            delivered: count(26),
            dead: count(27),
            cancelled: count(28),
            expired: count(29),
            suppressed: count(30),
        },
        rejections: Rejections::parse(row.get(35)).0,
    }
}
