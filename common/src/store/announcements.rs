//! Announcements: one row each, whomever they are for. Who sees one is judged when somebody looks.
//!
//! Whoever keeps a tenant's announcements in memory asks with every look for the version of their
//! set, which the database raises in the transaction of every change (`announcements_changed`): so
//! what is kept is never older than the look.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::audit::{Change, if_so};
use super::{Error, Store};
use crate::audience::{Invalid, Rule};
use crate::timeline::{
    Announcement, Announcements, Content, Correction, Period, Submission, Whom, no_audience,
};

/// An announcement, in words.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct AnnouncementRow {
    pub id: Uuid,
    pub tenant: String,
    /// `scheduled`, `active`, `ended` or `withdrawn`.
    pub state: String,
    pub content: Box<RawValue>,
    pub rules: Box<RawValue>,
    pub audience: Option<String>,
    pub dedup_key: Option<String>,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub withdrawn_at: Option<Timestamp>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What came of making an announcement.
#[derive(Clone, Debug)]
pub enum Announced {
    /// It is there.
    Made(AnnouncementRow),
    /// It was made before under its key.
    Before(AnnouncementRow),
    /// Another one was.
    KeyTaken,
    /// The tenant has as many as it may have; in a sentence.
    Full(String),
    /// Something does not go with what is there, or with what time it is.
    Invalid(Invalid),
}

/// What came of correcting an announcement.
#[derive(Clone, Debug)]
pub enum Corrected {
    /// It is so now.
    Done(AnnouncementRow),
    /// It has ended or was withdrawn.
    Over,
    /// There is none of this id.
    NotThere,
    /// The tenant's announcements may not be so large; in a sentence.
    Full(String),
    /// It cannot end then.
    Invalid(Invalid),
}

const CREATE: &str = "
    insert into postroad.announcement
        (id, tenant_id, dedup_key, fingerprint, content, rules, audience, starts_at, ends_at, created_by)
    values ($1, $2, $3, $4, $5::text::json, $6::text::json, $7, $8, $9, $10)
    on conflict on constraint announcement_dedup_key_is_free do nothing
    returning true, tenant_id";

const FIND_KEY: &str = "
    select id, fingerprint from postroad.announcement where tenant_id = $1 and dedup_key = $2";

const LIST: &str = "
    select a.id, t.name,
           case when a.withdrawn_at is not null then 'withdrawn' when a.ends_at <= now() then 'ended'
                when a.starts_at > now() then 'scheduled' else 'active' end,
           a.content::text, a.rules::text, a.audience, a.dedup_key, a.starts_at, a.ends_at,
           a.withdrawn_at, a.created_by, a.created_at, a.updated_at
    from postroad.announcement a join postroad.tenant t on t.id = a.tenant_id
    where a.tenant_id = $1 and ($2::uuid is null or a.id = $2) and ($3::uuid is null or a.id < $3)
      and ($4 or (a.withdrawn_at is null and a.ends_at > now()))
    order by a.id desc limit $5";

const CHANGE: &str = "
    update postroad.announcement
    set content = coalesce($3::text::json, content), ends_at = coalesce($4, ends_at), updated_at = now()
    where tenant_id = $1 and id = $2 and withdrawn_at is null and ends_at > now()
    returning true, tenant_id";

const WITHDRAW: &str = "
    update postroad.announcement set withdrawn_at = now(), updated_at = now()
    where tenant_id = $1 and id = $2 and withdrawn_at is null and ends_at > now()
    returning true, tenant_id";

/// In one statement: what is read is the set of this version, or of a later one that nobody has
/// asked for yet.
const SHOWN: &str = "
    select a.id, a.starts_at, a.ends_at, a.rules::text, a.content::text
    from postroad.announcement a
    where a.tenant_id = $1 and a.withdrawn_at is null and a.ends_at > now()";

const PRUNE: &str = "
    with old as materialized (
        select a.id from postroad.announcement a
        where coalesce(a.withdrawn_at, a.ends_at) < now() - $1 * interval '1 ms'
        order by coalesce(a.withdrawn_at, a.ends_at) limit $2
        for update skip locked)
    delete from postroad.announcement a using old where a.id = old.id
    returning a.id";

impl Store {
    /// Makes an announcement of this tenant: one row, a new version of the set, and a row of the
    /// audit log, whomever it is for. Once this has answered, every look that begins later sees it.
    pub async fn announce(&self, tenant: i32, asked: &Submission) -> Result<Announced, Error> {
        let fingerprint = asked.fingerprint();
        // First: what was made before stands, though it could not be made any more.
        if let Some(before) = self.announced_before(tenant, asked, &fingerprint).await? {
            return Ok(before);
        }
        let (rule, audience) = match &asked.whom {
            Whom::Rules(rule) => (rule.clone(), None),
            Whom::Audience(name) => match self.audience(tenant, name).await? {
                None => return Ok(Announced::Invalid(no_audience())),
                // One that a newer program has put may say more than this one understands.
                Some(row) => match Rule::parse(row.rules.get()) {
                    Ok(rule) => (rule, Some(name)),
                    Err(invalid) => return Ok(Announced::Invalid(invalid.within("/audience"))),
                },
            },
        };
        let period = match Period::of(asked.starts_at, asked.ends_at, self.now().await?) {
            Ok(period) => period,
            Err(invalid) => return Ok(Announced::Invalid(invalid)),
        };
        let (id, content) = (Uuid::now_v7(), asked.content.json());
        let actor = self.actor_name();
        let change = Change {
            operation: "making an announcement",
            sql: CREATE,
            params: &[
                &id,
                &tenant,
                &asked.dedup_key,
                &&fingerprint[..],
                &content,
                &rule.json(),
                &audience,
                &period.starts_at,
                &period.ends_at,
                &actor,
            ],
            action: "announcement.create",
            detail: json!({"audience": audience}),
        };
        let is_made = match self.change(change, if_so(&id.to_string())).await {
            Ok(rows) => !rows.is_empty(),
            Err(error) => return error.limit().map(Announced::Full).ok_or(error),
        };
        if !is_made {
            // Somebody else was sooner.
            let before = self.announced_before(tenant, asked, &fingerprint).await?;
            return Ok(before.unwrap_or(Announced::KeyTaken));
        }
        let row = self.announcement(tenant, id).await?;
        Ok(row.map_or(Announced::KeyTaken, Announced::Made))
    }

    /// What the key of a submission stands for, if it stands for something.
    async fn announced_before(
        &self,
        tenant: i32,
        asked: &Submission,
        fingerprint: &[u8; 32],
    ) -> Result<Option<Announced>, Error> {
        let Some(key) = &asked.dedup_key else {
            return Ok(None);
        };
        let operation = "finding an announcement";
        let found = self.query(operation, FIND_KEY, &[&tenant, key]).await?;
        let Some(row) = found.first() else {
            return Ok(None);
        };
        if row.get::<_, &[u8]>(1) != fingerprint {
            return Ok(Some(Announced::KeyTaken));
        }
        let row = self.announcement(tenant, row.get(0)).await?;
        Ok(row.map(Announced::Before))
    }

    /// The announcement of this id.
    pub async fn announcement(
        &self,
        tenant: i32,
        id: Uuid,
    ) -> Result<Option<AnnouncementRow>, Error> {
        let before = None::<Uuid>;
        let params: [&(dyn ToSql + Sync); 5] = [&tenant, &id, &before, &true, &1_i64];
        let rows = self.query("reading an announcement", LIST, &params).await?;
        Ok(rows.first().map(announcement))
    }

    /// The newest announcements that are older than `before`; with `all`, those too that are over.
    pub async fn announcements(
        &self,
        tenant: i32,
        all: bool,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<AnnouncementRow>, Error> {
        let id = None::<Uuid>;
        let params: [&(dyn ToSql + Sync); 5] = [&tenant, &id, &before, &all, &limit];
        let rows = self.query("reading announcements", LIST, &params).await?;
        Ok(rows.iter().map(announcement).collect())
    }

    /// Corrects what an announcement says, or when it ends. Whoever has read it has read it.
    pub async fn correct_announcement(
        &self,
        tenant: i32,
        id: Uuid,
        to: &Correction,
    ) -> Result<Corrected, Error> {
        let Some(row) = self.announcement(tenant, id).await? else {
            return Ok(Corrected::NotThere);
        };
        let period = Period {
            starts_at: row.starts_at,
            ends_at: row.ends_at,
        };
        if let Some(ends_at) = to.ends_at
            && let Err(invalid) = period.ending(ends_at, self.now().await?)
        {
            return Ok(Corrected::Invalid(invalid));
        }
        let content = to.content.as_ref().map(Content::json);
        let change = Change {
            operation: "changing an announcement",
            sql: CHANGE,
            params: &[&tenant, &id, &content, &to.ends_at],
            action: "announcement.change",
            detail: json!({"content": content.is_some(), "ends_at": to.ends_at}),
        };
        match self.change(change, if_so(&id.to_string())).await {
            Ok(rows) if rows.is_empty() => return Ok(Corrected::Over),
            Ok(_) => {}
            Err(error) => return error.limit().map(Corrected::Full).ok_or(error),
        }
        let row = self.announcement(tenant, id).await?;
        Ok(row.map_or(Corrected::NotThere, Corrected::Done))
    }

    /// Has nobody see an announcement any more. False: it has ended, was withdrawn, or is not there.
    pub async fn withdraw_announcement(&self, tenant: i32, id: Uuid) -> Result<bool, Error> {
        let change = Change {
            operation: "withdrawing an announcement",
            sql: WITHDRAW,
            params: &[&tenant, &id],
            action: "announcement.withdraw",
            detail: json!({}),
        };
        let rows = self.change(change, if_so(&id.to_string())).await?;
        Ok(!rows.is_empty())
    }

    /// All announcements of a tenant that have not ended, with their rules read.
    pub async fn shown_announcements(&self, tenant: i32) -> Result<Announcements, Error> {
        let rows = self
            .query("reading announcements", SHOWN, &[&tenant])
            .await?;
        let bytes = |row: &Row| row.get::<_, &str>(3).len() + row.get::<_, &str>(4).len();
        let bytes = rows.iter().map(bytes).sum();
        Ok(Announcements::new(
            rows.iter().filter_map(shown).collect(),
            bytes,
        ))
    }

    /// Deletes up to `limit` announcements that have been over for `keep`.
    pub async fn prune_announcements(
        &self,
        keep: std::time::Duration,
        limit: i64,
    ) -> Result<usize, Error> {
        let keep = super::millis(keep) as f64;
        Ok(self
            .query("pruning announcements", PRUNE, &[&keep, &limit])
            .await?
            .len())
    }
}

/// One whose rules or content a newer program has put and this one does not understand is shown to
/// nobody, rather than to somebody for whom it is not.
fn shown(row: &Row) -> Option<Announcement> {
    let id: Uuid = row.get(0);
    let rule = Rule::parse(row.get(3));
    let rule = rule.map_err(|error| tracing::error!("the rules of announcement {id}: {error}"));
    let content = Content::of_kept(row.get(4));
    if content.is_none() {
        tracing::error!("the content of announcement {id} cannot be read");
    }
    Some(Announcement {
        id,
        starts_at: row.get(1),
        ends_at: row.get(2),
        rule: rule.ok()?,
        content: content?,
    })
}

fn announcement(row: &Row) -> AnnouncementRow {
    // What the database took for JSON is JSON.
    let json = |column| RawValue::from_string(row.get(column)).unwrap_or_default();
    AnnouncementRow {
        id: row.get(0),
        tenant: row.get(1),
        state: row.get(2),
        content: json(3),
        rules: json(4),
        audience: row.get(5),
        dedup_key: row.get(6),
        starts_at: row.get(7),
        ends_at: row.get(8),
        withdrawn_at: row.get(9),
        created_by: row.get(10),
        created_at: row.get(11),
        updated_at: row.get(12),
    }
}
