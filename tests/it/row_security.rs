//! Postgres itself keeps tenants apart, table by table, whatever the queries of the api are.
//!
//! What else stands in the way is taken away first: so it is the policy of each table that is seen,
//! and not a right that the api happens not to have today.

use postroad_tests::harness::database::TestDatabase;
use tokio_postgres::Client;

/// Two tenants, by their ids. No other has rows but in the table of tenants.
const ACME: i32 = 1001;
const OTHER: i32 = 1002;

/// What a transaction may say that names nobody. None: it has said nothing at all.
const NOBODY: [Option<&str>; 6] = [
    None,
    Some(""),
    Some("acme"),
    Some("-1"),
    Some("1001 1002"),
    Some("9999999999"),
];

/// A table with a policy. In its texts `{t}` is a tenant, and `{job}` an id of that tenant's.
struct Table {
    name: &'static str,
    /// Where rows have to be before one can be here.
    needs: &'static [&'static str],
    columns: &'static str,
    values: &'static str,
    /// Which row is the tenant's, and what makes a row its own.
    owner: &'static str,
    /// A column whose value may be written.
    touched: &'static str,
}

static TABLES: [Table; 26] = [
    Table {
        name: "announcement",
        needs: &["tenant"],
        columns: "id, tenant_id, fingerprint, content, rules, starts_at, ends_at, created_by",
        values: "{job}, {t}, '', '{}', '{}', now(), now() + interval '1 day', 'somebody'",
        owner: "tenant_id = {t}",
        touched: "updated_at",
    },
    Table {
        name: "announcement_set",
        needs: &["tenant"],
        columns: "tenant_id",
        values: "{t}",
        owner: "tenant_id = {t}",
        touched: "version",
    },
    Table {
        name: "archive",
        needs: &[],
        columns: "id, state, priority, attempt, dispatch, queue_id, kind_id, tenant_id, run_at, created_at",
        values: "{job}, 'completed', 1, 1, 1, 1, 1, {t}, now(), now()",
        owner: "tenant_id = {t}",
        touched: "priority",
    },
    Table {
        name: "attempt_error",
        needs: &["job"],
        columns: "job_id, attempt, code, message",
        values: "{job}, 1, 'failed', 'it did not work'",
        owner: "job_id = {job}",
        touched: "message",
    },
    Table {
        name: "audience",
        needs: &["tenant"],
        columns: "id, tenant_id, name, rules",
        values: "{t}, {t}, 'vips', '{\"all\":true}'",
        owner: "tenant_id = {t}",
        touched: "updated_at",
    },
    Table {
        name: "audit_log",
        needs: &[],
        columns: "actor, tenant_id, action, target",
        values: "'somebody', {t}, 'job.cancel', 'something'",
        owner: "tenant_id = {t}",
        touched: "target",
    },
    Table {
        name: "breaker",
        needs: &["tenant"],
        columns: "provider_id, tenant_id, probe_at, rest, reason",
        values: "1, {t}, now(), '5 s', 'it timed out'",
        owner: "tenant_id = {t}",
        touched: "trips",
    },
    Table {
        name: "campaign",
        needs: &["tenant"],
        columns: "id, public_id, tenant_id, name, content, created_by",
        values: "{t}, {job}, {t}, 'spring', '{}', 'somebody'",
        owner: "tenant_id = {t}",
        touched: "note",
    },
    Table {
        name: "campaign_chunk",
        needs: &["tenant", "campaign"],
        columns: "campaign_id, upload, n, zone, recipients, body",
        values: "{t}, {job}, 1, '', 1, '[]'",
        owner: "campaign_id = {t}",
        touched: "taken",
    },
    Table {
        name: "campaign_cursor",
        needs: &["tenant", "campaign"],
        columns: "campaign_id, zone",
        values: "{t}, ''",
        owner: "campaign_id = {t}",
        touched: "after_id",
    },
    Table {
        name: "campaign_entry",
        needs: &["tenant", "campaign"],
        columns: "campaign_id, made",
        values: "{t}, 1",
        owner: "campaign_id = {t}",
        touched: "made",
    },
    Table {
        name: "campaign_total",
        needs: &["tenant", "campaign"],
        columns: "campaign_id, made, completed, dead, cancelled, expired, suppressed, duplicates, rejected",
        values: "{t}, 1, 0, 0, 0, 0, 0, 0, 0",
        owner: "campaign_id = {t}",
        touched: "made",
    },
    Table {
        name: "dedup",
        needs: &[],
        columns: "tenant_id, kind_id, key, job_id, expires_at",
        values: "{t}, 1, 'a key', {job}, now()",
        owner: "tenant_id = {t}",
        touched: "expires_at",
    },
    Table {
        name: "job",
        needs: &[],
        columns: "id, queue_id, kind_id, tenant_id, args",
        values: "{job}, 1, 1, {t}, '1'",
        owner: "tenant_id = {t}",
        touched: "priority",
    },
    Table {
        name: "ledger_entry",
        needs: &[],
        columns: "tenant_id, accepted",
        values: "{t}, 1",
        owner: "tenant_id = {t}",
        touched: "accepted",
    },
    Table {
        name: "ledger_total",
        needs: &[],
        columns: "tenant_id, accepted, completed, dead, cancelled, expired",
        values: "{t}, 1, 0, 0, 0, 0",
        owner: "tenant_id = {t}",
        touched: "accepted",
    },
    Table {
        name: "operation",
        needs: &[],
        columns: "id, tenant_id, action, filter, planned, actor",
        values: "{job}, {t}, 'redrive', '{}', 0, 'somebody'",
        owner: "tenant_id = {t}",
        touched: "done",
    },
    Table {
        name: "recipient",
        needs: &["tenant"],
        columns: "id, tenant_id, key",
        values: "{t}, {t}, 'somebody'",
        owner: "tenant_id = {t}",
        touched: "plan",
    },
    Table {
        name: "schedule",
        needs: &["tenant"],
        columns: "id, tenant_id, name, cron, timezone, queue_id, kind_id, args",
        values: "{t}, {t}, 'nightly', '@daily', 'UTC', 1, 1, '1'",
        owner: "tenant_id = {t}",
        touched: "priority",
    },
    Table {
        name: "schedule_tick",
        needs: &["tenant", "schedule"],
        columns: "schedule_id, tick_at, tenant_id",
        values: "{t}, '2026-01-01', {t}",
        owner: "tenant_id = {t}",
        touched: "made_at",
    },
    Table {
        name: "stop",
        needs: &["tenant"],
        columns: "id, tenant_id, mode, actor",
        values: "{job}, {t}, 'pause', 'somebody'",
        owner: "tenant_id = {t}",
        touched: "reason",
    },
    Table {
        name: "stop_catch",
        needs: &["tenant", "stop"],
        columns: "stop_id, place, jobs",
        values: "{job}, 'pipe', 1",
        owner: "stop_id = {job}",
        touched: "jobs",
    },
    Table {
        name: "suppression",
        needs: &["tenant"],
        columns: "tenant_id, recipient",
        values: "{t}, '+33639980000'",
        owner: "tenant_id = {t}",
        touched: "reason",
    },
    Table {
        name: "tenant",
        needs: &[],
        columns: "id, name",
        values: "{t}, 'tenant-{t}'",
        owner: "id = {t}",
        touched: "weight",
    },
    Table {
        name: "timeline_entry",
        needs: &[],
        columns: "tenant_id, recipient, id, ends_at, message",
        values: "{t}, 'somebody', {job}, now() + interval '1 day', '{}'",
        owner: "tenant_id = {t}",
        touched: "read_at",
    },
    Table {
        name: "timeline_reader",
        needs: &["tenant"],
        columns: "tenant_id, recipient",
        values: "{t}, 'somebody'",
        owner: "tenant_id = {t}",
        touched: "marked_on",
    },
];

impl Table {
    fn of(name: &str) -> &'static Self {
        let table = TABLES.iter().find(|table| table.name == name);
        table.unwrap_or_else(|| panic!("{name} is none of the tables"))
    }

    fn insert(&self, tenant: i32) -> String {
        let Self {
            name,
            columns,
            values,
            ..
        } = self;
        let insert =
            format!("insert into postroad.{name} ({columns}) overriding system value values ");
        filled(&format!("{insert}({values})"), tenant)
    }

    /// Every way to a row that is there: of this tenant, or of any.
    fn ways(&self, tenant: Option<i32>) -> [String; 3] {
        let Self {
            name,
            owner,
            touched,
            ..
        } = self;
        let such = tenant.map_or_else(String::new, |tenant| {
            filled(&format!("where {owner}"), tenant)
        });
        [
            format!("select from postroad.{name} {such}"),
            format!("update postroad.{name} set {touched} = {touched} {such}"),
            format!("delete from postroad.{name} {such}"),
        ]
    }

    /// Makes a row somebody else's.
    fn gift(&self, from: i32, to: i32) -> String {
        let Self { name, owner, .. } = self;
        let (to, from) = (filled(owner, to), filled(owner, from));
        format!("update postroad.{name} set {to} where {from}")
    }
}

fn filled(text: &str, tenant: i32) -> String {
    let job = format!("'00000000-0000-7000-8000-00000000{tenant}'");
    text.replace("{job}", &job)
        .replace("{t}", &tenant.to_string())
}

/// A database whose api has every right to every table, so that only policies are in its way. The
/// trigger that keeps the audit log has a test of its own.
async fn wide_open() -> TestDatabase {
    let database = TestDatabase::create().await;
    let mut owner = database.client().await;
    postroad_migrations::grant_roles(&mut owner).await.unwrap();
    let open = "grant all on all tables in schema postroad to postroad_api;
        alter table postroad.audit_log disable trigger audit_log_only_grows;
        insert into postroad.provider (name) values ('gateway')";
    owner.batch_execute(open).await.unwrap();
    database
}

/// How many rows a statement reaches for the api in a transaction that has named this tenant; none
/// if Postgres says 42501. Leaves nothing behind.
async fn reached(session: &Client, name: Option<&str>, sql: &str) -> Option<u64> {
    let enter = "savepoint before; set local role postroad_api";
    session.batch_execute(enter).await.unwrap();
    if let Some(name) = name {
        let set = "select set_config('postroad.tenant', $1, true)";
        session.query(set, &[&name]).await.unwrap();
    }
    let done = session.execute(sql, &[]).await;
    session.batch_execute("rollback to before").await.unwrap();
    match done {
        Ok(rows) => Some(rows),
        Err(error) => {
            let code = error.code().map(|code| code.code());
            assert_eq!(code, Some("42501"), "{name:?} {sql}: {error:?}");
            None
        }
    }
}

/// Who may be named, and which of the two tenants they then are: an operator is both.
fn names() -> Vec<(Option<&'static str>, &'static [i32])> {
    let named: [(Option<&str>, &[i32]); 3] = [
        (Some("1001"), &[ACME]),
        (Some("1002"), &[OTHER]),
        (Some("*"), &[ACME, OTHER]),
    ];
    // Nobody first: a session that was named once is not one that has never been.
    let nobody = NOBODY.map(|name| -> (_, &[i32]) { (name, &[]) });
    nobody.into_iter().chain(named).collect()
}

/// In a transaction with a row of each tenant wherever this table needs one.
async fn begin(session: &Client, table: &Table) {
    session.batch_execute("begin").await.unwrap();
    for needed in table.needs {
        fill(session, Table::of(needed)).await;
    }
}

async fn fill(session: &Client, table: &Table) {
    for tenant in [ACME, OTHER] {
        let insert = table.insert(tenant);
        session.batch_execute(&insert).await.unwrap();
    }
}

#[tokio::test]
async fn a_row_is_made_for_the_tenant_that_was_named_and_for_no_other() {
    let database = wide_open().await;
    for table in &TABLES {
        let session = database.client().await;
        begin(&session, table).await;
        for (name, own) in names() {
            for tenant in [ACME, OTHER] {
                let made = reached(&session, name, &table.insert(tenant)).await;
                let expected = own.contains(&tenant).then_some(1);
                assert_eq!(made, expected, "{}: {name:?} for {tenant}", table.name);
            }
        }
    }
}

#[tokio::test]
async fn a_row_is_seen_changed_and_deleted_by_its_tenant_and_is_not_there_for_others() {
    let database = wide_open().await;
    for table in &TABLES {
        let session = database.client().await;
        begin(&session, table).await;
        fill(&session, table).await;
        for (name, own) in names() {
            for tenant in [ACME, OTHER] {
                for way in table.ways(Some(tenant)) {
                    let rows = reached(&session, name, &way).await;
                    let expected = u64::from(own.contains(&tenant));
                    assert_eq!(rows, Some(expected), "{name:?}: {way}");
                }
            }
            // The same for a query that forgets to ask. Operators see what others have, too.
            for way in table.ways(None).iter().filter(|_| own.len() < 2) {
                let rows = reached(&session, name, way).await;
                assert_eq!(rows, Some(own.len() as u64), "{name:?}: {way}");
            }
        }
    }
}

#[tokio::test]
async fn a_row_is_not_given_away() {
    let database = wide_open().await;
    // Nobody gives an identity of Postgres's own another number.
    for table in TABLES.iter().filter(|table| table.name != "tenant") {
        let session = database.client().await;
        begin(&session, table).await;
        fill(&session, table).await;
        let gift = table.gift(ACME, OTHER);
        assert_eq!(reached(&session, Some("1001"), &gift).await, None, "{gift}");
        assert_eq!(
            reached(&session, Some("1002"), &gift).await,
            Some(0),
            "{gift}"
        );
    }
}

/// What is asked for each table of each statement is part of the statement: a function with a setting of
/// its own is called, which takes twenty times as long.
#[tokio::test]
async fn the_conditions_of_policies_are_no_calls() {
    let database = wide_open().await;
    let inlined = "
        select proname from pg_proc
        where pronamespace = 'postroad'::regnamespace and proname in ('visible_tenant', 'sees_all_tenants')
          and proconfig is null and prosqlbody is not null and not prosecdef";
    let found = database.client().await.query(inlined, &[]).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
}

#[tokio::test]
async fn views_show_no_more_than_the_tables_behind_them() {
    let database = wide_open().await;
    let session = database.client().await;
    session.batch_execute("begin").await.unwrap();
    for name in ["tenant", "job", "archive", "ledger_entry"] {
        fill(&session, Table::of(name)).await;
    }
    for (name, own) in names() {
        for tenant in [ACME, OTHER] {
            let is_own = u64::from(own.contains(&tenant));
            // One of them is finished.
            for (view, rows) in [("jobs", 2), ("ledger", 1)] {
                let look = format!("select from postroad.{view} where tenant = 'tenant-{tenant}'");
                let seen = reached(&session, name, &look).await;
                assert_eq!(seen, Some(rows * is_own), "{name:?}: {look}");
            }
        }
    }
}

/// Under the rights that the api really has.
#[tokio::test]
async fn whatever_of_a_tenants_the_api_has_a_right_to_has_a_policy() {
    let database = TestDatabase::create().await;
    let mut owner = database.client().await;
    postroad_migrations::grant_roles(&mut owner).await.unwrap();
    // Partitions, too: their parent's policy does not hold for whoever asks them directly.
    let bound = "
        select c.relname::text, c.relrowsecurity
        from pg_class c
        where c.relnamespace = 'postroad'::regnamespace and c.relkind in ('r', 'p')
          and (c.relrowsecurity or (
              (has_table_privilege('postroad_api', c.oid, 'select, insert, update, delete, truncate')
               or has_any_column_privilege('postroad_api', c.oid, 'select, insert, update'))
              and exists (select from pg_attribute a
                          where a.attrelid = c.oid and a.attname in ('tenant_id', 'job_id'))))
        order by c.relname collate \"C\"";
    let rows = owner.query(bound, &[]).await.unwrap();
    let found: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = TABLES.iter().map(|table| (table.name.to_owned(), true));
    let expected: Vec<_> = expected.collect();
    assert_eq!(
        found, expected,
        "every one of them belongs among the tables here"
    );
}
