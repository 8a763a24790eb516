//! Rules mean the same in memory and in Postgres; and whoever goes through an audience meets each of
//! its members once, whatever happens meanwhile.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::civil::{Date, date};
use postroad_common::audience::{Recipient, RecipientInput, Rule};
use postroad_common::store::{PutAudience, Scope, Store, Upserted};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::store_fixture::Room;

const TODAY: Date = date(2024, 2, 29);
/// The tenant that is there from the start.
const TENANT: i32 = 1;
const SCAN_ALL: i64 = 1_000_000;

fn rule(json: &Value) -> Rule {
    Rule::parse(&json.to_string()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn recipient(key: &str, json: Value) -> Recipient {
    let input = RecipientInput::parse(json.to_string().as_bytes());
    let read = input.and_then(|input| input.into_recipient(Some(key)));
    read.unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// The keys whom Postgres picks, by going through all.
async fn picked(store: &Store, rule: &Rule, zone: Option<&str>, step: i64) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), 0);
    loop {
        let found = store.audience_members(TENANT, rule, TODAY, zone, after, step);
        let found = found.await.unwrap();
        assert!(found.members.len() as i64 <= step);
        keys.extend(found.members.into_iter().map(|member| member.key));
        if found.is_end {
            return keys;
        }
        assert!(found.last_id > after, "no step stands still");
        after = found.last_id;
    }
}

// === What is generated ===

/// Few names and few values, so that they meet; and those that have gone wrong somewhere.
const NAMES: [&str; 7] = ["a", "b", "é", "e\u{301}", "a.b", "'\"\\", "$1"];
const TEXTS: [&str; 22] = [
    "",
    " ",
    "1",
    "true",
    "null",
    "a",
    "A",
    "é",
    "e\u{301}",
    "\u{1f600}",
    "%",
    "\\",
    "'",
    "\u{feff}",
    "İ",
    "2024-02-29",
    "2024-03-01",
    "2024-02-29T23:59:59.999999Z",
    "2024-03-01T00:00:00+00:00",
    "2024-02-29T23:00:00-01:00",
    "2023-02-29",
    "2024-02-29T24:00:00Z",
];
const MOMENTS: [&str; 7] = [
    "2024-02-29",
    "2024-03-01",
    "2024-02-29T23:59:59.999999Z",
    "2024-02-29T23:59:59.9999999Z",
    "2024-03-01T00:00:00Z",
    "0001-01-01",
    "9999-12-30",
];
const NUMBERS: [&str; 20] = [
    "0",
    "-0",
    "-0.0",
    "1",
    "1.0",
    "1.0000000000000002",
    "0.1",
    "0.30000000000000004",
    "-1",
    "10",
    "1e1",
    "9007199254740991",
    "-9007199254740991",
    "9007199254740992.0",
    "1e18",
    "1e30",
    "1e-100",
    "1e100",
    "-1e30",
    "123456789012345680000",
];
const COUNTRIES: [&str; 4] = ["FR", "DE", "GB", "ZZ"];
const LANGUAGES: [&str; 8] = [
    "en",
    "en-GB",
    "eng",
    "zh-Hant",
    "zh-Hant-TW",
    "ZH",
    "en-gb-x-y",
    "fr",
];
const PLANS: [&str; 4] = ["pro", "Pro", "é", "e\u{301}"];
const BIRTHS: [&str; 8] = [
    "2004-02-29",
    "2004-02-28",
    "2004-03-01",
    "2003-02-28",
    "2003-03-01",
    "1850-01-01",
    "2024-02-29",
    "2024-03-01",
];

fn number() -> impl Strategy<Value = Value> {
    let near = (-3_i32..=3).prop_map(Value::from);
    let any = any::<f64>().prop_filter_map("a number that is taken", |number| {
        let size = number.abs();
        let is_taken = size == 0.0 || (1e-100..=1e100).contains(&size);
        is_taken.then(|| Value::from(number))
    });
    let known = prop::sample::select(&NUMBERS[..])
        .prop_map(|text| serde_json::from_str(text).expect("they are numbers"));
    prop_oneof![3 => known, 2 => near, 1 => any]
}

fn text() -> impl Strategy<Value = String> {
    let any = "\\PC{0,4}".prop_filter("jsonb has no NUL", |text: &String| !text.contains('\0'));
    prop_oneof![4 => prop::sample::select(&TEXTS[..]).prop_map(str::to_owned), 1 => any]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(Value::from),
        number(),
        any::<bool>().prop_map(Value::from)
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(&NAMES[..]).prop_map(str::to_owned)
}

/// What an attribute may be, of every type.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => scalar(),
        1 => Just(Value::Null),
        1 => prop::collection::vec(scalar(), 0..3).prop_map(Value::from),
        1 => (name(), scalar()).prop_map(|(name, value)| json!({name: value})),
    ]
}

fn some_of<const N: usize>(all: &'static [&'static str; N]) -> impl Strategy<Value = Vec<String>> {
    let one = prop::sample::select(&all[..]).prop_map(str::to_owned);
    prop::collection::vec(one, 1..4)
}

fn maybe<const N: usize>(all: &'static [&'static str; N]) -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        3 => prop::sample::select(&all[..]).prop_map(Value::from),
    ]
}

fn recipients() -> impl Strategy<Value = Vec<Value>> {
    let attributes = prop::collection::btree_map(name(), value(), 0..5);
    let one = (
        maybe(&LANGUAGES),
        maybe(&COUNTRIES),
        maybe(&PLANS),
        maybe(&BIRTHS),
        attributes,
    );
    let one = one.prop_map(|(language, country, plan, birth_date, attributes)| {
        json!({"language": language, "country": country, "plan": plan, "birth_date": birth_date,
               "attributes": attributes})
    });
    prop::collection::vec(one, 40)
}

fn bounds(one: Value, other: Value, which: u8) -> Map<String, Value> {
    let mut bounds = Map::new();
    if which != 1 {
        bounds.insert("min".to_owned(), one);
    }
    if which != 2 {
        bounds.insert("max".to_owned(), other);
    }
    bounds
}

fn leaf() -> impl Strategy<Value = Value> {
    let values = prop_oneof![
        prop::collection::vec(text().prop_map(Value::from), 1..20),
        prop::collection::vec(number(), 1..20),
        prop::collection::vec(any::<bool>().prop_map(Value::from), 1..3),
    ];
    let moments = prop::sample::select(&MOMENTS[..]).prop_map(Value::from);
    let range = prop_oneof![
        (number(), number(), 0..3_u8),
        (moments.clone(), moments, 0..3_u8),
    ];
    let ages = (0..200_i64, 0..60_i64, 0..3_u8).prop_map(|(one, more, which)| {
        let (min, max) = (one.min(150), (one + more).min(150));
        json!({"age": bounds(json!(min), json!(max), which)})
    });
    prop_oneof![
        3 => (name(), scalar()).prop_map(|(a, v)| json!({"equals": {"attribute": a, "value": v}})),
        3 => (name(), values).prop_map(|(a, v)| json!({"in": {"attribute": a, "values": v}})),
        4 => (name(), range).prop_map(|(a, (one, other, which))| {
            let mut range = bounds(one, other, which);
            range.insert("attribute".to_owned(), a.into());
            json!({"range": range})
        }),
        2 => name().prop_map(|a| json!({"has": {"attribute": a}})),
        1 => some_of(&COUNTRIES).prop_map(|list| json!({"country": list})),
        1 => some_of(&LANGUAGES).prop_map(|list| json!({"language": list})),
        1 => some_of(&PLANS).prop_map(|list| json!({"plan": list})),
        2 => ages,
        1 => Just(json!({"all": true})),
    ]
}

fn rules() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            list.clone().prop_map(|list| json!({"and": list})),
            list.prop_map(|list| json!({"or": list})),
            inner.prop_map(|one| json!({"not": one})),
        ]
    })
}

/// None: its bounds are in the wrong order, which is refused.
fn in_order(rules: &Value) -> Option<Rule> {
    Rule::parse(&rules.to_string()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_says_the_same_in_memory_and_in_postgres() {
    let room = Room::open().await;
    let store = room.store.clone();
    let handle = tokio::runtime::Handle::current();
    // A case is a set of recipients and many rules: the rules are what is looked for.
    let judged = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config {
            cases: 60,
            failure_persistence: None,
            ..Config::default()
        });
        let judged = Cell::new((0_usize, 0_usize));
        let cases = (recipients(), prop::collection::vec(rules(), 25));
        let ran = runner.run(&cases, |(recipients, all_rules)| {
            let (yes, no) = handle.block_on(compare(&store, &recipients, &all_rules))?;
            let (before_yes, before_no) = judged.get();
            judged.set((before_yes + yes, before_no + no));
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{error}"));
        judged.get()
    });
    let (yes, no) = judged.await.unwrap();
    // Both answers are common, or nothing was compared.
    assert!(yes > 2000 && no > 2000, "{yes} matched, {no} did not");
}

async fn compare(
    store: &Store,
    given: &[Value],
    all_rules: &[Value],
) -> Result<(usize, usize), TestCaseError> {
    let recipients: Vec<_> = given
        .iter()
        .enumerate()
        .map(|(n, json)| recipient(&format!("{n:02}"), json.clone()))
        .collect();
    store.put_recipients(TENANT, &recipients).await.unwrap();
    // What is read back is judged, and so is what was put.
    let kept = store.recipients(TENANT, None, 1000).await.unwrap();
    let (mut yes, mut no) = (0, 0);
    for json in all_rules {
        let Some(rule) = in_order(json) else { continue };
        let expected: Vec<_> = recipients
            .iter()
            .filter(|one| rule.matches(one, TODAY))
            .map(|one| one.key.clone())
            .collect();
        let of_kept: Vec<_> = kept
            .iter()
            .filter(|row| rule.matches(&row.recipient, TODAY))
            .map(|row| row.recipient.key.clone())
            .collect();
        prop_assert_eq!(&of_kept, &expected, "{} once it was kept", json);
        let mut found = picked(store, &rule, None, SCAN_ALL).await;
        found.sort_unstable();
        if found != expected {
            let differ = recipients
                .iter()
                .filter(|one| found.contains(&one.key) != expected.contains(&one.key));
            let differ: Vec<_> = differ.map(|one| json!(one).to_string()).collect();
            prop_assert!(
                false,
                "{json}: {} in Postgres, {} in memory; {differ:#?}",
                found.len(),
                expected.len()
            );
        }
        // By another plan: the index on attributes.
        let count = store.count_audience(TENANT, &rule, TODAY).await.unwrap();
        prop_assert_eq!(count, Some(expected.len() as i64), "{}", json);
        // And as the API asks, which is not let to that index.
        let scoped = store.scoped(Scope::Tenant(TENANT));
        let sample = scoped.sample_audience(TENANT, &rule, TODAY, 100).await;
        let mut sample = sample.unwrap().expect("there are few");
        sample.sort_unstable();
        prop_assert_eq!(&sample, &expected, "{} by the API", json);
        yes += expected.len();
        no += recipients.len() - expected.len();
    }
    Ok((yes, no))
}

#[tokio::test]
async fn recipients_are_put_many_at_once_and_what_is_the_same_is_not_written() {
    let room = Room::open().await;
    let many: Vec<_> = (0..3000)
        .map(|n| recipient(&format!("user-{n}"), json!({"attributes": {"n": n}})))
        .collect();
    let put = async |all: &[Recipient]| room.store.put_recipients(TENANT, all).await.unwrap();
    let counts = |created, updated, unchanged| Upserted {
        created,
        updated,
        unchanged,
    };
    assert_eq!(put(&many).await, counts(3000, 0, 0));
    assert_eq!(put(&many).await, counts(0, 0, 3000));
    assert_eq!(put(&[]).await, counts(0, 0, 0));
    // Of one key twice the last counts.
    let other = recipient("user-7", json!({"plan": "pro"}));
    assert_eq!(
        put(&[many[7].clone(), other.clone()]).await,
        counts(0, 1, 1)
    );
    let kept = room
        .store
        .recipient_by_key(TENANT, "user-7")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.recipient, other);
    assert!(kept.updated_at > kept.created_at);

    assert!(room.store.delete_recipient(TENANT, "user-7").await.unwrap());
    assert!(!room.store.delete_recipient(TENANT, "user-7").await.unwrap());
    for key in ["user-7", "", "no\0such"] {
        assert!(
            room.store
                .recipient_by_key(TENANT, key)
                .await
                .unwrap()
                .is_none()
        );
    }

    // Pages by key hold each once.
    let (mut keys, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = room
            .store
            .recipients(TENANT, after.as_deref(), 700)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.recipient.key.clone());
        keys.extend(page.into_iter().map(|row| row.recipient.key));
    }
    let mut expected: Vec<_> = many.iter().map(|one| one.key.clone()).collect();
    expected.retain(|key| key != "user-7");
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn two_imports_of_the_same_recipients_at_once_both_end() {
    let room = Room::open().await;
    let many: Vec<_> = (0..2000)
        .map(|n| recipient(&format!("{n}"), json!({})))
        .collect();
    let imports = (0..6).map(|n| {
        let (store, mut many) = (room.store.clone(), many.clone());
        for one in &mut many {
            one.plan = Some(n.to_string());
        }
        if n % 2 == 0 {
            many.reverse();
        }
        async move {
            for _ in 0..3 {
                store.put_recipients(TENANT, &many).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(imports).await;
    let plans: i64 = room
        .value("select count(distinct plan) from postroad.recipient")
        .await;
    assert_eq!(plans, 1, "each import is taken as a whole");
}

#[tokio::test]
async fn whoever_goes_through_an_audience_meets_each_member_once_while_others_come_and_go() {
    let room = Room::open().await;
    let (store, zones) = (&room.store, ["Europe/Paris", "Asia/Tokyo", ""]);
    let of = |n: usize, plan: &str| {
        let zone = Some(zones[n % zones.len()]).filter(|zone| !zone.is_empty());
        recipient(
            &format!("{n:05}"),
            json!({"timezone": zone, "plan": plan, "attributes": {"n": n}}),
        )
    };
    let there: Vec<_> = (0..3000).map(|n| of(n, "pro")).collect();
    store.put_recipients(TENANT, &there).await.unwrap();
    let rule = rule(
        &json!({"and": [{"plan": ["pro"]}, {"not": {"equals": {"attribute": "n", "value": 5}}}]}),
    );

    // Some stay as they are, some are changed and still match, some go, and some come.
    let stays = |n: usize| !n.is_multiple_of(5);
    let (mut met, mut after, mut step) = (HashMap::<String, usize>::new(), 0, 0_usize);
    loop {
        let found = store
            .audience_members(TENANT, &rule, TODAY, None, after, 97)
            .await
            .unwrap();
        for member in &found.members {
            *met.entry(member.key.clone()).or_default() += 1;
        }
        let begin = step * 40;
        for n in (begin..begin + 40).filter(|n| !stays(*n) && *n < 3000) {
            store
                .delete_recipient(TENANT, &format!("{n:05}"))
                .await
                .unwrap();
        }
        let mut changed: Vec<_> = (begin..begin + 40)
            .filter(|n| stays(*n))
            .filter(|n| *n < 3000)
            .map(|n| of(n, "pro"))
            .collect();
        for one in &mut changed {
            one.addresses = BTreeMap::from([("push".to_owned(), step.to_string())]);
        }
        changed.push(of(10_000 + step, "pro"));
        store.put_recipients(TENANT, &changed).await.unwrap();
        if found.is_end {
            break;
        }
        (after, step) = (found.last_id, step + 1);
    }
    for (key, times) in &met {
        assert_eq!(*times, 1, "{key}");
    }
    for n in (0..3000).filter(|n| stays(*n)) {
        assert!(met.contains_key(&format!("{n:05}")), "{n}");
    }
    assert!(!met.contains_key("00005"));
}

#[tokio::test]
async fn the_zones_of_an_audience_together_are_the_whole_of_it() {
    let room = Room::open().await;
    let zones = ["Europe/Paris", "Asia/Tokyo", "America/New_York", "UTC"];
    let many: Vec<_> = (0..1000_usize)
        .map(|n| recipient(&n.to_string(), json!({"timezone": zones.get(n % 5)})))
        .collect();
    assert_eq!(room.store.audience_zones(TENANT).await.unwrap(), [""; 0]);
    room.store.put_recipients(TENANT, &many).await.unwrap();
    let found = room.store.audience_zones(TENANT).await.unwrap();
    assert_eq!(
        found,
        ["", "America/New_York", "Asia/Tokyo", "Europe/Paris", "UTC"]
    );
    let everybody = rule(&json!({"all": true}));
    let mut met = BTreeSet::new();
    for zone in &found {
        let members = picked(&room.store, &everybody, Some(zone), 33).await;
        assert_eq!(members.len(), 200, "{zone}");
        met.extend(members);
    }
    assert_eq!(met.len(), 1000);
    assert_eq!(
        room.store.audience_zones(TENANT + 1).await.unwrap(),
        [""; 0]
    );
}

#[tokio::test]
async fn members_of_many_bytes_come_a_few_at_a_time_and_all_of_them() {
    let room = Room::open().await;
    let long = "x".repeat(8000);
    let of = |n: usize| recipient(&format!("{n:04}"), json!({"attributes": {"long": long}}));
    let many: Vec<_> = (0..1000).map(of).collect();
    room.store.put_recipients(TENANT, &many).await.unwrap();
    let all = rule(&json!({"all": true}));
    let step = room
        .store
        .audience_members(TENANT, &all, TODAY, None, 0, 1000);
    let step = step.await.unwrap();
    assert!((500..600).contains(&step.members.len()), "4 MiB of them");
    assert!(!step.is_end);
    assert_eq!(picked(&room.store, &all, None, 1000).await.len(), 1000);
}

#[tokio::test]
async fn a_selective_rule_does_not_make_one_step_long() {
    let room = Room::open().await;
    let many: Vec<_> = (0..1000)
        .map(|n| recipient(&n.to_string(), json!({"attributes": {"n": n}})))
        .collect();
    room.store.put_recipients(TENANT, &many).await.unwrap();
    let one = rule(&json!({"equals": {"attribute": "n", "value": 999}}));
    let step = room
        .store
        .audience_members(TENANT, &one, TODAY, None, 0, 100)
        .await
        .unwrap();
    // They were put, and are gone through, in the order of their keys.
    let first = room.store.recipients(TENANT, None, 100).await.unwrap();
    assert_eq!(
        (step.last_id, step.members.len(), step.is_end),
        (first[99].id, 0, false)
    );
    assert_eq!(picked(&room.store, &one, None, 100).await, ["999"]);
    let nobody = room
        .store
        .audience_members(TENANT + 1, &one, TODAY, None, 0, 100)
        .await
        .unwrap();
    assert_eq!((nobody.last_id, nobody.is_end), (0, true));
}

#[tokio::test]
async fn no_way_to_the_index_of_attributes_leads_to_another_tenants_recipients() {
    let room = Room::open().await;
    let acme = "insert into postroad.tenant (name) values ('acme') returning id";
    let acme: i32 = room.value(acme).await;
    let (few, many) = (json!({"attributes": {"a": 1}}), 25_000);
    for tenant in [TENANT, acme] {
        let mut all = vec![recipient("few", few.clone())];
        all.extend((0..many).map(|n| recipient(&n.to_string(), json!({"attributes": {"b": 1}}))));
        room.store.put_recipients(tenant, &all).await.unwrap();
    }
    let equals = |name| rule(&json!({"equals": {"attribute": name, "value": 1}}));
    // More than are looked for by what they have: the answer is the same.
    for (rule, expected) in [(equals("a"), 1), (equals("b"), many), (equals("c"), 0)] {
        for scope in [Scope::Tenant(acme), Scope::Operator] {
            let count = room
                .store
                .scoped(scope)
                .count_audience(acme, &rule, TODAY)
                .await;
            assert_eq!(count.unwrap(), Some(expected), "{scope:?} {}", rule.json());
        }
    }
    let asked = format!("select count(*) from postroad.recipients_with({acme}, '{{\"a\":1}}', 10)");
    for (name, found) in [
        (acme.to_string(), 1),
        ("*".to_owned(), 1),
        (TENANT.to_string(), 0),
        (String::new(), 0),
    ] {
        room.execute(&format!("set postroad.tenant = '{name}'"))
            .await;
        assert_eq!(room.value::<i64>(&asked).await, found, "as `{name}`");
    }
}

#[tokio::test]
async fn an_audience_is_put_read_and_deleted_and_every_change_raises_its_version() {
    let room = Room::open().await;
    let store = &room.store;
    let (one, other) = (
        rule(&json!({"plan": ["a"]})),
        rule(&json!({"plan": ["b", "\u{1f600}"]})),
    );
    for (rule, expected) in [
        (&one, PutAudience::Created),
        (&one, PutAudience::Same),
        (&other, PutAudience::Replaced),
    ] {
        assert_eq!(
            store.put_audience(TENANT, "vips", rule).await.unwrap(),
            expected
        );
    }
    let kept = store.audience(TENANT, "vips").await.unwrap().unwrap();
    assert_eq!(
        (kept.version, Rule::parse(kept.rules.get()).unwrap()),
        (2, other)
    );
    for name in ["a", "b", "c"] {
        store.put_audience(TENANT, name, &one).await.unwrap();
    }
    let names = async |after| {
        let page = store.audiences(TENANT, after, 2).await.unwrap();
        page.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(None).await, ["a", "b"]);
    assert_eq!(names(Some("b")).await, ["c", "vips"]);
    assert!(store.delete_audience(TENANT, "vips").await.unwrap());
    assert!(!store.delete_audience(TENANT, "vips").await.unwrap());
    assert!(store.audience(TENANT, "vips").await.unwrap().is_none());
}
