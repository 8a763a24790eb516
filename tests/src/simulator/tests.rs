//! The simulator as an HTTP client sees it.

use std::collections::HashSet;

use futures_util::future::join_all;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::*;

fn client() -> Client {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn start(behaviour: Behaviour) -> Simulator {
    Simulator::start(Config {
        behaviour,
        ..Config::default()
    })
    .await
    .unwrap()
}

async fn send(simulator: &Simulator, key: &str) -> reqwest::Result<Response> {
    let request = client().post(format!("{}/sms", simulator.url()));
    request
        .header("idempotency-key", key)
        .body(r#"{"to":"+33639980606","text":"hi"}"#)
        .send()
        .await
}

#[tokio::test]
async fn a_request_is_recorded_with_what_it_carried() {
    let config = Config {
        keep_bodies: true,
        ..Config::default()
    };
    let simulator = Simulator::start(config).await.unwrap();
    let request = client().post(format!("{}/webhook/acme", simulator.url()));
    let headers = [
        ("webhook-id", "a"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,AAAA"),
        ("idempotency-key", "a"),
        ("postroad-attempt", "3"),
    ];
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let response = request.body("hello").send().await.unwrap();
    assert_eq!(response.status(), 200);

    let calls = simulator.calls("a");
    assert_eq!(calls, simulator.records());
    let [call] = calls.try_into().unwrap();
    let expected = Record {
        t: call.t,
        path: "/webhook/acme".to_owned(),
        id: Some("a".to_owned()),
        key: Some("a".to_owned()),
        attempt: Some(3),
        body_sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned(),
        bytes: 5,
        status: Status::Code(200),
        effect: true,
        webhook_timestamp: Some("1614265330".to_owned()),
        webhook_signature: Some("v1,AAAA".to_owned()),
        sms_sender: None,
        body: Some("hello".into()),
    };
    assert_eq!(call, expected);
}

#[tokio::test]
async fn refusals_say_when_to_come_back_and_have_no_effect() {
    let retry_after = Duration::from_millis(1500);
    let busy = Behaviour {
        rate_429: 1.0,
        retry_after,
        ..Behaviour::default()
    };
    let simulator = start(busy).await;
    let response = send(&simulator, "a").await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["retry-after"]
        ),
        (429, &"2".parse().unwrap())
    );

    simulator
        .set(Behaviour {
            rate_503: 1.0,
            ..Behaviour::default()
        })
        .unwrap();
    let response = send(&simulator, "a").await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["retry-after"]
        ),
        (503, &"1".parse().unwrap())
    );

    simulator
        .set(Behaviour {
            rate_500: 1.0,
            ..Behaviour::default()
        })
        .unwrap();
    assert_eq!(send(&simulator, "a").await.unwrap().status(), 500);

    let report = simulator.report();
    assert_eq!(
        (report.refused_429, report.refused_503, report.failed_500),
        (1, 1, 1)
    );
    assert_eq!((report.requests, report.effects), (3, 0));
}

#[tokio::test]
async fn a_reset_is_a_connection_error_and_may_have_had_an_effect() {
    let simulator = start(Behaviour {
        rate_reset: 1.0,
        ..Behaviour::default()
    })
    .await;
    let error = send(&simulator, "after").await.unwrap_err();
    assert!(
        format!("{error:?}").contains("ConnectionReset"),
        "{error:?}"
    );

    simulator
        .set(Behaviour {
            rate_reset_before: 1.0,
            ..Behaviour::default()
        })
        .unwrap();
    let error = send(&simulator, "before").await.unwrap_err();
    assert!(
        format!("{error:?}").contains("ConnectionReset"),
        "{error:?}"
    );

    assert_eq!(
        simulator.seen(vec!["before".to_owned(), "after".to_owned()]),
        ["after"]
    );
    assert_eq!(simulator.calls("before")[0].status, Status::Reset);
    let report = simulator.report();
    assert_eq!(
        (report.resets, report.accepted, report.delivered),
        (2, 0, 1)
    );
}

#[tokio::test]
async fn a_half_answer_is_a_body_error_after_an_effect() {
    let simulator = start(Behaviour {
        rate_half: 1.0,
        ..Behaviour::default()
    })
    .await;
    let mut response = send(&simulator, "a").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.chunk().await.unwrap().unwrap(),
        r#"{"status":"accepted"}"#[..10]
    );
    response.chunk().await.unwrap_err();
    let report = simulator.report();
    assert_eq!((report.half_answers, report.delivered), (1, 1));
}

#[tokio::test]
async fn requests_above_the_limit_are_refused_and_counted() {
    let holding = Behaviour {
        latency: Latency::Hold,
        max_in_flight: Some(2),
        ..Behaviour::default()
    };
    let simulator = start(holding).await;
    let held = async { join_all([send(&simulator, "a"), send(&simulator, "b")]).await };
    let above = async {
        simulator.wait_for(|report| report.held == 2).await.unwrap();
        let response = send(&simulator, "c").await.unwrap();
        simulator.release();
        response
    };
    let (held, above) = tokio::join!(held, above);
    assert_eq!(above.status(), 429);
    assert!(
        held.iter()
            .all(|response| response.as_ref().unwrap().status() == 200)
    );
    let report = simulator.report();
    assert_eq!(
        (report.violations, report.refused_429, report.peak_in_flight),
        (1, 1, 3)
    );
    assert_eq!(
        (report.accepted, report.delivered, report.in_flight),
        (2, 2, 0)
    );
}

#[tokio::test]
async fn a_client_that_goes_away_has_caused_the_effect() {
    let simulator = start(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })
    .await;
    tokio::select! {
        answered = send(&simulator, "a") => panic!("{answered:?}"),
        held = simulator.wait_for(|report| report.held == 1) => drop(held.unwrap()),
    }
    let report = simulator
        .wait_for(|report| report.abandoned == 1)
        .await
        .unwrap();
    assert_eq!((report.delivered, report.accepted), (1, 0));
    assert_eq!((report.in_flight, report.held), (0, 0));
}

#[tokio::test]
async fn a_repeated_key_shows_as_a_duplicate() {
    let simulator = start(Behaviour::default()).await;
    for key in ["a", "b", "a"] {
        send(&simulator, key).await.unwrap();
    }
    let report = simulator.report();
    assert_eq!(
        (report.delivered, report.duplicates, report.accepted),
        (2, 1, 3)
    );
}

#[tokio::test]
async fn the_counts_add_up_and_the_file_has_a_line_for_each_request() {
    const REQUESTS: u64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calls.ndjson");
    let behaviour = Behaviour {
        latency: "uniform:0ms..2ms".parse().unwrap(),
        rate_429: 0.1,
        rate_503: 0.1,
        rate_500: 0.1,
        rate_reset: 0.1,
        rate_reset_before: 0.1,
        rate_half: 0.1,
        ..Behaviour::default()
    };
    let config = Config {
        record: Some(file.clone()),
        behaviour,
        ..Config::default()
    };
    let simulator = Simulator::start(config).await.unwrap();
    let client = client();
    let requests = (0..REQUESTS).map(|number| {
        // Every key twice.
        let request = client
            .post(simulator.url())
            .header("idempotency-key", number / 2);
        async move { request.send().await?.bytes().await }
    });
    let answers = join_all(requests).await;

    let report = simulator
        .wait_for(|report| report.in_flight == 0)
        .await
        .unwrap();
    let errors = answers.iter().filter(|answer| answer.is_err()).count() as u64;
    assert_eq!(errors, report.resets + report.half_answers);
    let refused = report.refused_429 + report.refused_503 + report.failed_500;
    assert_eq!(report.requests, report.accepted + refused + errors);
    assert_eq!(report.effects, report.delivered + report.duplicates);
    assert_eq!(report.requests, REQUESTS);
    let kinds = [
        report.accepted,
        report.refused_429,
        report.failed_500,
        report.duplicates,
    ];
    assert!(kinds.iter().all(|count| *count > 0), "{report:?}");

    let kept = simulator.records();
    simulator.stop().await.unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let mut expected: Vec<_> = kept
        .iter()
        .map(|record| serde_json::to_string(record).unwrap())
        .collect();
    // Requests on several connections may be written in another order than they were decided in.
    lines.sort_unstable();
    expected.sort_unstable();
    assert!(
        lines == expected,
        "{} lines, {} requests",
        lines.len(),
        expected.len()
    );
    serde_json::from_str::<Record>(&lines[0]).unwrap();
    let effects: HashSet<_> = kept
        .iter()
        .filter(|call| call.effect)
        .map(|call| &call.key)
        .collect();
    assert_eq!(effects.len() as u64, report.delivered);
}

#[tokio::test]
async fn it_is_controlled_over_http_too() {
    let simulator = start(Behaviour::default()).await;
    let (client, url) = (client(), simulator.url());
    let read = async |response: Response| -> Value {
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    };
    let id = uuid::Uuid::now_v7().to_string();
    send(&simulator, &id).await.unwrap();

    let ids = json!([id, uuid::Uuid::now_v7()]).to_string();
    let response = client
        .post(format!("{url}/seen"))
        .body(ids)
        .send()
        .await
        .unwrap();
    assert_eq!(read(response).await, json!([id]));

    let given = json!({"rate_500": 1.0, "latency": "hold"}).to_string();
    let response = client
        .put(format!("{url}/behaviour"))
        .body(given)
        .send()
        .await
        .unwrap();
    assert_eq!(read(response).await["latency"], "hold");
    let released = async {
        simulator.wait_for(|report| report.held == 1).await.unwrap();
        client.put(format!("{url}/release")).send().await.unwrap()
    };
    let (failed, released) = tokio::join!(send(&simulator, &id), released);
    assert_eq!(
        (
            failed.unwrap().status().as_u16(),
            released.status().as_u16()
        ),
        (500, 200)
    );

    let bad = json!({"rate_500": 2.0}).to_string();
    let response = client
        .put(format!("{url}/behaviour"))
        .body(bad)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);

    let response = client.get(format!("{url}/report")).send().await.unwrap();
    let text = response.text().await.unwrap();
    assert_eq!(text, serde_json::to_string(&simulator.report()).unwrap());
    let report: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((report.requests, report.failed_500), (2, 1));
    assert_eq!(
        client
            .get(format!("{url}/sms"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused() {
    let simulator = start(Behaviour::default()).await;
    let body = vec![b'x'; 1024 * 1024 + 1];
    // The answer may come while the body is still being sent, so that the client sees an error.
    let _ = client().post(simulator.url()).body(body).send().await;
    let report = simulator
        .wait_for(|report| report.refused_413 == 1)
        .await
        .unwrap();
    assert_eq!((report.requests, report.effects), (1, 0));
}
