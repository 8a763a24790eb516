//! Audiences: kept, counted, and gone through by schedulers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::audience_sql::{Param, Statement, required_attributes};
use super::audit::{Change, one};
use super::recipients::{json_of, zone_of};
use super::{Error, Store, millis};
use crate::audience::Rule;

/// An audience, in words.
#[derive(Clone, Debug, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are documented at the table's columns"
)]
pub struct AudienceRow {
    pub name: String,
    pub tenant: String,
    pub rules: Box<RawValue>,
    pub version: i32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What came of putting an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAudience {
    /// There was none of this name.
    Created,
    /// It had other rules.
    Replaced,
    /// It had these rules; nothing was written.
    Same,
}

/// A recipient whom a rule picks, with what a message to it may need.
#[derive(Clone, Debug)]
pub struct AudienceMember {
    /// The order in which they come.
    pub id: i64,
    /// What the tenant calls it.
    pub key: String,
    /// Where it is reached, by channel.
    pub addresses: BTreeMap<String, String>,
    /// A BCP 47 tag.
    pub language: Option<String>,
    /// Two letters of ISO 3166-1.
    pub country: Option<String>,
    /// A name of the IANA database.
    pub timezone: Option<String>,
    /// Anything else.
    pub attributes: Map<String, Value>,
}

/// One step of going through an audience.
#[derive(Clone, Debug)]
pub struct AudienceMembers {
    /// Those among the recipients looked at whom the rule picks, by id.
    pub members: Vec<AudienceMember>,
    /// The last recipient that was looked at: where the next step begins.
    pub last_id: i64,
    /// Whether there were no more.
    pub is_end: bool,
}

/// Which recipients a step looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) tenant: i32,
    /// Of one time zone, or of all. The empty one: of those whose zone is not known.
    pub(super) timezone: Option<&'a str>,
    /// Those behind this one,
    pub(super) after_id: i64,
    /// up to this one,
    pub(super) until_id: i64,
    /// so many at most,
    pub(super) scan_limit: i64,
    /// or until so many are picked.
    pub(super) members_max: i64,
}

/// Recipients of an audience that get a message in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudiencePart {
    /// A BCP 47 tag.
    pub language: Option<String>,
    /// Whether they have an address on the channel that was asked for.
    pub has_address: bool,
    /// How many.
    pub recipients: i64,
}

/// How long a count or a look for some members may take: people wait for it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Members among which a sample is taken.
const SAMPLED_FROM: i64 = 1000;
/// Bytes of what is known of the members in one step, without those of the last one.
const MEMBERS_BYTES_MAX: i64 = 4 * 1024 * 1024;
/// Up to so many recipients are found by what they must have; where there are more, all are looked at.
const CANDIDATES_MAX: i64 = 20_000;

const PUT: &str = "
    insert into postroad.audience as a (tenant_id, name, rules) values ($1, $2, $3::text::json)
    on conflict (tenant_id, name) do update
        set rules = excluded.rules, version = a.version + 1, updated_at = now()
        where a.rules::text <> excluded.rules::text
    returning a.xmax = 0";

const LIST: &str = "
    select a.name, t.name, a.rules::text, a.version, a.created_at, a.updated_at
    from postroad.audience a join postroad.tenant t on t.id = a.tenant_id
    where a.tenant_id = $1 and ($2::text is null or a.name = $2)
        and ($3::text is null or a.name > $3)
    order by a.name limit $4";

const DELETE: &str = "
    delete from postroad.audience where tenant_id = $1 and name = $2 returning id";

/// Goes from one zone to the next by the index, and reads a row of each.
pub(super) const ZONES: &str = "
    with recursive zone as (
        (select r.timezone from postroad.recipient r where r.tenant_id = $1
         order by r.timezone limit 1)
        union all
        select (select r.timezone from postroad.recipient r
                where r.tenant_id = $1 and r.timezone > zone.timezone
                order by r.timezone limit 1)
        from zone where zone.timezone is not null)
    select timezone from zone where timezone is not null";

const CANDIDATES: &str = "
    select array(select postroad.recipients_with($1, $2::text::jsonb, $3))";

const COUNT: &str = "
    select count(*) from postroad.recipient r where r.tenant_id = $1 and (";

const PARTS: (&str, &str) = (
    "select r.language, r.addresses ? $2, count(*) from postroad.recipient r where r.tenant_id = $1 and (",
    ") group by 1, 2",
);

/// The planner is not to know that few are wanted: it would walk through all in the hope of meeting
/// one early.
const SAMPLE: (&str, &str) = (
    "with found as materialized (
        select r.id, r.key from postroad.recipient r where r.tenant_id = $1 and (",
    ") limit $2)
     select key from found order by id limit $3",
);

/// The limit is on what is looked at as well as on what is found, so that no step takes long, and on
/// the bytes of what is found, so that none takes much memory. Reading ends with the last one that is
/// wanted: where the step ended is asked for only if there were fewer.
const MEMBERS: (&str, &str) = (
    "with picked as materialized (
        select r.id, r.key, r.addresses::text, r.language, r.country, r.timezone, r.attributes::text
        from (select r.id, r.key, r.addresses, r.language, r.country, r.timezone, r.birth_date, r.plan,
                     r.attributes, r.instants
              from postroad.recipient r
              where r.tenant_id = $1 and r.id > $2 and r.id <= $3
                and ($4::text is null or r.timezone = $4)
              order by r.id limit $5) r
        where ",
    " order by r.id limit $6)
    select n.picked, s.last, s.scanned, p.id, p.key, p.addresses, p.language, p.country, p.timezone,
           p.attributes
    from (select count(*) as picked from picked) n
    left join lateral (
        select max(id) as last, count(*) as scanned
        from (select r.id from postroad.recipient r
              where n.picked < $6 and r.tenant_id = $1 and r.id > $2 and r.id <= $3
                and ($4::text is null or r.timezone = $4)
              order by r.id limit $5) looked_at) s on true
    left join (
        select p.*, coalesce(sum(octet_length(p.addresses) + octet_length(p.attributes)) over (
                    order by p.id rows between unbounded preceding and 1 preceding), 0) as bytes_before
        from picked p) p on p.bytes_before < $7
    order by p.id",
);

impl Store {
    /// Creates an audience of this tenant, or gives it other rules. Who may be called so is for
    /// [`crate::audience::is_name`] to say.
    pub async fn put_audience(
        &self,
        tenant: i32,
        name: &str,
        rule: &Rule,
    ) -> Result<PutAudience, Error> {
        let change = Change {
            operation: "putting an audience",
            sql: PUT,
            params: &[&tenant, &name, &rule.json()],
            action: "audience.put",
            detail: json!({}),
        };
        let rows = self.change(change, one(Some(tenant), name)).await?;
        Ok(match rows.first().map(|row| row.get(0)) {
            Some(true) => PutAudience::Created,
            Some(false) => PutAudience::Replaced,
            None => PutAudience::Same,
        })
    }

    /// The audience of this name.
    pub async fn audience(&self, tenant: i32, name: &str) -> Result<Option<AudienceRow>, Error> {
        let mut rows = self.audience_rows(tenant, Some(name), None, 1).await?;
        Ok(rows.pop())
    }

    /// Audiences by name, after this one.
    pub async fn audiences(
        &self,
        tenant: i32,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<AudienceRow>, Error> {
        self.audience_rows(tenant, None, after, limit).await
    }

    async fn audience_rows(
        &self,
        tenant: i32,
        name: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<AudienceRow>, Error> {
        let params: [&(dyn ToSql + Sync); 4] = [&tenant, &name, &after, &limit];
        let rows = self.query("reading audiences", LIST, &params).await?;
        Ok(rows.iter().map(audience).collect())
    }

    /// Deletes an audience. False: there is none.
    pub async fn delete_audience(&self, tenant: i32, name: &str) -> Result<bool, Error> {
        let change = Change {
            operation: "deleting an audience",
            sql: DELETE,
            params: &[&tenant, &name],
            action: "audience.delete",
            detail: json!({}),
        };
        let rows = self.change(change, one(Some(tenant), name)).await?;
        Ok(!rows.is_empty())
    }

    /// How many recipients of a tenant a rule picks on a day. None: counting takes too long.
    pub async fn count_audience(
        &self,
        tenant: i32,
        rule: &Rule,
        today: Date,
    ) -> Result<Option<i64>, Error> {
        let candidates = self.candidates(tenant, rule).await?;
        let statement = count(tenant, rule, today, candidates);
        let rows = self.look("counting an audience", &statement).await?;
        Ok(rows.map(|rows| rows[0].get(0)))
    }

    /// How many recipients of a tenant a rule picks on a day, by language and whether they have an
    /// address on a channel. None: counting takes too long.
    pub async fn audience_parts(
        &self,
        tenant: i32,
        rule: &Rule,
        today: Date,
        channel: &str,
    ) -> Result<Option<Vec<AudiencePart>>, Error> {
        let params = vec![Param::Tenant(tenant), Param::Text(channel.to_owned())];
        let mut statement = Statement::of(PARTS.0, params);
        if let Some(ids) = self.candidates(tenant, rule).await? {
            statement.one_of_ids(ids);
            statement.push(" and ");
        }
        statement.condition(rule, today);
        statement.push(PARTS.1);
        let rows = self.look("counting an audience", &statement).await?;
        let part = |row: &Row| AudiencePart {
            language: row.get(0),
            has_address: row.get(1),
            recipients: row.get(2),
        };
        Ok(rows.map(|rows| rows.iter().map(part).collect()))
    }

    /// The keys of up to `limit` recipients whom a rule picks: some, and not the first. None: looking
    /// for them takes too long.
    pub async fn sample_audience(
        &self,
        tenant: i32,
        rule: &Rule,
        today: Date,
        limit: i64,
    ) -> Result<Option<Vec<String>>, Error> {
        let params = vec![
            Param::Tenant(tenant),
            Param::Number(SAMPLED_FROM.max(limit)),
            Param::Number(limit),
        ];
        let mut statement = Statement::of(SAMPLE.0, params);
        if let Some(ids) = self.candidates(tenant, rule).await? {
            statement.one_of_ids(ids);
            statement.push(" and ");
        }
        statement.condition(rule, today);
        statement.push(SAMPLE.1);
        let rows = self.look("sampling an audience", &statement).await?;
        Ok(rows.map(|rows| rows.iter().map(|row| row.get(0)).collect()))
    }

    /// The recipients after `after_id` whom a rule picks on a day, of one time zone or of all, among
    /// the next `scan_limit`. The empty zone is that of recipients whose zone is not known.
    ///
    /// Going on from each step's `last_id` until `is_end` meets everybody who is there all the while
    /// once, whatever else is put or deleted meanwhile, and is judged by what it is at that moment.
    pub async fn audience_members(
        &self,
        tenant: i32,
        rule: &Rule,
        today: Date,
        timezone: Option<&str>,
        after_id: i64,
        scan_limit: i64,
    ) -> Result<AudienceMembers, Error> {
        let step = Step {
            tenant,
            timezone,
            after_id,
            until_id: i64::MAX,
            scan_limit,
            members_max: scan_limit,
        };
        let statement = members(&step, rule, today);
        let operation = "going through an audience";
        let rows = self.run(operation, &statement, None).await?;
        Ok(members_of(&rows, &step))
    }

    /// The time zones of a tenant's recipients. The empty one: of some it is not known.
    pub async fn audience_zones(&self, tenant: i32) -> Result<Vec<String>, Error> {
        let rows = self.query("reading time zones", ZONES, &[&tenant]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Those among whom all are whom a rule picks, if they are few and row-level security stands
    /// between this store and the index that would find them.
    async fn candidates(&self, tenant: i32, rule: &Rule) -> Result<Option<Vec<i64>>, Error> {
        let Some(wanted) = required_attributes(rule).filter(|_| self.is_scoped()) else {
            return Ok(None);
        };
        let params: [&(dyn ToSql + Sync); 3] = [&tenant, &wanted, &(CANDIDATES_MAX + 1)];
        let rows = self.query("looking for recipients", CANDIDATES, &params);
        let ids: Vec<i64> = rows.await?[0].get(0);
        Ok(Some(ids).filter(|ids| ids.len() as i64 <= CANDIDATES_MAX))
    }

    /// Asks for what somebody waits for. None: it takes too long, which is not the database's fault.
    async fn look(
        &self,
        operation: &'static str,
        statement: &Statement,
    ) -> Result<Option<Vec<Row>>, Error> {
        match self.run(operation, statement, Some(LOOK_MAX)).await {
            Ok(rows) => Ok(Some(rows)),
            Err(error) if error.has_code(&SqlState::QUERY_CANCELED) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a statement that is not prepared: there are as many as there are rules.
    async fn run(
        &self,
        operation: &'static str,
        statement: &Statement,
        limit: Option<Duration>,
    ) -> Result<Vec<Row>, Error> {
        const LIMIT: &str = "select set_config('statement_timeout', $1, true)";
        let params = statement.params();
        self.with_connection(operation, async |connection| {
            let transaction = self.begin(connection).await?;
            if let Some(limit) = limit {
                let set = transaction.prepare_cached(LIMIT).await?;
                let limit = format!("{}ms", millis(limit));
                transaction.execute(&set, &[&limit]).await?;
            }
            let rows = transaction.query_typed(&statement.text, &params).await?;
            transaction.commit().await?;
            Ok(rows)
        })
        .await
    }
}

/// A statement that counts whom a rule picks, among these recipients or all of the tenant.
pub(super) fn count(
    tenant: i32,
    rule: &Rule,
    today: Date,
    candidates: Option<Vec<i64>>,
) -> Statement {
    let mut statement = Statement::of(COUNT, vec![Param::Tenant(tenant)]);
    if let Some(ids) = candidates {
        statement.one_of_ids(ids);
        statement.push(" and ");
    }
    statement.condition(rule, today);
    statement.push(")");
    statement
}

/// A statement for one step through whom a rule picks.
pub(super) fn members(step: &Step<'_>, rule: &Rule, today: Date) -> Statement {
    let params = vec![
        Param::Tenant(step.tenant),
        Param::Number(step.after_id),
        Param::Number(step.until_id),
        Param::OptionalText(step.timezone.map(str::to_owned)),
        Param::Number(step.scan_limit),
        Param::Number(step.members_max),
        Param::Number(MEMBERS_BYTES_MAX),
    ];
    let mut statement = Statement::of(MEMBERS.0, params);
    statement.condition(rule, today);
    statement.push(MEMBERS.1);
    statement
}

/// What that statement has answered.
pub(super) fn members_of(rows: &[Row], step: &Step<'_>) -> AudienceMembers {
    let members: Vec<_> = rows.iter().filter_map(member).collect();
    let picked: i64 = rows[0].get(0);
    let is_whole = members.len() as i64 == picked && picked < step.members_max;
    if !is_whole {
        return AudienceMembers {
            last_id: members.last().map_or(step.after_id, |one| one.id),
            is_end: false,
            members,
        };
    }
    let scanned: i64 = rows[0].get(2);
    AudienceMembers {
        last_id: rows[0].get::<_, Option<i64>>(1).unwrap_or(step.after_id),
        is_end: scanned < step.scan_limit,
        members,
    }
}

fn audience(row: &Row) -> AudienceRow {
    AudienceRow {
        name: row.get(0),
        tenant: row.get(1),
        // What the database took for JSON is JSON.
        rules: RawValue::from_string(row.get(2)).unwrap_or_default(),
        version: row.get(3),
        created_at: row.get(4),
        updated_at: row.get(5),
    }
}

/// The member of a row; none in the one that tells only how far the step came.
fn member(row: &Row) -> Option<AudienceMember> {
    Some(AudienceMember {
        id: row.get::<_, Option<i64>>(3)?,
        key: row.get(4),
        addresses: json_of(row, 5),
        language: row.get(6),
        country: row.get(7),
        timezone: zone_of(row, 8),
        attributes: json_of(row, 9),
    })
}
