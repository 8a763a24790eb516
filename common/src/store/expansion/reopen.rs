//! Jobs that were made in time and have waited too long: they are due again when their recipients may be
//! reached.

use uuid::Uuid;

use super::{Expand, Expanding};
use crate::store::{Error, Store};

/// Jobs whose recipient may not be reached any more: in the schedule, and past that time.
const CLOSED: &str = "
    select j.id, j.zone, j.campaign_id from postroad.job j
    where j.stage = 0 and j.closes_at is not null and j.closes_at <= now()
    order by j.closes_at limit $1
    for no key update skip locked";

const CAMPAIGNS_OF: &str = "
    select c.id, c.public_id, c.content::text, c.reach::text, c.created_at, clock_timestamp(),
           c.region, c.audience::text
    from postroad.campaign c where c.id = any($1)";

const REOPEN: &str = "
    update postroad.job j set run_at = greatest(j.run_at, coalesce(d.opens_at, now())), closes_at = d.closes_at
    from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) d(id, opens_at, closes_at)
    where j.id = d.id and j.stage = 0";

impl Store {
    /// Says when jobs are due whose recipients may not be reached any more today; answers with how many.
    pub async fn reopen_closed(
        &self,
        expand: &mut impl Expand,
        limit: i64,
    ) -> Result<usize, Error> {
        self.with_connection(
            "looking when recipients may be reached",
            async |connection| {
                let tx = self.begin(connection).await?;
                let closed = tx.prepare_cached(CLOSED).await?;
                let rows = tx.query(&closed, &[&limit]).await?;
                if rows.is_empty() {
                    return Ok(0);
                }
                let mut numbers: Vec<Option<i64>> = rows.iter().map(|row| row.get(2)).collect();
                numbers.sort_unstable();
                numbers.dedup();
                let texts = tx.prepare_cached(CAMPAIGNS_OF).await?;
                let campaigns = tx.query(&texts, &[&numbers]).await?;
                let campaigns: Vec<_> = campaigns.iter().map(Expanding::of).collect();
                let (mut ids, mut opens, mut closes) = (Vec::new(), Vec::new(), Vec::new());
                for row in &rows {
                    let (zone, number): (Option<&str>, Option<i64>) = (row.get(1), row.get(2));
                    let of_job = campaigns.iter().find(|one| Some(one.id) == number);
                    let reach = of_job.map(|one| expand.reach(one, zone.unwrap_or_default()));
                    ids.push(row.get::<_, Uuid>(0));
                    opens.push(reach.map(|(opens_at, _)| opens_at));
                    closes.push(reach.and_then(|(_, closes_at)| closes_at));
                }
                let reopen = tx.prepare_cached(REOPEN).await?;
                tx.execute(&reopen, &[&ids, &opens, &closes]).await?;
                tx.commit().await?;
                Ok(rows.len())
            },
        )
        .await
    }
}
