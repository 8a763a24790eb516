//! What a tenant's jobs get that say nothing: the same by every way in, and as it is now.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use postroad_common::job::{JobId, NewJob, RunAt};
use postroad_common::schedule::Plan;
use postroad_common::store::{NewSchedule, TenantChange};
use postroad_tests::harness::cluster::Cluster;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::{id_of, quiet};
use crate::store_fixture::{Room, every_second, id, job};

const DEFAULTS: TenantChange = TenantChange {
    weight: None,
    unfinished_max: None,
    submit_rate: None,
    default_priority: Some(Some(3)),
    default_max_attempts: Some(Some(7)),
    default_expires_after: Some(Some(Duration::from_secs(90))),
    in_pipe_max: None,
    rate_per_second: None,
    language: None,
    timezone: None,
    sms_sender: None,
};

/// The three texts with which SQL may name the type of args.
const OVERLOADS: [&str; 3] = ["'{}'::text", "'{}'::json", "'{}'::jsonb"];

impl Room {
    /// With a tenant `acme` that has defaults.
    async fn with_defaults() -> Self {
        let room = Self::open().await;
        room.store.create_tenant("acme", &DEFAULTS).await.unwrap();
        room
    }

    async fn set_acme(&self, settings: &TenantChange) {
        assert!(self.store.set_tenant("acme", settings).await.unwrap());
    }

    /// Priority, attempts, and for how many seconds after it is due it is good.
    async fn got(&self, job: JobId) -> (i16, i32, Option<i32>) {
        (
            self.look(job, "priority").await,
            self.look(job, "max_attempts").await,
            self.look(job, "extract(epoch from expires_at - run_at)::int")
                .await,
        )
    }

    async fn enqueue_in_sql(&self, arguments: &str) -> JobId {
        let sql = format!("select postroad.enqueue('echo', tenant => 'acme', {arguments})");
        id(self.value(&sql).await)
    }

    /// The jobs that a schedule of acme makes: of a tick of years ago, and when it is run.
    async fn of_schedule(&self, new: &NewSchedule) -> [JobId; 2] {
        let sql = "select id from postroad.tenant where name = 'acme'";
        let tenant: i32 = self.value(sql).await;
        self.store.create_schedule(tenant, new).await.unwrap();
        let due = self.store.due_schedules(10, &[]).await.unwrap();
        let due = due.iter().find(|due| due.name == new.name).unwrap();
        let plan = Plan {
            ticks: vec![due.next_at],
            ..Plan::default()
        };
        self.store.tick(due, &plan).await.unwrap();
        let ticks = self.store.schedule_ticks(tenant, &new.name, None, 1).await;
        let run = JobId::new();
        let made = self.store.run_schedule(tenant, &new.name, run, None);
        assert!(made.await.unwrap());
        [ticks.unwrap()[0].job_id.unwrap(), run]
    }
}

fn of_acme() -> NewJob {
    NewJob {
        tenant: "acme".parse().unwrap(),
        ..job()
    }
}

fn keyed(job: NewJob) -> NewJob {
    NewJob {
        dedup_key: Some("a".to_owned()),
        ..job
    }
}

#[tokio::test]
async fn a_job_that_says_nothing_gets_its_tenants_defaults_by_every_way_in() {
    let room = Room::with_defaults().await;
    let mut jobs = vec![room.enqueue(of_acme()).await];
    jobs.push(room.enqueue(keyed(of_acme())).await);
    for args in OVERLOADS {
        jobs.push(room.enqueue_in_sql(&format!("args => {args}")).await);
    }
    jobs.push(room.enqueue_in_sql("priority => null").await);
    for job in jobs {
        assert_eq!(room.got(job).await, (3, 7, Some(90)), "{job}");
    }

    // A schedule has a priority, whoever's it is.
    let [ticked, run] = room.of_schedule(&every_second("s")).await;
    assert_eq!(room.got(run).await, (1, 7, Some(90)));
    // What is made up for is not made in vain: its tick was years ago.
    let (priority, max_attempts, _) = room.got(ticked).await;
    assert_eq!((priority, max_attempts), (1, 7));
    let left = "extract(epoch from expires_at - created_at)::int";
    assert_eq!(room.look::<i32>(ticked, left).await, 90);
}

#[tokio::test]
async fn what_a_job_says_stands_whatever_its_tenants_defaults_are() {
    let room = Room::with_defaults().await;
    let now = Timestamp::now();
    let own = NewJob {
        priority: Some(1),
        run_at: RunAt::At(now),
        max_attempts: Some(20),
        expires_at: Some(now + 1.hour()),
        ..of_acme()
    };
    let mut jobs = room.enqueue_all(std::slice::from_ref(&own)).await;
    jobs.push(
        room.enqueue(keyed(NewJob {
            id: JobId::new(),
            ..own
        }))
        .await,
    );
    for args in OVERLOADS {
        let arguments = format!(
            "args => {args}, priority => 1, max_attempts => 20, expires_at => now() + interval '1 hour'"
        );
        jobs.push(room.enqueue_in_sql(&arguments).await);
    }
    let schedule = NewSchedule {
        max_attempts: Some(20),
        expires_after: Some(Duration::from_secs(3600)),
        ..every_second("s")
    };
    jobs.extend(room.of_schedule(&schedule).await);
    for job in jobs {
        assert_eq!(room.got(job).await, (1, 20, Some(3600)), "{job}");
    }
}

#[tokio::test]
async fn in_one_batch_each_job_gets_what_its_own_tenant_says() {
    let room = Room::with_defaults().await;
    let other = TenantChange {
        default_priority: Some(Some(0)),
        ..TenantChange::default()
    };
    room.store.create_tenant("other", &other).await.unwrap();
    let of_tenant = |name: &str| NewJob {
        tenant: name.parse().unwrap(),
        ..job()
    };
    let names = ["other", "acme", "new", "other", "acme"];
    for with_key in [false, true] {
        let mut jobs = names.map(of_tenant);
        if with_key {
            jobs[4] = keyed(jobs[4].clone());
        }
        let ids = room.enqueue_all(&jobs).await;
        for (name, job) in names.iter().zip(ids) {
            let expected = match *name {
                "acme" => (3, 7, Some(90)),
                "other" => (0, 20, None),
                _ => (1, 20, None),
            };
            assert_eq!(room.got(job).await, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn a_default_that_is_taken_away_is_none_from_then_on() {
    let room = Room::with_defaults().await;
    let before = room.enqueue(of_acme()).await;
    room.set_acme(&TenantChange {
        default_priority: Some(None),
        default_expires_after: Some(None),
        ..TenantChange::default()
    })
    .await;
    let after = [
        room.enqueue(of_acme()).await,
        room.enqueue_in_sql("args => '1'").await,
    ];

    assert_eq!(
        room.got(before).await,
        (3, 7, Some(90)),
        "it is what it was"
    );
    for job in after {
        assert_eq!(room.got(job).await, (1, 7, None));
    }
}

#[tokio::test]
async fn a_default_expiry_is_never_over_when_a_job_comes_and_is_a_time_that_there_is() {
    let room = Room::with_defaults().await;
    let at = |run_at: &str| NewJob {
        run_at: RunAt::At(run_at.parse().unwrap()),
        ..of_acme()
    };
    let left = "extract(epoch from expires_at - created_at)::int";
    for job in [
        room.enqueue(at("2001-01-01T00:00:00Z")).await,
        room.enqueue(keyed(at("2001-01-01T00:00:00Z"))).await,
        room.enqueue_in_sql("run_at => '2001-01-01 00:00+00'").await,
    ] {
        assert_eq!(room.look::<i32>(job, left).await, 90);
    }
    let end: Timestamp = "2199-12-31T23:59:59.999999Z".parse().unwrap();
    for job in [
        room.enqueue(at("2199-12-31T23:59:00Z")).await,
        room.enqueue_in_sql("run_at => '2199-12-31 23:59+00'").await,
    ] {
        assert_eq!(room.look::<Timestamp>(job, "expires_at").await, end);
    }
}

#[tokio::test]
async fn the_table_refuses_defaults_that_no_job_could_have() {
    let room = Room::with_defaults().await;
    for (column, value) in [
        ("default_priority", "4"),
        ("default_priority", "-1"),
        ("default_max_attempts", "0"),
        ("default_max_attempts", "1001"),
        ("default_expires_after", "'0.9 s'"),
        ("default_expires_after", "'367 days'"),
    ] {
        let sql = format!("update postroad.tenant set {column} = {value}");
        let error = room.sql.execute(&sql, &[]).await.expect_err(&sql);
        let violated = error.as_db_error().unwrap().constraint();
        let expected = format!("tenant_{column}_in_range");
        assert_eq!(violated, Some(expected.as_str()), "{sql}");
    }
}

async fn set(cluster: &Cluster, defaults: &[&str]) {
    let args = [&["tenants", "set", "acme"], defaults].concat();
    let said = cluster.cli(&args).await.unwrap();
    assert!(said.status.success(), "{said:?}");
}

/// What an answer says of a job, beside how long it is good.
fn told(job: &Value) -> (&Value, &Value, Option<f64>) {
    let at = |field: &str| {
        let text = job[field].as_str()?;
        Some(text.parse::<Timestamp>().unwrap())
    };
    let good =
        at("expires_at").map(|expiry| (expiry - at("run_at").unwrap()).total(jiff::Unit::Second));
    (
        &job["priority"],
        &job["max_attempts"],
        good.map(Result::unwrap),
    )
}

#[tokio::test]
async fn a_change_is_in_force_in_the_next_request_and_answers_tell_what_came_of_it() {
    let (cluster, _, api) = quiet().await;
    let post = async |job: Value| {
        let taken = api.post("/v1/jobs", &job).await.unwrap();
        assert_eq!(taken.status, StatusCode::CREATED, "{taken:?}");
        let job = taken.json();
        let seen = api.get(&format!("/v1/jobs/{}", id_of(&job))).await.unwrap();
        assert_eq!(seen.json(), job, "the answer is what is there");
        job
    };
    let plain = json!({"kind": "echo"});
    assert_eq!(
        told(&post(plain.clone()).await),
        (&json!(1), &json!(20), None)
    );
    let all = [
        "--default-priority",
        "2",
        "--default-max-attempts",
        "5",
        "--default-expires-after",
        "1h",
    ];
    set(&cluster, &all).await;

    let expected = (&json!(2), &json!(5), Some(3600.0));
    assert_eq!(told(&post(plain.clone()).await), expected);
    let keyed = json!({"kind": "echo", "delay": "5m", "dedup_key": "order-17"});
    let first = post(keyed.clone()).await;
    assert_eq!(told(&first), expected);
    let own = json!({
        "kind": "echo", "priority": 0, "max_attempts": 9,
        "run_at": "2100-01-01T00:00:00Z", "expires_at": "2100-01-01T00:01:00Z",
    });
    assert_eq!(told(&post(own).await), (&json!(0), &json!(9), Some(60.0)));
    let lines = "{\"kind\":\"echo\",\"queue\":\"b\"}\n{\"kind\":\"echo\",\"queue\":\"b\",\"dedup_key\":\"k\"}\n";
    let batch = api.raw(
        Method::POST,
        "/v1/jobs/batch",
        "application/x-ndjson",
        lines,
    );
    assert_eq!(batch.await.unwrap().lines()[0]["accepted"], 2);
    let page = api.get("/v1/jobs?queue=b").await.unwrap().json();
    for job in page["items"].as_array().unwrap() {
        assert_eq!(told(job), expected);
    }
    let args = [
        "enqueue", "--kind", "echo", "--tenant", "acme", "--queue", "c",
    ];
    assert!(cluster.cli(&args).await.unwrap().status.success());
    let page = api.get("/v1/jobs?queue=c").await.unwrap().json();
    assert_eq!(told(&page["items"][0]), expected);

    // The same words are the same, whatever would come of them now.
    set(
        &cluster,
        &["--default-priority", "3", "--default-expires-after", "none"],
    )
    .await;
    let again = api.post("/v1/jobs", &keyed).await.unwrap();
    assert_eq!(
        (again.status, again.json()),
        (StatusCode::OK, first.clone())
    );
    for (field, value, status) in [
        ("priority", json!(1), StatusCode::OK),
        ("priority", json!(2), StatusCode::CONFLICT),
        ("max_attempts", json!(5), StatusCode::CONFLICT),
        (
            "expires_at",
            first["expires_at"].clone(),
            StatusCode::CONFLICT,
        ),
    ] {
        let mut other = keyed.clone();
        other[field] = value;
        let answer = api.post("/v1/jobs", &other).await.unwrap();
        assert_eq!(answer.status, status, "{field}: {answer:?}");
    }
    assert_eq!(told(&post(plain).await), (&json!(3), &json!(5), None));
    cluster.take_down().await.unwrap();
}
