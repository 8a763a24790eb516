//! Whatever a client sends: a clear refusal, no 5xx, no hang, and no row that was not accepted.
//!
//! The tables are those of the bad-input matrix: B1 JSON, B2 headers, B3 fields, B4 times, B6 ids
//! and keys, B7 webhook targets, B8 queries.

use std::time::{Duration, Instant};

use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use postroad_tests::harness::cluster::{Cluster, Program};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::api_fixture::quiet;

/// The longest that an answer may take: less than whoever hangs is waited for, and longer than a commit
/// takes while other tests drop databases.
const ANSWER_MAX: Duration = Duration::from_secs(10);

struct Door {
    cluster: Cluster,
    api: Api,
    accepted: i64,
    cases: usize,
    rss_before: u64,
    id: postroad_tests::harness::cluster::Id,
}

impl Door {
    async fn open() -> Self {
        let (cluster, id, api) = quiet().await;
        // The first requests make what stays: connections, statements, names.
        for _ in 0..20 {
            api.get("/v1/jobs").await.unwrap();
        }
        let rss_before = cluster.footprint(id).unwrap().rss_bytes;
        Self {
            cluster,
            api,
            accepted: 0,
            cases: 0,
            rss_before,
            id,
        }
    }

    /// Sends a body, and says what came of it; anything but an answer in time is a failure.
    async fn submit(&mut self, body: impl Into<Vec<u8>>) -> Answer {
        let body = body.into();
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let started = Instant::now();
        let answer = self
            .api
            .raw(Method::POST, "/v1/jobs", "application/json", body)
            .await
            .unwrap_or_else(|error| panic!("{shown}: {error:#}"));
        self.judge(&shown, &answer, started);
        if answer.status.as_u16() == 201 {
            self.accepted += 1;
        }
        answer
    }

    fn judge(&mut self, what: &str, answer: &Answer, started: Instant) {
        self.cases += 1;
        let status = answer.status.as_u16();
        assert!(status < 500, "{what}: {answer:?}");
        assert!(
            started.elapsed() < ANSWER_MAX,
            "{what}: took {:?}",
            started.elapsed()
        );
        if status >= 400 {
            answer
                .problem(status)
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        }
    }

    /// As many rows as were accepted, and no more memory than that.
    async fn close(self) {
        let sql = "select count(*) from postroad.job";
        let rows: i64 = self.cluster.query(sql, &[]).await.unwrap()[0].get(0);
        assert_eq!(rows, self.accepted, "after {} cases", self.cases);
        let rss = self.cluster.footprint(self.id).unwrap().rss_bytes;
        let grown = rss.saturating_sub(self.rss_before);
        assert!(
            grown < 32 << 20,
            "{grown} bytes more after {} cases",
            self.cases
        );
        println!("{} cases, {} accepted, 0 5xx", self.cases, self.accepted);
        self.cluster.take_down().await.unwrap();
    }
}

#[tokio::test]
async fn b1_json_that_is_none_is_malformed() {
    let mut door = Door::open().await;
    let whole =
        json!({"kind": "echo", "delay": "1h", "args": {"text": "x".repeat(900)}}).to_string();
    for cut in 0..whole.len() {
        let answer = door.submit(&whole.as_bytes()[..cut]).await;
        answer.problem(400).unwrap();
    }
    for broken in [
        &b"\xff"[..],
        b"{\"kind\":\"\xff\"}",
        b"{\"kind\":\"echo\",\"args\":\"\xc3\x28\"}",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf{\"kind\":\"echo\"}",
        b"{\"kind\":\"echo\",\"args\":NaN}",
        b"{\"kind\":\"echo\",\"args\":Infinity}",
        b"{\"kind\":\"echo\",}",
        b"{'kind':'echo'}",
        b"{\"kind\":\"echo\"/*x*/}",
        b"{\"kind\":\"echo\"} // x",
        b"{\"kind\":\"echo\"}{\"kind\":\"echo\"}",
        b"{kind:\"echo\"}",
        b"\"echo\x01\"",
        b"nul",
        b"\0",
        b"{\"kind\":\"echo\",\"args\":01}",
        b"{\"kind\":\"echo\",\"args\":+1}",
        b"{\"kind\":\"echo\",\"args\":.5}",
        b"{\"kind\":\"echo\",\"args\":\"\\x\"}",
    ] {
        let answer = door.submit(broken).await;
        assert!(
            [400, 422].contains(&answer.status.as_u16()),
            "{broken:?}: {answer:?}"
        );
    }
    for not_an_object in [
        "[]",
        "[{\"kind\":\"echo\"}]",
        "1",
        "null",
        "\"echo\"",
        "true",
    ] {
        door.submit(not_an_object).await.problem(422).unwrap();
    }
    let twice = door
        .submit(r#"{"kind":"echo","kind":"other","delay":"1h"}"#)
        .await;
    twice.problem(422).unwrap();
    assert!(twice.text.contains("duplicate field `kind`"), "{twice:?}");
    let nested = |depth: usize| {
        format!(
            r#"{{"kind":"echo","delay":"1h","args":{}{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    for depth in [33, 129, 1000] {
        assert_eq!(
            door.submit(nested(depth)).await.status.as_u16(),
            201,
            "{depth} deep"
        );
    }
    for depth in [1001, 100_000] {
        let refused = door.submit(nested(depth)).await;
        assert_eq!(
            refused.problem(422).unwrap().as_deref(),
            Some("/args"),
            "{depth} deep"
        );
    }
    let long = json!({"kind": "echo", "args": "x".repeat(1 << 20)}).to_string();
    door.submit(long).await.problem(413).unwrap();
    let keys: String = (0..100_000).map(|n| format!("\"k{n}\":1,")).collect();
    door.submit(format!("{{{keys}\"kind\":\"echo\"}}"))
        .await
        .problem(413)
        .unwrap();
    let too_many: String = (0..10_000).map(|n| format!("\"k{n}\":1,")).collect();
    door.submit(format!("{{{too_many}\"kind\":\"echo\"}}"))
        .await
        .problem(422)
        .unwrap();
    door.close().await;
}

#[tokio::test]
async fn b2_headers_that_say_something_else_are_refused() {
    let mut door = Door::open().await;
    let good = r#"{"kind":"echo","delay":"1h"}"#;
    for (kind, status) in [
        ("application/json", 201),
        ("APPLICATION/JSON", 201),
        ("application/json; charset=utf-8", 201),
        ("application/json;charset=UTF-8", 201),
        ("application/json; charset=\"utf-8\"", 201),
        ("application/json; charset=latin1", 415),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("application/jsonx", 415),
        ("json", 415),
        ("", 415),
        ("application/x-ndjson", 415),
        ("*/*", 415),
        ("application/json, text/plain", 415),
    ] {
        let started = Instant::now();
        let answer = door
            .api
            .raw(Method::POST, "/v1/jobs", kind, good)
            .await
            .unwrap();
        door.judge(kind, &answer, started);
        assert_eq!(answer.status.as_u16(), status, "{kind}: {answer:?}");
        door.accepted += i64::from(status == 201);
    }
    for encoding in ["gzip", "deflate", "br", "zstd", "x", "gzip, gzip"] {
        let request = door
            .api
            .request(Method::POST, "/v1/jobs")
            .header("content-type", "application/json");
        let answer = door
            .api
            .send(
                request
                    .header("content-encoding", encoding)
                    .body(vec![0x1f, 0x8b, 8, 0]),
            )
            .await
            .unwrap();
        answer.problem(415).unwrap();
        door.cases += 1;
    }
    door.close().await;
}

/// What no HTTP library lets a client say.
#[tokio::test]
async fn b2_frames_that_contradict_themselves_get_no_job_in() {
    let door = Door::open().await;
    let token = door.api.token().to_owned();
    let body = r#"{"kind":"echo","delay":"1h"}"#;
    let head = |more: &str| {
        format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\nconnection: close\r\n{more}\r\n"
        )
    };
    let long = format!("x-long: {}\r\n", "x".repeat(100 * 1024));
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (what, text) in [
        ("length too small", head("content-length: 5\r\n") + body),
        (
            "length not a number",
            head("content-length: many\r\n") + body,
        ),
        ("length negative", head("content-length: -1\r\n") + body),
        (
            "two lengths",
            head("content-length: 28\r\ncontent-length: 29\r\n") + body,
        ),
        (
            "length huge",
            head("content-length: 99999999999999999999\r\n") + body,
        ),
        (
            "chunked and length",
            head("transfer-encoding: chunked\r\ncontent-length: 28\r\n") + body,
        ),
        (
            "not chunks",
            head("transfer-encoding: chunked\r\n") + "zz\r\n" + body,
        ),
        (
            "unknown transfer",
            head("transfer-encoding: gzip\r\n") + body,
        ),
        (
            "a long header",
            head(&(long + "content-length: 28\r\n")) + body,
        ),
        (
            "many headers",
            head(&(many + "content-length: 28\r\n")) + body,
        ),
        (
            "no such method",
            "BREW /v1/jobs HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        ),
        (
            "trace",
            "TRACE /v1/jobs HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        ),
        (
            "connect",
            "CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        ),
        ("no version", "GET /v1/jobs\r\n\r\n".to_owned()),
        (
            "http 9",
            "GET /v1/jobs HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        ),
        ("not http", "\u{16}\u{3}\u{1}hello\r\n\r\n".to_owned()),
    ] {
        let answer = talk(&door.api, &text).await;
        let status: u16 = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        assert!(status < 500 && status != 201, "{what}: {answer:.300}");
    }
    door.close().await;
}

/// Writes this and reads what is said until the other side closes.
async fn talk(api: &Api, text: &str) -> String {
    let address = api.url("").trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    // It may have been refused before it was all written.
    drop(stream.write_all(text.as_bytes()).await);
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    drop(read.await.expect("the server must not wait for ever"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Nineteen kinds of values, for every field.
fn hostile() -> Vec<Value> {
    vec![
        json!(null),
        json!({"a": 1}),
        json!(["x"]),
        json!(true),
        json!(""),
        json!("   "),
        json!("x".repeat(63)),
        json!("x".repeat(300)),
        json!("x".repeat(70_000)),
        json!(-1),
        json!(9_007_199_254_740_993_i64),
        json!(-0.0),
        json!(1e308),
        json!("a\u{0}b"),
        json!("\u{202e}\u{200b}abc"),
        json!("👩\u{200d}👩\u{200d}👧"),
        json!("'; drop table postroad.job; --"),
        json!("../../etc/passwd"),
        json!("%s%n{}{0}"),
        json!("a\r\nx-evil: 1"),
        json!("<script>alert(1)</script>"),
    ]
}

#[tokio::test]
async fn b3_every_field_takes_what_it_takes_and_names_itself_otherwise() {
    let mut door = Door::open().await;
    let fields = [
        "id",
        "tenant",
        "queue",
        "kind",
        "args",
        "priority",
        "run_at",
        "delay",
        "expires_at",
        "dedup_key",
        "max_attempts",
        "on_lost",
        "traceparent",
        "unknown",
    ];
    for field in fields {
        for value in hostile() {
            let mut job = json!({"kind": "echo", "run_at": "2100-01-01T00:00:00Z"});
            job[field] = value.clone();
            let answer = door.submit(job.to_string()).await;
            match answer.status.as_u16() {
                200 | 201 => {
                    // Stored as it was sent, or not at all.
                    let stored = answer.json();
                    if field == "args" && !value.is_null() {
                        assert_eq!(stored["args"], value, "{field}");
                    }
                    assert_ne!(field, "unknown", "{value}");
                }
                _ => {
                    let pointer = answer.problem(422).unwrap_or_default();
                    let is_at_fault = pointer.as_deref() == Some(&format!("/{field}"))
                        // Both of run_at and delay are given then.
                        || field == "delay";
                    assert!(is_at_fault, "{field} = {value:.80?}: {answer:?}");
                }
            }
        }
    }
    for surrogate in [r#""\ud800""#, r#""\udc00\ud800""#] {
        for field in ["kind", "dedup_key", "queue"] {
            let job = format!(r#"{{"kind":"echo","{field}":{surrogate}}}"#);
            let answer = door.submit(job).await;
            assert!(answer.status.is_client_error(), "{field}: {answer:?}");
        }
    }
    door.close().await;
}

#[tokio::test]
async fn b4_times_follow_the_documented_rules() {
    let mut door = Door::open().await;
    for (time, status) in [
        ("2030-01-01T00:00:00Z", 201),
        ("2030-01-01T00:00:00+02:00", 201),
        ("2000-01-01T00:00:00Z", 201),
        ("2199-12-31T23:59:59Z", 201),
        ("2030-01-01T00:00:00.123456789Z", 201),
        ("2030-06-30T23:59:60Z", 201),
        ("2030-03-31T02:30:00+01:00", 201),
        ("0000-01-01T00:00:00Z", 422),
        ("9999-12-31T23:59:59Z", 422),
        ("10000-01-01T00:00:00Z", 422),
        ("1999-12-31T23:59:59Z", 422),
        ("2200-01-01T00:00:00Z", 422),
        ("2030-01-01T00:00:00", 422),
        ("2030-01-01", 422),
        ("tomorrow", 422),
        ("now", 422),
        ("", 422),
        ("1893456000", 422),
        ("2030-01-01T24:00:00Z", 422),
        ("2030-02-30T00:00:00Z", 422),
        ("2030-01-01T00:00:00+99:99", 422),
        ("-009999-01-01T00:00:00Z", 422),
        ("infinity", 422),
    ] {
        let answer = door
            .submit(json!({"kind": "echo", "run_at": time}).to_string())
            .await;
        assert_eq!(answer.status.as_u16(), status, "{time}: {answer:?}");
        if status == 422 {
            assert_eq!(
                answer.problem(422).unwrap().as_deref(),
                Some("/run_at"),
                "{time}"
            );
        }
    }
    for number in [
        json!(1_893_456_000),
        json!(1_893_456_000.5),
        json!(1_893_456_000_000_i64),
    ] {
        let answer = door
            .submit(json!({"kind": "echo", "run_at": number}).to_string())
            .await;
        assert_eq!(answer.problem(422).unwrap().as_deref(), Some("/run_at"));
    }
    let before = json!({"kind": "echo", "run_at": "2030-01-02T00:00:00Z", "expires_at": "2030-01-01T00:00:00Z"});
    let answer = door.submit(before.to_string()).await;
    assert_eq!(answer.problem(422).unwrap().as_deref(), Some("/expires_at"));
    door.close().await;
}

#[tokio::test]
async fn b6_ids_that_are_none_are_not_found_whoever_asks() {
    let mut door = Door::open().await;
    let long = "a".repeat(256);
    let longer = "a".repeat(10 * 1024);
    for id in [
        "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
        "0193C2A5-7B1E-7C3A-9F00-3B1F5D1C2E4A",
        "0193c2a57b1e7c3a9f003b1f5d1c2e4a",
        "{0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a}",
        "urn:uuid:0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a",
        "1",
        "-1",
        "null",
        "%00",
        "%2e%2e",
        "..%2f..%2fetc",
        "%ff",
        "'%20or%201=1",
        "00000000-0000-0000-0000-000000000000",
        &long,
        &longer,
        "%F0%9F%98%80",
    ] {
        for (method, path) in [
            (Method::GET, format!("/v1/jobs/{id}")),
            (Method::POST, format!("/v1/jobs/{id}/cancel")),
            (Method::POST, format!("/v1/jobs/{id}/retry")),
            (Method::POST, format!("/v1/jobs/{id}/resolve")),
            (Method::GET, format!("/v1/operations/{id}")),
            (Method::POST, format!("/v1/operations/{id}/stop")),
            (Method::GET, format!("/v1/schedules/{id}")),
        ] {
            let started = Instant::now();
            let answer = match method {
                Method::GET => door.api.get(&path).await.unwrap(),
                _ => door
                    .api
                    .call(method, &path, &json!({"verdict": "dead"}))
                    .await
                    .unwrap(),
            };
            door.judge(&path, &answer, started);
            answer
                .problem(404)
                .unwrap_or_else(|error| panic!("{path:.200}: {error:#}"));
        }
    }
    door.close().await;
}

#[tokio::test]
async fn b7_webhooks_into_private_networks_are_refused_when_they_are_handed_in() {
    let mut cluster = Cluster::builder()
        .schedulers(0)
        .workers(0)
        .start()
        .await
        .unwrap();
    // Unlike other tests: nothing private is allowed.
    let strict = Program::api().env("POSTROAD_WEBHOOK_ALLOW", "");
    let id = cluster.start(strict).await.unwrap();
    let api = cluster
        .client(id, Some("acme"), &Permission::ALL)
        .await
        .unwrap();
    let refused = [
        // One address in every form.
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        "http://127.0.0.1./",
        "http://%31%32%37.0.0.1/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        // Networks that are not everybody's.
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://192.0.0.192/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
        "http://198.51.100.1/",
        "http://203.0.113.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        // The same in IPv6, and what embeds IPv4.
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fc00::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
        "http://[::127.0.0.1]/",
        "http://[100::1]/",
        // Tricks.
        "http://user@127.0.0.1/",
        "http://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://exa\tmple.com/",
        "http://example.com/#fragment",
        "http:///127.0.0.1/",
        "http://",
        // Schemes.
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "data:text/plain,x",
        "ws://example.com/",
        "javascript:alert(1)",
        "//example.com/",
        "example.com",
        "",
        // Hosts.
        &format!("http://{}.com/", "a".repeat(64)),
        &format!("http://{}com/", "a.".repeat(130)),
        "http://exa mple.com/",
        "http://-example.com/",
        "http://example..com/",
        "http://ex\u{0}ample.com/",
    ];
    for url in refused {
        let job = json!({"kind": "webhook", "args": {"url": url, "body": "x"}});
        let answer = api.post("/v1/jobs", &job).await.unwrap();
        assert_eq!(
            answer.problem(422).unwrap().as_deref(),
            Some("/args/url"),
            "{url}"
        );
    }
    for args in [
        json!(null),
        json!("http://example.com"),
        json!({}),
        json!({"url": 5}),
        json!(["http://example.com"]),
    ] {
        let answer = api
            .post("/v1/jobs", &json!({"kind": "webhook", "args": args}))
            .await
            .unwrap();
        assert_eq!(
            answer.problem(422).unwrap().as_deref(),
            Some("/args/url"),
            "{args}"
        );
    }
    for url in [
        "https://example.com/hook",
        "http://example.com:8080/",
        "https://bücher.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
    ] {
        let job = json!({"kind": "webhook", "delay": "1h", "args": {"url": url, "body": "x"}});
        assert_eq!(
            api.post("/v1/jobs", &job).await.unwrap().status.as_u16(),
            201,
            "{url}"
        );
    }
    let sql = "select count(*) from postroad.job";
    assert_eq!(
        cluster.query(sql, &[]).await.unwrap()[0].get::<_, i64>(0),
        5
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn b8_queries_that_mean_nothing_are_refused() {
    let mut door = Door::open().await;
    let many = (0..1000)
        .map(|n| format!("kind=k{n}"))
        .collect::<Vec<_>>()
        .join("&");
    let cases = [
        ("limit=0", 422),
        ("limit=-1", 422),
        ("limit=201", 422),
        ("limit=1000000000", 422),
        ("limit=x", 422),
        ("limit=1.5", 422),
        ("limit=99999999999999999999", 422),
        ("limit=", 422),
        ("limit=1&limit=2", 422),
        ("limit=1", 200),
        ("limit=200", 200),
        ("cursor=x", 422),
        ("cursor=", 422),
        ("cursor=0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a", 200),
        ("cursor=%00", 422),
        ("cursor='%20or%201=1--", 422),
        ("state=dead", 200),
        ("state=Dead", 422),
        ("state=", 422),
        ("state=nope", 422),
        ("state=dead,held", 422),
        ("kind=echo", 200),
        ("kind=E", 422),
        ("kind=", 422),
        ("kind=%25", 422),
        ("kind=.*", 422),
        ("kind=%00", 422),
        ("kind=%ff", 422),
        ("queue=x", 200),
        ("queue=a%20b", 422),
        ("tenant=acme", 200),
        ("tenant=umbrella", 422),
        ("tenant=nobody", 422),
        ("sort=created_at", 422),
        ("order=desc", 422),
        ("offset=5", 422),
        ("page=2", 422),
        ("q=x", 422),
        ("unknown", 422),
        ("%", 200),
        ("&&&", 200),
        ("=x", 422),
        ("kind[]=x", 422),
        ("kind=x;limit=1", 422),
        (many.as_str(), 422),
        ("limit=%F0%9F%98%80", 422),
        ("state=%3Cscript%3E", 422),
    ];
    let lists = ["/v1/jobs", "/v1/dead-letters"];
    let whole = ["/v1/queues", "/v1/kinds", "/v1/operations"];
    for path in lists.into_iter().chain(whole) {
        for (query, status) in cases {
            let started = Instant::now();
            let answer = door.api.get(&format!("{path}?{query}")).await.unwrap();
            door.judge(query, &answer, started);
            let is_state = query.starts_with("state=") && path.ends_with("letters");
            // What is shown as a whole takes no parameter at all.
            let is_unknown = is_state || whole.contains(&path) && !["%", "&&&"].contains(&query);
            let expected = if is_unknown { 422 } else { status };
            if answer.status.as_u16() == 422 {
                assert!(
                    answer.json()["parameter"].is_string(),
                    "{path}?{query:.100}"
                );
            }
            let is_lenient = query == "%" && answer.status.is_client_error();
            assert!(
                answer.status.as_u16() == expected || is_lenient,
                "{path}?{query:.100}: {answer:?}"
            );
        }
    }
    door.close().await;
}

#[tokio::test]
async fn paths_and_methods_that_are_none_are_problems_too() {
    let mut door = Door::open().await;
    for (method, path, status) in [
        (Method::GET, "/", 404),
        (Method::GET, "/v1", 404),
        (Method::GET, "/v1/jobs/", 404),
        (Method::GET, "/v2/jobs", 404),
        (Method::GET, "/v1/jobs/a/b/c", 404),
        (Method::GET, "/.env", 404),
        (Method::GET, "/%2e%2e/%2e%2e/etc/passwd", 404),
        (Method::DELETE, "/v1/jobs", 405),
        (Method::PUT, "/v1/jobs", 405),
        (Method::GET, "/v1/dead-letters/redrive", 405),
        (Method::OPTIONS, "/v1/jobs", 405),
        (Method::POST, "/openapi.json", 405),
    ] {
        let started = Instant::now();
        let answer = door
            .api
            .send(door.api.request(method.clone(), path))
            .await
            .unwrap();
        door.judge(path, &answer, started);
        answer
            .problem(status)
            .unwrap_or_else(|error| panic!("{method} {path}: {error:#}"));
        if status == 405 {
            assert!(answer.headers.contains_key("allow"), "{path}");
        }
    }
    let plain = door.api.get("/v1/jobs").await.unwrap();
    for header in [
        "x-request-id",
        "x-content-type-options",
        "content-security-policy",
        "cache-control",
        "referrer-policy",
    ] {
        assert!(plain.headers.contains_key(header), "{header}");
    }
    let own = door
        .api
        .request(Method::GET, "/v1/jobs")
        .header("x-request-id", "my-own.1");
    assert_eq!(
        door.api.send(own).await.unwrap().headers["x-request-id"],
        "my-own.1"
    );
    let evil = door
        .api
        .request(Method::GET, "/v1/jobs")
        .header("x-request-id", "a b;c");
    assert_ne!(
        door.api.send(evil).await.unwrap().headers["x-request-id"],
        "a b;c"
    );
    door.close().await;
}
