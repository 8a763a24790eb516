//! What has changed is found, whatever the order in which transactions commit.

use postroad_common::store::{Look, Seen, Store, TenantChange, Topic};
use postroad_tests::harness::database::TestDatabase;

struct Watch {
    store: Store,
    seen: Option<Seen>,
}

impl Watch {
    async fn begin(database: &TestDatabase) -> Self {
        let store = database.store();
        let first = store.look_for_changes(None).await.unwrap();
        assert_eq!(first.changed, None, "there is nothing to compare with");
        let seen = Some(first.seen);
        Self { store, seen }
    }

    /// What the next look finds, in order.
    async fn found(&mut self) -> Vec<(Topic, i32)> {
        let Look { seen, changed } = self
            .store
            .look_for_changes(self.seen.as_ref())
            .await
            .unwrap();
        self.seen = Some(seen);
        let mut changed = changed.expect("it is the same server");
        changed.sort_by_key(|(topic, tenant)| (topic.name(), *tenant));
        changed
    }
}

const TENANTS: &str = "insert into postroad.tenant (id, name) overriding system value values (11, 'acme'), (12, 'other')";

#[tokio::test]
async fn transactions_that_commit_in_another_order_than_they_began_are_both_found() {
    let database = TestDatabase::create().await;
    let (mut early, mut late) = (database.client().await, database.client().await);
    early.batch_execute(TENANTS).await.unwrap();
    let mut watch = Watch::begin(&database).await;

    let weight = "update postroad.tenant set weight = weight + 1 where id = $1";
    let first = early.transaction().await.unwrap();
    first.execute(weight, &[&11]).await.unwrap();
    let second = late.transaction().await.unwrap();
    second.execute(weight, &[&12]).await.unwrap();
    assert_eq!(watch.found().await, [], "nothing is committed");
    second.commit().await.unwrap();
    assert_eq!(watch.found().await, [(Topic::Tenant, 12)]);
    assert_eq!(watch.found().await, [], "once is enough");
    first.commit().await.unwrap();
    assert_eq!(watch.found().await, [(Topic::Tenant, 11)]);

    // Of one tenant: the note of the later one is written over by the earlier.
    let first = early.transaction().await.unwrap();
    first
        .execute("select pg_current_xact_id()", &[])
        .await
        .unwrap();
    late.execute(weight, &[&11]).await.unwrap();
    assert_eq!(watch.found().await, [(Topic::Tenant, 11)]);
    first.execute(weight, &[&11]).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!(watch.found().await, [(Topic::Tenant, 11)]);

    let undone = early.transaction().await.unwrap();
    undone.execute(weight, &[&11]).await.unwrap();
    undone.rollback().await.unwrap();
    assert_eq!(watch.found().await, [], "it did not happen");
}

#[tokio::test]
async fn whatever_is_kept_in_memory_is_found_when_it_changes_and_nothing_else() {
    let database = TestDatabase::create().await;
    let sql = database.client().await;
    let names = "insert into postroad.queue (name) values ('default') on conflict do nothing";
    sql.batch_execute(names).await.unwrap();
    let mut watch = Watch::begin(&database).await;
    sql.batch_execute(TENANTS).await.unwrap();
    let both = [(Topic::Tenant, 11), (Topic::Tenant, 12)];
    assert_eq!(
        watch.found().await,
        both,
        "what was not there may be kept, too"
    );

    let token = "insert into postroad.token (id, tenant_id, name, secret_hash, scopes)
        values ('abcdefgh', 11, 'of a test', decode(repeat('00', 32), 'hex'), '{jobs:read}')";
    sql.batch_execute(token).await.unwrap();
    assert_eq!(watch.found().await, [], "nobody has asked for it yet");
    let changes = [
        (
            "update postroad.token set revoked_at = now()",
            vec![(Topic::Token, 11)],
        ),
        ("update postroad.token set last_used_at = now()", vec![]),
        (
            "insert into postroad.tenant_secret values (12, 'whsec_x')",
            vec![(Topic::Secret, 12)],
        ),
        (
            "delete from postroad.tenant_secret",
            vec![(Topic::Secret, 12)],
        ),
        (
            "update postroad.queue set prefetch = 5",
            vec![(Topic::Queue, 0)],
        ),
        ("update postroad.queue set rate_tokens = 5", vec![]),
        (
            "update postroad.kind set timeout_set = '1 min'",
            vec![(Topic::Kind, 0)],
        ),
    ];
    for (change, expected) in changes {
        sql.batch_execute(change).await.unwrap();
        assert_eq!(watch.found().await, expected, "{change}");
    }
    let settings = TenantChange {
        weight: Some(5),
        ..TenantChange::default()
    };
    watch.store.set_tenant("acme", &settings).await.unwrap();
    assert_eq!(watch.found().await, [(Topic::Tenant, 11)]);

    // As a dump brings it from a server that has had more transactions.
    sql.batch_execute("update postroad.change set xid = '9000000000' where tenant_id = 12")
        .await
        .unwrap();
    assert_eq!(watch.found().await, []);
}
