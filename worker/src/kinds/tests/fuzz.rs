//! Random args, and random bytes in place of an answer.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::provider::{End, Provider, Reply};
use super::{Ending, PATIENT, args, ending, job, loopback};
use postroad_common::egress::{BlockedAddress, EgressPolicy};

use crate::Handler;
use crate::args::parse;
use crate::kinds::http::{Failure, HttpClient};
use crate::kinds::sms::SmsArgs;
use crate::kinds::webhook::{Webhook, WebhookArgs, WebhookConfig};

const SECRET: &str = "s3cr3t";

/// Checks as many cases as `proptest!` would, on a runtime and with clients that live longer.
fn for_each<S: Strategy>(cases: S, check: impl Fn(&Runtime, S::Value)) {
    let runtime = Runtime::new().expect("a runtime");
    let config = ProptestConfig::with_source_file(file!());
    let checked = TestRunner::new(config).run(&cases, |case| {
        check(&runtime, case);
        Ok(())
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

/// Heads that are right, nearly right, and not HTTP at all.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![
        4 => (100..=999u16).prop_map(|code| format!("HTTP/1.1 {code} Whatever")),
        2 => Just("HTTP/1.1 200 OK".to_owned()),
        1 => "HTTP/[0-9]{1,2}(\\.[0-9]{1,2})? [0-9]{0,5}( [ -~é]{0,10})?",
        1 => "[ -~]{0,20}",
    ];
    let header = prop_oneof![
        "content-length: (-1|0|1|5|99|18446744073709551615|18446744073709551616|0x10|1, 1|)",
        "transfer-encoding: (chunked|gzip, chunked|chunked, chunked|identity|\\x0bchunked)",
        "content-encoding: (gzip|br|zstd|deflate)",
        "retry-after: (-1|0|5|1000000000000|soon|Thu, 01 Jan 1970 00:00:00 GMT|\u{fc}|)",
        "connection: (close|keep-alive|upgrade)",
        "location: (/|http://169\\.254\\.169\\.254/|//\\[::1\\]/)",
        "[a-zA-Z0-9-]{0,10}:? ?[ -~]{0,20}",
        " folded[ -~]{0,10}",
    ];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    let lines = vec((header, end.clone()), 0..5);
    let body = prop_oneof![
        vec(any::<u8>(), 0..40),
        "([0-9a-fA-F]{1,17}\r\n[ -~]{0,10}\r\n){0,3}(0\r\n\r\n)?".prop_map(String::into_bytes),
    ];
    let right = (status, end, lines, body).prop_map(|(status, end, lines, body)| {
        let mut head = format!("{status}{end}").into_bytes();
        for (line, end) in lines {
            head.extend(format!("{line}{end}").bytes());
        }
        head.extend(b"\r\n");
        head.extend(body);
        head
    });
    let damaged = (
        right,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    );
    let damaged = damaged.prop_map(|(mut head, damages)| {
        for (at, byte) in damages {
            let at = at.index(head.len());
            head[at] = byte;
        }
        head
    });
    prop_oneof![6 => damaged, 1 => vec(any::<u8>(), 0..200)]
}

fn reply() -> impl Strategy<Value = Reply> {
    let end = prop_oneof![4 => Just(End::Close), 1 => Just(End::Reset)];
    (head(), end).prop_map(|(head, end)| Reply::new(head, end))
}

/// The class of the outcome follows from what was answered; and nothing is sent twice.
#[test]
fn random_bytes_in_place_of_an_answer_are_an_outcome() {
    let config = WebhookConfig {
        secret: None,
        allow: loopback(),
    };
    let webhook = Webhook::with_limits(config, PATIENT).expect("a handler");
    for_each(reply(), |runtime, reply| {
        runtime.block_on(async {
            let head = String::from_utf8_lossy(&reply.head).into_owned();
            let provider = Provider::start(reply).await;
            let args = args(&json!({"url": provider.url(), "body": {}}).to_string());
            let limit = PATIENT.total + Duration::from_secs(5);
            let outcome = tokio::time::timeout(limit, webhook.run(job(&webhook), args)).await;
            let outcome = outcome.expect("an attempt ends within its limits");
            assert_eq!(provider.requests().len(), 1, "{head:?}");
            match ending(&outcome) {
                Ending::Unknown => {}
                Ending::Done => {
                    assert!(head.contains("HTTP/1.") && head.contains(" 2"), "{head:?}");
                }
                Ending::Fatal => assert!(head.contains(" 410"), "{head:?}"),
                Ending::Retry => assert!(head.contains("HTTP/1."), "{head:?}"),
                Ending::RetryAfter(wait) => {
                    assert!(head.contains(" 429") || head.contains(" 503"), "{head:?}");
                    assert!((1..=86_400).contains(&wait), "{head:?}");
                }
            }
            if let Err(error) = outcome {
                let text = format!("{error:?}");
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!text.contains("/hook?key=1"), "{text}");
            }
        });
    });
}

/// Knows no name, so that nothing is ever connected to.
struct Nobody;

impl Resolve for Nobody {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(async { Err(BlockedAddress.into()) })
    }
}

#[test]
fn whatever_passes_as_a_name_gets_as_far_as_its_look_up() {
    let client = HttpClient::new(PATIENT, Some(Arc::new(Nobody))).expect("a client");
    let urls = "https?://[!-~é。]{1,20}(:[0-9]{1,5})?(/[!-~é]{0,10})?(\\?[!-~é]{0,10})?";
    for_each(urls, |runtime, text| {
        let Ok(url) = EgressPolicy::default().check(&text) else {
            return;
        };
        if url.domain().is_none() {
            return;
        }
        let sent = runtime.block_on(client.post(url, HeaderMap::new(), String::new()));
        assert!(matches!(sent, Err(Failure::Blocked(_))), "{text}: {sent:?}");
    });
}

fn any_args() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec!["url", "body", "headers", "to", "text", "x"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from(SECRET)),
        Just(Value::from("https://a.example/")),
        "\\+[0-9]{5,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_args_or_a_refusal_that_does_not_repeat_it(value in any_args()) {
        let json = value.to_string();
        let refusals = [
            parse::<WebhookArgs>(json.as_bytes()).err(),
            parse::<SmsArgs>(json.as_bytes()).err(),
        ];
        for refusal in refusals.iter().flatten() {
            prop_assert!(!refusal.contains(SECRET), "{json}: {refusal}");
        }
        let accepted = refusals.iter().any(Option::is_none);
        prop_assert!(!accepted || value.is_object(), "{json}");
    }

    #[test]
    fn any_bytes_are_args_or_a_refusal(bytes in vec(any::<u8>(), 0..60)) {
        prop_assert!(parse::<WebhookArgs>(&bytes).is_err());
        prop_assert!(parse::<SmsArgs>(&bytes).is_err());
    }
}
