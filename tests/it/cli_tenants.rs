//! `postroad tenants` and `postroad tokens`: what they set, what they print, and who is told.

use std::sync::Arc;

use postroad_common::changes::Changes;
use postroad_common::settings::Tenants;
use postroad_common::store::{Store, WebhookSecrets};
use postroad_common::token::{Permission, Token};
use serde_json::{Value, json};

use crate::cli_fixture::Cli;
use crate::store_fixture::Room;

/// The audit log, oldest first, without the rows of the test's own preparations.
async fn audited(cli: &Cli) -> Vec<Value> {
    let mut rows = cli.json(&["audit", "list", "--json"]).await;
    rows.reverse();
    rows
}

/// The actions in the audit log.
async fn actions(cli: &Cli) -> Vec<String> {
    let rows = audited(cli).await;
    let action = |row: &Value| row["action"].as_str().unwrap().to_owned();
    rows.iter().map(action).collect()
}

#[tokio::test]
async fn a_tenant_is_created_set_disabled_and_enabled_and_each_is_one_row_of_the_audit_log() {
    let room = Room::open().await;
    let cli = Cli::of(&room);

    cli.ok(&[
        "tenants",
        "create",
        "acme",
        "--weight",
        "3",
        "--submit-rate",
        "50",
    ])
    .await;
    let error = cli.refuses(&["tenants", "create", "acme"], 5).await;
    assert!(error.contains("already"), "{error}");
    cli.ok(&[
        "tenants",
        "set",
        "acme",
        "--unfinished-max",
        "1000",
        "--submit-rate",
        "none",
    ])
    .await;
    cli.ok(&["tenants", "disable", "acme", "--yes"]).await;
    // It is so already: nothing changes, and nobody did anything.
    cli.ok(&["tenants", "disable", "acme", "--yes"]).await;

    let tenant = &cli.json(&["tenants", "get", "acme", "--json"]).await[0];
    assert_eq!(tenant["weight"], json!(3));
    assert_eq!(tenant["unfinished_max"], json!(1000));
    assert_eq!(tenant["submit_rate"], json!(null));
    assert!(tenant["disabled_at"].is_string(), "{tenant}");
    assert_eq!(tenant["ledger"]["accepted"], json!(0));

    cli.ok(&["tenants", "enable", "acme"]).await;
    let names: Vec<_> = cli.json(&["tenants", "list", "--json"]).await;
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[0]["disabled_at"], json!(null));
    let table = cli.ok(&["tenants", "list"]).await;
    assert!(table.starts_with("TENANT "), "{table}");

    let expected = [
        "tenant.create",
        "tenant.set",
        "tenant.disable",
        "tenant.enable",
    ];
    assert_eq!(actions(&cli).await, expected);
    let rows = audited(&cli).await;
    assert_eq!(
        rows[1]["detail"],
        json!({"unfinished_max": 1000, "submit_rate": null})
    );
    for row in &rows {
        assert_eq!(
            (&row["target"], &row["tenant"]),
            (&json!("acme"), &json!("acme"))
        );
        let actor = row["actor"].as_str().unwrap();
        assert!(actor.starts_with("cli:") && actor.contains('@'), "{actor}");
    }
}

#[tokio::test]
async fn a_tenants_defaults_are_set_shown_taken_away_and_written_down() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let create = "tenants create acme --default-priority 0 --default-expires-after 36h";
    cli.ok(&create.split(' ').collect::<Vec<_>>()).await;
    let set = "tenants set acme --default-priority none --default-max-attempts 5";
    cli.ok(&set.split(' ').collect::<Vec<_>>()).await;

    let tenant = &cli.json(&["tenants", "get", "acme", "--json"]).await[0];
    assert_eq!(tenant["default_priority"], json!(null));
    assert_eq!(tenant["default_max_attempts"], json!(5));
    assert_eq!(tenant["default_expires_after_seconds"], json!(129_600.0));
    let text = cli.ok(&["tenants", "get", "acme"]).await;
    assert!(text.contains("default expires after") && text.contains("1d12h"));
    let table = cli.ok(&["tenants", "list"]).await;
    assert!(table.contains("attempts 5, expiry 1d12h"), "{table}");
    let details: Vec<_> = audited(&cli).await;
    let details: Vec<_> = details.iter().map(|row| &row["detail"]).collect();
    assert_eq!(
        details,
        [
            &json!({"default_priority": 0, "default_expires_after_seconds": 129_600.0}),
            &json!({"default_priority": null, "default_max_attempts": 5}),
        ]
    );

    for (option, value, rule) in [
        ("--default-priority", "4", "from 0 to 3, or `none`"),
        ("--default-max-attempts", "0", "from 1 to 1000, or `none`"),
        (
            "--default-expires-after",
            "367d",
            "from 1s to 366d, or `none`",
        ),
        (
            "--default-expires-after",
            "60",
            "from 1s to 366d, or `none`",
        ),
    ] {
        let set = ["tenants", "set", "acme", option, value];
        let error = cli.refuses(&set, 2).await;
        assert!(error.contains(rule), "{option} {value}: {error}");
    }
    let error = cli.refuses(&["tenants", "set", "acme"], 2).await;
    assert!(error.contains("--default-"), "{error}");
}

#[tokio::test]
async fn a_tenants_language_zone_and_sender_are_set_used_shown_and_taken_away() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let create = "tenants create acme --language pt_br --timezone America/Lima --sms-sender ACME";
    cli.ok(&create.split(' ').collect::<Vec<_>>()).await;
    let schedule = "schedules create s --tenant acme --cron @daily --kind echo --json";
    let made = cli.json(&schedule.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(made[0]["timezone"], "America/Lima");
    let set = "tenants set acme --timezone none --sms-sender +33639980606";
    cli.ok(&set.split(' ').collect::<Vec<_>>()).await;

    let tenant = &cli.json(&["tenants", "get", "acme", "--json"]).await[0];
    let shown = [
        &tenant["language"],
        &tenant["timezone"],
        &tenant["sms_sender"],
    ];
    assert_eq!(json!(shown), json!(["pt-BR", null, "+33639980606"]));
    let text = cli.ok(&["tenants", "get", "acme"]).await;
    assert!(
        text.contains("pt-BR") && text.contains("+33639980606"),
        "{text}"
    );
    let rows = audited(&cli).await;
    let details: Vec<_> = rows.iter().map(|row| &row["detail"]).collect();
    let taken_away = json!({"timezone": null, "sms_sender": "+33639980606"});
    assert_eq!(details.last(), Some(&&taken_away));

    for (option, value, rule) in [
        ("--language", "french", "the tag of a language"),
        ("--timezone", "CET", "a name of the IANA database"),
        ("--sms-sender", "12345", "at least one of them a letter"),
    ] {
        let error = cli
            .refuses(&["tenants", "set", "acme", option, value], 2)
            .await;
        assert!(error.contains(rule), "{option} {value}: {error}");
    }
}

/// What signs the webhooks of `acme`, as a worker that starts now reads it.
async fn signing(room: &Room) -> Option<Arc<WebhookSecrets>> {
    let tenants = Tenants::new(room.store.clone(), &Changes::unwatched());
    tenants.webhook_secrets("acme").await.unwrap()
}

#[tokio::test]
async fn a_secret_is_made_rotated_with_an_overlap_and_cleared_and_appears_in_no_other_place() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    cli.ok(&["tenants", "create", "acme"]).await;
    cli.refuses(&["tenants", "secret", "rotate", "acme"], 5)
        .await;

    let first = cli.ok(&["tenants", "secret", "set", "acme"]).await;
    let second = cli.ok(&["tenants", "secret", "rotate", "acme"]).await;
    let (first, second) = (first.trim(), second.trim());
    assert!(first.starts_with("whsec_") && second.starts_with("whsec_") && first != second);
    let secrets = signing(&room).await.unwrap();
    assert_eq!(
        (secrets.current.as_str(), secrets.previous.as_deref()),
        (second, Some(first))
    );
    let overlap: f64 = room
        .value(
            "select extract(epoch from previous_until - now())::float8 from postroad.tenant_secret",
        )
        .await;
    assert!((86_000.0..86_401.0).contains(&overlap), "{overlap}");

    // The same one again would drop the one before without anybody having had the time.
    let same = cli
        .run_with(
            &["tenants", "secret", "rotate", "acme", "--file", "-"],
            second,
        )
        .await;
    assert_eq!((same.code, same.out.as_str()), (Some(5), ""), "{same:?}");
    let third = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let set = ["tenants", "secret", "set", "acme", "--file", "-", "--yes"];
    let said = cli.run_with(&set, &format!("{third}\n")).await;
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), ""),
        "what was given is not repeated"
    );
    let secrets = signing(&room).await.unwrap();
    assert_eq!(
        (secrets.current.as_str(), secrets.previous.as_deref()),
        (third, None)
    );
    for bad in ["", "hunter2", "whsec_aHVudGVyMg==", "whsec_hunter2!"] {
        let said = cli.run_with(&set, bad).await;
        assert_eq!(said.code, Some(2), "{bad}: {said:?}");
        assert!(!said.err.contains("hunter2"), "{said:?}");
    }

    cli.ok(&["tenants", "secret", "clear", "acme", "--yes"])
        .await;
    assert!(signing(&room).await.is_none());
    cli.ok(&["tenants", "secret", "clear", "acme", "--yes"])
        .await;

    let expected = [
        "tenant.create",
        "tenant.secret.set",
        "tenant.secret.rotate",
        "tenant.secret.set",
        "tenant.secret.clear",
    ];
    assert_eq!(actions(&cli).await, expected);
    let log = format!("{:?}", audited(&cli).await);
    for secret in [first, second, third] {
        assert!(!log.contains(&secret[6..]), "{log}");
    }
}

#[tokio::test]
async fn a_token_is_printed_alone_kept_as_a_hash_and_revoked() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    cli.ok(&["tenants", "create", "acme"]).await;

    let create = [
        "tokens",
        "create",
        "--tenant",
        "acme",
        "--name",
        "web shop",
        "--expires",
        "90d",
    ];
    let said = cli.run(&create).await;
    let text = said.out.strip_suffix('\n').unwrap();
    let token = Token::parse(text).expect("the token is alone on standard output");
    assert!(!said.err.contains(text), "{said:?}");
    let found = room.store.find_token(&token).await.unwrap().unwrap();
    assert_eq!(
        found.tenant.as_ref().map(|(_, name)| name.as_str()),
        Some("acme")
    );
    let all_but_shared = Permission::ALL.iter().filter(|one| !one.is_for_operators());
    assert_eq!(found.permissions.len(), all_but_shared.count());
    let dump: String = room
        .value("select string_agg(t::text, ' ') from postroad.token t")
        .await;
    assert!(!dump.contains(&text[13..45]), "{dump}");

    let rows = cli
        .json(&["tokens", "list", "--tenant", "acme", "--json"])
        .await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["state"]),
        (&json!(token.id()), &json!("good"))
    );
    let of_operators = cli.json(&["tokens", "list", "--operator", "--json"]).await;
    assert!(of_operators.is_empty(), "{of_operators:?}");

    cli.ok(&["tokens", "revoke", token.id(), "--yes"]).await;
    cli.ok(&["tokens", "revoke", token.id(), "--yes"]).await;
    assert!(room.store.find_token(&token).await.unwrap().is_none());
    let rows = cli.json(&["tokens", "list", "--json"]).await;
    assert_eq!(rows[0]["state"], json!("revoked"));
    assert_eq!(
        actions(&cli).await,
        ["tenant.create", "token.create", "token.revoke"]
    );
    let log = format!("{:?}", audited(&cli).await);
    assert!(
        log.contains(token.id()) && !log.contains(&text[13..45]),
        "{log}"
    );
}

#[tokio::test]
async fn an_operators_token_may_do_everything_and_a_narrow_one_what_was_said() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let permissions = async |args: &[&str], store: &Store| {
        let text = cli.ok(args).await;
        let token = Token::parse(text.trim()).unwrap();
        store.find_token(&token).await.unwrap().unwrap()
    };
    let on_call = ["tokens", "create", "--operator", "--name", "on-call"];
    let found = permissions(&on_call, &room.store).await;
    assert_eq!(
        (found.tenant, found.permissions),
        (None, Permission::ALL.into())
    );
    let narrow = [
        "tokens",
        "create",
        "--tenant",
        "default",
        "--name",
        "n",
        "--scope",
        "jobs:read",
        "--scope",
        "ledger:read",
        "--scope",
        "jobs:read",
    ];
    let found = permissions(&narrow, &room.store).await;
    assert_eq!(
        found.permissions,
        [Permission::JobsRead, Permission::LedgerRead]
    );
}
