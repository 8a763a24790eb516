//! One rule for jobs, said twice: what `JobInput` takes, the schema takes, by both of its doors
//! (`Store::enqueue` and `postroad.enqueue`); what one refuses, the other refuses; and no refusal
//! is an error of the database's own.
//!
//! Two differences are known and kept out of the cases. Only the database has a clock, so only
//! `postroad.enqueue` refuses an expiry that has passed; a batch that was late takes it, and the
//! job expires. Only `JobInput` limits how deep args are nested, at a tenth of what the database's
//! own stack bears.

use jiff::Timestamp;
use postroad_common::job::{ARGS_BYTES_MAX, ARGS_NESTING_MAX, JobInput, NewJob, TenantName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use serde_json::value::RawValue;
use tokio_postgres::Error;

use crate::store_fixture::Room;

/// The fields of a job as a caller of either door may give them; none: left out.
#[derive(Clone, Debug, Default)]
struct Given {
    kind: String,
    queue: Option<String>,
    tenant: Option<String>,
    args: Option<String>,
    priority: Option<i64>,
    run_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    max_attempts: Option<i64>,
    on_lost: Option<String>,
    dedup_key: Option<String>,
    traceparent: Option<String>,
}

/// A job that all doors take, but for this change.
fn with(change: impl FnOnce(&mut Given)) -> Given {
    let mut given = Given {
        kind: "echo".to_owned(),
        ..Given::default()
    };
    change(&mut given);
    given
}

impl Given {
    fn read(&self) -> Result<NewJob, String> {
        let mut line = json!({
            "kind": self.kind, "queue": self.queue, "tenant": self.tenant,
            "priority": self.priority, "run_at": self.run_at, "expires_at": self.expires_at,
            "max_attempts": self.max_attempts, "on_lost": self.on_lost,
            "dedup_key": self.dedup_key, "traceparent": self.traceparent,
        })
        .to_string();
        if let Some(args) = &self.args {
            // As text: the reader must see what the other door gets.
            line.insert_str(1, &format!("\"args\":{args},"));
        }
        let job = JobInput::parse(line.as_bytes()).and_then(JobInput::into_job);
        job.map_err(|error| error.to_string())
    }

    async fn enqueue_in_sql(&self, room: &Room) -> Result<(), Error> {
        let sql = "select postroad.enqueue($1, coalesce($2, '{}'), coalesce($3, 'default'), $4,
            $5::bigint::integer, $6, $7, coalesce($8, 'default'),
            $9::bigint::integer, $10, '24 hours', $11)";
        let Self {
            kind,
            queue,
            tenant,
            args,
            priority,
            run_at,
            expires_at,
            max_attempts,
            on_lost,
            dedup_key,
            traceparent,
        } = self;
        let row = room
            .sql
            .query_one(
                sql,
                &[
                    kind,
                    args,
                    queue,
                    run_at,
                    priority,
                    expires_at,
                    dedup_key,
                    tenant,
                    max_attempts,
                    on_lost,
                    traceparent,
                ],
            )
            .await;
        row.map(drop)
    }

    /// Gives the job to all doors; whether they took it.
    async fn check(&self, room: &Room) -> bool {
        let read = self.read();
        let in_sql = self.enqueue_in_sql(room).await;
        match (read, in_sql) {
            (Ok(job), Ok(())) => {
                let enqueued = room.store.enqueue(&[job], false).await;
                assert!(enqueued.is_ok(), "{self:.300?}: {enqueued:?}");
                true
            }
            (Err(refusal), Err(error)) => {
                assert!(is_refusal(&error), "{self:.300?}: {refusal}: {error:?}");
                false
            }
            (read, in_sql) => panic!("{self:.300?}: JobInput {read:.300?}, SQL {in_sql:?}"),
        }
    }
}

/// Whether SQL says that the caller gave it something wrong: class 22, data exceptions.
fn is_refusal(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|code| code.code().starts_with("22"))
}

fn texts() -> Vec<String> {
    let short = [
        "",
        " ",
        "a",
        "A",
        "0",
        "_a",
        "-a",
        ".a",
        "a.b_c-d",
        "a b",
        "a\n",
        "a\0b",
        "a\r\nb",
        "ä",
        "\u{202e}abc",
        "\u{200b}",
        "👩\u{200d}👧",
        "'; drop table postroad.job; --",
        "$1",
        "\\x00",
        "../../etc/passwd",
        "%s%n",
        "<script>",
        "null",
        "retry",
        "hold",
        "Retry",
        "default",
    ];
    let short = short.iter().map(ToString::to_string);
    let long = [62, 63, 64, 255, 256].map(|length| "x".repeat(length));
    short
        .chain(long)
        .chain(["é".repeat(127), "é".repeat(128)])
        .collect()
}

fn args() -> Vec<String> {
    let short = [
        "0",
        "-0",
        "1e999999",
        "1.50",
        "null",
        "true",
        "[]",
        "{}",
        r#""""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#"{"a":1,"a":2}"#,
        r#"{"":{"":[]}}"#,
        r#""\/\b\f""#,
        "\"👩\u{200d}👧\u{202e}\"",
        "\"\u{7f}\u{80}\"",
        "[1 ,\r\n\t2]",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "NaN",
        "[1,]",
        "{a:1}",
        "'a'",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"a\0\"",
        "nul",
        "1 2",
        "\u{a0}1",
        "\u{feff}1",
        "/* */1",
    ];
    let short = short.iter().map(ToString::to_string);
    let long = |length: usize| format!(r#""{}""#, "x".repeat(length - 2));
    let long = [ARGS_BYTES_MAX, ARGS_BYTES_MAX + 1].map(long);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let objects = |depth: usize| r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
    let deep = [
        nested(ARGS_NESTING_MAX),
        nested(100_000),
        objects(ARGS_NESTING_MAX),
    ];
    short.chain(long).chain(deep).collect()
}

fn times() -> Vec<Timestamp> {
    let texts = [
        "-009999-01-02T01:59:59Z",
        "-004713-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00Z",
        "2100-06-30T23:59:60Z",
        "2150-01-01T00:00:00Z",
        "2150-01-01T00:00:00.000000001Z",
        "2150-01-01T00:00:00.000001Z",
        "2199-12-31T23:59:59.999999999Z",
        "2200-01-01T00:00:00Z",
        "9999-12-30T22:00:00.999999999Z",
    ];
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn numbers() -> [i64; 16] {
    [
        i64::MIN,
        -2_147_483_649,
        -32_769,
        -1,
        0,
        1,
        3,
        4,
        1000,
        1001,
        32_768,
        65_537,
        2_147_483_648,
        4_294_967_297,
        9_007_199_254_740_993,
        i64::MAX,
    ]
}

/// Each field by itself, at and beyond its edges.
fn one_field_each() -> Vec<(&'static str, Given)> {
    let mut cases = Vec::new();
    for text in texts() {
        cases.push(("kind", with(|given| given.kind = text.clone())));
        let some = || Some(text.clone());
        cases.push(("queue", with(|given| given.queue = some())));
        cases.push(("tenant", with(|given| given.tenant = some())));
        cases.push(("on_lost", with(|given| given.on_lost = some())));
        cases.push(("dedup_key", with(|given| given.dedup_key = some())));
        cases.push(("traceparent", with(|given| given.traceparent = some())));
    }
    for args in args() {
        cases.push(("args", with(|given| given.args = Some(args))));
    }
    for number in numbers().map(Some) {
        cases.push(("priority", with(|given| given.priority = number)));
        cases.push(("max_attempts", with(|given| given.max_attempts = number)));
    }
    for at in times() {
        cases.push(("run_at", with(|given| given.run_at = Some(at))));
        for due in times() {
            let both = |given: &mut Given| (given.run_at, given.expires_at) = (Some(due), Some(at));
            // Either may be the one that is wrong.
            cases.push(("_at", with(both)));
        }
    }
    cases
}

#[tokio::test]
async fn each_field_is_taken_by_all_doors_or_by_none() {
    let room = Room::open().await;
    let mut taken = 0;
    let cases = one_field_each();
    for (field, given) in &cases {
        if given.check(&room).await {
            taken += 1;
        } else {
            let refusal = given.read().unwrap_err();
            let is_json = given
                .args
                .as_ref()
                .is_none_or(|args| RawValue::from_string(args.clone()).is_ok());
            assert!(
                refusal.contains(field) || !is_json,
                "{given:.300?}: {refusal}"
            );
        }
    }
    assert!(
        taken > 50 && cases.len() - taken > 50,
        "{taken} of {}",
        cases.len()
    );
}

fn any_given() -> impl Strategy<Value = Given> {
    let name = || {
        let text = prop_oneof![3 => "[a-z0-9][a-z0-9._-]{0,9}", 1 => "(?s).{0,70}"];
        option::of(prop_oneof![4 => text, 1 => prop::sample::select(texts())])
    };
    let short = || {
        option::weighted(
            0.3,
            prop_oneof!["(?s).{0,12}", prop::sample::select(texts())],
        )
    };
    let number = || {
        let number = prop_oneof![2 => 0..4i64, 1 => any::<i64>(), 1 => prop::sample::select(numbers().to_vec())];
        option::weighted(0.5, number)
    };
    let time = || {
        let second = 946_684_800..7_258_118_400i64;
        let at = (second, 0..1_000_000_000)
            .prop_map(|(second, nano)| Timestamp::new(second, nano).unwrap());
        prop_oneof![3 => at, 1 => prop::sample::select(times())]
    };
    // Without a time of its own a job is due now, which only the database knows.
    let times = option::weighted(0.5, (time(), option::of(time())));
    let args = option::of(prop_oneof![
        1 => prop::sample::select(args()),
        1 => "(?s)\"[^\"\\\\\\x00-\\x1f]{0,20}\"",
        1 => "[\\[\\]{},:\"0-9eE.+-]{1,12}",
        1 => "-?[0-9]{1,3}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?",
        1 => "\"(\\\\[\"\\\\/bfnrtu]|[a-f0-9]){0,12}\"",
    ]);
    (
        (name(), name(), name(), args),
        (number(), number(), times),
        (
            option::weighted(0.3, prop::sample::select(vec!["retry", "hold", "x"])),
            short(),
            short(),
        ),
    )
        .prop_map(
            |((kind, queue, tenant, args), (priority, max_attempts, times), texts)| Given {
                kind: kind.unwrap_or_else(|| "echo".to_owned()),
                queue,
                tenant,
                args,
                priority,
                run_at: times.map(|(at, _)| at),
                expires_at: times.and_then(|(_, at)| at),
                max_attempts,
                on_lost: texts.0.map(str::to_owned),
                dedup_key: texts.1,
                traceparent: texts.2,
            },
        )
}

/// As many values as a `proptest!` of the same run has cases.
fn sample<S: Strategy>(strategy: S) -> impl Iterator<Item = S::Value> {
    let mut runner = TestRunner::default();
    let cases = Config::default().cases;
    (0..cases).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

#[tokio::test]
async fn any_job_is_taken_by_all_doors_or_by_none() {
    let room = Room::open().await;
    for given in sample(any_given()) {
        given.check(&room).await;
    }
}

#[tokio::test]
async fn a_name_is_a_name_on_both_sides() {
    let room = Room::open().await;
    let names = vec(
        prop_oneof![
            "[a-z0-9._-]{0,70}",
            "[a-zA-Z0-9._ \n-]{0,5}",
            "(?s)[^\\x00]{0,6}"
        ],
        1..50,
    );
    let asked = texts()
        .into_iter()
        .filter(|text| !text.contains('\0'))
        .collect();
    let cases = sample(names).chain([asked]);
    for texts in cases {
        let sql =
            "select postroad.is_name(n) from unnest($1::text[]) with ordinality u(n, i) order by i";
        let rows = room.sql.query(sql, &[&texts]).await.unwrap();
        for (text, row) in texts.iter().zip(rows) {
            let parsed = text.parse::<TenantName>();
            assert_eq!(parsed.is_ok(), row.get::<_, bool>(0), "{text:?}");
        }
    }
}
