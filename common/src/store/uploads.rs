//! Uploads of campaigns: recipients in chunks, which are a draft's when all of them are there; and what is
//! left of them afterwards.

use serde_json::json;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{Change, if_so};
use super::{Error, Store};

/// Recipients of one time zone, to be kept.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// The time zone; empty where it does not matter.
    pub zone: String,
    /// Its number among those of its zone.
    pub n: i32,
    /// How many recipients.
    pub recipients: i32,
    /// They themselves.
    pub body: String,
}

const DRAFT: &str = "
    select c.id from postroad.campaign c
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2) and c.state = 'draft'
      and c.audience is null";

const ADD_CHUNKS: &str = "
    insert into postroad.campaign_chunk (campaign_id, upload, zone, n, recipients, body)
    select $1, $2, u.zone, u.n, u.recipients, u.body
    from unnest($3::text[], $4::int[], $5::int[], $6::text[]) as u(zone, n, recipients, body)";

/// The upload whose recipients are those of a draft.
const UPLOAD: &str = "
    select c.upload from postroad.campaign c
    where c.public_id = $1 and ($2::int is null or c.tenant_id = $2) and c.state = 'draft'
      and c.audience is null";

/// Only all of it: chunks that are missing would be recipients that get nothing. And only instead of
/// the one ($6) that is known, and is deleted then.
const FINISH_UPLOAD: &str = "
    with given as (
        select coalesce(sum(k.recipients), 0)::bigint as n from postroad.campaign_chunk k
        join postroad.campaign c on c.id = k.campaign_id
        where c.public_id = $1 and k.upload = $2)
    update postroad.campaign c set upload = $2, planned = given.n, counts = $5::text::json
    from given
    where c.public_id = $1 and ($3::int is null or c.tenant_id = $3) and c.state = 'draft'
      and given.n = $4 and c.upload is not distinct from $6::uuid
    returning true, c.tenant_id";

const DROP_UPLOAD: &str = "
    delete from postroad.campaign_chunk k
    using postroad.campaign c
    where c.id = k.campaign_id and c.public_id = $1 and k.upload = $2
      and k.upload is distinct from c.upload";

/// What is left of uploads that broke off, and of campaigns that ended long ago.
const PRUNE_CHUNKS: &str = "
    with chunks as (
        delete from postroad.campaign_chunk k
        where k.ctid = any(array(
            select o.ctid from postroad.campaign_chunk o
            join postroad.campaign c on c.id = o.campaign_id
            where (o.upload is distinct from c.upload and o.added_at < now() - interval '1 day')
               or c.ended_at < now() - $1 * interval '1 ms'
            limit $2))
        returning k.campaign_id),
    cursors as (
        delete from postroad.campaign_cursor k
        where k.ctid = any(array(
            select o.ctid from postroad.campaign_cursor o
            join postroad.campaign c on c.id = o.campaign_id
            where c.ended_at < now() - $1 * interval '1 ms'
            limit $2))
        returning k.campaign_id)
    select campaign_id from chunks union all select campaign_id from cursors";

impl Store {
    /// Keeps recipients of an upload. False: the campaign is no draft any more, or not there.
    pub async fn add_chunks(
        &self,
        id: Uuid,
        upload: Uuid,
        chunks: &[NewChunk],
    ) -> Result<bool, Error> {
        let found = self
            .query("reading a campaign", DRAFT, &[&id, &self.tenant_id()])
            .await?;
        let Some(campaign) = found.first().map(|row| row.get::<_, i64>(0)) else {
            return Ok(false);
        };
        let zones: Vec<_> = chunks.iter().map(|one| one.zone.as_str()).collect();
        let numbers: Vec<_> = chunks.iter().map(|one| one.n).collect();
        let recipients: Vec<_> = chunks.iter().map(|one| one.recipients).collect();
        let bodies: Vec<_> = chunks.iter().map(|one| one.body.as_str()).collect();
        let params: [&(dyn ToSql + Sync); 6] =
            [&campaign, &upload, &zones, &numbers, &recipients, &bodies];
        self.query("keeping recipients", ADD_CHUNKS, &params)
            .await?;
        Ok(true)
    }

    /// Makes an upload the recipients of its campaign, instead of the one before, if all of it is
    /// there: `recipients`, and by channel and language the JSON `counts`. False: it is not, or the
    /// campaign is no draft any more.
    pub async fn finish_upload(
        &self,
        id: Uuid,
        upload: Uuid,
        recipients: i64,
        counts: &str,
    ) -> Result<bool, Error> {
        let mut known = self.upload_of(id).await?;
        while let Some(before) = known {
            let tenant = self.tenant_id();
            let change = Change {
                operation: "taking recipients",
                sql: FINISH_UPLOAD,
                params: &[&id, &upload, &tenant, &recipients, &counts, &before],
                action: "campaign.recipients",
                detail: json!({"recipients": recipients}),
            };
            let rows = self.change(change, if_so(&id.to_string())).await?;
            if !rows.is_empty() {
                let dropped = match before {
                    Some(before) => self.drop_upload(id, before).await,
                    None => Ok(()),
                };
                if let Err(error) = dropped {
                    tracing::warn!("{error}: left to the pruner");
                }
                return Ok(true);
            }
            // Another upload may have come first: then this one is instead of that.
            let now = self.upload_of(id).await?;
            known = now.filter(|now| *now != before);
        }
        Ok(false)
    }

    /// The upload of a draft, if there is one; none: it is no draft.
    async fn upload_of(&self, id: Uuid) -> Result<Option<Option<Uuid>>, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&id, &self.tenant_id()];
        let rows = self.query("reading a campaign", UPLOAD, &params).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Throws an upload away that did not come to its end.
    pub async fn drop_upload(&self, id: Uuid, upload: Uuid) -> Result<(), Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&id, &upload];
        self.query("dropping an upload", DROP_UPLOAD, &params)
            .await
            .map(drop)
    }

    /// Deletes up to `limit` chunks of uploads that broke off, and of campaigns that ended `keep` ago, and as
    /// many cursors.
    pub async fn prune_chunks(
        &self,
        keep: std::time::Duration,
        limit: i64,
    ) -> Result<usize, Error> {
        let keep = super::millis(keep) as f64;
        Ok(self
            .query("pruning recipients", PRUNE_CHUNKS, &[&keep, &limit])
            .await?
            .len())
    }
}
