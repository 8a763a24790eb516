use futures_util::future::join_all;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::provider::{Provider, Reply};
use super::{PATIENT, args, job, loopback, refusal};
use crate::kinds::SigningSecret;
use crate::kinds::webhook::{Webhook, WebhookArgs, WebhookConfig};
use crate::{Handler, OnLost};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Bodies as providers send them: nested, escaped, with numbers that `f64` cannot hold.
const BODIES: [&str; 5] = [
    r#"{"action":"created","issue":{"id":73464126,"title":"Spelling error","body":"It \"works\"\r\n"}}"#,
    r#"{"z":1,"a":[],"amount":12.50,"big":123456789012345678901234567890,"tiny":1e-400}"#,
    r#"{"text":"Gr\u00fc\u00dfe \/ 😀 \ud83d\ude00","url":"https:\/\/example.com\/a?b=c"}"#,
    r#"[null,true,false,0,-0.0,"",{},[[]]]"#,
    r#"{"zen":"Keep it logically awesome.","hook":{"config":{"insecure_ssl":"0"}},"\"":"\\"}"#,
];

fn webhook(secret: Option<&str>) -> Webhook {
    let secret = secret.map(|text| text.parse().expect("a secret"));
    Webhook::with_limits(
        WebhookConfig {
            secret,
            allow: loopback(),
        },
        PATIENT,
    )
    .expect("a handler")
}

fn args_with_body(url: &str, body: &str) -> WebhookArgs {
    args(&format!(r#"{{"url":{},"body":{body}}}"#, json!(url)))
}

#[tokio::test]
async fn a_request_is_signed_and_says_whose_it_is() {
    let provider = Provider::start(Reply::with_body("200 OK", "thanks")).await;
    let webhook = webhook(Some(SECRET));
    let job = job(&webhook);
    let json = json!({
        "url": provider.url(),
        "body": {"n": 1},
        "headers": {"Authorization": "Bearer theirs", "X-Event": "push"},
    });
    let before = jiff::Timestamp::now().as_second();
    let done = webhook
        .run(job.clone(), args(&json.to_string()))
        .await
        .expect("done");
    assert_eq!(done.result(), Some(r#"{"status":200,"body":"thanks"}"#));
    assert_eq!(webhook.policy().on_lost, OnLost::Retry);

    let request = provider.requests().remove(0);
    let id = job.id.to_string();
    let timestamp = request.header("webhook-timestamp").expect("a timestamp");
    let seconds: i64 = timestamp.parse().expect("seconds");
    assert!((before..=jiff::Timestamp::now().as_second()).contains(&seconds));
    let secret: SigningSecret = SECRET.parse().expect("a secret");
    let signature = secret.sign(&id, seconds, r#"{"n":1}"#);
    let expected = [
        ("webhook-id", id.as_str()),
        ("idempotency-key", &id),
        ("webhook-signature", &signature),
        ("postroad-attempt", "3"),
        (
            "traceparent",
            job.traceparent.as_deref().expect("a traceparent"),
        ),
        (
            "user-agent",
            concat!("postroad/", env!("CARGO_PKG_VERSION")),
        ),
        ("content-type", "application/json"),
        ("content-length", "7"),
        ("authorization", "Bearer theirs"),
        ("x-event", "push"),
        ("accept", "*/*"),
        ("host", &provider.address.to_string()),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    let sent = request.headers.len();
    assert_eq!(
        sent,
        expected.len() + 1,
        "and no others: {:?}",
        request.headers
    );
    assert_eq!(request.line, "POST /hook?key=1 HTTP/1.1");
    assert_eq!(request.body, r#"{"n":1}"#);
}

#[tokio::test]
async fn without_a_secret_there_is_no_signature_and_a_bad_trace_is_left_out() {
    let provider = Provider::start(Reply::ok()).await;
    let webhook = webhook(None);
    let mut job = job(&webhook);
    job.traceparent = Some("two\r\nlines".to_owned());
    let json =
        json!({"url": provider.url(), "body": "a,b", "headers": {"CONTENT-TYPE": "text/csv"}});
    webhook
        .run(job, args(&json.to_string()))
        .await
        .expect("done");
    let request = provider.requests().remove(0);
    assert_eq!(request.header("webhook-signature"), None);
    assert_eq!(request.header("traceparent"), None);
    assert_eq!(request.header("content-type"), Some("text/csv"));
    assert_eq!(request.body, "a,b");
}

/// Sends a body as JSON, as spaced JSON and as a string, and compares the bytes that arrive.
async fn check_bodies(bodies: &[&str]) {
    let provider = Provider::start(Reply::ok()).await;
    let webhook = webhook(Some(SECRET));
    let secret: SigningSecret = SECRET.parse().expect("a secret");
    for body in bodies {
        let url = provider.url();
        let as_string = Value::from(*body).to_string();
        for sent in [body, format!(" \n{body}\t").as_str(), as_string.as_str()] {
            webhook
                .run(job(&webhook), args_with_body(&url, sent))
                .await
                .expect("done");
        }
    }
    let requests = provider.requests();
    assert_eq!(requests.len(), bodies.len() * 3);
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(request.body, bodies[index / 3]);
        let id = request.header("webhook-id").expect("an id");
        let seconds = request
            .header("webhook-timestamp")
            .expect("a time")
            .parse()
            .expect("seconds");
        let signature = secret.sign(id, seconds, bodies[index / 3]);
        assert_eq!(
            request.header("webhook-signature"),
            Some(signature.as_str())
        );
    }
    assert_eq!(
        provider.connections(),
        1,
        "one after the other they need one connection"
    );
}

#[tokio::test]
async fn bodies_arrive_byte_for_byte() {
    check_bodies(&BODIES).await;
}

/// The examples that GitHub publishes, where a checkout has them beside it.
#[tokio::test]
async fn bodies_of_github_arrive_byte_for_byte() {
    #[derive(serde::Deserialize)]
    struct Line {
        payload: Box<RawValue>,
    }

    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/github-webhooks.ndjson"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("skipped: there is no {path}");
        return;
    };
    let lines: Vec<Line> = text.lines().map(args).collect();
    let bodies: Vec<&str> = lines.iter().map(|line| line.payload.get()).collect();
    assert_eq!(bodies.len(), 329);
    check_bodies(&bodies).await;
}

#[tokio::test]
async fn a_hundred_at_once_share_a_hundred_connections() {
    let provider = Provider::start(Reply::ok()).await;
    let webhook = webhook(None);
    for _ in 0..5 {
        let url = provider.url();
        let runs = (0..100).map(|_| webhook.run(job(&webhook), args_with_body(&url, "{}")));
        assert!(join_all(runs).await.iter().all(Result::is_ok));
    }
    assert_eq!(provider.requests().len(), 500);
    assert!(provider.connections() <= 100, "{}", provider.connections());
}

#[test]
fn args_that_are_no_webhook_are_refused_by_name() {
    let object = "an object with `url`, `body` and perhaps `headers`";
    let cases = [
        (
            r#"{"url":"https://a.example","body":{},"method":"GET"}"#,
            "unknown field `method`",
        ),
        (r#"{"url":"https://a.example"}"#, "missing field `body`"),
        (r#"{"body":{}}"#, "missing field `url`"),
        (
            r#"{"url":1,"body":{}}"#,
            "invalid type: integer `1`, expected a string",
        ),
        (
            r#"{"url":"https://a.example","body":1,"body":2}"#,
            "duplicate field `body`",
        ),
        (
            r#"{"url":"https://a.example","body":"\ud800"}"#,
            "body: the string is not Unicode",
        ),
        (
            r#"{"url":"https://a.example","body":1,"headers":[]}"#,
            "expected a map",
        ),
        (
            r#"{"url":"https://a.example","body":1,"headers":{"a":1}}"#,
            "expected a string",
        ),
        ("\"https://a.example\"", object),
        ("null", object),
        (r#"["https://a.example",{}]"#, object),
    ];
    for (json, expected) in cases {
        let refusal = refusal::<WebhookArgs>(json);
        assert!(refusal.contains(expected), "{json}: {refusal}");
    }
}

#[test]
fn headers_of_the_protocol_cannot_be_set() {
    let with = |name: &str, value: &str| {
        json!({"url": "https://a.example", "body": 1, "headers": {name: value}}).to_string()
    };
    let reserved = [
        "Webhook-Id",
        "webhook-timestamp",
        "webhook-signature",
        "webhook-anything",
        "Idempotency-Key",
        "postroad-attempt",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "traceparent",
        "user-agent",
    ];
    for name in reserved {
        let expected = format!("headers: `{}` is set by Postroad", name.to_lowercase());
        assert_eq!(refusal::<WebhookArgs>(&with(name, "x")), expected);
    }
    for name in ["", "a b", "a:b", "a\r\nb", "é"] {
        let refusal = refusal::<WebhookArgs>(&with(name, "x"));
        assert!(
            refusal.ends_with("is not a header name"),
            "{name:?}: {refusal}"
        );
    }
    for value in ["a\r\nhost: evil", "a\0b", "é", "\u{7f}"] {
        let refusal = refusal::<WebhookArgs>(&with("x-a", value));
        assert_eq!(
            refusal,
            "headers: the value of `x-a` is not visible ASCII text"
        );
    }
    let twice = json!({"url": "", "body": 1, "headers": {"X-A": "1", "x-a": "2"}}).to_string();
    assert_eq!(
        refusal::<WebhookArgs>(&twice),
        "headers: `x-a` is given twice"
    );
    let many: Value = (0..65).map(|n| (format!("x-{n}"), json!("1"))).collect();
    let many = json!({"url": "", "body": 1, "headers": many}).to_string();
    assert_eq!(refusal::<WebhookArgs>(&many), "headers: more than 64");
}

#[test]
fn neither_secret_nor_header_prints() {
    let webhook = webhook(Some(SECRET));
    assert!(format!("{webhook:?}").contains("REDACTED"));
    let json = json!({"url": "https://a.example", "body": 1, "headers": {"x-key": "s3cret"}});
    let args: WebhookArgs = args(&json.to_string());
    assert!(!format!("{args:?}").contains("s3cret"), "{args:?}");
}

/// The URL is read once more on the way out, by a parser that takes less.
#[tokio::test]
async fn whatever_passes_as_a_url_can_be_sent() {
    let provider = Provider::start(Reply::ok()).await;
    let webhook = webhook(None);
    let ascii: String = (0x21..0x7fu8)
        .map(char::from)
        .filter(|c| !"\\#".contains(*c))
        .collect();
    for tail in [
        format!("/{ascii}?{ascii}"),
        "/é/😀?ü=%ff%".to_owned(),
        "?".to_owned(),
    ] {
        let url = format!("http://{}{tail}", provider.address);
        webhook
            .run(job(&webhook), args_with_body(&url, "1"))
            .await
            .expect("done");
    }
    let url = format!("http://{}/{}", provider.address, "x".repeat(8000));
    webhook
        .run(job(&webhook), args_with_body(&url, "1"))
        .await
        .expect("done");
}
