//! Jobs of campaigns, made as room in the pipe becomes free: the jobs and how far the campaign is are
//! one transaction, under the lock of the campaign's row. So neither a death nor a second scheduler can
//! make a recipient two jobs or none; and should a recipient be there twice, its job's id is the same.
//!
//! Where recipients come from is in [`upload`] and [`audience`]: the one has them in chunks, the other
//! goes through the tenant's. What a campaign says and when its recipients may be reached is not known
//! here: [`Expand`] says. Jobs whose recipient may not be reached any more are [`reopen`]'s.

mod audience;
mod expand;
mod rejections;
mod reopen;
mod upload;

pub use expand::{Child, Expand, Expanding, Made, Outlets, Rejected, Turn};
pub use rejections::Rejection;
pub(super) use rejections::Rejections;

use std::time::Duration;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use self::audience::Audience;
use super::campaigns::{progress_of_c, stop_moved};
use super::{Error, StopMode, Store, millis};
use crate::failpoint;

/// Jobs made in a transaction, at most.
const BATCH: i64 = 1000;
/// Before it is looked again for room, or whether all has ended: at first, and at last, when it was
/// looked in vain again and again.
const ROOM_REST: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
const END_REST: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(60)];
/// While a stop keeps its jobs from being started.
const STOPPED_REST: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Before a step that failed is tried again; and so many times in a row, before it is paused.
const FAILED_REST: Duration = Duration::from_secs(5);
const FAILURES_MAX: i32 = 20;
/// So many must have ended before a share of them says anything.
const FAILURES_OF: i64 = 100;

/// The running campaign that has been due longest.
const TAKE: &str = "
    select c.id, c.public_id, c.content::text, c.reach::text, c.created_at, clock_timestamp(),
           c.region, c.audience::text, c.tenant_id, c.upload, c.expires_at, c.revives,
           case when c.rate_per_second is null then $1::bigint
                else floor(least(c.rate_per_second, c.rate_tokens + c.rate_per_second
                     * greatest(extract(epoch from clock_timestamp() - c.rate_at), 0)))::bigint end,
           c.canary, c.canary_passed_at is not null, c.failure_max, c.rate_per_second is not null,
           c.last_recipient, (coalesce(c.started_at, now()) at time zone 'UTC')::date,
           c.rejections::text
    from postroad.campaign c
    where c.state = 'running' and c.due_at <= clock_timestamp()
    order by c.due_at limit 1
    for no key update of c skip locked";

/// The last one: made and put off, because its recipients may not be reached any more today.
const PROGRESS: &str = concat!(
    "select noted.made, noted.completed, noted.dead,
            noted.completed + noted.dead + noted.cancelled + noted.expired + noted.suppressed,
            live.scheduled + live.in_pipe + live.running + live.failed, live.held,
            (select count(*) from postroad.job j
             where j.campaign_id = c.id and j.stage = 0 and j.zone is not null and j.attempt = 0
               -- Not what a destination or a full queue has sent back for some minutes.
               and j.run_at > now() + interval '10 minutes'),
            noted.made + noted.duplicates + noted.rejected, noted.suppressed
     from (select $1::bigint as id) c ",
    progress_of_c!()
);

/// Twice the windows of its queues: what is in the pipe, and as much again to refill it from.
const ROOM: &str = "
    select 2 * coalesce(sum(q.window_size), 0)::bigint from postroad.queue q where q.name = any($1)";

/// The stop that keeps jobs of these queues ($2) and kinds ($3) of a tenant from being started.
const STOPPED: &str = "
    select s.mode from postroad.stop s
    where s.lifted_at is null and s.campaign_id is null and coalesce(s.tenant_id, 0) in (0, $1)
      and (s.queue_id is null or s.queue_id in (select id from postroad.queue where name = any($2)))
      and (s.kind_id is null or s.kind_id in (select id from postroad.kind where name = any($3)))
      and (s.provider_id is null
           or s.provider_id in (select provider_id from postroad.queue where name = any($2)))
    order by s.mode limit 1";

/// A recipient that is there twice has one job: the one that is there, or was and is in the archive
/// since the campaign was made ($12). A name that is missing after all fails the insert.
const INSERT: &str = "
    with inserted as (
        insert into postroad.job
            (id, queue_id, kind_id, tenant_id, args, priority, run_at, expires_at, max_attempts,
             campaign_id, recipient, zone, closes_at)
        select u.id, q.id, k.id, t.id, u.args::json, coalesce(u.priority, t.default_priority, 1),
               now(), $9::timestamptz, coalesce(u.max_attempts, t.default_max_attempts), $8::bigint,
               u.recipient, case when $10::timestamptz is not null then $11::text end, $10
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[],
                    $7::int[]) as u(id, recipient, kind, queue, args, priority, max_attempts)
        left join postroad.queue q on q.name = u.queue
        left join postroad.kind k on k.name = u.kind
        left join postroad.tenant t on t.id = $13
        where not exists (
            select from postroad.archive a where a.id = u.id and a.finished_at >= $12)
        on conflict (id) do nothing
        returning id)
    select id from inserted";

/// What has come to its end while the insert waited for it: then the batch is made anew.
const IS_ANY_ENDED: &str = "
    select exists (select from postroad.archive a where a.id = any($1) and a.finished_at >= $2)";

/// What the insert does not count.
const NOTED: &str = "
    insert into postroad.campaign_entry (campaign_id, duplicates, rejected) values ($1, $2, $3)";

const REJECTED: &str = "update postroad.campaign c set rejections = $2::text::json where c.id = $1";

/// $2 recipients were taken: the others have their turn.
const TURN_OVER: &str = "
    update postroad.campaign c
    set due_at = clock_timestamp(), rest = '0', failures = 0, note = '',
        rate_tokens = case when c.rate_per_second is null then 0
            else least(c.rate_per_second, c.rate_tokens + c.rate_per_second
                 * greatest(extract(epoch from clock_timestamp() - c.rate_at), 0)) - $2 end,
        rate_at = clock_timestamp()
    where c.id = $1";

/// Twice as long as the last time, from $2 to $3.
const REST: &str = "
    update postroad.campaign c
    set (rest, due_at) = (
        select r, clock_timestamp() + r
        from (select least(greatest(2 * c.rest, $2::float8 * interval '1 ms'),
                           $3::float8 * interval '1 ms') as r) one)
    where c.id = $1";

/// But not beyond the time from which on it is pointless.
const NEXT_AT: &str = "
    update postroad.campaign c set due_at = least($2::timestamptz, c.expires_at), rest = '0'
    where c.id = $1";

/// A step that failed must not be the next one again, before others'.
const FAILED: &str = "
    update postroad.campaign c
    set due_at = clock_timestamp() + least(1 + c.failures, 12) * $2::float8 * interval '1 ms',
        failures = c.failures + 1, note = $3
    where c.id = $1 and c.state = 'running'
    returning c.failures";

/// An audience of nobody is no error, and should be told from one that all have got it.
const END: &str = "
    update postroad.campaign c
    set state = $2, ended_at = now(),
        note = case when $2 = 'finished' and c.planned = 0 then 'nobody is in its audience'
               else c.note end
    where c.id = $1";

const CANARY_PASSED: &str = "
    update postroad.campaign c set canary_passed_at = now() where c.id = $1";

/// $2: why; $3: as whom; $4: not an operator's; $5: what did it.
const PAUSE: &str = concat!(
    "
    with moved as (
        update postroad.campaign c set state = 'paused', note = $2, paused_by = $5
        where c.id = $1 and c.state = 'running'
        returning c.id, c.tenant_id),
    ",
    stop_moved!("pause"),
    " select true from moved"
);

/// What was cancelled with the campaign comes back, under its old fence.
const REVIVE: &str = concat!(
    "
    with picked as materialized (
        select a.id, a.finished_at from postroad.archive a
        where a.campaign_id = $1 and a.state = 'cancelled' and a.state <> 'completed'
          and a.reason = 'campaign cancelled'
        order by a.id limit $2 for update skip locked),
    back as (
        delete from postroad.archive a using picked p
        where a.id = p.id and a.finished_at = p.finished_at and a.state = 'cancelled'
        returning a.*)
    ",
    revive_from!("back")
);

/// Unless something is left: of what somebody else has locked, nobody knows yet whether it stays.
const REVIVED: &str = "
    update postroad.campaign c set revives = false
    where c.id = $1 and not exists (
        select from postroad.archive a
        where a.campaign_id = $1 and a.state = 'cancelled' and a.state <> 'completed'
          and a.reason = 'campaign cancelled')";

/// A campaign, as the transaction that has it knows it.
struct Held<'a> {
    tx: &'a Transaction<'a>,
    campaign: Expanding,
    tenant: i32,
    source: Source,
    rejections: Rejections,
    expires_at: Option<Timestamp>,
    revives: bool,
    tokens: i64,
    has_rate: bool,
    canary: Option<i64>,
    failure_max: Option<f64>,
    progress: SoFar,
}

/// Where its recipients come from.
#[derive(Clone, Copy)]
enum Source {
    /// The chunks of this upload.
    Upload(Uuid),
    /// The tenant's, by its rules.
    Audience(Audience),
    /// There are none.
    Nowhere,
}

impl Source {
    /// Of a row of [`TAKE`].
    fn of(row: &Row) -> Self {
        match (row.get(9), row.get::<_, Option<&str>>(7)) {
            (_, Some(_)) => Self::Audience(Audience {
                last_recipient: row.get(17),
                day: row.get(18),
            }),
            (Some(upload), None) => Self::Upload(upload),
            (None, None) => Self::Nowhere,
        }
    }
}

/// Recipients that had their turn, and what is to be noted of it.
struct Taken {
    recipients: i32,
    inserted: i32,
    rejected: Vec<Rejected>,
}

impl Taken {
    fn duplicates(&self) -> i32 {
        self.recipients - self.inserted - self.rejected()
    }

    fn rejected(&self) -> i32 {
        self.rejected.len() as i32
    }
}

/// How far it is.
struct SoFar {
    made: i64,
    completed: i64,
    dead: i64,
    ended: i64,
    on_the_way: i64,
    held: i64,
    /// Of those on the way: not before their recipients may be reached again.
    put_off: i64,
    /// Recipients that have had their turn.
    met: i64,
    suppressed: i64,
}

type Result<T, E = tokio_postgres::Error> = std::result::Result<T, E>;

impl Store {
    /// Does one step for the running campaign whose turn it is, and says how many jobs are there now, due
    /// or for later. None: there is none. One whose step
    /// fails has its next turn later, and is paused when it fails again and again.
    pub async fn expand_campaign(
        &self,
        expand: &mut impl Expand,
    ) -> std::result::Result<Option<i64>, Error> {
        let mut taken = None;
        let stepped = self
            .with_connection("making jobs of a campaign", async |connection| {
                let tx = self.begin(connection).await?;
                let take = tx.prepare_cached(TAKE).await?;
                let Some(row) = tx.query_opt(&take, &[&BATCH]).await? else {
                    return Ok(None);
                };
                taken = Some(row.get::<_, i64>(0));
                let held = Held::of(&tx, &row).await?;
                let Some(jobs) = held.step(expand).await? else {
                    tx.rollback().await?;
                    return Ok(Some(0));
                };
                failpoint!("expander.before_commit");
                tx.commit().await?;
                failpoint!("expander.committed");
                Ok(Some(jobs))
            })
            .await;
        match (stepped, taken) {
            (Ok(jobs), _) => Ok(jobs),
            (Err(error), None) => Err(error),
            (Err(error), Some(campaign)) => {
                self.postpone(campaign, &error).await?;
                Ok(Some(0))
            }
        }
    }

    async fn postpone(&self, campaign: i64, error: &Error) -> std::result::Result<(), Error> {
        tracing::warn!("{error}: campaign number {campaign} has its next turn later");
        let (rest, why) = (millis(FAILED_REST) as f64, error.to_string());
        let params: [&(dyn ToSql + Sync); 3] = [&campaign, &rest, &why];
        let rows = self
            .query("putting a campaign off", FAILED, &params)
            .await?;
        let failures: Option<i32> = rows.first().map(|row| row.get(0));
        if failures.is_some_and(|failures| failures >= FAILURES_MAX) {
            let params: [&(dyn ToSql + Sync); 5] =
                [&campaign, &why, &"postroad-scheduler", &false, &"error"];
            self.query("pausing a campaign", PAUSE, &params).await?;
        }
        Ok(())
    }
}

impl<'a> Held<'a> {
    async fn of(tx: &'a Transaction<'a>, row: &Row) -> Result<Self> {
        let campaign = Expanding::of(row);
        let progress = tx.prepare_cached(PROGRESS).await?;
        let so_far = tx.query_one(&progress, &[&campaign.id]).await?;
        let canary: Option<i64> = row.get(13);
        Ok(Self {
            tx,
            campaign,
            tenant: row.get(8),
            source: Source::of(row),
            rejections: Rejections::parse(row.get(19)),
            expires_at: row.get(10),
            revives: row.get(11),
            tokens: row.get(12),
            canary: canary.filter(|_| !row.get::<_, bool>(14)),
            failure_max: row.get(15),
            has_rate: row.get(16),
            progress: SoFar {
                made: so_far.get(0),
                completed: so_far.get(1),
                dead: so_far.get(2),
                ended: so_far.get(3),
                on_the_way: so_far.get(4),
                held: so_far.get(5),
                put_off: so_far.get(6),
                met: so_far.get(7),
                suppressed: so_far.get(8),
            },
        })
    }

    /// How many jobs it has made. None: to be tried again from the beginning.
    async fn step(self, expand: &mut impl Expand) -> Result<Option<i64>> {
        if self.expires_at.is_some_and(|at| at <= self.campaign.now) {
            return self.end("expired").await;
        }
        if let Some(why) = self.fails_too_much() {
            return self.pause(&why, "failures").await;
        }
        let outlets = match expand.outlets(&self.campaign) {
            Ok(outlets) => outlets,
            Err(why) => return self.pause(&why, "content").await,
        };
        match self.stopped(&outlets).await? {
            Some(StopMode::Cancel) => {
                let why = "a stop cancels what it is about";
                return self.pause(why, "stop").await;
            }
            Some(StopMode::Pause) => return self.rest(STOPPED_REST).await,
            None => {}
        }
        let windows = self.windows(&outlets).await?;
        let room = windows - (self.progress.on_the_way - self.progress.put_off);
        let room = room.min(BATCH).min(self.tokens);
        if self.revives {
            return self.revive(room).await;
        }
        if let Source::Audience(Audience {
            last_recipient: None,
            day,
        }) = self.source
        {
            return self.begin_audience(expand, day).await;
        }
        let zones = match self.source {
            Source::Upload(upload) => self.zones_of_upload(upload).await?,
            Source::Audience(_) => self.zones_of_audience().await?,
            Source::Nowhere => Vec::new(),
        };
        if zones.is_empty() {
            return match self.progress.on_the_way + self.progress.held {
                0 => self.end("finished").await,
                _ => self.rest(END_REST).await,
            };
        }
        let left = self.of_canary();
        if left == Some(0) {
            return self.judge_canary().await;
        }
        // A handful of free places is not worth a transaction, unless there never are more.
        let enough = (windows / 10)
            .clamp(1, BATCH / 10)
            .min(left.unwrap_or(BATCH));
        if room < enough.min(self.rate_or(enough)) {
            return self.rest(ROOM_REST).await;
        }
        let count = room.min(left.unwrap_or(BATCH));
        match expand.turn(&self.campaign, &zones) {
            Turn::NotBefore(at) => self.wait_until(at).await,
            Turn::Zone { zone, closes_at } => self.make(expand, &zone, closes_at, count).await,
        }
    }

    /// What a slow rate lets through at once is as little as one.
    fn rate_or(&self, enough: i64) -> i64 {
        if self.has_rate { 1 } else { enough }
    }

    /// The mode of a stop that keeps what it would make from being started.
    async fn stopped(&self, outlets: &Outlets) -> Result<Option<StopMode>> {
        let ask = self.tx.prepare_cached(STOPPED).await?;
        let params: [&(dyn ToSql + Sync); 3] = [&self.tenant, &outlets.queues, &outlets.kinds];
        let row = self.tx.query_opt(&ask, &params).await?;
        Ok(row.and_then(|row| StopMode::of_name(row.get(0))))
    }

    /// The room that there is for its jobs.
    async fn windows(&self, outlets: &Outlets) -> Result<i64> {
        let ask = self.tx.prepare_cached(ROOM).await?;
        Ok(self.tx.query_one(&ask, &[&outlets.queues]).await?.get(0))
    }

    /// Makes jobs of the next recipients of a zone.
    async fn make(
        mut self,
        expand: &mut impl Expand,
        zone: &str,
        closes_at: Option<Timestamp>,
        count: i64,
    ) -> Result<Option<i64>> {
        let taken = match self.source {
            Source::Upload(upload) => {
                self.make_of_upload(expand, upload, zone, closes_at, count)
                    .await?
            }
            Source::Audience(audience) => {
                self.make_of_audience(expand, audience, zone, closes_at, count)
                    .await?
            }
            Source::Nowhere => None,
        };
        let Some(taken) = taken else {
            return Ok(None);
        };
        self.note(&taken).await?;
        let over = self.tx.prepare_cached(TURN_OVER).await?;
        let spent = f64::from(taken.recipients);
        self.tx.execute(&over, &[&self.campaign.id, &spent]).await?;
        Ok(Some(i64::from(taken.inserted)))
    }

    /// Counts what no job was made of, and says why.
    async fn note(&mut self, taken: &Taken) -> Result<()> {
        let (id, duplicates, rejected) = (self.campaign.id, taken.duplicates(), taken.rejected());
        if duplicates + rejected > 0 {
            let noted = self.tx.prepare_cached(NOTED).await?;
            let params: [&(dyn ToSql + Sync); 3] = [&id, &duplicates, &rejected];
            self.tx.execute(&noted, &params).await?;
        }
        if rejected > 0 {
            self.rejections.add(&taken.rejected);
            let noted = self.tx.prepare_cached(REJECTED).await?;
            let reasons = self.rejections.to_json();
            self.tx.execute(&noted, &[&id, &reasons]).await?;
        }
        Ok(())
    }

    /// How many jobs are new. None: one of them ended meanwhile.
    async fn insert(
        &self,
        jobs: &[Child],
        zone: &str,
        closes_at: Option<Timestamp>,
    ) -> Result<Option<i32>> {
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        let recipients: Vec<_> = jobs.iter().map(|job| job.recipient.as_str()).collect();
        let kinds: Vec<_> = jobs.iter().map(|job| job.kind.as_str()).collect();
        let queues: Vec<_> = jobs.iter().map(|job| job.queue.as_str()).collect();
        let args: Vec<_> = jobs.iter().map(|job| job.args.as_str()).collect();
        let priorities: Vec<_> = jobs.iter().map(|job| job.priority).collect();
        let max_attempts: Vec<_> = jobs.iter().map(|job| job.max_attempts).collect();
        let params: [&(dyn ToSql + Sync); 13] = [
            &ids,
            &recipients,
            &kinds,
            &queues,
            &args,
            &priorities,
            &max_attempts,
            &self.campaign.id,
            &self.expires_at,
            &closes_at,
            &zone,
            &self.campaign.created_at,
            &self.tenant,
        ];
        let insert = self.tx.prepare_cached(INSERT).await?;
        let rows = self.tx.query(&insert, &params).await?;
        let inserted: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let ask = self.tx.prepare_cached(IS_ANY_ENDED).await?;
        let since = &self.campaign.created_at;
        let ended = self.tx.query_one(&ask, &[&inserted, since]).await?;
        let is_any_ended: bool = ended.get(0);
        Ok((!is_any_ended).then_some(inserted.len() as i32))
    }

    /// Recipients of the canary that have no job yet; none: it has passed, or there is none. Whoever wants
    /// to get nothing says nothing of the campaign: the next one is in the canary instead.
    fn of_canary(&self) -> Option<i64> {
        let SoFar {
            made, suppressed, ..
        } = self.progress;
        self.canary
            .map(|canary| (canary - (made - suppressed)).max(0))
    }

    /// Why it has to be paused.
    fn fails_too_much(&self) -> Option<String> {
        let SoFar {
            completed, dead, ..
        } = self.progress;
        let max = self.failure_max.filter(|_| self.canary.is_none())?;
        let ended = completed + dead;
        (ended >= FAILURES_OF && dead as f64 > max * ended as f64)
            .then(|| format!("{dead} of {ended} failed"))
    }

    /// The canary is made: it has passed when all of it has ended, and well enough. A job that is held
    /// waits for a decision, and is none that went well. Of one that reached nobody, because its jobs were
    /// shed or cancelled, nothing is known.
    async fn judge_canary(self) -> Result<Option<i64>> {
        let SoFar {
            completed,
            dead,
            held,
            ended,
            suppressed,
            on_the_way,
            ..
        } = self.progress;
        if on_the_way > 0 {
            return self.rest(END_REST).await;
        }
        let failed = dead + held;
        let max = self.failure_max.unwrap_or(0.0);
        if failed as f64 > max * (ended + held) as f64 {
            let why = format!("{failed} of the first {} failed", ended + held);
            return self.pause(&why, "canary").await;
        }
        if completed == 0 && ended - suppressed > dead {
            let why = format!("none of the first {} was reached", ended + held);
            return self.pause(&why, "canary").await;
        }
        let passed = self.tx.prepare_cached(CANARY_PASSED).await?;
        self.tx.execute(&passed, &[&self.campaign.id]).await?;
        Ok(Some(0))
    }

    async fn revive(self, room: i64) -> Result<Option<i64>> {
        if room < 1 {
            return self.rest(ROOM_REST).await;
        }
        let revive = self.tx.prepare_cached(REVIVE).await?;
        let back = self.tx.query(&revive, &[&self.campaign.id, &room]).await?;
        if (back.len() as i64) < room {
            let revived = self.tx.prepare_cached(REVIVED).await?;
            let is_over = self.tx.execute(&revived, &[&self.campaign.id]).await? > 0;
            if !is_over && back.is_empty() {
                return self.rest(ROOM_REST).await;
            }
        }
        let over = self.tx.prepare_cached(TURN_OVER).await?;
        let spent = back.len() as f64;
        self.tx.execute(&over, &[&self.campaign.id, &spent]).await?;
        Ok(Some(back.len() as i64))
    }

    async fn end(self, state: &str) -> Result<Option<i64>> {
        let end = self.tx.prepare_cached(END).await?;
        self.tx.execute(&end, &[&self.campaign.id, &state]).await?;
        Ok(Some(0))
    }

    async fn pause(self, why: &str, by: &str) -> Result<Option<i64>> {
        let pause = self.tx.prepare_cached(PAUSE).await?;
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.campaign.id, &why, &"postroad-scheduler", &false, &by];
        self.tx.query(&pause, &params).await?;
        tracing::warn!(
            campaign = %self.campaign.public_id,
            "campaign {} is paused: {why}",
            self.campaign.public_id
        );
        Ok(Some(0))
    }

    /// From the first time to the second, twice as long each time that it is in vain.
    async fn rest(self, times: [Duration; 2]) -> Result<Option<i64>> {
        let rest = self.tx.prepare_cached(REST).await?;
        let [first, last] = times.map(|time| millis(time) as f64);
        let params: [&(dyn ToSql + Sync); 3] = [&self.campaign.id, &first, &last];
        self.tx.execute(&rest, &params).await?;
        Ok(Some(0))
    }

    async fn wait_until(self, at: Timestamp) -> Result<Option<i64>> {
        let next = self.tx.prepare_cached(NEXT_AT).await?;
        self.tx.execute(&next, &[&self.campaign.id, &at]).await?;
        Ok(Some(0))
    }
}
