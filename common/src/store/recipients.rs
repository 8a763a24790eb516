//! Recipients: whom a tenant may write to.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::audit::{Change, Target, one};
use super::{Error, Store};
use crate::audience::Recipient;

/// A recipient as it is kept.
#[derive(Clone, Debug, Serialize)]
pub struct RecipientRow {
    /// Its id: the order of campaigns.
    #[serde(skip)]
    pub id: i64,
    /// Whose it is.
    pub tenant: String,
    /// What is known of it.
    #[serde(flatten)]
    pub recipient: Recipient,
    /// When it was there first.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// What came of putting recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upserted {
    /// They were not there before.
    pub created: u64,
    /// They were others before.
    pub updated: u64,
    /// They were the same before, and nothing was written; or they came twice in one call, of which
    /// the last counts.
    pub unchanged: u64,
}

/// In the order of keys: two that put the same ones wait for each other, and not both for ever. A
/// row that is as it should be is left alone, so that an import every night costs what has changed.
/// Only a row that was just inserted has no xmax.
const PUT: &str = r#"
    insert into postroad.recipient as r
        (tenant_id, key, addresses, language, country, timezone, birth_date, plan, attributes, instants)
    select $1, n.key, n.addresses::jsonb, n.language, n.country, n.timezone, n.birth_date, n.plan,
           n.attributes::jsonb, n.instants::jsonb
    from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::date[], $8::text[],
                $9::text[], $10::text[])
         n(key, addresses, language, country, timezone, birth_date, plan, attributes, instants)
    order by n.key collate "C"
    on conflict (tenant_id, key) do update
        set addresses = excluded.addresses, language = excluded.language,
            country = excluded.country, timezone = excluded.timezone,
            birth_date = excluded.birth_date, plan = excluded.plan,
            attributes = excluded.attributes, instants = excluded.instants, updated_at = now()
        where (r.addresses, r.language, r.country, r.timezone, r.birth_date, r.plan, r.attributes, r.instants)
            is distinct from
              (excluded.addresses, excluded.language, excluded.country, excluded.timezone,
               excluded.birth_date, excluded.plan, excluded.attributes, excluded.instants)
    returning r.xmax = 0, r.key"#;

macro_rules! recipients {
    ($where:literal) => {
        concat!(
            "select r.id, t.name, r.key, r.addresses::text, r.language, r.country, r.timezone,
                    r.birth_date, r.plan, r.attributes::text, r.created_at, r.updated_at
             from postroad.recipient r join postroad.tenant t on t.id = r.tenant_id
             where r.tenant_id = $1 and ",
            $where
        )
    };
}

const ONE: &str = recipients!("r.key = $2");

const LIST: &str = recipients!("($2::text is null or r.key > $2) order by r.key limit $3");

const DELETE: &str = "
    delete from postroad.recipient where tenant_id = $1 and key = $2 returning id";

impl Store {
    /// Creates or replaces recipients of this tenant, thousands in a statement.
    pub async fn put_recipients(
        &self,
        tenant: i32,
        recipients: &[Recipient],
    ) -> Result<Upserted, Error> {
        // One statement may not touch a row twice.
        let last: HashMap<&str, &Recipient> = recipients
            .iter()
            .map(|one| (one.key.as_str(), one))
            .collect();
        let mut rows = Columns::default();
        for recipient in last.values() {
            rows.push(recipient);
        }
        let change = Change {
            operation: "putting recipients",
            sql: PUT,
            params: &rows.params(&tenant),
            action: "recipient.put",
            detail: json!({"recipients": rows.keys.len()}),
        };
        let rows = self.change(change, |rows| of_all(tenant, rows)).await?;
        let created = rows.iter().filter(|row| row.get(0)).count() as u64;
        let updated = rows.len() as u64 - created;
        Ok(Upserted {
            created,
            updated,
            unchanged: recipients.len() as u64 - created - updated,
        })
    }

    /// The recipient of this key.
    pub async fn recipient_by_key(
        &self,
        tenant: i32,
        key: &str,
    ) -> Result<Option<RecipientRow>, Error> {
        if !Recipient::is_key(key) {
            return Ok(None);
        }
        let rows = self
            .query("reading a recipient", ONE, &[&tenant, &key])
            .await?;
        Ok(rows.first().map(recipient))
    }

    /// Recipients by key, after this one.
    pub async fn recipients(
        &self,
        tenant: i32,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RecipientRow>, Error> {
        let params: [&(dyn ToSql + Sync); 3] = [&tenant, &after, &limit];
        let rows = self.query("reading recipients", LIST, &params).await?;
        Ok(rows.iter().map(recipient).collect())
    }

    /// Forgets a recipient and its timeline. False: there is none; its timeline is forgotten all the
    /// same.
    pub async fn delete_recipient(&self, tenant: i32, key: &str) -> Result<bool, Error> {
        if !Recipient::is_key(key) {
            return Ok(false);
        }
        // First: whoever dies here finds the recipient still there, and deletes it again.
        self.forget_timeline(tenant, key).await?;
        let change = Change {
            operation: "deleting a recipient",
            sql: DELETE,
            params: &[&tenant, &key],
            action: "recipient.delete",
            detail: json!({}),
        };
        let rows = self.change(change, one(Some(tenant), key)).await?;
        Ok(!rows.is_empty())
    }
}

/// One row of the audit log for a statement: with the key where it is one, and else with the number.
fn of_all(tenant: i32, rows: &[Row]) -> Vec<Target> {
    match rows {
        [] => Vec::new(),
        [row] => vec![(Some(tenant), row.get(1))],
        many => vec![(Some(tenant), format!("{} recipients", many.len()))],
    }
}

#[derive(Default)]
struct Columns<'a> {
    keys: Vec<&'a str>,
    addresses: Vec<String>,
    languages: Vec<Option<&'a str>>,
    countries: Vec<Option<&'a str>>,
    timezones: Vec<&'a str>,
    births: Vec<Option<Date>>,
    plans: Vec<Option<&'a str>>,
    attributes: Vec<String>,
    instants: Vec<String>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, one: &'a Recipient) {
        self.keys.push(&one.key);
        self.addresses.push(json!(one.addresses).to_string());
        self.languages.push(one.language.as_deref());
        self.countries.push(one.country.as_deref());
        self.timezones.push(one.timezone.as_deref().unwrap_or(""));
        self.births.push(one.birth_date);
        self.plans.push(one.plan.as_deref());
        self.attributes.push(json!(one.attributes).to_string());
        self.instants.push(json!(one.instants()).to_string());
    }

    /// $1 to $10.
    fn params<'b>(&'b self, tenant: &'b i32) -> [&'b (dyn ToSql + Sync); 10] {
        [
            tenant,
            &self.keys,
            &self.addresses,
            &self.languages,
            &self.countries,
            &self.timezones,
            &self.births,
            &self.plans,
            &self.attributes,
            &self.instants,
        ]
    }
}

/// What the database took for JSON is JSON.
pub(super) fn json_of<T: DeserializeOwned + Default>(row: &Row, column: usize) -> T {
    serde_json::from_str(row.get(column)).unwrap_or_default()
}

/// A zone; none: it is not known.
pub(super) fn zone_of(row: &Row, column: usize) -> Option<String> {
    Some(row.get::<_, String>(column)).filter(|zone| !zone.is_empty())
}

fn recipient(row: &Row) -> RecipientRow {
    RecipientRow {
        id: row.get(0),
        tenant: row.get(1),
        recipient: Recipient {
            key: row.get(2),
            addresses: json_of(row, 3),
            language: row.get(4),
            country: row.get(5),
            timezone: zone_of(row, 6),
            birth_date: row.get(7),
            plan: row.get(8),
            attributes: json_of(row, 9),
        },
        created_at: row.get(10),
        updated_at: row.get(11),
    }
}
