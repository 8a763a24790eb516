//! `postroad campaigns` and `postroad suppressions`: what they make, what they print, how they refuse,
//! and a campaign from its document to the provider with the real programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use postroad_tests::harness::cluster::Cluster;
use postroad_tests::harness::eventually::eventually;
use postroad_tests::simulator::{Behaviour, Latency};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_fixture::{Cli, Said, object};
use crate::store_fixture::Room;

/// Files for one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A document with what else is given.
    fn document(&self, more: Value) -> String {
        let mut document = json!({
            "name": "spring",
            "content": {
                "channels": {"sms": {"kind": "sms", "cost": 0.045, "args": {
                    "en": {"to": "{{to}}", "text": "Hi {{name}}"},
                    "fr": {"to": "{{to}}", "text": "Bonjour {{name}}"},
                }}},
                "language": "en",
                "variables": {"name": {"default": "friend"}},
                "currency": "EUR",
            },
        });
        if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
            document.extend(more);
        }
        self.write("campaign.json", document.to_string())
    }

    fn csv(&self, recipients: usize) -> String {
        let mut csv = "to,name,language\n".to_owned();
        for n in 0..recipients {
            let language = if n.is_multiple_of(3) { "fr" } else { "en" };
            writeln!(csv, "+3363998{n:04},person {n},{language}").unwrap();
        }
        self.write("recipients.csv", csv)
    }
}

/// A draft's id, which is all that is printed.
async fn draft(cli: &Cli, files: &Files, more: Value) -> String {
    let id = cli
        .ok(&["campaigns", "create", &files.document(more)])
        .await;
    let id = id.strip_suffix('\n').unwrap();
    assert_eq!(id.len(), 36, "{id:?}");
    id.to_owned()
}

async fn get(cli: &Cli, id: &str) -> Value {
    cli.json(&["campaigns", "get", id, "--json"])
        .await
        .remove(0)
}

fn nowhere() -> Cli {
    Cli::at(
        "postgres://nobody@127.0.0.1:1/none",
        "amqp://127.0.0.1:1/none",
    )
}

/// That it ends with 1 and says this much; what it says.
fn failed(said: Said, text: &str) -> Said {
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(text), "{said:?}");
    said
}

#[tokio::test]
async fn a_campaign_is_made_uploaded_started_paused_resumed_and_watched_to_its_end()
-> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(5).start().await?;
    let cli = Cli::at(cluster.database_url(), cluster.vhost().amqp_url());
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let files = Files::new();
    let id = draft(&cli, &files, json!({})).await;
    let upload = ["campaigns", "upload", &id, &files.csv(300)];
    let counts = cli.ok(&upload).await;
    assert_eq!(counts, "accepted=300\nrejected=0\nstate=draft\n");

    let preview = &cli.json(&["campaigns", "preview", &id, "--json"]).await[0];
    assert_eq!(
        (&preview["recipients"], &preview["cost"]),
        (&json!(300), &json!("13.500000"))
    );
    let text = &preview["samples"][0]["args"]["text"];
    assert_eq!(text, "Bonjour person 0", "{preview}");
    let shown = cli
        .ok(&["campaigns", "preview", &id, "--samples", "1"])
        .await;
    assert!(shown.contains("200 by sms in en"), "{shown}");
    assert_eq!(shown.matches("  args").count(), 1, "{shown}");

    cli.ok(&["campaigns", "start", &id]).await;
    cluster.provider.wait_for(|report| report.held == 5).await?;
    let paused = &cli.json(&["campaigns", "pause", &id, "--json"]).await[0];
    assert_eq!(paused["state"], "paused");
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();
    eventually("what ran has ended", async || {
        let campaign = get(&cli, &id).await;
        anyhow::ensure!(campaign["progress"]["delivered"] == 5, "{campaign}");
        Ok(())
    })
    .await?;
    cli.ok(&["campaigns", "resume", &id]).await;

    let ended = &cli
        .json(&["campaigns", "get", &id, "--watch", "--json"])
        .await[0];
    assert_eq!(ended["state"], "finished", "{ended}");
    assert_eq!(ended["progress"]["delivered"], 300, "{ended}");
    assert_eq!(cluster.provider.report().delivered, 300);
    let shown = cli.ok(&["campaigns", "get", &id]).await;
    assert!(shown.contains("delivered         300"), "{shown}");
    let list = ["campaigns", "list", "--state", "finished", "--json"];
    let listed = cli.json(&list).await;
    assert_eq!(listed[0], *ended);
    cluster.finish().await
}

#[tokio::test]
async fn what_is_cancelled_is_watched_until_nothing_of_it_is_under_way() -> anyhow::Result<()> {
    let cluster = Cluster::builder().prefetch(5).start().await?;
    let cli = Cli::at(cluster.database_url(), cluster.vhost().amqp_url());
    cluster.provider.set(Behaviour {
        latency: Latency::Hold,
        ..Behaviour::default()
    })?;
    let files = Files::new();
    let (document, csv) = (files.document(json!({})), files.csv(100));
    let create = [
        "campaigns",
        "create",
        &document,
        "--recipients",
        &csv,
        "--start",
    ];
    let id = cli.ok(&create).await.trim().to_owned();
    cluster.provider.wait_for(|report| report.held == 5).await?;
    cli.ok(&["campaigns", "cancel", &id, "--yes"]).await;
    cluster.provider.set(Behaviour::default())?;
    cluster.provider.release();

    let ended = &cli
        .json(&["campaigns", "get", &id, "--watch", "--json"])
        .await[0];

    let progress = &ended["progress"];
    assert_eq!(ended["state"], "cancelled");
    assert_eq!(progress["delivered"], 5, "{ended}");
    let over = ["cancelled", "not_made"].map(|part| progress[part].as_i64().unwrap());
    assert_eq!(over.iter().sum::<i64>(), 95, "{ended}");
    cluster.finish().await
}

#[tokio::test]
async fn lines_that_are_no_recipients_are_told_and_the_others_are_taken() {
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    let id = draft(&cli, &files, json!({})).await;
    let mut csv = "to,name,colour\n+33639980001,Ana,red\n".to_owned();
    csv += &"nobody,x,\n".repeat(25);
    csv += "+33639980002\n";
    let path = files.write("mixed.csv", csv);

    let said = failed(
        cli.run(&["campaigns", "upload", &id, &path]).await,
        "26 lines are no recipients and were left out",
    );
    assert_eq!(said.out, "accepted=1\nrejected=26\nstate=draft\n");
    let told: Vec<_> = said
        .err
        .lines()
        .filter(|line| line.starts_with(&format!("{path}:")))
        .collect();
    assert_eq!(told.len(), 21, "{told:?}");
    assert!(told[0].starts_with(&format!("{path}:3: to: ")), "{told:?}");
    assert!(told[20].ends_with("does not know: colour"), "{told:?}");
    let more = "and 6 more; --rejects FILE keeps them all";
    assert!(said.err.contains(more), "{said:?}");
    assert_eq!(get(&cli, &id).await["progress"]["planned"], 1);

    let rejects = files.path("rejects.ndjson");
    let rejects_arg = rejects.to_str().unwrap();
    let upload = [
        "campaigns",
        "upload",
        &id,
        &path,
        "--rejects",
        rejects_arg,
        "--json",
    ];
    let said = failed(cli.run(&upload).await, rejects_arg);
    let counts = object(said.out.trim());
    let expected = json!({"accepted": 1, "rejected": 26, "ignored_columns": ["colour"],
        "complete": true, "state": "draft"});
    assert_eq!(counts, expected);
    let kept = std::fs::read_to_string(&rejects).unwrap();
    let kept: Vec<_> = kept.lines().map(object).collect();
    assert_eq!(kept.len(), 26);
    assert_eq!(
        (&kept[24]["line"], &kept[24]["field"]),
        (&json!(27), &json!("to"))
    );
    assert_eq!(
        (&kept[25]["line"], &kept[25]["field"]),
        (&json!(28), &json!(""))
    );

    // A whole file more, from a pipe, and it is started.
    let upload = [
        "campaigns",
        "upload",
        &id,
        "-",
        "--format",
        "ndjson",
        "--start",
    ];
    let input = "{\"to\": \"+33639980003\"}\n{\"to\": \"+33639980004\"}\n";
    let said = cli.run_with(&upload, input).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out, "accepted=2\nrejected=0\nstate=running\n");
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_document_is_told_and_no_server_asked() {
    let (cli, files) = (nowhere(), Files::new());
    let path = files.document(json!({
        "name": "", "colour": "red", "rate_per_second": 0, "timezone": "Mars",
        "expires_at": "yesterday",
        "content": {"channels": {"sms": {"kind": "sms", "args": {"en": {"text": "{{ nam }}"}}}},
            "language": "english"},
    }));
    let error = cli.refuses(&["campaigns", "create", &path], 2).await;
    for pointer in [
        "/colour",
        "/content/channels/sms/args/en/text",
        "/content/language",
        "/expires_at",
        "/name",
        "/rate_per_second",
        "/timezone",
    ] {
        let told = format!("{path}: {pointer}: ");
        let count = error.lines().filter(|line| line.starts_with(&told)).count();
        assert_eq!(count, 1, "{pointer}: {error}");
    }
    assert!(error.contains("things are wrong with"), "{error}");
    for (text, says) in [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ("", "is not JSON"),
        ("\u{1b}[31m", "is not JSON"),
    ] {
        let said = cli.run_with(&["campaigns", "create", "-"], text).await;
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.starts_with("-: "), "{said:?}");
        assert!(
            said.err.contains(says) && !said.err.contains('\u{1b}'),
            "{said:?}"
        );
    }
    let long = files.write("long.json", " ".repeat(300 * 1024));
    let error = cli.refuses(&["campaigns", "create", &long], 2).await;
    assert!(error.contains("must be at most 272 KiB"), "{error}");
    let path = files.document(json!({"tenant": "acme"}));
    let error = cli
        .refuses(&["campaigns", "create", &path, "--tenant", "other"], 2)
        .await;
    assert!(error.contains("/tenant"), "{error}");
    let recipients = files.write("recipients.txt", "to\n");
    for wrong in [
        &["campaigns", "create", &path, "--start"][..],
        &["campaigns", "create", &path, "--rejects", "x"],
        &["campaigns", "create", "-", "--recipients", "-"],
        &["campaigns", "create", &path, "--recipients", &recipients],
        &[
            "campaigns",
            "create",
            &path,
            "--recipients",
            &recipients,
            "--format",
            "csv",
            "--rejects",
            &recipients,
        ],
    ] {
        cli.refuses(wrong, 2).await;
    }
    let kept = std::fs::read_to_string(&recipients).unwrap();
    assert_eq!(kept, "to\n", "what is read is not written over");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_draft_as_it_was() {
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    let id = draft(&cli, &files, json!({})).await;
    cli.ok(&["campaigns", "upload", &id, &files.csv(10)]).await;

    let utf16 = files.write("utf16.csv", b"\xff\xfet\0o\0\n\0");
    let said = cli.run(&["campaigns", "upload", &id, &utf16]).await;
    failed(said, "the upload is UTF-16: save it as UTF-8");
    let said = cli
        .run(&["campaigns", "upload", &id, "/no/such/file.csv"])
        .await;
    failed(said, "/no/such/file.csv");

    let upload = ["campaigns", "upload", &id, "-", "--format", "csv"];
    let mut terminal = cli.in_terminal(&upload, 24, 80);
    terminal.type_in("to\nnobody\n");
    terminal.wait_for("-:2: to: ").await;
    terminal.interrupt();
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("nothing was taken: interrupted"), "{shown}");

    assert_eq!(get(&cli, &id).await["progress"]["planned"], 10);
    let chunks: i64 = room
        .value("select sum(recipients) from postroad.campaign_chunk")
        .await;
    assert_eq!(chunks, 10);
}

#[tokio::test]
async fn a_campaign_is_made_for_an_audience_previewed_started_and_shown() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let files = Files::new();
    let document = files.document(json!({}));
    let lines = "{\"key\":\"ana\",\"language\":\"fr\",\"addresses\":{\"sms\":\"+33639980001\"}}\n\
                 {\"key\":\"bob\"}\n";
    let recipients = files.write("users.ndjson", lines);
    cli.ok(&["recipients", "import", &recipients]).await;
    cli.ok(&["audiences", "set", "active", "--rules", "{\"all\":true}"])
        .await;

    let create = ["campaigns", "create", &document, "--audience", "active"];
    let id = cli.ok(&create).await;
    let id = id.trim_end();
    let preview = cli
        .json(&["campaigns", "preview", id, "--json"])
        .await
        .remove(0);
    assert_eq!(
        (
            &preview["recipients"],
            &preview["without_address"],
            &preview["cost"]
        ),
        (&json!(2), &json!(1), &json!("0.045000")),
        "{preview}"
    );
    let told = cli.ok(&["campaigns", "preview", id]).await;
    for part in ["Bonjour friend", "ana", "no address", "1 by sms in fr"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    cli.ok(&["campaigns", "start", id]).await;
    let shown = cli.ok(&["campaigns", "get", id]).await;
    assert!(
        shown.contains("whom `active` picked when it was made"),
        "{shown}"
    );
    let started = cli.ok(&[&create[..], &["--start"]].concat()).await;
    assert_eq!(get(&cli, started.trim_end()).await["state"], "running");
    let listed = cli.ok(&["campaigns", "list"]).await;
    assert!(listed.contains('?'), "nobody has counted yet: {listed}");

    // One source, and one that is there.
    let csv = files.csv(1);
    let error = cli.refuses(&["campaigns", "upload", id, &csv], 5).await;
    assert!(error.contains("draft"), "it runs: {error}");
    let draft = cli.ok(&create).await;
    let error = cli
        .refuses(&["campaigns", "upload", draft.trim_end(), &csv], 5)
        .await;
    assert!(error.contains("for an audience"), "{error}");
    for (args, code) in [
        (vec!["--audience", "nowhere"], 4),
        (vec!["--audience", "No name"], 2),
        (vec!["--audience", "active", "--recipients", &csv], 2),
        (vec!["--start"], 2),
    ] {
        cli.refuses(
            &[vec!["campaigns", "create", &document], args].concat(),
            code,
        )
        .await;
    }
    let own = files.document(json!({"audience": {"all": true}}));
    for more in [["--audience", "active"], ["--recipients", &csv]] {
        let error = cli
            .refuses(&[&["campaigns", "create", &own][..], &more].concat(), 2)
            .await;
        assert!(error.contains("/audience"), "{error}");
    }
}

#[tokio::test]
async fn what_a_state_does_not_allow_is_refused_with_the_state() {
    const NONE: &str = "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a";
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    let id = draft(&cli, &files, json!({})).await;
    let conflict = async |args: &[&str], says: &str| {
        let error = cli.refuses(args, 5).await;
        assert!(error.contains(says), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    conflict(&["campaigns", "start", &id], "has no recipients").await;
    conflict(&["campaigns", "pause", &id], "is draft").await;
    let csv = files.csv(3);
    let empty = files.write("empty.csv", "to\n");
    let said = cli
        .run(&["campaigns", "upload", &id, &empty, "--start"])
        .await;
    assert_eq!(said.code, Some(5), "{said:?}");
    cli.ok(&["campaigns", "upload", &id, &csv, "--start"]).await;
    conflict(&["campaigns", "start", &id], "is running").await;
    conflict(&["campaigns", "upload", &id, &csv], "is running").await;
    conflict(&["campaigns", "approve", &id], "is running").await;
    conflict(&["campaigns", "resume", &id], "is running").await;
    cli.ok(&["campaigns", "pause", &id]).await;
    conflict(&["campaigns", "pause", &id], "is paused").await;
    cli.ok(&["campaigns", "resume", &id]).await;
    cli.refuses(&["campaigns", "cancel", &id], 2).await;
    cli.ok(&["campaigns", "cancel", &id, "--yes"]).await;
    let cancel = ["campaigns", "cancel", &id, "--yes"];
    conflict(&cancel, "is cancelled: it has ended").await;

    let create = [
        "campaigns",
        "create",
        &files.document(json!({"needs_approval": true})),
        "--recipients",
        &csv,
        "--start",
    ];
    let said = cli.run(&create).await;
    assert!(said.err.contains("state=awaiting_approval"), "{said:?}");
    let second = said.out.trim();
    assert_eq!(second.len(), 36, "{said:?}");
    conflict(&["campaigns", "approve", second], "somebody else").await;
    room.execute("update postroad.campaign set created_by = 'somebody else'")
        .await;
    cli.ok(&["campaigns", "approve", second]).await;
    let approved_by = &get(&cli, second).await["approved_by"];
    assert!(approved_by.as_str().unwrap().starts_with("cli:"));

    for command in [
        "get", "preview", "start", "approve", "pause", "resume", "cancel",
    ] {
        cli.refuses(&["campaigns", command, NONE], 4).await;
    }
    cli.refuses(&["campaigns", "upload", NONE, &csv], 4).await;
    let mut actions: Vec<_> = cli
        .json(&["audit", "list", "--json"])
        .await
        .iter()
        .map(|row| row["action"].as_str().unwrap().to_owned())
        .collect();
    actions.reverse();
    let expected = [
        "create",
        "recipients",
        "recipients",
        "start",
        "pause",
        "resume",
        "cancel",
        "create",
        "recipients",
        "start",
        "approve",
    ];
    assert_eq!(actions, expected.map(|action| format!("campaign.{action}")));
}

#[tokio::test]
async fn campaigns_are_listed_by_state_and_tenant_from_the_newest_on() {
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    cli.ok(&["tenants", "create", "acme"]).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(draft(&cli, &files, json!({"name": format!("number {n}")})).await);
    }
    let of_acme = draft(&cli, &files, json!({"tenant": "acme"})).await;
    let list = async |args: &[&str]| {
        let args = [&["campaigns", "list", "--json"], args].concat();
        let listed = cli.json(&args).await;
        let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
        listed.iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(list(&["--limit", "2"]).await, [of_acme.as_str(), &ids[2]]);
    assert_eq!(
        list(&["--before", &ids[2]]).await,
        [ids[1].as_str(), &ids[0]]
    );
    assert_eq!(list(&["--tenant", "acme"]).await, [of_acme.as_str()]);
    assert!(list(&["--state", "running"]).await.is_empty());
    let table = cli.ok(&["campaigns", "list"]).await;
    assert!(
        table.starts_with("ID ") && table.contains("number 1"),
        "{table}"
    );
    let get = [
        "campaigns",
        "create",
        &files.document(json!({"tenant": "nobody"})),
    ];
    cli.refuses(&get, 4).await;
}

#[tokio::test]
async fn ctrl_c_ends_the_watching_and_not_the_campaign() {
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    let id = draft(&cli, &files, json!({})).await;
    cli.ok(&["campaigns", "upload", &id, &files.csv(3)]).await;
    let terminal = cli.in_terminal(&["campaigns", "get", &id, "--watch"], 24, 80);
    terminal.wait_for("is draft").await;
    cli.ok(&["campaigns", "start", &id]).await;
    terminal.wait_for("0/3 recipients").await;
    terminal.interrupt();
    let (shown, code) = terminal.end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("goes on"), "{shown}");
    assert_eq!(get(&cli, &id).await["state"], "running");
}

#[tokio::test]
async fn recipients_are_suppressed_in_one_form_and_taken_off_the_list() {
    let room = Room::open().await;
    let (cli, files) = (Cli::of(&room), Files::new());
    room.add_names().await;
    cli.ok(&["kinds", "set", "sms", "--max-attempts", "3"])
        .await;
    let add = [
        "suppressions",
        "add",
        "+33 6 39 98 06 06",
        "Ana@EXAMPLE.org",
        "--reason",
        "STOP",
    ];
    assert_eq!(cli.ok(&add).await, "added=2\nrejected=0\n");
    assert_eq!(cli.ok(&add).await, "added=0\nrejected=0\n");
    let of_kind = [
        "suppressions",
        "add",
        "+33639980606",
        "--kind",
        "sms",
        "--json",
    ];
    assert_eq!(cli.json(&of_kind).await, [json!({"added": 1})]);

    let list = ["suppressions", "list", "--json"];
    let listed = cli.json(&list).await;
    let row = |row: &Value| json!([row["recipient"], row["kind"], row["reason"], row["tenant"]]);
    let rows: Vec<_> = listed.iter().map(row).collect();
    let expected = [
        json!(["+33639980606", null, "STOP", "default"]),
        json!(["+33639980606", "sms", "", "default"]),
        json!(["Ana@example.org", null, "STOP", "default"]),
    ];
    assert_eq!(rows, expected);
    let one = ["suppressions", "list", "--recipient", "+33 639980606"];
    let table = cli.ok(&one).await;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("(any)"), "{table}");

    cli.ok(&["suppressions", "remove", "+33 6 39980606"]).await;
    cli.refuses(&["suppressions", "remove", "+33639980606"], 4)
        .await;
    let remove = ["suppressions", "remove", "+33639980606", "--kind", "sms"];
    cli.ok(&remove).await;
    assert_eq!(cli.json(&list).await.len(), 1);

    // More than fit into a statement, and some that are none.
    let mut lines: String = (0..1500).map(|n| format!("user-{n}\r\n")).collect();
    lines += &format!("\n{}\na\u{7}b\n", "x".repeat(5000));
    let path = files.write("list.txt", lines);
    let said = cli.run(&["suppressions", "add", "--file", &path]).await;
    let said = failed(said, "2 lines were no addresses");
    assert_eq!(said.out, "added=1500\nrejected=2\n");
    assert!(said.err.contains(&format!("{path}:1502: ")), "{said:?}");
    assert!(said.err.contains(&format!("{path}:1503: ")), "{said:?}");
    let all = ["suppressions", "list", "--limit", "5000", "--json"];
    assert_eq!(cli.json(&all).await.len(), 1501);
    let piped = ["suppressions", "add", "--file", "-", "--tenant", "default"];
    let said = cli.run_with(&piped, "somebody\n").await;
    assert_eq!(said.out, "added=1\nrejected=0\n");

    for (args, code) in [
        (&["suppressions", "add", "x", "--kind", "nothing"][..], 4),
        (&["suppressions", "add", "x", "--tenant", "nobody"], 4),
        (&["suppressions", "list", "--tenant", "nobody"], 4),
        (&["suppressions", "remove", "x", "--tenant", "nobody"], 4),
        (&["suppressions", "add", "x", ""], 2),
        (&["suppressions", "add"], 2),
        (&["suppressions", "list", "--recipient", " "], 2),
    ] {
        cli.refuses(args, code).await;
    }
}
