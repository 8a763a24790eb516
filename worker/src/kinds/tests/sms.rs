use super::provider::{End, Provider, Reply};
use super::{Ending, LIMITS, PATIENT, args, ending, job, refusal};
use crate::kinds::http::Limits;
use crate::kinds::sms::{Sms, SmsArgs, SmsConfig};
use crate::{Done, Handler, JobError, OnLost, ProviderFailure};

const ARGS: &str = r#"{ "text" : "Hi \u00e9 \"you\"",  "to": "+33639980606" }"#;
const TOKEN: &str = "gw_5f2c9b";

fn sms(gateway: &str, token: Option<&str>, limits: Limits) -> anyhow::Result<Sms> {
    let gateway = gateway.parse().expect("a URL");
    Sms::with_limits(
        SmsConfig {
            gateway,
            token: token.map(Into::into),
        },
        limits,
    )
}

async fn send(provider: &Provider, limits: Limits) -> Result<Done, JobError> {
    let sms = sms(&provider.url(), Some(TOKEN), limits).expect("a handler");
    sms.run(job(&sms), args(ARGS)).await
}

#[tokio::test]
async fn the_gateway_gets_the_args_and_the_result_keeps_its_answer() {
    let reply = Reply::with_body("202 Accepted", r#"{"message_id":"m-1"}"#);
    let provider = Provider::start(reply).await;
    let sms = sms(&provider.url(), Some(TOKEN), PATIENT).expect("a handler");
    let job = job(&sms);
    let done = sms.run(job.clone(), args(ARGS)).await.expect("done");
    let result = r#"{"status":202,"body":"{\"message_id\":\"m-1\"}"}"#;
    assert_eq!(done.result(), Some(result));
    assert_eq!(sms.policy().on_lost, OnLost::Hold);

    let request = provider.requests().remove(0);
    assert_eq!(request.line, "POST /hook?key=1 HTTP/1.1");
    assert_eq!(
        request.body,
        r#"{"text":"Hi \u00e9 \"you\"","to":"+33639980606"}"#
    );
    assert_eq!(request.header("authorization"), Some("Bearer gw_5f2c9b"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.header("idempotency-key"),
        Some(job.id.to_string().as_str())
    );
    assert_eq!(request.header("postroad-attempt"), Some("3"));
    assert_eq!(request.header("traceparent"), job.traceparent.as_deref());
}

#[tokio::test]
async fn without_a_token_there_is_no_authorization() {
    let provider = Provider::start(Reply::ok()).await;
    let sms = sms(&provider.url(), None, PATIENT).expect("a handler");
    let done = sms.run(job(&sms), args(ARGS)).await.expect("done");
    assert_eq!(done.result(), Some(r#"{"status":200}"#));
    assert_eq!(provider.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_token_that_the_gateway_repeats_is_not_kept() {
    let echo = format!("authorization: Bearer {TOKEN}");
    let provider = Provider::start(Reply::with_body("200 OK", &echo)).await;
    let done = send(&provider, PATIENT).await.expect("done");
    let result = r#"{"status":200,"body":"authorization: Bearer [redacted]"}"#;
    assert_eq!(done.result(), Some(result));

    let provider = Provider::start(Reply::with_body("400 Bad Request", &echo)).await;
    let error = send(&provider, PATIENT)
        .await
        .expect_err("a failed attempt");
    assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
}

#[tokio::test]
async fn half_an_answer_after_a_2xx_is_a_success() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"message";
    for end in [End::Close, End::Reset, End::Hang] {
        let provider = Provider::start(Reply::new(head, end)).await;
        assert_eq!(ending(&send(&provider, LIMITS).await), Ending::Done);
    }
}

#[tokio::test]
async fn what_may_have_been_sent_is_unknown_and_sent_once() {
    for end in [End::Close, End::Reset, End::Hang] {
        let provider = Provider::start(Reply::new("", end)).await;
        assert_eq!(ending(&send(&provider, LIMITS).await), Ending::Unknown);
        assert_eq!(provider.requests().len(), 1);
    }
}

/// What a limit and a breaker go by: a job that no provider would take is not the provider's failure.
#[tokio::test]
async fn a_failed_attempt_says_whose_failure_it_is() {
    use ProviderFailure::{Broken, Overloaded, Silent, Unreachable};

    let cases = [
        ("400 Bad Request", None),
        ("404 Not Found", None),
        ("410 Gone", None),
        ("429 Too Many Requests", Some(Overloaded)),
        ("500 Internal Server Error", Some(Broken)),
        ("502 Bad Gateway", Some(Overloaded)),
        ("503 Service Unavailable", Some(Overloaded)),
        ("504 Gateway Timeout", Some(Overloaded)),
    ];
    let failure = async |provider: &Provider, limits| {
        let error = send(provider, limits).await.expect_err("a failed attempt");
        error.provider_failure()
    };
    for (status, expected) in cases {
        let provider = Provider::start(Reply::with_body(status, "no")).await;
        assert_eq!(failure(&provider, PATIENT).await, expected, "{status}");
    }
    let provider = Provider::start(Reply::new("", End::Hang)).await;
    assert_eq!(failure(&provider, LIMITS).await, Some(Silent));
    let sms = sms("http://127.0.0.1:1/", None, LIMITS).expect("a handler");
    let error = sms.run(job(&sms), args(ARGS)).await.expect_err("refused");
    assert_eq!(error.provider_failure(), Some(Unreachable));
}

#[test]
fn args_that_are_no_message_are_refused_without_repeating_them() {
    let number = "to: not a phone number such as +33639980606, `+` and 7 to 15 digits";
    let cases = [
        (r#"{"to":"33639980606","text":"x"}"#, number),
        (r#"{"to":"+123456","text":"x"}"#, number),
        (r#"{"to":"+1234567890123456","text":"x"}"#, number),
        (r#"{"to":"+33 639980606","text":"x"}"#, number),
        (r#"{"to":"+٣٣٦٣٩٩٨٠","text":"x"}"#, number),
        (r#"{"to":"+33639980606\r\n","text":"x"}"#, number),
        (r#"{"to":"","text":"x"}"#, number),
        (
            r#"{"to":"+33639980606","text":""}"#,
            "text: 0 characters, not 1 to 1600",
        ),
        (r#"{"to":"+33639980606"}"#, "missing field `text`"),
        (
            r#"{"to":"+33639980606","text":"x","from":"y"}"#,
            "unknown field `from`",
        ),
        (
            r#"{"to":"+33639980606","text":"x","text":"y"}"#,
            "duplicate field `text`",
        ),
        (
            r#"{"to":"+33639980606","text":null}"#,
            "invalid type: null, expected a string",
        ),
        (
            r#"["+33639980606","x"]"#,
            "expected an object with `to` and `text`",
        ),
        ("null", "expected an object with `to` and `text`"),
    ];
    for (json, expected) in cases {
        let refusal = refusal::<SmsArgs>(json);
        assert!(refusal.contains(expected), "{json}: {refusal}");
    }
    let text = |length| format!(r#"{{"to":"+1234567","text":"{}"}}"#, "é".repeat(length));
    assert!(refusal::<SmsArgs>(&text(1601)).contains("text: 1601 characters"));
    let _: SmsArgs = args(&text(1600));
}

#[test]
fn a_gateway_that_cannot_be_used_refuses_to_start() {
    let refused = |gateway: &str, token| format!("{:#}", sms(gateway, token, PATIENT).unwrap_err());
    assert!(refused("ftp://gw.example/", None).contains("must be https or http, not `ftp`"));
    assert!(refused("https://a:b@gw.example/", None).contains("user or a password"));
    assert!(refused("https://gw.example/", Some("")).contains("token is empty"));
    let refusal = refused("https://gw.example/", Some("se\ncret"));
    assert!(
        refusal.contains("not visible ASCII") && !refusal.contains("cret"),
        "{refusal}"
    );
}

#[test]
fn the_token_does_not_print() {
    let sms = sms("https://gw.example/", Some(TOKEN), PATIENT).expect("a handler");
    assert!(!format!("{sms:?}").contains(TOKEN), "{sms:?}");
}
