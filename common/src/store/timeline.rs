//! What one recipient is shown and has read, and what is made for it alone.
//!
//! A look is one statement, whatever there is: the recipient, how far it has read, its entries, and
//! the version of the tenant's announcements, all of one moment.
//!
//! Marking is idempotent and only ever marks more: the watermark moves up, and what was marked by
//! itself stays so. Of two marks at once the second waits for the row and adds to it.

use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::recipients::json_of;
use super::scope::Plan;
use super::{Error, Store};
use crate::audience::Recipient;
use crate::timeline::{
    Asked, DAYS_DEFAULT, DAYS_MAX, Entry, Glance, Message, Position, UNREAD_MAX,
};

/// Something to be shown to one recipient.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The job that makes it: made again, it is the same.
    pub id: Uuid,
    /// Whose the recipient is.
    pub tenant: String,
    /// What the tenant calls it.
    pub recipient: String,
    /// The language that the message is in.
    pub language: Option<String>,
    /// Until when it is shown; none: as long as is usual.
    pub ends_at: Option<Timestamp>,
    /// What it says.
    pub message: Message,
}

/// What is deleted at once.
const BATCH: i64 = 5000;

/// $1 tenant, $2 recipient, $3 and $4 the cursor, $5 items, $6 unread ones.
///
/// Each part of the row is found by the start of an index; what is not read is an index of its own,
/// so that marks by the thousand are not walked over. The watermark is made in a query of its own
/// (`offset 0` keeps it one): behind a policy Postgres compares an index only with plain values.
macro_rules! glance {
    ($which:literal) => {
        concat!(
            "select now(), coalesce(s.version, 0), r.language, r.country, r.birth_date, r.plan,
                    r.attributes::text, w.read_to, w.read_to_id, w.read_ids,
                    e.ids, e.created, e.ends, e.marked, e.languages, e.messages, u.unread
             from (select) one
             left join postroad.announcement_set s on s.tenant_id = $1
             left join postroad.recipient r on r.tenant_id = $1 and r.key = $2
             cross join (
                 select coalesce(w.read_to, 'epoch') as read_to,
                        coalesce(w.read_to_id, '00000000-0000-0000-0000-000000000000') as read_to_id,
                        coalesce(w.read_ids, '{}') as read_ids
                 from (select) one
                 left join postroad.timeline_reader w on w.tenant_id = $1 and w.recipient = $2
                 offset 0) w
             cross join lateral (
                 select array_agg(e.id) as ids, array_agg(e.created_at) as created,
                        array_agg(e.ends_at) as ends, array_agg(e.read_at is not null) as marked,
                        array_agg(e.language) as languages, array_agg(e.message::text) as messages
                 from (select e.id, e.created_at, e.ends_at, e.read_at, e.language, e.message
                       from postroad.timeline_entry e
                       where e.tenant_id = $1 and e.recipient = $2 and e.ends_at > now()
                         and (e.created_at, e.id) < ($3, $4)",
            $which,
            "
                       order by e.created_at desc, e.id desc limit $5) e) e
             cross join lateral (
                 select count(*) as unread
                 from (select from postroad.timeline_entry e
                       where e.tenant_id = $1 and e.recipient = $2 and e.ends_at > now()
                         and e.read_at is null
                         and (e.created_at, e.id) > (w.read_to, w.read_to_id)
                       limit $6) e) u"
        )
    };
}

const GLANCE: &str = glance!("");

const GLANCE_UNREAD: &str =
    glance!(" and e.read_at is null and (e.created_at, e.id) > (w.read_to, w.read_to_id)");

/// Announcements that nobody sees any more are left out of the list, so it is never longer than
/// there may be of them. Entries in the order of ids: two that mark the same ones wait for each
/// other, and not both for ever.
const MARK: &str = "
    with named as (
        select a.id from postroad.announcement a
        where a.tenant_id = $1 and a.id = any($3) and a.withdrawn_at is null
          and a.starts_at <= now() and a.ends_at > now()),
    taken as materialized (
        select e.id from postroad.timeline_entry e
        where e.tenant_id = $1 and e.recipient = $2 and e.id = any($3) and e.read_at is null
        order by e.id for update),
    marked as (
        update postroad.timeline_entry e set read_at = now() from taken
        where e.tenant_id = $1 and e.recipient = $2 and e.id = taken.id)
    insert into postroad.timeline_reader as w (tenant_id, recipient, read_ids)
    select $1, $2, array(select id from named) where exists (select from named)
    on conflict (tenant_id, recipient) do update
        set read_ids = array(
                select a.id from postroad.announcement a
                where a.tenant_id = $1 and a.id = any(w.read_ids || excluded.read_ids)
                  and a.withdrawn_at is null and a.ends_at > now()
                  and (a.starts_at, a.id) > (w.read_to, w.read_to_id)),
            marked_on = current_date
        where not w.read_ids @> excluded.read_ids";

/// No row: there is no such item, or it is not shown yet.
const MARK_TO: &str = "
    with item as (
        select a.starts_at as at, a.id from postroad.announcement a
        where a.tenant_id = $1 and a.id = $3 and a.starts_at <= now()
        union all
        select e.created_at, e.id from postroad.timeline_entry e
        where e.tenant_id = $1 and e.recipient = $2 and e.id = $3),
    moved as (
        insert into postroad.timeline_reader as w (tenant_id, recipient, read_to, read_to_id)
        select $1, $2, at, id from item
        on conflict (tenant_id, recipient) do update
            set read_to = excluded.read_to, read_to_id = excluded.read_to_id,
                read_ids = array(
                    select a.id from postroad.announcement a
                    where a.tenant_id = $1 and a.id = any(w.read_ids)
                      and a.withdrawn_at is null and a.ends_at > now()
                      and (a.starts_at, a.id) > (excluded.read_to, excluded.read_to_id)),
                marked_on = current_date
            where (w.read_to, w.read_to_id) < (excluded.read_to, excluded.read_to_id))
    select from item";

/// In the order of the primary key: two that make the same ones wait for each other, and not both
/// for ever. What has ended meanwhile is not made.
const PUT: &str = r#"
    insert into postroad.timeline_entry (tenant_id, recipient, id, ends_at, language, message)
    select t.id, n.recipient, n.id,
           least(coalesce(n.ends_at, now() + $7 * interval '24 hours'), now() + $8 * interval '24 hours'),
           n.language, n.message::json
    from unnest($1::text[], $2::text[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
         n(tenant, recipient, id, ends_at, language, message)
    join postroad.tenant t on t.name = n.tenant
    where n.ends_at is null or n.ends_at > now()
    order by t.id, n.recipient collate "C", n.id
    on conflict (tenant_id, recipient, id) do nothing
    returning id"#;

const FORGET_ENTRIES: &str = "
    delete from postroad.timeline_entry e
    where e.tenant_id = $1 and e.recipient = $2
      and e.id = any(array(select o.id from postroad.timeline_entry o
                           where o.tenant_id = $1 and o.recipient = $2 order by o.id limit $3))
    returning e.id";

const FORGET_READER: &str = "
    delete from postroad.timeline_reader where tenant_id = $1 and recipient = $2";

const PRUNE_ENTRIES: &str = "
    with old as materialized (
        select e.ctid from postroad.timeline_entry e
        where e.ends_at < now() order by e.ends_at limit $1
        for update skip locked)
    delete from postroad.timeline_entry e using old where e.ctid = old.ctid
    returning e.id";

/// Whatever a mark of so long ago was about has ended.
const PRUNE_READERS: &str = "
    with old as materialized (
        select w.ctid from postroad.timeline_reader w
        where w.marked_on < current_date - ($1 + 2)::int order by w.marked_on limit $2
        for update skip locked)
    delete from postroad.timeline_reader w using old where w.ctid = old.ctid
    returning w.recipient";

impl Store {
    /// What there is for a recipient at this moment, in one statement. It need not be one that
    /// somebody has put.
    pub async fn glance(
        &self,
        tenant: i32,
        recipient: &str,
        asked: Asked,
    ) -> Result<Glance, Error> {
        // Behind the cursor, or behind the end of time.
        let before = asked.before.unwrap_or(Position {
            at: Timestamp::MAX,
            id: Uuid::max(),
        });
        let (most, unread_most) = (asked.limit as i64 + 1, UNREAD_MAX as i64);
        let params: [&(dyn ToSql + Sync); 6] = [
            &tenant,
            &recipient,
            &before.at,
            &before.id,
            &most,
            &unread_most,
        ];
        let sql = match asked.is_unread {
            true => GLANCE_UNREAD,
            false => GLANCE,
        };
        let rows = self
            .query_by(Plan::Once, "reading a timeline", sql, &params)
            .await?;
        Ok(glance_of(&rows[0], recipient))
    }

    /// Marks these as read by a recipient: announcements that are shown now, and its entries. What is
    /// neither is passed over.
    pub async fn mark_read(&self, tenant: i32, recipient: &str, ids: &[Uuid]) -> Result<(), Error> {
        let params: [&(dyn ToSql + Sync); 3] = [&tenant, &recipient, &ids];
        self.query("marking as read", MARK, &params).await.map(drop)
    }

    /// Marks as read by a recipient what stands where this item does, or behind it. False: it is
    /// shown no such item.
    pub async fn mark_read_to(
        &self,
        tenant: i32,
        recipient: &str,
        id: Uuid,
    ) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 3] = [&tenant, &recipient, &id];
        let rows = self.query("marking as read", MARK_TO, &params).await?;
        Ok(!rows.is_empty())
    }

    /// Makes entries, hundreds in a statement, and says how many were not there before. One that has
    /// ended, or whose tenant is not there, is not made.
    pub async fn put_entries(&self, entries: &[NewEntry]) -> Result<usize, Error> {
        fn each<'a, T>(entries: &'a [NewEntry], of: impl Fn(&'a NewEntry) -> T) -> Vec<T> {
            entries.iter().map(of).collect()
        }
        let tenants = each(entries, |one| one.tenant.as_str());
        let recipients = each(entries, |one| one.recipient.as_str());
        let ids = each(entries, |one| one.id);
        let ends = each(entries, |one| one.ends_at);
        let languages = each(entries, |one| one.language.as_deref());
        let messages = each(entries, |one| one.message.json().get());
        let (usual, most) = (DAYS_DEFAULT as f64, DAYS_MAX as f64);
        let params: [&(dyn ToSql + Sync); 8] = [
            &tenants,
            &recipients,
            &ids,
            &ends,
            &languages,
            &messages,
            &usual,
            &most,
        ];
        let made = self.query("making timeline entries", PUT, &params).await?;
        Ok(made.len())
    }

    /// Forgets what was made for a recipient and what it has read, a bounded number in each
    /// statement. Whoever dies in the middle does the rest the next time.
    pub(super) async fn forget_timeline(&self, tenant: i32, recipient: &str) -> Result<(), Error> {
        let operation = "forgetting a timeline";
        let entries: [&(dyn ToSql + Sync); 3] = [&tenant, &recipient, &BATCH];
        while self.query(operation, FORGET_ENTRIES, &entries).await?.len() as i64 == BATCH {}
        self.query(operation, FORGET_READER, &[&tenant, &recipient])
            .await
            .map(drop)
    }

    /// Deletes up to `limit` entries that have ended.
    pub async fn prune_entries(&self, limit: i64) -> Result<usize, Error> {
        Ok(self
            .query("pruning timeline entries", PRUNE_ENTRIES, &[&limit])
            .await?
            .len())
    }

    /// Deletes up to `limit` readers who have marked nothing for so long that everything which they
    /// ever marked has ended.
    pub async fn prune_readers(&self, limit: i64) -> Result<usize, Error> {
        let days = DAYS_MAX as i32;
        Ok(self
            .query("pruning readers", PRUNE_READERS, &[&days, &limit])
            .await?
            .len())
    }
}

fn glance_of(row: &Row, recipient: &str) -> Glance {
    let mut read_ids: Vec<Uuid> = row.get(9);
    read_ids.sort_unstable();
    Glance {
        now: row.get(0),
        version: row.get(1),
        recipient: Recipient {
            key: recipient.to_owned(),
            language: row.get(2),
            country: row.get(3),
            birth_date: row.get(4),
            plan: row.get(5),
            attributes: match row.get::<_, Option<&str>>(6) {
                Some(_) => json_of(row, 6),
                None => serde_json::Map::new(),
            },
            // No rule asks for them.
            addresses: std::collections::BTreeMap::new(),
            timezone: None,
        },
        read_to: Position {
            at: row.get(7),
            id: row.get(8),
        },
        read_ids,
        entries: entries(row),
        unread_entries: usize::try_from(row.get::<_, i64>(16)).unwrap_or(0),
    }
}

fn entries(row: &Row) -> Vec<Entry> {
    // No array at all: there are none.
    let Some(ids) = row.get::<_, Option<Vec<Uuid>>>(10) else {
        return Vec::new();
    };
    let created: Vec<Timestamp> = row.get(11);
    let ends: Vec<Timestamp> = row.get(12);
    let marked: Vec<bool> = row.get(13);
    let languages: Vec<Option<String>> = row.get(14);
    let messages: Vec<String> = row.get(15);
    let columns = ids.into_iter().zip(created).zip(ends).zip(marked);
    columns
        .zip(languages)
        .zip(messages)
        .map(
            |(((((id, created_at), ends_at), is_marked), language), message)| Entry {
                id,
                created_at,
                ends_at,
                is_marked,
                language,
                // What the database took for JSON is JSON.
                message: RawValue::from_string(message).unwrap_or_default(),
            },
        )
        .collect()
}
