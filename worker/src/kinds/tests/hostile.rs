//! What a webhook attempt makes of every way in which a provider, or the way to it, can fail.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use super::provider::{End, OK, Provider, Reply};
use super::{Ending, LIMITS, PATIENT, args, ending, job, loopback};
use crate::kinds::http::Limits;
use crate::kinds::webhook::{Webhook, WebhookConfig};
use crate::{Done, Handler, JobError};

async fn post(url: &str, config: WebhookConfig, limits: Limits) -> Result<Done, JobError> {
    let webhook = Webhook::with_limits(config, limits).expect("a handler");
    webhook
        .run(
            job(&webhook),
            args(&json!({"url": url, "body": {}}).to_string()),
        )
        .await
}

fn allowing_loopback() -> WebhookConfig {
    WebhookConfig {
        secret: None,
        allow: loopback(),
    }
}

/// Checks how an attempt ends, and that the request was made once however it ends.
async fn check(name: &str, reply: Reply, expected: Ending, limits: Limits) {
    let provider = Provider::start(reply).await;
    let outcome = post(&provider.url(), allowing_loopback(), limits).await;
    assert_eq!(ending(&outcome), expected, "{name}: {outcome:?}");
    assert_eq!(provider.requests().len(), 1, "{name}");
}

fn status(status: &str, headers: &str) -> Reply {
    Reply::new(
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{headers}\r\n"),
        End::KeepAlive,
    )
}

#[tokio::test]
async fn a_complete_answer_decides() {
    use Ending::{Done, Fatal, Retry, RetryAfter};
    let cases = [
        ("200 OK", "", Done),
        ("204 No Content", "", Done),
        ("299 Whatever", "", Done),
        (
            "101 Switching Protocols",
            "upgrade: x\r\nconnection: upgrade\r\n",
            Retry,
        ),
        ("301 Moved Permanently", "location: /elsewhere\r\n", Retry),
        (
            "307 Temporary Redirect",
            "location: http://169.254.169.254/\r\n",
            Retry,
        ),
        ("308 Permanent Redirect", "location: //[::1]/\r\n", Retry),
        ("400 Bad Request", "", Retry),
        ("401 Unauthorized", "", Retry),
        ("404 Not Found", "retry-after: 60\r\n", Retry),
        ("407 Proxy Authentication Required", "", Retry),
        ("410 Gone", "", Fatal),
        ("429 Too Many Requests", "", Retry),
        (
            "429 Too Many Requests",
            "retry-after: 60\r\n",
            RetryAfter(60),
        ),
        ("429 Too Many Requests", "retry-after: -60\r\n", Retry),
        ("429 Too Many Requests", "retry-after: later\r\n", Retry),
        ("429 Too Many Requests", "retry-after: \u{fc}\r\n", Retry),
        ("500 Internal Server Error", "retry-after: 60\r\n", Retry),
        (
            "503 Service Unavailable",
            "retry-after: 1000000000000\r\n",
            RetryAfter(86_400),
        ),
        (
            "503 Service Unavailable",
            "retry-after: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
            Retry,
        ),
        ("599 Whatever", "", Retry),
        ("999 Whatever", "", Retry),
    ];
    for (line, headers, expected) in cases {
        check(
            &format!("{line} {headers}"),
            status(line, headers),
            expected,
            PATIENT,
        )
        .await;
    }
}

#[tokio::test]
async fn a_broken_body_does_not_change_what_the_status_said() {
    use Ending::{Done, Retry};
    let head = |status: &str, rest: &str| format!("HTTP/1.1 {status}\r\n{rest}");
    let half = "content-length: 100\r\n\r\nhalf";
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    let gzip = "content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x02\x03\x04";
    let cases = [
        ("closed in the body", head("200 OK", half), End::Close, Done),
        ("reset in the body", head("200 OK", half), End::Reset, Done),
        ("stalled in the body", head("200 OK", half), End::Hang, Done),
        (
            "closed in the body of a failure",
            head("500 No", half),
            End::Close,
            Retry,
        ),
        (
            "204 with a body",
            head("204 No Content", half),
            End::Close,
            Done,
        ),
        (
            "junk chunks",
            head("200 OK", &format!("{chunked}zzz\r\n")),
            End::Close,
            Done,
        ),
        (
            "huge chunk",
            head("200 OK", &format!("{chunked}fffffffffffffffff\r\n")),
            End::Close,
            Done,
        ),
        (
            "missing chunks",
            head("200 OK", &format!("{chunked}5\r\nhello\r\n")),
            End::Close,
            Done,
        ),
        (
            "no length",
            head("200 OK", "\r\nuntil the end"),
            End::Close,
            Done,
        ),
        (
            "more than the length",
            head("200 OK", "content-length: 1\r\n\r\nabc"),
            End::Close,
            Done,
        ),
        ("not gzip", head("200 OK", gzip), End::KeepAlive, Done),
        (
            "not UTF-8",
            head("200 OK", "content-length: 1\r\n\r\n\u{fc}"),
            End::Close,
            Done,
        ),
    ];
    for (name, head, end, expected) in cases {
        check(name, Reply::new(head, end), expected, LIMITS).await;
    }
}

#[tokio::test]
async fn without_a_complete_answer_the_outcome_is_unknown() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-h: 1\r\n".repeat(10_000));
    let long = format!("HTTP/1.1 200 OK\r\nx-h: {}\r\n\r\n", "x".repeat(1 << 20));
    let cases = [
        ("closed", "", End::Close),
        ("reset", "", End::Reset),
        ("silence", "", End::Hang),
        ("closed in the status line", "HTTP/1.1 20", End::Close),
        (
            "reset in the headers",
            "HTTP/1.1 200 OK\r\ncontent-le",
            End::Reset,
        ),
        (
            "stalled in the headers",
            "HTTP/1.1 200 OK\r\ncontent-le",
            End::Hang,
        ),
        ("not HTTP", "SSH-2.0-OpenSSH_9.6\r\n", End::Close),
        ("junk", "\0\u{1}\u{2}\r\n\r\n", End::Close),
        ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n", End::Close),
        (
            "version of the future",
            "HTTP/9.9 200 OK\r\n\r\n",
            End::Close,
        ),
        (
            "lengths that differ",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            End::Close,
        ),
        (
            "negative length",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            End::Close,
        ),
        (
            "injected line",
            "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
            End::Close,
        ),
        ("only a 100", "HTTP/1.1 100 Continue\r\n\r\n", End::Hang),
        ("10,000 headers", &many, End::Close),
        ("a header of 1 MiB", &long, End::Close),
    ];
    for (name, head, end) in cases {
        check(name, Reply::new(head, end), Ending::Unknown, LIMITS).await;
    }
}

#[tokio::test]
async fn informational_answers_are_skipped_for_as_long_as_there_is_time() {
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    check(
        "a few, then 200",
        Reply::new(hint.repeat(20) + OK, End::Close),
        Ending::Done,
        PATIENT,
    )
    .await;
    let flood = Reply::new("", End::Close).repeat(hint, usize::MAX);
    let slow = flood.clone().every(Duration::from_millis(1));
    check("a slow flood", slow, Ending::Unknown, LIMITS).await;
    check("a fast flood", flood, Ending::Unknown, LIMITS).await;
}

#[tokio::test]
async fn what_was_never_sent_is_a_failed_attempt() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refused = format!("http://{}/", closed.local_addr().expect("an address"));
    drop(closed);
    let junk = Provider::start(Reply::new("", End::CloseAtOnce)).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let cases = [
        ("refused", refused),
        ("no such name", "http://nowhere.invalid/".to_owned()),
        ("TLS closed", format!("https://{}/", junk.address)),
        (
            "TLS silent",
            format!("https://{}/", silent.local_addr().expect("an address")),
        ),
    ];
    for (name, url) in cases {
        let outcome = post(&url, allowing_loopback(), LIMITS).await;
        assert_eq!(ending(&outcome), Ending::Retry, "{name}: {outcome:?}");
        let text = format!("{:?}", outcome.expect_err("a failed attempt"));
        assert!(text.contains("nothing was sent"), "{name}: {text}");
        assert!(!text.contains(&url), "{name}: {text}");
    }
}

#[tokio::test]
async fn plain_http_answered_to_a_tls_handshake_is_a_failed_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/", listener.local_addr().expect("an address"));
    let answering = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        let _ = stream.read(&mut [0; 16]).await;
    });
    let outcome = post(&url, allowing_loopback(), LIMITS).await;
    assert_eq!(ending(&outcome), Ending::Retry, "{outcome:?}");
    answering.abort();
}

#[tokio::test]
async fn a_private_address_is_never_connected_to() {
    let canary = Provider::start(Reply::ok()).await;
    let port = canary.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0",
        "[::ffff:127.0.0.1]",
    ] {
        let url = format!("http://{host}:{port}/");
        let outcome = post(&url, WebhookConfig::default(), LIMITS).await;
        assert_eq!(ending(&outcome), Ending::Fatal, "{host}: {outcome:?}");
        let text = format!("{:?}", outcome.expect_err("refused"));
        assert!(
            text.contains("private or reserved network"),
            "{host}: {text}"
        );
        assert!(!text.contains("127.0.0.1"), "{host}: {text}");
    }
    assert_eq!(canary.connections(), 0);

    // The same name is a way in where the operator has opened the network.
    let url = format!("http://localhost:{port}/");
    let outcome = post(&url, allowing_loopback(), PATIENT).await;
    assert_eq!(ending(&outcome), Ending::Done, "{outcome:?}");
    assert_eq!(canary.connections(), 1);
}

#[tokio::test]
async fn a_body_without_end_is_read_to_the_limit_and_the_connection_dropped() {
    const MIB: usize = 1 << 20;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 100 * MIB);
    let reply = Reply::new(head, End::KeepAlive).repeat(vec![b'x'; MIB / 16], 1600);
    let provider = Provider::start(reply).await;
    let webhook = Webhook::with_limits(allowing_loopback(), PATIENT).expect("a handler");
    let json = json!({"url": provider.url(), "body": {}}).to_string();
    for attempt in 1..=3 {
        let done = webhook.run(job(&webhook), args(&json)).await.expect("done");
        let expected = format!(r#"{{"status":200,"body":"{}"}}"#, "x".repeat(1024));
        assert_eq!(done.result(), Some(expected.as_str()));
        assert_eq!(provider.connections(), attempt);
    }
    // What the sockets' own buffers hold, and nothing near the 300 MiB offered.
    assert!(
        provider.bytes_written() < 30 * MIB,
        "{} bytes",
        provider.bytes_written()
    );
}

/// A few kilobytes that unpack to gigabytes are a few kilobytes.
#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    const HELLO: [u8; 25] = [
        0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0x02, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0, 0x86,
        0xa6, 0x10, 0x36, 0x05, 0, 0, 0,
    ];
    let mut head =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 25\r\n\r\n".to_vec();
    head.extend(HELLO);
    let provider = Provider::start(Reply::new(head, End::KeepAlive)).await;
    let done = post(&provider.url(), allowing_loopback(), PATIENT).await;
    // Packed bytes are no text, of which an excerpt could be kept.
    assert_eq!(done.expect("done").result(), Some(r#"{"status":200}"#));
}

#[tokio::test]
async fn a_dripping_answer_takes_no_longer_than_its_limit() {
    let drip = |head: &str| {
        Reply::new(head, End::Close)
            .repeat("x", usize::MAX)
            .every(Duration::from_millis(20))
    };
    let started = Instant::now();
    check(
        "headers",
        drip("HTTP/1.1 200 OK\r\nx-drip: "),
        Ending::Unknown,
        LIMITS,
    )
    .await;
    assert!(started.elapsed() >= LIMITS.total);
    let started = Instant::now();
    check(
        "body",
        drip("HTTP/1.1 200 OK\r\n\r\n"),
        Ending::Done,
        LIMITS,
    )
    .await;
    let elapsed = started.elapsed();
    assert!(
        elapsed >= LIMITS.body && elapsed < LIMITS.total,
        "{elapsed:?}"
    );
}
