//! Recipients and audiences over HTTP: put, looked at, counted; and refused at their place.

use postroad_common::token::Permission;
use postroad_tests::harness::api::{Answer, Api};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api_fixture::quiet;

async fn put(api: &Api, path: &str, body: Value) -> Answer {
    api.call(Method::PUT, path, &body).await.unwrap()
}

async fn delete(api: &Api, path: &str) -> Answer {
    api.send(api.request(Method::DELETE, path)).await.unwrap()
}

async fn import(api: &Api, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let sent = api.raw(Method::POST, path, "application/x-ndjson", body);
    sent.await.unwrap()
}

/// Items of all pages.
async fn all(api: &Api, path: &str, limit: usize) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{path}?limit={limit}{cursor}")).await;
        let page = page.unwrap().json();
        items.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

#[tokio::test]
async fn a_recipient_is_put_as_a_whole_read_listed_and_deleted() {
    let (cluster, _, api) = quiet().await;
    let path = "/v1/recipients/user-17";
    let whole = json!({
        "addresses": {"sms": "+33639980606"}, "language": "fr-fr", "country": "FR",
        "timezone": "Europe/Paris", "birth_date": "1990-02-28", "plan": "pro",
        "attributes": {"orders": 3, "ratio": 1e30, "at": "2024-02-29", "gone": null, "é": [1, {"a": "b"}]},
    });
    let made = put(&api, path, whole.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let again = put(&api, path, whole).await;
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    let one = api.get(path).await.unwrap().json();
    assert_eq!((&made.json(), &again.json()), (&one, &one));
    assert_eq!(
        (&one["tenant"], &one["language"]),
        (&json!("acme"), &json!("fr-FR"))
    );
    assert_eq!(
        one["attributes"],
        json!({"orders": 3, "ratio": 1e30, "at": "2024-02-29", "é": [1, {"a": "b"}]})
    );
    // What is left out is not known any more.
    let less = put(&api, path, json!({"key": "user-17", "plan": null}))
        .await
        .json();
    for field in ["language", "country", "timezone", "birth_date", "plan"] {
        assert_eq!(less[field], Value::Null, "{field}");
    }
    assert_eq!(
        (&less["addresses"], &less["attributes"]),
        (&json!({}), &json!({}))
    );

    // Any key, as a path has it.
    for (encoded, key) in [("a%2Fb%20c%3F", "a/b c?"), ("%C3%A9%25", "é%")] {
        let path = format!("/v1/recipients/{encoded}");
        let made = put(&api, &path, json!({})).await;
        assert_eq!(made.json()["key"], key, "{made:?}");
        assert_eq!(api.get(&path).await.unwrap().json()["key"], key);
        assert_eq!(delete(&api, &path).await.status, StatusCode::NO_CONTENT);
        delete(&api, &path).await.problem(404).unwrap();
        api.get(&path).await.unwrap().problem(404).unwrap();
    }

    for n in 0..7 {
        put(&api, &format!("/v1/recipients/k{n}"), json!({})).await;
    }
    let keys: Vec<_> = all(&api, "/v1/recipients", 3)
        .await
        .iter()
        .map(|one| one["key"].clone())
        .collect();
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "user-17"]);

    let noted = "select action, target from postroad.audit_log order by id limit 4";
    let noted = cluster.query(noted, &[]).await.unwrap();
    let noted: Vec<(String, String)> = noted.iter().map(|row| (row.get(0), row.get(1))).collect();
    let note = |action: &str, target: &str| (action.to_owned(), target.to_owned());
    // The one that changed nothing is not there.
    assert_eq!(
        noted,
        [
            note("recipient.put", "user-17"),
            note("recipient.put", "user-17"),
            note("recipient.put", "a/b c?"),
            note("recipient.delete", "a/b c?"),
        ]
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn an_import_takes_what_is_good_and_answers_for_each_line_that_is_not() {
    let (cluster, _, api) = quiet().await;
    let body = [
        r#"{"key":"one","attributes":{"n":1}}"#,
        "",
        r#"{"attributes":{"n":1}}"#,
        "nonsense",
        r#"{"key":"two","country":"France"}"#,
        r#"{"key":"three","tenant":"umbrella"}"#,
        r#"{"key":"four","attributes":{"a/b":"\u0000"}}"#,
        r#"{"key":"one","attributes":{"n":2}}"#,
        r#"["five"]"#,
        r#"{"key":"six","timezone":"Europe/Paris"}"#,
        &format!(
            r#"{{"key":"deep","attributes":{{"a":{}1{}}}}}"#,
            "[".repeat(1000),
            "]".repeat(1000)
        ),
        &format!(
            r#"{{"key":"long","attributes":{{"a":"{}"}}}}"#,
            "x".repeat(300 * 1024)
        ),
        r#"{"key":"seven"} {"key":"eight"}"#,
        "{\"key\":\"\u{1}\"}",
    ]
    .join("\n");

    let answer = import(&api, "/v1/recipients/batch", body.clone()).await;

    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.content_type, "application/x-ndjson");
    let mut lines = answer.lines();
    assert_eq!(
        lines.pop().unwrap(),
        json!({"accepted": 3, "created": 2, "updated": 0, "rejected": 10, "complete": true})
    );
    let refused: Vec<_> = lines
        .iter()
        .map(|line| {
            let (line, error) = (line["line"].as_u64().unwrap(), &line["error"]);
            (
                line,
                error["status"].as_u64().unwrap(),
                error["pointer"].as_str().unwrap_or("-").to_owned(),
            )
        })
        .collect();
    let expected = [
        (3, 422, "/key"),
        (4, 400, "-"),
        (5, 422, "/country"),
        (6, 422, "/tenant"),
        (7, 422, "/attributes/a~1b"),
        (9, 422, ""),
        (11, 400, "-"),
        (12, 413, "-"),
        (13, 400, "-"),
        (14, 400, "-"),
    ];
    assert_eq!(
        refused,
        expected.map(|(line, status, at)| (line, status, at.to_owned()))
    );
    let one = api.get("/v1/recipients/one").await.unwrap().json();
    assert_eq!(one["attributes"]["n"], 2, "of one key the last line counts");
    // Sent again it changes nothing.
    let again = import(&api, "/v1/recipients/batch", body).await;
    assert_eq!(
        again.lines().pop().unwrap(),
        json!({"accepted": 3, "created": 0, "updated": 0, "rejected": 10, "complete": true})
    );
    let empty = import(&api, "/v1/recipients/batch", "").await;
    assert_eq!(
        empty.lines(),
        [json!({"accepted": 0, "created": 0, "updated": 0, "rejected": 0, "complete": true})]
    );
    let json = api.post("/v1/recipients/batch", &json!({})).await.unwrap();
    json.problem(415).unwrap();
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn fifty_thousand_recipients_go_through_in_constant_memory() {
    let (cluster, id, api) = quiet().await;
    const LINES: usize = 50_000;
    let chunk_of = |chunk: usize| -> String {
        let line = |n| {
            format!(
                "{{\"key\":\"user-{n}\",\"country\":\"FR\",\"timezone\":\"Europe/Paris\",\
                 \"attributes\":{{\"n\":{n},\"text\":\"{}\"}}}}\n",
                "x".repeat(200)
            )
        };
        (chunk * 1000..(chunk + 1) * 1000).map(line).collect()
    };
    // The first makes what stays.
    import(&api, "/v1/recipients/batch", chunk_of(0)).await;
    let small = cluster.footprint(id).unwrap().rss_bytes;
    let chunks = (1..LINES / 1000).map(move |n| Ok::<_, std::io::Error>(chunk_of(n)));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));

    let answer = import(&api, "/v1/recipients/batch", body).await;

    assert_eq!(
        answer.lines().pop().unwrap()["created"],
        LINES - 1000,
        "{answer:?}"
    );
    let grown = cluster
        .footprint(id)
        .unwrap()
        .rss_bytes
        .saturating_sub(small);
    assert!(grown < 64 << 20, "{grown} bytes more for 15 MB of lines");
    let rules = json!({"rules": {"range": {"attribute": "n", "max": 9}}});
    let preview = api
        .post("/v1/audiences/preview", &rules)
        .await
        .unwrap()
        .json();
    assert_eq!(preview["count"], 10);
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn a_preview_counts_shows_some_warns_and_judges_one() {
    let (cluster, _, api) = quiet().await;
    let lines: String = (0..100)
        .map(|n| format!("{{\"key\":\"u{n:02}\",\"birth_date\":\"2000-02-29\",\"attributes\":{{\"n\":{n}}}}}\n"))
        .collect();
    import(&api, "/v1/recipients/batch", lines).await;
    let path = "/v1/audiences/few";
    let rules = json!({"range": {"attribute": "n", "min": 20, "max": 59}});
    let made = put(&api, path, json!({"rules": rules})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(
        (&made.json()["rules"], &made.json()["version"]),
        (&rules, &json!(1))
    );
    assert_eq!(
        put(&api, path, json!({"rules": rules})).await.status,
        StatusCode::OK
    );

    let look = async |body: Value| api.post("/v1/audiences/few/preview", &body).await.unwrap();
    let preview = look(json!({})).await.json();
    assert_eq!(
        (&preview["count"], &preview["matches"]),
        (&json!(40), &Value::Null)
    );
    let sample = preview["sample"].as_array().unwrap();
    assert_eq!(sample.len(), 10, "{preview}");
    for key in sample {
        let n: u8 = key.as_str().unwrap()[1..].parse().unwrap();
        assert!((20..60).contains(&n), "{key}");
    }
    for (key, is_picked) in [("u20", true), ("u60", false)] {
        assert_eq!(
            look(json!({"recipient": key})).await.json()["matches"],
            is_picked
        );
    }
    assert_eq!(
        look(json!({"recipient": "nobody"}))
            .await
            .problem(422)
            .unwrap()
            .unwrap(),
        "/recipient"
    );
    assert_eq!(
        look(json!({"date": "2024-02-30"}))
            .await
            .problem(422)
            .unwrap()
            .unwrap(),
        "/date"
    );

    let try_out = async |body: Value| {
        api.post("/v1/audiences/preview", &body)
            .await
            .unwrap()
            .json()
    };
    for (date, count) in [("2018-02-28", 0), ("2018-03-01", 100), ("2020-02-29", 100)] {
        let preview = try_out(json!({"rules": {"age": {"min": 18}}, "date": date})).await;
        assert_eq!(
            (&preview["count"], &preview["date"]),
            (&json!(count), &json!(date))
        );
    }
    let contradiction =
        json!({"rules": {"and": [{"plan": ["a"]}, {"plan": ["b"]}]}, "recipient": "u01"});
    let preview = try_out(contradiction).await;
    assert_eq!(
        (&preview["count"], &preview["sample"], &preview["matches"]),
        (&json!(0), &json!([]), &json!(false))
    );
    assert_eq!(preview["warnings"][0]["pointer"], "/rules/and", "{preview}");

    let names: Vec<_> = ["a", "b", "c"]
        .map(|name| format!("/v1/audiences/{name}"))
        .into();
    for name in &names {
        put(&api, name, json!({"rules": {"all": true}})).await;
    }
    assert_eq!(all(&api, "/v1/audiences", 2).await.len(), 4);
    let other = put(&api, path, json!({"rules": {"all": true}}))
        .await
        .json();
    assert_eq!(other["version"], 2);
    assert_eq!(delete(&api, path).await.status, StatusCode::NO_CONTENT);
    delete(&api, path).await.problem(404).unwrap();
    look(json!({})).await.problem(404).unwrap();
    cluster.take_down().await.unwrap();
}

fn nested(depth: usize) -> String {
    "{\"not\":".repeat(depth) + "{\"all\":true}" + &"}".repeat(depth)
}

#[tokio::test]
async fn every_refusal_names_its_place_and_none_is_the_servers_fault() {
    let (cluster, _, api) = quiet().await;
    let long = "x".repeat(2000);
    let many = vec![json!({"all": true}); 200];
    let rules: Vec<(String, u16, &str)> = vec![
        ("{}".to_owned(), 422, "/rules"),
        ("[]".to_owned(), 422, "/rules"),
        ("1".to_owned(), 422, "/rules"),
        ("null".to_owned(), 422, "/rules"),
        (json!({"nope": 1}).to_string(), 422, "/rules/nope"),
        (json!({"and": []}).to_string(), 422, "/rules/and"),
        (json!({"or": many}).to_string(), 422, "/rules/or/199"),
        (
            json!({"and": [{"not": {"age": {"min": 9, "max": 8}}}]}).to_string(),
            422,
            "/rules/and/0/not/age/min",
        ),
        (
            json!({"country": ["France"]}).to_string(),
            422,
            "/rules/country/0",
        ),
        (
            json!({"language": ["e"]}).to_string(),
            422,
            "/rules/language/0",
        ),
        (
            json!({"in": {"attribute": "a", "values": [1, true]}}).to_string(),
            422,
            "/rules/in/values/1",
        ),
        (
            json!({"in": {"attribute": "a", "values": vec![1; 1001]}}).to_string(),
            422,
            "/rules/in/values/1000",
        ),
        (
            json!({"equals": {"attribute": "a", "value": long}}).to_string(),
            422,
            "/rules/equals/value",
        ),
        (
            json!({"equals": {"attribute": "\0", "value": 1}}).to_string(),
            422,
            "/rules/equals/attribute",
        ),
        (
            json!({"equals": {"attribute": "a", "value": "\0"}}).to_string(),
            422,
            "/rules/equals/value",
        ),
        (
            r#"{"equals":{"attribute":"a","value":1e400}}"#.to_owned(),
            400,
            "-",
        ),
        (
            r#"{"equals":{"attribute":"a","value":12345678901234567890}}"#.to_owned(),
            422,
            "/rules/equals/value",
        ),
        (r#"{"plan":["\ud800"]}"#.to_owned(), 400, "-"),
        (nested(31), 200, "-"),
        (nested(32), 422, "deep"),
        (nested(1000), 422, "/rules"),
        (nested(20_000), 422, "/rules"),
        ("[".repeat(5000) + &"]".repeat(5000), 422, "/rules"),
        (
            json!({"plan": ["x".repeat(70_000)]}).to_string(),
            422,
            "/rules",
        ),
        (json!({"plan": ["x".repeat(300_000)]}).to_string(), 413, "-"),
    ];
    for (rules, status, at) in &rules {
        let shown = &rules[..rules.len().min(80)];
        let body = format!("{{\"rules\":{rules}}}");
        for (method, path) in [
            (Method::PUT, "/v1/audiences/a"),
            (Method::POST, "/v1/audiences/preview"),
        ] {
            let answer = api
                .raw(method, path, "application/json", body.clone())
                .await
                .unwrap();
            if *status == 200 {
                assert!(answer.status.is_success(), "{shown}: {answer:?}");
                continue;
            }
            let pointer = answer
                .problem(*status)
                .unwrap_or_else(|error| panic!("{shown}: {error}"));
            let at = match *at {
                "-" => None,
                "deep" => Some("/rules".to_owned() + &"/not".repeat(32)),
                at => Some(at.to_owned()),
            };
            assert_eq!(pointer, at, "{shown}: {answer:?}");
        }
    }
    for (body, status, at) in [
        (json!({}), 422, "/rules"),
        (json!({"rules": {"all": true}, "x": 1}), 422, "/x"),
    ] {
        let answer = put(&api, "/v1/audiences/a", body.clone()).await;
        assert_eq!(
            answer.problem(status).unwrap().as_deref(),
            Some(at),
            "{body}"
        );
    }
    for name in ["No", "a%20b", "%00", "-a", &"a".repeat(64)] {
        let answer = put(
            &api,
            &format!("/v1/audiences/{name}"),
            json!({"rules": {"all": true}}),
        )
        .await;
        answer.problem(422).unwrap();
        api.get(&format!("/v1/audiences/{name}"))
            .await
            .unwrap()
            .problem(404)
            .unwrap();
    }
    put(
        &api,
        "/v1/audiences/preview",
        json!({"rules": {"all": true}}),
    )
    .await
    .problem(405)
    .unwrap();
    for key in ["%00", "%0A", &"a".repeat(256)] {
        let path = format!("/v1/recipients/{key}");
        let answer = put(&api, &path, json!({})).await;
        assert_eq!(
            answer.problem(422).unwrap().as_deref(),
            Some("/key"),
            "{key}"
        );
        api.get(&path).await.unwrap().problem(404).unwrap();
        delete(&api, &path).await.problem(404).unwrap();
    }
    put(&api, "/v1/recipients/%FF", json!({}))
        .await
        .problem(404)
        .unwrap();
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=",
        "cursor=%00",
        "tenant=umbrella",
        "x=1",
    ] {
        for list in ["/v1/recipients", "/v1/audiences"] {
            let answer = api.get(&format!("{list}?{query}")).await.unwrap();
            answer
                .problem(422)
                .unwrap_or_else(|error| panic!("{list}?{query}: {error}"));
        }
    }
    for (body, at) in [
        (json!({"key": "other"}), "/key"),
        (json!({"timezone": "../../etc/passwd"}), "/timezone"),
        (json!({"timezone": "\0"}), "/timezone"),
        (json!({"birth_date": "2023-02-29"}), "/birth_date"),
        (
            json!({"attributes": {"a": "x".repeat(9000)}}),
            "/attributes",
        ),
        (json!({"attributes": {"a": 1e200}}), "/attributes/a"),
        (json!({"addresses": {"sms": {"to": 1}}}), "/addresses/sms"),
    ] {
        let answer = put(&api, "/v1/recipients/a", body.clone()).await;
        assert_eq!(answer.problem(422).unwrap().as_deref(), Some(at), "{body}");
    }
    let count = "select count(*) from postroad.recipient";
    assert_eq!(
        cluster.query(count, &[]).await.unwrap()[0].get::<_, i64>(0),
        0
    );
    cluster.take_down().await.unwrap();
}

#[tokio::test]
async fn tenants_have_recipients_and_audiences_of_their_own_and_operators_name_them() {
    let (cluster, id, acme) = quiet().await;
    let umbrella = cluster
        .client(id, Some("umbrella"), &Permission::ALL)
        .await
        .unwrap();
    let operator = cluster.client(id, None, &Permission::ALL).await.unwrap();
    for (api, plan) in [(&acme, "acmes"), (&umbrella, "umbrellas")] {
        put(api, "/v1/recipients/same", json!({"plan": plan})).await;
        put(
            api,
            "/v1/audiences/same",
            json!({"rules": {"plan": [plan]}}),
        )
        .await;
    }
    let everybody = json!({"rules": {"all": true}});
    for (api, plan, query) in [
        (&acme, "acmes", ""),
        (&umbrella, "umbrellas", ""),
        (&operator, "acmes", "?tenant=acme"),
        (&operator, "umbrellas", "?tenant=umbrella"),
    ] {
        let look = async |path: &str| api.get(&format!("{path}{query}")).await.unwrap().json();
        assert_eq!(look("/v1/recipients/same").await["plan"], plan);
        assert_eq!(
            look("/v1/audiences/same").await["rules"],
            json!({"plan": [plan]})
        );
        assert_eq!(
            look("/v1/recipients").await["items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            look("/v1/audiences").await["items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        for path in ["/v1/audiences/same/preview", "/v1/audiences/preview"] {
            let body = if path.contains("same") {
                json!({})
            } else {
                everybody.clone()
            };
            let preview = api
                .post(&format!("{path}{query}"), &body)
                .await
                .unwrap()
                .json();
            assert_eq!(
                (&preview["count"], &preview["sample"]),
                (&json!(1), &json!(["same"]))
            );
        }
    }
    // An operator's own is `default`, which has none.
    operator
        .get("/v1/recipients/same")
        .await
        .unwrap()
        .problem(404)
        .unwrap();
    operator
        .get("/v1/recipients?tenant=nobody")
        .await
        .unwrap()
        .problem(422)
        .unwrap();
    let lines = import(
        &operator,
        "/v1/recipients/batch?tenant=acme",
        "{\"key\":\"more\"}\n",
    )
    .await;
    assert_eq!(lines.lines()[0]["created"], 1);
    assert_eq!(
        delete(&operator, "/v1/recipients/same?tenant=umbrella")
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(all(&acme, "/v1/recipients", 50).await.len(), 2);
    cluster.take_down().await.unwrap();
}
