//! The only room that knows SQL.
//!
//! One function, one statement, named for what it does; every statement that guards an effect is
//! guarded by state and fence, works on arrays, and says how many rows it moved. Statements are
//! static text, here and nowhere else; those about audiences are put together from such texts. Every call has a bound in time: a database that does not
//! answer is an error, not a wait.
//!
//! Time is the database's: callers pass durations and get durations.

/// The end of a statement that moves the rows of the common table `$gone` to the archive.
macro_rules! archive_from {
    ($gone:literal, $state:literal, $reason:literal, $result:literal, $args:literal) => {
        concat!(
            "insert into postroad.archive
                (id, state, priority, attempt, dispatch, queue_id, kind_id, tenant_id, worker_id,
                 run_at, created_at, started_at, expires_at, max_attempts, on_lost, traceparent,
                 campaign_id, recipient, zone, reason, result, args)
             select id, ",
            $state,
            ", priority, attempt, dispatch, queue_id, kind_id, tenant_id, worker_id,
                 run_at, created_at, started_at, expires_at, max_attempts, on_lost, traceparent,
                 campaign_id, recipient, zone, ",
            $reason,
            ", ",
            $result,
            ", ",
            $args,
            " from ",
            $gone,
            " returning id, dispatch, tenant_id"
        )
    };
}

/// The end of a statement that brings the archived rows of the common table `$back` back to life:
/// under their old fence, so that the ledger does not count them as new; without attempts; and
/// without an expiry that is over, which would only end them again. Whether its recipient may be
/// reached now is looked at anew.
macro_rules! revive_from {
    ($back:literal) => {
        concat!(
            "insert into postroad.job
                (id, dispatch, priority, queue_id, kind_id, tenant_id, max_attempts, run_at,
                 expires_at, created_at, on_lost, traceparent, campaign_id, recipient, zone, closes_at,
                 args)
             select id, greatest(dispatch, 1), priority, queue_id, kind_id, tenant_id, max_attempts,
                 now(), case when expires_at > now() then expires_at end, created_at, on_lost,
                 traceparent, campaign_id, recipient, zone, case when zone is not null then now() end,
                 args
             from ",
            $back,
            " order by id returning id, tenant_id"
        )
    };
}

/// The stop that keeps the job of alias `j` from being started, or null. One that cancels comes first.
/// Those of other tenants and campaigns are not looked at.
macro_rules! stop_of_j {
    () => {
        "(select s.id from postroad.stop s
          where s.lifted_at is null
            and coalesce(s.tenant_id, 0) in (0, j.tenant_id)
            and coalesce(s.campaign_id, 0) in (0, coalesce(j.campaign_id, 0))
            and (s.queue_id is null or s.queue_id = j.queue_id)
            and (s.kind_id is null or s.kind_id = j.kind_id)
            and (s.provider_id is null
                 or s.provider_id = (select q.provider_id from postroad.queue q where q.id = j.queue_id))
            and (s.mode = 'pause' or s.campaign_id is not null or j.created_at <= s.created_at)
          order by s.mode, s.id limit 1)"
    };
}

mod announcements;
mod audience_sql;
mod audiences;
mod audit;
mod campaigns;
mod changes;
mod claims;
mod diagnosis;
mod error;
mod expansion;
mod gauges;
mod housekeeping;
mod job_actions;
mod job_pages;
mod jobs;
mod ledger;
mod listener;
mod names;
mod operations;
mod outcomes;
mod overload;
mod overview;
mod processes;
mod providers;
mod queues;
mod recipients;
mod rescues;
mod retries;
mod schedules;
mod schema;
mod scope;
mod secrets;
mod session;
mod stops;
mod suppressions;
mod tenants;
mod timeline;
mod token_admin;
mod tokens;
mod uploads;
mod view;

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::QueueMode;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Transaction};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use announcements::{Announced, AnnouncementRow, Corrected};
pub use audiences::{AudienceMember, AudienceMembers, AudiencePart, AudienceRow, PutAudience};
pub use audit::{Actor, Changed};
pub use campaigns::{
    Acted, CAMPAIGN_STATES, Campaign, CampaignAction, CampaignAudience, CampaignTexts, NewCampaign,
    Planned, Progress,
};
pub use changes::{Look, Seen, Topic};
pub use claims::{Claim, Claimed, Cursor, DueQueue, Places, SHARED_FOR, ShortPipe, Wanted};
pub use diagnosis::{Need, RowSecurity, Server, Unserved};
pub use error::Error;
pub use expansion::{Child, Expand, Expanding, Made, Outlets, Rejected, Rejection, Turn};
pub use gauges::{COUNTED_MAX, QueueGauges};
pub use housekeeping::{DayToForget, PARTITION_DAYS_AHEAD};
pub use job_actions::{Cancelled, Retried};
pub use job_pages::{JobPage, JobQuery, JobView};
pub use jobs::{Enqueued, Inserted};
pub use ledger::{Account, Doubled, IDS_MAX, Ledger, QueuePipe};
pub use listener::{Called, Channel, Listener};
pub use operations::{NewRedrive, Operation, RedriveFilter};
pub use outcomes::{COMPLETE_IN_TRANSACTION, Ending, Gate, GateVerdict, Moved, Outcome};
pub use overload::{Buffer, OnFull, RightToShed, Waiting};
pub use overview::{AuditFilter, AuditRow, DEAD_COUNTED_MAX, ProcessRow, Totals};
pub use processes::{NewProcess, ProcessId, Role, WatchedProcess};
pub use providers::{
    BreakerOf, BreakerRow, BreakerState, Deleted, ProviderRow, ProviderSettings, WorkerProvider,
};
pub use queues::{KindChange, KindRow, QueueChange, QueueRow};
pub use recipients::{RecipientRow, Upserted};
pub use rescues::Rescued;
pub use retries::{FailedJob, Ruling};
pub use schedules::{DueSchedule, NewSchedule, ScheduleChange, ScheduleRow, TickRow, Ticked};
pub use schema::{SCHEMA_VERSION, SchemaState};
use scope::Plan;
pub use scope::Scope;
pub use secrets::WebhookSecrets;
pub use stops::{Missing, Named, NewStop, Stop, StopMode, StopScope, Stopped, Swept};
pub use suppressions::{SUPPRESSED_AT_ONCE, SUPPRESSION_REASON_BYTES_MAX, Suppression};
pub use tenants::{Rotated, SECRET_OVERLAP, SettingsRow, TenantChange, TenantRow};
pub use timeline::NewEntry;
pub use token_admin::{NewToken, TokenRow};
pub use tokens::FoundToken;
pub use uploads::NewChunk;
pub use view::{Census, JobFilter, JobRow, Resolution};

use crate::config::{DATABASE_URL_DEFAULT, Env};
use crate::job::JobId;

/// A job under one fence: what every write names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fenced {
    /// The job.
    pub id: JobId,
    /// The fence.
    pub dispatch: i64,
}

/// Longer than any statement here takes on a healthy database; shorter than any lease.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the database is and how many connections to keep.
#[derive(Clone, Debug)]
pub struct Settings {
    config: tokio_postgres::Config,
    connections_max: usize,
}

impl Settings {
    /// Reads `DATABASE_URL`. `application` names the connections in `pg_stat_activity`.
    pub fn read(env: &mut Env, application: &str, connections_max: usize) -> Self {
        let url = env
            .text("DATABASE_URL")
            .unwrap_or(DATABASE_URL_DEFAULT)
            .to_owned();
        Self::of_url(&url, application, connections_max).unwrap_or_else(|error| {
            let what = format!(
                "is not a Postgres URL ({error}); one looks like postgres://user:password@host:5432/database"
            );
            env.problem("DATABASE_URL", what);
            Self { config: tokio_postgres::Config::new(), connections_max }
        })
    }

    /// The database at `url`.
    pub fn of_url(
        url: &str,
        application: &str,
        connections_max: usize,
    ) -> Result<Self, tokio_postgres::Error> {
        let mut config: tokio_postgres::Config = url.parse()?;
        let options = match config.get_options() {
            Some(own) => format!("{} {own}", session::OPTIONS),
            None => session::OPTIONS.to_owned(),
        };
        config
            .options(&options)
            .application_name(application)
            .connect_timeout(Duration::from_secs(5))
            // A connection whose other end is gone without a word is dead after this long.
            .tcp_user_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(10));
        Ok(Self {
            config,
            connections_max,
        })
    }

    /// The same with another number of connections.
    #[must_use]
    pub fn with_connections(self, most: usize) -> Self {
        Self {
            connections_max: most,
            ..self
        }
    }
}

/// A pool of connections to the database, and everything that may be asked of it.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    names: names::Names,
    scope: Option<Scope>,
    actor: Option<Actor>,
}

impl Store {
    /// A store for the given database. Connects when first used.
    ///
    /// `sslmode=require` in the URL means TLS with the certificate verified against the system's
    /// roots; without it the connection is plain.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match settings.config.get_ssl_mode() {
            SslMode::Require => Manager::from_config(settings.config, verified_tls()?, recycling),
            _ => Manager::from_config(settings.config, NoTls, recycling),
        };
        let pool = Pool::builder(manager)
            .max_size(settings.connections_max)
            .wait_timeout(Some(CALL_TIMEOUT))
            .create_timeout(Some(CALL_TIMEOUT))
            .recycle_timeout(Some(CALL_TIMEOUT))
            // The one that was used last: it has the statements prepared, and its caches are warm.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .post_create(session::check())
            .build()
            .map_err(|error| Error::Configuration(error.to_string()))?;
        Ok(Self {
            pool,
            names: names::Names::default(),
            scope: None,
            actor: None,
        })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.query("ping", "select 1", &[]).await.map(drop)
    }

    /// A connection that belongs to the caller alone, for migrations.
    pub async fn own_connection(&self) -> Result<deadpool_postgres::ClientWrapper, Error> {
        Ok(Object::take(self.connection().await?))
    }

    async fn connection(&self) -> Result<Object, Error> {
        self.pool.get().await.map_err(Error::of_pool)
    }

    /// Runs one statement of its own transaction.
    async fn query(
        &self,
        operation: &'static str,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.query_by(Plan::Anew, operation, sql, params).await
    }

    async fn query_by(
        &self,
        plan: Plan,
        operation: &'static str,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.with_connection(operation, async |connection| {
            let statement = connection.prepare_cached(sql).await?;
            match self.scope {
                None => connection.query(&statement, params).await,
                Some(scope) => scope.query(connection, &statement, params, plan).await,
            }
        })
        .await
    }

    /// Begins a transaction of several statements, within this store's scope.
    async fn begin<'a>(
        &self,
        connection: &'a mut Object,
    ) -> Result<Transaction<'a>, tokio_postgres::Error> {
        let transaction = connection.transaction().await?;
        if let Some(scope) = self.scope {
            scope.enter(&transaction).await?;
        }
        Ok(transaction)
    }

    /// Lends a connection to `act`, for at most [`CALL_TIMEOUT`].
    async fn with_connection<T>(
        &self,
        operation: &'static str,
        act: impl AsyncFnOnce(&mut Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.with_connection_within(CALL_TIMEOUT, operation, act)
            .await
    }

    /// The same for less time.
    async fn with_connection_within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        act: impl AsyncFnOnce(&mut Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        match tokio::time::timeout(limit, act(&mut connection)).await {
            Ok(result) => result.map_err(|cause| Error::Query { operation, cause }),
            Err(_) => {
                // Its answer may still be under way: nobody else may use this connection.
                drop(Object::take(connection));
                Err(Error::Timeout { operation })
            }
        }
    }
}

fn verified_tls() -> Result<MakeRustlsConnect, Error> {
    // Fails when a provider is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    match MakeRustlsConnect::with_native_certs() {
        Ok((connector, _unreadable)) => Ok(connector),
        Err(_) => Err(Error::Configuration(
            "DATABASE_URL asks for TLS, but this system has no root certificates (Debian: ca-certificates)"
                .to_owned(),
        )),
    }
}

/// Milliseconds as the database takes them.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A duration from the database's milliseconds; what is negative is zero.
fn from_millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
