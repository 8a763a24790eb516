//! Providers: what is on the other side of some queues, its limits, and its breakers.
//!
//! A breaker that is closed has no row. One that a worker trips is open until it has rested; then a few
//! jobs may try (see `claims`). What a worker sees of them closes it or opens it again for longer.
//!
//! What if the worker dies before it says so? Then the jobs that try go on trying, a few at a time, until
//! another worker has seen one of them. Where none tries for long, because there is none any more, or
//! where they end in ways that say nothing of the provider, the breaker is closed without that.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::json;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::audit::{Change, one};
use super::{Error, Store, from_millis, millis};

/// A provider and what is set for it.
#[derive(Clone, Debug, Serialize)]
pub struct ProviderRow {
    /// Its name.
    pub name: String,
    /// Jobs of its queues that one worker may have under way at once.
    pub unanswered_max: Option<i32>,
    /// Jobs of its queues that may enter the pipe in a second.
    pub rate_per_second: Option<i32>,
    /// Further attempts that its budget gives in a second.
    pub retries_per_second: Option<i32>,
    /// The share of failed answers from which on a breaker of it opens.
    pub failure_max: Option<f64>,
    /// The queues whose jobs go to it.
    pub queues: Vec<String>,
    /// Its breakers that are not closed, of those that this store may see.
    pub breakers: Vec<BreakerRow>,
    /// Since when it is there.
    pub created_at: Timestamp,
}

/// What is set for a provider: all of it. A limit that is not given is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "as in `ProviderRow`")]
pub struct ProviderSettings {
    pub unanswered_max: Option<i32>,
    pub rate_per_second: Option<i32>,
    pub retries_per_second: Option<i32>,
    pub failure_max: Option<f64>,
}

impl ProviderSettings {
    /// A provider fails when half of its answers do, unless somebody says otherwise.
    pub const FAILURE_MAX_DEFAULT: f64 = 0.5;
}

/// A breaker that is not closed.
#[derive(Clone, Debug, Serialize)]
pub struct BreakerRow {
    /// Whose jobs it keeps back. None: everybody's.
    pub tenant: Option<String>,
    /// `open`, or `half_open`: a few jobs try.
    pub state: BreakerState,
    /// Since when it is not closed.
    pub opened_at: Timestamp,
    /// When a few jobs may try, or could since.
    pub probe_at: Timestamp,
    /// How often it was opened without having been closed.
    pub trips: i32,
    /// What was seen.
    pub reason: String,
}

/// How a breaker is that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Nothing goes through.
    Open,
    /// A few jobs try.
    HalfOpen,
}

impl BreakerState {
    /// Its name in API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Serialize for BreakerState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What came of deleting a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Done,
    /// Queues go to it, or a stop that is or was in force names it.
    InUse,
    /// There is none of this name.
    NotThere,
}

/// A provider as its workers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerProvider {
    /// Its id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// How many jobs of its queues the worker may have under way at once.
    pub unanswered_max: Option<u16>,
    /// The share of failed answers from which on its breaker opens. None: never.
    pub failure_max: Option<f64>,
    /// The queues of the worker whose jobs go to it.
    pub queues: Vec<String>,
}

/// Whose breaker: of a provider, and of a tenant or of all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BreakerOf {
    /// The provider's id.
    pub provider: i32,
    /// The tenant's name.
    pub tenant: Option<String>,
}

/// A breaker opens for so long; each time that it is opened again without having been closed, for twice
/// as long as before, up to [`REST_MAX`].
const REST_FIRST: Duration = Duration::from_secs(5);
/// The longest that a breaker is open before something tries.
const REST_MAX: Duration = Duration::from_secs(5 * 60);

/// A breaker of which nothing has been seen for so long since it could be is closed.
const SEEN_NOTHING: Duration = Duration::from_secs(60 * 60);

const PROVIDERS: &str = "
    select v.name, v.unanswered_max, v.rate_per_second, v.retries_per_second, v.failure_max, v.created_at,
           array(select q.name from postroad.queue q where q.provider_id = v.id order by q.name), v.id
    from postroad.provider v
    where ($1::text is null or v.name = $1) order by v.name";

/// A page of them is enough: where every tenant has one, the provider is down.
const BREAKERS: &str = "
    select b.provider_id, t.name, b.probe_at > now(), b.opened_at, b.probe_at, b.trips, b.reason
    from postroad.breaker b left join postroad.tenant t on t.id = b.tenant_id
    where b.provider_id = any($1) and ($2::int is null or b.tenant_id in (0, $2))
    order by b.provider_id, b.tenant_id limit 1000";

/// Bucket and debt are as they were: a limit that is set again must not give a burst.
const PUT: &str = "
    insert into postroad.provider (name, unanswered_max, rate_per_second, retries_per_second, failure_max)
    values ($1, $2, $3, $4, $5)
    on conflict (name) do update
        set unanswered_max = excluded.unanswered_max, rate_per_second = excluded.rate_per_second,
            retries_per_second = excluded.retries_per_second, failure_max = excluded.failure_max
    returning xmax = 0";

const DELETE: &str = "
    delete from postroad.provider v
    where v.name = $1
      and not exists (select from postroad.queue q where q.provider_id = v.id)
      and not exists (select from postroad.stop s where s.provider_id = v.id)
    returning v.name";

const CLOSE_BY_HAND: &str = "
    delete from postroad.breaker b using postroad.provider v
    where v.name = $1 and b.provider_id = v.id
      and ($2::text is null or b.tenant_id = (select t.id from postroad.tenant t where t.name = $2))
    returning b.provider_id";

const OF_WORKER: &str = "
    select v.id, v.name, v.unanswered_max, v.failure_max, array_agg(q.name order by q.name)
    from postroad.queue q join postroad.provider v on v.id = q.provider_id
    where q.name = any($1) group by v.id order by v.id";

/// Those that are half open: what is seen of jobs now says something of them.
const PROBED: &str = "
    select b.provider_id, t.name
    from postroad.breaker b left join postroad.tenant t on t.id = b.tenant_id
    where b.provider_id = any($1) and b.probe_at <= now() and (b.tenant_id = 0 or t.id is not null)
    limit 10000";

/// While it is open, nothing more is to be said: what fails now was started before.
const TRIP: &str = "
    insert into postroad.breaker as b (provider_id, tenant_id, probe_at, rest, reason)
    select v.id, coalesce(t.id, 0), now() + $3 * interval '1 ms', $3 * interval '1 ms', $5
    from postroad.provider v left join postroad.tenant t on t.name = $2
    where v.id = $1 and v.failure_max is not null and ($2::text is null or t.id is not null)
    on conflict (provider_id, tenant_id) do update
        set rest = least(2 * b.rest, $4 * interval '1 ms'),
            probe_at = now() + least(2 * b.rest, $4 * interval '1 ms'),
            trips = b.trips + 1, reason = excluded.reason
        where b.probe_at <= now()
    returning (extract(epoch from b.rest) * 1000)::bigint";

/// Only one that is half open: what succeeds while it is open was started before.
const CLOSE: &str = "
    delete from postroad.breaker b
    where b.provider_id = $1 and b.probe_at <= now()
      and b.tenant_id = case when $2::text is null then 0
                             else (select t.id from postroad.tenant t where t.name = $2) end
    returning b.provider_id";

/// As long as it is there, each claim from the queues of its provider has to look for what it may not
/// take.
const CLOSE_UNSEEN: &str = "
    delete from postroad.breaker b
    where b.provider_id = any($1) and b.probe_at < now() - $2 * interval '1 ms'
    returning b.provider_id";

impl Store {
    /// All providers, or the one of this name.
    pub async fn providers(&self, name: Option<&str>) -> Result<Vec<ProviderRow>, Error> {
        let rows = self.query("reading providers", PROVIDERS, &[&name]).await?;
        let ids: Vec<i32> = rows.iter().map(|row| row.get(7)).collect();
        let params: [&(dyn ToSql + Sync); 2] = [&ids, &self.tenant_id()];
        let breakers = self.query("reading breakers", BREAKERS, &params).await?;
        let provider = |row: &Row| {
            let id: i32 = row.get(7);
            let own = breakers.iter().filter(|row| row.get::<_, i32>(0) == id);
            ProviderRow {
                name: row.get(0),
                unanswered_max: row.get(1),
                rate_per_second: row.get(2),
                retries_per_second: row.get(3),
                failure_max: row.get(4),
                created_at: row.get(5),
                queues: row.get(6),
                breakers: own.map(breaker).collect(),
            }
        };
        Ok(rows.iter().map(provider).collect())
    }

    /// Makes a provider, or sets one. True: it is new.
    pub async fn put_provider(
        &self,
        name: &str,
        settings: &ProviderSettings,
    ) -> Result<bool, Error> {
        let change = Change {
            operation: "setting a provider",
            sql: PUT,
            params: &[
                &name,
                &settings.unanswered_max,
                &settings.rate_per_second,
                &settings.retries_per_second,
                &settings.failure_max,
            ],
            action: "provider.put",
            detail: json!(settings),
        };
        let rows = self.change(change, one(None, name)).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Deletes a provider to which nothing goes.
    pub async fn delete_provider(&self, name: &str) -> Result<Deleted, Error> {
        let change = Change {
            operation: "deleting a provider",
            sql: DELETE,
            params: &[&name],
            action: "provider.delete",
            detail: json!({}),
        };
        match self.change(change, one(None, name)).await {
            // A queue was given to it just now, or a stop made.
            Err(error) if error.has_code(&SqlState::FOREIGN_KEY_VIOLATION) => {}
            changed if changed.as_ref().is_ok_and(Vec::is_empty) => {}
            changed => return changed.map(|_| Deleted::Done),
        }
        Ok(match self.providers(Some(name)).await?.is_empty() {
            true => Deleted::NotThere,
            false => Deleted::InUse,
        })
    }

    /// Closes the breakers of a provider, or that of one tenant; says how many were not closed.
    pub async fn close_breakers(&self, name: &str, tenant: Option<&str>) -> Result<usize, Error> {
        let change = Change {
            operation: "closing breakers",
            sql: CLOSE_BY_HAND,
            params: &[&name, &tenant],
            action: "provider.close",
            detail: json!({ "tenant": tenant }),
        };
        // However many they were, it was one deed.
        let targets = |rows: &[Row]| {
            rows.first()
                .map(|_| (None, name.to_owned()))
                .into_iter()
                .collect()
        };
        Ok(self.change(change, targets).await?.len())
    }

    /// The providers of a worker's queues.
    pub async fn worker_providers(&self, queues: &[String]) -> Result<Vec<WorkerProvider>, Error> {
        let rows = self
            .query("reading the queues' providers", OF_WORKER, &[&queues])
            .await?;
        let provider = |row: &Row| WorkerProvider {
            id: row.get(0),
            name: row.get(1),
            unanswered_max: row
                .get::<_, Option<i32>>(2)
                .map(|most| u16::try_from(most).unwrap_or(u16::MAX)),
            failure_max: row.get(3),
            queues: row.get(4),
        };
        Ok(rows.iter().map(provider).collect())
    }

    /// The breakers of these providers that are half open.
    pub async fn probed_breakers(&self, providers: &[i32]) -> Result<Vec<BreakerOf>, Error> {
        let rows = self
            .query("reading half-open breakers", PROBED, &[&providers])
            .await?;
        let of = |row: &Row| BreakerOf {
            provider: row.get(0),
            tenant: row.get(1),
        };
        Ok(rows.iter().map(of).collect())
    }

    /// Closes those breakers of these providers that are half open for long and of which nothing is seen;
    /// says how many.
    pub async fn close_unseen_breakers(&self, providers: &[i32]) -> Result<usize, Error> {
        let unseen = millis(SEEN_NOTHING) as f64;
        let params: [&(dyn ToSql + Sync); 2] = [&providers, &unseen];
        let rows = self
            .query(
                "closing breakers of which nothing is seen",
                CLOSE_UNSEEN,
                &params,
            )
            .await?;
        Ok(rows.len())
    }

    /// Opens a breaker that is closed or half open. Says for how long, if it was.
    pub async fn trip_breaker(
        &self,
        of: &BreakerOf,
        reason: &str,
    ) -> Result<Option<Duration>, Error> {
        let (first, most) = (millis(REST_FIRST) as f64, millis(REST_MAX) as f64);
        let params: [&(dyn ToSql + Sync); 5] = [&of.provider, &of.tenant, &first, &most, &reason];
        let rows = self.query("opening a breaker", TRIP, &params).await?;
        Ok(rows.first().map(|row| from_millis(row.get(0))))
    }

    /// Closes a breaker that is half open. Says whether it was.
    pub async fn close_breaker(&self, of: &BreakerOf) -> Result<bool, Error> {
        let params: [&(dyn ToSql + Sync); 2] = [&of.provider, &of.tenant];
        let rows = self.query("closing a breaker", CLOSE, &params).await?;
        Ok(!rows.is_empty())
    }
}

fn breaker(row: &Row) -> BreakerRow {
    BreakerRow {
        tenant: row.get(1),
        state: match row.get(2) {
            true => BreakerState::Open,
            false => BreakerState::HalfOpen,
        },
        opened_at: row.get(3),
        probe_at: row.get(4),
        trips: row.get(5),
        reason: row.get(6),
    }
}
