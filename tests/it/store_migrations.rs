//! Migrating: from nothing, by many at once, again, and not backwards.

use postroad_common::store::{SCHEMA_VERSION, SchemaState};
use postroad_migrations::{Error, grant_roles, migrate, names};
use postroad_tests::harness::database::TestDatabase;
use tokio_postgres::Client;

#[tokio::test]
async fn an_empty_database_becomes_current() {
    let database = TestDatabase::create_empty().await;
    let store = database.store();
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Older(0));

    let applied = migrate(&mut database.client().await).await.unwrap();

    assert_eq!(applied, names());
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
    let sql = "select postroad.enqueue('echo')";
    database.client().await.query_one(sql, &[]).await.unwrap();
    assert_eq!(store.due_queues(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let before = catalog(&client).await;

    for _ in 0..2 {
        let applied = migrate(&mut database.client().await).await.unwrap();
        assert!(applied.is_empty(), "{applied:?}");
    }

    assert_eq!(catalog(&client).await, before);
}

#[tokio::test]
async fn roles_are_granted_again_beside_programs_at_work() {
    let database = TestDatabase::create().await;
    let mut client = database.client().await;
    grant_roles(&mut client).await.unwrap();
    let policies = "select count(*) from pg_policies where schemaname = 'postroad'";
    let before: i64 = client.query_one(policies, &[]).await.unwrap().get(0);
    assert_eq!(
        before, 79,
        "three for each table that has tenants' rows, and one for breakers of all tenants"
    );

    let mut at_work = database.client().await;
    let open = at_work.transaction().await.unwrap();
    let works = "lock table postroad.job, postroad.archive, postroad.tenant in row exclusive mode";
    open.batch_execute(works).await.unwrap();
    // Whoever waits for these locks waits for ever.
    client
        .batch_execute("set lock_timeout = '5s'")
        .await
        .unwrap();
    grant_roles(&mut client).await.unwrap();
    let after: i64 = client.query_one(policies, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
    open.rollback().await.unwrap();
}

#[tokio::test]
async fn of_twenty_that_migrate_at_once_one_does_it() {
    let database = TestDatabase::create_empty().await;

    let programs = (0..20).map(|_| async { migrate(&mut database.client().await).await });
    let applied = futures_util::future::try_join_all(programs).await.unwrap();

    let applied: Vec<_> = applied
        .into_iter()
        .filter(|names| !names.is_empty())
        .collect();
    assert_eq!(applied, [names()]);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_the_lock_given_back() {
    let database = TestDatabase::create().await;
    let newer = SCHEMA_VERSION + 1;
    let mut client = database.client().await;
    let sql = format!(
        "insert into postroad.schema_history
         select {newer}, 'future', applied_on, checksum from postroad.schema_history limit 1"
    );
    client.batch_execute(&sql).await.unwrap();

    let state = database.store().schema_state().await.unwrap();
    assert_eq!(state, SchemaState::Newer(newer));
    // The first stays connected: a lock that it kept would stop the second.
    for client in [&mut client, &mut database.client().await] {
        let error = migrate(client).await.unwrap_err();
        assert!(
            matches!(error, Error::Newer { found } if found == newer),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_older_schema_is_told_from_a_current_one() {
    let database = TestDatabase::create().await;
    let store = database.store();
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);

    let sql = format!("delete from postroad.schema_history where version = {SCHEMA_VERSION}");
    let client = database.client().await;
    client.batch_execute(&sql).await.unwrap();
    let left = "select max(version) from postroad.schema_history";
    let left = client.query_one(left, &[]).await.unwrap().get(0);

    let state = store.schema_state().await.unwrap();
    assert!(left < SCHEMA_VERSION);
    assert_eq!(state, SchemaState::Older(left));
}

/// Names and definitions of everything in the schema, as text.
async fn catalog(client: &Client) -> String {
    let sql = "select string_agg(one, e'\\n' order by one) from (
            select format('%s.%s %s', table_name, column_name, data_type) as one
            from information_schema.columns where table_schema = 'postroad'
            union all select indexdef from pg_indexes where schemaname = 'postroad'
            union all select oid::regprocedure || md5(prosrc) from pg_proc
            where pronamespace = 'postroad'::regnamespace
            union all select version || name from postroad.schema_history) of_schema";
    client.query_one(sql, &[]).await.unwrap().get(0)
}
