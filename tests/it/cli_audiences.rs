//! `postroad recipients` and `postroad audiences`: what they take, what they print, how they refuse.

use serde_json::json;

use crate::cli_fixture::Cli;
use crate::store_fixture::Room;

const LINES: &str = r#"{"key":"ann","country":"FR","plan":"pro","birth_date":"1990-02-28","attributes":{"n":1}}

{"key":"bob","country":"DE","addresses":{"sms":"+49"},"timezone":"Europe/Berlin"}
{"key":"cid","country":"Germany"}
nonsense
{"key":"ann","country":"FR","plan":"pro","birth_date":"1990-02-28","attributes":{"n":2}}
"#;

#[tokio::test]
async fn recipients_are_imported_shown_listed_and_forgotten() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let import = ["recipients", "import", "-"];
    let said = cli.run_with(&import, LINES).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.out, "created=2\nupdated=0\nunchanged=1\nrejected=2\n");
    for part in [
        "line 4: /country: must be two capital letters",
        "line 5: ",
        "2 lines were no recipients",
    ] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.ndjson");
    std::fs::write(&file, "{\"key\":\"bob\",\"plan\":\"free\"}\n").unwrap();
    let said = cli
        .ok(&["recipients", "import", file.to_str().unwrap()])
        .await;
    assert_eq!(said, "created=0\nupdated=1\nunchanged=0\nrejected=0\n");

    let one = cli.json(&["recipients", "show", "ann", "--json"]).await;
    assert_eq!(
        (&one[0]["attributes"], &one[0]["tenant"]),
        (&json!({"n": 2}), &json!("default"))
    );
    let shown = cli.ok(&["recipients", "show", "ann"]).await;
    assert!(shown.contains("attribute   n  2"), "{shown}");
    let all = cli.json(&["recipients", "list", "--json"]).await;
    assert_eq!(
        all.iter().map(|one| &one["key"]).collect::<Vec<_>>(),
        ["ann", "bob"]
    );
    let rest = cli
        .json(&[
            "recipients",
            "list",
            "--after",
            "ann",
            "--limit",
            "1",
            "--json",
        ])
        .await;
    assert_eq!(rest[0]["key"], "bob");
    assert!(
        cli.ok(&["recipients", "list"])
            .await
            .starts_with("RECIPIENT ")
    );

    cli.refuses(&["recipients", "delete", "bob"], 2).await;
    cli.ok(&["recipients", "delete", "bob", "--yes"]).await;
    cli.refuses(&["recipients", "delete", "bob", "--yes"], 4)
        .await;
    cli.refuses(&["recipients", "show", "bob"], 4).await;
    cli.refuses(&["recipients", "list", "--tenant", "nobody"], 4)
        .await;
    cli.refuses(&["recipients", "import", "/no/such/file"], 1)
        .await;
    let noted = cli
        .json(&["audit", "list", "--action", "recipient.delete", "--json"])
        .await;
    assert_eq!((noted.len(), &noted[0]["target"]), (1, &json!("bob")));
}

#[tokio::test]
async fn audiences_are_set_shown_previewed_and_deleted() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    cli.run_with(&["recipients", "import", "-"], LINES).await;
    let set = |rules| ["audiences", "set", "few", "--rules", rules];
    cli.ok(&set(r#"{"country":["FR"]}"#)).await;
    cli.ok(&set(r#"{"country":["FR", "IT"]}"#)).await;
    let one = cli.json(&["audiences", "show", "few", "--json"]).await;
    assert_eq!(
        (&one[0]["version"], &one[0]["rules"]),
        (&json!(2), &json!({"country": ["FR", "IT"]}))
    );
    assert!(
        cli.ok(&["audiences", "list"])
            .await
            .starts_with("AUDIENCE ")
    );
    assert_eq!(cli.json(&["audiences", "list", "--json"]).await.len(), 1);

    let preview = [
        "audiences",
        "preview",
        "few",
        "--recipient",
        "bob",
        "--json",
    ];
    let preview = &cli.json(&preview).await[0];
    assert_eq!(
        (&preview["count"], &preview["sample"], &preview["matches"]),
        (&json!(1), &json!(["ann"]), &json!(false))
    );
    let rules = r#"{"age":{"min":18}}"#;
    let dated = [
        "audiences",
        "preview",
        "--rules",
        rules,
        "--date",
        "2008-02-27",
        "--json",
    ];
    assert_eq!(cli.json(&dated).await[0]["count"], 0);
    let shown = cli
        .ok(&["audiences", "preview", "few", "--recipient", "ann"])
        .await;
    assert!(shown.contains("ann is one of them"), "{shown}");
    let odd = r#"{"and":[{"plan":["a"]},{"plan":["b"]}]}"#;
    let said = cli.run(&["audiences", "preview", "--rules", odd]).await;
    assert!(
        said.code == Some(0) && said.err.contains("warning: /and/0"),
        "{said:?}"
    );
    let said = cli
        .run_with(
            &["audiences", "set", "all", "--file", "-"],
            "{\"all\":true}",
        )
        .await;
    assert_eq!(said.code, Some(0), "{said:?}");

    for (args, code) in [
        (&["audiences", "set", "few"][..], 2),
        (&set("{}"), 2),
        (&set(r#"{"and":[{"colour":["red"]}]}"#), 2),
        (&["audiences", "set", "preview", "--rules", rules], 2),
        (&["audiences", "set", "Few", "--rules", rules], 2),
        (&["audiences", "preview"], 2),
        (&["audiences", "preview", "few", "--rules", rules], 2),
        (&["audiences", "preview", "few", "--date", "tomorrow"], 2),
        (&["audiences", "preview", "nope"], 4),
        (&["audiences", "preview", "few", "--recipient", "nobody"], 4),
        (&["audiences", "show", "nope"], 4),
        (&["audiences", "list", "--tenant", "nobody"], 4),
        (&["audiences", "delete", "few"], 2),
        (&["audiences", "set", "few", "--file", "/no/such/file"], 1),
    ] {
        let said = cli.refuses(args, code).await;
        assert!(
            !said.contains("colour") || said.contains("/and/0/colour: there is no such condition"),
            "{said}"
        );
    }
    cli.ok(&["audiences", "delete", "few", "--yes"]).await;
    cli.refuses(&["audiences", "delete", "few", "--yes"], 4)
        .await;
}
