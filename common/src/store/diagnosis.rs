//! What `postroad doctor` asks the database about itself and about whoever asks.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Error, Store};

/// The server, and the user of this connection.
#[derive(Clone, Debug)]
pub struct Server {
    /// Such as 150004.
    pub version_number: i32,
    /// Such as `15.4`.
    pub version: String,
    /// Who this connection is.
    pub user: String,
    /// The database's clock, in microseconds since 1970.
    pub clock_micros: i64,
    /// Whether a commit is on disk when it is answered.
    pub synchronous_commit: String,
}

/// Something that a program must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// A table, a view or a function of the schema, the function with its arguments.
    pub object: &'static str,
    /// The column, where not every column will do.
    pub column: Option<&'static str>,
    /// What is to be done with it.
    pub privilege: &'static str,
}

/// How rows are kept apart.
#[derive(Clone, Debug, Default)]
pub struct RowSecurity {
    /// The group roles of `postroad migrate --roles` that this server has.
    pub roles: Vec<String>,
    /// Programs that are connected, as which user, and whether row-level security binds that user.
    pub programs: Vec<(String, String, bool)>,
}

/// A queue with due jobs and nobody who takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Unserved {
    /// The queue.
    pub queue: String,
    /// How long its oldest due job has been due, in seconds.
    pub oldest_due_seconds: f64,
}

const SERVER: &str = "
    select current_setting('server_version_num')::int, current_setting('server_version'),
           current_user::text, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
           current_setting('synchronous_commit')";

/// Privileges on single columns count: some programs may change no more than those.
const LACKS: &str = "
    select n.object, n.privilege, n.attribute
    from unnest($1::text[], $2::text[], $3::text[]) with ordinality
        as n(object, privilege, attribute, number)
    where not case
        when n.privilege = 'EXECUTE'
        then has_function_privilege(to_regprocedure('postroad.' || n.object)::oid, 'EXECUTE')
        when n.privilege = 'DELETE'
        then has_table_privilege(to_regclass('postroad.' || n.object)::oid, 'DELETE')
        when n.attribute is not null
        then has_column_privilege(to_regclass('postroad.' || n.object)::oid, n.attribute, n.privilege)
        else has_any_column_privilege(to_regclass('postroad.' || n.object)::oid, n.privilege)
    end
    order by n.number";

const SCHEMA_USAGE: &str = "
    select coalesce((select has_schema_privilege(oid, 'USAGE') from pg_namespace
                     where nspname = 'postroad'), false)";

const OWNER: &str = "
    select coalesce((select pg_has_role(nspowner, 'USAGE') from pg_namespace
                     where nspname = 'postroad'), false)";

const ROLES: &str = "
    select rolname::text from pg_roles
    where rolname in ('postroad_scheduler', 'postroad_worker', 'postroad_api', 'postroad_readonly')
    order by rolname";

/// Row-level security does not bind superusers, those whom it is said not to, and owners.
const PROGRAMS: &str = "
    select distinct a.application_name, r.rolname::text,
           not (r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, c.relowner, 'USAGE'))
    from pg_stat_activity a
    join pg_roles r on r.oid = a.usesysid
    join pg_class c on c.oid = 'postroad.job'::regclass
    where a.datname = current_database()
      and a.application_name in ('postroad-scheduler', 'postroad-worker', 'postroad-api')
    order by 1, 2";

/// Due for longer than $1, in a queue that no living worker consumes.
const UNSERVED: &str = "
    select q.name, extract(epoch from now() - due.run_at)::double precision
    from postroad.queue q
    cross join lateral (
        select min(one.run_at) as run_at
        from postroad.tenant t
        cross join generate_series(0, 3) p(priority)
        cross join lateral (
            select j.run_at from postroad.job j
            where j.queue_id = q.id and j.tenant_id = t.id and j.priority = p.priority
              and j.stage = 0 and j.run_at <= now()
            order by j.run_at limit 1) one) due
    where due.run_at < now() - $1::float8 * interval '1 ms' and q.paused_at is null
      and not exists (
          select from postroad.process w
          where w.role = 'worker' and w.stopped_at is null and w.lost_at is null
            and w.seen_at > now() - w.lease and q.name = any(w.queues))
    order by q.name";

/// Kinds of the newest unfinished jobs that no worker ever said it runs.
const UNREGISTERED: &str = "
    select distinct k.name
    from (select kind_id from postroad.job order by id desc limit 50000) j
    join postroad.kind k on k.id = j.kind_id
    where k.registered_at is null
    order by k.name";

impl Store {
    /// Who is asked, and who asks.
    pub async fn server(&self) -> Result<Server, Error> {
        let rows = self.query("asking Postgres for its version", SERVER, &[]);
        let row = &rows.await?[0];
        Ok(Server {
            version_number: row.get(0),
            version: row.get(1),
            user: row.get(2),
            clock_micros: row.get(3),
            synchronous_commit: row.get(4),
        })
    }

    /// Which of these this user may not do.
    pub async fn lacks(&self, needs: &[Need]) -> Result<Vec<String>, Error> {
        let usage = self
            .query("asking for permissions", SCHEMA_USAGE, &[])
            .await?;
        if !usage[0].get::<_, bool>(0) {
            return Ok(vec!["USAGE on schema postroad".to_owned()]);
        }
        let objects: Vec<&str> = needs.iter().map(|need| need.object).collect();
        let privileges: Vec<&str> = needs.iter().map(|need| need.privilege).collect();
        let columns: Vec<Option<&str>> = needs.iter().map(|need| need.column).collect();
        let rows = self
            .query(
                "asking for permissions",
                LACKS,
                &[&objects, &privileges, &columns],
            )
            .await?;
        let lack = |row: &Row| {
            let (object, privilege): (&str, &str) = (row.get(0), row.get(1));
            match row.get::<_, Option<&str>>(2) {
                Some(column) => format!("{privilege} ({column}) on postroad.{object}"),
                None => format!("{privilege} on postroad.{object}"),
            }
        };
        Ok(rows.iter().map(lack).collect())
    }

    /// Whether this user owns the schema, as migrations need.
    pub async fn owns_schema(&self) -> Result<bool, Error> {
        let rows = self.query("asking for the schema's owner", OWNER, &[]);
        Ok(rows.await?[0].get(0))
    }

    /// How rows of different tenants are kept apart.
    pub async fn row_security(&self) -> Result<RowSecurity, Error> {
        let roles = self.query("reading roles", ROLES, &[]).await?;
        let programs = self
            .query("reading who is connected", PROGRAMS, &[])
            .await?;
        Ok(RowSecurity {
            roles: roles.iter().map(|row| row.get(0)).collect(),
            programs: programs
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2)))
                .collect(),
        })
    }

    /// Queues with jobs that have been due for longer than this, and no worker.
    pub async fn unserved_queues(&self, patience: Duration) -> Result<Vec<Unserved>, Error> {
        let patience = super::millis(patience) as f64;
        let rows = self
            .query(
                "looking for queues without a worker",
                UNSERVED,
                &[&patience],
            )
            .await?;
        let unserved = |row: &Row| Unserved {
            queue: row.get(0),
            oldest_due_seconds: row.get(1),
        };
        Ok(rows.iter().map(unserved).collect())
    }

    /// Kinds that have unfinished jobs, among the newest of these, and that no worker has registered.
    pub async fn unregistered_kinds(&self) -> Result<Vec<String>, Error> {
        let rows = self
            .query("looking for kinds without a worker", UNREGISTERED, &[])
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
