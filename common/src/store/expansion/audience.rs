//! Recipients whom rules pick: the tenant's are gone through in the order in which they were first put,
//! one time zone at a time where they are to be reached in their own time. A cursor of each zone says
//! how far that is; it is gone when there are no more.
//!
//! Nothing is read of anybody before its turn, so each is judged and reached by what it is then. Who is
//! put after the campaign began is not in it, so it comes to its end however many are put. Who moves to
//! another time zone meanwhile may have its turn twice, and then its job is there before.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::super::audiences::{self, AudienceMembers, Step};
use super::{Expand, Held, Made, Result, Taken};
use crate::store::millis;

/// What is known of a campaign's audience.
#[derive(Clone, Copy)]
pub(super) struct Audience {
    /// The last of the tenant's recipients when it began. None: it has not begun.
    pub(super) last_recipient: Option<i64>,
    /// The day on which ages are meant.
    pub(super) day: Date,
}

/// Recipients that are looked at in a step, of whom maybe none is picked.
const SCAN: i64 = 10_000;
/// How long counting an audience may take while nobody else can have the campaign.
const COUNT_MAX: Duration = Duration::from_millis(500);
/// Recipients of a canary where nobody knows of how many it is a share.
const CANARY_UNCOUNTED: i64 = 1000;

const LAST_RECIPIENT: &str = "
    select coalesce(max(r.id), 0) from postroad.recipient r where r.tenant_id = $1";

const COUNT_FROM: &str = "savepoint counting";
/// The limit on its time is rolled back with it.
const COUNTED: &str = "rollback to savepoint counting";
const COUNT_LIMIT: &str = "select set_config('statement_timeout', $1, true)";

/// $3: how many they are, if that is known; $5: how many a canary is otherwise.
const BEGIN: &str = "
    with begun as (
        update postroad.campaign c
        set last_recipient = $2, estimate = $3,
            canary = case when c.canary_share is null then null when $3::bigint is null then $5::bigint
                     else greatest(ceil(c.canary_share * $3::bigint), 1) end
        where c.id = $1)
    insert into postroad.campaign_cursor (campaign_id, zone)
    select $1, u.zone from unnest($4::text[]) as u(zone)";

const ZONES: &str = "
    select k.zone from postroad.campaign_cursor k where k.campaign_id = $1 order by k.zone";

const CURSOR: &str = "
    select k.after_id from postroad.campaign_cursor k where k.campaign_id = $1 and k.zone = $2";

const MOVED: &str = "
    update postroad.campaign_cursor k set after_id = $3 where k.campaign_id = $1 and k.zone = $2";

/// True: it was the last one.
const ENDED: &str = "
    with gone as (
        delete from postroad.campaign_cursor k where k.campaign_id = $1 and k.zone = $2)
    select not exists (
        select from postroad.campaign_cursor k where k.campaign_id = $1 and k.zone <> $2)";

/// From here on it is known what the audience came to ($2).
const GONE_THROUGH: &str = "
    update postroad.campaign c set planned = $2, gone_through_at = now() where c.id = $1";

impl Held<'_> {
    /// Notes where it begins and where it ends.
    pub(super) async fn begin_audience(
        self,
        expand: &mut impl Expand,
        day: Date,
    ) -> Result<Option<i64>> {
        let last = self.tx.prepare_cached(LAST_RECIPIENT).await?;
        let last: i64 = self.tx.query_one(&last, &[&self.tenant]).await?.get(0);
        let zones = match last {
            0 => Vec::new(),
            _ if self.has_zones() => self.zones_of_tenant().await?,
            _ => vec![String::new()],
        };
        let estimate = match last {
            0 => Some(0),
            _ => self.count(expand, day).await?,
        };
        let begin = self.tx.prepare_cached(BEGIN).await?;
        let id = self.campaign.id;
        let params: [&(dyn ToSql + Sync); 5] = [&id, &last, &estimate, &zones, &CANARY_UNCOUNTED];
        self.tx.execute(&begin, &params).await?;
        if zones.is_empty() {
            self.gone_through(0).await?;
        }
        Ok(Some(0))
    }

    /// Whether recipients of each zone have their turn by themselves.
    fn has_zones(&self) -> bool {
        self.campaign.reach != "{}"
    }

    async fn zones_of_tenant(&self) -> Result<Vec<String>> {
        let zones = self.tx.prepare_cached(audiences::ZONES).await?;
        let rows = self.tx.query(&zones, &[&self.tenant]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How many it is for. None: counting takes too long.
    async fn count(&self, expand: &mut impl Expand, day: Date) -> Result<Option<i64>> {
        let Some(rule) = expand.rule(&self.campaign) else {
            return Ok(None);
        };
        let statement = audiences::count(self.tenant, rule, day, None);
        self.tx.batch_execute(COUNT_FROM).await?;
        let limit = self.tx.prepare_cached(COUNT_LIMIT).await?;
        let most = format!("{}ms", millis(COUNT_MAX));
        self.tx.execute(&limit, &[&most]).await?;
        let counted = self
            .tx
            .query_typed(&statement.text, &statement.params())
            .await;
        self.tx.batch_execute(COUNTED).await?;
        match counted {
            Ok(rows) => Ok(rows.first().map(|row| row.get(0))),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those that have recipients whose turn has not been.
    pub(super) async fn zones_of_audience(&self) -> Result<Vec<String>> {
        let zones = self.tx.prepare_cached(ZONES).await?;
        let rows = self.tx.query(&zones, &[&self.campaign.id]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes jobs of the next recipients of a zone. None: to be tried again from the beginning.
    pub(super) async fn make_of_audience(
        &self,
        expand: &mut impl Expand,
        audience: Audience,
        zone: &str,
        closes_at: Option<Timestamp>,
        count: i64,
    ) -> Result<Option<Taken>> {
        let (tx, id) = (self.tx, self.campaign.id);
        let cursor = tx.prepare_cached(CURSOR).await?;
        let step = Step {
            tenant: self.tenant,
            timezone: Some(zone).filter(|_| self.has_zones()),
            after_id: tx.query_one(&cursor, &[&id, &zone]).await?.get(0),
            until_id: audience.last_recipient.unwrap_or_default(),
            scan_limit: SCAN,
            members_max: count,
        };
        let Some(rule) = expand.rule(&self.campaign) else {
            return Ok(None);
        };
        let statement = audiences::members(&step, rule, audience.day);
        let rows = tx.query_typed(&statement.text, &statement.params()).await?;
        let found = audiences::members_of(&rows, &step);
        let Made {
            jobs,
            taken,
            rejected,
        } = expand.children_of(&self.campaign, &found.members);
        let Some(inserted) = self.insert(&jobs, zone, closes_at).await? else {
            return Ok(None);
        };
        let taken_now = Taken {
            recipients: taken as i32,
            inserted,
            rejected,
        };
        self.move_on(zone, &step, &found, taken).await?;
        Ok(Some(taken_now))
    }

    /// Notes that so many of those that were found have had their turn.
    async fn move_on(
        &self,
        zone: &str,
        step: &Step<'_>,
        found: &AudienceMembers,
        taken: usize,
    ) -> Result<()> {
        let id = self.campaign.id;
        let (after_id, is_end) = match taken < found.members.len() {
            // The others have their turn next time.
            true => {
                let last = found.members[..taken].last();
                (last.map_or(step.after_id, |one| one.id), false)
            }
            false => (found.last_id, found.is_end),
        };
        if !is_end {
            let moved = self.tx.prepare_cached(MOVED).await?;
            let params: [&(dyn ToSql + Sync); 3] = [&id, &zone, &after_id];
            return self.tx.execute(&moved, &params).await.map(drop);
        }
        let ended = self.tx.prepare_cached(ENDED).await?;
        let is_last: bool = self.tx.query_one(&ended, &[&id, &zone]).await?.get(0);
        if is_last {
            let met = self.progress.met + taken as i64;
            self.gone_through(met).await?;
        }
        Ok(())
    }

    async fn gone_through(&self, met: i64) -> Result<()> {
        let gone = self.tx.prepare_cached(GONE_THROUGH).await?;
        self.tx.execute(&gone, &[&self.campaign.id, &met]).await?;
        Ok(())
    }
}
