//! What every command does with what it should not have been given, where nobody can be asked, in
//! terminals of any width, and when its reader goes away. A table of cases, and each of them is
//! looked at for a panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;

use postroad_common::store::Ending;
use rustix::pipe::pipe;

use crate::cli_fixture::{Cli, Said, end, object};
use crate::store_fixture::{Room, job, job_to_hold, unknown};

const NO_JOB: &str = "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a";

/// A document of which what is for people could move their cursors.
const ANNOUNCEMENT: &str =
    r#"{"content": {"messages": {"en": {"title": "\u202enew"}}}, "rules": {"all": true}}"#;

const CAMPAIGN: &str = r#"{"name": "spring", "content": {"language": "en",
    "channels": {"sms": {"kind": "sms", "args": {"en": {"to": "{{ to }}", "text": "\u001b[31m"}}}}}}"#;

/// A room with one of everything that a listing may show.
struct Furnished {
    room: Room,
    cli: Cli,
    held: String,
    completed: String,
    token: String,
    campaign: String,
    announcement: String,
}

impl Furnished {
    async fn new() -> Self {
        let room = Room::open().await;
        let cli = Cli::of(&room);
        let completed = room.running(job()).await;
        room.finish(completed, Ending::Completed(None)).await;
        let held = room.running(job_to_hold()).await;
        room.finish(held, unknown()).await;
        cli.ok(&["tenants", "create", "acme"]).await;
        cli.ok(&["tenants", "secret", "set", "acme"]).await;
        let rules = r#"{"plan":["pro"]}"#;
        cli.ok(&["audiences", "set", "few", "--rules", rules]).await;
        let somebody = r#"{"key":"somebody","attributes":{"text":"\u001b[31m"}}"#;
        cli.run_with(&["recipients", "import", "-"], somebody).await;
        let create = ["campaigns", "create", "-"];
        let campaign = cli.run_with(&create, CAMPAIGN).await.out;
        cli.ok(&["suppressions", "add", "somebody"]).await;
        let create = ["announcements", "create", "-"];
        let announcement = cli.run_with(&create, ANNOUNCEMENT).await.out;
        let token = cli
            .ok(&["tokens", "create", "--tenant", "acme", "--name", "n"])
            .await;
        Self {
            held: held.id.to_string(),
            completed: completed.id.to_string(),
            token: token[4..12].to_owned(),
            campaign: campaign.trim().to_owned(),
            announcement: announcement.trim().to_owned(),
            room,
            cli,
        }
    }

    /// How much there is of everything that a command may change.
    async fn state(&self) -> Vec<String> {
        let mut state = Vec::new();
        for sql in [
            "select count(*)::text from postroad.audit_log",
            "select string_agg(t::text, ' ' order by id) from postroad.tenant t",
            "select string_agg(t::text, ' ') from postroad.tenant_secret t",
            "select string_agg(t::text, ' ' order by id) from postroad.token t",
            "select string_agg(t::text, ' ' order by id) from postroad.queue t",
            "select string_agg(t::text, ' ' order by id) from postroad.kind t",
            "select string_agg(t::text, ' ' order by id) from postroad.job t",
            "select count(*)::text from postroad.operation",
            "select string_agg(t::text, ' ' order by id) from postroad.recipient t",
            "select string_agg(t::text, ' ' order by id) from postroad.audience t",
            "select string_agg(t::text, ' ' order by id) from postroad.campaign t",
            "select string_agg(t::text, ' ' order by recipient) from postroad.suppression t",
        ] {
            state.push(
                self.room
                    .value::<Option<String>>(sql)
                    .await
                    .unwrap_or_default(),
            );
        }
        state
    }
}

/// What holds whatever a command was given.
fn check(args: &[OsString], said: &Said) {
    for text in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!said.err.contains(text), "{args:?}: {said:?}");
    }
    assert!(
        matches!(said.code, Some(0 | 1 | 2 | 3 | 4 | 5 | 78)),
        "{args:?}: {said:?}"
    );
    let is_coloured = said.out.contains('\u{1b}') || said.err.contains('\u{1b}');
    assert!(
        !is_coloured,
        "{args:?} colours what is no terminal: {said:?}"
    );
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

/// With `\xff` for each `?`.
fn not_utf8(line: &str) -> Vec<OsString> {
    let bytes = |word: &str| {
        word.bytes()
            .map(|b| if b == b'?' { 0xff } else { b })
            .collect()
    };
    line.split_whitespace()
        .map(|word| OsString::from_vec(bytes(word)))
        .collect()
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_changes_nothing() {
    let furnished = Furnished::new().await;
    let Furnished {
        cli,
        held,
        completed,
        token,
        campaign,
        announcement,
        ..
    } = &furnished;
    let whole_token = format!("prk_{token}_{}_000000", "x".repeat(32));
    let before = furnished.state().await;
    let cases: &[(i32, &str)] = &[
        // Wrong usage.
        (2, ""),
        (2, "tenants"),
        (2, "no-such-command"),
        (2, "tenants set acme"),
        (2, "tenants set acme --weight 0"),
        (2, "tenants set acme --weight 1001"),
        (2, "tenants set acme --unfinished-max -1"),
        (2, "tenants set acme --submit-rate many"),
        (2, "tenants set acme --default-priority 4"),
        (2, "tenants set acme --default-max-attempts 1001"),
        (2, "tenants set acme --default-expires-after 367d"),
        (2, "tenants create No!"),
        (2, "queues set default"),
        (2, "queues set default --window 0"),
        (2, "queues set default --pipe-ttl 2d"),
        (2, "queues set default --rate 0"),
        (2, "queues pause ../etc"),
        (2, "kinds set echo"),
        (2, "kinds set echo --on-lost maybe"),
        (2, "kinds set echo --backoff-base 0s"),
        (2, "tokens create --name n"),
        (2, "tokens create --name n --tenant acme --operator"),
        (2, "tokens create --name n --tenant acme --scope all"),
        (
            2,
            "tokens create --name n --tenant acme --scope queues:write",
        ),
        (2, "tokens create --name n --tenant acme --expires 0d"),
        (2, "tokens create --tenant acme"),
        (2, "jobs get not-a-job"),
        (2, "jobs list --limit 0"),
        (2, "jobs list --state gone"),
        (2, "dead-letters list --since yesterday"),
        (2, "dead-letters redrive --limit 0 --yes"),
        (2, "dead-letters redrive --wait --no-wait --yes"),
        (2, "operations get not-an-operation"),
        (2, "audit list --limit 100001"),
        (2, "top --interval 1ms"),
        (2, "migrate --check --roles"),
        (2, "completions tcsh"),
        (2, "man"),
        (2, "topology NO"),
        (2, "recipients list --limit 0"),
        (2, "recipients import"),
        (2, "audiences set vips --rules {}"),
        (2, "audiences set vips"),
        (2, "audiences set Vips --rules {\"all\":true}"),
        (2, "audiences preview"),
        (2, "announcements create"),
        (2, "announcements create /dev/null"),
        (2, "announcements show not-an-announcement"),
        (2, "announcements list --limit 0"),
        (2, &format!("announcements change {announcement}")),
        (
            2,
            &format!("announcements change {announcement} --ends-at tomorrow"),
        ),
        (
            2,
            &format!("announcements change {announcement} --ends-at 2001-01-01T00:00:00Z"),
        ),
        (
            2,
            &format!("announcements change {announcement} --content /dev/null"),
        ),
        (2, "timeline show"),
        (2, "timeline show somebody --limit 0"),
        (2, "campaigns create"),
        (2, "campaigns create /dev/null"),
        (2, &format!("campaigns upload {campaign} /dev/null")),
        (
            2,
            &format!("campaigns upload {campaign} x.csv --format xml"),
        ),
        (2, "campaigns get not-a-campaign"),
        (2, "campaigns list --state gone"),
        (2, "campaigns list --limit 0"),
        (2, &format!("campaigns preview {campaign} --samples 11")),
        (2, "suppressions add"),
        (2, "suppressions add x --kind No!"),
        (2, "suppressions list --limit 0"),
        // Nobody can be asked.
        (2, "tenants disable acme"),
        (2, "tenants secret clear acme"),
        (2, "tenants secret set acme"),
        (2, &format!("tokens revoke {token}")),
        (2, &format!("tokens revoke {whole_token} --yes")),
        (2, &format!("jobs cancel {held}")),
        (2, &format!("announcements withdraw {announcement}")),
        (2, &format!("campaigns cancel {campaign}")),
        // Not there.
        (4, "tenants get nobody"),
        (4, "tenants set nobody --weight 1"),
        (4, "tenants enable nobody"),
        (4, "tenants disable nobody --yes"),
        (4, "tenants secret set nobody"),
        (4, "tenants secret rotate nobody"),
        (4, "tenants secret clear nobody --yes"),
        (4, "tokens create --tenant nobody --name n"),
        (4, "tokens list --tenant nobody"),
        (4, "tokens revoke 00000000 --yes"),
        (4, "queues get nothing"),
        (4, "queues pause nothing"),
        (4, "queues resume nothing"),
        (4, "queues set nothing --rate 1"),
        (4, "kinds set nothing --max-attempts 1"),
        (4, "kinds reset nothing"),
        (4, &format!("jobs get {NO_JOB}")),
        (4, &format!("jobs cancel --yes {NO_JOB}")),
        (4, &format!("jobs retry {NO_JOB}")),
        (4, &format!("jobs resolve {NO_JOB} --verdict retry")),
        (4, "dead-letters list --tenant nobody"),
        (4, "dead-letters redrive --yes"),
        (4, &format!("operations get {NO_JOB}")),
        (4, &format!("operations stop {NO_JOB}")),
        (4, "audit list --tenant nobody"),
        (4, "ledger --tenant nobody"),
        (4, "recipients show nobody"),
        (4, "recipients delete nobody --yes"),
        (4, "audiences show nothing"),
        (4, "audiences delete nothing --yes"),
        (4, "audiences preview nothing"),
        (
            4,
            "audiences set vips --rules {\"all\":true} --tenant nobody",
        ),
        (4, &format!("announcements show {NO_JOB}")),
        (
            4,
            &format!("announcements change {NO_JOB} --ends-at 2001-01-01T00:00:00Z"),
        ),
        (4, &format!("announcements withdraw {NO_JOB} --yes")),
        (4, "announcements list --tenant nobody"),
        (4, "timeline show somebody --tenant nobody"),
        (4, &format!("campaigns get {NO_JOB}")),
        (4, &format!("campaigns preview {NO_JOB}")),
        (4, &format!("campaigns start {NO_JOB}")),
        (4, &format!("campaigns cancel {NO_JOB} --yes")),
        (4, "campaigns list --tenant nobody"),
        (4, "suppressions add x --tenant nobody"),
        (4, "suppressions add x --kind nothing"),
        (4, "suppressions remove nobody"),
        (4, "suppressions list --tenant nobody"),
        // In another state.
        (5, "tenants create acme"),
        (5, "tenants secret rotate default"),
        (5, &format!("jobs cancel --yes {held}")),
        (5, &format!("jobs retry {held}")),
        (5, &format!("jobs retry {completed}")),
        (5, &format!("jobs resolve {completed} --verdict dead")),
        (5, &format!("campaigns start {campaign}")),
        (5, &format!("campaigns approve {campaign}")),
        (5, &format!("campaigns pause {campaign}")),
        (5, &format!("campaigns resume {campaign}")),
        // A file that is not there, or has nothing in it.
        (1, "tenants secret rotate acme --file /no/such/file"),
        (1, "enqueue --file /no/such/file"),
        (1, "recipients import /no/such/file"),
        (1, "announcements create /no/such/file"),
        (1, "campaigns create /no/such/file"),
        (1, &format!("campaigns upload {campaign} /no/such/file.csv")),
        (1, &format!("campaigns upload {campaign} - --format csv")),
        (1, "suppressions add --file /no/such/file"),
    ];
    // The tenant `default` has no secret, unlike what is asked of it above.
    for (code, line) in cases {
        let args = words(line);
        let said = cli.run(&args).await;
        check(&args, &said);
        assert_eq!(said.code, Some(*code), "{line}: {said:?}");
        assert!(said.out.is_empty(), "{line}: {said:?}");
        assert!(!said.err.is_empty(), "{line} says nothing");
        assert!(
            !said.err.contains(&"x".repeat(32)),
            "{line} repeats a secret: {said:?}"
        );
    }
    assert_eq!(furnished.state().await, before);
}

#[tokio::test]
async fn what_is_no_text_is_refused() {
    let furnished = Furnished::new().await;
    let before = furnished.state().await;
    for line in [
        "?",
        "tenants create ?",
        "tenants get ac?me",
        "tokens create --tenant acme --name ?",
        "tokens revoke ????????",
        "jobs get ?",
        "jobs list --kind ?",
        "queues pause ?",
        "kinds set ? --max-attempts 1",
        "dead-letters list --tenant ?",
        "audit list --actor ?",
        "enqueue --kind ?",
        "enqueue --kind echo --args ?",
        "topology ?",
        "top --interval ?",
        "campaigns get ?",
        "campaigns list --state ?",
        "suppressions add ?",
        "suppressions add x --reason ?",
    ] {
        let args = not_utf8(line);
        let said = furnished.cli.run(&args).await;
        check(&args, &said);
        assert_eq!(said.code, Some(2), "{line}: {said:?}");
    }
    // Names of files need not be text.
    let dir = tempfile::tempdir().unwrap();
    let mut name = dir.path().as_os_str().to_owned();
    name.push(OsString::from_vec(b"/m\xffn".to_vec()));
    let args = [OsString::from("man"), "--dir".into(), name.clone()];
    let said = furnished.cli.run(&args).await;
    check(&args, &said);
    assert_eq!(said.code, Some(0), "{said:?}");
    let pages = std::fs::read_dir(&name).unwrap().count();
    assert!(pages > 40, "{pages} pages");
    name.push("/none");
    for command in [
        "enqueue --file",
        "campaigns create",
        "suppressions add --file",
    ] {
        let mut args = words(command);
        args.push(name.clone());
        let said = furnished.cli.run(&args).await;
        check(&args, &said);
        assert_eq!(said.code, Some(1), "{said:?}");
    }
    assert_eq!(furnished.state().await, before);
}

/// Every listing, and every look at one thing.
fn looks(furnished: &Furnished) -> Vec<String> {
    let Furnished {
        completed,
        campaign,
        announcement,
        ..
    } = furnished;
    let looks = [
        "tenants list",
        "tenants get acme",
        "tokens list",
        "queues list",
        "queues get default",
        "kinds list",
        "workers list",
        "jobs list",
        &format!("jobs get {completed}"),
        "dead-letters list",
        "operations list",
        "audit list",
        "recipients list",
        "recipients show somebody",
        "audiences list",
        "audiences show few",
        "audiences preview few",
        "announcements list",
        &format!("announcements show {announcement}"),
        "timeline show somebody",
        "campaigns list",
        &format!("campaigns get {campaign}"),
        &format!("campaigns preview {campaign}"),
        "suppressions list",
        "ledger",
        "top --once",
        "doctor",
    ];
    looks.map(str::to_owned).into()
}

#[tokio::test]
async fn with_json_everything_on_standard_output_is_json() {
    let furnished = Furnished::new().await;
    for look in looks(&furnished) {
        let args = words(&format!("{look} --json"));
        let said = furnished.cli.run(&args).await;
        check(&args, &said);
        let is_doctor = look == "doctor";
        assert!(said.code == Some(0) || is_doctor, "{look}: {said:?}");
        for line in said.out.lines() {
            object(line);
        }
        let may_be_empty = ["dead-letters list", "operations list"].contains(&look.as_str());
        assert!(may_be_empty || !said.out.is_empty(), "{look}: {said:?}");
        // Without it the same is for people, and no colour is in it.
        let args = words(&look);
        let said = furnished.cli.env("NO_COLOR", "1").run(&args).await;
        check(&args, &said);
    }
}

#[tokio::test]
async fn a_terminal_of_any_width_is_enough() {
    let furnished = Furnished::new().await;
    for look in looks(&furnished) {
        for columns in [20, 1, 80] {
            let args: Vec<_> = look.split(' ').collect();
            let no_colour = furnished.cli.env("NO_COLOR", "1");
            let (shown, code) = no_colour.in_terminal(&args, 5, columns).end().await;
            assert!(code == Some(0) || look == "doctor", "{look}: {shown}");
            assert!(!shown.contains("panicked"), "{look}: {shown}");
            assert!(!shown.contains("\u{1b}["), "{look} colours: {shown:?}");
            // Whole sentences are wrapped by the terminal; tables and frames are made to fit.
            let is_prose = look == "doctor"
                || look == "ledger"
                || [" get ", " show ", " preview "]
                    .iter()
                    .any(|word| look.contains(word));
            if is_prose {
                continue;
            }
            for line in shown
                .lines()
                .filter(|line| !line.contains("--json") && !line.contains("--limit"))
            {
                let wide = line.trim_end().chars().count();
                assert!(wide <= columns as usize, "{look} at {columns}: {line}");
            }
        }
    }
}

#[tokio::test]
async fn top_draws_over_itself_and_leaves_the_terminal_as_it_was() {
    let furnished = Furnished::new().await;
    for (rows, columns) in [(24, 80), (5, 20), (1, 1)] {
        let args = ["top", "--interval", "100ms"];
        let terminal = furnished.cli.in_terminal(&args, rows, columns);
        terminal.wait_for("\u{1b}[J").await;
        terminal.interrupt();
        let (shown, code) = terminal.end().await;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.starts_with("\u{1b}[?1049h"), "{shown:?}");
        assert!(shown.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{shown:?}");
    }
    // A terminal that cannot move its cursor gets one look.
    let dumb = furnished.cli.env("TERM", "dumb");
    let (shown, code) = dumb.in_terminal(&["top"], 24, 80).end().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("QUEUE") && !shown.contains('\u{1b}'),
        "{shown:?}"
    );
}

#[tokio::test]
async fn in_a_terminal_what_cannot_be_undone_asks_first() {
    let furnished = Furnished::new().await;
    let before = furnished.state().await;
    for answer in ["n\n", "\n", "what?\n", "\u{4}"] {
        let mut terminal = furnished
            .cli
            .in_terminal(&["tenants", "disable", "acme"], 24, 80);
        terminal.wait_for("[y/N] ").await;
        terminal.type_in(answer);
        let (shown, code) = terminal.end().await;
        assert_eq!(code, Some(1), "{answer:?}: {shown}");
        assert!(shown.contains("nothing was changed"), "{shown}");
    }
    assert_eq!(furnished.state().await, before);
    let mut terminal = furnished
        .cli
        .in_terminal(&["tenants", "disable", "acme"], 24, 80);
    terminal.wait_for("[y/N] ").await;
    terminal.type_in("y\n");
    assert_eq!(terminal.end().await.1, Some(0));
    assert_ne!(furnished.state().await, before);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_a_command_quietly() {
    let furnished = Furnished::new().await;
    let mut lines = looks(&furnished);
    let more = [
        "--help",
        "jobs --help",
        "completions bash",
        "topology",
        "enqueue --kind echo",
    ];
    lines.extend(more.map(str::to_owned));
    for line in lines {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let args = words(&line);
        let child = furnished
            .cli
            .command(&args)
            .stdout(Stdio::from(writer))
            .spawn();
        let said = end(child.unwrap()).await;
        check(&args, &said);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        assert!(!said.err.contains("roken pipe"), "{line}: {said:?}");
    }
    // Nor is it an error that nobody reads why something is refused.
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let args = ["tenants", "get", "nobody"];
    let child = furnished
        .cli
        .command(&args)
        .stderr(Stdio::from(writer))
        .spawn();
    assert_eq!(end(child.unwrap()).await.code, Some(4));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_said_before_anything_is_done() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    let url = room.database.url();
    let cases = [
        ("DATABASE_URL", "nonsense".to_owned()),
        ("DATABASE_URL", format!("{url}_that_is_not_there")),
        ("AMQP_URL", "http://localhost".to_owned()),
        ("POSTROAD_LOG_FORMAT", "xml".to_owned()),
    ];
    for (name, value) in cases {
        for command in [
            "tenants list",
            "audit list --json",
            "queues pause default",
            "top --once",
        ] {
            let args = words(command);
            let said = cli.env(name, &value).run(&args).await;
            check(&args, &said);
            assert_eq!(said.code, Some(78), "{name}={value} {command}: {said:?}");
            assert!(said.err.contains(name) && said.out.is_empty(), "{said:?}");
        }
    }
    room.execute("drop schema postroad cascade").await;
    let said = cli.run(&["tenants", "list"]).await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("postroad migrate"), "{said:?}");
}

#[tokio::test]
async fn completions_and_manual_pages_know_every_command() {
    let room = Room::open().await;
    let cli = Cli::of(&room);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = cli.ok(&["completions", shell]).await;
        for word in [
            "dead-letters",
            "redrive",
            "doctor",
            "rotate",
            "suppressions",
        ] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    cli.ok(&["man", "--dir", dir.path().to_str().unwrap()])
        .await;
    let page =
        std::fs::read_to_string(dir.path().join("postroad-tenants-secret-rotate.1")).unwrap();
    assert!(page.contains("Examples:"), "{page}");
}
