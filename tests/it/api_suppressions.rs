//! Suppressed recipients over HTTP: known however they are written, and whatever cannot be one is refused
//! at its place.

use std::collections::BTreeSet;

use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::{pages, quiet};

async fn suppress(api: &Api, body: Value) -> Value {
    let done = api.post("/v1/suppressions", &body).await.unwrap();
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    done.json()["added"].clone()
}

async fn unsuppress(api: &Api, query: &str) -> Answer {
    let path = format!("/v1/suppressions?{query}");
    api.send(api.request(Method::DELETE, &path)).await.unwrap()
}

#[tokio::test]
async fn a_recipient_is_suppressed_in_the_form_that_campaigns_give_it() {
    let (cluster, program, api) = quiet().await;
    let numbers = json!([
        "+33 6 39 98 06 06",
        "+33639980606",
        "tel:x",
        "+33-6-39-98-06-07"
    ]);
    assert_eq!(suppress(&api, json!({"recipients": numbers})).await, 3);
    let mails = json!([" Ana.B@EXAMPLE.Org ", "Ana.B@example.org", "user-7"]);
    assert_eq!(
        suppress(&api, json!({"recipients": mails, "reason": "STOP"})).await,
        2
    );
    let again = json!({"recipients": ["+33639980606"], "reason": "another"});
    assert_eq!(suppress(&api, again).await, 0, "it was there before");
    // Of one kind only, beside every kind.
    let of_kind = json!({"recipients": ["+33639980606"], "kind": "sms"});
    assert_eq!(suppress(&api, of_kind).await, 1);

    let listed = pages(&api, "/v1/suppressions?limit=2").await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|one| {
            (
                one["recipient"].as_str().unwrap(),
                one["kind"].as_str().unwrap_or("every"),
            )
        })
        .collect();
    let expected: BTreeSet<_> = [
        ("+33639980606", "every"),
        ("+33639980606", "sms"),
        ("+33639980607", "every"),
        ("Ana.B@example.org", "every"),
        ("tel:x", "every"),
        ("user-7", "every"),
    ]
    .into();
    assert_eq!(listed.len(), expected.len(), "each once: {listed:?}");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
    let of_one = pages(
        &api,
        "/v1/suppressions?recipient=%2B33%206%2039%2098%2006%2006",
    );
    assert_eq!(of_one.await.unwrap().len(), 2);
    let other = cluster
        .client(program, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    assert_eq!(
        pages(&other, "/v1/suppressions?limit=5")
            .await
            .unwrap()
            .len(),
        0
    );

    let number = "recipient=%2B33%20639980606";
    unsuppress(&other, number).await.problem(404).unwrap();
    let gone = unsuppress(&api, &format!("{number}&kind=sms")).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
    unsuppress(&api, &format!("{number}&kind=sms"))
        .await
        .problem(404)
        .unwrap();
    unsuppress(&api, &format!("{number}&kind=no-such"))
        .await
        .problem(404)
        .unwrap();
    assert_eq!(
        unsuppress(&api, number).await.status,
        StatusCode::NO_CONTENT
    );
    let mail = unsuppress(&api, "recipient=Ana.B@Example.ORG").await;
    assert_eq!(mail.status, StatusCode::NO_CONTENT, "{mail:?}");
    assert_eq!(
        pages(&api, "/v1/suppressions?limit=5").await.unwrap().len(),
        3
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_suppressed_is_refused_and_says_where() {
    let (cluster, _, api) = quiet().await;
    let many: Vec<String> = (0..1001).map(|n| format!("user-{n}")).collect();
    let good = json!(["+33639980606"]);
    for (body, pointer) in [
        (json!({}), "/recipients"),
        (json!({"recipients": []}), "/recipients"),
        (json!({"recipients": many}), "/recipients"),
        (json!({"recipients": "+33639980606"}), "/recipients"),
        (json!({"recipients": ["user-1", ""]}), "/recipients/1"),
        (json!({"recipients": ["user-1", " "]}), "/recipients/1"),
        (json!({"recipients": ["a\u{0}b"]}), "/recipients/0"),
        (json!({"recipients": ["a\nb"]}), "/recipients/0"),
        (json!({"recipients": ["x".repeat(256)]}), "/recipients/0"),
        (json!({"recipients": [5]}), "/recipients/0"),
        (json!({"recipients": good, "kind": "no-such"}), "/kind"),
        (json!({"recipients": good, "kind": "S M S"}), "/kind"),
        (
            json!({"recipients": good, "reason": "x".repeat(501)}),
            "/reason",
        ),
        (json!({"recipients": good, "reason": "a\u{0}b"}), "/reason"),
        (json!({"recipients": good, "tenant": "umbrella"}), "/tenant"),
        (json!({"recipients": good, "until": "noon"}), "/until"),
    ] {
        let refused = api.post("/v1/suppressions", &body).await.unwrap();
        let place = refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{body:.80}: {error:#}"));
        assert_eq!(place.as_deref(), Some(pointer), "{body}: {refused:?}");
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=%00%0a",
        "cursor=a%0a%00",
        "recipient=",
        "recipient=%00",
        "tenant=umbrella",
        "some=1",
    ] {
        let refused = api.get(&format!("/v1/suppressions?{query}")).await.unwrap();
        refused
            .problem(422)
            .unwrap_or_else(|error| panic!("{query}: {error:#}"));
    }
    for query in [
        "",
        "recipient=",
        "recipient=%00",
        "recipient=x&kind=S%20M",
        "recipient=x&some=1",
    ] {
        unsuppress(&api, query).await.problem(422).unwrap();
    }
    let long = "x".repeat(255);
    let edge = json!({"recipients": vec![long; 1000], "reason": "x".repeat(500)});
    assert_eq!(
        suppress(&api, edge).await,
        1,
        "the same a thousand times is one"
    );
    cluster.take_down().await.unwrap();
}
