//! Recipients that were uploaded: in chunks of one time zone each, which are gone when all of them have
//! a job.

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Expand, Held, Made, Result, Taken};

const ZONES: &str = "
    with recursive walk as (
        (select k.zone from postroad.campaign_chunk k where k.campaign_id = $1 and k.upload = $2
         order by k.zone limit 1)
        union all
        select next.zone from walk w
        cross join lateral (
            select k.zone from postroad.campaign_chunk k
            where k.campaign_id = $1 and k.upload = $2 and k.zone > w.zone
            order by k.zone limit 1) next)
    select zone from walk";

const CHUNK: &str = "
    select k.n, k.taken, k.recipients, k.body from postroad.campaign_chunk k
    where k.campaign_id = $1 and k.upload = $2 and k.zone = $3
    order by k.n limit 1";

const TAKEN: &str = "
    with moved as (
        update postroad.campaign_chunk k set taken = k.taken + $5::int
        where k.campaign_id = $1 and k.upload = $2 and k.zone = $3 and k.n = $4
          and k.taken + $5 < k.recipients
        returning k.n),
    gone as (
        delete from postroad.campaign_chunk k
        where k.campaign_id = $1 and k.upload = $2 and k.zone = $3 and k.n = $4
          and k.taken + $5 >= k.recipients)
    select from moved";

impl Held<'_> {
    /// Those that have recipients without a job.
    pub(super) async fn zones_of_upload(&self, upload: Uuid) -> Result<Vec<String>> {
        let zones = self.tx.prepare_cached(ZONES).await?;
        let rows = self.tx.query(&zones, &[&self.campaign.id, &upload]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes jobs of the next recipients of a zone. None: to be tried again from the beginning.
    pub(super) async fn make_of_upload(
        &self,
        expand: &mut impl Expand,
        upload: Uuid,
        zone: &str,
        closes_at: Option<Timestamp>,
        count: i64,
    ) -> Result<Option<Taken>> {
        let (tx, id) = (self.tx, self.campaign.id);
        let next = tx.prepare_cached(CHUNK).await?;
        let chunk = tx.query_one(&next, &[&id, &upload, &zone]).await?;
        let (n, behind, recipients): (i32, i32, i32) = (chunk.get(0), chunk.get(1), chunk.get(2));
        let count = i64::from(recipients - behind).min(count) as usize;
        let body: &str = chunk.get(3);
        let Made {
            jobs,
            taken,
            rejected,
        } = expand.children(&self.campaign, body, behind as usize, count);
        let Some(inserted) = self.insert(&jobs, zone, closes_at).await? else {
            return Ok(None);
        };
        let taken = taken as i32;
        let moved = tx.prepare_cached(TAKEN).await?;
        let params: [&(dyn ToSql + Sync); 5] = [&id, &upload, &zone, &n, &taken];
        tx.execute(&moved, &params).await?;
        Ok(Some(Taken {
            recipients: taken,
            inserted,
            rejected,
        }))
    }
}
