//! What has changed since one looked last: one query for all tenants, whatever their number.
//!
//! A look remembers its snapshot, and the next one finds what is visible to it and was not to that
//! one (`changes_since`). Transactions that commit in another order than they began, or hours later,
//! are found like any other. While one stays open that has written something, the query walks over
//! what has changed since it began: at most a row for each topic and tenant.

use std::time::Duration;

use super::{Error, Store};

/// A look that takes longer is given up, and made anew over another connection.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What is kept in memory until it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A tenant's row: its settings, its limits, whether it is enabled.
    Tenant,
    /// What signs a tenant's webhooks.
    Secret,
    /// A token's scopes, and whether it is good.
    Token,
    /// What operators set of kinds.
    Kind,
    /// What operators set of queues for workers.
    Queue,
}

impl Topic {
    /// The first argument of the trigger `postroad.note_change`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Secret => "secret",
            Self::Token => "token",
            Self::Kind => "kind",
            Self::Queue => "queue",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let all = [
            Self::Tenant,
            Self::Secret,
            Self::Token,
            Self::Kind,
            Self::Queue,
        ];
        all.into_iter().find(|topic| topic.name() == name)
    }
}

/// How far somebody has looked: what was committed by then, on which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    snapshot: String,
    /// When the server was started. Another server's transactions have other ids.
    server: String,
}

/// What came of a look.
#[derive(Clone, Debug)]
pub struct Look {
    /// What the next look begins with.
    pub seen: Seen,
    /// What has changed, and whose it is; 0: nobody's, or everybody's. None: nothing can be said of
    /// what was read before, as this is the first look, or that at another server.
    pub changed: Option<Vec<(Topic, i32)>>,
}

const LOOK: &str = "
    select pg_current_snapshot()::text,
           pg_postmaster_start_time()::text || ' '
               || (select oid from pg_database where datname = current_database()),
           c.topic, c.tenant_id
    from (values (1)) always left join postroad.changes_since($1) c on true";

impl Store {
    /// What has changed since `seen`.
    pub async fn look_for_changes(&self, seen: Option<&Seen>) -> Result<Look, Error> {
        let snapshot = seen.map(|seen| seen.snapshot.as_str());
        let look = async |connection: &mut deadpool_postgres::Object| {
            let statement = connection.prepare_cached(LOOK).await?;
            connection.query(&statement, &[&snapshot]).await
        };
        let rows = self
            .with_connection_within(LOOK_TIMEOUT, "looking for changes", look)
            .await?;
        // There is one row at least; each begins with the same two columns.
        let now = Seen {
            snapshot: rows[0].get(0),
            server: rows[0].get(1),
        };
        let is_same_server = seen.is_some_and(|seen| seen.server == now.server);
        let changed = rows.iter().filter_map(|row| {
            // Of a topic that it does not know, this program keeps nothing.
            let topic = Topic::of_name(row.get::<_, Option<&str>>(2)?)?;
            Some((topic, row.get(3)))
        });
        Ok(Look {
            changed: is_same_server.then(|| changed.collect()),
            seen: now,
        })
    }
}
