//! `postroad.enqueue`, as any program may call it inside its own transaction.

use postroad_common::job::JobId;
use postroad_common::store::Ending;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::store_fixture::{Room, id};

#[tokio::test]
async fn named_arguments_work_as_the_interface_shows_them() {
    let room = Room::open().await;
    let job = enqueue(
        &room.sql,
        r#"kind => 'sms', args => '{"to":"+33639980606","text":"hi"}', queue => 'sms',
           run_at => now() + interval '5 minutes', dedup_key => 'order-17', tenant => 'acme'"#,
    )
    .await;

    let sql = "select tenant, queue, kind, state::text, priority, attempt, on_lost,
                  run_at - created_at = interval '5 minutes', args::text
               from postroad.jobs where id = $1";
    let row = room.sql.query_one(sql, &[job.as_uuid()]).await.unwrap();
    let texts = [0, 1, 2, 3, 6].map(|n| row.get::<_, &str>(n));
    assert_eq!(texts, ["acme", "sms", "sms", "scheduled", "hold"]);
    assert_eq!((row.get::<_, i16>(4), row.get::<_, i32>(5)), (1, 0));
    assert!(row.get::<_, bool>(7));
    assert_eq!(
        row.get::<_, &str>(8),
        r#"{"to":"+33639980606","text":"hi"}"#
    );
}

#[tokio::test]
async fn a_kind_alone_is_enough() {
    let room = Room::open().await;
    let job = enqueue(&room.sql, "'echo'").await;

    let sql = "select j.queue || ' ' || j.tenant || ' ' || j.args::text || ' ' || j.priority
               from postroad.jobs j";
    assert_eq!(room.value::<String>(sql).await, "default default {} 1");
    assert_eq!(job.as_uuid().get_version_num(), 7);
}

#[tokio::test]
async fn text_and_json_are_kept_byte_for_byte_and_jsonb_is_taken() {
    let room = Room::open().await;
    let given = r#"{ "b" :1.0,  "a": "\u00e9", "b":2 }"#;
    let stored = async |cast: &str| -> String {
        let job = enqueue(&room.sql, &format!("'echo', args => '{given}'{cast}")).await;
        room.look(job, "args::text").await
    };

    assert_eq!(stored("").await, given);
    assert_eq!(stored("::text").await, given);
    assert_eq!(stored("::json").await, given);
    assert_eq!(stored("::jsonb").await, r#"{"a": "é", "b": 2}"#);
}

#[tokio::test]
async fn a_job_goes_with_its_callers_transaction() {
    let mut room = Room::open().await;
    let tx = room.sql.transaction().await.unwrap();
    let sql = "select postroad.enqueue('echo', dedup_key => 'k', queue => 'new', tenant => 'new')";
    tx.query_one(sql, &[]).await.unwrap();
    tx.rollback().await.unwrap();

    let sql = "select (select count(*) from postroad.job) + (select count(*) from postroad.dedup)
               + (select count(*) from postroad.queue where name = 'new')
               + (select count(*) from postroad.tenant where name = 'new')";
    assert_eq!(room.value::<i64>(sql).await, 0);
}

#[tokio::test]
async fn a_role_with_no_rights_on_the_tables_may_enqueue() {
    let room = Room::open().await;
    room.execute("grant usage on schema postroad to public; set role pg_monitor")
        .await;

    let job = enqueue(&room.sql, "'echo'").await;

    assert!(
        room.sql
            .query("select from postroad.job", &[])
            .await
            .is_err()
    );
    room.execute("reset role").await;
    assert_eq!(room.state(job).await, "scheduled");
}

#[tokio::test]
async fn a_second_job_with_the_key_is_the_first_one() {
    let room = Room::open().await;
    let first = enqueue(&room.sql, "'echo', dedup_key => 'k'").await;

    assert_eq!(
        enqueue(&room.sql, "'echo', dedup_key => 'k', args => '2'").await,
        first
    );
    assert_eq!(room.look::<String>(first, "args::text").await, "{}");
    for other in [
        "'webhook', dedup_key => 'k'",
        "'echo', dedup_key => 'k', tenant => 'other'",
        "'echo', dedup_key => 'K'",
        "'echo'",
    ] {
        assert_ne!(enqueue(&room.sql, other).await, first, "{other}");
    }
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_job_is_unfinished_and_no_longer_than_told() {
    let room = Room::open().await;
    let again = "'echo', dedup_key => 'k', dedup_for => '0'";
    let first = enqueue(&room.sql, again).await;

    assert_eq!(enqueue(&room.sql, again).await, first, "unfinished");
    complete_all(&room).await;
    assert_ne!(enqueue(&room.sql, again).await, first, "finished");
}

#[tokio::test]
async fn a_key_that_has_not_expired_outlives_its_job() {
    let room = Room::open().await;
    let again = "'echo', dedup_key => 'k', dedup_for => '1 hour'";
    let first = enqueue(&room.sql, again).await;
    complete_all(&room).await;

    assert_eq!(enqueue(&room.sql, again).await, first);
    room.execute("update postroad.dedup set expires_at = now() - interval '1 s'")
        .await;
    assert_ne!(enqueue(&room.sql, again).await, first);
}

#[tokio::test]
async fn of_two_callers_at_once_the_second_waits_and_gets_the_firsts_job() {
    let room = Room::open().await;
    let (first, second) = two_at_once(&room, "'echo', dedup_key => 'k'", "commit").await;

    assert_eq!(first, second);
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        1
    );
}

#[tokio::test]
async fn of_two_callers_at_once_the_second_inserts_where_the_first_rolls_back() {
    let room = Room::open().await;
    let (first, second) = two_at_once(&room, "'echo', dedup_key => 'k'", "rollback").await;

    assert_ne!(first, second);
    assert_eq!(room.state(second).await, "scheduled");
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        1
    );
}

/// The key is past its time as soon as it is written, and only the unfinished job keeps it: a
/// job that the second caller could not see when it began to wait.
#[tokio::test]
async fn a_caller_that_waited_sees_the_job_that_keeps_an_expired_key() {
    let room = Room::open().await;
    let call = "'echo', dedup_key => 'k', dedup_for => '0'";
    let (first, second) = two_at_once(&room, call, "commit").await;

    assert_eq!(first, second);
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        1
    );
}

#[tokio::test]
async fn of_two_callers_that_reuse_an_expired_key_the_second_gets_the_firsts_job() {
    let room = Room::open().await;
    enqueue(&room.sql, "'echo', dedup_key => 'k', dedup_for => '0'").await;
    complete_all(&room).await;

    let (first, second) = two_at_once(&room, "'echo', dedup_key => 'k'", "commit").await;

    assert_eq!(first, second);
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        1
    );
}

#[tokio::test]
async fn every_refusal_names_the_field() {
    let room = Room::open().await;
    for (arguments, field) in REFUSED {
        let sql = format!("select postroad.enqueue({arguments})");
        let error = room.sql.query(&sql, &[]).await.expect_err(arguments);
        let error = error.as_db_error().unwrap();
        let start = format!("postroad.enqueue: {field} must ");
        assert!(error.message().starts_with(&start), "{arguments}: {error}");
        assert_eq!(
            *error.code(),
            SqlState::INVALID_PARAMETER_VALUE,
            "{arguments}"
        );
    }
    assert_eq!(
        room.value::<i64>("select count(*) from postroad.job").await,
        0
    );
}

const REFUSED: &[(&str, &str)] = &[
    ("''", "kind"),
    ("'Echo'", "kind"),
    ("null", "kind"),
    ("repeat('x', 64)", "kind"),
    ("E'echo\\n'", "kind"),
    ("'echo', queue => '.q'", "queue"),
    ("'echo', queue => null", "queue"),
    ("'echo', tenant => 'a b'", "tenant"),
    ("'echo', args => to_json(repeat('x', 262143))::text", "args"),
    ("'echo', args => '{'", "args"),
    ("'echo', args => ''", "args"),
    ("'echo', args => null", "args"),
    ("'echo', args => null::json", "args"),
    (
        "'echo', args => repeat('[', 100000) || repeat(']', 100000)",
        "args",
    ),
    ("'echo', priority => -1", "priority"),
    ("'echo', priority => 4", "priority"),
    ("'echo', run_at => 'infinity'", "run_at"),
    ("'echo', run_at => '-infinity'", "run_at"),
    ("'echo', run_at => '1999-12-31 23:59:59+00'", "run_at"),
    ("'echo', run_at => '2200-01-01 00:00+00'", "run_at"),
    ("'echo', expires_at => now()", "expires_at"),
    ("'echo', expires_at => 'infinity'", "expires_at"),
    (
        "'echo', run_at => '2100-01-01', expires_at => '2099-12-31'",
        "expires_at",
    ),
    ("'echo', max_attempts => 0", "max_attempts"),
    ("'echo', max_attempts => 1001", "max_attempts"),
    ("'echo', on_lost => 'x'", "on_lost"),
    ("'echo', dedup_key => ''", "dedup_key"),
    ("'echo', dedup_key => repeat('x', 256)", "dedup_key"),
    ("'echo', dedup_for => '-1 s'", "dedup_for"),
    ("'echo', dedup_for => '367 days'", "dedup_for"),
    ("'echo', dedup_for => null", "dedup_for"),
    ("'echo', traceparent => repeat('x', 256)", "traceparent"),
];

#[tokio::test]
async fn what_is_at_the_limit_is_taken() {
    let room = Room::open().await;
    for arguments in [
        "repeat('x', 63)",
        "'echo', args => to_json(repeat('x', 262142))::text",
        "'echo', args => 'null'",
        "'echo', args => '\"\\u0000\"'",
        "'echo', priority => 0",
        "'echo', priority => null",
        "'echo', run_at => '2000-01-01 00:00+00'",
        "'echo', run_at => '2199-12-31 23:59+00'",
        "'echo', expires_at => now() + interval '1 us'",
        "'echo', max_attempts => 1000",
        "'echo', dedup_key => repeat('x', 255)",
        "'echo', traceparent => repeat('x', 255)",
    ] {
        let job = enqueue(&room.sql, arguments).await;
        assert_eq!(room.state(job).await, "scheduled", "{arguments}");
    }
}

/// Programs that write rows themselves are held to the same limits.
#[tokio::test]
async fn the_tables_refuse_what_the_function_refuses() {
    let room = Room::open().await;
    for (column, value, constraint) in [
        ("priority", "4", "job_priority_in_range"),
        ("priority", "-1", "job_priority_in_range"),
        ("max_attempts", "0", "job_max_attempts_in_range"),
        ("run_at", "'infinity'", "job_run_at_in_range"),
        ("run_at", "'1999-01-01'", "job_run_at_in_range"),
        ("expires_at", "'infinity'", "job_expires_at_in_range"),
        ("on_lost", "'x'", "job_on_lost_is_known"),
        (
            "traceparent",
            "repeat('x', 256)",
            "job_traceparent_is_short",
        ),
        (
            "args",
            "to_json(repeat('x', 262143))",
            "job_args_at_most_256_kib",
        ),
        ("stage", "1", "job_stage_matches_its_columns"),
        ("stage", "4", "job_stage_matches_its_columns"),
        ("started_at", "now()", "job_stage_matches_its_columns"),
        ("fatal", "true", "job_fatal_means_failed"),
        ("retry_after", "'1 s'", "job_retry_after_means_failed"),
    ] {
        let args = if column == "args" { "" } else { ", args" };
        let nothing = if column == "args" { "" } else { ", '{}'" };
        let sql = format!(
            "insert into postroad.job (id, queue_id, kind_id, tenant_id, {column}{args})
             values (gen_random_uuid(), 1, 1, 1, {value}{nothing})"
        );
        let error = room.sql.execute(&sql, &[]).await.expect_err(&sql);
        let violated = error.as_db_error().unwrap().constraint();
        assert_eq!(violated, Some(constraint), "{column} {value}");
    }
}

async fn enqueue(client: &Client, arguments: &str) -> JobId {
    let sql = format!("select postroad.enqueue({arguments})");
    let row = client.query_one(&sql, &[]).await;
    id(row.expect(arguments).get::<_, Uuid>(0))
}

/// Makes one call in two transactions, of which the first ends by `end` when the second waits for
/// it.
async fn two_at_once(room: &Room, arguments: &'static str, end: &str) -> (JobId, JobId) {
    room.add_names().await;
    room.execute("begin").await;
    let first = enqueue(&room.sql, arguments).await;
    let other = room.database.client().await;
    let second = tokio::spawn(async move { enqueue(&other, arguments).await });
    room.somebody_waits().await;
    room.execute(end).await;
    (first, second.await.unwrap())
}

async fn complete_all(room: &Room) {
    for job in room.claim_all().await {
        room.start(job).await;
        room.finish(job, Ending::Completed(None)).await;
    }
}
